"""`vmap`: a function of one, mapped over a dimension of its arguments, all at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..compile.pytree import count, flatten, unflatten
from ..errors import KilnError, KilnIndexError, KilnValueError, describe
from ..ops.batching import Lane
from ..ops.joining import cat
from ..ops.slicing import narrow
from ..ops.views import expand, movedim, unsqueeze
from ..shape import norm_dim
from ..tensor import Tensor, wrap
from .level import DIFFERENT, ERROR, SAME, Level

Dims = Any  # an int or None, or such in containers like the arguments'


def vmap(
    func: Callable,
    in_dims: Dims = 0,
    out_dims: Dims = 0,
    randomness: str = ERROR,
    *,
    chunk_size: int | None = None,
) -> Callable:
    """`func` mapped over a dimension of its arguments: `vmap(f)(xs)` is `stack([f(x) for x in xs])`, at once.

    `in_dims` tells the dimension of each argument that is mapped over, an int for all or a container
    like the arguments (None: not mapped); `out_dims` where it goes in the results. `randomness` is what
    random ops do: "error", "same" numbers for all, or "different" ones. `chunk_size` maps over so many
    at a time. Keyword arguments are not mapped. Errors: KilnValueError for dims that don't fit;
    KilnError where Python asks for a value that differs. Source: torch.func.vmap.
    """
    if randomness not in (ERROR, SAME, DIFFERENT):
        raise KilnError(
            "vmap", "Only allowed values for randomness are 'error', 'different', or 'same'",
            repr(randomness), "",
        )  # fmt: skip
    if chunk_size is not None and not chunk_size > 0:
        raise KilnValueError(
            "vmap", "chunk_size should be None or greater than 0", chunk_size, "e.g. chunk_size=64"
        )

    @functools.wraps(func)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        leaves: list[Any] = []
        structure = flatten(args, leaves)
        dims = _in_dims(in_dims, structure, args, leaves)
        size = _size(leaves, dims)
        if chunk_size is None or size <= chunk_size:
            return _mapped(func, structure, leaves, dims, out_dims, randomness, size, kwargs)
        parts = []
        for at in range(0, size, chunk_size):
            n = min(chunk_size, size - at)
            some = [x if d is None else narrow(x, d, at, n) for x, d in zip(leaves, dims, strict=True)]  # fmt: skip
            parts.append(_mapped(func, structure, some, dims, out_dims, randomness, n, kwargs))
        return _joined(parts, out_dims)

    return mapped


def _mapped(
    func: Callable, structure: Any, leaves: list, dims: list, out_dims: Dims, randomness: str,
    size: int, kwargs: dict,
) -> Any:  # fmt: skip
    level = Level(size, randomness)
    given = [
        x if d is None else wrap(Lane(level, x if d == 0 else movedim(x, d, 0), True))
        for x, d in zip(leaves, dims, strict=True)
    ]
    with level.active():
        result = func(*unflatten(structure, iter(given).__next__), **kwargs)
    found: list[Any] = []
    shape = flatten(result, found)
    outs = [
        _out(level, x, d) for x, d in zip(found, _out_dims(out_dims, shape, found), strict=True)
    ]
    return unflatten(shape, iter(outs).__next__)


def _in_dims(in_dims: Dims, structure: Any, args: tuple, leaves: list) -> list[int | None]:
    """The mapped dimension of each leaf of the arguments, counted from the front."""
    if not args:
        raise KilnValueError(
            "vmap", "got no inputs", "()",
            "vmap maps over the positional arguments; is it that one was forgotten?",
        )  # fmt: skip
    if not isinstance(in_dims, int | tuple | list):
        raise KilnValueError(
            "vmap", "expected in_dims to be int or a (potentially nested) tuple matching the structure of inputs",
            f"in_dims={in_dims!r}", "in_dims=(0, None), say",
        )  # fmt: skip
    dims = _spread(in_dims if isinstance(in_dims, int) else tuple(in_dims), structure)
    if dims is None:
        raise KilnValueError(
            "vmap", "in_dims is not compatible with the structure of inputs", f"in_dims={in_dims!r}",
            f"there are {len(args)} positional arguments: an int for all, or one for each",
        )  # fmt: skip
    out: list[Any] = []
    for x, d in zip(leaves, dims, strict=True):
        if d is None:
            out.append(None)
            continue
        if not isinstance(d, int) or isinstance(d, bool):
            raise KilnValueError("vmap", "a mapped dimension must be an int or None", repr(d), "")
        if not isinstance(x, Tensor):
            raise KilnValueError(
                "vmap", f"Got in_dim={d} for an input but the input is of type {type(x).__name__}, "
                "and only Tensors can be mapped over", describe(x), "use None as the respective in_dim",
            )  # fmt: skip
        if not -x._a.ndim <= d < x._a.ndim:
            raise KilnValueError(
                "vmap", f"Got in_dim={d} for some input, but that input is a Tensor of dimensionality "
                f"{x._a.ndim}", describe(x), f"expected -{x._a.ndim} <= in_dim < {x._a.ndim}",
            )  # fmt: skip
        out.append(d % x._a.ndim)
    return out


def _spread(dims: Any, structure: Any) -> list[Any] | None:
    """A tree of dims as one for each leaf of a structure that it is a beginning of; None where it is not."""
    if dims is None or isinstance(dims, int):
        return [dims] * count(structure)
    if structure is None:
        return None
    parts = structure[1]
    if isinstance(dims, dict):
        keyed = issubclass(structure[0], dict)
        if not keyed or set(dims) != {k for k, _ in parts}:
            return None
        below = [_spread(dims[k], part) for k, part in parts]
    elif isinstance(dims, list | tuple):
        if not issubclass(structure[0], list | tuple) or len(dims) != len(parts):
            return None
        below = [_spread(d, part) for d, part in zip(dims, parts, strict=True)]
    else:
        return None
    if any(b is None for b in below):
        return None
    return [d for b in below for d in b]  # type: ignore[union-attr]


def _size(leaves: list, dims: list) -> int:
    """The size of the batch."""
    sizes = [x._a.shape[d] for x, d in zip(leaves, dims, strict=True) if d is not None]
    if not sizes:
        raise KilnValueError(
            "vmap", "at least one Tensor must be mapped over", "in_dims are all None",
            "give an in_dim for one of the arguments",
        )  # fmt: skip
    if any(s != sizes[0] for s in sizes):
        raise KilnValueError(
            "vmap", "Expected all tensors to have the same size in the mapped dimension, got sizes "
            f"{sizes} for the mapped dimension", describe([x for x in leaves if isinstance(x, Tensor)]), "",
        )  # fmt: skip
    return sizes[0]


def _out_dims(out_dims: Dims, structure: Any, found: list) -> list[int | None]:
    """Where the batch goes in each result."""
    for x in found:
        if not isinstance(x, Tensor):
            raise KilnValueError(
                "vmap", f"the mapped function must only return Tensors, got type {type(x).__name__}",
                describe(x), "return None, numbers and strings by other ways",
            )  # fmt: skip
    if isinstance(out_dims, tuple | list) and len(out_dims) == 1 and structure is None:
        out_dims = out_dims[0]
    dims = _spread(tuple(out_dims) if isinstance(out_dims, list) else out_dims, structure)
    if dims is None:
        raise KilnValueError(
            "vmap", "out_dims is not compatible with the structure of outputs", f"out_dims={out_dims!r}",
            "an int for all, or a container like the results",
        )  # fmt: skip
    return dims


def _out(level: Level, x: Tensor, d: int | None) -> Tensor:
    """A result outside of the level."""
    lane = level.payload(x)
    if d is None:
        if lane.batched:
            raise KilnValueError(
                "vmap", "a result that differs in the batch can not be returned when out_dim is None",
                describe(x), "give its out_dim an int",
            )  # fmt: skip
        return lane.tensor
    n = lane.ndim + 1
    if not -n <= d < n:
        raise KilnIndexError(
            "vmap", f"out_dim={d} is out of range for a result of {lane.ndim} dimensions", describe(x),
            f"expected -{n} <= out_dim < {n}",
        )  # fmt: skip
    if lane.batched:
        return lane.tensor if d == 0 else movedim(lane.tensor, 0, d)
    d = norm_dim(d, n)
    return expand(unsqueeze(lane.tensor, d), (*lane.shape[:d], level.size, *lane.shape[d:]))


def _joined(parts: list[Any], out_dims: Dims) -> Any:
    """The results of all chunks."""
    columns: list[list[Any]] = []
    for p in parts:
        found: list[Any] = []
        structure = flatten(p, found)
        columns.append(found)
    dims = _out_dims(out_dims, structure, columns[0])
    outs = [
        xs[0] if d is None else cat(list(xs), d)
        for d, xs in zip(dims, zip(*columns, strict=True), strict=True)
    ]
    return unflatten(structure, iter(outs).__next__)


def functionalize(func: Callable, *, remove: str = "mutations") -> Callable:
    """`func` with the same results; capture turns in-place changes and views into pure ops by itself.

    `remove` is "mutations" or "mutations_and_views", as in PyTorch, where it decides what a trace shows.
    """
    if remove not in ("mutations", "mutations_and_views"):
        raise KilnError("functionalize", "Expected remove='mutations' or 'mutations_and_views'",
                        f"remove={remove!r}", "")  # fmt: skip

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return call
