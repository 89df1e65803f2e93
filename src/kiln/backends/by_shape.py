"""Ops whose large calls run as Programs of their own in eager mode, one for each shape: convolutions, pooling, attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import OpNode
from ..config import config
from ..ops.convolution import conv_out, correlated, matched, spread
from ..ops.registry import REGISTRY
from ..ops.windows import scatters
from ..tensor import Tensor
from . import gradients, one_call, operands, rows
from .products import matmul
from .routines import native

_F16, _BF16 = dt.float16.np, dt.bfloat16.np
_F32, _F64 = dt.float32.np, dt.float64.np


ANY_SIZE: dict[str, Callable] = {}
"""By op, what takes calls of any size where the reference's products would be NumPy's."""


WORK: dict[str, tuple[Callable[..., int], int]] = {}
"""By op, what a call costs (by shapes alone) and from where on a Program of its own is worth compiling."""


def by_shape(
    name: str, least: int, weight: int | None = None, sizes: Sequence[int] = (),
    products: Callable[..., int] | None = None,
) -> Callable[[Callable[..., int]], Callable[..., int]]:  # fmt: skip
    """Have eager mode run an op's calls as Programs of their own from so much work on.

    `weight` and `sizes` are what `one_call.alike` is told; `products` is what a call costs, where that takes longer to say.
    """
    op = REGISTRY[name]
    call = one_call.calling(op)

    def like(args: Sequence[Any]) -> Any:
        if (products or WORK[name][0])(*args) >= _DEAR:
            return None
        return one_call.alike(args, weight, sizes)

    def run(*args: Any) -> Any:
        d = args[0].dtype
        half = (d is _F16 or d is _BF16) and all(
            a.dtype is d for a in args if a.__class__ is np.ndarray
        )  # fmt: skip
        if d is _F32 or d is _F64 or half:
            work, least = WORK[name]
            if work(*args) >= least and config.eager == "cpu" and native():
                order = operands.order_of(op, args)
                if half or (known := operands.exact(name, call, args, order, (), like)) is None:
                    fn = operands.lying(
                        one_call.calling(op, dt.OF_NUMPY[d]) if half else call, order
                    )
                    r = one_call.shelf().run(name, fn, args, order, lambda: like(args))
                else:
                    r = known(*[a for a in args if a.__class__ is np.ndarray])
                if r is not None:
                    r = operands.laid(r, order)
                    return r[0] if len(r) == 1 else tuple(r)
                if name in ANY_SIZE and not half:
                    return ANY_SIZE[name](*args)
        return op.run(*args)

    def register(work: Callable[..., int]) -> Callable[..., int]:
        WORK[name] = work, least
        op.eager = run
        return work

    return register


_DEAR = 1 << 29  # work that takes longer than to compile kernels for it
_ALONE = 8  # times that a product is dearer to NumPy in a depthwise convolution


def _conv_products(input: np.ndarray, weight: np.ndarray, bias: Any, *by: Any) -> int:
    return len(input) * prod(conv_out(input.shape[2:], weight.shape[2:], *by[:3])) * weight.size


@by_shape("convolution", 1 << 18, weight=1, products=_conv_products)
def _conv(input: np.ndarray, weight: np.ndarray, bias: Any, stride: tuple, *rest: Any) -> int:
    """Products of elements."""
    dear = _ALONE if weight.shape[1] == 1 else 1
    return input.size // max(1, input.shape[1]) * weight.size // prod(stride) * dear


@by_shape("conv_input_grad", 1 << 18, weight=1, sizes=(2,))
def _conv_input_grad(grad: np.ndarray, weight: np.ndarray, *rest: Any) -> int:
    dear = _ALONE if weight.shape[1] == 1 else 1
    return grad.size // max(1, grad.shape[1]) * weight.size * dear


@by_shape("conv_weight_grad", 1 << 18)
def _conv_weight_grad(grad: np.ndarray, input: np.ndarray, weight_size: tuple, *rest: Any) -> int:
    dear = _ALONE if weight_size[1] == 1 else 1
    return grad.size // max(1, grad.shape[1]) * prod(weight_size) * dear


# ---------------------------------------------------------------- convolutions of any size

_COLUMNS = 1 << 21  # elements of windows that are laid out at a time


def _images(windows: int) -> int:
    """How many images to take at a time, of so many elements of windows each."""
    return max(1, _COLUMNS // max(1, windows))


def _conv_of_any_size(input: np.ndarray, weight: np.ndarray, bias: Any, *by: Any) -> np.ndarray:
    out = conv_out(input.shape[2:], weight.shape[2:], *by[:3])
    most = _images(prod(out) * prod(weight.shape[2:]) * input.shape[1])
    parts = [
        correlated(matmul, input[i : i + most], weight, bias, *by)
        for i in range(0, max(1, len(input)), most)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _input_grad_of_any_size(
    grad: np.ndarray, weight: np.ndarray, size: tuple, *by: Any
) -> np.ndarray:
    stride, padding, dilation, groups = by
    ends = [(k - 1) * d - p for k, d, p in zip(weight.shape[2:], dilation, padding, strict=True)]
    alone = weight.shape[1] == 1 and weight.shape[0] == groups
    if (
        set(stride) == {1} and min(ends) >= 0 and not alone
        and prod(size[2:]) * weight.shape[0] <= 2 * prod(grad.shape[2:]) * size[1]
    ):  # fmt: skip
        # a convolution with turned weights: windows are read, which is less work than to add them up
        per, ci, *window = weight.shape[0] // groups, *weight.shape[1:]
        turned = np.flip(weight, range(2, weight.ndim)).reshape(groups, per, ci, *window)
        turned = turned.swapaxes(1, 2).reshape(groups * ci, per, *window)
        return _conv_of_any_size(grad, turned, None, stride, tuple(ends), dilation, groups)
    most = _images(prod(grad.shape[2:]) * prod(weight.shape[2:]) * size[1])
    parts = [
        spread(matmul, part, weight, (len(part), *size[1:]), *by)
        for part in (grad[i : i + most] for i in range(0, max(1, len(grad)), most))
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _weight_grad_of_any_size(
    grad: np.ndarray, input: np.ndarray, size: tuple, *by: Any
) -> np.ndarray:
    most = _images(prod(grad.shape[2:]) * prod(size[2:]) * input.shape[1])
    return sum(
        matched(matmul, grad[i : i + most], input[i : i + most], size, *by)
        for i in range(0, max(1, len(grad)), most)
    )


ANY_SIZE |= {
    "convolution": _conv_of_any_size, "conv_input_grad": _input_grad_of_any_size, "conv_weight_grad": _weight_grad_of_any_size,
}  # fmt: skip


# ---------------------------------------------------------------- others


@by_shape("attention", rows.WORK)
def _attention(query: np.ndarray, key: np.ndarray, *rest: Any) -> int:
    """Products of elements; few queries are those of a decoding step, whose length is another each time."""
    return query.size * key.shape[2] if query.shape[2] >= rows.QUERIES else 0


@by_shape("attention_grad", 1 << 21)
def _attention_grad(grad: np.ndarray, query: np.ndarray, key: np.ndarray, *rest: Any) -> int:
    return query.size * key.shape[2]


@by_shape("euclidean_distances", 1 << 20)
def _distances(x1: np.ndarray, x2: np.ndarray) -> int:
    """Differences of elements."""
    return x1.size * x2.shape[-2]


@by_shape("batch_norm_train", one_call.SMALL)
@by_shape("batch_norm_eval", one_call.SMALL)
@by_shape("max_pool", 1 << 12, sizes=(1, 2))  # windows may be as large as what they are taken of
@by_shape("avg_pool", 1 << 12, sizes=(1, 2))
@by_shape("avg_pool_grad", 1 << 12, sizes=(1, 2, 3))
def _elements(input: np.ndarray, *rest: Any) -> int:
    return input.size


gradients.EARLY |= {"batch_norm_train": one_call.SMALL, "layer_norm": 1 << 12, "rms_norm": 1 << 12}


@by_shape("max_pool_grad", 1 << 13, sizes=(2, 3, 4))
def _pool_grad(grad: np.ndarray, taps: np.ndarray, size: tuple, kernel: tuple, *rest: Any) -> int:
    """Elements, where kernels are not slower than NumPy."""
    return 0 if scatters(kernel) else grad.size


gradients.LEFT["max_pool"] = lambda input, kernel, *rest: scatters(kernel)


def _batch_norm_gradient(node: OpNode, gs: list) -> list | None:
    """Of few elements in row-major order: what there is to find out about a call is known already."""
    g, x, w = gs[0], node.args[0], node.args[1]
    x = x._a if isinstance(x, Tensor) else x
    w = w._a if isinstance(w, Tensor) else w
    d = g.dtype
    if (
        x.__class__ is not np.ndarray or d is not x.dtype or (d is not _F32 and d is not _F64) or x.size < one_call.SMALL
        or not x.flags.c_contiguous or not g.flags.c_contiguous or (w is not None and w.dtype is not d)
        or config.eager != "cpu" or not native()
    ):  # fmt: skip
        return None

    def rules(g: Tensor, x: Tensor, w: Any, eps: float) -> list:
        return node.differentiate([g, None, None], [x, w, None, eps], tuple)

    call = operands.exact(
        "batch_norm_backward", rules, (g, x, w, node.args[3]), None, node.plan.slots, one_call.alike
    )
    if call is None:
        return None
    found = call(g, x, w) if w is not None else call(g, x)
    return gradients.RULES if found is None else found


gradients.OWN["batch_norm_train"] = _batch_norm_gradient
