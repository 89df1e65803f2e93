"""Steps of random programs that are drawn from the registry, mix dtypes, or write through views and indices.

Which ops there are is asked of the registry by their families, so new ones take part by themselves.
"""

from __future__ import annotations

from inspect import Parameter
from typing import Any

import kiln
from kiln.ops.registry import REGISTRY

from .values import Values, floating, signed, unsigned

WIDE = ["float32", "float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool"]  # fmt: skip


NO_GRADIENT = {
    "floor_divide"
}  # PyTorch says so in backward only, where a program is no longer refused


def _named(n: int, **facts: bool) -> list[str]:
    """Elementwise ops of `n` tensors that need nothing else."""
    return sorted(
        o.name
        for o in REGISTRY.values()
        if o.family == "elementwise"
        and not (o.private or o.namespace or o.name in NO_GRADIENT)
        and len(o.tensor_slots) == n
        and all(p.is_tensor or p.default is not Parameter.empty for p in o.params)
        and all(getattr(o, k) for k in facts)
    )  # fmt: skip


UNARY, BINARY = _named(1), _named(2)
UNARY_IN, BINARY_IN = _named(1, inplace=True), _named(2, inplace=True)
UNARY_OUT, BINARY_OUT = _named(1, out=True), _named(2, out=True)
# PyTorch takes out= of what requires grad where it has no derivative.
BINARY_OUT.remove("heaviside")


def cast(v: Values, x: Any) -> Any:
    """`x` in some dtype; what a narrow integer cannot hold is cut first."""
    d = v.q.choice(WIDE)
    if d in ("int8", "uint8", "int32", "int64"):
        x = floating(x).nan_to_num(1, 1, 1).clamp(0 if d == "uint8" else -9, 9)
    return x.to(getattr(kiln, d))


def finite(v: Values, y: Any) -> Any:
    """`y` tamed, without NaN: what kernels of PyTorch make of one further on differs among themselves."""
    return v.tame(y.nan_to_num(0, 3, -3) if y.is_floating_point() else y)


def element(v: Values, x: Any) -> Any:
    """An op of one or two tensors of any dtypes."""
    q = v.q
    x = unsigned(cast(v, x) if q.random() < 0.4 else x)
    if q.random() < 0.5:
        name = q.choice(UNARY)
        return finite(v, getattr(kiln, name)(x.clamp(-3, 3) if x.is_floating_point() else x))
    y, name = v.other(x), q.choice(BINARY)
    y = cast(v, y) if isinstance(y, kiln.Tensor) and q.random() < 0.5 else y
    y = unsigned(y if isinstance(y, kiln.Tensor) else kiln.tensor(y))
    return finite(v, getattr(kiln, name)(x, signed(y) if name == "copysign" else y))


def into(v: Values, x: Any) -> Any:
    """A result written into a tensor that is given: of its dtype or of another, of its shape or of none."""
    q = v.q
    y, d = v.weight(x.shape), getattr(kiln, q.choice(WIDE))
    out = kiln.zeros(q.choice([x.shape, x.shape, (0,)]), dtype=q.choice([x.dtype, d]))
    x = unsigned(x.detach())
    if q.random() < 0.5:
        getattr(kiln, q.choice(UNARY_OUT))(x, out=out)
    else:
        getattr(kiln, q.choice(BINARY_OUT))(x, y, out=out)
    return finite(v, out)


def through(v: Values, x: Any) -> Any:
    """A view of a view changed in place, and what is seen of it from the base."""
    q = v.q
    base = unsigned(x.contiguous()) if x.is_floating_point() else x.contiguous().clone()
    view = base
    for _ in range(q.randint(1, 3)):
        view = narrowed(v, view)
    y = v.weight(view.shape[q.randint(0, view.ndim) :])
    y = cast(v, y) if q.random() < 0.3 else y
    if q.random() < 0.4:
        getattr(view, q.choice(UNARY_IN) + "_")()
    else:
        getattr(view, q.choice(BINARY_IN) + "_")(y)
    return finite(v, q.choice([base, view]) if base.ndim else base)


def narrowed(v: Values, x: Any) -> Any:
    """A view of `x`: not one of several at once (chunk), in which PyTorch takes no change that has a gradient."""
    q = v.q
    if x.ndim == 0:
        return q.choice(
            [lambda: x.unsqueeze(0), lambda: x.view(1, 1), lambda: x[...], lambda: x[None]]
        )()
    d, n = v.dim(x), x.shape[v.dim(x)]
    return q.choice([
        lambda: x.transpose(0, d), lambda: x.select(d, 0), lambda: x[..., ::2], lambda: x[:1], lambda: x.unsqueeze(d),
        lambda: x.narrow(d, 0, min(1, n)), lambda: x.movedim(0, -1), lambda: x.view(-1), lambda: x.diagonal(),
        lambda: x.unfold(d, 1, 2), lambda: x.squeeze(), lambda: x[:0], lambda: x.view(x.shape),
    ])()  # fmt: skip


def index(v: Values, x: Any) -> tuple[Any, ...]:
    """Some of what may stand in brackets for the dims of `x`."""
    q, ix, d = v.q, [], 0
    while d < x.ndim and q.random() < 0.85:
        n = x.shape[d]
        kind = q.choice(
            [
                "int",
                "slice",
                "slice",
                "none",
                "rest",
                "tensor",
                "tensor",
                "column",
                "list",
                "mask",
                "backwards",
            ]
        )
        if kind == "none":
            ix.append(None)
            continue
        if kind == "rest" and Ellipsis not in [i for i in ix if not isinstance(i, kiln.Tensor)]:
            ix.append(Ellipsis)
            break
        if kind in ("slice", "rest"):
            low = q.randint(-n - 1, n)
            ix.append(
                slice(
                    q.choice([None, low]),
                    q.choice([None, q.randint(-n - 1, n + 2)]),
                    q.choice([None, 1, 2, 3]),
                )
            )
        elif kind == "backwards" and q.random() < 0.1:
            ix.append(slice(None, None, -1))
        elif kind == "mask":
            v.by_value = True
            ix.append(v.mask((n,)))
        elif n == 0:
            ix.append(slice(None))
        elif kind == "int":
            ix.append(q.randint(-n, n - 1))
        elif kind == "list":
            ix.append([q.randrange(n), q.randrange(-n, n)])
        else:
            ix.append(v.indices((2, 1) if kind == "column" else (2,), n, negative=True))
        d += 1
    if q.random() < 0.05:
        v.by_value = True
        ix.append(q.choice([True, False, kiln.tensor(True)]))
    return tuple(ix)


def picked(v: Values, x: Any) -> Any:
    """What an index of several kinds picks."""
    return x[index(v, x)]


def placed(v: Values, x: Any) -> Any:
    """A number, or the same elements changed, written where an index of several kinds points.

    Not other elements: which of them stays is unspecified in PyTorch where an index says a place twice.
    """
    q = v.q
    z = x.contiguous() * 1 if x.is_floating_point() else x.contiguous().clone()
    ix, number = index(v, z), q.choice([0, 1, 2, 1.5, True])
    if q.random() < 0.6:
        z[ix] = q.choice([number, kiln.tensor(number)])
    else:
        z[ix] = -z[ix] if q.random() < 0.5 else z[ix].clamp(0, 1)
    return z


def complexes(v: Values, x: Any) -> Any:
    """Complex arithmetic on the way from real numbers to real numbers."""
    q, y = v.q, floating(x).nan_to_num().clamp(-3, 3)
    y = y.double() if q.random() < 0.4 else y.float()
    z = kiln.complex(y, v.weight(y.shape, y.dtype))
    other = v.weight(y.shape[q.randint(0, y.ndim) :], q.choice([kiln.float32, kiln.float64]))
    d = v.dim(z) if z.ndim else 0
    z = q.choice([
        lambda: z * other, lambda: z + other, lambda: other - z, lambda: z / (other.abs() + 1), lambda: z * z.conj(), lambda: z.exp(), lambda: z.sin(),
        lambda: z.cos(), lambda: z.tanh(), lambda: (z + 4).sqrt(), lambda: (z + 4).log(), lambda: z.sum(d), lambda: z.mean(), lambda: z.cumsum(d),
        lambda: z * 2j, lambda: z + (1 + 1j), lambda: z**2, lambda: (z + 4).reciprocal(), lambda: z.sgn(), lambda: -z, lambda: z.prod(d) if z.ndim else z,
        lambda: z @ z.mT if z.ndim > 1 else z, lambda: kiln.where(v.mask(y.shape), z, other.reshape(-1)[:1].sum()), lambda: z.flip(0) if z.ndim else z,
        lambda: z.clone().mul_(other), lambda: z.sigmoid(), lambda: z.to(kiln.complex64), lambda: z == z.conj(), lambda: z[..., ::2], lambda: z < z,
        lambda: kiln.cat([z, z.conj()], d) if z.ndim else z, lambda: z.to(kiln.complex128), lambda: kiln.fft.fft(z) if z.ndim else z, lambda: z.square(),
    ])()  # fmt: skip
    if not z.is_complex():
        return z
    return finite(v, q.choice([
        lambda: z.real, lambda: z.imag, lambda: z.abs(), lambda: kiln.view_as_real(z.resolve_conj()), lambda: z.real + z.imag, lambda: z.conj().imag,
    ])())  # fmt: skip
