"""Views with arbitrary strides, and overlapping windows of one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided as _np_as_strided

from ..errors import KilnError
from ..shape import Size, behind, norm_dim
from ..tensor import Tensor
from .joining import stack
from .registry import Sample, method
from .samples import draw, rng
from .slicing import basic_index_grad, select, slice_op
from .views import movement, view


def _strided_view(
    flat: np.ndarray, size: Sequence[int], strides: Sequence[int], start: int
) -> np.ndarray:
    """Elements of a row of memory, known to NumPy as a view of it (np.lib's `as_strided` hides its base)."""
    plain = flat if flat.dtype.isbuiltin == 1 else flat.view(f"V{flat.itemsize}")
    out = np.ndarray(tuple(size), plain.dtype, plain, start * flat.itemsize, tuple(strides))
    if not flat.flags.writeable or any(n > 1 and not s for n, s in zip(size, strides, strict=True)):
        out.flags.writeable = False  # as what `expand` gives
    return out if plain is flat else out.view(flat.dtype)


def _memory(input: np.ndarray) -> tuple[np.ndarray, int]:
    """The row of memory that an array is a view of, and where in it the array begins."""
    root = input
    while isinstance(root.base, np.ndarray) and root.base.dtype == input.dtype:
        root = root.base
    flat = root.reshape(-1) if root.flags.c_contiguous else root
    first = input.__array_interface__["data"][0] - flat.__array_interface__["data"][0]
    return flat, first // input.itemsize


def _as_strided_rule(
    g: Tensor, input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None
) -> Tensor:
    shape, own = tuple(input.shape), tuple(input.stride())
    start = input.storage_offset() if isinstance(input._a, np.ndarray) else 0  # see Capture
    offset = 0 if storage_offset is None else storage_offset - start
    return as_strided_grad(g, shape, own, tuple(size), tuple(stride), offset)


@view(
    infer=lambda input, size, stride, storage_offset: (Size(size), input.dtype),
    layout=True,
    batch=lambda n, input, size, stride, storage_offset: (
        input.tensor, (n, *size), (input.tensor.stride(0), *stride), storage_offset),
    grad={"input": _as_strided_rule},
    samples=lambda: iter([Sample((draw(rng(), (4, 4)), (2, 3), (4, 1), 1)), Sample((draw(rng(), (6,)), (4, 3), (1, 1)))]),
)  # fmt: skip
def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """A view with given strides and offset, in elements, on the tensor's memory."""
    n = input.itemsize
    flat, start = _memory(input)
    if storage_offset is not None:
        start = storage_offset
    last = start + sum((s - 1) * st for s, st in zip(size, stride, strict=True))
    if start < 0 or (0 not in size and last >= flat.size) or any(st < 0 for st in stride):
        raise KilnError(
            "as_strided", "the view reaches outside the tensor's memory",
            f"size={list(size)}, stride={list(stride)}, storage_offset={start}", f"there are {flat.size} elements",
        )  # fmt: skip
    return _strided_view(flat, size, [s * n for s in stride], start)


def _places(size: Sequence[int], stride: Sequence[int], offset: int) -> np.ndarray:
    """Where the elements of a strided view lie in memory."""
    where = np.full(tuple(size), offset)
    for i, (n, s) in enumerate(zip(size, stride, strict=True)):
        where = where + (np.arange(n) * s).reshape([-1 if j == i else 1 for j in range(len(size))])
    return where


def _span(input_size: tuple, input_stride: tuple, size: tuple, stride: tuple, offset: int) -> int:
    """How much memory two strided views take, one of which begins `offset` after the other."""

    def last(size: tuple, stride: tuple) -> int:
        return 0 if 0 in size else sum((n - 1) * s for n, s in zip(size, stride, strict=True))

    ends = last(input_size, input_stride), offset + last(size, stride)
    return max(ends) - min(offset, 0) + 1


@movement(
    private=True, infer=lambda grad, input_size, input_stride, size, stride, offset: (Size(input_size), grad.dtype),
    batch=lambda n, grad, input_size, input_stride, size, stride, offset: (
        grad.tensor, (n, *input_size), (span := _span(input_size, input_stride, size, stride, offset), *input_stride),
        (n, *size), (span, *stride), offset),
    grad={"grad": lambda g, input_size, input_stride, size, stride, offset: as_strided_grad(
        g, size, stride, input_size, input_stride, -offset)},
    samples=lambda: iter([Sample((draw(rng(), (2, 3)), (4, 4), (4, 1), (2, 3), (4, 1), 1)),
                          Sample((draw(rng(), (2, 3)), (4, 4), (1, 4), (2, 3), (1, 1), -1))]),
)  # fmt: skip
def as_strided_grad(
    grad: Tensor, input_size: tuple, input_stride: tuple, size: tuple, stride: tuple, offset: int
) -> Tensor:
    """The elements of one strided view of zeros to which `grad` was added through another, `offset` after it."""
    low = min(offset, 0)
    memory = np.zeros(_span(input_size, input_stride, size, stride, offset), grad.dtype)
    np.add.at(memory, _places(size, stride, offset - low), grad)
    steps = [s * grad.itemsize for s in input_stride]
    return _strided_view(memory, input_size, steps, -low).copy()


# ---------------------------------------------------------------- windows of one dimension


def _unfold_infer(input: Any, dimension: int, size: int, step: int) -> tuple:
    d = norm_dim(dimension, len(input.shape), "unfold")
    n = input.shape[d] if input.shape else 1
    if size > n or size < 0 or step <= 0:
        raise KilnError(
            "unfold", f"maximum size for tensor at dimension {d} is {n}, and step must be positive",
            f"size={size}, step={step}", "",
        )  # fmt: skip
    shape = list(input.shape)
    if shape:
        shape[d] = (n - size) // step + 1
    return Size([*shape, size]), input.dtype


def _unfold_grad(g: Tensor, in_shape: tuple, dimension: int, size: int, step: int) -> Tensor:
    d = norm_dim(dimension, len(in_shape))
    out = g.new_zeros(in_shape)
    for k in range(size):
        at = tuple((k, k + (g._a.shape[d] - 1) * step + 1, step) if i == d else (0, m, 1)
                   for i, m in enumerate(in_shape))  # fmt: skip
        out = out + basic_index_grad(select(g, -1, k), tuple(in_shape), at)
    return out


def _unfold_body(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    d = norm_dim(dimension, len(input.shape))
    n = (input.shape[d] - size) // step + 1
    cols = [slice_op(input, tuple(k if i == d else 0 for i in range(len(input.shape))),
                     tuple(k + (n - 1) * step + 1 if i == d else m for i, m in enumerate(input.shape)),
                     tuple(step if i == d else 1 for i in range(len(input.shape)))) for k in range(size)]  # fmt: skip
    return stack(cols, -1)


def _unfold_batch(n: int, input: Any, dimension: int, size: int, step: int) -> tuple:
    return input.aligned(max(input.ndim, 1)), *behind((dimension,), input.ndim), size, step


@view(batch=_unfold_batch, infer=_unfold_infer, grad={"input": _unfold_grad}, body=_unfold_body, node="UnfoldBackward0", name="unfold_dim", private=True,
      samples=lambda: iter([Sample((draw(rng(), (3, 7)), 1, 3, 2)), Sample((draw(rng(), (7,)), 0, 2, 1)),
                            Sample((draw(rng(), (3,)), 0, 4, 1), error=RuntimeError)]))  # fmt: skip
def unfold_dim(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements, `step` apart, of one dimension, as a new last dimension. A view."""
    if not input.ndim:
        return input.reshape(1)[:size]
    d = dimension % input.ndim
    if size > input.shape[d]:
        _unfold_infer(input, dimension, size, step)
    n = (input.shape[d] - size) // step + 1
    shape = (*input.shape[:d], n, *input.shape[d + 1 :], size)
    s = input.strides
    strides = (*s[:d], s[d] * step, *s[d + 1 :], s[d])
    flat, start = _memory(input)
    if not flat.flags.c_contiguous:
        return _np_as_strided(input, shape, strides)
    return _strided_view(flat, shape, strides, start)


@method("unfold")
def unfold_method(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements, `step` apart, of one dimension, as a new last dimension. A view."""
    return unfold_dim(self, dimension, size, step)
