"""Models in several files: an index that says which tensor is in which.

The layout is that of `model.safetensors.index.json` and `pytorch_model.bin.index.json`, in which large
models are published: {"metadata": {"total_size": bytes}, "weight_map": {name: file}}.
https://huggingface.co/docs/huggingface_hub/package_reference/serialization
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..tensor import Tensor
from .files import _path, read_bytes, write_bytes

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


def load_index(f: Any, load: Callable[[Path], Any]) -> dict[str, Tensor]:
    """The tensors of all files that an index lists, each file read once.

    The files stand beside the index. An index that lists other places, or tensors that a file doesn't
    hold, is refused.
    """
    path = _path("load", f)
    try:
        content = json.loads(read_bytes("load", path))
        where = content["weight_map"]
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in where.items()):
            raise TypeError("names and files must be strings")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise _refused(
            path, f"not an index of tensors in files ({type(e).__name__}: {e})"
        ) from None
    for file in set(where.values()):
        # a bare name: neither of a folder, nor a device, on any system
        if (
            file in ("", "..")
            or PurePosixPath(file).name != file
            or PureWindowsPath(file).name != file
        ):
            raise _refused(path, f"the index lists a file outside of its folder: {file!r}")
    out: dict[str, Tensor] = {}
    for file in dict.fromkeys(where.values()):
        held = load(path.parent / file)
        names = [k for k, v in where.items() if v == file]
        if not isinstance(held, Mapping):
            raise _refused(path, f"{file} holds no dict of tensors")
        for name in names:
            if not isinstance(held.get(name), Tensor):
                raise _refused(path, f"{file} doesn't hold the tensor {name!r}")
            out[name] = held[name]
    return {name: out[name] for name in where}


def save_index(tensors: Any, f: Any, max_shard_size: int | str) -> None:
    """Write a dict of tensors in files of at most this size each, then the index that lists them.

    A tensor larger than that has a file of its own; tensors on the same memory share a file.
    """
    from .checkpoint import PYTORCH, save
    from .safetensors import save_file

    path = _path("save", f)
    base = path.name.removesuffix(".index.json")
    stem, dot, ending = base.rpartition(".")
    if not stem or (dot + ending) not in (*PYTORCH, ".safetensors"):
        raise KilnValueError(
            "save", "the name of an index tells the format of its files", path.name,
            "model.safetensors.index.json or pytorch_model.bin.index.json",
        )  # fmt: skip
    if not isinstance(tensors, Mapping) or not all(
        isinstance(k, str) and isinstance(t, Tensor) for k, t in tensors.items()
    ):
        raise KilnTypeError(
            "save", "an index lists tensors by name and nothing else", describe(tensors), "model.state_dict()"
        )  # fmt: skip
    groups = _shared(tensors)
    limit = as_bytes(max_shard_size)
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for size, names in groups:
        if shards[-1] and used + size > limit:
            shards.append({})
            used = 0
        shards[-1].update((n, tensors[n]) for n in names)
        used += size
    where = {}
    for i, shard in enumerate(shards, 1):
        file = f"{stem}-{i:05d}-of-{len(shards):05d}.{ending}"
        if ending == "safetensors":
            save_file(shard, path.parent / file, {"format": "pt"})
        else:
            save(shard, path.parent / file, format="torch")
        where.update(dict.fromkeys(shard, file))
    total = sum(size for size, _ in groups)
    index = {"metadata": {"total_size": total}, "weight_map": {n: where[n] for n in tensors}}
    write_bytes("save", path, json.dumps(index, indent=2).encode() + b"\n")


def _shared(tensors: Mapping[str, Tensor]) -> list[tuple[int, list[str]]]:
    """Names by the memory that they share, with its bytes."""
    groups: dict[Any, tuple[int, list[str]]] = {}
    for name, t in tensors.items():
        size = t.numel() * t.element_size()
        key = t.untyped_storage().data_ptr() if size else name
        most, names = groups.get(key, (0, []))
        groups[key] = max(most, size), [*names, name]
    return list(groups.values())


def as_bytes(size: int | str) -> int:
    """A number of bytes, as "5GB" or "200MiB" say it too."""
    if isinstance(size, int):
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B|)\s*", size.upper())
    if not found or found[2] not in (*_UNITS, "B"):
        raise KilnValueError("save", "not a number of bytes", repr(size), "e.g. '5GB'")
    return int(float(found[1]) * _UNITS.get(found[2], 1))


def _refused(path: Path, what: str) -> KilnError:
    return KilnError("load", what, str(path), "nothing was loaded; use another copy of the files")
