"""PyTorch's files (.pt, .pth): zip archives of storages and a pickled tree, read and written without pickle.

A file may call nothing but the functions listed here, which make tensors, sizes and the like, and what
the user has named by `kiln.serialization.add_safe_globals`.
https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.lib.stride_tricks import as_strided

from .. import dtypes as dt
from .. import formats
from ..composed import ComposedTensor
from ..device import device
from ..errors import KilnTypeError, KilnValueError, describe
from ..shape import Size
from ..sharing import outermost
from ..storage import TypedStorage, UntypedStorage
from ..tensor import Tensor
from . import objects, safe
from .pickled import Call, Global, KilnUnpicklingError, Persistent, Reader, Writer, printable
from .torchnames import STORAGES, StorageType, lacking, plain

_STORAGE_OF = {d: name for name, d in STORAGES.items() if name != "UntypedStorage"}
_ALIGN = 64


class Options(NamedTuple):
    """What a user says about a file that is read."""

    weights_only: bool = True
    place: Callable[[UntypedStorage, str], Any] | None = None
    """Gives the storage to use for one and where it was, or None: a function given as map_location."""
    mapped: bool = False
    """Whether the file's bytes are mapped memory: what is read from it is not copied, nor checked."""

    def put(self, memory: np.ndarray, where: str) -> np.ndarray:
        """The bytes of a storage where they are wanted."""
        if self.place is None:
            return memory
        found = self.place(UntypedStorage(memory), where)
        return memory if found is None else found._bytes


_LEGACY = 0x1950A86A20F9469CFC6C


# ---------------------------------------------------------------- writing


class _Storages:
    """The memory that an object's tensors lie in: each stretch once, as far as they reach."""

    def __init__(self) -> None:
        self.bounds: dict[tuple, list[Any]] = {}  # the memory, its first and last byte
        self.numbers: dict[tuple, int] = {}
        self.stored: list[bytes] = []
        self.seen: dict[int, Any] = {}
        self.arrays: dict[int, np.ndarray] = {}  # by id of a tensor

    def find(self, x: Any) -> None:
        """Take in the tensors of an object."""
        if x is None or type(x) in (bool, int, float, str, bytes) or id(x) in self.seen:
            return
        self.seen[id(x)] = x
        if not isinstance(x, Tensor | dict | list | tuple | set):
            self.find(objects.within(x))
            return
        if isinstance(x, Tensor):
            for part in _parts(x):
                a = part._host("save")
                a = a.copy() if any(s < 0 for s in a.strides) else a
                self.arrays[id(part)] = a
                low, high = byte_bounds(a)
                entry = self.bounds.setdefault(_memory(a), [outermost(a), low, high])
                entry[1:] = min(low, entry[1]), max(high, entry[2])
            return
        for y in x:
            self.find(y)
            if isinstance(x, dict):
                self.find(x[y])

    def place(self, a: np.ndarray) -> tuple[int, int, int]:
        """The number of the storage that an array lies in, its elements, and where the array begins."""
        key = _memory(a)
        root, low, high = self.bounds[key]
        n = self.numbers.get(key)
        if n is None:
            n = self.numbers[key] = len(self.stored)
            start, end = byte_bounds(root)
            items = as_strided(root, ((end - start) // root.itemsize,), (root.itemsize,))
            self.stored.append(items.view(np.uint8)[low - start : high - start].tobytes())
        start = byte_bounds(a)[0] if a.size else low
        return n, (high - low) // a.itemsize, (start - low) // a.itemsize


def _memory(a: np.ndarray) -> tuple:
    """What arrays of one dtype on one piece of memory have in common."""
    return id(outermost(a)), a.dtype.name


def _parts(x: Tensor) -> list[Tensor]:
    """The strided tensors that a tensor is made of."""
    return x._components() if isinstance(x, ComposedTensor) else [x]


def _reduce(storages: _Storages) -> Callable[[Any], Any]:
    """What stands for each object in a file."""
    made: dict[int, Persistent] = {}

    def storage(a: np.ndarray, name: str) -> Persistent:
        n, size, _ = storages.place(a)
        if n not in made:
            size *= a.itemsize if name == "UntypedStorage" else 1
            module = "torch.storage" if name == "UntypedStorage" else "torch"
            made[n] = Persistent(("storage", Global(module, name), str(n), "cpu", size))
        return made[n]

    def dense(x: Tensor, requires_grad: bool) -> Call:
        a = storages.arrays[id(x)]
        strides = tuple(s // a.itemsize for s in a.strides)
        where = (storages.place(a)[2], tuple(a.shape), strides, requires_grad, OrderedDict())
        name = _STORAGE_OF.get(x.dtype)
        if name is None:  # dtypes younger than the typed storages
            args = (storage(a, "UntypedStorage"), *where, x.dtype)
            return Call(Global("torch._utils", "_rebuild_tensor_v3"), args)
        return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage(a, name), *where))

    def reduce(x: Any) -> Any:
        if isinstance(x, Tensor):
            kind = type(x).__name__
            if isinstance(x, ComposedTensor):
                layout = Call(
                    Global("torch.serialization", "_get_layout"), (f"torch.{x.layout.name}",)
                )
                made_of = (layout, x._rebuilding())
                return Call(Global("torch._utils", "_rebuild_sparse_tensor"), made_of)
            needed = x.requires_grad  # of what is no leaf too: it is one in the file
            if kind == "Parameter":
                held = dense(x, False)
                return Call(
                    Global("torch._utils", "_rebuild_parameter"), (held, needed, OrderedDict())
                )
            return dense(x, needed)
        if isinstance(x, Call | Global | Persistent):
            return x
        if type(x) is Size:
            return Call(Global("torch", "Size"), (tuple(x),))
        if isinstance(x, dt.dtype):
            return Global("torch", x.name)
        if isinstance(x, device):
            return Call(
                Global("torch", "device"), (x.type,) if x.index is None else (x.type, x.index)
            )
        if isinstance(x, formats.layout):
            return Call(Global("torch.serialization", "_get_layout"), (f"torch.{x.name}",))
        made = objects.reduce(x)
        if made is not None:
            return made
        raise KilnTypeError(
            "save", f"an object of a type that can't be saved: {type(x).__name__}", describe(x),
            "save tensors, numbers, strings, None, lists, tuples, sets, dicts, and objects of classes that "
            "can be imported; rebuild the rest in code",
        )  # fmt: skip

    return reduce


def encode(obj: Any, name: str = "archive") -> bytes:
    """The bytes of a file that PyTorch reads (`torch.load`, its `weights_only` included)."""
    storages = _Storages()
    try:
        storages.find(obj)
        tree = Writer(_reduce(storages)).dumps(obj)
    except RecursionError:
        raise KilnValueError(
            "save", "the object is nested too deeply, or contains itself", type(obj).__name__, ""
        ) from None
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as z:

        def add(path: str, data: Any) -> None:
            info = zipfile.ZipInfo(f"{name}/{path}")
            ahead = out.tell() + 30 + len(info.filename.encode()) + 4
            gap = -ahead % _ALIGN
            info.extra = b"FB" + struct.pack("<H", gap) + b"Z" * gap
            z.writestr(info, data)

        add("data.pkl", tree)
        add("byteorder", b"little")
        for n, stored in enumerate(storages.stored):
            add(f"data/{n}", stored)
        add("version", b"3\n")
    return out.getvalue()


# ---------------------------------------------------------------- reading


class _File(io.RawIOBase):
    """Bytes that are read as a file without a copy of them all."""

    def __init__(self, data: memoryview):
        self.data, self.at = data, 0

    def seekable(self) -> bool:
        return True

    readable = seekable

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, offset + (0, self.at, len(self.data))[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, into: Any) -> int:
        part = self.data[self.at : self.at + len(into)]
        into[: len(part)] = part
        self.at += len(part)
        return len(part)


class _Archive:
    """The entries of a zip archive, each a part of the file's own bytes."""

    def __init__(self, data: Any, name: str, check: bool = True):
        self.data, self.name = memoryview(data), name
        try:
            with zipfile.ZipFile(_File(self.data)) as z:  # type: ignore[arg-type]
                entries = z.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error) as e:
            self.refuse(f"not a zip archive, or it is truncated or corrupt ({e})")
        if any(i.filename.endswith("/constants.pkl") for i in entries):
            self.refuse(
                "the file holds a TorchScript program; save model.state_dict() where it is made"
            )
        self.places: dict[str, tuple[int, int]] = {}
        end = 0
        for i in sorted(entries, key=lambda i: i.header_offset):
            start = self._start(i)
            if i.header_offset < end:
                self.refuse("entries of the archive overlap")
            end = start + i.file_size
            if i.filename in self.places or end > len(data):
                self.refuse("an entry of the archive is there twice, or reaches past its end")
            if check and zlib.crc32(self.data[start:end]) != i.CRC:
                self.refuse(f"the entry {i.filename} is corrupt: its checksum differs")
            self.places[i.filename] = start, end
        trees = [n for n in self.places if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(trees) != 1:
            self.refuse("not a file of tensors: it has no data.pkl")
        self.prefix = trees[0].removesuffix("data.pkl")

    def refuse(self, what: str) -> Any:
        raise KilnUnpicklingError(
            "load", printable(what), self.name, "nothing was loaded; use another copy of the file"
        ) from None

    def _start(self, i: zipfile.ZipInfo) -> int:
        """Where an entry's bytes begin."""
        head = self.data[i.header_offset : i.header_offset + 30]
        if len(head) != 30 or bytes(head[:4]) != b"PK\x03\x04" or i.flag_bits & 1:
            self.refuse("the archive is truncated or corrupt")
        if i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size:
            self.refuse("an entry of the archive is compressed, which files of tensors never are")
        names, extra = struct.unpack("<HH", head[26:30])
        return i.header_offset + 30 + names + extra

    def __getitem__(self, path: str) -> memoryview:
        place = self.places.get(self.prefix + path)
        if place is None:
            self.refuse(f"an entry is missing: {path}")
        return self.data[slice(*place)]  # type: ignore[misc]

    def __contains__(self, path: str) -> bool:
        return self.prefix + path in self.places


_PLAIN = Options()


def decode(data: Any, name: str, options: Options = _PLAIN) -> Any:
    """The object in the bytes of a file that PyTorch wrote."""
    if bytes(data[:4]) != b"PK\x03\x04":
        return _decode_legacy(data, name, options)
    archive = _Archive(data, name, not options.mapped)
    if "byteorder" in archive and bytes(archive["byteorder"]) != b"little":
        archive.refuse("the file was written on a big-endian machine")
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, count: int, width: int, where: str) -> np.ndarray:
        if key not in storages:
            found = np.frombuffer(archive[f"data/{key}"], np.uint8)
            if not options.mapped or found.ctypes.data % 16:
                found = found.copy()
            storages[key] = options.put(found, where)
        if len(storages[key]) != count * width:
            archive.refuse(
                f"storage {key} has {len(storages[key])} bytes instead of {count * width}"
            )
        return storages[key]

    return _reader(archive["data.pkl"], storage, name, options).load()


def _reader(
    data: Any, storage: Callable[[str, int, int, str], np.ndarray], name: str, options: Options
) -> Reader:
    """A reader of pickled trees whose storages `storage(key, elements, bytes of each, where)` gives."""

    def persistent(where: Any) -> TypedStorage:
        kind, of, key, place, n = where[:5]
        if (kind, type(of), type(key), type(n)) != ("storage", StorageType, str, int) or n < 0:
            reader.refuse("the pickled data is corrupt: not a storage")
        width = of.dtype.itemsize
        memory = storage(key, n, width, str(place))
        if len(where) > 5 and where[5] is not None:  # in old files: a part of a storage
            _, first, count = where[5]
            if (
                type(first) is not int
                or type(count) is not int
                or not 0 <= first <= first + count <= n
            ):
                reader.refuse("the pickled data is corrupt: not a part of a storage")
            memory = memory[first * width : (first + count) * width]
        return TypedStorage(wrap_storage=UntypedStorage(memory), dtype=of.dtype)

    reader = Reader(data, lambda module, key: _find(reader, module, key, options), persistent, name)
    return reader


def _find(reader: Reader, module: str, name: str, options: Options) -> Any:
    """What a name in a file stands for."""
    module = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray"}.get(
        module, module
    )
    full = f"{module}.{name}"
    found = plain(full)
    if found is None:
        found = safe.find(module, name)
    if found is None and not options.weights_only:
        found = objects.find(module, name)
    if found is not None:
        return found
    if what := lacking(full):
        what, _, cure = what.partition(": ")
        return reader.refuse(f"the file holds {what}, which Kiln does not have", cure)
    also = (
        ""
        if not options.weights_only
        else "weights_only=False for modules and other plain objects, "
    )
    return reader.refuse(
        f"the file refers to {full}, which is not on the list of what a file may make",
        f"save model.state_dict() in place of the model, or, if you trust the file, {also}"
        f"kiln.serialization.add_safe_globals([{name}])",
    )


# ---------------------------------------------------------------- files from before PyTorch 1.6


def _decode_legacy(data: bytes, name: str, options: Options) -> Any:
    """The object in a file of pickles, one after the other, with the storages behind them."""
    storages: dict[str, np.ndarray] = {}
    widths: dict[str, int] = {}
    room = len(data)

    def storage(key: str, count: int, width: int, where: str) -> np.ndarray:
        nonlocal room
        if key not in storages:
            room -= count * width
            if room < 0:
                reader.refuse("storages are larger than the file")
            storages[key] = options.put(np.zeros(count * width, np.uint8), where)
        if widths.setdefault(key, width) != width or len(storages[key]) != count * width:
            reader.refuse("a storage of two dtypes or sizes")
        return storages[key]

    reader = _reader(data, storage, name, options)
    if reader.load() != _LEGACY:
        reader.refuse(
            "a pickled file that is none of PyTorch's, which could run code",
            "save it as safetensors where it was made: safetensors.torch.save_file(state_dict, path)",
        )
    reader.load()  # the version of the format
    reader.load()  # sizes of C's types where it was written
    out = reader.load()
    keys = reader.load()
    if type(keys) is not list or len({*map(str, keys)}) != len(keys):
        reader.refuse("the pickled data is corrupt: no list of storages")
    for key in keys:
        (count,) = struct.unpack("<q", reader._take(8))
        if type(key) is not str or key not in storages:
            reader.refuse("the pickled data is corrupt: a storage that no tensor has")
        into = storages[key]
        if count * widths[key] != len(into):
            reader.refuse("a storage has another size than it should")
        into[:] = np.frombuffer(reader._take(len(into)), np.uint8)
    return out
