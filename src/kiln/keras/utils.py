"""Data in Keras's forms: batches (x, y) or (x, y, sample_weight) of arrays, `PyDataset`, `to_categorical`.

https://keras.io/api/utils/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DataLoader, Dataset, TensorDataset
from ..data._utils import randomness
from ..errors import KilnValueError
from ..extras import need
from ..ops.creation import as_tensor
from ..ops.drawing import randperm
from ..random import Generator
from ..train import seed_everything
from .configured import (
    CustomObjectScope,
    custom_object_scope,
    get_custom_objects,
    get_registered_name,
    register_keras_serializable,
)
from .symbolic import NAMES


class PyDataset:
    """A data set of batches: define `__len__`, how many there are, and `__getitem__`, one of them as (x, y) or (x, y, sample_weight).

    They are asked for one after the other, whatever `workers` says, and come in another order each epoch where `fit` shuffles. `on_epoch_begin` and `on_epoch_end` are called around a pass.
    """

    def __init__(self, workers: int = 1, use_multiprocessing: bool = False, max_queue_size: int = 10) -> None:  # fmt: skip
        self.workers, self.use_multiprocessing, self.max_queue_size = workers, use_multiprocessing, max_queue_size  # fmt: skip

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def on_epoch_begin(self) -> None:
        """Before a pass over the data."""

    def on_epoch_end(self) -> None:
        """After a pass over the data."""


Sequence = PyDataset


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

    def peek(self) -> Any:
        """The first batch; a pass after it begins with it all the same, with the same numbers drawn."""
        given = self.given
        if isinstance(given, PyDataset):
            return self.convert(given[0])
        if not hasattr(given, "__next__"):
            now = randomness.states()
            first = next(iter(given))
            randomness.restore(now)
            return self.convert(first)
        first = next(given)  # type: ignore[call-overload]
        self.given = chain([first], given)
        return self.convert(first)

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


def normalize(x: Any, axis: int = -1, order: int = 2) -> np.ndarray:
    """By its norm along an axis."""
    x = np.asarray(x)
    size = np.linalg.norm(x, order, axis, keepdims=True)
    return x / np.where(size == 0, 1, size)


def pad_sequences(
    sequences: Any, maxlen: int | None = None, dtype: Any = "int32", padding: str = "pre", truncating: str = "pre", value: Any = 0.0
) -> np.ndarray:  # fmt: skip
    """Sequences of different lengths as one array (len(sequences), maxlen, …), filled and cut before ("pre") or behind ("post")."""
    for name, given in (("padding", padding), ("truncating", truncating)):
        if given not in ("pre", "post"):
            raise KilnValueError("pad_sequences", f"no such {name}", repr(given), "'pre' or 'post'")
    n = max(map(len, sequences), default=0) if maxlen is None else maxlen
    rest = next((np.asarray(s).shape[1:] for s in sequences if len(s)), ())
    out = np.full((len(sequences), n, *rest), value, dtype)
    for row, s in zip(out, sequences, strict=True):
        kept = s[max(len(s) - n, 0) :] if truncating == "pre" else s[:n]
        if len(kept):
            row[slice(n - len(kept), None) if padding == "pre" else slice(len(kept))] = kept
    return out


def timeseries_dataset_from_array(
    data: Any, targets: Any, sequence_length: int, sequence_stride: int = 1, sampling_rate: int = 1, batch_size: int | None = 128,
    shuffle: bool = False, seed: int | None = None, start_index: int | None = None, end_index: int | None = None,
) -> DataLoader:  # fmt: skip
    """Batches of windows (batch, sequence_length, …) over rows, each with the target at its first row's place."""
    data = np.asarray(data)[start_index:end_index]
    reach = (sequence_length - 1) * sampling_rate
    starts = np.arange(0, max(len(data) - reach, 0), sequence_stride)
    if targets is not None:
        targets = np.asarray(targets)[start_index:end_index]
        starts = starts[starts < len(targets)]
    rows = starts[:, None] + np.arange(sequence_length) * sampling_rate
    windows = _plain(data[rows])
    columns = [windows] if targets is None else [windows, _plain(targets[starts])]
    return DataLoader(TensorDataset(*columns), batch_size, shuffle=shuffle, generator=None if seed is None else Generator().manual_seed(seed))  # fmt: skip


def _plain(x: np.ndarray) -> Any:
    return as_tensor(x.astype(np.float32) if x.dtype == np.float64 else x)


class _Pictures(Dataset):
    """Pictures in files, (height, width, channels) of float32 from 0 to 255, with labels."""

    def __init__(self, files: list[Any], labels: Any, size: tuple[int, int], mode: str) -> None:
        self.files, self.labels, self.size, self.mode = files, labels, size, mode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        x = as_tensor(img_to_array(load_img(self.files[i], self.mode, self.size)))
        return x if self.labels is None else (x, as_tensor(self.labels[i]))


_MODES = {"rgb": "RGB", "rgba": "RGBA", "grayscale": "L"}


def load_img(path: Any, color_mode: str = "rgb", target_size: tuple[int, int] | None = None, interpolation: str = "bilinear") -> Any:  # fmt: skip
    """A picture of a file; needs pillow."""
    image = need("PIL.Image", "vision", "load_img").open(path).convert(_MODES[color_mode])
    if target_size is not None and image.size != (target_size[1], target_size[0]):
        kind = need("PIL.Image", "vision", "load_img").Resampling[interpolation.upper()]
        image = image.resize((target_size[1], target_size[0]), kind)
    return image


def img_to_array(img: Any, data_format: str | None = None, dtype: Any = "float32") -> np.ndarray:
    """A picture as (height, width, channels)."""
    a = np.asarray(img, dtype)
    return a[..., None] if a.ndim == 2 else a


def array_to_img(x: Any, data_format: str | None = None, scale: bool = True) -> Any:
    """(height, width, channels) as a picture, its values spread over 0 to 255 where it is to `scale`; needs pillow."""
    a = np.asarray(x, np.float32)
    if scale:
        a = a - a.min()
        a = a / max(float(a.max()), 1e-12) * 255
    a = a.astype(np.uint8)
    return need("PIL.Image", "vision", "array_to_img").fromarray(
        a[..., 0] if a.shape[-1] == 1 else a
    )


def save_img(path: Any, x: Any, data_format: str | None = None, file_format: str | None = None, scale: bool = True) -> None:  # fmt: skip
    """Write such an array as a picture."""
    array_to_img(x, data_format, scale).save(path, format=file_format)


def image_dataset_from_directory(
    directory: Any, labels: Any = "inferred", label_mode: str | None = "int", class_names: Any = None, color_mode: str = "rgb",
    batch_size: int | None = 32, image_size: tuple[int, int] = (256, 256), shuffle: bool = True, seed: int | None = None,
    validation_split: float | None = None, subset: str | None = None, num_workers: int = 0,
) -> Any:  # fmt: skip
    """A loader of (pictures, labels) of a folder with one folder for each class; its `class_names` are theirs. Needs pillow.

    `label_mode` "int", "categorical" (one-hot), "binary" or None; of a `validation_split` `subset` is "training", "validation" or "both".
    """
    root = Path(directory)
    names = list(class_names or sorted(p.name for p in root.iterdir() if p.is_dir())) if labels == "inferred" else []  # fmt: skip
    kinds = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
    found = [(f, i) for i, n in enumerate(names) for f in sorted((root / n).rglob("*")) if f.suffix.lower() in kinds]  # fmt: skip
    if labels != "inferred":
        files = [f for f in sorted(root.rglob("*")) if f.suffix.lower() in kinds]
        found = list(zip(files, labels if labels is not None else [0] * len(files), strict=True))
    if not found:
        raise KilnValueError("image_dataset_from_directory", "there are no pictures", str(root), "one folder for each class, with pictures in it")  # fmt: skip
    if shuffle and validation_split is not None and seed is None:
        raise KilnValueError("image_dataset_from_directory", "the subsets would overlap", "seed=None", "give a seed, or shuffle=False")  # fmt: skip
    order = np.random.RandomState(seed).permutation(len(found)) if shuffle and seed is not None else np.arange(len(found))  # fmt: skip
    found = [found[i] for i in order]
    numbers: Any = np.array([i for _, i in found], np.int64)
    if label_mode == "categorical":
        numbers = to_categorical(numbers, len(names))
    elif label_mode == "binary":
        numbers = numbers.astype(np.float32)[:, None]
    elif label_mode is None or labels is None:
        numbers = None
    at = len(found) - int((validation_split or 0.0) * len(found))

    def loader(part: slice, mixed: bool) -> Any:
        data = _Pictures([f for f, _ in found[part]], None if numbers is None else numbers[part], image_size, color_mode)  # fmt: skip
        generator = None if seed is None else Generator().manual_seed(seed)
        made: Any = DataLoader(data, batch_size, shuffle=mixed, num_workers=num_workers, generator=generator)  # fmt: skip
        made.class_names = names
        return made

    parts = {"training": lambda: loader(slice(at), shuffle), "validation": lambda: loader(slice(at, None), False)}  # fmt: skip
    if subset == "both":
        return parts["training"](), parts["validation"]()
    return loader(slice(None), shuffle) if subset is None else parts[subset]()


def split_dataset(dataset: Any, left_size: Any = None, right_size: Any = None, shuffle: bool = False, seed: int | None = None) -> Any:  # fmt: skip
    """Two parts of arrays (or of a tuple of them): shares of 1, or numbers of samples."""
    arrays = dataset if isinstance(dataset, tuple | list) else (dataset,)
    n = len(arrays[0])
    if left_size is None:
        right = round(right_size * n) if isinstance(right_size, float) else right_size
        left = n - right
    else:
        left = round(left_size * n) if isinstance(left_size, float) else left_size
    order = np.random.RandomState(seed).permutation(n) if shuffle else np.arange(n)
    sides = [tuple(np.asarray(a)[part] for a in arrays) for part in (order[:left], order[left:])]
    return tuple(s if isinstance(dataset, tuple | list) else s[0] for s in sides)


def plot_model(model: Any, to_file: Any = "model.png", **options: Any) -> Any:
    """A picture of a functional model's layers and what connects them; needs matplotlib."""
    from .drawing import plot_model

    return plot_model(model, to_file, **options)


def clear_session() -> None:
    """Have names of layers begin anew."""
    NAMES.clear()


def set_random_seed(seed: int) -> None:
    """Seed Kiln, Python and NumPy."""
    seed_everything(seed)


def unpack_x_y_sample_weight(data: Any) -> tuple[Any, Any, Any]:
    """(x, y, sample_weight) of a batch x, (x,), (x, y) or (x, y, sample_weight)."""
    if not isinstance(data, tuple | list):
        return data, None, None
    x, y, weight = (*data, None, None)[:3]
    return x, y, weight


def pack_x_y_sample_weight(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """A batch as `train_step` is given it."""
    if y is None:
        return x if not isinstance(x, tuple | list) else (x,)
    return (x, y) if sample_weight is None else (x, y, sample_weight)


__all__ = [
    "CustomObjectScope", "PyDataset", "Sequence", "array_to_img", "clear_session", "custom_object_scope", "get_custom_objects",
    "get_registered_name", "image_dataset_from_directory", "img_to_array", "load_img", "normalize", "pack_x_y_sample_weight", "pad_sequences",
    "plot_model", "register_keras_serializable", "save_img", "set_random_seed", "split_dataset", "timeseries_dataset_from_array",
    "to_categorical", "unpack_x_y_sample_weight",
]  # fmt: skip
