"""Samples put together into batches.

https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.default_collate
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

from ... import formats
from ...dtypes import OF_NUMPY
from ...errors import KilnError, KilnTypeError, describe
from ...ops.creation import as_tensor, tensor
from ...ops.joining import stack
from ...tensor import PLAIN, Tensor, wrap
from . import info

CollateMap = dict[type | tuple[type, ...], Callable[..., Any]]

default_collate_err_msg_format = (
    "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {}"
)


def collate(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Any:
    """A batch from samples: by the map's function for their type, containers entry by entry.

    A function of the map is called as `f(batch, collate_fn_map=collate_fn_map)`; the one of a base class
    serves types that have none of their own. Dataclasses are containers too, by their fields.

    Raises TypeError for what no function is for, RuntimeError for sequences of different lengths.
    """
    first = batch[0]
    kind = type(first)
    if collate_fn_map is not None:
        fn = collate_fn_map.get(kind)
        if fn is None:
            fn = next((f for k, f in collate_fn_map.items() if isinstance(first, k)), None)
        if fn is not None:
            return fn(batch, collate_fn_map=collate_fn_map)

    def join(samples: Any) -> Any:
        return collate(samples, collate_fn_map=collate_fn_map)

    if isinstance(first, Mapping):
        return _like_mapping(first, {k: join([x[k] for x in batch]) for k in first})
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return kind(*map(join, zip(*batch, strict=False)))
    if isinstance(first, Sequence):
        if any(len(x) != len(first) for x in batch):
            raise KilnError(
                "default_collate", "each element in list of batch should be of equal size",
                str([len(x) for x in batch][:8]), "pad the samples, or pass collate_fn",
            )  # fmt: skip
        parts = [join(samples) for samples in zip(*batch, strict=False)]
        return parts if isinstance(first, tuple) else _like_sequence(first, parts)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [f.name for f in dataclasses.fields(first) if f.init]
        return kind(**{n: join([getattr(x, n) for x in batch]) for n in names})
    raise _refuse(kind)


def default_collate(batch: Sequence[Any]) -> Any:
    """A batch from samples: tensors, arrays and numbers are stacked, containers entry by entry.

    Strings stay as they are; tuples become lists. `default_collate_fn_map` says what is done for which type, and
    may be changed. In a worker, batches are made in shared memory.
    """
    return collate(batch, collate_fn_map=default_collate_fn_map)


def default_convert(data: Any) -> Any:
    """Arrays and NumPy numbers as tensors, inside containers too; anything else as it is."""
    if isinstance(data, np.ndarray | np.generic):
        return data if data.dtype.kind in "OSU" else as_tensor(data)
    if isinstance(data, Tensor | str | bytes):
        return data
    if isinstance(data, Mapping):
        return _like_mapping(data, {k: default_convert(data[k]) for k in data})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(default_convert, data))
    if isinstance(data, tuple):
        return [default_convert(x) for x in data]
    if isinstance(data, Sequence):
        return _like_sequence(data, [default_convert(x) for x in data])
    return data


def collate_tensor_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """Tensors stacked along a new first dimension."""
    first = batch[0]
    if getattr(first, "is_nested", False) or first.layout is not formats.strided:
        raise KilnError(
            "default_collate", "batches of sparse or nested tensors can't be made by stacking",
            describe(first), "pass a collate_fn that says what a batch of them is",
        )  # fmt: skip
    a = first._a
    if type(a) is not np.ndarray or any(
        type(x._a) is not np.ndarray or x._rg or x._fn is not None or x._a.shape != a.shape
        or x._a.dtype != a.dtype or type(x) not in PLAIN
        for x in batch
    ):  # fmt: skip
        return stack(list(batch))
    return wrap(_stacked([x._a for x in batch]))


def collate_numpy_array_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Any:
    """Arrays stacked along a new first dimension, as a tensor."""
    first = batch[0]
    if first.dtype.kind in "OSU":
        raise _refuse(first.dtype)
    stacks = collate_fn_map is not None and collate_fn_map.get(Tensor) is collate_tensor_fn
    if stacks and first.dtype in OF_NUMPY and first.dtype.isnative and all(
        x.shape == first.shape and x.dtype == first.dtype for x in batch
    ):  # fmt: skip
        return wrap(_stacked(batch))
    return collate([as_tensor(x) for x in batch], collate_fn_map=collate_fn_map)


def collate_numpy_scalar_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """NumPy numbers as a tensor."""
    if batch[0].dtype.kind in "OSU":
        raise _refuse(batch[0].dtype)
    return as_tensor(np.asarray(batch))


def collate_float_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """Floats as a float64 tensor."""
    return tensor(list(batch), dtype="float64")


def collate_int_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """Integers or bools as a tensor."""
    return tensor(list(batch))


def collate_str_fn(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Any:
    """Strings as they are."""
    return batch


default_collate_fn_map: CollateMap = {
    Tensor: collate_tensor_fn,
    np.ndarray: collate_numpy_array_fn,
    (np.bool_, np.number, np.object_): collate_numpy_scalar_fn,
    float: collate_float_fn,
    int: collate_int_fn,
    str: collate_str_fn,
    bytes: collate_str_fn,
}
"""What makes a batch of samples of which type."""


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    first = arrays[0]
    kind = OF_NUMPY[first.dtype].np  # the very object: that of an array out of a pickle is another
    out = info.room((len(arrays), *first.shape), kind)
    for i, a in enumerate(arrays):
        out[i] = a
    return out


def _like_mapping(first: Any, entries: dict) -> Any:
    """A mapping of the samples' own type, with what else it holds, where it can be made."""
    if type(first) is dict:
        return entries
    try:
        if not isinstance(first, MutableMapping):
            return type(first)(entries)  # type: ignore[call-arg]
        out = copy.copy(first)
        out.update(entries)
        return out
    except TypeError:
        return entries


def _like_sequence(first: Any, parts: list) -> Any:
    if type(first) is list:
        return parts
    try:
        if not isinstance(first, MutableSequence):
            return type(first)(parts)  # type: ignore[call-arg]
        out = copy.copy(first)
        for i, part in enumerate(parts):
            out[i] = part
        return out
    except TypeError:
        return parts


def _refuse(what: Any) -> KilnTypeError:
    return KilnTypeError(
        "default_collate", default_collate_err_msg_format.format(what), None, "pass collate_fn"
    )
