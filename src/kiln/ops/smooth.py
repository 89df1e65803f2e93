"""Activations without a bend: silu, gelu, softplus and their kin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import KilnError
from ..shape import Size
from ..tensor import Tensor
from .activation import activation, floating, with_args
from .registry import FUNCTIONS, Sample, composition, op
from .rules import by_body
from .samples import draw, rng, unary
from .selection import where_op


def _np_sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (
        1 + np.exp(-x)
    )  # exp may overflow to infinity: the quotient is then 0, as it should be


def _silu_grad_body(grad: Tensor, input: Tensor) -> Tensor:
    s = 1 / (1 + (-input).exp())
    return grad * (s * (1 + input * (1 - s)))


def _silu_bend_body(grad: Tensor, input: Tensor) -> Tensor:
    s = 1 / (1 + (-input).exp())
    return grad * (s * (1 - s) * (2 + input * (1 - 2 * s)))


@op(private=True, family="elementwise", promote="same", check=False, body=_silu_bend_body,
    grad=by_body(_silu_bend_body, "grad", "input"),
    samples=lambda: iter([Sample((draw(rng(), s), draw(rng(1), s))) for s in ((3, 4), (), (0,))]))  # fmt: skip
def silu_bend(grad: Tensor, input: Tensor) -> Tensor:
    """grad times the second derivative of silu."""
    s = _np_sigmoid(input)
    return grad * (s * (1 - s) * (2 + input * (1 - 2 * s)))


@op(private=True, family="elementwise", promote="same", check=False, body=_silu_grad_body,
    grad={"grad": lambda g, input: silu_grad(g, input), "input": lambda g, grad, input: silu_bend(g * grad, input)},
    samples=lambda: iter([Sample((draw(rng(), s), draw(rng(1), s))) for s in ((3, 4), (), (0,))]))  # fmt: skip
def silu_grad(grad: Tensor, input: Tensor) -> Tensor:
    """The gradient of silu."""
    s = _np_sigmoid(input)
    return grad * (s * (1 + input * (1 - s)))


def _silu_infer(input: Any) -> tuple:
    if not input.dtype.is_complex:
        floating("silu", input)
    return Size(input.shape), input.dtype


def _silu_rule(g: Tensor, input: Tensor) -> Tensor:
    if not input.is_complex():
        return silu_grad(g, input)
    s = input.sigmoid()
    return g * (s * (1 + input * (1 - s))).conj()


def _silu_samples() -> Any:
    yield from with_args()()
    yield Sample((draw(rng(), (3, 4)) + 1j * draw(rng(1), (3, 4), -1.0, 1.0),))


@activation(
    grad={"input": _silu_rule}, samples=_silu_samples, body=lambda input: input / (1 + (-input).exp()), infer=_silu_infer,
)  # fmt: skip
def silu(input: Tensor) -> Tensor:
    """input * sigmoid(input), https://arxiv.org/abs/1702.03118; zero where exp(-input) is infinite."""
    return input / (1 + np.exp(-input))


_SQRT_HALF, _INV_SQRT_2PI = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)
_TANH_A, _TANH_B = math.sqrt(2 / math.pi), 0.044715


def _gelu_body(input: Tensor, approximate: str) -> Tensor:
    if approximate == "tanh":
        return input * 0.5 * ((_TANH_A * (input + _TANH_B * input * input * input)).tanh() + 1)
    return input * 0.5 * ((input * _SQRT_HALF).erf() + 1)


def _gelu_grad_body(grad: Tensor, input: Tensor, approximate: str) -> Tensor:
    if approximate == "tanh":
        t = (_TANH_A * (input + _TANH_B * input * input * input)).tanh()
        inner = _TANH_A * (1 + 3 * _TANH_B * input * input)
        return grad * (0.5 * (1 + t) + 0.5 * input * (1 - t * t) * inner)
    cdf = 0.5 * ((input * _SQRT_HALF).erf() + 1)
    return grad * (cdf + input * ((input * input * -0.5).exp() * _INV_SQRT_2PI))


def _gelu_bend_body(grad: Tensor, input: Tensor, approximate: str) -> Tensor:
    square = input * input
    if approximate == "tanh":
        t = (_TANH_A * (input + _TANH_B * input * square)).tanh()
        inner = _TANH_A * (1 + 3 * _TANH_B * square)
        bend = (1 - t * t) * (inner + input * (3 * _TANH_A * _TANH_B * input - t * inner * inner))
        return grad * bend
    return grad * ((square * -0.5).exp() * _INV_SQRT_2PI * (2 - square))


@op(private=True, family="elementwise", promote="same", check=False, body=_gelu_bend_body,
    grad=by_body(_gelu_bend_body, "grad", "input"),
    samples=lambda: iter([
        Sample((draw(rng(), s), draw(rng(1), s), how))
        for s in ((3, 4), (), (0,)) for how in ("none", "tanh")
    ]))  # fmt: skip
def gelu_bend(grad: Tensor, input: Tensor, approximate: str) -> Tensor:
    """grad times the second derivative of gelu."""
    square = input * input
    if approximate == "tanh":
        t = np.tanh(_TANH_A * (input + _TANH_B * input * square))
        inner = _TANH_A * (1 + 3 * _TANH_B * square)
        bend = (1 - t * t) * (inner + input * (3 * _TANH_A * _TANH_B * input - t * inner * inner))
        return grad * bend
    return grad * (np.exp(square * -0.5) * _INV_SQRT_2PI * (2 - square))


@op(private=True, family="elementwise", promote="same", check=False, body=_gelu_grad_body,
    grad={"grad": lambda g, input, approximate: gelu_grad(g, input, approximate),
          "input": lambda g, grad, input, approximate: gelu_bend(g * grad, input, approximate)},
    samples=lambda: iter([
        Sample((draw(rng(), s), draw(rng(1), s), how))
        for s in ((3, 4), (), (0,)) for how in ("none", "tanh")
    ]))  # fmt: skip
def gelu_grad(grad: Tensor, input: Tensor, approximate: str) -> Tensor:
    """The gradient of gelu."""
    from ._special import erf

    if approximate == "tanh":
        t = np.tanh(_TANH_A * (input + _TANH_B * input * input * input))
        inner = _TANH_A * (1 + 3 * _TANH_B * input * input)
        return grad * (0.5 * (1 + t) + 0.5 * input * (1 - t * t) * inner)
    cdf = 0.5 * (erf(input * _SQRT_HALF) + 1)
    return grad * (cdf + input * (np.exp(input * input * -0.5) * _INV_SQRT_2PI))


def _gelu_infer(input: Any, approximate: str = "none") -> tuple:
    floating("gelu", input)
    if approximate not in ("none", "tanh"):
        raise KilnError("gelu", "approximate must be 'none' or 'tanh'", repr(approximate), "")
    return Size(input.shape), input.dtype


def _gelu_samples() -> Any:
    yield from unary(-4.0, 4.0)()
    yield Sample((draw(rng(), (3, 4)),), {"approximate": "tanh"})
    yield Sample((draw(rng(), (3, 4)),), {"approximate": "erf"}, error=RuntimeError)


@activation(
    flag=False, infer=_gelu_infer, samples=_gelu_samples, body=_gelu_body, out="same",
    grad={"input": lambda g, input, approximate: gelu_grad(g, input, approximate)},
)  # fmt: skip
def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """input * the normal distribution's cdf at input; "tanh" is its well-known approximation."""
    from ._special import erf

    if approximate == "tanh":
        return 0.5 * input * (1 + np.tanh(_TANH_A * (input + _TANH_B * input * input * input)))
    return input * (0.5 * (erf(input * _SQRT_HALF) + 1))


def _softplus_body(input: Tensor, beta: float, threshold: float) -> Tensor:
    z = input * beta
    soft = (z.clamp(min=0) + z.abs().neg().exp().log1p()) / beta
    return where_op(z > threshold, input, soft)


@activation(
    flag=False, samples=with_args((2.0,), (0.5, 1.0)), body=_softplus_body, out="same",
    grad={"input": lambda g, input, beta, threshold: where_op(
        input * beta > threshold, g, g * (input * beta).sigmoid()
    )},
)  # fmt: skip
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * input)) / beta; input itself where beta * input is above `threshold`."""
    z = input * beta
    return np.where(z > threshold, input, np.logaddexp(z, 0) / beta)


def _mish_grad(g: Tensor, input: Tensor) -> Tensor:
    t = softplus(input).tanh()
    return g * (t + input * input.sigmoid() * (1 - t * t))


@activation(grad={"input": _mish_grad}, body=lambda input: input * softplus(input).tanh(),
            samples=with_args())  # fmt: skip
def mish(input: Tensor) -> Tensor:
    """input * tanh(softplus(input)), https://arxiv.org/abs/1908.08681."""
    return input * np.tanh(np.logaddexp(input, 0))


@activation(
    out="same across", node="LogSigmoidBackward0", flag=False, lies="rows", grad={"input": lambda g, input: g * (-input).sigmoid()}, samples=with_args(),
    body=lambda input: input.clamp(max=0) - input.abs().neg().exp().log1p(),
)  # fmt: skip
def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(input))."""
    return np.minimum(input, 0) - np.log1p(np.exp(-np.abs(input)))


def _plain() -> Any:
    yield from (s for s in unary(-4.0, 4.0)() if s.error is None)


@composition(namespace="F", samples=_plain)
def softsign(input: Tensor) -> Tensor:
    """input / (1 + |input|)."""
    return input / (input.abs() + 1)


@composition(namespace="F", samples=_plain)
def tanhshrink(input: Tensor) -> Tensor:
    """input - tanh(input)."""
    return input - input.tanh()


@composition(namespace="F", samples=_plain)
def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return input.tanh()


@composition(namespace="F", samples=_plain)
def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-input))."""
    return input.sigmoid()


FUNCTIONS["nn.functional.logsigmoid"] = logsigmoid
