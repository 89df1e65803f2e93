"""Small helpers of PyTorch that programs use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .compiler import is_compiling as is_compiling
from .device import device
from .ops.joining import cat
from .tensor import Tensor


def _flatten_dense_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """All elements of several tensors of one dtype, in one row."""
    return cat([t.contiguous().view(-1) for t in tensors])


def _unflatten_dense_tensors(flat: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Views of a row of elements in the shapes of several tensors: what `_flatten_dense_tensors` had."""
    parts = flat.split([t.numel() for t in tensors])
    return tuple(p.view(t.shape) for p, t in zip(parts, tensors, strict=True))


def _take_tensors(tensors: Sequence[Tensor], size_limit: int) -> Iterator[list[Tensor]]:
    """Groups of tensors of one type, each of about `size_limit` bytes."""
    groups: dict[str, tuple[list[Tensor], int]] = {}
    for t in tensors:
        group, size = groups.get(t.type(), ([], 0))
        if group and size + t.nbytes > size_limit:
            yield group
            group, size = [], 0
        group.append(t)
        groups[t.type()] = group, size + t.nbytes
    yield from (group for group, _ in groups.values() if group)


def _get_device_index(device_: Any, optional: bool = False, allow_cpu: bool = False) -> int:
    """The number of a device; -1 for the CPU where that is allowed."""
    d = device_ if isinstance(device_, int) else device(device_)
    if isinstance(d, int):
        return d
    if d.type == "cpu" and not allow_cpu:
        raise ValueError(f"Expected a non cpu device, but got: {d}")
    return -1 if d.index is None else d.index
