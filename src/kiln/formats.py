"""How elements lie: layouts (strided, or one of the sparse ones) and memory formats of strided tensors.

https://docs.pytorch.org/docs/stable/tensor_attributes.html#torch-memory-format
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import naming
from .errors import KilnError, KilnTypeError, describe


class _Named:
    """One of a few constants, known by name: copies and pickles are the object itself."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"{naming.name}.{self.name}"

    def __reduce__(self) -> tuple:
        return _by_name, (self.name,)


class layout(_Named):
    """How a tensor stores its elements: `kiln.strided`, `kiln.sparse_coo`, `kiln.sparse_csr`, …"""

    __slots__ = ()


class memory_format(_Named):
    """The order in which a strided tensor's dimensions lie in memory: `kiln.channels_last`, …"""

    __slots__ = ()


strided, jagged = layout("strided"), layout("jagged")
sparse_coo = layout("sparse_coo")
sparse_csr, sparse_csc = layout("sparse_csr"), layout("sparse_csc")
sparse_bsr, sparse_bsc = layout("sparse_bsr"), layout("sparse_bsc")
contiguous_format, preserve_format = (
    memory_format("contiguous_format"),
    memory_format("preserve_format"),
)
channels_last, channels_last_3d = memory_format("channels_last"), memory_format("channels_last_3d")

BY_NAME: dict[str, Any] = {
    c.name: c for c in (strided, jagged, sparse_coo, sparse_csr, sparse_csc, sparse_bsr, sparse_bsc,
                        contiguous_format, preserve_format, channels_last, channels_last_3d)
}  # fmt: skip


def _by_name(name: str) -> Any:
    return BY_NAME[name]


# the dimensions from the outermost in memory to the innermost
CHANNELS_LAST = {channels_last: (0, 2, 3, 1), channels_last_3d: (0, 2, 3, 4, 1)}
_IMAGES = {len(dims): dims for dims in CHANNELS_LAST.values()}


def as_format(op: str, f: Any) -> memory_format:
    """A memory format; an error for anything else."""
    if isinstance(f, memory_format):
        return f
    raise KilnTypeError(
        op, "argument 'memory_format' must be a memory format", describe(f), "kiln.channels_last"
    )


def order(op: str, format: Any, shape: Sequence[int], strides: Sequence[int]) -> tuple | None:
    """The dimensions from outermost to innermost in memory of a dense tensor of this format.

    None where that is row-major. What is preserved is the order of `strides`, as PyTorch finds it for
    tensors with gaps or repetitions too.
    """
    f = as_format(op, format)
    n = len(shape)
    if f is preserve_format:
        found = _ranked(shape, [strides])
    elif f is contiguous_format:
        return None
    else:
        found = CHANNELS_LAST[f]
        if len(found) != n:
            raise KilnError(
                op, f"required rank {len(found)} tensor to use {f.name} format",
                f"a tensor of {n} dimensions", "only batches of images and volumes have channels",
            )  # fmt: skip
    return None if found == tuple(range(n)) else found


def result_order(shape: Sequence[int], operands: Sequence[Any]) -> tuple[int, ...] | None:
    """The dimensions of an elementwise result of these arrays from outermost to innermost; None for row-major.

    Dimensions are in the order of the first operand's strides; where it repeats along one, in that of the next.
    Source: https://docs.pytorch.org/docs/stable/tensor_view.html, and experiments.
    """
    n = len(shape)
    steps = []
    for a in operands:
        k = n - len(a.shape)
        kept = [t if s == shape[k + i] else 0 for i, (s, t) in enumerate(zip(a.shape, a.strides, strict=True))]  # fmt: skip
        steps.append([0] * k + kept)
    found = _ranked(shape, steps)
    return None if found == tuple(range(n)) else found


def _ranked(shape: Sequence[int], operands: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Dimensions by descending stride of the first operand that tells two apart; others stay as they are."""
    found = list(range(len(shape)))[::-1]
    for i in range(1, len(found)):  # an insertion sort, as a stride of 0 has no place in the order
        at = i
        for j in range(i - 1, -1, -1):
            inner, outer = found[j], found[at]
            sign = _compared(inner, outer, shape, operands)
            if sign > 0:
                found[j], found[at] = outer, inner
                at = j
            elif sign < 0:
                break
    return tuple(found[::-1])


def _compared(
    inner: int, outer: int, shape: Sequence[int], operands: Sequence[Sequence[int]]
) -> int:
    """1 where the inner of two dimensions is to be the outer one, -1 where it stays, 0 where nothing tells."""
    for strides in operands:
        a, b = abs(strides[inner]), abs(strides[outer])
        if a and b:
            if a != b:
                return 1 if a > b else -1
            if shape[inner] > shape[outer]:
                return 1
    return 0


def lies_in(format: Any, shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a tensor's elements lie in a format without gaps."""
    f = as_format("is_contiguous", format)
    dims: Sequence[int] = CHANNELS_LAST.get(f, range(len(shape)))
    if len(dims) != len(shape):
        return False
    if 0 in shape and f not in CHANNELS_LAST:
        return True
    step = 1
    for d in reversed(dims):
        if shape[d] != 1:
            if strides[d] != step:
                return False
            step *= shape[d]
    return True


def dense(a: Any) -> bool:
    """Whether an array's elements lie side by side, in some order of its dimensions."""
    if a.flags.c_contiguous:
        return True
    order = sorted(range(a.ndim), key=lambda i: -a.strides[i])
    return a.transpose(order).flags.c_contiguous


def channels_order(a: Any) -> tuple[int, ...] | None:
    """The order in which an array of images or filters has its channels innermost, be it with gaps; None for others.

    PyTorch's rule, of strides alone: a slice of such images has them so too.
    """
    if a.ndim not in _IMAGES or a.flags.c_contiguous or 0 in a.shape or not a.strides[1]:
        return None
    dims = _IMAGES[a.ndim]
    least = 0
    for d in reversed(dims):
        if a.strides[d] < least or (d == 0 and least == a.strides[1]):
            return None
        least = a.strides[d] * max(a.shape[d], 1)
    return dims


def images_order(lies: str, ndim: int, operands: Sequence[Any]) -> tuple[int, ...] | None:
    """The order of a result of images: channels innermost where an operand's are; of "images" not of volumes.

    What was "joined" has them so where all operands do.
    """
    if ndim < 4 or (lies == "images" and ndim > 4):
        return None
    if lies == "joined":
        orders = {channels_order(a) for a in operands}
        return orders.pop() if len(orders) == 1 else None
    found = (channels_order(a) for a in operands if a.ndim == ndim)
    return next((dims for dims in found if dims is not None), None)


def inverse(dims: Sequence[int]) -> list[int]:
    """The order of dimensions that undoes another."""
    return [dims.index(i) for i in range(len(dims))]
