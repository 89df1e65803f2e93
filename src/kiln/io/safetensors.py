"""Plain safetensors files: a flat table of named tensors, readable by every framework.

https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, deserialize

from .. import dtypes as dt
from ..device import as_device
from ..errors import KilnError, KilnTypeError, describe
from ..tensor import Tensor, wrap
from .files import read_bytes, write_bytes

CODES = {
    "BOOL": dt.bool_, "U8": dt.uint8, "I8": dt.int8, "U16": dt.uint16, "I16": dt.int16,
    "U32": dt.uint32, "I32": dt.int32, "U64": dt.uint64, "I64": dt.int64, "F16": dt.float16,
    "BF16": dt.bfloat16, "F32": dt.float32, "F64": dt.float64, "C64": dt.complex64,
}  # fmt: skip


def encode(op: str, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None) -> bytes:
    """The bytes of a file with these arrays."""
    try:
        return safetensors.numpy.save(
            {k: a if a.flags.c_contiguous else a.copy(order="C") for k, a in arrays.items()},
            metadata,
        )
    except (SafetensorError, KeyError, TypeError) as e:
        raise KilnTypeError(
            op, f"safetensors can't hold this: {e}", ", ".join(sorted({a.dtype.name for a in arrays.values()})),
            "convert the tensors first, e.g. kiln.view_as_real(x)",
        ) from None  # fmt: skip


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys stand there once."""
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name is there twice")
    return out


def decode(op: str, data: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays, in memory of their own, and the metadata of a file's bytes."""
    try:
        found = deserialize(data)
        (n,) = np.frombuffer(data[:8], "<u8")
        header = json.loads(data[8 : 8 + int(n)], object_pairs_hook=_once)
        metadata = header.get("__metadata__") or {}
        if any(len(entry["shape"]) > 64 for _, entry in found):
            raise ValueError("a tensor of more than 64 dimensions")
    except (SafetensorError, ValueError, RecursionError) as e:
        if data[:1] == b"\x80":
            raise KilnError(
                op, "this is a pickled file and none of PyTorch's: it could run code", name,
                "save it as safetensors where it was made: safetensors.torch.save_file(state_dict, path)",
            ) from None  # fmt: skip
        raise KilnError(
            op, "not a safetensors file, or it is truncated or corrupt", f"{name}: {e}",
            "nothing was loaded; use another copy of the file",
        ) from None  # fmt: skip
    arrays = {}
    for key, entry in found:
        if entry["dtype"] not in CODES:
            raise KilnTypeError(
                op,
                f"Kiln has no dtype {entry['dtype']}",
                f"tensor {key!r} in {name}",
                "convert it first",
            )
        a = np.frombuffer(entry["data"], CODES[entry["dtype"]].np).reshape(entry["shape"])
        arrays[key] = a if a.flags.writeable else a.copy()
    return arrays, metadata


def _check(tensors: Any, op: str) -> dict[str, np.ndarray]:
    if not isinstance(tensors, Mapping):
        raise KilnTypeError(
            op, "expected a dict of tensors by name", describe(tensors), "e.g. model.state_dict()"
        )
    for k, t in tensors.items():
        if not isinstance(k, str) or not isinstance(t, Tensor):
            raise KilnTypeError(
                op, "safetensors holds tensors by name and nothing else", f"{k!r}: {describe(t)}",
                "use kiln.save for nested objects",
            )  # fmt: skip
    return {k: t._host(op) for k, t in tensors.items()}


def save(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file with these tensors."""
    return encode("safetensors.save", _check(tensors, "safetensors.save"), metadata)


def save_file(
    tensors: Mapping[str, Tensor], filename: Any, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors by name to a safetensors file; an existing one is replaced in one step."""
    op = "safetensors.save_file"
    write_bytes(op, filename, encode(op, _check(tensors, op), metadata))


def load(data: bytes, device: Any = None) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file."""
    as_device(device)
    return {k: wrap(a) for k, a in decode("safetensors.load", data, "bytes")[0].items()}


def load_file(filename: Any, device: Any = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name."""
    as_device(device)
    op = "safetensors.load_file"
    return {k: wrap(a) for k, a in decode(op, read_bytes(op, filename), str(filename))[0].items()}
