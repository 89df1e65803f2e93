"""Ways to fill parameters, in place. Distributions are PyTorch's.

https://docs.pytorch.org/docs/stable/nn.init.html
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from ..autograd.modes import no_grad
from ..errors import KilnValueError, describe
from ..ops.creation import empty_like, from_numpy
from ..tensor import Tensor

_ONE = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
        "conv_transpose3d", "sigmoid")  # fmt: skip


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity wants weights scaled; `param` is leaky_relu's slope."""
    if nonlinearity in _ONE:
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, int | float):
            raise KilnValueError(
                "calculate_gain", f"negative_slope {param} not a valid number", param
            )
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise KilnValueError(
        "calculate_gain", f"Unsupported nonlinearity {nonlinearity}", nonlinearity,
        "one of " + ", ".join((*_ONE, "tanh", "relu", "leaky_relu", "selu")),
    )  # fmt: skip


def _fans(tensor: Tensor, name: str) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise KilnValueError(
            name, "fan in and fan out can not be computed for tensor with fewer than 2 dimensions",
            describe(tensor), "use uniform_ or normal_ for vectors",
        )  # fmt: skip
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    return _fans(tensor, "fan")


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with uniform values from [a, b)."""
    with no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with normally distributed values."""
    with no_grad():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Any = None,
) -> Tensor:
    """Fill with normally distributed values from [a, b]."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.", stacklevel=2,
        )  # fmt: skip

    if tensor.is_meta:
        return tensor
    spread = NormalDist(mean, std)
    with no_grad():
        if spread.cdf(b) - spread.cdf(a) < 0.3:
            return tensor.copy_(_accepted(tensor, mean, std, a, b, generator))
        tensor.normal_(mean, std, generator=generator)
        while bool((outside := (tensor < a) | (tensor > b)).any()):
            tensor.copy_(
                outside.where(tensor.clone().normal_(mean, std, generator=generator), tensor)
            )
        return tensor


def _accepted(like: Tensor, mean: float, std: float, a: float, b: float, generator: Any) -> Tensor:
    """Uniform values from [a, b], each drawn until it is accepted with the density of normal ones."""
    highest = -0.5 * ((min(max(mean, a), b) - mean) / std) ** 2  # the density's logarithm
    out, refused = like, None
    while refused is None or bool(refused.any()):
        x = empty_like(like).uniform_(a, b, generator=generator)
        density = ((x - mean) / std) ** 2 * -0.5 - highest
        again = empty_like(like).uniform_(generator=generator).log() > density
        out = x if refused is None else refused.where(x, out)
        refused = again if refused is None else refused & again
    return out


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(tensor, 0.0)


def _store(tensor: Tensor, values: np.ndarray) -> Tensor:
    with no_grad():
        return tensor.copy_(from_numpy(np.ascontiguousarray(values)))


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity."""
    if tensor.ndim != 2:
        raise KilnValueError(
            "eye_", "only tensors with 2 dimensions are supported", describe(tensor)
        )
    return _store(tensor, np.eye(*tensor.shape, dtype=np.float32))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight so that it keeps as many channels as it can."""
    if tensor.ndim not in (3, 4, 5):
        raise KilnValueError(
            "dirac_", "only tensors with 3, 4, or 5 dimensions are supported", describe(tensor)
        )
    if tensor.shape[0] % groups:
        raise KilnValueError("dirac_", "dim 0 must be divisible by groups", f"groups={groups}")
    values = np.zeros(tensor.shape, np.float32)
    per = tensor.shape[0] // groups
    middle = tuple(s // 2 for s in tensor.shape[2:])
    for g in range(groups):
        for d in range(min(per, tensor.shape[1])):
            values[(g * per + d, d, *middle)] = 1
    return _store(tensor, values)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform with variance 2 / (fan_in + fan_out), times gain (Glorot & Bengio 2010)."""
    fan_in, fan_out = _fans(tensor, "xavier_uniform_")
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / (fan_in + fan_out))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with variance 2 / (fan_in + fan_out), times gain (Glorot & Bengio 2010)."""
    fan_in, fan_out = _fans(tensor, "xavier_normal_")
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / (fan_in + fan_out)), generator)


def _calculate_correct_fan(tensor: Tensor, mode: str, name: str = "fan") -> int:
    modes = ("fan_in", "fan_out")
    if mode.lower() not in modes:
        raise KilnValueError(
            name, f"Mode {mode} not supported, please use one of {list(modes)}", repr(mode)
        )
    return _fans(tensor, name)[modes.index(mode.lower())]


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str, name: str) -> float:
    fan = _calculate_correct_fan(tensor, mode, name)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def _no_elements(tensor: Tensor) -> bool:
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return True
    return False


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Uniform with standard deviation gain / sqrt(fan) (He et al. 2015)."""
    if _no_elements(tensor):
        return tensor
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity, "kaiming_uniform_")
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan) (He et al. 2015)."""
    if _no_elements(tensor):
        return tensor
    return normal_(
        tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity, "kaiming_normal_"), generator
    )


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Fill with a (semi-)orthogonal matrix, dimensions after the first flattened (Saxe et al. 2013)."""
    if tensor.ndim < 2:
        raise KilnValueError(
            "orthogonal_", "only tensors with 2 or more dimensions are supported", describe(tensor)
        )
    if tensor.numel() == 0 or tensor.is_meta:
        return tensor
    rows = tensor.shape[0]
    columns = tensor.numel() // rows
    flat = normal_(tensor.new_empty((rows, columns)), generator=generator).numpy()
    q, r = np.linalg.qr(flat.T if rows < columns else flat)
    q = q * np.sign(np.diag(r))  # makes the distribution uniform (Mezzadri 2007)
    return _store(tensor, ((q.T if rows < columns else q) * gain).reshape(tensor.shape))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal values in a matrix with a fraction of each column set to 0 (Martens 2010)."""
    if tensor.ndim != 2:
        raise KilnValueError(
            "sparse_", "only tensors with 2 dimensions are supported", describe(tensor)
        )
    if tensor.is_meta:
        return tensor
    from .. import randperm

    rows, columns = tensor.shape
    zeros = math.ceil(sparsity * rows)
    normal_(tensor, 0, std, generator)
    keep = np.ones((rows, columns), np.float32)
    for j in range(columns):
        keep[randperm(rows, generator=generator).numpy()[:zeros], j] = 0
    with no_grad():
        return tensor.mul_(from_numpy(keep))


def _deprecated(name: str, fn: Callable) -> Callable:
    def old(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(
            f"`nn.init.{name}` is now deprecated in favor of `nn.init.{name}_`.",
            FutureWarning,
            stacklevel=2,
        )
        return fn(*args, **kwargs)

    old.__name__, old.__doc__ = name, f"The old name of `{name}_`."
    return old


for _name in ("uniform", "normal", "constant", "eye", "dirac", "xavier_uniform", "xavier_normal",
              "kaiming_uniform", "kaiming_normal", "orthogonal", "sparse"):  # fmt: skip
    globals()[_name] = _deprecated(_name, globals()[_name + "_"])
