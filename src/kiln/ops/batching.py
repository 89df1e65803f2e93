"""The batched call of an op, derived from its definition: what `vmap` does with each call.

Tensors of a batched call are `Lane`s: a tensor with the batch as its first dimension, or one that all
of the batch share. `run` finds the call, or calls, of ops that give the results for all at once:

- elementwise ops and selections (and `batch=ALIGNED`): ranks aligned behind the batch, in the dtype that one call would have;
- ops with a `dim` (reductions, scans, sorts, softmax, gather, …): the dimension moves by one;
- ops that work on their last dimensions (`batch=LEADING`; factorizations): as they are;
- ops with a rule of their own: the fact `batch` of their definition;
- ops with a body: the batched calls of what it consists of;
- all others (and `batch=EACH`): a call for each of the batch, and the results stacked.

A rule is called with the size of the batch and the op's arguments, tensors as Lanes. It gives the
arguments of the one call of the op that has the batch in front, as a tuple; or the result itself; or
None where it is not for this call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import contiguous_strides, dummy_array, norm_dim, numel
from ..tensor import Tensor
from .casting import cast
from .creation import full_op
from .dispatch import apply
from .joining import stack
from .registry import ALIGNED, EACH, LEADING, Op
from .runners import compute_dtype
from .slicing import select
from .views import expand, reshape

_LEADING = {"factorization", "cast"}
_DIMS = ("dim", "dims", "dimension")


class Lane:
    """What a tensor under vmap holds: a `tensor` with all of the batch in front, or one for all of it.

    `level` is the vmap whose batch it is; `shape` that of one of the batch.
    """

    __slots__ = ("batched", "dtype", "level", "shape", "tensor")

    def __init__(self, level: Any, tensor: Tensor, batched: bool):
        a = tensor._a
        self.level, self.tensor, self.batched, self.dtype = level, tensor, batched, a.dtype
        self.shape = tuple(a.shape[1:] if batched else a.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Any:
        return numel(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def front(self) -> Tensor:
        """The tensor with the batch in front, or a dimension of size 1 where all share it."""
        return self.tensor if self.batched else reshape(self.tensor, (1, *self.shape))

    @property
    def whole(self) -> Tensor:
        """The tensor with the batch in front, repeated where all share it."""
        return self.tensor if self.batched else expand(self.tensor, (self.level.size, *self.shape))

    def aligned(self, rank: int) -> Tensor:
        """`front` with dimensions of size 1 before its own, to make `rank` of them."""
        n = self.level.size if self.batched else 1
        return reshape(self.tensor, (n, *(1,) * (rank - self.ndim), *self.shape))

    def copy(self) -> Lane:
        """The present values in memory of their own."""
        with self.level.below():
            return Lane(self.level, self.tensor.clone(), self.batched)

    def strided(self) -> np.ndarray:
        """How one of the batch lies in memory: a dummy array whose strides count elements."""
        a = self.tensor._a
        if not isinstance(a, np.ndarray):
            layout = a.strided()
        else:
            strides = (
                [s // a.itemsize for s in a.strides] if a.size else contiguous_strides(a.shape)
            )
            layout = dummy_array(a.shape, strides)
        if not self.batched:
            return layout
        return layout[0] if len(layout) else np.zeros(self.shape, np.uint8)

    def text(self, prefix: str) -> str:
        """How a tensor that holds this prints: with the batch, as in PyTorch."""
        inside = repr(self.tensor)
        if not self.batched:
            return inside
        inside = inside.replace("\n", "\n    ")
        return f"BatchedTensor(lvl={self.level.depth}, bdim=0, value=\n    {inside}\n)"

    def host(self, why: str) -> np.ndarray:
        """The values for Python or NumPy; an error where they differ in the batch."""
        if self.batched or not self.level.running:
            self.level.refuse(why, self)
        with self.level.below():
            return self.tensor._host(why)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        """NumPy asks for the value, in code that knows nothing of vmap."""
        return self.host("NumPy")


def run(level: Any, op: Op, seen: tuple, args: tuple) -> Any:
    """The results, the batch in front, of a call with Lanes some of which are batched.

    `seen` are the arguments as the op sees them: one of the batch.
    """
    if op.infer is None:
        raise KilnError(
            "vmap", f"the shape of what {op.name} gives depends on values, which differ in the batch",
            describe(seen[0]), "use an op whose result has one shape (kiln.where, say), or a loop",
        )  # fmt: skip
    n = level.size
    if op.family in ("elementwise", "select") or op.batch == ALIGNED:
        op.infer(*seen)  # which tells what is wrong in the shapes of one of the batch
        return apply(op, _aligned(op, seen, args, n))
    shapes = op.infer(*seen)
    if op.batch == LEADING or op.family in _LEADING:
        r = _leading(op, args)
    elif op.batch == EACH:
        return _each(op, args, n, shapes)
    elif op.batch is not None:
        r = op.batch(n, *args)
    elif any(d in op.index for d in _DIMS):
        r = _along(op, args, n, shapes)
    else:
        r = None
    if isinstance(r, tuple):
        r = apply(op, r)
    if r is None:
        if op.body is not None and op.name not in level.inside:
            return level.expand(op, seen)
        r = _each(op, args, n, shapes)
    if isinstance(r, Tensor):
        return _shaped(r, shapes[0], n)
    return tuple(_shaped(x, shape, n) for x, (shape, _) in zip(r, shapes, strict=True))


def _shaped(x: Tensor, shape: Any, n: int) -> Tensor:
    """A result in its shape, where the call had dimensions more than one of the batch has."""
    full = (n, *shape)
    return x if x._a.shape == full else reshape(x, full)


def _aligned(op: Op, seen: tuple, args: tuple, n: int) -> tuple:
    """Operands of an elementwise op whose dimensions align behind that of the batch."""
    lanes = [(i, x) for i, x in enumerate(args) if x.__class__ is Lane]
    ranks = {x.ndim for _, x in lanes}
    rank, out, want = max(ranks), list(args), None
    if (
        len(ranks) > 1 and 0 in ranks and op.batch != ALIGNED
    ):  # 0-d tensors, weak in promotion, have dimensions now
        slots = [i for i in op.tensor_slots if args[i] is not None][op.family == "select" :]
        operands = [seen[i] for i in slots]
        want = dt.result_type(*operands) if op.family == "select" else compute_dtype(op, operands)
    for i, x in lanes:
        t = x.tensor
        if x.batched and x.ndim < rank:
            t = reshape(t, (n, *(1,) * (rank - x.ndim), *x.shape))
        if want is not None and i in slots and t.dtype is not want:
            t = cast(t, want)
        out[i] = t
    return tuple(out)


def _leading(op: Op, args: tuple) -> tuple | None:
    """Arguments as they are, of an op that takes any dimensions in front; all of one rank."""
    if len({x.ndim for x in args if x.__class__ is Lane}) > 1:
        return None
    return tuple(x.whole if x.__class__ is Lane else x for x in args)


def _along(op: Op, args: tuple, n: int, shapes: Any) -> tuple | None:
    """Arguments with `dim` moved by one; a 0-d tensor has one dimension meanwhile."""
    at = next(op.index[d] for d in _DIMS if d in op.index)
    lanes = [i for i, x in enumerate(args) if x.__class__ is Lane]
    if not lanes or lanes[0] != op.tensor_slots[0]:
        return None
    first = args[lanes[0]]
    rank, dim, out = first.ndim, args[at], list(args)
    if any(max(args[i].ndim, 1) != max(rank, 1) for i in lanes):
        return None
    for i in lanes:
        out[i] = args[i].whole if args[i].ndim else reshape(args[i].whole, (n, 1))
    several = isinstance(dim, list | tuple)
    # an empty sequence means all dimensions to some, none to others: see Note [Dims of a reduction]
    none = several and not dim and first.size != 1 and tuple(shapes[0]) == first.shape
    if dim is None or (several and not dim and not none):
        if len(lanes) > 1:
            return None
        out[lanes[0]], out[at] = reshape(out[lanes[0]], (n, first.size)), 1
    elif several:
        out[at] = tuple(norm_dim(d, rank) + 1 for d in dim)
    else:
        out[at] = norm_dim(dim, rank) + 1
    return tuple(out)


def _each(op: Op, args: tuple, n: int, shapes: Any) -> Any:
    """A call for each of the batch, and the results stacked."""
    several = isinstance(shapes, list)
    if n == 0:
        empty = [full_op((0, *s), 0, d) for s, d in (shapes if several else [shapes])]
        return tuple(empty) if several else empty[0]

    def one(x: Any, k: int) -> Any:
        if x.__class__ is Lane:
            return select(x.tensor, 0, k) if x.batched else x.tensor
        return [one(y, k) for y in x] if isinstance(x, list) else x

    results = [apply(op, tuple(one(x, k) for x in args)) for k in range(n)]
    if several:
        return tuple(stack(column) for column in zip(*results, strict=True))
    return stack(results)
