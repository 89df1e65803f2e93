"""Multi-head attention: projections round scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnAssertionError, KilnError, describe
from ..random import default_generator
from ..tensor import Tensor
from .attention import scaled_dot_product_attention
from .linear import linear
from .registry import FUNCTIONS, Sample, composition
from .samples import draw, rng

_NAME = "multi_head_attention_forward"


def _refuse(what: str, received: str, help: str = "") -> None:
    raise KilnError(_NAME, what, received, help)


def _deny(what: str, received: str, help: str = "") -> None:
    raise KilnAssertionError(_NAME, what, received, help)


def float_mask(mask: Tensor | None, like: Tensor, name: str) -> Tensor | None:
    """A mask as what is added to scores: -inf where a bool one is True."""
    if mask is None or mask.dtype.category == dt.FLOAT:
        return mask
    if mask.dtype is not dt.bool_:
        _deny(
            f"only bool and floating types of {name} are supported", describe(mask), "mask.bool()"
        )
    return like.new_zeros(mask.shape).masked_fill(mask, float("-inf"))


def check_inputs(query: Tensor, key: Tensor, value: Tensor, embed_dim: int, heads: int, separate: bool) -> None:  # fmt: skip
    given = f"query={describe(query)}, key={describe(key)}, value={describe(value)}"
    if query.ndim not in (2, 3):
        _deny(
            f"query should be unbatched 2D or batched 3D tensor but received {query.ndim}-D query tensor",
            given,
        )
    if key.ndim != query.ndim or value.ndim != query.ndim:
        _deny("query, key and value must have as many dimensions", given)
    if query.shape[-1] != embed_dim:
        _deny(f"was expecting embedding dimension of {embed_dim}, but got {query.shape[-1]}", given)
    if embed_dim % heads:
        _deny(f"embed_dim {embed_dim} not divisible by num_heads {heads}", given)
    if (key.shape[:-1] != value.shape[:-1]) if separate else (key.shape != value.shape):
        _deny("key and value do not match in shape", given)


def _projected(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor | None, bias: Tensor | None,
    separate: tuple | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Query, key and value after the projections, in as few products as their identity allows."""
    e = query.shape[-1]
    if separate is not None:
        biases = (None,) * 3 if bias is None else bias.split(e)
        return tuple(map(linear, (query, key, value), separate, biases))
    assert weight is not None
    if key is value and query is key:
        return linear(query, weight, bias).chunk(3, -1)
    if key is value:
        first, rest = weight.split((e, 2 * e))
        one, two = (None, None) if bias is None else bias.split((e, 2 * e))
        return (linear(query, first, one), *linear(key, rest, two).chunk(2, -1))
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    return tuple(map(linear, (query, key, value), weight.chunk(3), biases))


def _merged(attn_mask: Any, padding: Any, batch: int, heads: int, length: int, keys: int) -> Any:
    """Both masks as one that broadcasts to (batch, heads, length, keys)."""
    if attn_mask is not None:
        allowed = ((length, keys), (batch * heads, length, keys))
        if tuple(attn_mask.shape) not in allowed:
            _refuse(
                f"the shape of the attn_mask is {tuple(attn_mask.shape)}, but should be {allowed[0]} "
                f"or {allowed[1]}", describe(attn_mask),
            )  # fmt: skip
        if attn_mask.ndim == 3:
            attn_mask = attn_mask.reshape(batch, heads, length, keys)
    if padding is None:
        return attn_mask
    if tuple(padding.shape) != (batch, keys):
        _deny(
            f"expecting key_padding_mask shape of {(batch, keys)}, but got {tuple(padding.shape)}",
            describe(padding),
        )
    padding = padding.reshape(batch, 1, 1, keys)
    return padding if attn_mask is None else attn_mask + padding


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    *,
    bias_k: Tensor | None = None,
    bias_v: Tensor | None = None,
    add_zero_attn: bool = False,
    dropout_p: float = 0.0,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    separate: tuple | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`multi_head_attention_forward` in either layout; dropout is applied where `dropout_p` is above 0."""
    if is_causal and attn_mask is None:
        _refuse(
            "Need attn_mask if specifying the is_causal hint.", "attn_mask=None", "give the mask"
        )
    single = query.ndim == 2
    axis = 0 if single else int(not batch_first)  # of the batch
    if single:  # one batch; tensors that are the same stay so
        seen: dict[int, Tensor] = {}
        query, key, value = (seen.setdefault(id(x), x.unsqueeze(0)) for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    batch, length, e = query.shape[axis], query.shape[1 - axis], query.shape[2]
    causal = is_causal and key_padding_mask is None and not need_weights
    mask = None if causal else float_mask(attn_mask, query, "attn_mask")
    padding = float_mask(key_padding_mask, query, "key_padding_mask")
    q, k, v = _projected(query, key, value, in_proj_weight, in_proj_bias, separate)
    extra = 0
    if bias_k is not None and bias_v is not None:
        shape = (batch, 1, e) if axis == 0 else (1, batch, e)
        cat = FUNCTIONS["cat"]
        k = cat((k, bias_k.reshape(1, 1, e).expand(*shape)), 1 - axis)
        v = cat((v, bias_v.reshape(1, 1, e).expand(*shape)), 1 - axis)
        extra += 1

    def split(x: Tensor, static: Tensor | None = None) -> Tensor:
        """(N, heads, length, e / heads)."""
        if static is not None:
            if static.shape[0] != batch * num_heads or static.shape[2] != e // num_heads:
                _deny("static_k and static_v must be (N * num_heads, S, head)", describe(static))
            return static.reshape(batch, num_heads, *static.shape[1:])
        x = x.reshape(*x.shape[:2], num_heads, e // num_heads)
        return x.permute(axis, 2, 1 - axis, 3)

    q, k, v = split(q), split(k, static_k), split(v, static_v)
    if add_zero_attn:
        k, v = (
            FUNCTIONS["cat"]((x, x.new_zeros((batch, num_heads, 1, e // num_heads))), 2)
            for x in (k, v)
        )
        extra += 1
    keys = k.shape[2]
    if extra:
        pad = FUNCTIONS["nn.functional.pad"]
        mask, padding = (None if m is None else pad(m, (0, extra)) for m in (mask, padding))
    merged = _merged(mask, padding, batch, num_heads, length, keys)
    weights: Tensor | None = None
    if need_weights:
        scores = (q * math.sqrt(1.0 / q.shape[3])) @ k.transpose(2, 3)
        weights = FUNCTIONS["softmax"](scores if merged is None else scores + merged, -1)
        if dropout_p:
            weights = FUNCTIONS["nn.functional.dropout"](weights, dropout_p)
        out = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights.squeeze(0) if single else weights
    else:
        out = scaled_dot_product_attention(q, k, v, merged, dropout_p, causal)
    # PyTorch's result lies with the length in front; its stream's next dropout goes along memory
    front = axis == 1 or default_generator.stream == "torch"
    out = out.permute(2, 0, 1, 3) if front else out.permute(0, 2, 1, 3)
    out = linear(out.reshape(*out.shape[:2], e), out_proj_weight, out_proj_bias)
    out = out.transpose(0, 1) if front and axis == 0 else out
    return (out.squeeze(0) if single else out), weights


def _samples() -> Any:
    r = rng(56)

    def weights(e: int) -> tuple:
        return draw(r, (3 * e, e)), draw(r, (3 * e,))

    q, k = draw(r, (3, 2, 4)), draw(r, (5, 2, 4))
    rest = (None, None, False, 0.0, draw(r, (4, 4)), draw(r, (4,)))
    for need in (True, False):
        kw = {"need_weights": need}
        yield Sample((q, k, k, 4, 2, *weights(4), *rest), kw)
        yield Sample((q[:, 0], k[:, 0], k[:, 0], 4, 2, *weights(4), *rest), kw)
        mask = r.random((3, 5)) > 0.6
        mask[:, 0] = False
        yield Sample((q, k, k, 4, 2, *weights(4), *rest), {**kw, "attn_mask": mask})
        pad = np.array(((0, 0, 0, 1, 1), (0, 0, 0, 0, 1)), bool)
        yield Sample(
            (
                q,
                k,
                k,
                4,
                2,
                *weights(4),
                draw(r, (1, 1, 4)),
                draw(r, (1, 1, 4)),
                True,
                0.0,
                *rest[4:],
            ),
            {**kw, "attn_mask": draw(r, (4, 3, 5)), "key_padding_mask": pad},
        )
        causal = np.triu(np.ones((3, 3), bool), 1)
        yield Sample(
            (q, q, q, 4, 2, *weights(4), *rest), {**kw, "attn_mask": causal, "is_causal": True}
        )
    yield Sample(
        (q, k, k, 4, 2, *weights(4), *rest), {"attn_mask": draw(r, (2, 5))}, error=RuntimeError
    )
    yield Sample((q, k, k, 4, 2, *weights(4), *rest), {"is_causal": True}, error=RuntimeError)


@composition(namespace="F", samples=_samples)
def multi_head_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None,
    bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
    out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None, static_v: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Projections, attention of `num_heads` heads and the output projection: (L, N, E) or (L, E).

    Masks: bool (True takes no part) or added to the scores; `key_padding_mask` (N, S), `attn_mask`
    (L, S) or (N * num_heads, L, S). Also the weights, averaged over heads or (N, num_heads, L, S),
    where they are needed. https://arxiv.org/abs/1706.03762
    """
    check_inputs(query, key, value, embed_dim_to_check, num_heads, use_separate_proj_weight)
    return attend(
        query, key, value, num_heads, in_proj_weight, in_proj_bias, out_proj_weight, out_proj_bias,
        bias_k=bias_k, bias_v=bias_v, add_zero_attn=add_zero_attn,
        dropout_p=dropout_p if training else 0.0, key_padding_mask=key_padding_mask,
        need_weights=need_weights, attn_mask=attn_mask,
        separate=(q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None,
        static_k=static_k, static_v=static_v, average_attn_weights=average_attn_weights,
        is_causal=is_causal,
    )  # fmt: skip
