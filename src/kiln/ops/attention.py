"""Scaled dot-product attention: one op that never lays out its scores, and its gradient."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size, broadcast_shapes, numel
from ..tensor import CAPTURING, PLAIN, Tensor, wrap
from ._matrices import tracked
from .activation import floating, widen
from .creation import full_op
from .registry import FUNCTIONS, Sample, composition, op
from .rules import by_body
from .samples import draw, rng, strided
from .selection import where_op
from .views import transpose

_NAME = "scaled_dot_product_attention"
_HALF = (dt.float16, dt.bfloat16)

# Note [Attention's shapes]
# query (N, H, L, E), key (N, G, S, E), value (N, G, S, V): each of the G heads of key and value
# serves H / G neighbouring heads of query. The mask broadcasts to (N, H, L, S). Results lie as
# (N, L, H, V), and gradients likewise, so that `transpose(1, 2).reshape(n, l, h * v)` is a view.
# The second result is the logarithm of each row's sum of exponentials, (N, H, L); where a row is
# masked out entirely it is +inf, so that exp(score - it) is 0.


def _swap(x: Any) -> Any:
    return x.swapaxes(-1, -2) if isinstance(x, np.ndarray) else x.transpose(-1, -2)


def _wide(d: dt.dtype) -> dt.dtype:
    return dt.float32 if d in _HALF else d


def _infer(query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool, scale: float) -> list:
    n, h, length, _ = query.shape
    return [
        (Size((n, length, h, value.shape[3])), query.dtype),
        (Size((n, h, length)), _wide(query.dtype)),
    ]


def _repeated(x: Tensor, heads: Any) -> Tensor:
    """(N, G, S, E) to (N, heads, S, E), each head repeated."""
    n, g, s, e = x.shape
    if g == heads:
        return x
    return x.unsqueeze(2).expand(n, g, heads // g, s, e).reshape(n, heads, s, e)


def _gathered(x: Tensor, heads: Any) -> Tensor:
    """The gradient of `_repeated`, laid out as (N, S, heads, E)."""
    n, h, s, e = x.shape
    if h != heads:
        x = x.reshape(n, heads, h // heads, s, e).sum(2)
    return x.transpose(1, 2)


def _scores(query: Tensor, key: Tensor, attn_mask: Any, is_causal: bool, scale: float) -> Tensor:
    s = (query * scale) @ _swap(key)
    if is_causal:
        arange = FUNCTIONS["arange"]
        attn_mask = arange(query.shape[-2]).unsqueeze(1) >= arange(key.shape[-2])
    if attn_mask is None:
        return s
    return where_op(attn_mask, s, float("-inf")) if attn_mask.dtype is dt.bool_ else s + attn_mask


def _body(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any, is_causal: bool, scale: float
) -> tuple:
    if query.dtype in _HALF:
        out, lse = attention(
            widen(query), widen(key), widen(value),
            attn_mask if attn_mask is None else widen(attn_mask), is_causal, scale,
        )  # fmt: skip
        return out.to(query.dtype), lse
    heads = query.shape[1]
    k, v = _repeated(key, heads), _repeated(value, heads)
    s = _scores(query, k, attn_mask, is_causal, scale)
    if numel(s.shape) == 0:
        n, h, length, _ = query.shape
        empty = full_op((n, h, length), float("inf"), query.dtype)
        return (s @ v).transpose(1, 2), empty
    top = s.amax(-1, True)
    if attn_mask is not None:
        top = where_op(top == float("-inf"), 0.0, top)
    e = (s - top).exp()
    total = e.sum(-1, True)
    lse = top + total.log()
    if attn_mask is not None:
        lse = where_op(total == 0, float("inf"), lse)
        total = where_op(total == 0, 1.0, total)
    return ((e / total) @ v).transpose(1, 2), lse.squeeze(-1)


def _gradients(
    grad: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any,
    result: Tensor,
    lse: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple:
    """The gradients of query, key and value as they lie, and of the scores."""
    heads, groups = query.shape[1], key.shape[1]
    k, v = _repeated(key, heads), _repeated(value, heads)
    g = grad.transpose(1, 2)
    p = (_scores(query, k, attn_mask, is_causal, scale) - lse.unsqueeze(-1)).exp()
    delta = (g * result.transpose(1, 2)).sum(-1)
    if grad_lse is not None:
        delta = delta - grad_lse
    s = p * (g @ _swap(v) - delta.unsqueeze(-1))
    return (
        ((s @ k) * scale).transpose(1, 2),
        _gathered((_swap(s) @ query) * scale, groups),
        _gathered(_swap(p) @ g, groups),
        s,
    )


def _grad_body(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any,
    result: Tensor,
    lse: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple:
    d = query.dtype
    if d in _HALF:
        mask = attn_mask if attn_mask is None else widen(attn_mask)
        tensors = (*map(widen, (grad, query, key, value)), mask, widen(result), lse)
        return tuple(x.to(d) for x in attention_grad(*tensors, is_causal, scale))
    return _gradients(grad, None, query, key, value, attn_mask, result, lse, is_causal, scale)[:3]


def _rule(
    gs: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any,
    is_causal: bool,
    scale: float,
    outs: Any,
    needs: tuple,
) -> tuple:
    (g, g_lse), (out, lse) = gs, outs
    if g_lse is None and not needs[3]:
        found = attention_grad(g, query, key, value, attn_mask, out, lse, is_causal, scale)
        return *(x.transpose(1, 2) if need else None for x, need in zip(found, needs, strict=False)), None  # fmt: skip
    g = out.new_zeros(out.shape) if g is None else g
    mask = attn_mask if attn_mask is None else widen(attn_mask)
    wide = (*map(widen, (query, key, value)), mask, widen(out), lse)
    *found, s = _gradients(widen(g), g_lse, *wide, is_causal, scale)
    out = [
        x.transpose(1, 2).to(like.dtype) if need else None
        for x, like, need in zip(found, (query, key, value), needs, strict=False)
    ]
    if not needs[3]:
        return *out, None
    lead = tuple(i for i, size in enumerate(attn_mask.shape) if size == 1 and s.shape[i] != 1)
    return *out, (s.sum(lead, True) if lead else s).to(attn_mask.dtype)


def _op_calls() -> Any:
    """Query, key, value, mask, is_causal and scale in the op's shapes."""
    r = rng(54)
    for heads, groups, length, keys in ((2, 2, 3, 5), (4, 2, 5, 3), (3, 1, 4, 4)):
        q, k = draw(r, (2, heads, length, 4)), draw(r, (2, groups, keys, 4))
        v = draw(r, (2, groups, keys, 6))
        yield q, k, v, None, False, 0.5
        yield q, k, v, None, True, 0.5
        yield q, k, v, draw(r, (1, heads, 1, keys)), False, 0.5
        mask = r.random((2, 1, length, keys)) > 0.3
        mask[0, 0, 0] = False
        yield q, k, v, mask, False, -0.5
    yield strided(q), strided(k), strided(v), None, True, 1.0
    yield q[:, :, :0], k, v, None, False, 0.5
    yield q, k[:, :, :0], v[:, :, :0], None, False, 0.5


@lru_cache(64)
def _later(rows: int, keys: int) -> np.ndarray:
    """Which keys a causal mask hides from each row."""
    return np.arange(rows)[:, None] < np.arange(keys)


@op(private=True, family="contraction", infer=_infer, body=_body, exact=True,
    samples=lambda: map(Sample, _op_calls()),
    grad={("query", "key", "value", "attn_mask"): _rule})  # fmt: skip
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """softmax(query @ key^T * scale, masked) @ value, and the scores' log-sum-exp.

    See Note [Attention's shapes]; `is_causal` lets row i see the keys up to i.
    """
    d = query.dtype
    half = d in (dt.float16.np, dt.bfloat16.np)
    q, k, v = (x.astype(np.float32) if half else x for x in (query, key, value))
    heads, groups = q.shape[1], k.shape[1]
    if groups != heads:
        k, v = (x.repeat(heads // groups, 1) for x in (k, v))
    s = np.matmul(q * q.dtype.type(scale), _swap(k))
    if attn_mask is None and s.size:  # every row sees a key
        if is_causal:
            np.copyto(s, -np.inf, where=_later(*s.shape[-2:]))
        top = np.maximum.reduce(s, axis=-1, keepdims=True)
        s -= top
        np.exp(s, s)
        total = np.add.reduce(s, axis=-1, keepdims=True)
        s /= total
        top += np.log(total)
        out = np.ascontiguousarray(np.matmul(s, v).swapaxes(1, 2))
        return out.astype(d) if half else out, top[..., 0]
    if is_causal:
        attn_mask = np.arange(q.shape[-2])[:, None] >= np.arange(k.shape[-2])
    if attn_mask is not None and attn_mask.dtype == bool:
        s = np.where(attn_mask, s, s.dtype.type(-np.inf))
    elif attn_mask is not None:
        s = s + attn_mask.astype(s.dtype, copy=False)
    top = np.maximum.reduce(s, axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, s.dtype.type(0), top)
    e = np.exp(s - top)
    total = np.add.reduce(e, axis=-1, keepdims=True)
    out = np.matmul(e / np.where(total == 0, total.dtype.type(1), total), v)
    lse = np.where(total == 0, s.dtype.type(np.inf), top + np.log(total))[..., 0]
    out = np.ascontiguousarray(out.swapaxes(1, 2))
    return out.astype(d) if half else out, lse


def _grad_infer(
    grad: Any, query: Any, key: Any, value: Any, attn_mask: Any, result: Any, lse: Any,
    is_causal: bool, scale: float,
) -> list:  # fmt: skip
    def turned(x: Any) -> tuple:
        n, h, length, e = x.shape
        return Size((n, length, h, e)), x.dtype

    return [turned(query), turned(key), turned(value)]


def _grad_samples() -> Any:
    r = rng(55)
    for call in _op_calls():
        out, lse = attention.op.reference(*call)
        finite = bool(np.isfinite(lse).all())  # nothing to differentiate where lse is infinite
        yield Sample((draw(r, out.shape), *call[:4], out, lse, *call[4:]), grad=finite)


@op(private=True, family="contraction", infer=_grad_infer, body=_grad_body, exact=True, samples=_grad_samples,
    grad=by_body(_grad_body, "grad", "query", "key", "value", "attn_mask", "result", "lse", several=True))  # fmt: skip
def attention_grad(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    result: Tensor,
    lse: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of attention's query, key and value: (N, L, H, E), (N, S, G, E), (N, S, G, V)."""
    d = query.dtype
    if d in (dt.float16.np, dt.bfloat16.np):
        grad, query, key, value, result = (
            x.astype(np.float32) for x in (grad, query, key, value, result)
        )
    n, heads, length, _ = query.shape
    groups = key.shape[1]
    k, v = (x.repeat(heads // groups, 1) if groups != heads else x for x in (key, value))
    g = grad.swapaxes(1, 2)
    s = np.matmul(query * query.dtype.type(scale), _swap(k))
    if is_causal:
        attn_mask = np.arange(length)[:, None] >= np.arange(k.shape[-2])
    if attn_mask is not None and attn_mask.dtype == bool:
        s = np.where(attn_mask, s, s.dtype.type(-np.inf))
    elif attn_mask is not None:
        s = s + attn_mask.astype(s.dtype, copy=False)
    p = np.exp(s - lse[..., None])
    delta = np.add.reduce(g * result.swapaxes(1, 2), axis=-1, keepdims=True)
    s = p * (np.matmul(g, _swap(v)) - delta)
    dq = np.matmul(s, k) * s.dtype.type(scale)
    dk = np.matmul(_swap(s), query) * s.dtype.type(scale)
    dv = np.matmul(_swap(p), g)
    if groups != heads:
        dk, dv = (x.reshape(n, groups, heads // groups, *x.shape[2:]).sum(2) for x in (dk, dv))
    return tuple(np.ascontiguousarray(x.swapaxes(1, 2)).astype(d, copy=False) for x in (dq, dk, dv))


# ---------------------------------------------------------------- what users call


def _check(query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool, heads: Any) -> tuple:
    """The sizes of the batch, heads included; PyTorch's errors where the tensors don't fit.

    `heads` are those that key and value are repeated to, or None.
    """
    a, b = query.shape, key.shape
    plain = attn_mask is None and heads is None and len(a) > 1 and query.dtype.is_floating_point
    if plain and b == value.shape and query.dtype is key.dtype is value.dtype and a[:-2] == b[:-2] and a[-1] == b[-1]:  # fmt: skip
        return tuple(a[:-2])
    given = f"query={describe(query)}, key={describe(key)}, value={describe(value)}"
    if any(len(x.shape) < 2 for x in (query, key, value)):
        raise KilnError(
            _NAME, "Expected query, key, and value to all be at least 2 dimensional", given,
            "(…, length, features)",
        )  # fmt: skip
    if not query.dtype is key.dtype is value.dtype:
        raise KilnError(
            _NAME, "Expected query, key, and value to have the same dtype", given, "convert them"
        )
    floating(_NAME, query)
    if query.shape[-1] != key.shape[-1]:
        raise KilnError(_NAME, "query and key must have the same number of features", given, "")
    if key.shape[-2] != value.shape[-2]:
        raise KilnError(_NAME, "key and value must have the same length", given, "")
    if heads is not None and any(heads % max(x.shape[-3], 1) for x in (key, value)):
        raise KilnError(
            _NAME, "the number of query heads must be a multiple of the key's and value's", given,
            "repeat or drop heads",
        )  # fmt: skip
    own = [x.shape[:-2] if heads is None else (*x.shape[:-3], heads) for x in (key, value)]
    batch = tuple(broadcast_shapes(query.shape[:-2], *own, op=_NAME))
    if attn_mask is None:
        return batch
    if is_causal:
        raise KilnError(
            _NAME, "Explicit attn_mask should not be set when is_causal=True", given, ""
        )
    if attn_mask.dtype not in (dt.bool_, query.dtype, dt.float32):
        raise KilnError(
            _NAME, "Expected attn_mask dtype to be bool or float or to match query dtype",
            f"{given}, attn_mask={describe(attn_mask)}", "",
        )  # fmt: skip
    broadcast_shapes(attn_mask.shape, (*batch, query.shape[-2], key.shape[-2]), op=_NAME)
    return batch


def _four_plain(query: Any, key: Any, value: Any) -> bool:
    """Whether these are plain tensors of four dimensions that fit together as they are: the common case, kept short."""
    if CAPTURING or not (
        query.__class__ in PLAIN and key.__class__ in PLAIN and value.__class__ in PLAIN
    ):
        return False
    q, k, v = query._a, key._a, value._a
    if not q.__class__ is k.__class__ is v.__class__ is np.ndarray:
        return False
    a, b = q.shape, k.shape
    return (
        len(a) == 4 and b == v.shape and a[:2] == b[:2] and a[3] == b[3] > 0
        and q.dtype is k.dtype is v.dtype and q.dtype.kind == "f"
    )  # fmt: skip


def _four(x: Tensor, batch: tuple) -> Tensor:
    """x, its leading dimensions broadcast to `batch`, as (N, heads, length, features)."""
    shape = x._a.shape
    if len(batch) == 2 and shape[:-2] == batch:
        return x
    last = tuple(x.shape[-2:])
    if tuple(x.shape[:-2]) != batch:
        x = x.expand(*batch, *last)
    if len(batch) < 2:
        return x.reshape(*batch, *(1,) * (2 - len(batch)), *last)
    return x if len(batch) == 2 else x.reshape(numel(batch[:-1]), batch[-1], *last)


def _four_mask(mask: Tensor, batch: tuple) -> Tensor:
    """A mask in four dimensions, sizes of 1 kept where that is possible."""
    rank = len(batch) + 2
    mask = mask.reshape(*(1,) * (rank - mask.ndim), *mask.shape)
    return _four(mask, batch if rank > 4 else tuple(mask.shape[:-2]))


def _samples() -> Any:
    r = rng(53)
    q, k, v = draw(r, (2, 3, 4)), draw(r, (2, 5, 4)), draw(r, (2, 5, 6))
    yield Sample((q, k, v))
    yield Sample((q[0], k[0], v[0]))
    yield Sample((q[:, None], k[:, None], v[:, None]))
    yield Sample((q[:, None, None], k[:, None, None], v[:, None, None]))
    yield Sample((q, k, v, r.random((3, 5)) > 0.3))
    yield Sample((q, k, v, draw(r, (2, 3, 5))))
    yield Sample((q, k, v, draw(r, (5,))))
    yield Sample((q, k, v, np.zeros((3, 5), bool)), grad=False)
    yield Sample((q, k, v), {"is_causal": True})
    yield Sample((q, k, v), {"scale": 0.3})
    yield Sample((q[:, None], k[:1, None], v))  # batches broadcast
    heads = draw(r, (2, 4, 3, 4)), draw(r, (2, 2, 5, 4)), draw(r, (2, 2, 5, 6))
    yield Sample(heads, {"enable_gqa": True})
    yield Sample((*heads, draw(r, (2, 4, 3, 5))), {"enable_gqa": True})
    yield Sample(tuple(map(strided, heads)), {"enable_gqa": True, "is_causal": True})
    yield Sample((q[:, :0], k, v))
    yield Sample((q, k[:, :0], v[:, :0]), grad=False)
    yield Sample((q, k, v, r.random((3, 5)) > 0.3), {"is_causal": True}, error=RuntimeError)
    yield Sample((q[0, 0], k, v), error=RuntimeError)
    yield Sample((q, k.astype(np.float32), v), error=RuntimeError)
    yield Sample((q, k[..., :2], v), error=RuntimeError)
    yield Sample((q, k, v[:, :2]), error=RuntimeError)
    yield Sample((q, k, v, np.ones((3, 5), np.int64)), error=RuntimeError)


@composition(namespace="F", samples=_samples)
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
                                 dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None,
                                 enable_gqa: bool = False) -> Tensor:  # fmt: skip
    """softmax(query @ key^T * scale) @ value: (…, L, E), (…, S, E), (…, S, Ev) give (…, L, Ev).

    `attn_mask` broadcasts to (…, L, S): bool (True takes part) or added to the scores. `scale` defaults to
    1 / sqrt(E). `enable_gqa` repeats the heads of key and value to match query's. With `dropout_p` above 0
    attention weights are dropped, whether training or not. https://arxiv.org/abs/1706.03762
    """
    if attn_mask is None and not dropout_p and not enable_gqa and _four_plain(query, key, value):
        if scale is None:
            scale = 1 / math.sqrt(query._a.shape[3])
        if not tracked(query, key, value):
            raw = query._a, key._a, value._a, None, bool(is_causal), float(scale)
            try:
                return wrap(attention.op.eager(*raw)[0].transpose(0, 2, 1, 3))
            except Exception:  # of which the call below tells
                pass
        return transpose(attention(query, key, value, None, bool(is_causal), float(scale))[0], 1, 2)
    if query.is_nested:
        from ..nested.tensor import attention as nested_attention

        return nested_attention(
            query, key, value, attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale
        )
    heads = query.shape[-3] if enable_gqa and min(query.ndim, key.ndim, value.ndim) > 2 else None
    is_causal = bool(is_causal)
    batch = _check(query, key, value, attn_mask, is_causal, heads)
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1]) if query.shape[-1] else 1.0
    groups = batch if heads is None else (*batch[:-1], key.shape[-3])
    if heads is not None and (dropout_p or key.shape[-3] != value.shape[-3]):
        key, value = (_repeated(_four(x, (*batch[:-1], x.shape[-3])), heads) for x in (key, value))
        key, value = (x.reshape(*batch, *x.shape[2:]) for x in (key, value))
        groups = batch
    if dropout_p:
        s = _scores(query, key, attn_mask, is_causal, scale)
        p = FUNCTIONS["softmax"](s, -1)
        if attn_mask is not None:  # rows that are masked out entirely give zeros
            p = where_op((s == float("-inf")).all(-1, True), 0, p)
        return FUNCTIONS["nn.functional.dropout"](p, dropout_p, True) @ value
    q, k, v = _four(query, batch), _four(key, groups), _four(value, groups)
    mask = attn_mask if attn_mask is None else _four_mask(attn_mask, batch)
    # Of other than four dimensions PyTorch keeps copies, scaled, and not the result: all may be written to.
    copied = len(batch) != 2 and not CAPTURING and tracked(query, key, value)
    q, k = (q.clone(), k.clone()) if copied else (q, k)
    out = attention(q, k, v, mask, is_causal, float(scale))[0].transpose(1, 2)
    if len(batch) == 2:
        return out
    out = out.reshape(*batch, *out.shape[2:])
    return out.clone() if copied else out
