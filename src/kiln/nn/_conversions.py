"""Modules in another dtype, memory format or place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

from .. import dtypes as dt
from ..autograd.modes import no_grad
from ..device import META, anywhere
from ..errors import KilnTypeError
from ..formats import CHANNELS_LAST, as_format
from ..ops.creation import empty_like
from ..tensor import Tensor
from ._hooks import CONFIG_VERSION


def parse_to(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool, Any]:
    """The device, dtype, `non_blocking` and memory format that the arguments of `Module.to` name; None where they don't."""
    unknown = kwargs.keys() - {"device", "dtype", "tensor", "non_blocking", "memory_format"}
    if unknown:
        raise KilnTypeError(
            "to", "to() got an unexpected keyword argument", ", ".join(sorted(unknown)),
            "to(device), to(dtype), to(tensor), to(device=…, dtype=…)",
        )  # fmt: skip
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for a in (*args, *([kwargs["tensor"]] if "tensor" in kwargs else [])):
        if isinstance(a, Tensor):
            dtype, device = a.dtype, a.device
        elif isinstance(a, dt.dtype):
            dtype = a
        elif not isinstance(a, bool):
            device = a
    waits = kwargs.get("non_blocking", any(a for a in args if isinstance(a, bool)))
    return device, dtype, waits, kwargs.get("memory_format")


class Conversions:
    """What a module offers for converting all its tensors."""

    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    parameters: Callable[[], Iterator[Tensor]]
    buffers: Callable[[], Iterator[Tensor]]

    def children(self) -> Iterator[Any]:
        """The direct submodules."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse:
            for module in self.children():
                module._apply(fn)
        with no_grad():
            for p in self._parameters.values():
                if p is None:
                    continue
                g = p.grad
                new = fn(p.data)
                if new._a is not p._a:
                    p.grad = None
                    p.data = new
                if g is not None:
                    p.grad = fn(g.data).requires_grad_(g.requires_grad)
            for name, b in self._buffers.items():
                if b is not None:
                    new = fn(b)
                    CONFIG_VERSION[0] += new is not b
                    self._buffers[name] = new
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, cast floating parameters and buffers, set their memory format; returns self.

        `to(device)`, `to(dtype)`, `to(tensor)`, `to(device=…, dtype=…)`, `to(memory_format=channels_last)`.
        """
        device, dtype, _, format = parse_to(*args, **kwargs)
        moves = device is not None and (
            anywhere(device) is META
            or any(x.is_meta for x in (*self.parameters(), *self.buffers()))
        )
        if dtype is not None and dtype.category < dt.FLOAT:
            raise KilnTypeError(
                "to", f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}",
                dtype, "convert single tensors with x.to(dtype)",
            )  # fmt: skip
        if moves:
            self._apply(lambda x: x.to(device))
        if dtype is not None:
            self._cast(dtype)
        if format is not None:
            rank = len(CHANNELS_LAST.get(as_format("to", format), ()))
            self._apply(lambda x: x.to(memory_format=format) if rank in (0, x.ndim) else x)
        return self

    def _cast(self, dtype: dt.dtype) -> Self:
        return self._apply(lambda x: x.to(dtype) if x.dtype.category >= dt.FLOAT else x)

    def type(self, dst_type: Any) -> Self:
        """Cast all parameters and buffers; returns self."""
        return self._apply(lambda x: x.type(dst_type))

    def float(self) -> Self:
        """Cast floating parameters and buffers to float32; returns self."""
        return self._float_to(dt.float32)

    def double(self) -> Self:
        """Cast floating parameters and buffers to float64; returns self."""
        return self._float_to(dt.float64)

    def half(self) -> Self:
        """Cast floating parameters and buffers to float16; returns self."""
        return self._float_to(dt.float16)

    def bfloat16(self) -> Self:
        """Cast floating parameters and buffers to bfloat16; returns self."""
        return self._float_to(dt.bfloat16)

    def _float_to(self, dtype: dt.dtype) -> Self:
        return self._apply(lambda x: x.to(dtype) if x.is_floating_point() else x)

    def cpu(self) -> Self:
        """Move to the CPU; returns self."""
        return self._apply(lambda x: x.cpu())

    def cuda(self, device: Any = None) -> Self:
        """Move to a CUDA device; returns self."""
        return self._apply(lambda x: x.cuda(device))

    def xpu(self, device: Any = None) -> Self:
        """Move to an Intel GPU; returns self."""
        return self._apply(lambda x: x.xpu(device))

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Move to a device without the values; returns self."""
        return self._apply(lambda x: empty_like(x, device=device), recurse)

    def share_memory(self) -> Self:
        """Move all parameters and buffers to shared memory, see `Tensor.share_memory_`; returns self."""
        for x in (*self.parameters(), *self.buffers()):
            x.share_memory_()
        return self
