"""First values of weights, by Keras's names: `GlorotUniform(seed)(shape, dtype)`, or `get("glorot_uniform")`.

Without a seed they are drawn from Kiln's stream; with one they are the same at every call.

https://keras.io/api/layers/initializers/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.modes import no_grad
from ..nn import init
from ..ops.creation import as_tensor, empty, eye
from ..random import Generator
from ..tensor import Tensor
from .configured import Configured, finder
from .dtypes import to_dtype


class Initializer(Configured):
    """Gives a tensor of a shape: `initializer(shape, dtype)`."""

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Tensor:
        with no_grad():
            out = empty(*shape, dtype=to_dtype(dtype), device="cpu")
            seed = getattr(self, "seed", None)
            return self.fill(out, None if seed is None else Generator().manual_seed(int(seed)))

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        """Write the values."""
        raise NotImplementedError


class Constant(Initializer):
    """One value, or an array of them."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        return out.copy_(as_tensor(self.value))


class Zeros(Initializer):
    """Zeros."""

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        return out.zero_()


class Ones(Initializer):
    """Ones."""

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        return out.fill_(1)


class Identity(Initializer):
    """The unit matrix times `gain`."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        return out.copy_(eye(*out.shape) * self.gain)


class RandomNormal(Initializer):
    """Normal."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean, self.stddev, self.seed = mean, stddev, seed

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        return out.normal_(self.mean, self.stddev, generator=generator)


class RandomUniform(Initializer):
    """Evenly from `minval` to `maxval`."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:  # fmt: skip
        self.minval, self.maxval, self.seed = minval, maxval, seed

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        return out.uniform_(self.minval, self.maxval, generator=generator)


class TruncatedNormal(RandomNormal):
    """Normal, without what is more than two standard deviations from the mean."""

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        s = self.stddev
        return init.trunc_normal_(out, self.mean, s, self.mean - 2 * s, self.mean + 2 * s, generator=generator)  # fmt: skip


class VarianceScaling(Initializer):
    """A variance of `scale` by the number of inputs ("fan_in"), of outputs ("fan_out") or their mean ("fan_avg")."""

    def __init__(
        self, scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal", seed: int | None = None
    ) -> None:  # fmt: skip
        self.scale, self.mode, self.distribution, self.seed = scale, mode, distribution, seed

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        ins, outs = fans(out.shape)
        n = {"fan_in": ins, "fan_out": outs, "fan_avg": (ins + outs) / 2}[self.mode]
        scale = self.scale / max(1.0, n)
        if self.distribution == "uniform":
            limit = math.sqrt(3 * scale)
            return out.uniform_(-limit, limit, generator=generator)
        if self.distribution == "untruncated_normal":
            return out.normal_(0.0, math.sqrt(scale), generator=generator)
        s = math.sqrt(scale) / 0.87962566103423978  # the deviation that is left of 1 when it is cut
        return init.trunc_normal_(out, 0.0, s, -2 * s, 2 * s, generator=generator)


def fans(shape: Sequence[int]) -> tuple[float, float]:
    """How many inputs and outputs weights of Keras's layout have: (…, in, out)."""
    if len(shape) < 2:
        n = shape[0] if shape else 1
        return n, n
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


def _scaled(name: str, scale: float, mode: str, distribution: str, says: str) -> Any:
    class Found(VarianceScaling):
        def __init__(self, seed: int | None = None) -> None:
            super().__init__(scale, mode, distribution, seed)

    Found.__name__ = Found.__qualname__ = name
    Found.__doc__ = says
    return Found


GlorotUniform = _scaled("GlorotUniform", 1.0, "fan_avg", "uniform", "Glorot and Bengio 2010, uniform.")  # fmt: skip
GlorotNormal = _scaled("GlorotNormal", 1.0, "fan_avg", "truncated_normal", "Glorot and Bengio 2010, normal.")  # fmt: skip
HeUniform = _scaled("HeUniform", 2.0, "fan_in", "uniform", "He et al. 2015, uniform.")
HeNormal = _scaled("HeNormal", 2.0, "fan_in", "truncated_normal", "He et al. 2015, normal.")
LecunUniform = _scaled("LecunUniform", 1.0, "fan_in", "uniform", "LeCun et al. 1998, uniform.")
LecunNormal = _scaled("LecunNormal", 1.0, "fan_in", "truncated_normal", "LeCun et al. 1998, normal.")  # fmt: skip


class Orthogonal(Initializer):
    """An orthogonal matrix times `gain`; further dimensions count as rows."""

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain, self.seed = gain, seed

    def fill(self, out: Tensor, generator: Generator | None) -> Tensor:
        rows = math.prod(out.shape[:-1])
        flat = init.orthogonal_(empty(rows, out.shape[-1], dtype=out.dtype), self.gain, generator)
        return out.copy_(flat.reshape(out.shape))


class _Function(Initializer):
    """A function of (shape, dtype)."""

    def __init__(self, fn: Callable) -> None:
        self.fn = fn

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Tensor:
        return as_tensor(self.fn(tuple(shape), dtype=dtype), to_dtype(dtype))


KINDS = (
    Constant, GlorotNormal, GlorotUniform, HeNormal, HeUniform, Identity, LecunNormal, LecunUniform, Ones, Orthogonal, RandomNormal,
    RandomUniform, TruncatedNormal, VarianceScaling, Zeros,
)  # fmt: skip
glorot_normal, glorot_uniform, he_normal, he_uniform = (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
)
lecun_normal, lecun_uniform, orthogonal, constant = LecunNormal, LecunUniform, Orthogonal, Constant
random_normal, random_uniform, truncated_normal, variance_scaling = RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling  # fmt: skip
zeros, ones, identity = Zeros, Ones, Identity
_find = finder(
    Initializer,
    KINDS,
    {"uniform": RandomUniform, "normal": RandomNormal, "one": Ones, "zero": Zeros},
)


def get(initializer: Any) -> Any:
    """The Initializer that a name, a class, a config or a function stands for."""
    if isinstance(initializer, int | float):
        return Constant(initializer)
    if isinstance(initializer, Tensor) or hasattr(initializer, "__array__"):
        return Constant(initializer)
    found = _find(initializer)
    return found if found is None or isinstance(found, Initializer) else _Function(found)


__all__ = [*(c.__name__ for c in KINDS), "Initializer", "get"]  # pyright: ignore[reportUnsupportedDunderAll]
