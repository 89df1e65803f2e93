"""Activations that bend: what is applied to each element between layers, and what all such share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, KilnValueError, describe
from ..formats import contiguous_format
from ..shape import Size, norm_dim
from ..tensor import Tensor
from . import derive
from .drawing import sample_like
from .registry import FUNCTIONS, Sample, composition, op
from .rules import tied
from .samples import draw, rng, unary
from .selection import where_op
from .transcendental import HANDFUL


def floating(name: str, *tensors: Any) -> None:
    """Raise unless each tensor given is floating."""
    for x in tensors:
        if x is not None and x.dtype.category != dt.FLOAT:
            raise KilnNotImplementedError(
                name, f"not implemented for {x.dtype.name}", describe(x), "convert first: x.float()"
            )


def widen(x: Any) -> Any:
    """A half tensor as float32: bodies compute in the precision in which references do."""
    return x.float() if x.dtype in (dt.float16, dt.bfloat16) else x


def _flagged(fn: Any) -> Callable:
    """The function with PyTorch's `inplace` flag as its last parameter."""
    f = derive.form(fn.op, inplace=False)
    body = f"return _inplace(_op, {f.call}) if inplace else _op.fn{f.call}"
    return derive.generated(fn.op, f"def f({f.sig}):\n    {body}\n", f)


def activation(*, store: bool = False, flag: bool = True, **facts: Any) -> Callable:
    """An elementwise op of floats in `nn.functional`; `store` adds `name_`, `flag` the `inplace` flag."""

    def register(reference: Any) -> Callable:
        name = reference.__name__

        def infer(input: Any, *rest: Any) -> tuple:
            floating(name, input)
            return Size(input.shape), input.dtype

        facts.setdefault("infer", infer)
        facts.setdefault("samples", unary(-4.0, 4.0))
        fn = op(family="elementwise", promote="same", namespace="F", **facts)(reference)
        if flag:
            FUNCTIONS[f"nn.functional.{name}"] = _flagged(fn)
        if store:
            FUNCTIONS[f"nn.functional.{name}_"] = derive.inplace_function(fn.op)
        return fn

    return register


def with_args(
    *argses: tuple, away: float | None = None, low: float = -4.0, high: float = 4.0
) -> Any:
    """Unary samples followed by some with attributes."""

    def samples() -> Any:
        yield from unary(low, high, away)()
        for args in argses:
            yield Sample((draw(rng(7), (3, 4), low, high, away), *args))
        yield Sample((np.arange(3),), error=RuntimeError)

    return samples


# ---------------------------------------------------------------- relu and its kin


def mask_bits(g: np.ndarray, drop: np.ndarray) -> np.ndarray:
    """g with 0 where `drop` holds: far quicker than `numpy.where`, and NaN and infinity go too."""
    kind = np.dtype(f"i{g.dtype.itemsize}")
    mask = drop.astype(kind)
    np.subtract(mask, 1, out=mask)
    return np.bitwise_and(np.ascontiguousarray(g).view(kind), mask).view(g.dtype).reshape(g.shape)


def _short_relu_grad(grad: np.ndarray, result: Any) -> np.ndarray:
    op = relu_grad.op
    return op.reference(grad, result) if grad.size < 4096 else op.eager(grad, result)


@op(
    private=True, family="elementwise", promote="same", check=False, short=_short_relu_grad, native="f",
    grad={"grad": lambda g, result: relu_grad(g, result)}, quick={"grad": lambda g, result: relu_grad.op.reference(g, result)},
    body=lambda grad, result: where_op(result <= 0, 0, grad),
    samples=lambda: iter([
        Sample((draw(rng(), s), np.asarray(np.maximum(draw(rng(1), s), 0)))) for s in ((3, 4), (), (0,))
    ]),
)  # fmt: skip
def relu_grad(grad: Tensor, result: Tensor) -> Tensor:
    """grad where result is above 0 (or NaN), 0 elsewhere."""
    d = grad.dtype
    if grad.size > 2048 and d.kind == "f" and grad.shape == result.shape:
        return mask_bits(grad, result <= 0)
    zero = _ZEROS.get(d, 0)
    return np.where(result <= zero, zero, grad)


def _relu_infer(input: Any) -> tuple:
    if input.dtype.category in (dt.BOOL, dt.COMPLEX):
        kind = KilnNotImplementedError if input.dtype.is_complex else KilnError
        raise kind("relu", f"not defined for {input.dtype.name}", describe(input), "x.float()")
    return Size(input.shape), input.dtype


def _above_zero(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    # zero first, as NumPy gives the second of equal operands: -0 stays -0
    n = x.size
    if n >= 4096 and x.dtype is _F32 and x.flags.c_contiguous and (out is None or out is x):
        out = np.empty(x.shape, _F32) if out is None else out
        flat, into = x.reshape(-1), out.reshape(-1)
        # NumPy takes two arrays five times as fast as a number and one
        for at in range(0, n, _MANY.size):
            part = flat[at : at + _MANY.size]
            np.maximum(_MANY[: part.size], part, out=into[at : at + part.size])
        return out
    zero = _ZEROS[x.dtype]
    return np.maximum(zero, x) if out is None else np.maximum(zero, x, out=out)


_F32 = dt.float32.np
_MANY = np.zeros(1 << 14, _F32)
_ZEROS = {
    d.np: np.zeros((), d.np) for d in dt.ALL
}  # a 0-d array costs a ufunc less than a Python 0


@op(
    family="elementwise", promote="same", ufunc=_above_zero, native="fiu", inplace=True,
    infer=_relu_infer, check=False, formal=("input",), grad={"input": lambda g, out: relu_grad(g, out.detach())},
    quick={"input": lambda g, out: relu_grad.op.reference(g, out)},
    body=lambda input: where_op(input < 0, 0, input), samples=unary(away=2.0),
)  # fmt: skip
def relu(input: Tensor) -> Tensor:
    """max(input, 0)."""
    if input.dtype.kind in "bc":
        raise TypeError
    return _above_zero(input)


_relu_in_place = FUNCTIONS["relu_"]


def _f_relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0)."""
    return _relu_in_place(input) if inplace else relu(input)


_f_relu.__name__ = "relu"
FUNCTIONS["nn.functional.relu"] = _f_relu
FUNCTIONS["nn.functional.relu_"] = _relu_in_place


def _between(g: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    return where_op((x > low) & (x < high), g, 0)


def _hardtanh_infer(input: Any, min_val: Any = -1.0, max_val: Any = 1.0) -> tuple:
    if input.dtype.category in (dt.BOOL, dt.COMPLEX):
        raise KilnError(
            "hardtanh", f"not defined for {input.dtype.name}", describe(input), "x.float()"
        )
    if min_val > max_val:
        raise KilnValueError(
            "hardtanh", "min_val cannot be greater than max_val", (min_val, max_val), "swap them"
        )
    return Size(input.shape), input.dtype


@activation(
    formal=("input",), store=True, infer=_hardtanh_infer,
    grad={"input": lambda g, input, min_val, max_val: _between(g, input, min_val, max_val)},
    body=lambda input, min_val, max_val: input.clamp(min_val, max_val),
    samples=lambda: iter([
        *unary(away=1.0)(), Sample((draw(rng(7), (3, 4)), -0.5, 0.75)),
        Sample((draw(rng(7), (3, 4)), 1.0, -1.0), error=ValueError),
    ]),
)  # fmt: skip
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """input clamped to [min_val, max_val]."""
    kind = input.dtype.type
    return np.clip(input, kind(min_val), kind(max_val))


@composition(
    namespace="F",
    samples=lambda: iter([Sample((draw(rng(), (3, 4), -3, 9),)), Sample((draw(rng(), ()),))]),
)
def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(input, 0), 6)."""
    return FUNCTIONS["nn.functional.hardtanh"](input, 0.0, 6.0, inplace)


@op(
    private=True, family="elementwise", promote="same", check=False,
    grad={"grad": lambda g, input, negative_slope: leaky_relu_grad(g, input, negative_slope)},
    quick={"grad": lambda g, input, negative_slope: leaky_relu_grad.op.reference(g, input, negative_slope)},
    body=lambda grad, input, negative_slope: where_op(input > 0, grad, grad * negative_slope),
    samples=lambda: iter([Sample((draw(rng(), s), draw(rng(1), s, away=8.0), 0.2)) for s in ((3, 4), (), (0,))]),
)  # fmt: skip
def leaky_relu_grad(grad: Tensor, input: Tensor, negative_slope: float) -> Tensor:
    """The gradient of leaky_relu."""
    return np.where(input > _ZEROS.get(input.dtype, 0), grad, grad * negative_slope)


@activation(
    formal=("input",), store=True, samples=with_args((0.2,), (-0.5,), away=8.0),
    grad={"input": lambda g, input, negative_slope: leaky_relu_grad(g, input.detach(), negative_slope)},
    quick={"input": lambda g, input, negative_slope: leaky_relu_grad.op.reference(g, input, negative_slope)},
    body=lambda input, negative_slope: where_op(input > 0, input, input * negative_slope),
)  # fmt: skip
def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """input where positive, negative_slope * input elsewhere."""
    if 0 <= negative_slope <= 1:
        return np.maximum(input, input * negative_slope)
    return np.where(input > 0, input, input * negative_slope)


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (3, 4), away=4.0),)), Sample((draw(rng(), (3, 4), away=4.0), 0.1, 0.5)),
    Sample((draw(rng(), (3, 4)), 0.3, 0.1), error=RuntimeError),
]))  # fmt: skip
def rrelu(
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """leaky_relu with a slope drawn from [lower, upper) for each element, or their mean outside training."""
    if lower > upper:
        raise KilnError(
            "rrelu",
            "Lower bound should be less than or equal to the upper bound",
            (lower, upper),
            "swap them",
        )
    if not training:
        x = input if inplace else input.contiguous()
        return FUNCTIONS["nn.functional.leaky_relu"](x, (lower + upper) / 2, inplace)
    x = input.clone(memory_format=contiguous_format) if inplace else input.contiguous()
    slope = sample_like(x, None, "slopes", lower, upper, parameters=[x.detach()])
    r = tied(where_op(x > 0, x, x * slope), "RreluWithNoise", input)
    return input.copy_(r) if inplace else r


def rrelu_(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Tensor:
    """In-place form of `rrelu`."""
    return rrelu(input, lower, upper, training, True)


FUNCTIONS["nn.functional.rrelu_"] = rrelu_


# Note [Slopes by inputs]
# The gradient of elu and selu is an op whose own gradients are it again, with 0 above the kink: programs for
# differential equations differentiate activations twice and more, at each step.


def _exponential(x: np.ndarray, alpha: float) -> np.ndarray:
    """x where positive, alpha * (exp(x) - 1) elsewhere."""
    zero = _ZEROS[x.dtype]
    out = np.asarray(np.minimum(x, zero))
    np.expm1(out, out)
    if alpha != 1:
        np.multiply(out, alpha, out)
    np.copyto(out, x, where=x >= zero)  # the sign of -0 too
    return out


def _elu_slope(grad: np.ndarray, input: np.ndarray, alpha: float, above: float) -> np.ndarray:
    op = elu_grad.op
    few = input.size < HANDFUL and grad.shape == input.shape and grad.dtype is input.dtype
    return (op.reference if few else op.eager)(grad, input, alpha, above)


@op(
    private=True, family="elementwise", promote="same", check=False,
    grad={"grad": lambda g, input, alpha, above: elu_grad(g, input, alpha, above),
          "input": lambda g, grad, input, alpha: elu_grad(g * grad, input, alpha, 0.0)},
    quick={"grad": lambda g, input, alpha, above: _elu_slope(g, input, alpha, above),
           "input": lambda g, grad, input, alpha: _elu_slope(g * grad, input, alpha, 0.0)},
    body=lambda grad, input, alpha, above: where_op(
        input <= 0, grad * (input.clamp(max=0).exp() * alpha), grad * above
    ),
    samples=lambda: iter([
        Sample((draw(rng(), s), draw(rng(1), s, away=8.0), 0.5, above))
        for s, above in (((3, 4), 1.0), ((3, 4), 0.0), ((), 1.5), ((0,), 1.0))
    ]),
)  # fmt: skip
def elu_grad(grad: Tensor, input: Tensor, alpha: float, above: float) -> Tensor:
    """grad times alpha * exp(input) where input is not positive, times `above` elsewhere."""
    zero = _ZEROS[input.dtype]
    out = np.asarray(np.minimum(input, zero))
    np.exp(out, out)
    if alpha != 1:
        np.multiply(out, alpha, out)
    np.copyto(out, above, where=np.logical_not(input <= zero))
    return np.multiply(grad, out)


@activation(
    store=True, samples=with_args((0.5,), away=8.0),
    grad={"input": lambda g, input, alpha: elu_grad(g, input, alpha, 1.0)},
    quick={"input": lambda g, input, alpha: _elu_slope(g, input, alpha, 1.0)},
    body=lambda input, alpha: where_op(input >= 0, input, input.clamp(max=0).expm1() * alpha),
)  # fmt: skip
def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """input where positive, alpha * (exp(input) - 1) elsewhere."""
    return _exponential(input, alpha)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@activation(
    store=True, node="EluBackward0", samples=with_args(away=8.0),
    grad={"input": lambda g, input: elu_grad(g, input, _SELU_SCALE * _SELU_ALPHA, _SELU_SCALE)},
    quick={"input": lambda g, input: _elu_slope(g, input, _SELU_SCALE * _SELU_ALPHA, _SELU_SCALE)},
    body=lambda input: where_op(
        input >= 0, input * _SELU_SCALE, input.clamp(max=0).expm1() * (_SELU_SCALE * _SELU_ALPHA)
    ),
)  # fmt: skip
def selu(input: Tensor) -> Tensor:
    """The self-normalising elu: scale * elu(input, alpha), https://arxiv.org/abs/1706.02515."""
    return _exponential(input, _SELU_ALPHA) * _SELU_SCALE


@activation(
    store=True, samples=with_args((0.5,), (2.0,), away=8.0),
    grad={"input": lambda g, input, alpha: where_op(input <= 0, g * (input.clamp(max=0) / alpha).exp(), g)},
    body=lambda input, alpha: where_op(input >= 0, input, (input.clamp(max=0) / alpha).expm1() * alpha),
)  # fmt: skip
def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """max(0, input) + min(0, alpha * (exp(input / alpha) - 1)), smooth at 0 for every alpha."""
    return np.where(input >= 0, input, np.expm1(np.minimum(input, 0) / alpha) * alpha)


def _threshold_infer(input: Any, threshold: Any, value: Any) -> tuple:
    if input.dtype.category in (dt.BOOL, dt.COMPLEX):
        raise KilnNotImplementedError(
            "threshold", f"not implemented for {input.dtype.name}", describe(input), "x.float()"
        )
    return Size(input.shape), input.dtype


@activation(out=True,
    formal=("input",), store=True, infer=_threshold_infer,
    samples=lambda: iter([*(Sample((*s.args, 0.5, 2.0), s.kwargs, s.error) for s in unary(away=2.0)())]),
    grad={"input": lambda g, input, threshold: where_op(input <= threshold, 0, g)},
    body=lambda input, threshold, value: where_op(input <= threshold, value, input).to(input.dtype),
)  # fmt: skip
def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """`value` up to `threshold`, input above it and where it is NaN."""
    return np.where(input <= threshold, input.dtype.type(value), input)


@activation(out="same",
    formal=("input",), flag=False, samples=with_args((1.0,), away=1.0, low=-1.9, high=1.9),
    grad={"input": lambda g, input, lambd: where_op((input > lambd) | (input < -lambd), g, 0)},
    body=lambda input, lambd: where_op((input <= lambd) & (input >= -lambd), 0, input),
)  # fmt: skip
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """input outside [-lambd, lambd], 0 inside."""
    return np.where((input <= lambd) & (input >= -lambd), input.dtype.type(0), input)


@activation(out="same",
    formal=("input",), flag=False, samples=with_args((1.0,), away=1.0, low=-1.9, high=1.9),
    grad={"input": lambda g, input, lambd: where_op((input > lambd) | (input < -lambd), g, 0)},
    body=lambda input, lambd: where_op(
        input > lambd, input - lambd, where_op(input < -lambd, input + lambd, input * 0)
    ),
)  # fmt: skip
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """input moved towards 0 by lambd, 0 inside [-lambd, lambd]."""
    if lambd < 0:
        raise KilnError("softshrink", "lambd must be at least 0", lambd, "pass its magnitude")
    return np.where(
        input > lambd, input - lambd, np.where(input < -lambd, input + lambd, input * 0)
    )


@activation(
    store=False, samples=with_args(away=3.0),
    grad={"input": lambda g, input: where_op((input > -3) & (input < 3), g * (1 / 6), 0)},
    body=lambda input: (input + 3).clamp(0, 6) / 6,
)  # fmt: skip
def hardsigmoid(input: Tensor) -> Tensor:
    """clamp(input + 3, 0, 6) / 6."""
    return np.clip(input + 3, 0, 6) / 6


@activation(
    store=False, samples=with_args(away=3.0),
    grad={"input": lambda g, input: where_op(
        input <= -3, 0, where_op(input < 3, g * (input / 3 + 0.5), g)
    )},
    body=lambda input: input * (input + 3).clamp(0, 6) / 6,
)  # fmt: skip
def hardswish(input: Tensor) -> Tensor:
    """input * clamp(input + 3, 0, 6) / 6, https://arxiv.org/abs/1905.02244."""
    return input * np.clip(input + 3, 0, 6) / 6


# ---------------------------------------------------------------- slopes by channel, gates


def _prelu_infer(input: Any, weight: Any) -> tuple:
    floating("prelu", input)
    n = weight.shape[0] if len(weight.shape) else 1
    if len(weight.shape) > 1:
        raise KilnError(
            "prelu", "weight must be a 0-d or 1-d tensor", describe(weight), "flatten it"
        )
    if n != 1:
        channels = input.shape[1] if len(input.shape) > 1 else 1
        if len(input.shape) == 0 or channels != n:
            raise KilnError(
                "prelu", f"input has {channels} channels and weight {n} values",
                f"input={describe(input)}, weight={describe(weight)}", "one weight, or one for each channel",
            )  # fmt: skip
    if input.dtype is not weight.dtype:
        raise KilnError(
            "prelu", "input and weight must have the same dtype",
            f"input={describe(input)}, weight={describe(weight)}", "convert one of them",
        )  # fmt: skip
    return Size(input.shape), input.dtype


def _prelu_samples() -> Any:
    for shape, n in (
        ((3, 4), (4,)),
        ((2, 3, 5), (3,)),
        ((3, 4), (1,)),
        ((5,), (1,)),
        ((), ()),
        ((0, 2), (2,)),
    ):
        yield Sample((draw(rng(), shape, away=4.0), draw(rng(1), n, 0.1, 0.5)))
    yield Sample((draw(rng(), (3, 4)), draw(rng(1), (3,))), error=RuntimeError)


def _along_channels(input: Any, weight: Any) -> Any:
    """A per-channel vector shaped to broadcast along dimension 1."""
    if len(weight.shape) == 0 or len(input.shape) < 2:
        return weight
    return weight.reshape((1, weight.shape[0]) + (1,) * (len(input.shape) - 2))


def _prelu_rule(g: Tensor, input: Tensor, weight: Tensor, needs: tuple) -> tuple:
    positive = input > 0
    gx = where_op(positive, g, g * _along_channels(input, weight)) if needs[0] else None
    gw = None
    if needs[1]:
        gw = where_op(positive, 0, g * input)
        dims = tuple(i for i in range(gw.ndim) if i != 1)
        gw = (gw.sum(dims) if gw.ndim > 1 and weight.numel() != 1 else gw.sum()).reshape(
            weight.shape
        )
    return gx, gw


@op(formal=("input", "weight"), node="PreluKernelBackward0", lies="operands", infer=_prelu_infer, samples=_prelu_samples, grad={("input", "weight"): _prelu_rule},
    body=lambda input, weight: where_op(input > 0, input, _along_channels(input, weight) * input))  # fmt: skip
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """input where positive, weight * input elsewhere; one weight, or one for each channel (dimension 1)."""
    w = _along_channels(input, weight)
    return np.where(input > 0, input, (w * input).reshape(input.shape))


FUNCTIONS["nn.functional.prelu"] = prelu
for _fn, _stored in ((selu, True), (celu, True), (threshold, True), (hardshrink, False)):
    FUNCTIONS[_fn.op.name] = _fn
    if _stored:
        FUNCTIONS[_fn.op.name + "_"] = FUNCTIONS[f"nn.functional.{_fn.op.name}_"]
Tensor.hardshrink = hardshrink  # type: ignore[attr-defined]


@composition(fused="rounded", namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (4, 3, 2)), 0)),
    Sample((draw(rng(), (3, 5)),), error=RuntimeError), Sample((draw(rng(), (3, 4)), 2), error=IndexError),
]))  # fmt: skip
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b) for the two halves a, b of input along dim."""
    if input.ndim == 0:
        raise KilnError("glu", "not defined for 0-d tensors", describe(input), "unsqueeze it")
    n = input.shape[norm_dim(dim, input.ndim, "glu")]
    if n % 2:
        raise KilnError("glu", "halving dimension must be even", f"dim={dim} has size {n}", "")
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()
