"""All of a training's state as plain data: what a checkpoint holds, and how training goes on from it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd.modes import no_grad
from ..data._utils import randomness
from ..errors import KilnError, KilnValueError, KilnWarning, describe
from ..io.checkpoint import Snapshot
from ..io.checkpoint import load as load_file
from ..io.files import KilnFileNotFoundError

if TYPE_CHECKING:
    from .trainer import Trainer

VERSION = 1
SUFFIX = ".kiln"
_PLACE = "epoch", "batch", "step", "updates", "first_epoch", "in_epoch", "pending", "stop"


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Everything that a training needs to go on: tensors among it are the live ones."""
    out: dict[str, Any] = {
        "trainer": VERSION,
        **{k: getattr(trainer, k) for k in _PLACE},
        "model": trainer.model.state_dict(),
        "optimizers": [o.state_dict() for o in trainer.optimizers],
        "callbacks": _plain(trainer.running.state_dict()),
        "history": _plain(trainer.history.state_dict()),
        "streams": randomness.plain(randomness.states()),
    }
    if trainer.in_epoch:
        out["tally"] = {k: list(v) for k, v in trainer.tally.sums.items()}
        out["metrics"] = trainer.objective.state_dict()
    if trainer.pending:  # gradients that wait for more
        out["gradients"] = {
            n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None
        }
    for name in ("feed", "val_feed"):
        feed = getattr(trainer, name)
        if feed is not None:
            out[name] = feed.state_dict()
    return out


def _plain(x: Any) -> Any:
    """With Python's numbers in place of NumPy's."""
    if isinstance(x, Mapping):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(map(_plain, x))
    return x.item() if isinstance(x, np.generic) else x


def load(trainer: Trainer, state: Mapping[str, Any], whole: bool = True) -> None:
    """Go on from a state; `whole=False` takes model, optimizers and history alone."""
    if whole:
        trainer.running.before_load(state["callbacks"])
    trainer.model.load_state_dict(state["model"])
    trainer._ready = True
    if len(state["optimizers"]) != len(trainer.optimizers):
        raise KilnValueError(
            "fit", "the checkpoint is of another number of optimizers",
            f"{len(state['optimizers'])} in it, {len(trainer.optimizers)} here", "resume with the same Trainer",
        )  # fmt: skip
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    trainer.history.load_state_dict(state["history"])
    trainer.step, trainer.updates = state["step"], state["updates"]
    if not whole:
        return
    epochs = trainer.last_epoch - trainer.first_epoch
    for name in _PLACE:
        setattr(trainer, name, state[name])
    trainer.last_epoch = trainer.first_epoch + epochs
    trainer.running.load_state_dict(state["callbacks"])
    if state["in_epoch"]:
        trainer.tally.sums = {k: list(v) for k, v in state["tally"].items()}
        trainer.objective.load_state_dict(state["metrics"])
    with no_grad():
        for name, p in trainer.model.named_parameters():
            p.grad = state.get("gradients", {}).get(name)
    for name in ("feed", "val_feed"):
        feed = getattr(trainer, name)
        if feed is not None and name in state:
            feed.load_state_dict(state[name])
    randomness.restore(state["streams"])


def snapshot(trainer: Trainer) -> Snapshot:
    """The state as it is now, for a file that another thread writes."""
    return Snapshot(state_of(trainer))


def save(trainer: Trainer, path: Any) -> None:
    """Write the state to one file."""
    Snapshot(state_of(trainer), copies=False).write(path)


def read(path: Any) -> dict[str, Any]:
    """The state in a file."""
    state = load_file(path)
    if not isinstance(state, dict) or "trainer" not in state:
        raise KilnValueError(
            "fit", "this file is no checkpoint of a training", str(path),
            "resume from what ModelCheckpoint or save_checkpoint wrote; for weights alone model.load_state_dict(kiln.load(path))",
        )  # fmt: skip
    if state["trainer"] > VERSION:
        raise KilnError("fit", "the checkpoint was written by a newer version of Kiln", str(path), "pip install -U kiln-dl")  # fmt: skip
    return state


def find(where: Any) -> dict[str, Any] | None:
    """The state in a file or, of a folder, in the newest file that is good; None where the folder has none."""
    if isinstance(where, Mapping):
        return dict(where)
    if not isinstance(where, str | os.PathLike):
        raise KilnValueError("fit", "resume is a checkpoint's path, or a folder", describe(where), "resume='checkpoints'")  # fmt: skip
    path = Path(where)
    if path.is_file():
        return read(path)
    if path.suffix and not path.is_dir():
        raise KilnFileNotFoundError("fit", "no such checkpoint", str(path), "check the path")
    for file in newest_first(path):
        try:
            return read(file)
        except KilnValueError:  # weights alone, or somebody else's
            continue
        except KilnError as e:
            warnings.warn(f"the checkpoint {file} is passed over: {e}", KilnWarning, stacklevel=3)
    return None


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder; of those of one instant the name decides."""
    files = folder.glob("*" + SUFFIX) if folder.is_dir() else ()
    return sorted(files, key=lambda f: (f.stat().st_mtime_ns, f.name), reverse=True)


__all__ = ["SUFFIX", "find", "load", "newest_first", "read", "save", "snapshot", "state_of"]
