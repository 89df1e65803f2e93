"""Casts and copies: other dtypes, other memory formats, memory of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..device import anywhere
from ..device import device as Device
from ..errors import KilnError, KilnTypeError, describe
from ..formats import contiguous_format, inverse, lies_in, order, preserve_format
from ..meta import without_data
from ..tensor import Tensor
from .dispatch import expect_tensor
from .registry import Sample, composition, method, op
from .samples import draw, rng


def _clone_samples() -> Any:
    for s in ((3, 4), (), (0,)):
        yield Sample((draw(rng(), s),))
    yield Sample((draw(rng(), (2, 3, 2, 2)).transpose(1, 0, 3, 2),))


def _copied(a: np.ndarray) -> np.ndarray:
    """A row-major copy."""
    return dt.bits(a).copy().view(a.dtype)


@op(family="elementwise", promote="same", scalar="copy", exact=True, check=False, grad={"input": lambda g: g},
    quick={"input": lambda g: g}, samples=_clone_samples)  # fmt: skip
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with its own memory, which lies as the tensor does unless a format is given."""
    if (memory_format is None and input.flags.c_contiguous) or memory_format is contiguous_format:
        return _copied(input)
    dims = order("clone", memory_format or preserve_format, input.shape, input.strides)
    if dims is None:
        return _copied(input)
    return _copied(input.transpose(dims)).transpose(inverse(dims))


@op(
    name="cast", node="ToCopyBackward0", private=True, family="cast", exact=True, check=False, scalar="cast",
    infer=lambda input, dtype: (input.shape, dtype), grad={"input": lambda g: g},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), dt.float32)), Sample((draw(rng(), (3, 4)), dt.int32), grad=False),
        Sample((draw(rng(), ()), dt.bool_), grad=False), Sample((draw(rng(), (2, 3)), dt.bfloat16), grad=False),
    ]),
)  # fmt: skip
def cast(input: Tensor, dtype: dt.dtype) -> Tensor:
    """The elements converted to another dtype."""
    if input.dtype.kind == "c" and dtype.category < dt.COMPLEX:
        input = input.real
    return input.astype(dtype.np)


def _to_target(args: tuple, kwargs: dict) -> tuple[Any, bool, Any, Any]:
    """What `to` is asked for: a dtype, whether to copy at all events, a memory format and a device."""
    known = {"dtype", "device", "other", "tensor", "non_blocking", "copy", "memory_format"}
    if unknown := kwargs.keys() - known:
        raise KilnTypeError("to", "unexpected argument", ", ".join(unknown), "to(device, dtype)")
    dtype, device = kwargs.get("dtype"), kwargs.get("device")
    flags: list[bool] = []  # non_blocking, copy
    for a in (*args, kwargs.get("other", kwargs.get("tensor"))):
        if a is True or a is False:
            flags.append(a)
        elif isinstance(a, Tensor):
            dtype, device = a.dtype, a.device
        elif isinstance(a, dt.dtype) or a in (float, int, bool, complex):
            dtype = a
        elif isinstance(a, str | int | Device):
            device = a
        elif a is not None:
            raise KilnTypeError(
                "to", "neither a dtype, a device nor a tensor", describe(a), "to(device, dtype)"
            )
    place = None if device is None else anywhere(device)
    copy = kwargs.get("copy", flags[1] if len(flags) > 1 else False)
    return dtype, bool(copy), kwargs.get("memory_format"), place


@method("to")
def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """This tensor with another dtype, device or memory format; itself where nothing changes and copy is False."""
    if len(args) == 1 and not kwargs and args[0].__class__ is dt.dtype:
        return self if args[0] is self.dtype else cast(self, args[0])
    dtype, copy, format, place = _to_target(args, kwargs)
    d = self.dtype if dtype is None else dt.as_dtype(dtype)
    if place is not None and place.type != self.device.type:
        return self._a.host("to") if self.is_meta else without_data(self, d.np)
    if d is not self.dtype:
        r = cast(self, d)
        return r if format is None else contiguous_in(r, format)
    if copy or (format is not None and not _lies_in(self, format)):
        return clone(self, memory_format=format)
    return self


def _lies_in(x: Tensor, format: Any) -> bool:
    return format is preserve_format or lies_in(format, x._a.shape, x.stride())


def contiguous_in(x: Tensor, format: Any) -> Tensor:
    """The tensor itself where it lies in a memory format, else a copy that does."""
    return x if _lies_in(x, format) else clone(x, memory_format=format)


@method("type_as")
def type_as(self: Tensor, other: Tensor) -> Tensor:
    """This tensor with the dtype of another."""
    expect_tensor("type_as", other)
    return self.to(other.dtype)


def _caster(name: str, d: dt.dtype) -> None:
    def convert(self: Tensor, memory_format: Any = None) -> Tensor:
        r = self if self.dtype is d else cast(self, d)
        return r if memory_format is None else contiguous_in(r, memory_format)

    convert.__name__, convert.__doc__ = name, f"This tensor as {d.name}."
    method(name)(convert)


for _name, _d in {
    **dt.ALIASES,
    "bool": dt.bool_,
    "bfloat16": dt.bfloat16,
    "byte": dt.uint8,
    "char": dt.int8,
}.items():
    _caster(_name, _d)


@composition(method=True, function=True, aliases=())
def contiguous(input: Tensor, memory_format: Any = contiguous_format) -> Tensor:
    """The tensor itself where it lies in a memory format (row-major unless given), else a copy that does."""
    if memory_format is contiguous_format:
        return input if input.is_contiguous() else clone(input, memory_format=memory_format)
    if memory_format is preserve_format:
        if input.is_contiguous():
            return input
        raise KilnError("contiguous", "preserve memory format is unsupported by the contiguous operator",
                        memory_format, "name an order: kiln.contiguous_format, kiln.channels_last")  # fmt: skip
    return contiguous_in(input, memory_format)
