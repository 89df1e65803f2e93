"""Memory that processes share: anonymous files, mapped.

Note [No names]: a file here has no name in any file system (`memfd_create`; elsewhere it is unlinked as soon
as it is open). Who has its descriptor has the memory, and the system frees it with the last descriptor and
mapping, so a process that is killed leaves nothing behind, and a small /dev/shm limits nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from typing import Any

import numpy as np

from ..errors import KilnMemoryError, KilnNotImplementedError
from ..sharing import root_of

CAN_SHARE = os.name == "posix"
"""Whether this system hands memory from process to process by descriptors."""


class Segment:
    """Bytes that whoever has the file `fd` can map too; they are zero at first.

    `fd` becomes this object's own; it can be closed earlier (`close_file`), the memory stays.
    """

    __slots__ = ("__array_interface__", "__weakref__", "address", "fd", "nbytes", "unmap")

    def __init__(self, nbytes: int, fd: int | None = None):
        self.address, self.fd, self.nbytes = 0, -1, max(nbytes, 1)
        self.fd = anonymous_file(self.nbytes) if fd is None else fd
        self.address, self.unmap = _map(self.fd, self.nbytes), _libc().munmap
        self.__array_interface__ = interface(self.address, self.nbytes)

    def close_file(self) -> None:
        """Keep the memory only: no other process can get it from here any more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close_file()
        if self.address:
            self.unmap(self.address, self.nbytes)


def interface(address: int, nbytes: int) -> dict[str, Any]:
    """What NumPy asks for to make an array of bytes."""
    return {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}


def anonymous_file(nbytes: int) -> int:
    """A descriptor of a new file without a name, of so many zero bytes."""
    if not CAN_SHARE:
        raise KilnNotImplementedError(
            "shared memory", "this system passes no open files between processes", os.name,
            "send a copy of the tensor",
        )  # fmt: skip
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("kiln", os.MFD_CLOEXEC)
    else:
        fd, name = tempfile.mkstemp(prefix="kiln")
        os.unlink(name)
    try:
        os.ftruncate(fd, nbytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def _map(fd: int, nbytes: int) -> int:
    address = _libc().mmap(None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise KilnMemoryError("shared memory", f"mmap failed: {os.strerror(number)}", f"{nbytes} bytes", "")  # fmt: skip
    return address


_library: Any = None


def _libc() -> Any:
    # Python's mmap keeps a descriptor open for every mapping; hundreds of batches may be alive.
    global _library
    if _library is None:
        library = ctypes.CDLL(None, use_errno=True)
        library.mmap.restype = ctypes.c_void_p
        library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                                 ctypes.c_int, ctypes.c_long)  # fmt: skip
        library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        _library = library
    return _library


def like(a: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """An array of the shape, dtype and order of another one at the beginning of a block of bytes."""
    if a.flags.c_contiguous:
        return memory[: a.nbytes].view(a.dtype).reshape(a.shape)
    strides = np.empty_like(a, order="K", subok=False).strides
    return np.ndarray(a.shape, a.dtype, memory, 0, strides)


def is_shared(a: np.ndarray) -> bool:
    """Whether an array lies in memory that other processes may have."""
    return hasattr(root_of(a), "segment") or isinstance(root_of(a), Segment)


def sendable(a: np.ndarray) -> bool:
    """Whether an array lies in memory that can be handed to other processes from here."""
    root = root_of(a)
    return isinstance(root, Segment) and root.fd >= 0


def shared_copy(a: np.ndarray) -> np.ndarray:
    """The array in memory that can be handed to other processes: itself where it is there."""
    if sendable(a):
        return a
    out = like(a, np.asarray(Segment(a.nbytes)))
    out[...] = a
    return out
