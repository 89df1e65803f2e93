"""Native routines in eager mode: what runs in place of an op's reference where arrays are large.

A routine has the op's raw arguments and gives what the reference gives, to roundings; whatever it has no
kernel for, small arrays and wrong arguments included, it hands on to `Op.run`, which then also says what
is wrong. Nothing of LLVM is imported before an array is large.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd import tape
from ..config import config
from ..formats import contiguous_format, dense
from ..ops import picking, registry, runners
from ..ops.dispatch import LARGE
from ..ops.registry import FUNCTIONS, REGISTRY
from ..ops.sorting import selects
from ..runtime.blocks import allocator
from ..shape import resolve_reshape, view_strides
from ..tensor import Tensor
from . import by_shape as _by_shape  # noqa: F401  (gives ops their routines)
from . import (
    compositions,
    derived,
    draws,
    gradients,
    one_call,
    rows,
    scripts,
    streams,
    sums,
    transforms,
)
from . import products as _products  # noqa: F401
from .routines import native, routine

_F32, _F64, _I64 = dt.float32.np, dt.float64.np, dt.int64.np

# ---------------------------------------------------------------- what follows from the registry

_SELECTING = {"kthvalue"}  # NumPy selects where kernels would sort

for _op in REGISTRY.values():
    if _op.eager is _op.run and _op.name not in _SELECTING:
        derived.bind(_op, native)
for _op in REGISTRY.values():
    if _op.lies in runners.IMAGES and _op.eager is not _op.run:
        _op.eager = runners.of_images(_op, _op.eager)
streams.bind(native)
draws.bind(native)
transforms.bind()
rows.bind(native)
sums.bind(native)
_large_gradients = gradients.gradients(native)


def _gradients(node: tape.OpNode, gs: list) -> list | None:
    if node.op.view and node.plan.quick is not None:
        return None  # nothing is computed
    r = _large_gradients(node, gs)
    return scripts.run(node, gs) if r is None and config.eager == "cpu" else r


tape.native = _gradients
registry.whole = compositions.bind(native)


_topk, _sort = REGISTRY["topk"], REGISTRY["sort"]
_topk_sorted, _sorted = _topk.eager, _sort.eager


def _ranked(x: np.ndarray, k: Any, dim: Any, largest: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """The first k of short rows in order, and where they were; None where the reference is to find them."""
    n, d = x.ndim, x.dtype
    if (
        not n or (d is not _F32 and d is not _F64) or k.__class__ is not int or dim.__class__ is not int
        or not -n <= dim < n or dim % n != n - 1 or not 0 < x.shape[-1] <= _SHORT or not 0 < k <= x.shape[-1]
        or not 0 < x.size <= _RANKED or not x.flags.c_contiguous or config.eager != "cpu" or not native()
    ):  # fmt: skip
        return None
    cols = x.shape[-1]
    shape = (*x.shape[:-1], k)
    values, places = np.empty(shape, d), np.empty(shape, _I64)
    _ranks(d, config.cpu_isa or None)(values, places, x.size // cols, x, cols, k, int(bool(largest)))  # fmt: skip
    return values, places


_SHORT, _RANKED = 1 << 7, 1 << 12
"""Elements of a row, and of all, up to which each is counted into its place."""


@cache
def _ranks(d: np.dtype, isa: str | None) -> Callable:
    from .cpu.ranks import function

    return function(d, isa)


@routine("topk")
def topk(input: np.ndarray, k: int, dim: int, largest: bool, sorted: bool) -> Any:
    """NumPy's selection of few elements: kernels would sort them all."""
    if (found := _ranked(input, k, dim, largest)) is not None:
        return found
    few = input.size < LARGE or (input.ndim and selects(k, input.shape[dim]))
    return (_topk.run if few else _topk_sorted)(input, k, dim, largest, sorted)


@routine("sort")
def sort(input: np.ndarray, dim: int, descending: bool) -> Any:
    """Short rows by counting."""
    found = _ranked(input, input.shape[-1], dim, descending) if input.ndim else None
    return _sorted(input, dim, descending) if found is None else found


# ---------------------------------------------------------------- one value everywhere


@routine("full")
def full(size: tuple, fill_value: Any, dtype: dt.dtype) -> np.ndarray:
    """A large tensor of one value; zeros cost nothing before they are read."""
    n = prod(size)
    zero = fill_value == 0 and "-" not in str(fill_value)
    if n < LARGE or zero or dtype.is_complex or config.eager != "cpu" or not native():
        return _full.run(size, fill_value, dtype)
    from .cpu.one_op import blocks_of

    with np.errstate(over="ignore"):
        value = np.array(dt.element(fill_value, dtype, "full"), dtype.np)
    out = _empty(size, dtype.np)
    flat = out.reshape(n)
    calls = [((value, (b,)), (flat[at : at + b],)) for at, b in blocks_of(n, one_call.BLOCKS[0])]
    made = one_call.shelf().fill("full", lambda x, to: x.expand(to), calls)
    return out if made else _full.run(size, fill_value, dtype)


_full = REGISTRY["full"]


# ---------------------------------------------------------------- complex numbers of two parts


@routine("complex_of")
def complex_of(real: np.ndarray, imag: np.ndarray) -> np.ndarray:
    """Large parts of one shape, a number after the other."""
    n, d = real.size, real.dtype
    if (
        n < LARGE or d not in (_F32, _F64) or d is not imag.dtype or real.shape != imag.shape
        or not (real.flags.c_contiguous and imag.flags.c_contiguous)
        or config.eager != "cpu" or not native()
    ):  # fmt: skip
        return _complex_of.run(real, imag)
    parts, most = [real.reshape(n), imag.reshape(n)], one_call.block_rows(n, 1)
    r = one_call.shelf().run_blocks("complex_of", _beside, parts, (0, 1), most, (n,))
    if r is None:
        return _complex_of.run(real, imag)
    return r[0].view(np.result_type(d, np.complex64)).reshape(real.shape)


def _beside(x: Tensor, y: Tensor) -> Tensor:
    return FUNCTIONS["stack"]([x, y], -1)


_complex_of = REGISTRY["complex_of"]


# ---------------------------------------------------------------- rows at places, of any number


def _rows_at(x: np.ndarray, index: np.ndarray) -> np.ndarray | None:
    """The rows of x at these places, in blocks: how many differs from call to call where sequences have many lengths."""
    cols = x.size // max(1, x.shape[0]) if x.ndim else 0
    n = index.size
    if (
        n * cols < LARGE or n < one_call.FEW or x.dtype.kind == "c" or index.dtype.kind != "i"
        or not x.flags.c_contiguous or not index.flags.c_contiguous
        or config.eager != "cpu" or not native()
    ):  # fmt: skip
        return None
    args, most = [x, index.reshape(n)], one_call.block_rows(n, cols)
    r = one_call.shelf().run_blocks("rows_at", _index_rows, args, (1,), most, (n,))
    return None if r is None else r[0].reshape(*index.shape, *x.shape[1:])


def _index_rows(x: Tensor, index: Tensor) -> Tensor:
    return one_call.calling(REGISTRY["index"])(x, [index], (0,))


def _many(x: np.ndarray, index: np.ndarray) -> bool:
    """Whether many elements are picked, by indices that count from the front."""
    cols = x.size // max(1, len(x)) if x.ndim else 0
    return index.size * cols >= LARGE and bool((index >= 0).all())


def _picking(name: str, rows: Callable[..., tuple[np.ndarray, np.ndarray] | None]) -> None:
    """Have an op's calls that `rows` knows as rows at places run so."""
    others = REGISTRY[name].eager

    @routine(name)
    def run(*args: Any) -> Any:
        found = rows(*args)
        r = None if found is None else _rows_at(*found)
        return others(*args) if r is None else r


_picking("index", lambda x, indices, dims: (x, indices[0]) if dims == (0,) else None)
_picking("index_select", lambda x, dim, index: (x, index) if dim == 0 and index.ndim == 1 and _many(x, index) else None)  # fmt: skip
_picking("embedding", lambda index, weight, *rest: (weight, index) if _many(weight, index) else None)  # fmt: skip


_embedding, _embeddings = REGISTRY["embedding"].run, REGISTRY["embedding"].eager


@routine("embedding")
def embedding(input: np.ndarray, weight: np.ndarray, *rest: Any) -> np.ndarray:
    """Few rows at once."""
    few = input.size * weight.shape[-1] < LARGE
    return (_embedding if few else _embeddings)(input, weight, *rest)


_embedding_grad, _index_put = (REGISTRY[n].eager for n in ("embedding_grad", "index_put_op"))


_LEAST_ADDED, _MOST_ADDED = 1 << 9, 1 << 20
"""Elements of rows from where on adding them one after the other is quicker than NumPy is, and kernels for the shape are."""


@cache
def _adding() -> Any:
    """The module that adds rows."""
    from .cpu import added_rows

    return added_rows


def _rows_added(
    out: np.ndarray, index: np.ndarray, values: np.ndarray, at: np.ndarray | None = None
) -> bool:
    """Add rows (those `at` places) to those of `out` at these places; False where the reference is to do it.

    The places are flat and in range, `out` is in memory of its own.
    """
    n, d = index.size, out.dtype
    if (
        not n or (d is not _F32 and d is not _F64) or d is not values.dtype or index.dtype is not _I64
        or config.eager != "cpu" or not native() or not (out.flags.c_contiguous and index.flags.c_contiguous)
    ):  # fmt: skip
        return False
    rows = out.reshape(len(out), -1)
    elements = n * rows.shape[1]
    if elements < _LEAST_ADDED or (at is None and elements >= _MOST_ADDED):
        return False
    added = np.ascontiguousarray(values).reshape(n if at is None else len(values), -1)
    if rows.shape[1] != added.shape[1]:
        return False
    _adding().add(rows, index, added, at)
    return True


@routine("embedding_grad")
def embedding_grad(
    grad: np.ndarray, input: np.ndarray, rows: int, padding_idx: int | None, by_freq: bool
) -> np.ndarray:
    """Few gradients of rows of a table, added one after the other."""
    out = np.zeros((rows, grad.shape[-1]), grad.dtype)
    index = input.reshape(-1)
    within = index.size and index.dtype is _I64 and index.view(np.uint64).max() < rows
    if by_freq or not within or not _rows_added(out, index, grad):
        return _embedding_grad(grad, input, rows, padding_idx, by_freq)
    if padding_idx is not None:
        out[padding_idx] = 0
    return out


@routine("embedding_sums")
def embedding_sums(input: np.ndarray, weight: np.ndarray, bag: np.ndarray, bags: int) -> np.ndarray:
    """Rows of a table added where they are to be, without being laid out."""
    if (
        weight.ndim == 2 and input.shape == bag.shape and input.dtype is bag.dtype is _I64 and input.size
        and input.flags.c_contiguous and input.view(np.uint64).max() < len(weight) and bag.view(np.uint64).max() < bags
    ):  # fmt: skip
        out = np.zeros((bags, weight.shape[1]), weight.dtype)
        if _rows_added(out, bag, weight, input):
            return out
    return _embedding_sums(input, weight, bag, bags)


_embedding_sums = REGISTRY["embedding_sums"].run


@routine("index_put_op")
def index_put(
    input: np.ndarray, values: np.ndarray, indices: list, dims: tuple, accumulate: bool
) -> np.ndarray:
    """Few rows, added one after the other."""
    if accumulate and dims == (0,) and input.ndim:
        (index,) = indices
        if index.dtype is _I64 and index.size and values.shape == index.shape + input.shape[1:] and (
            index.view(np.uint64).max() < len(input)
        ):  # fmt: skip
            out = input.copy()
            if _rows_added(out, index.reshape(-1), values):
                return out
    return _index_put(input, values, indices, dims, accumulate)


embedding_grad.least = index_put.least = one_call.SMALL  # type: ignore[attr-defined]
embedding_sums.least = 0  # type: ignore[attr-defined]


# ---------------------------------------------------------------- what a mask picks


def _empty(shape: tuple[int, ...], d: np.dtype) -> np.ndarray:
    """Memory that was used before: where how much is picked differs from call to call, fresh one costs more than the rest."""
    return allocator(prod(shape) * d.itemsize)(shape, d)


@routine("nonzero_op")
def nonzero(input: np.ndarray) -> np.ndarray:
    """Coordinates of the elements that are not zero."""
    return picking.coordinates(input, empty=_empty)


@routine("masked_select_op")
def masked_select(input: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What lies where a mask is True."""
    return picking.selected(input, mask, _empty)


# ---------------------------------------------------------------- copies of views


def _copied(a: np.ndarray) -> np.ndarray | None:
    """A large view in row-major order, in memory of its own; None where NumPy is to do it."""
    if a.size < LARGE or a.dtype.kind == "c" or a.flags.c_contiguous:
        return None
    if config.eager != "cpu" or not native():
        return None
    once = a[tuple(slice(1) if step == 0 else slice(None) for step in a.strides)]
    if not dense(once):
        return None  # kernels would be given a copy
    r = one_call.shelf().run("copy", Tensor.contiguous, [a])
    return r[0] if r is not None and r[0].__class__ is np.ndarray else None


@routine("clone")
def clone(input: np.ndarray, memory_format: Any) -> np.ndarray:
    """A copy in row-major order, where that is asked for."""
    if memory_format is None and input.flags.c_contiguous and input.dtype.isbuiltin == 1:
        return input.copy()
    r = _copied(input) if memory_format is contiguous_format else None
    return _clone_run(input, memory_format) if r is None else r


@routine("reshape")
def reshape(input: np.ndarray, shape: tuple) -> np.ndarray:
    """A view, or of what is not laid out so a copy."""
    if input.size >= LARGE and not input.flags.c_contiguous:
        full = resolve_reshape(shape, input.size)
        if view_strides(input.shape, input.strides, full) is None:
            copy = _copied(input)
            input = input if copy is None else copy
    return _reshape_run(input, shape)


_clone_run, _reshape_run = REGISTRY["clone"].run, REGISTRY["reshape"].run


# ---------------------------------------------------------------- small tensors joined


_cat = REGISTRY["cat"].eager


@routine("cat")
def cat(tensors: list[np.ndarray], dim: int) -> np.ndarray:
    """Few elements of one dtype at once."""
    first = tensors[0]
    d, n = first.dtype, first.ndim
    if n > 3 or first.size * len(tensors) >= LARGE or d.isbuiltin != 1:
        return _cat(tensors, dim)
    try:
        r = np.concatenate(tensors, dim)
    except Exception:  # where one of no elements is left out, or of which the reference tells
        return _cat(tensors, dim)
    if r.dtype is not d or (n == 1 and not r.size):
        return _cat(tensors, dim)
    return r if r.flags.c_contiguous else np.ascontiguousarray(r)
