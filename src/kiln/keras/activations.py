"""Activations by Keras's names: `activations.get("relu")`; functions of tensors, and of symbolic ones in a functional model.

https://keras.io/api/layers/activations/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import KilnValueError, describe
from ..nn import functional as F
from ..tensor import Tensor
from .symbolic import op


@op
def linear(x: Tensor) -> Tensor:
    """x itself."""
    return x


@op
def relu(x: Tensor, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Tensor:  # fmt: skip
    """max(x, 0), with a slope below `threshold` and at most `max_value`."""
    if not negative_slope and max_value is None and not threshold:
        return F.relu(x)
    y = (x >= threshold).where(x, negative_slope * (x - threshold))
    return y if max_value is None else y.clamp(max=max_value)


@op
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """e^x by its sum along `axis`."""
    return x.softmax(axis)


@op
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """The logarithm of softmax."""
    return x.log_softmax(axis)


@op
def gelu(x: Tensor, approximate: bool = False) -> Tensor:
    """x times the normal distribution function of x."""
    return F.gelu(x, approximate="tanh" if approximate else "none")


@op
def leaky_relu(x: Tensor, negative_slope: float = 0.2) -> Tensor:
    """x where it is positive, `negative_slope` times x elsewhere."""
    return F.leaky_relu(x, negative_slope)


@op
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where it is positive, alpha * (e^x - 1) elsewhere."""
    return F.elu(x, alpha)


@op
def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """max(0, x) + min(0, alpha * (e^(x / alpha) - 1))."""
    return F.celu(x, alpha)


@op
def hard_sigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.hardsigmoid(x)


@op
def hard_silu(x: Tensor) -> Tensor:
    """x * hard_sigmoid(x)."""
    return F.hardswish(x)


@op
def glu(x: Tensor, axis: int = -1) -> Tensor:
    """The first half along `axis` times the sigmoid of the second."""
    return F.glu(x, axis)


@op
def hard_shrink(x: Tensor, threshold: float = 0.5) -> Tensor:
    """x, and 0 between -threshold and threshold."""
    return F.hardshrink(x, threshold)


@op
def soft_shrink(x: Tensor, threshold: float = 0.5) -> Tensor:
    """x drawn towards 0 by `threshold`."""
    return F.softshrink(x, threshold)


@op
def threshold(x: Tensor, threshold: float, default_value: float) -> Tensor:
    """x above `threshold`, `default_value` elsewhere."""
    return F.threshold(x, threshold, default_value)


@op
def squareplus(x: Tensor, b: float = 4) -> Tensor:
    """(x + √(x² + b)) / 2."""
    return (x + (x * x + b).sqrt()) / 2


def _plain(name: str, fn: Callable[[Tensor], Tensor], says: str) -> Any:
    def activation(x: Tensor) -> Tensor:
        return fn(x)

    activation.__name__ = activation.__qualname__ = name
    activation.__doc__ = says
    return op(activation)


sigmoid = _plain("sigmoid", lambda x: x.sigmoid(), "1 / (1 + e^-x).")
tanh = _plain("tanh", lambda x: x.tanh(), "The hyperbolic tangent.")
softplus = _plain("softplus", F.softplus, "log(1 + e^x).")
softsign = _plain("softsign", F.softsign, "x / (1 + |x|).")
silu = _plain("silu", F.silu, "x * sigmoid(x).")
mish = _plain("mish", F.mish, "x * tanh(softplus(x)).")
selu = _plain("selu", F.selu, "Scaled exponential linear units.")
relu6 = _plain("relu6", F.relu6, "min(max(x, 0), 6).")
exponential = _plain("exponential", lambda x: x.exp(), "e^x.")
log_sigmoid = _plain("log_sigmoid", F.logsigmoid, "log(sigmoid(x)).")
hard_tanh = _plain("hard_tanh", F.hardtanh, "x between -1 and 1.")
tanh_shrink = _plain("tanh_shrink", F.tanhshrink, "x - tanh(x).")
swish, hard_swish = silu, hard_silu

BY_NAME: dict[str, Callable] = {
    f.__name__: f for f in (
        linear, relu, softmax, log_softmax, gelu, leaky_relu, elu, celu, hard_sigmoid, hard_silu, glu, hard_shrink, soft_shrink,
        threshold, squareplus, sigmoid, tanh, softplus, softsign, silu, mish, selu, relu6, exponential, log_sigmoid, hard_tanh, tanh_shrink,
    )
} | {"swish": silu, "hard_swish": hard_silu}  # fmt: skip


def get(activation: Any) -> Callable:
    """The function that a name stands for; functions as they are, None is `linear`."""
    if activation is None:
        return linear
    if isinstance(activation, str) and activation in BY_NAME:
        return BY_NAME[activation]
    if callable(activation):
        return activation
    raise KilnValueError("activations.get", "no activation has this name", describe(activation), "one of " + ", ".join(BY_NAME))  # fmt: skip


__all__ = [*BY_NAME, "get"]  # pyright: ignore[reportUnsupportedDunderAll]
