"""Data as a Trainer takes it: what is given becomes batches, whose place can be saved."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from ..compile.pytree import flatten, unflatten
from ..data import DataLoader, Dataset, IterableDataset, Pipeline, TensorDataset
from ..data._utils import randomness
from ..errors import KilnTypeError, KilnValueError, describe
from ..ops.creation import as_tensor
from ..random import Generator
from ..tensor import Tensor
from .limits import batches


class Batch(NamedTuple):
    """What the model is called with, what should come out, and what each sample counts."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any
    weight: Any = None


class Weighted(tuple):
    """A batch, or columns of data, (x, …, y, sample weights)."""


def rows(tree: Any) -> int:
    """How many samples a batch, or a part of one, has: the first size of its first tensor that has one."""
    if isinstance(tree, Tensor):
        return tree._a.shape[0] if tree._a.ndim else 0
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return 0
    for part in tree:
        if n := rows(part):
            return n
    return 0


def is_arrays(data: Any) -> bool:
    """Whether data is a tuple or list of arrays, or of dicts of them: whole columns, not batches."""
    if isinstance(data, list):  # of dicts, and of tuples, it is a list of batches
        return bool(data) and all(map(_is_array, data))
    if not isinstance(data, tuple) or not any(map(_is_column, data)):
        return False
    return all(
        _is_column(x) or (isinstance(x, tuple) and bool(x) and all(map(_is_array, x))) for x in data
    )


def _is_array(x: Any) -> bool:
    return isinstance(x, Tensor | np.ndarray)


def _is_column(x: Any) -> bool:
    return _is_array(x) or (isinstance(x, Mapping) and bool(x) and all(map(_is_array, x.values())))


class Feed:
    """Epochs of batches of whatever the user gave, with a place that can be saved and gone on from.

    With `steps` an epoch is so many batches, and the next epoch goes on where it ended or, where it `restarts`, begins
    at the beginning again; else it is one pass over the data. `limit` cuts each pass short, after so many batches or so great a share. NumPy's float64 arrays are taken as `dtype`.
    """

    def __init__(
        self, data: Any, batch_size: int | None = 32, shuffle: bool = False, steps: int | None = None,
        weight: Any = None, restarts: bool = False, dtype: Any = None, limit: float | None = None,
    ) -> None:  # fmt: skip
        self.dtype = dtype
        self.limit: int | None = None
        self.restarts = restarts
        self.given, self.steps = data, steps
        self.weighted = weight is not None
        self._structure: Any = None
        self.loader = self._loader(data, batch_size, shuffle, weight)
        self.limit = batches("the limit", limit, self.length)
        self._pass: Iterator[Any] | None = None
        self._taken = 0
        self._streams: Any = None
        self._resume: dict[str, Any] | None = None

    def _loader(self, data: Any, batch_size: int | None, shuffle: bool, weight: Any) -> Iterable:
        size = 32 if batch_size is None else batch_size
        if is_arrays(data):
            columns = (*data, weight) if self.weighted else tuple(data)
            leaves: list[Any] = []
            structure = flatten(columns, leaves)
            if not all(map(_is_array, columns)):
                self._structure = structure
            data = TensorDataset(*map(self._tensor, leaves))
            # An order that nothing decides draws no numbers of the program's.
            return DataLoader(
                data, size, shuffle=shuffle, generator=None if shuffle else Generator()
            )
        if self.weighted:
            raise KilnTypeError(
                "Trainer", "sample_weight goes with arrays", describe(data),
                "have the loader give the weights, and use them in a loss of your own",
            )  # fmt: skip
        if isinstance(data, DataLoader | Pipeline):
            return data
        if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            if _is_batches(data):
                return cast(Iterable, data)
            order = None if isinstance(data, IterableDataset) else shuffle
            return DataLoader(cast(Dataset, data), size, shuffle=order)
        if isinstance(data, Iterable) and not isinstance(data, Tensor):
            return data
        raise KilnTypeError(
            "Trainer", "data must be a DataLoader, a Dataset, or arrays (x, y)", describe(data),
            "e.g. trainer.fit((x, y), batch_size=64)",
        )  # fmt: skip

    def _tensor(self, x: Any) -> Tensor:
        """A column; NumPy's float64, which is its default and rarely meant, in the model's dtype."""
        return as_tensor(x, self.dtype if getattr(x, "dtype", None) == np.float64 else None)

    def __len__(self) -> int:
        """Batches in an epoch; TypeError where nobody knows."""
        n = len(self.loader) if self.steps is None else self.steps  # type: ignore[arg-type]
        return n if self.limit is None else min(n, self.limit)

    @property
    def length(self) -> int | None:
        """Batches in an epoch, None where nobody knows."""
        try:
            return len(self)
        except TypeError:
            return None

    def begin(self, epoch: int) -> None:
        """Tell a sampler that shuffles by the epoch's number which one it is (DistributedSampler)."""
        for owner in ("sampler", "batch_sampler"):
            tell = getattr(getattr(self.loader, owner, None), "set_epoch", None)
            if tell is not None:
                tell(epoch)

    def epoch(self, done: int = 0) -> Iterator[Any]:
        """The batches of an epoch, `done` of which were given out before (by another process)."""
        if self.limit is not None or (self.restarts and self.steps is not None):
            most = min(n for n in (self.limit, self.steps) if n is not None)
            yield from itertools.islice(self._one_pass(), most - done)
            self._taken = 0
            return
        if self.steps is None:
            yield from self._one_pass()
            return
        for _ in range(done, self.steps):
            if self._pass is None:
                self._pass = self._one_pass()
            batch = next(self._pass, None)
            if batch is None:
                self._pass = self._one_pass()
                batch = next(self._pass, None)
                if batch is None:
                    raise KilnValueError(
                        "fit", f"the data ended before an epoch's {self.steps} batches", describe(self.given),
                        "give an iterable that can be gone through again, or fewer steps_per_epoch",
                    )  # fmt: skip
            yield batch

    def _one_pass(self) -> Iterator[Any]:
        for batch in self._open():
            self._taken += 1
            yield batch if self._structure is None else self._restored(batch)
        self._taken = 0

    def _restored(self, leaves: Sequence[Any]) -> Any:
        it = iter(leaves)
        return unflatten(self._structure, lambda: next(it))

    def _open(self) -> Iterator[Any]:
        state, self._resume = self._resume, None
        self._streams = randomness.states()
        if state is None or not state["taken"]:
            return iter(self.loader)
        self._taken = state["taken"]
        if hasattr(self.loader, "load_state_dict"):
            self._streams = None
            return iter(self.loader)
        now = self._streams
        randomness.restore(state["streams"])  # where the pass was begun: an order is drawn again
        self._streams = randomness.states()
        it = iter(self.loader)
        for _ in itertools.islice(it, self._taken):
            pass
        randomness.restore(now)
        return it

    def state_dict(self) -> dict[str, Any]:
        """The place, as plain data: after any batch that `epoch` gave, or between epochs; {} where there is none."""
        if self.restarts and self.steps is not None:
            return {}
        if self._resume is not None:
            return self._resume
        out: dict[str, Any] = {"taken": self._taken}
        if hasattr(self.loader, "state_dict"):
            out["loader"] = self.loader.state_dict()  # type: ignore[attr-defined]
        elif self._taken:
            out["streams"] = randomness.plain(self._streams)
        return out

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next epoch go on from such a place."""
        if not state:
            return
        if ("loader" in state) != hasattr(self.loader, "load_state_dict"):
            raise KilnValueError(
                "fit", "the checkpoint was made with another kind of data", describe(self.given),
                "resume with the data that training began with",
            )  # fmt: skip
        if "loader" in state and (self.limit is None or state["taken"]):  # a pass cut short is over
            self.loader.load_state_dict(state["loader"])  # type: ignore[attr-defined]
        self._resume = state


def _is_batches(data: Any) -> bool:
    """Whether a list holds batches rather than samples."""
    return (
        isinstance(data, list)
        and bool(data)
        and isinstance(data[0], tuple | list | dict)
        and len(data[0]) > 1
    )


def split(batch: Any, weighted: bool, names: frozenset[str]) -> Batch:
    """The parts of a batch (input, …, target) or, `weighted`, (input, …, target, weights).

    `names` are those of the arguments of the model: an input that is a dict of some of them is passed by name.
    """
    weighted = weighted or isinstance(batch, Weighted)
    least = 3 if weighted else 2
    if not isinstance(batch, list | tuple) or len(batch) < least:
        raise KilnTypeError(
            "Trainer", "a batch must be (input, …, target)", shapes(batch),
            "give the model a training_step(batch) for batches of another kind",
        )  # fmt: skip
    if least == 2 and isinstance(batch[0], Tensor):
        return Batch(tuple(batch[:-1]), {}, batch[-1])
    weight = batch[-1] if weighted else None
    inputs, target = (batch[:-2], batch[-2]) if weighted else (batch[:-1], batch[-1])
    return Batch(*call_with(inputs, names), target, weight)


def call_with(inputs: Sequence[Any], names: frozenset[str]) -> tuple[tuple, dict[str, Any]]:
    """The arguments by position and by name that a model is called with."""
    if len(inputs) == 1 and isinstance(inputs[0], Mapping) and names.issuperset(inputs[0]):
        return (), dict(inputs[0])
    return tuple(inputs), {}


def shapes(batch: Any) -> str:
    """A batch as errors tell it: `(f32[32, 4], i64[32])`."""
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{k}: {shapes(v)}" for k, v in batch.items()) + "}"
    if isinstance(batch, list | tuple):
        return "(" + ", ".join(map(shapes, batch)) + ")"
    return describe(batch)


def signature(batch: Any) -> Any:
    """Shapes but for the number of samples, and dtypes: what batches of a data set share."""
    leaves: list[Any] = []
    structure = flatten(batch, leaves)
    kinds = [(x.dtype, x.shape[1:]) if isinstance(x, Tensor) else type(x) for x in leaves]
    return structure, kinds


__all__ = [
    "Batch",
    "Feed",
    "Weighted",
    "call_with",
    "is_arrays",
    "rows",
    "shapes",
    "signature",
    "split",
]
