"""Steps of random programs: elements, reductions, scans, movement, indexing, writes.

Each takes the values and one of them and gives a new one; what eager mode refuses is left out.
"""

from __future__ import annotations

from typing import Any

import kiln
import kiln.nn.functional as F

from .values import Values, floating, integral, signed, unsigned

SMOOTH = [
    "sin", "cos", "atan", "tanh", "sigmoid", "erf", "erfc", "asinh", "expm1_", "log1p_", "exp_",
    "exp2_", "sqrt_", "rsqrt_", "log_", "log2_", "log10_", "reciprocal_", "acos_", "asin_", "tan_",
    "sinh_", "cosh_", "lgamma_", "digamma_", "logit_", "sinc"
]  # fmt: skip
ANY = ["abs", "neg", "sign", "square", "positive"]
FLOATS = [
    "floor", "ceil", "trunc", "round", "frac", "isnan", "isinf", "isfinite", "signbit",
    "nan_to_num"
]  # fmt: skip
ACTIVATIONS = [
    "relu", "relu6", "gelu", "silu", "mish", "elu", "celu", "selu", "softplus", "softsign",
    "hardtanh", "hardsigmoid", "hardswish", "leaky_relu", "logsigmoid", "tanhshrink", "softshrink",
    "hardshrink"
]  # fmt: skip
BINARY = [
    "add", "sub", "mul", "maximum", "minimum", "fmax", "fmin", "lt", "le", "gt", "ge", "eq", "ne",
    "logical_and", "logical_or", "logical_xor", "atan2", "hypot", "copysign"
]  # fmt: skip
DTYPES = [
    "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool", "float16",
    "bfloat16"
]  # fmt: skip


def unary(v: Values, x: Any) -> Any:
    q = v.q
    kind = q.choice(["smooth", "smooth", "any", "float", "activation", "gelu"])
    if kind == "any":
        return v.tame(getattr(kiln, q.choice(ANY))(x))
    y = floating(x)
    if kind == "float":
        name = q.choice(FLOATS)
        return getattr(kiln, name)(signed(y) if name == "signbit" else y)
    if kind == "activation":
        return getattr(F, q.choice(ACTIVATIONS))(y)
    if kind == "gelu":
        return F.gelu(y, approximate=q.choice(["none", "tanh"]))
    name = q.choice(SMOOTH)
    if not name.endswith("_"):
        return getattr(kiln, name)(y)
    if name in ("exp_", "exp2_", "expm1_", "sinh_", "cosh_"):
        y = y.clamp(-5, 5)
    elif name in ("acos_", "asin_", "tan_"):
        y = y.clamp(-1.2, 1.2) * 0.75
    elif name == "logit_":
        y = y.sigmoid() * 0.9 + 0.05
    else:
        y = y.abs() + 0.5
    return getattr(kiln, name[:-1])(y)


def binary(v: Values, x: Any) -> Any:
    q, y = v.q, v.other(x)
    kind = q.choice(["named"] * 6 + ["where", "div", "affine", "rsub", "lerp", "addcmul", "pow", "mod", "bits",
                     "masked", "clamped", "compare"])  # fmt: skip
    if kind == "named":
        name, y = q.choice(BINARY), unsigned(tensor(y))
        return v.tame(getattr(kiln, name)(unsigned(x), signed(y) if name == "copysign" else y))
    if kind == "where":
        return kiln.where(v.mask(x.shape[q.randint(0, x.ndim) :]), x, y)
    if kind == "div":
        return floating(x) / (tensor(y).float().abs() + 1)
    if kind == "affine":
        return v.tame(x * 2 + y * x - 3)
    if kind == "rsub":
        return 1 - floating(x)
    if kind == "lerp":
        x = floating(x)
        return kiln.lerp(x, v.weight(x.shape, x.dtype), q.choice([0.25, 0.9]))
    if kind == "addcmul":
        x = floating(x)
        make = q.choice([kiln.addcmul, kiln.addcdiv])
        a = v.weight(x.shape, x.dtype)
        return v.tame(make(x, a, a.abs() + 1, value=0.5))
    if kind == "pow":
        return v.tame(q.choice([
            lambda: unsigned(floating(x)) ** q.choice([2, 3, -1, 0, 1]), lambda: (floating(x).abs() + 0.5) ** q.choice([0.5, 1.5, -0.5]),
            lambda: 2.0 ** floating(x).clamp(-6, 4),
        ])())  # fmt: skip
    if kind == "mod":
        op = q.choice([kiln.remainder, kiln.fmod, kiln.floor_divide])
        return op(integral(x), q.choice([1, 2, 3, 7, -3]))
    if kind == "bits":
        i = integral(x)
        j = integral(tensor(y)).to(i.dtype)
        return q.choice([
            lambda: i & j, lambda: i | j, lambda: i ^ j, lambda: ~i, lambda: i << 2, lambda: i >> 1,
        ])()  # fmt: skip
    if kind == "masked":
        return x.masked_fill(v.mask(x.shape), q.choice([0, 1]))
    if kind == "clamped":
        return q.choice([lambda: x.clamp(min=-1), lambda: x.clamp(-1, 2), lambda: x.clamp(max=0)])()
    return (x > y) & (x == x)


def tensor(y: Any) -> Any:
    """A Python number as a tensor of no dims."""
    return y if isinstance(y, kiln.Tensor) else kiln.tensor(y)


def casting(v: Values, x: Any) -> Any:
    name = v.q.choice(DTYPES[:2] * 3 + DTYPES)
    if x.is_floating_point() and "float" not in name and name != "bool":
        x = integral(x.abs() if name == "uint8" else x)
    return x.to(getattr(kiln, name))


def reduction(v: Values, x: Any) -> Any:
    q, d, keep = v.q, v.dim(x), v.q.random() < 0.5
    some = v.dims(x)
    y = floating(x)
    return v.tame(q.choice([
        lambda: x.sum(), lambda: x.sum(d, keep), lambda: x.sum(some, keep), lambda: y.mean(some, keep),
        lambda: y.mean(), lambda: x.amax(some, keep), lambda: x.amin(some, keep), lambda: x.max(), lambda: x.min(d, keep)[0],
        lambda: x.max(d, keep)[q.choice([0, 1])], lambda: x.argmax(d, keep), lambda: x.argmin(d, keep),
        lambda: x.all(d, keep), lambda: x.any(d, keep), lambda: y.var(some, correction=q.choice([0, 1]), keepdim=keep),
        lambda: y.std(d, correction=0, keepdim=keep), lambda: y.logsumexp(some, keep),
        lambda: (y * 0.5).prod(d, keep), lambda: kiln.count_nonzero(x, d), lambda: y.norm(dim=some or None),
        lambda: kiln.linalg.vector_norm(y, q.choice([1, 2, 3, float("inf")]), some or None, keep),
        lambda: kiln.var_mean(y, some or None, correction=0)[q.choice([0, 1])], lambda: apart(v, y).median(d, keep)[0],
        lambda: kiln.aminmax(y, dim=d)[1], lambda: y.nansum(d), lambda: (x > 0).sum(d),
    ])())  # fmt: skip


def apart(v: Values, y: Any) -> Any:
    """`y` without equal elements: which of them a selection picks is unspecified in PyTorch (7002146)."""
    return y.float() + v.weight(y.shape)


def rows(v: Values, x: Any) -> Any:
    q, d, y = v.q, v.dim(x), floating(x)
    return q.choice([
        lambda: y.softmax(d), lambda: y.log_softmax(d), lambda: F.softmin(y, d), lambda: F.normalize(kiln.cat([y, y * 0 + 1], d), dim=d),
        lambda: v.tame(y.cumsum(d)), lambda: v.tame((y * 0.3).cumprod(d)), lambda: y.cummax(d)[q.choice([0, 1])],
        lambda: y.logcumsumexp(d), lambda: y.sort(dim=d, stable=True)[0], lambda: x.sort(dim=d, descending=True, stable=True)[0],
        lambda: y.argsort(dim=d, stable=True), lambda: apart(v, y).topk(max(1, y.shape[d] // 2), d)[0],
        lambda: apart(v, y).kthvalue(max(1, y.shape[d] // 2), d)[0], lambda: kiln.diff(y, dim=d), lambda: y.softmax(d) @ y.transpose(-1, -2),
        lambda: y - y.mean(d, keepdim=True), lambda: (y - y.amax(d, keepdim=True)).exp(),
        lambda: v.tame(x.cumsum(d)), lambda: v.tame(kiln.trapezoid(y, dim=d)),
    ])()  # fmt: skip


def reshaping(v: Values, x: Any) -> Any:
    q, n = v.q, x.numel()
    if n == 0:
        return x.reshape(-1)
    a = q.choice([i for i in range(1, n + 1) if n % i == 0])
    b = q.choice([i for i in range(1, a + 1) if a % i == 0])
    return x.reshape(q.choice([(a, -1), (b, a // b, -1), (-1, b), (-1,), (1, a, -1)]))


def movement(v: Values, x: Any) -> Any:
    q, d = v.q, v.dim(x)
    n = x.shape[d]
    lo = q.randrange(n)
    dims = q.sample(range(x.ndim), x.ndim)
    ix: list[Any] = [slice(None)] * x.ndim
    ix[d] = slice(lo, q.randint(lo + 1, n), q.choice([1, 1, 2, 3]))
    repeats = [q.choice([1, 2]) for _ in dims]
    mode = q.choice(["constant", "reflect", "replicate", "circular"])
    return q.choice([
        lambda: x.permute(dims), lambda: x.permute(dims), lambda: x.transpose(d, q.randrange(x.ndim)), lambda: x.flip(d),
        lambda: x.flip(v.dims(x)), lambda: x[tuple(ix)], lambda: x[tuple(ix)], lambda: x[..., ::2], lambda: x[::3],
        lambda: kiln.cat([x, x.flip(d), x], d), lambda: kiln.cat([x, v.weight(x.shape)], d), lambda: kiln.stack([x, x], d),
        lambda: F.pad(floating(x), (q.randint(-1, 2), q.randint(0, 2)), value=1.5),
        lambda: F.pad(x, (0, q.randint(0, 3)) * min(x.ndim, 2)),
        lambda: F.pad(floating(x), (1, 1) if x.ndim < 4 else (1, 1, 0, 1), mode=mode),
        lambda: x.expand(2, *x.shape), lambda: x.unsqueeze(d), lambda: x.squeeze(), lambda: x.select(d, lo), lambda: x.roll(1, d),
        lambda: x.chunk(2, d)[-1], lambda: x.repeat(*repeats), lambda: x.flatten(), lambda: x.tile(2), lambda: x.movedim(0, -1),
        lambda: x.diagonal(q.choice([0, 1])), lambda: x.tril(q.choice([0, 1])), lambda: x.triu(), lambda: x.rot90(),
        lambda: x.repeat_interleave(2, d), lambda: x.unfold(d, min(2, n), q.choice([1, 2])), lambda: x.narrow(d, lo, n - lo),
        lambda: kiln.diag_embed(x), lambda: x.split(max(1, n // 2), d)[0], lambda: x.contiguous(), lambda: x.unbind(d)[-1],
        lambda: x[:0], lambda: x.unsqueeze(d).expand(*x.shape[: d % x.ndim], 3, *x.shape[d % x.ndim :]),
        lambda: kiln.meshgrid(x.flatten()[:5], x.flatten()[:3], indexing="ij")[q.choice([0, 1])],
    ])()  # fmt: skip


def indexing(v: Values, x: Any) -> Any:
    q, d = v.q, v.dim(x)
    n, m = x.shape[d], q.randint(1, 6)
    picks = v.indices((m,), n, negative=True)
    like = v.indices(x.shape, n).long()
    part = list(x.shape)
    part[d] = m
    rows = v.indices((m,), n).long()
    source = v.weight(part, x.dtype) if x.is_floating_point() else kiln.ones(part, dtype=x.dtype)
    lead = [slice(None)] * (d % x.ndim)
    return q.choice([
        lambda: x[(*lead, picks)], lambda: x[(*lead, picks.reshape(1, -1))], lambda: x.gather(d, like),
        lambda: x.take_along_dim(like, d), lambda: x.index_select(d, rows), lambda: v.tame(x.index_add(d, rows, source)),
        lambda: v.tame(x.scatter_add(d, rows.reshape([-1 if k == d % x.ndim else 1 for k in range(x.ndim)]).expand(part), source)),
        lambda: x.scatter(d, like[:1], 2), lambda: x.scatter_reduce(d, like, x, q.choice(["amax", "amin", "sum", "mean"])),
        lambda: x.index_fill(d, rows, 3), lambda: x[..., v.indices((m,), x.shape[-1]), None], lambda: x[v.indices((m,), x.shape[0]), ..., 0],
        lambda: x[v.indices((m, 1), x.shape[0]), v.indices((3,), x.shape[1])], lambda: x[None, ..., 0],
        lambda: F.embedding(v.indices((2, m), x.shape[0]), floating(x)) if x.ndim == 2 else x[v.indices((m,), x.shape[0])],
        lambda: F.one_hot(v.indices(x.shape[:2], 5).long(), 5), lambda: kiln.searchsorted(floating(x).sort(-1)[0], floating(x)),
        lambda: kiln.take(x, v.indices((3, m), x.numel()).long()), lambda: kiln.isin(integral(x), rows),
        lambda: x.gather(d, floating(x).argsort(dim=d, stable=True)), lambda: x.index_put((v.indices((m,), x.shape[0]).long(),), tensor(1).to(x.dtype)),
    ])()  # fmt: skip


def write(v: Values, x: Any) -> Any:
    q = v.q
    z = x.contiguous()  # whether reshape gives a view depends on the order in memory
    z = z.clone() if q.random() < 0.7 else floating(z) * 1
    d = v.dim(z)
    half = z.transpose(0, d)[: max(1, z.shape[0] // 2)]
    kind = q.choice([
        lambda: half.fill_(1), lambda: half.add_(1), lambda: half.mul_(2), lambda: z.masked_fill_(v.mask(z.shape), 0), lambda: z.flatten()[:1].mul_(3),
        lambda: z.flip(0).add_(2), lambda: z[..., ::2].copy_(v.weight(z[..., ::2].shape)), lambda: z.__setitem__(v.indices((2,), z.shape[0]), 1),
        lambda: z.__setitem__((..., 0), 2), lambda: z.__setitem__(slice(None, None, 2), z[: (z.shape[0] + 1) // 2].clone()),
        lambda: z.select(d, 0).zero_(), lambda: z.diagonal().add_(1), lambda: z.index_add_(0, v.indices((1,), z.shape[0]).long(), z[:1].clone()),
        lambda: z.clamp_(-1, 1), lambda: z.relu_().add_(half.sum()), lambda: z.unsqueeze(0).expand(1, *z.shape)[0].neg_(),
        lambda: z.reshape(-1).sub_(1), lambda: z.t().mul_(half.max()) if z.ndim == 2 else z.neg_(), lambda: z.__setitem__(v.mask(z.shape), 1),
        lambda: z.permute(*reversed(range(z.ndim))).copy_(z.permute(*reversed(range(z.ndim))) + 1), lambda: kiln.add(z, 1, out=z),
    ])  # fmt: skip
    kind()
    return q.choice([lambda: z, lambda: z + half.sum(), lambda: half, lambda: z[1:]])()


def drawing(v: Values, x: Any) -> Any:
    q, y = v.q, floating(x)
    return q.choice([
        lambda: F.dropout(y, q.choice([0.1, 0.5])), lambda: y + kiln.rand(y.shape), lambda: y * kiln.randn(*y.shape),
        lambda: x + kiln.randint(0, 5, tuple(x.shape)), lambda: y + kiln.arange(y.shape[-1]), lambda: kiln.rand_like(y),
        lambda: kiln.bernoulli(v.weight(y.shape).sigmoid()), lambda: y + kiln.linspace(0, 1, y.shape[-1]), lambda: y @ kiln.eye(y.shape[-1], dtype=y.dtype),
        lambda: kiln.full((3, 2), 2.0), lambda: kiln.zeros_like(x) + 1,
    ])()  # fmt: skip
