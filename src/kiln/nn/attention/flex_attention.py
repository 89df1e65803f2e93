"""Attention whose scores and mask are given as functions of positions.

A composite of ops: the functions are called for all positions at once under vmap, so the scores are laid out;
a compiled function fuses what it can. https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from ...errors import KilnNotImplementedError, KilnTypeError, KilnValueError, describe
from ...func import vmap
from ...ops.creation import arange, ones, zeros
from ...tensor import Tensor
from .block_mask import BlockMask, blocks_of, noop_mask, pair

_DEFAULT_SPARSE_BLOCK_SIZE = 128
Mod = Callable[..., Tensor]


class AuxRequest(NamedTuple):
    """What to return besides the result."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """The log-sum-exp of each query's scores and their largest, (N, heads, queries), where asked for."""

    lse: Tensor | None = None
    max_scores: Tensor | None = None


class FlexKernelOptions(dict):
    """Options of PyTorch's GPU kernels; they change nothing here."""


def _positions(fn: Mod, sizes: tuple[int, int, int, int], *scores: Tensor) -> Tensor:
    """`fn(*scores, batch, head, query, key)` for all positions."""
    here = 0 if scores else None
    for dims in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)):  # fmt: skip
        fn = vmap(fn, in_dims=((here,) if scores else ()) + dims)
    return fn(*scores, *(arange(n) for n in sizes))


def _masks(mods: tuple[Mod, ...]) -> None:
    if not all(map(callable, mods)):
        raise KilnTypeError("mask_mod", "All inputs should be callable mask_mods", describe(mods))


def and_masks(*mask_mods: Mod) -> Mod:
    """A mask that is True where all of the masks are."""
    _masks(mask_mods)

    def both(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        out = b.new_ones(()).bool()
        for mod in mask_mods:
            out = out & mod(b, h, q_idx, kv_idx)
        return out

    return both


def or_masks(*mask_mods: Mod) -> Mod:
    """A mask that is True where one of the masks is."""
    _masks(mask_mods)

    def either(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        out = b.new_zeros(()).bool()
        for mod in mask_mods:
            out = out | mod(b, h, q_idx, kv_idx)
        return out

    return either


def create_mask(
    mod_fn: Mod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None
) -> Tensor:
    """The mask (B, H, Q_LEN, KV_LEN) of a function (b, h, q, kv), or where one of scores isn't -inf."""
    sizes = (B or 1, H or 1, Q_LEN, KV_LEN)
    count = sum(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        for p in inspect.signature(mod_fn).parameters.values()
    )
    if count == 5:
        return ~_positions(mod_fn, sizes, zeros(*sizes)).isneginf()
    return _positions(mod_fn, sizes) & ones(1).bool()


def create_block_mask(
    mask_mod: Mod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None,
    BLOCK_SIZE: int | tuple[int, int] = 128, _compile: bool = False, separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False, dq_kv_order: bool = True,
) -> BlockMask:  # fmt: skip
    """The blocks of a mask that hold something: a mask for `flex_attention`. None for B or H is one for all.

    The order in which GPU kernels write gradients (`compute_dq_write_order`) is not computed.
    """
    if compute_dq_write_order:
        raise KilnNotImplementedError(
            "create_block_mask", "there are no kernels here that need an order of writes",
            "compute_dq_write_order=True", "leave it out",
        )  # fmt: skip
    size = pair(BLOCK_SIZE)
    mask = create_mask(mask_mod, B, H, Q_LEN, KV_LEN)
    partial, full = blocks_of(mask, size, separate_full_blocks)
    return BlockMask.from_dense(partial, full, size, mask_mod, (Q_LEN, KV_LEN))


def _check(query: Tensor, key: Tensor, value: Tensor, block_mask: Any, enable_gqa: bool) -> None:
    name = "flex_attention"
    given = f"query={describe(query)}, key={describe(key)}, value={describe(value)}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise KilnNotImplementedError(name, "query, key, and value must be 4D tensors", given)
    if query.shape[-1] != key.shape[-1]:
        raise KilnValueError(
            name, "Expect query and key/value to have the same embedding dimension "
            f"but got E={query.shape[-1]} and E={key.shape[-1]}.", given,
        )  # fmt: skip
    if not query.dtype == key.dtype == value.dtype:
        raise KilnValueError(
            name, "Expected query, key, and value to have the same dtype", given, ""
        )
    heads, groups = query.shape[1], key.shape[1]
    if heads != groups and not enable_gqa:
        raise KilnValueError(
            name, f"Expect query and key/value to have the same number of heads but got Hq={heads} and Hkv={groups}.",
            given, "Try setting enable_gqa=True for GQA.",
        )  # fmt: skip
    if heads % groups:
        raise KilnValueError(
            name, f"Expect number of query heads to be a multiple of kv heads for GQA but got Hq={heads} and "
            f"Hkv={groups}.", given,
        )  # fmt: skip
    if query.shape[0] != key.shape[0] and key.shape[0] != 1 and block_mask is None:
        raise KilnValueError(
            name, f"Expect query and key/value to either have the same batch size but got Bq={query.shape[0]} "
            f"and Bkv={key.shape[0]}", given,
        )  # fmt: skip
    if block_mask is not None:
        lengths = block_mask.seq_lengths
        if tuple(lengths) != (query.shape[2], key.shape[2]):
            raise KilnValueError(
                name, f"block_mask was created for {block_mask.shape=} but got q_len={query.shape[2]} and "
                f"kv_len={key.shape[2]}.", given, "create one for these lengths, or block_mask._adjust(q_len, kv_len)",
            )  # fmt: skip


def flex_attention(
    query: Tensor, key: Tensor, value: Tensor, score_mod: Mod | None = None,
    block_mask: BlockMask | None = None, scale: float | None = None, enable_gqa: bool = False,
    return_lse: bool = False, kernel_options: Any = None, *, return_aux: AuxRequest | None = None,
) -> Any:  # fmt: skip
    """Attention of (N, heads, L, E) over keys (N, groups, S, E) and values (N, groups, S, V): (N, heads, L, V).

    `score_mod(score, b, h, q, kv)` gives each score another value, `block_mask.mask_mod(b, h, q, kv)` says
    which take part; a query without any gives zeros. `return_aux` asks for the log-sum-exp and the largest score.
    """
    _check(query, key, value, block_mask, enable_gqa)
    n, heads, length, e = query.shape
    if heads != key.shape[1]:
        times = heads // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    factor = e**-0.5 if scale is None else scale
    scores = query * factor @ key.transpose(-1, -2)
    sizes = (n, heads, length, key.shape[2])
    if score_mod is not None:
        scores = _positions(score_mod, sizes, scores)
    if block_mask is not None:
        scores = scores.masked_fill(~_positions(block_mask.mask_mod, sizes), float("-inf"))
    largest = scores.amax(-1, True)
    shift = largest.masked_fill(largest.isneginf(), 0.0).detach()
    weights = (scores - shift).exp()
    total = weights.sum(-1, True)
    out = (weights / total.masked_fill(total == 0, 1.0)) @ value
    if return_aux is None and not return_lse:
        return out
    lse = (total.log() + shift).squeeze(-1)
    if return_aux is None:
        return out, lse
    top = largest.squeeze(-1) if return_aux.max_scores else None
    return out, AuxOutput(lse if return_aux.lse else None, top)


__all__ = [
    "AuxOutput", "AuxRequest", "BlockMask", "FlexKernelOptions", "and_masks", "create_block_mask",
    "create_mask", "flex_attention", "noop_mask", "or_masks",
]  # fmt: skip
