"""Softmax and its kin."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnNotImplementedError, describe
from ..formats import contiguous_format
from ..shape import Size, norm_dim, numel
from ..tensor import Tensor
from .activation import widen
from .registry import FUNCTIONS, Sample, composition, op
from .samples import draw, rng, strided


def _softmax_infer(name: str) -> Callable:
    def infer(input: Any, dim: int, dtype: Any = None) -> tuple:
        norm_dim(dim, len(input.shape), name)
        d = input.dtype if dtype is None else dt.as_dtype(dtype)
        if d.category != dt.FLOAT:
            raise KilnNotImplementedError(
                name, f"not implemented for {d.name}", describe(input), "convert first: x.float()"
            )
        return Size(input.shape), d

    return infer


def _softmax_samples() -> Any:
    for shape, dim in (
        ((3, 4), 1),
        ((3, 4), 0),
        ((2, 3, 5), -2),
        ((), 0),
        ((0, 3), 1),
        ((3, 0), 1),
        ((3, 0), 0),
    ):
        yield Sample((draw(rng(), shape), dim))
    yield Sample((strided(draw(rng(), (3, 4))), 1))
    yield Sample((np.array([[1e4, 0.0], [-np.inf, 0.0]]), 1), grad=False)
    yield Sample((np.arange(3), 0), {"dtype": dt.float64}, grad=False)
    yield Sample((draw(rng(), (3, 4)), 2), error=IndexError)
    yield Sample((np.arange(3), 0), error=RuntimeError)


def _axis(x: np.ndarray, dim: int) -> int | None:
    return dim if x.ndim else None


def _as_float(x: np.ndarray, dtype: Any) -> np.ndarray:
    return x if dtype is None else x.astype(dt.as_dtype(dtype).np)


def _exp_shifted(x: np.ndarray, axis: int | None) -> np.ndarray:
    """exp(x - max) in new memory: never overflows."""
    e = x - np.maximum.reduce(x, axis=axis, keepdims=True, initial=-np.inf)
    return np.exp(e, out=e if isinstance(e, np.ndarray) else None)


def _shifted(input: Tensor, dim: int, dtype: Any) -> Tensor:
    """The input less its largest value along dim."""
    x = widen(input if dtype is None else input.to(dtype))
    return x - x.amax(dim, True) if numel(x.shape) != 0 else x


def _softmax_body(input: Tensor, dim: int, dtype: Any) -> Tensor:
    e = _shifted(input, dim, dtype).exp()
    return (e * e.sum(dim, True).reciprocal()).to(input.dtype if dtype is None else dtype)


def _log_softmax_body(input: Tensor, dim: int, dtype: Any) -> Tensor:
    x = _shifted(input, dim, dtype)
    return (x - x.exp().sum(dim, True).log()).to(input.dtype if dtype is None else dtype)


def _softmax_grad(g: Tensor, out: Tensor, dim: int) -> Tensor:
    h = g * out
    return h - out * h.sum(dim, True)


def _softmax_quick(g: np.ndarray, out: np.ndarray, dim: int) -> np.ndarray:
    h = g * out
    return h - out * np.add.reduce(h, axis=_axis(h, dim), keepdims=True)


@op(out=True, infer=_softmax_infer("softmax"), samples=_softmax_samples, grad={"input": _softmax_grad},
    quick={"input": _softmax_quick}, body=_softmax_body)  # fmt: skip
def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """exp(input) / sum(exp(input)) along dim; computed in `dtype` if given."""
    x = _as_float(input, dtype)
    e = _exp_shifted(x, _axis(x, dim))
    e /= np.add.reduce(e, axis=_axis(x, dim), keepdims=True)
    return e


@op(out=True, infer=_softmax_infer("log_softmax"), samples=_softmax_samples, body=_log_softmax_body,
    grad={"input": lambda g, out, dim: g - out.exp() * g.sum(dim, True)},
    quick={"input": lambda g, out, dim: g - np.exp(out) * np.add.reduce(g, axis=_axis(g, dim), keepdims=True)})  # fmt: skip
def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """log(softmax(input)) along dim, without overflow."""
    x = _as_float(input, dtype)
    axis = _axis(x, dim)
    x = x - np.maximum.reduce(x, axis=axis, keepdims=True, initial=-np.inf)
    x -= np.log(np.add.reduce(np.exp(x), axis=axis, keepdims=True))
    return x


def _implicit_dim(name: str, input: Tensor, stacklevel: int) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated; pass dim=",
        stacklevel=stacklevel,
    )
    return 0 if input.ndim in (0, 1, 3) else 1


def _functional_softmax(name: str, fn: Any, doc: str) -> None:
    def f(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
        if dim is None:
            dim = _implicit_dim(name, input, _stacklevel)
        return fn(input, dim, dtype)

    f.__name__, f.__doc__ = name, doc
    FUNCTIONS[f"nn.functional.{name}"] = f


_functional_softmax("softmax", softmax, "exp(input) / sum(exp(input)) along dim.")
_functional_softmax("log_softmax", log_softmax, "log(softmax(input)) along dim.")
_functional_softmax(
    "softmin", lambda x, dim, dtype: softmax(-x, dim, dtype), "softmax(-input) along dim."
)


@composition(namespace="F", samples=lambda: iter([]))
def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """A sample from the Gumbel-softmax distribution; `hard` gives one-hot values with soft gradients.

    https://arxiv.org/abs/1611.01144
    """
    from .creation import empty_like

    gumbels = -empty_like(logits, memory_format=contiguous_format).exponential_().log()
    soft = softmax((logits + gumbels) / tau, dim)
    if not hard:
        return soft
    index = soft.detach().argmax(dim, True)
    shape = [1] * soft.ndim
    shape[dim] = soft.shape[dim]
    one = (FUNCTIONS["arange"](soft.shape[dim]).reshape(shape) == index).to(soft.dtype)
    return one - soft.detach() + soft
