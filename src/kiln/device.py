"""Where a tensor's data lives."""

from __future__ import annotations

import threading
from typing import Any, Self

from .errors import KilnAssertionError, KilnError, KilnTypeError

KNOWN = ("cpu", "cuda", "mps", "xla", "xpu", "meta", "hip", "hpu", "ipu", "lazy", "maia", "mkldnn", "mtia", "opencl", "opengl",
         "privateuseone", "ve", "vulkan")  # fmt: skip
AVAILABLE = ("cpu",)


class device:
    """A device such as `device("cpu")` or `device("cuda", 0)`: `type` and `index`."""

    __slots__ = ("index", "type")

    def __init__(self, type: str | device = "cpu", index: int | None = None):
        if isinstance(type, device):
            type, index = type.type, type.index
        if isinstance(type, int) and not isinstance(type, bool):
            raise KilnError(
                "device", "a number is that of an accelerator: there is none here", repr(type),
                "this build of Kiln computes on 'cpu'",
            )  # fmt: skip
        if not isinstance(type, str):
            raise KilnTypeError("device", "a device is named by a string", repr(type), "e.g. 'cpu'")
        kind, _, number = type.partition(":")
        if number:
            if index is not None or not number.isdigit():
                raise KilnError("device", "malformed device string", repr(type), "e.g. 'cuda:0'")
            index = int(number)
        if kind not in KNOWN:
            raise KilnError(
                "device", "unknown device type", repr(type), "one of " + ", ".join(KNOWN)
            )
        self.type, self.index = kind, index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __repr__(self) -> str:
        return (
            f"device(type='{self.type}'"
            + ("" if self.index is None else f", index={self.index}")
            + ")"
        )

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __enter__(self) -> Self:
        """Have new tensors made on this device until the block ends."""
        places.stack = (*places.stack, anywhere(self))
        return self

    def __exit__(self, *error: object) -> None:
        places.stack = places.stack[:-1]


CPU, META = device("cpu"), device("meta")


class _Places(threading.local):
    """The devices on which new tensors are made, the last of them counts; none where it is the CPU."""

    stack: tuple[device, ...] = ()


places = _Places()


def as_device(d: Any) -> device:
    """The device for a device, a string or None; an error where this build has no such device."""
    if d is None:
        return CPU
    out = d if isinstance(d, device) else device(d)
    if out.type not in AVAILABLE:  # PyTorch's builds for the CPU assert for these two
        error = KilnAssertionError if out.type in ("cuda", "xpu") else KilnError
        raise error(
            "device", f"not compiled with {out.type.upper()} enabled: no {out.type} device here", str(out),
            "this build of Kiln computes on 'cpu'",
        )  # fmt: skip
    return out


def anywhere(d: Any) -> device:
    """The device, which may be `meta`; that of the `with` block, or the default one, for None."""
    if d is None:
        return places.stack[-1] if places.stack else CPU
    out = d if isinstance(d, device) else device(d)
    return META if out.type == "meta" else as_device(out)
