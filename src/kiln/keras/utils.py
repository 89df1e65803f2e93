"""Data in Keras's forms: batches (x, y) or (x, y, sample_weight) of arrays, `PyDataset`, `to_categorical`.

https://keras.io/api/utils/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..ops.drawing import randperm
from ..train import seed_everything


class PyDataset:
    """A data set of batches: define `__len__`, how many there are, and `__getitem__`, one of them as (x, y) or (x, y, sample_weight).

    They come in another order each epoch where `fit` shuffles. `on_epoch_begin` and `on_epoch_end` are called around a pass.
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def on_epoch_begin(self) -> None:
        """Before a pass over the data."""

    def on_epoch_end(self) -> None:
        """After a pass over the data."""


class Batches:
    """The batches of a loader, a PyDataset, a generator or another iterable, each as `convert` gives it."""

    def __init__(self, given: Iterable[Any] | PyDataset, convert: Callable[[Any], Any], shuffle: bool = False) -> None:  # fmt: skip
        self.given, self.convert, self.shuffle = given, convert, shuffle

    def __iter__(self) -> Iterator[Any]:
        # a generator around another one would close it, where validation takes some batches and later more
        return map(self.convert, self._pass(self.given) if isinstance(self.given, PyDataset) else iter(self.given))  # fmt: skip

    def _pass(self, data: PyDataset) -> Iterator[Any]:
        data.on_epoch_begin()
        n = len(data)
        for i in randperm(n).tolist() if self.shuffle else range(n):
            yield data[i]
        data.on_epoch_end()

    def __repr__(self) -> str:
        return repr(self.given)

    def __len__(self) -> int:
        return len(self.given)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """What a loader has to say of its place."""
        if name in ("state_dict", "load_state_dict", "sampler", "batch_sampler"):
            return getattr(self.given, name)
        raise AttributeError(name)


def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """Class numbers (…) as one-hot rows (…, num_classes) of float32; a last dimension of 1 goes."""
    x = np.asarray(x, dtype=np.int64)
    if x.ndim > 1 and x.shape[-1] == 1:
        x = x[..., 0]
    n = int(x.max()) + 1 if num_classes is None else num_classes
    return np.eye(n, dtype=np.float32)[x]


def set_random_seed(seed: int) -> None:
    """Seed Kiln, Python and NumPy."""
    seed_everything(seed)


__all__ = ["PyDataset", "set_random_seed", "to_categorical"]
