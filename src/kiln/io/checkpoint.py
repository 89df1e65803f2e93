"""Checkpoints: nested containers of tensors in one safetensors file.

The tensors stand under readable names ("model.0.weight"), so any safetensors reader can take them
out; the nesting, and everything that is not a tensor, is a JSON tree in the file's metadata.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import dtypes as dt
from .. import naming
from ..device import as_device, device
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..shape import Size
from ..tensor import Tensor, wrap
from .files import map_bytes, read_bytes, write_bytes
from .safetensors import decode, encode

VERSION = 1
KEY = "kiln"
CHECKSUM = "kiln.crc32"


class _Writer:
    """Turns an object into a JSON tree and a table of arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.names: dict[
            tuple, str
        ] = {}  # where an array lies -> its name: aliases are stored once
        self.open: set[int] = set()  # the containers that we are inside of

    def tree(self, x: Any, path: str, name: str) -> Any:
        if x is None or type(x) in (bool, int, str):
            return x
        if type(x) is float:
            return x if math.isfinite(x) else {"float": repr(x)}
        if isinstance(x, Tensor):
            return self.tensor(x, name)
        if type(x) is np.ndarray:
            dt.as_dtype(x.dtype)
            return {"array": self.array(x, name)}
        if type(x) is complex:
            return {"complex": [repr(x.real), repr(x.imag)]}
        if isinstance(x, dt.dtype):
            return {"dtype": x.name}
        if isinstance(x, device):
            return {"device": str(x)}
        kind = {
            list: "list",
            tuple: "tuple",
            Size: "size",
            dict: "dict",
            OrderedDict: "ordered",
        }.get(type(x))
        if kind is None:
            raise KilnTypeError(
                "save", f"{path} is of a type that can't be saved: {type(x).__name__}", describe(x),
                "save tensors, numbers, strings, None, lists, tuples and dicts; rebuild the rest in code",
            )  # fmt: skip
        if id(x) in self.open:
            raise KilnValueError(
                "save", f"{path} contains itself", type(x).__name__, "break the cycle"
            )
        self.open.add(id(x))
        if isinstance(x, dict):
            value: Any = [self.item(k, v, path, name) for k, v in x.items()]
        else:
            value = [self.tree(v, f"{path}[{i}]", _join(name, i)) for i, v in enumerate(x)]
        self.open.discard(id(x))
        return value if kind == "list" else {kind: value}

    def item(self, key: Any, value: Any, path: str, name: str) -> list:
        if not (key is None or type(key) in (bool, int, float, str, tuple)):
            raise KilnTypeError(
                "save", f"{path} has a key of a type that can't be saved: {type(key).__name__}",
                describe(key), "use strings or numbers as keys",
            )  # fmt: skip
        where = f"{path}[{key!r}]"
        return [self.tree(key, where, name), self.tree(value, where, _join(name, key))]

    def tensor(self, t: Tensor, name: str) -> Any:
        entry: dict[str, Any] = {"tensor": self.array(t._host("save"), name)}
        if t.requires_grad and t.is_leaf:
            entry["requires_grad"] = True
        if type(t).__name__ == "Parameter":
            entry["parameter"] = True
        return entry

    def array(self, a: np.ndarray, name: str) -> dict:
        place = (a.__array_interface__["data"][0] if a.dtype.isbuiltin == 1 else a.ctypes.data,
                 a.shape, a.strides, a.dtype.str, a.dtype.name)  # fmt: skip
        known = self.names.get(place) if a.size else None
        if known is None:
            known, n = name or "tensor", 1
            while known in self.arrays:
                n += 1
                known = f"{name}#{n}"
            if a.size:
                self.names[place] = known
            self.arrays[known] = _real(a)
        entry: dict[str, Any] = {"name": known}
        if a.dtype.kind == "c":
            entry["dtype"] = dt.OF_NUMPY[a.dtype].name
        return entry


def _checksum(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Of everything in a file: the tree, and each array's name and bytes."""
    crc = zlib.crc32(text.encode())
    for name in sorted(arrays):
        content = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
        crc = zlib.crc32(content.data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


class Snapshot:
    """An object as it is now, for a file that is written later, from any thread: what is changed meanwhile stays out."""

    def __init__(self, obj: Any, copies: bool = True) -> None:
        writer = _Writer()
        try:
            tree = writer.tree(obj, "obj", "")
            self.text = json.dumps({"version": VERSION, "tree": tree}, separators=(",", ":"))
        except RecursionError:
            raise KilnValueError(
                "save", "the object is nested too deeply", type(obj).__name__, "flatten it"
            ) from None
        self.arrays = {k: a.copy() for k, a in writer.arrays.items()} if copies else writer.arrays

    def write(self, f: Any) -> None:
        """Write it to a path, at once or not at all, or to a binary file."""
        metadata = {KEY: self.text, CHECKSUM: _checksum(self.text, self.arrays)}
        write_bytes("save", f, encode("save", self.arrays, metadata))


def _join(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _real(a: np.ndarray) -> np.ndarray:
    """A complex array as pairs of real numbers: safetensors has no complex128."""
    if a.dtype.kind != "c":
        return a
    a = np.array(a, order="C")
    return a.reshape((*a.shape, 1)).view(np.float32 if a.itemsize == 8 else np.float64)


class _Reader:
    """Turns a JSON tree and a table of arrays back into the object."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.tensors: dict[tuple, Tensor] = {}

    def build(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return [self.build(v) for v in node] if isinstance(node, list) else node
        kind = next(iter(node))
        value = node[kind]
        if kind == "tensor":
            return self.tensor(value, bool(node.get("requires_grad")), bool(node.get("parameter")))
        if kind == "array":
            return self.array(value)
        if kind in ("dict", "ordered"):
            return (dict if kind == "dict" else OrderedDict)(
                (self.build(k), self.build(v)) for k, v in value
            )
        if kind in ("tuple", "size"):
            return (tuple if kind == "tuple" else Size)(self.build(v) for v in value)
        if kind == "float":
            return float(value)
        if kind == "complex":
            return complex(float(value[0]), float(value[1]))
        if kind == "dtype":
            return dt.BY_NAME[value]
        if kind == "device":
            return device(value)
        raise ValueError(f"unknown entry {kind!r}")

    def array(self, entry: dict) -> np.ndarray:
        a = self.arrays[entry["name"]]
        if "dtype" in entry:
            a = a.view(dt.BY_NAME[entry["dtype"]].np).reshape(a.shape[:-1])
        return a

    def tensor(self, entry: dict, requires_grad: bool, parameter: bool) -> Tensor:
        key = (entry["name"], requires_grad, parameter)
        if key not in self.tensors:
            t = wrap(self.array(entry))
            if parameter:
                from ..nn import Parameter

                t = Parameter(t, requires_grad)
            elif requires_grad:
                t.requires_grad = True
            self.tensors[key] = t
        return self.tensors[key]


INDEX = ".index.json"
"""The ending of the name of a file that lists those a model is in."""

PYTORCH = (".pt", ".pth", ".ckpt", ".bin", ".tar")
"""Endings of names under which files are PyTorch's."""


def save(
    obj: Any,
    f: Any,
    pickle_module: Any = None,
    pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
    *,
    format: str | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write an object of tensors and plain values to a path or a binary file.

    Dicts, lists, tuples, tensors, numbers, strings, None, dtypes, devices and sizes, nested at will.
    `format` "safetensors" is one that any safetensors reader reads; "torch" is PyTorch's zip file, which
    `torch.load` reads and which is written where a path ends in .pt, .pth, .ckpt, .bin or .tar, and by PyTorch programs
    (`kiln.compat.torch`) always. A path that
    ends in .safetensors.index.json or .bin.index.json gets a dict of tensors in several files of at most
    `max_shard_size` each, and the list of what is in which. Tensors on
    the same memory are stored once, and PyTorch's files have their views share it again. An existing file
    is replaced in one step, so an interrupted save leaves it as it was; a checksum is in the file, and `load` looks at it. Nothing is pickled: PyTorch's
    options of pickle have no effect.

    >>> kiln.save({"model": model.state_dict(), "epoch": 3}, "checkpoint.kiln")
    """
    if str(getattr(f, "name", f)).endswith(INDEX):
        from .sharded import save_index

        save_index(obj, f, max_shard_size)
        return
    if format is None:
        theirs = naming.name == "torch" or str(getattr(f, "name", f)).endswith(PYTORCH)
        format = "torch" if theirs else "safetensors"
    if format not in ("torch", "safetensors"):
        raise KilnValueError("save", "no such format", repr(format), "safetensors or torch")
    if format == "torch":
        from .torchfile import encode as encode_torch

        write_bytes("save", f, encode_torch(obj))
        return
    Snapshot(obj, copies=False).write(f)


def _place(map_location: Any) -> Any:
    """The function that a map_location stands for, None where storages stay as they are read."""
    if map_location is None or isinstance(map_location, str | device):
        as_device(map_location)
        return None
    if isinstance(map_location, dict):

        def place(storage: Any, where: str) -> None:
            as_device(map_location.get(where, "cpu"))

        return place
    if not callable(map_location):
        raise KilnTypeError(
            "load", "map_location must be a device, a dict or a function", describe(map_location), "'cpu'"
        )  # fmt: skip
    return map_location


def load(
    f: Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Read what `save` or `torch.save` wrote, or a plain safetensors file as a dict of tensors.

    Nothing in a file can run code. What one may make beside tensors, arrays and containers is what
    `kiln.serialization.add_safe_globals` was given and, with `weights_only=False`, modules and other
    objects of plain classes that are imported already: their attributes are set, and no code of the class
    is run. Tensors that were on another device come to the CPU; `map_location` may be a device, a dict of
    devices, or a function of a storage and where it was. `mmap` maps PyTorch's file: tensors are read from
    disk when they are used, and writing to them leaves the file as it is. A path that ends in `.index.json`
    is that of a model in several files (`kiln.io.sharded`). A file that is corrupt or cut short is an
    error, and nothing is loaded.
    """
    place = _place(map_location)
    name = str(getattr(f, "name", f))
    if name.endswith(INDEX):
        from .sharded import load_index

        return load_index(
            f, lambda part: load(part, map_location, weights_only=weights_only, mmap=mmap)
        )
    data = map_bytes("load", f) if mmap else read_bytes("load", f)
    if bytes(data[:6]).startswith((b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc")):
        from .torchfile import Options
        from .torchfile import decode as decode_torch

        if mmap and data[:1] != b"P":
            raise KilnError(
                "load", "mmap can only be used with files saved with "
                "`torch.save(_use_new_zipfile_serialization=True)`", name, "leave mmap=False",
            )  # fmt: skip
        return decode_torch(data, name, Options(weights_only is not False, place, bool(mmap)))
    arrays, metadata = decode("load", bytes(data), name)
    if KEY not in metadata:
        return {k: wrap(a) for k, a in arrays.items()}
    told = metadata.get(CHECKSUM)
    if told is not None and told != _checksum(metadata[KEY], arrays):
        raise KilnError(
            "load", "the file is corrupt: its content is not what its checksum was made of", name,
            "nothing was loaded; use another copy of the file",
        )  # fmt: skip
    try:
        content = json.loads(metadata[KEY])
        if content["version"] > VERSION:
            raise KilnError(
                "load",
                "the file was written by a newer version of Kiln",
                name,
                "pip install -U kiln-dl",
            )
        return _Reader(arrays).build(content["tree"])
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        StopIteration,
        RecursionError,
    ) as e:
        raise KilnError(
            "load", "the description of the file's content is corrupt", f"{name}: {e!r}",
            "nothing was loaded; use another copy of the file",
        ) from None  # fmt: skip
