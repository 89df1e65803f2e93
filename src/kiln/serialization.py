"""Files of tensors: `torch.serialization`'s names. See `kiln.save` and `kiln.load`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from enum import Enum
from mmap import MAP_PRIVATE as MAP_PRIVATE
from mmap import MAP_SHARED as MAP_SHARED
from typing import Any, Self, TypeAlias

from .device import as_device, device
from .errors import KilnError, KilnNotImplementedError
from .io import load, save
from .io.safe import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals
from .ops.legacy import TYPES
from .storage import TypedStorage

__all__ = [
    "LoadEndianness", "SourceChangeWarning", "StorageType", "add_safe_globals", "clear_safe_globals",
    "default_restore_location", "get_crc32_options", "get_default_load_endianness", "get_default_mmap_options",
    "get_safe_globals", "load", "location_tag", "mkdtemp", "normalize_storage_type", "register_package", "safe_globals",
    "save", "set_crc32_options", "set_default_load_endianness", "set_default_mmap_options", "skip_data",
    "storage_to_tensor_type", "validate_cuda_device",
]  # fmt: skip

MAP_LOCATION: TypeAlias = Callable[[Any, str], Any] | device | str | dict[str, str] | None
"""What `load` takes as `map_location`."""
DEFAULT_PROTOCOL, PROTOCOL_VERSION, MAGIC_NUMBER = 2, 1001, 0x1950A86A20F9469CFC6C
SHORT_SIZE, INT_SIZE, LONG_SIZE = 2, 4, 4
STORAGE_KEY_SEPARATOR = ","
_options: dict[str, Any] = {"endianness": None, "crc32": True, "mmap": MAP_PRIVATE}


class SourceChangeWarning(Warning):
    """The source of a module in a file is not what it was: files hold no source here."""


class LoadEndianness(Enum):
    """The order of bytes that is assumed of a file that does not tell."""

    NATIVE = 1
    LITTLE = 2
    BIG = 3


class StorageType:
    """A class of storages, by the name that a file has for it."""

    def __init__(self, name: str):
        self._dtype = normalize_storage_type(name).dtype

    @property
    def dtype(self) -> Any:
        """The dtype of the elements."""
        return self._dtype


def get_default_load_endianness() -> LoadEndianness | None:
    """What `set_default_load_endianness` set; files of the other order are read by what they say."""
    return _options["endianness"]


def set_default_load_endianness(endianness: LoadEndianness | None) -> None:
    """Remember the order of bytes to assume; files tell theirs."""
    _options["endianness"] = endianness


def get_crc32_options() -> bool:
    """Whether files get checksums: what was set; they always do."""
    return _options["crc32"]


def set_crc32_options(compute_crc32: bool) -> None:
    """Remember whether files are to have checksums; they have."""
    _options["crc32"] = compute_crc32


def get_default_mmap_options() -> int:
    """How `load(mmap=True)` maps a file."""
    return _options["mmap"]


class set_default_mmap_options:
    """Say, from here on or for a `with` block, how `load(mmap=True)` maps files: privately, the only way here."""

    def __init__(self, flags: int):
        if flags != MAP_PRIVATE:
            raise KilnNotImplementedError(
                "set_default_mmap_options", "files are mapped privately: what is written stays in memory", flags, "MAP_PRIVATE"
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@contextmanager
def skip_data(materialize_fake_tensors: bool = False) -> Any:
    """Files with room for tensors and nothing in it: refused."""
    raise KilnNotImplementedError(
        "skip_data", "files without their data are not built", None, "save the tensors"
    )
    yield


def location_tag(storage: Any) -> str:
    """The device of a storage, as files name it."""
    return str(storage.device)


def default_restore_location(storage: Any, location: str) -> Any:
    """A storage on the device that a file names: itself on the CPU, an error for a device that is not there."""
    if location != "meta":
        as_device(location)
    return storage


def register_package(priority: int, tagger: Callable, deserializer: Callable) -> None:
    """Name devices in files, and bring storages back to them: there is but the CPU, whose names are known."""


def normalize_storage_type(storage_type: Any) -> Any:
    """The class of storages that a file's or an older program's name stands for."""
    import kiln

    name = storage_type if isinstance(storage_type, str) else storage_type.__name__
    return getattr(kiln, name.rpartition(".")[2])


def storage_to_tensor_type(storage: Any) -> Any:
    """The type of tensors on a storage, such as `FloatTensor`."""
    found = [t for t in TYPES.values() if t.dtype is storage.dtype]
    if not isinstance(storage, TypedStorage) or not found:
        raise KilnError(
            "storage_to_tensor_type",
            "not a typed storage",
            type(storage).__name__,
            "tensor.storage()",
        )
    return found[0]


def validate_cuda_device(location: Any) -> Any:
    """The number of a CUDA device: an error, as there is none."""
    return as_device(location)


@contextmanager
def mkdtemp() -> Any:
    """A folder for the length of a `with` block."""
    with tempfile.TemporaryDirectory() as path:
        yield path
