"""`kiln.map` and `kiln.associative_scan`: loops over slices whose steps need not wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import KilnError, KilnValueError, describe
from ..ops.joining import cat, stack
from ..shape import norm_dim
from ..tensor import Tensor
from .bodies import Tree
from .control import scan


def map(f: Callable, xs: Any, *args: Any) -> Any:
    """`f(x, *args)` for the slices of `xs` along the first dimension, its results stacked.

    `xs` and what f returns are tensors or nested containers of them. In a captured function it is one
    loop (`kiln.scan`); where f works on a whole batch as well, `kiln.vmap` is quicker. Errors:
    KilnError. Source: torch._higher_order_ops.map, jax.lax.map.
    """
    tree = Tree("map", "xs", xs)
    sizes = {x.shape[0] if x.ndim else None for x in tree.tensors}
    if len(sizes) != 1 or sizes == {None}:
        raise KilnError("map", "leading dimensions of mapped xs must be consistent", describe(tree.tensors), "")  # fmt: skip
    if sizes == {0}:
        raise KilnError("map", "leading dimensions of mapped xs cannot be 0", describe(tree.tensors), "")  # fmt: skip
    return scan(lambda carry, x: (carry, f(x, *args)), (), xs)[1]


def associative_scan(
    combine_fn: Callable[[Any, Any], Any], xs: Any, dim: int, reverse: bool = False, combine_mode: str = "pointwise"
) -> Any:  # fmt: skip
    """The combination of all slices of `xs` along `dim` up to each one, from the end with `reverse`.

    `combine_fn(a, b)` is associative and takes and gives tensors, or nested containers of them, like
    one slice of xs. It is called on many slices at once, some 2 log n times: as it is where
    `combine_mode` is "pointwise" (only elementwise operations), else ("generic") through `kiln.vmap`.
    Works captured, under transforms, and is differentiable. Errors: KilnValueError, KilnError.
    Source: torch._higher_order_ops.associative_scan, jax.lax.associative_scan.
    """
    if not callable(combine_fn):
        raise KilnValueError("associative_scan", "combine_fn must be a callable", describe(combine_fn), "")  # fmt: skip
    if combine_mode not in ("pointwise", "generic"):
        raise KilnValueError("associative_scan", "combine_mode must be 'pointwise' or 'generic'", combine_mode, "")  # fmt: skip
    tree = Tree("associative_scan", "xs", xs)
    if not tree.tensors or any(not x.ndim or not x.numel() for x in tree.tensors):
        raise KilnValueError(
            "associative_scan", "all xs must have at least one dimension and elements", describe(tree.tensors), "",
        )  # fmt: skip
    rows = [x.movedim(norm_dim(dim, x.ndim, "associative_scan"), 0) for x in tree.tensors]
    if len({tuple(x.shape) for x in rows}) > 1:
        raise KilnValueError("associative_scan", "xs must have one shape", describe(tree.tensors), "")  # fmt: skip
    if reverse:
        rows = [x.flip(0) for x in rows]

    def combine(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        fn = combine_fn
        if combine_mode == "generic":
            from ..func import vmap

            fn = vmap(combine_fn)
        out = Tree("associative_scan", "results", fn(tree.build(a), tree.build(b)))
        if out.key != tree.key or out.kinds != [(tuple(x.shape), x.dtype) for x in a]:
            raise KilnError(
                "associative_scan", "combine_fn returns something unlike its arguments",
                describe(out.tensors), "return the same containers, shapes and dtypes",
            )  # fmt: skip
        return out.tensors

    out = [x.movedim(0, dim) for x in _scan(combine, rows)]
    return tree.build([x.flip(dim) for x in out] if reverse else out)


def _scan(combine: Callable, xs: list[Tensor]) -> list[Tensor]:
    """Pairs are combined, scanned, and give every second result; the others are one combination more."""
    n = xs[0].shape[0]
    if n == 1:
        return xs
    pairs = combine([x[: n - 1 : 2] for x in xs], [x[1::2] for x in xs])
    odd = _scan(combine, pairs)
    first = [x[:1] for x in xs]
    if n == 2:
        return [cat([f, o]) for f, o in zip(first, odd, strict=True)]
    more = combine([o[: (n - 1) // 2] for o in odd], [x[2::2] for x in xs])
    even = [cat([f, m]) for f, m in zip(first, more, strict=True)]
    return [_interleaved(e, o) for e, o in zip(even, odd, strict=True)]


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    m = odd.shape[0]
    pairs = stack([even[:m], odd], 1).reshape(2 * m, *odd.shape[1:])
    return pairs if even.shape[0] == m else cat([pairs, even[m:]])
