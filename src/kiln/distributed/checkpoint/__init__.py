"""Files of models that may be spread over processes: a folder, which one process writes and reads.

The folder holds one file of Kiln's; PyTorch's own (`.metadata`, `*.distcp`) are refused.
Source: torch.distributed.checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from ...errors import KilnError, describe
from ...refusal import refuse
from ...tensor import Tensor

_FILE = "checkpoint.safetensors"
_WHY = "what a program says of parts of tensors over several processes is not built yet"


class CheckpointException(KilnError):
    """What is wrong with a checkpoint."""


class FileSystemWriter:
    """A folder to write to."""

    def __init__(self, path: str | os.PathLike, *args: Any, **options: Any) -> None:
        self.path = Path(path)


class FileSystemReader:
    """A folder to read from."""

    def __init__(self, path: str | os.PathLike, *args: Any, **options: Any) -> None:
        self.path = Path(path)


class DefaultSavePlanner:
    """Each tensor whole: what one process writes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.options = options


class DefaultLoadPlanner:
    """Each tensor whole: what one process reads. `allow_partial_load` leaves alone what a file lacks."""

    def __init__(
        self,
        flatten_state_dict: bool = True,
        flatten_sharded_tensors: bool = True,
        allow_partial_load: bool = False,
    ) -> None:
        self.allow_partial_load = allow_partial_load


def _folder(name: str, checkpoint_id: Any, storage: Any) -> Path:
    place = checkpoint_id if checkpoint_id is not None else getattr(storage, "path", None)
    if place is None:
        raise KilnError(name, "no folder is named", describe(storage), "checkpoint_id=path")
    return Path(place)


def _stateful(x: Any) -> bool:
    return hasattr(x, "state_dict") and hasattr(x, "load_state_dict")


def _plain(x: Any) -> Any:
    """Nested state with the state dicts of objects that have one."""
    if _stateful(x):
        x = x.state_dict()
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    return type(x)(map(_plain, x)) if type(x) in (list, tuple) else x


def save(
    state_dict: dict[str, Any], *, checkpoint_id: Any = None, storage_writer: Any = None, planner: Any = None,
    process_group: Any = None, no_dist: bool = False, **options: Any,
) -> None:  # fmt: skip
    """Write nested state to a folder; objects in it (modules, optimizers) by their state dicts."""
    folder = _folder("checkpoint.save", checkpoint_id, storage_writer)
    folder.mkdir(parents=True, exist_ok=True)
    from ...io import save as write

    write(_plain(state_dict), folder / _FILE)


def load(
    state_dict: dict[str, Any], *, checkpoint_id: Any = None, storage_reader: Any = None, planner: Any = None,
    process_group: Any = None, no_dist: bool = False, **options: Any,
) -> None:  # fmt: skip
    """Read a folder of `save` into nested state, in place: tensors are copied into, objects load their state dicts.

    CheckpointException where a tensor is missing or has another size; nothing is changed then.
    """
    folder = _folder("checkpoint.load", checkpoint_id, storage_reader)
    if not (folder / _FILE).exists() and (folder / ".metadata").exists():
        raise CheckpointException(
            "checkpoint.load", "a checkpoint of PyTorch's torch.distributed, which is not read", str(folder),
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save makes a .pt file of it, which kiln.load reads",
        )  # fmt: skip
    from ...io import load as read

    saved = read(folder / _FILE)
    partial = getattr(planner, "allow_partial_load", False)
    wanted = {k: _plain(v) for k, v in state_dict.items()}
    problems: list[str] = []
    _check(wanted, saved, "", partial, problems)
    if problems:
        raise CheckpointException("checkpoint.load", "\n\t".join(problems), str(folder), "nothing was changed")  # fmt: skip
    for k, v in state_dict.items():
        if k not in saved:
            continue
        if _stateful(v):
            v.load_state_dict(saved[k])
        else:
            state_dict[k] = _filled(v, saved[k])


def _check(want: Any, saved: Any, where: str, partial: bool, problems: list[str]) -> None:
    if isinstance(want, dict):
        for k, v in want.items():
            path = f"{where}.{k}" if where else str(k)
            if not isinstance(saved, dict) or k not in saved:
                if not partial:
                    problems.append(f"Missing key in checkpoint state_dict: {path}.")
            else:
                _check(v, saved[k], path, partial, problems)
    elif isinstance(want, Tensor) and (not isinstance(saved, Tensor) or saved.shape != want.shape):
        problems.append(f"Size mismatch between saved {describe(saved)} and current: {describe(want)} for {where}")  # fmt: skip


def _filled(want: Any, saved: Any) -> Any:
    if isinstance(want, MutableMapping) and isinstance(saved, dict):
        for k in list(want):
            if k in saved:
                want[k] = _filled(want[k], saved[k])
        return want
    if isinstance(want, Tensor):
        want.detach().copy_(saved)
        return want
    return saved


def save_state_dict(state_dict: dict[str, Any], storage_writer: Any, *args: Any, **options: Any) -> None:  # fmt: skip
    """The older form of `save`."""
    save(state_dict, storage_writer=storage_writer)


def load_state_dict(
    state_dict: dict[str, Any], storage_reader: Any, *args: Any, **options: Any
) -> None:
    """The older form of `load`."""
    load(state_dict, storage_reader=storage_reader)


refuse(
    __name__, "LoadPlanner SavePlanner StorageReader StorageWriter async_save",
    _WHY, "save and load a folder",
)  # fmt: skip

__all__ = [
    "CheckpointException", "DefaultLoadPlanner", "DefaultSavePlanner", "FileSystemReader", "FileSystemWriter", "load",
    "load_state_dict", "save", "save_state_dict",
]  # fmt: skip
