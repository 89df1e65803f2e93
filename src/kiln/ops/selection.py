"""Selection: elements chosen by a condition, by size or by range."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnTypeError
from ..shape import broadcast_shapes
from ..tensor import Tensor
from .arithmetic import elementwise, only
from .registry import Operand, Sample, composition, op
from .samples import binary, draw, rng
from .storing import store_out

# ---------------------------------------------------------------- by a condition


def _where_infer(condition: Any, input: Any, other: Any) -> tuple:
    if getattr(condition, "dtype", None) not in (dt.bool_, dt.uint8):
        raise KilnError(
            "where", "the condition must be a bool tensor", condition, "compare first: x > 0"
        )
    shapes = [getattr(x, "shape", ()) for x in (condition, input, other)]
    return broadcast_shapes(*shapes, op="where"), dt.result_type(input, other)


_F32, _F64 = dt.float32.np, dt.float64.np


def _where_run(condition: Any, input: Any, other: Any) -> Any:
    d = getattr(input, "dtype", None)
    if (d is not _F32 and d is not _F64) or (
        other.__class__ not in (float, int) and getattr(other, "dtype", None) is not d
    ):
        d = dt.result_type(input, other).np
    if condition.dtype != np.bool_:
        if condition.dtype != np.uint8:
            _where_infer(condition, input, other)
        condition = condition != 0
    return np.where(condition, np.asarray(input, d), np.asarray(other, d))


def _where_samples() -> Any:
    r = rng(5)
    for sc, s1, s2 in (
        ((3, 4), (3, 4), (3, 4)),
        ((4,), (3, 1), ()),
        ((), (2,), (2,)),
        ((0, 2), (2,), ()),
    ):
        yield Sample((np.asarray(r.random(sc) > 0.5), draw(r, s1), draw(r, s2)))
    yield Sample((r.random((3,)) > 0.5, draw(r, (3,)), 0.5))
    yield Sample((draw(r, (3,)), draw(r, (3,)), draw(r, (3,))), error=RuntimeError)
    yield Sample((r.random((3,)) > 0.5, draw(r, (4,)), draw(r, (3,))), error=RuntimeError)


@op(
    name="where", family="select", scalar="where", check=False, exact=True, method=False,
    infer=_where_infer, samples=_where_samples, private=True,
    grad={
        "input": lambda g, condition: where_op(condition, g, g.new_zeros(())),
        "other": lambda g, condition: where_op(condition, g.new_zeros(()), g),
    },
    quick={
        "input": lambda g, condition: np.where(condition, g, g.dtype.type(0)),
        "other": lambda g, condition: np.where(condition, g.dtype.type(0), g),
    },
)  # fmt: skip
def where_op(condition: Tensor, input: Operand, other: Operand) -> Tensor:
    """input where condition holds, other elsewhere; the three broadcast."""
    return _where_run(condition, input, other)


@composition(method=False)
def where(condition: Tensor, input: Any = None, other: Any = None, *, out: Any = None) -> Any:
    """input where condition holds, other elsewhere; with the condition alone, `nonzero(as_tuple=True)`."""
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if not isinstance(condition, Tensor):
        raise KilnTypeError(
            "where", "the condition must be a Tensor", condition, "compare first: x > 0"
        )
    r = where_op(condition, input, other)
    for x in (input, other):
        if not isinstance(x, Tensor):
            dt.element(x, r.dtype, "where")
    return store_out(where_op.op, r, out)


def _tensor_where(self: Tensor, condition: Any, other: Any = None) -> Tensor:
    """`x.where(condition, other)` as PyTorch has it; a bool tensor may also select: `c.where(a, b)`."""
    if isinstance(condition, Tensor) and condition.dtype is dt.bool_ and other is not None:
        return where_op(condition, self, other)
    return where_op(self, condition, other)


Tensor.where = _tensor_where  # type: ignore[attr-defined]


# ---------------------------------------------------------------- by size


def _extreme_grad(loses: str) -> Any:
    """To both where either is NaN."""

    def share(g: Tensor, x: Any, y: Any) -> Tensor:
        return getattr(x, loses)(y).where(g.new_zeros(()), (x == y).where(g * 0.5, g))

    return {
        "input": lambda g, input, other: share(g, _as_tensor(input, g), other),
        "other": lambda g, input, other: share(g, _as_tensor(other, g), input),
    }


def _as_tensor(x: Any, like: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else like.new_tensor(x)


@elementwise(ufunc=np.maximum, scalar="maximum", infer=only("maximum", dt.BOOL, dt.FLOAT), out=True, grad=_extreme_grad("lt"),
             samples=binary(away2=0.25, low=-1.9, low2=-2.0, scalar=None))  # fmt: skip
def maximum(input: Tensor, other: Tensor) -> Tensor:
    """The larger of each pair; NaN wins. At ties the gradient is shared equally."""
    return np.maximum(input, other)


@elementwise(ufunc=np.minimum, scalar="minimum", infer=only("minimum", dt.BOOL, dt.FLOAT), out=True, grad=_extreme_grad("gt"),
             samples=binary(away2=0.25, low=-1.9, low2=-2.0, scalar=None))  # fmt: skip
def minimum(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of each pair; NaN wins. At ties the gradient is shared equally."""
    return np.minimum(input, other)


# ---------------------------------------------------------------- by range


def _clamp_infer(input: Any, min: Any = None, max: Any = None) -> tuple:
    if min is None and max is None:
        raise KilnError("clamp", "at least one of min and max must be given", "None, None", "")
    xs = [x for x in (input, min, max) if x is not None]
    d = dt.result_type(*xs)
    if d.is_complex:
        raise KilnError("clamp", "not defined for complex tensors", d.name, "clamp x.real, x.imag")
    for x in xs:
        if not hasattr(x, "shape"):
            dt.element(x, d, "clamp")
    return broadcast_shapes(*[getattr(x, "shape", ()) for x in xs], op="clamp"), d


def _clamp_mask(input: Any, min: Any, max: Any) -> Any:
    keep = None
    if min is not None:
        keep = input >= min
    if max is not None:
        keep = (input <= max) if keep is None else keep & (input <= max)
    return keep


def _clamp_body(input: Tensor, min: Any, max: Any) -> Tensor:
    if min is not None:
        input = maximum(input, min)
    return input if max is None else minimum(input, max)


def _clamp_samples() -> Any:
    r = rng(6)
    for shape in ((3, 4), (), (0,), (2, 3, 2)):
        yield Sample((draw(r, shape, away=1.0), -0.95, 0.95))
        yield Sample((draw(r, shape, away=1.0), -0.95))
        yield Sample((draw(r, shape, away=1.0),), {"max": 0.95})
    yield Sample((draw(r, (3, 4), away=1.0), draw(r, (4,), -2, -1.5), draw(r, (3, 1), 1.5, 2)))
    yield Sample((draw(r, (3,)),), error=RuntimeError)


@elementwise(
    node="ClampBackward1", inplace=True, out=True, aliases=("clip",), infer=_clamp_infer, samples=_clamp_samples, body=_clamp_body,
    grad={
        "input": lambda g, input, min, max: where_op(_clamp_mask(input, min, max), g, g.new_zeros(())),
        "min": lambda g, input, min, max: where_op(
            (input < min) if max is None else (input < min) & (_as_tensor(min, g) < max), g, g.new_zeros(())
        ),
        "max": lambda g, input, min, max: where_op(
            (input > max) if min is None else (input > max) | (_as_tensor(max, g) < min), g, g.new_zeros(())
        ),
    },
    quick={"input": lambda g, input, min, max: np.where(_clamp_mask(input, min, max), g, g.dtype.type(0))},
)  # fmt: skip
def clamp(input: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """Each element moved into [min, max]; NaN stays. Where min > max the result is max."""
    if min is None and max is None:
        _clamp_infer(input)
    x = input  # last, as NumPy gives the second of equal operands: -0 within [0, 1] stays -0
    if min is not None:
        x = np.maximum(min, x)
    return x if max is None else np.minimum(max, x)


@composition(
    out="cast", inplace=True, samples=lambda: iter([Sample((draw(rng(), (3, 4), away=1.0), -0.5))])
)
def clamp_min(input: Tensor, min: Operand) -> Tensor:
    """clamp(input, min=min)."""
    return clamp(input, min)


@composition(
    out="cast", inplace=True, samples=lambda: iter([Sample((draw(rng(), (3, 4), away=1.0), 0.5))])
)
def clamp_max(input: Tensor, max: Operand) -> Tensor:
    """clamp(input, max=max)."""
    return clamp(input, None, max)


def _nan_limits(input: Any, nan: Any, posinf: Any, neginf: Any) -> tuple:
    d = input.dtype if isinstance(input.dtype, dt.dtype) else dt.OF_NUMPY[input.dtype]
    info = dt.finfo(d) if d.category >= dt.FLOAT else None
    if info is None:
        return 0, 0, 0
    return (0.0 if nan is None else nan, info.max if posinf is None else posinf,
            info.min if neginf is None else neginf)  # fmt: skip


def _nan_to_num_body(input: Tensor, nan: Any, posinf: Any, neginf: Any) -> Tensor:
    if input.dtype.category < dt.FLOAT:
        return input.clone()
    n, p, m = _nan_limits(input, nan, posinf, neginf)
    x = where_op(input.isnan(), n, input)
    x = where_op(x == float("inf"), p, x)
    return where_op(x == float("-inf"), m, x)


@elementwise(
    inplace=True, out="same", exact=True, body=_nan_to_num_body,
    grad={"input": lambda g, input: g * input.isfinite()},  # NaN that arrives goes on
    samples=lambda: iter([
        Sample((np.array([1.0, np.nan, np.inf, -np.inf]),), grad=False),
        Sample((np.array([1.0, np.nan, np.inf, -np.inf]), 2.0, 3.0, 4.0), grad=False),
        Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (0,)),)),
        Sample((np.array([True, False]),), grad=False), Sample((np.array([3, -1], np.int8),), grad=False),
    ]),
)  # fmt: skip
def nan_to_num(input: Tensor, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Tensor:
    """NaN and infinities replaced by numbers: 0 and the largest finite ones by default."""
    if input.dtype.kind in "iub":
        return input.copy()
    n, p, m = _nan_limits(input, nan, posinf, neginf)
    if input.dtype.kind == "c":
        return np.nan_to_num(input, nan=n, posinf=p, neginf=m)
    x = np.where(np.isnan(input), input.dtype.type(n), input)
    return np.where(np.isinf(x), np.where(x > 0, input.dtype.type(p), input.dtype.type(m)), x)
