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
from collections import Counter, OrderedDict
from collections.abc import Callable
from math import prod
from typing import Any

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
from ..tensor import Tensor, wrap
from . import safe
from .pickled import Call, Function, Global, KilnUnpicklingError, Persistent, Reader, Writer

STORAGES = {
    "FloatStorage": dt.float32, "DoubleStorage": dt.float64, "HalfStorage": dt.float16, "BFloat16Storage": dt.bfloat16,
    "LongStorage": dt.int64, "IntStorage": dt.int32, "ShortStorage": dt.int16, "CharStorage": dt.int8,
    "ByteStorage": dt.uint8, "BoolStorage": dt.bool_, "ComplexFloatStorage": dt.complex64,
    "ComplexDoubleStorage": dt.complex128, "UntypedStorage": dt.uint8,
}  # fmt: skip
_STORAGE_OF = {d: name for name, d in STORAGES.items() if name != "UntypedStorage"}
_ALIGN = 64
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
        if not isinstance(x, Tensor | dict | list | tuple | set) or id(x) in self.seen:
            return
        self.seen[id(x)] = x
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
            needed = bool(x.requires_grad and x.is_leaf)
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
        raise KilnTypeError(
            "save", f"an object of a type that can't be saved: {type(x).__name__}", describe(x),
            "save tensors, numbers, strings, None, lists, tuples, sets and dicts; rebuild the rest in code",
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


class _Archive:
    """The entries of a zip archive, each a part of the file's own bytes."""

    def __init__(self, data: bytes, name: str):
        self.data, self.name = memoryview(data), name
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as z:
                entries = z.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error) as e:
            self.refuse(f"not a zip archive, or it is truncated or corrupt ({e})")
        self.places: dict[str, tuple[int, int]] = {}
        end = 0
        for i in sorted(entries, key=lambda i: i.header_offset):
            start = self._start(i)
            if i.header_offset < end:
                self.refuse("entries of the archive overlap")
            end = start + i.file_size
            if i.filename in self.places or end > len(data):
                self.refuse("an entry of the archive is there twice, or reaches past its end")
            if zlib.crc32(self.data[start:end]) != i.CRC:
                self.refuse(f"the entry {i.filename} is corrupt: its checksum differs")
            self.places[i.filename] = start, end
        trees = [n for n in self.places if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(trees) != 1:
            self.refuse("not a file of tensors: it has no data.pkl")
        self.prefix = trees[0].removesuffix("data.pkl")

    def refuse(self, what: str) -> Any:
        raise KilnUnpicklingError(
            "load", what, self.name, "nothing was loaded; use another copy of the file"
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


def decode(data: bytes, name: str) -> Any:
    """The object in the bytes of a file that PyTorch wrote."""
    if data[:4] != b"PK\x03\x04":
        return _decode_legacy(data, name)
    archive = _Archive(data, name)
    if "byteorder" in archive and bytes(archive["byteorder"]) != b"little":
        archive.refuse("the file was written on a big-endian machine")
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, count: int, width: int) -> np.ndarray:
        if key not in storages:
            storages[key] = np.frombuffer(archive[f"data/{key}"], np.uint8).copy()
        if len(storages[key]) != count * width:
            archive.refuse(
                f"storage {key} has {len(storages[key])} bytes instead of {count * width}"
            )
        return storages[key]

    return _reader(archive["data.pkl"], storage, name).load()


class _Storage:
    """A storage in a file: its bytes and what they are."""

    def __init__(self, dtype: dt.dtype, data: np.ndarray):
        self.dtype, self.data = dtype, data


def _reader(data: Any, storage: Callable[[str, int, int], np.ndarray], name: str) -> Reader:
    """A reader of pickled trees whose storages `storage(key, elements, bytes of each)` gives."""

    def persistent(where: Any) -> _Storage:
        kind, of, key, _, n = where[:5]
        if (kind, type(of), type(key), type(n)) != ("storage", _StorageType, str, int) or n < 0:
            reader.refuse("the pickled data is corrupt: not a storage")
        width = of.dtype.itemsize
        memory = storage(key, n, width)
        if len(where) > 5 and where[5] is not None:  # in old files: a part of a storage
            _, first, count = where[5]
            memory = memory[first * width : (first + count) * width]
        return _Storage(of.dtype, memory)

    reader = Reader(data, lambda module, key: _find(reader, module, key), persistent, name)
    return reader


class _StorageType:
    """The type of a storage, by which a file names its dtype."""

    def __init__(self, dtype: dt.dtype):
        self.dtype = dtype


def _find(reader: Reader, module: str, name: str) -> Any:
    """What a name in a file stands for."""
    module = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray"}.get(
        module, module
    )
    full = f"{module}.{name}"
    if full in _FUNCTIONS:
        return _FUNCTIONS[full]
    if module in ("torch", "torch.storage"):
        if name in STORAGES:
            return _StorageType(STORAGES[name])
        if name in dt.BY_NAME and module == "torch":
            return dt.BY_NAME[name]
    found = safe.find(full)
    if found is not None:
        return found
    return reader.refuse(
        f"the file refers to {full}, which is not on the list of what a file may make",
        f"save model.state_dict() in place of the model, or, if you trust {full}, "
        f"kiln.serialization.add_safe_globals([{name}])",
    )


def _tensor(storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool = False,
            hooks: Any = None, metadata: Any = None) -> Tensor:  # fmt: skip
    return _strided(storage, storage.dtype, offset, size, stride, requires_grad)


def _tensor_of_dtype(storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool,
                     hooks: Any, dtype: Any, metadata: Any = None) -> Tensor:  # fmt: skip
    return _strided(storage, dtype, offset, size, stride, requires_grad)


def _strided(
    storage: Any, dtype: Any, offset: int, size: Any, stride: Any, requires_grad: bool
) -> Tensor:
    """A view of a storage, which must hold all of its elements."""
    if type(storage) is not _Storage or not isinstance(dtype, dt.dtype):
        raise ValueError("a tensor without a storage or a dtype")
    numbers = [offset, *size, *stride]
    if any(type(n) is not int or not 0 <= n < 2**62 for n in numbers) or len(size) != len(stride):
        raise ValueError(f"a tensor of size {size} and strides {stride} at {offset}")
    width, memory = dtype.itemsize, storage.data
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if prod(size) >= 2**62 or (0 not in size and (last + 1) * width > memory.size):
        raise ValueError(f"a tensor of size {size} reaches outside its storage")
    if 0 in size:
        a = np.empty(size, dtype.np)
    else:
        a = np.ndarray(size, dtype.np, memory, offset * width, [s * width for s in stride])
    t = wrap(a)
    if requires_grad:
        t.requires_grad = True
    return t


def _parameter(data: Any, requires_grad: bool, hooks: Any = None, state: Any = None) -> Tensor:
    from ..nn import Parameter

    return Parameter(data, bool(requires_grad))


def _sparse(layout: Any, parts: Any) -> Tensor:
    from ..sparse import rebuild

    return rebuild(layout, parts)


def _layout(name: str) -> Any:
    found = formats.BY_NAME[name.removeprefix("torch.")]
    if not isinstance(found, formats.layout):
        raise ValueError(name)
    return found


def _encode(text: str, encoding: str = "") -> bytes:
    return text.encode("latin-1")


def _number(dtype: Any, data: bytes) -> Any:
    """A NumPy number."""
    (out,) = np.frombuffer(data, dtype)
    return out


def _numpy_dtype(name: str, *_: Any) -> np.dtype:
    out = np.dtype(name)
    if out.hasobject or out.names:
        raise ValueError(f"a dtype of objects: {name}")
    return out


def _order(d: np.dtype, state: Any) -> None:
    if state[1] == ">":
        raise ValueError("numbers of another byte order")


_FUNCTIONS = {
    "torch._utils._rebuild_tensor_v2": Function(_tensor, lambda t, state: None),
    "torch._utils._rebuild_tensor": Function(_tensor),
    "torch._utils._rebuild_tensor_v3": Function(_tensor_of_dtype),
    "torch._utils._rebuild_parameter": Function(_parameter),
    "torch._utils._rebuild_parameter_with_state": Function(_parameter),
    "torch._utils._rebuild_sparse_tensor": Function(_sparse),
    "torch.serialization._get_layout": Function(_layout),
    "torch.Size": Function(lambda sizes=(): Size(sizes)), "torch.device": Function(device),
    "collections.OrderedDict": Function(OrderedDict), "collections.Counter": Function(Counter),
    "collections.defaultdict": Function(lambda make=None: {}),
    "builtins.set": Function(set), "builtins.frozenset": Function(frozenset),
    "builtins.complex": Function(complex), "builtins.bytearray": Function(lambda x=b"", *_: bytearray(x)),
    "_codecs.encode": Function(_encode),
    "numpy.core.multiarray.scalar": Function(_number), "numpy.dtype": Function(_numpy_dtype, _order),
}  # fmt: skip


# ---------------------------------------------------------------- files from before PyTorch 1.6


def _decode_legacy(data: bytes, name: str) -> Any:
    """The object in a file of pickles, one after the other, with the storages behind them."""
    storages: dict[str, np.ndarray] = {}
    widths: dict[str, int] = {}

    def storage(key: str, count: int, width: int) -> np.ndarray:
        if count * width > len(data) or widths.setdefault(key, width) != width:
            reader.refuse("a storage is larger than the file, or of two dtypes")
        return storages.setdefault(key, np.zeros(count * width, np.uint8))

    reader = _reader(data, storage, name)
    if reader.load() != _LEGACY:
        reader.refuse(
            "a pickled file that is none of PyTorch's, which could run code",
            "save it as safetensors where it was made: safetensors.torch.save_file(state_dict, path)",
        )
    reader.load()  # the version of the format
    reader.load()  # sizes of C's types where it was written
    out = reader.load()
    for key in reader.load():
        (count,) = struct.unpack("<q", reader._take(8))
        into = storages.get(key, np.empty(0, np.uint8))
        if key not in storages or count * widths[key] != len(into):
            reader.refuse("a storage has another size than it should")
        into[:] = np.frombuffer(reader._take(len(into)), np.uint8)
    return out
