"""Softmax, norms and cross entropy in eager mode, along rows.

Any number of rows shares kernels; those of softmax and layer norm are the same for any length too (`cpu/rows.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import OpNode
from ..config import config
from ..ops.classification import check_classes, weighed
from ..ops.registry import FUNCTIONS, REGISTRY
from ..tensor import Tensor
from . import gradients, one_call

_LEAST = 1 << 3
"""Elements from where on kernels of cross entropy are quicker than NumPy's passes."""
_FLOATS = (dt.float32.np, dt.float64.np)


@cache
def _kernels(name: str) -> Any:
    """A module of kernels, loaded when it is first needed."""
    return importlib.import_module(f".cpu.{name}", __package__)


def _dense(first: Any, *others: Any) -> bool:
    """Whether arguments are row-major arrays of one floating dtype, the first with elements."""
    return first.__class__ is np.ndarray and first.dtype in _FLOATS and first.size > 0 and all(
        a.__class__ is np.ndarray and a.dtype is first.dtype and a.flags.c_contiguous for a in (first, *others)
    )  # fmt: skip


def bind(native: Callable[[], bool]) -> None:
    """Give softmax, layer norm, cross entropy, their gradients and attention of few queries their routines."""
    _bind_layer_norm(native)
    _bind_norm_grad(native)
    _bind_softmax("softmax", native)
    _bind_softmax("log_softmax", native)
    _bind_cross_entropy(native)
    _bind_attention(native)


class _Ready(dict[Any, Any]):
    """Prepared calls by what they depend on; `make` gives that of a key, None where there is no kernel."""

    def __init__(self, make: Callable[..., Callable | None]):
        super().__init__()
        self.make = make

    def __missing__(self, key: tuple) -> Callable | None:
        if len(self) >= one_call.READY:
            self.clear()
        found = self[key] = self.make(*key)
        return found


def _bind_softmax(name: str, native: Callable[[], bool]) -> None:
    op = REGISTRY[name]
    others = op.eager

    def make(kind: str, shape: tuple, d: np.dtype, dim: Any, isa: str) -> Callable | None:
        along = dim.__class__ is int and bool(shape) and dim in (-1, len(shape) - 1)
        if not along or 0 in shape or d not in _FLOATS or not native():
            return None
        return _kernels("softmax").prepared(kind, shape, d)

    ready, backward = _Ready(make), name + "_grad"

    def run(input: np.ndarray, dim: int, dtype: Any) -> np.ndarray:
        """Along the last dimension."""
        if dtype is None and input.flags.c_contiguous and config.eager == "cpu":
            call = ready[name, input.shape, input.dtype, dim, config.cpu_isa]
            if call is not None:
                return call(input, input)
        return others(input, dim, dtype)

    def gradient(node: OpNode, gs: list) -> list | None:
        _, dim, dtype = node.args
        (g,), y = gs, node.outs[0][0]  # type: ignore[index]
        if dtype is None and _dense(g, y) and y.shape == g.shape and config.eager == "cpu":
            call = ready[backward, g.shape, g.dtype, dim, config.cpu_isa]
            return None if call is None else [call(g, y)]
        return None

    run.least = 0  # type: ignore[attr-defined]
    op.eager, gradients.OWN[name] = run, gradient


def _bind_layer_norm(native: Callable[[], bool]) -> None:
    op = REGISTRY["layer_norm"]
    others = op.eager

    def make(
        shape: tuple, last: tuple, weighted: bool, biased: bool, eps: float, d: np.dtype, isa: str
    ) -> Callable | None:
        k = len(last)
        if not k or shape[-k:] != last or 0 in shape or d not in _FLOATS or not native():
            return None
        return _kernels("layer_norm").prepared(shape, k, weighted, biased, eps, d)

    ready = _Ready(make)

    def run(
        input: np.ndarray, normalized_shape: tuple, weight: Any, bias: Any, eps: float
    ) -> np.ndarray:
        """Over the last dimension or more."""
        d, last = input.dtype, normalized_shape
        if (
            input.flags.c_contiguous and last.__class__ is tuple and config.eager == "cpu"
            and (weight is None or (weight.dtype is d and weight.shape == last and weight.flags.c_contiguous))
            and (bias is None or (bias.dtype is d and bias.shape == last and bias.flags.c_contiguous))
        ):  # fmt: skip
            key = input.shape, last, weight is not None, bias is not None, eps, d, config.cpu_isa
            if (call := ready[key]) is not None:
                return call(input, weight, bias)
        return others(input, normalized_shape, weight, bias, eps)

    def gradient(node: OpNode, gs: list) -> list | None:
        input, normalized_shape, weight, _, eps = node.args
        last, wanted = tuple(normalized_shape), [i for i, _ in node.plan.slots]
        x = input._a if isinstance(input, Tensor) else input
        w = weight._a if isinstance(weight, Tensor) else weight
        k = len(last)
        if (
            (w is None and wanted != [0]) or gs[0].shape != x.shape or not k or x.shape[-k:] != last
            or not _dense(gs[0], x, *([] if w is None else [w])) or (w is not None and w.shape != last)
            or config.eager != "cpu" or not native()
        ):  # fmt: skip
            return None
        found = _kernels("layer_norm").backward(gs[0], x, k, w, eps)
        return [found[{0: 0, 2: 1, 3: 2}[i]] for i in wanted]

    run.least = 0  # type: ignore[attr-defined]
    op.eager, gradients.OWN["layer_norm"] = run, gradient


def _bind_norm_grad(native: Callable[[], bool]) -> None:
    op = REGISTRY["norm_grad"]
    others = op.eager

    def run(grad: np.ndarray, input: np.ndarray, dims: tuple, eps: float) -> np.ndarray:
        """Of norms of trailing dimensions by rows, of a batch norm by shape."""
        n = len(dims)
        if (
            input.size >= one_call.SMALL and 0 < n < input.ndim and dims == tuple(range(input.ndim - n, input.ndim))
            and grad.shape == input.shape and _dense(grad, input) and config.eager == "cpu" and native()
        ):  # fmt: skip
            return _kernels("layer_norm").backward(grad, input, n, None, eps)[0]
        return others(grad, input, dims, eps)

    run.least = one_call.SMALL  # type: ignore[attr-defined]
    op.eager = run


def _takes(input: np.ndarray, target: np.ndarray) -> bool:
    """Whether these are rows of scores, and a class for each."""
    return (
        input.ndim == 2 and input.size >= _LEAST and input.dtype in _FLOATS and input.flags.c_contiguous
        and target.dtype.kind == "i" and target.shape == input.shape[:1] and target.flags.c_contiguous
    )  # fmt: skip


def _shifted(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of each row less the largest, and whether each is the class's."""
    classes = FUNCTIONS["arange"](input.shape[1])
    return input - input.amax(1, True), target.unsqueeze(1) == classes


def _losses(input: Tensor, target: Tensor) -> Tensor:
    x, hot = _shifted(input, target)
    return x.exp().sum(1).log() - FUNCTIONS["where"](hot, x, 0).sum(1)


def _excess(input: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    x, hot = _shifted(input, target)
    e = x.exp()
    p = e * e.sum(1, True).reciprocal()
    return (p - hot.to(p.dtype)) * scale.unsqueeze(1)


def _bind_cross_entropy(native: Callable[[], bool]) -> None:
    loss, excess = REGISTRY["cross_entropy"], REGISTRY["softmax_excess"]
    loss_others, excess_others = loss.eager, excess.eager

    def cross_entropy(
        input: np.ndarray, target: np.ndarray, weight: Any, ignore_index: int, reduction: str
    ) -> Any:
        if _takes(input, target) and (weight is None or weight.dtype is input.dtype):
            valid = check_classes("cross_entropy", target, input.shape[1], ignore_index)
            found = one_call.in_rows("cross_entropy_rows", _losses, (input, target), native)
            if found is not None:
                safe = target if valid is None else np.where(valid, target, 0)
                return weighed(found, valid, safe, weight, reduction)
        return loss_others(input, target, weight, ignore_index, reduction)

    def softmax_excess(scale: np.ndarray, input: np.ndarray, target: np.ndarray) -> np.ndarray:
        if _takes(input, target) and scale.shape == target.shape and scale.dtype is input.dtype:
            given = (input, target, np.ascontiguousarray(scale))
            found = one_call.in_rows("softmax_excess_rows", _excess, given, native)
            if found is not None:
                return found
        return excess_others(scale, input, target)

    loss.eager, excess.eager = cross_entropy, softmax_excess


QUERIES = 16
"""Fewer are those of a decoding step."""
WORK = 1 << 21
"""Products of elements from where on kernels of attention for the shape are worth compiling."""


def _bind_attention(native: Callable[[], bool]) -> None:
    op = REGISTRY["attention"]
    others = op.eager

    def make(
        d: np.dtype, causal: bool, scale: float, isa: str, shapes: tuple, strides: tuple
    ) -> Callable | None:
        (n, h, length, e), (m, groups, keys, f), (*_, v) = shapes
        few = length < QUERIES or n * h * length * e * keys < WORK
        fits = few and m == n == shapes[2][0] and e == f and shapes[2][1:3] == (groups, keys)
        size = d.itemsize
        dense = all(x[-1] == size and not any(s % size for s in x) for x in strides)
        if not fits or not dense or d not in _FLOATS or not n * h * length * e * keys * v:
            return None
        if h % groups or not native():
            return None
        return _kernels("attention_rows").prepared(shapes, strides, causal, scale, d)

    ready = _Ready(make)

    def run(
        query: np.ndarray, key: np.ndarray, value: np.ndarray, attn_mask: Any, is_causal: bool, scale: float
    ) -> Any:  # fmt: skip
        """Without a mask, query by query."""
        d = query.dtype
        if attn_mask is None and d is key.dtype is value.dtype and config.eager == "cpu":
            shapes = query.shape, key.shape, value.shape
            strides = query.strides, key.strides, value.strides
            call = ready[d, is_causal, scale, config.cpu_isa, shapes, strides]
            if call is not None:
                return call(query, key, value)
        return others(query, key, value, attn_mask, is_causal, scale)

    op.eager = run
