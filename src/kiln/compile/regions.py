"""Regions: which nodes become memory, and the loop nests that compute them.

A node is *materialised* where its values must lie in memory; every other node is an expression,
computed inside the loops of whoever reads it. `choose` decides by cost; `Region` writes a
materialised node as expressions over the loops of one nest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any

from .. import dtypes as dt
from ..graph.node import CONST, INPUT, ITEM, LITERAL, Graph, Node
from ..ops.reduction import reduced_axes
from ..ops.registry import Op
from ..shape import norm_dim
from . import loopnest as ln
from . import maps
from .maps import Affine, NotAffine
from .orders import Strides, row_major
from .views import VIEWS, is_plain_view, strided_view, through, tiles, view_root

RENAMED = {"floordiv": "floor_div"}
GATHERS = {"gather": "index", "index_select": "index", "index": "indices"}
"""Ops that read at computed indices, and the parameter that holds these."""
REDUCTIONS = {"sum": "sum", "prod": "prod", "amax": "max", "amin": "min", "any": "any", "all": "all",
              "argmax": "argmax", "argmin": "argmin"}  # fmt: skip
SCATTERS = {"scatter_op", "scatter_add", "index_put_op", "index_add"}
"""Ops that write at computed indices into a copy of their first argument."""
_MOST_TAPS = 32
_DEAREST = 120
"""Most work in one expression: a cap on a kernel's code."""
_VIEW = 0.25
"""What a node that only moves elements counts among the operations that `loopnest.HIGHEST` caps."""
_TWICE = 24
"""The weight of an expression that takes as long as to store and load its values."""
_VOCABULARY = ln.UNARY | ln.BINARY | ln.COMPARE | ln.FLOAT_TERNARY
_DEAR = {"exp": 8, "exp2": 8, "expm1": 10, "log": 8, "log2": 8, "log10": 8, "log1p": 10, "sin": 10, "cos": 10,
         "tan": 14, "tanh": 10, "erf": 10, "erfc": 12, "sigmoid": 10, "pow": 20, "asin": 10, "acos": 10, "atan": 10,
         "atan2": 12, "sinh": 12, "cosh": 12, "div": 3, "sqrt": 3, "rsqrt": 4, "reciprocal": 3, "rem": 5, "fmod": 5,
         "gcd": 60, "lcm": 60, "igamma": 90, "igammac": 90, "gamma_slope": 90, "beta_slope": 90, "random_bits": 40, "gather": 3, "index": 3, "index_select": 3}  # fmt: skip


def ln_dtype(d: dt.dtype) -> str | None:
    """The loop nest's name of a dtype; None for complex ones."""
    return d.abbr if d.abbr in ln.ITEMSIZE else None


def scalar_op(n: Node) -> str | None:
    """The primitive expression with which a loop computes an elementwise node, if there is one."""
    o = n.op
    if (
        not isinstance(o, Op)
        or o.scalar is None
        or any(ln_dtype(x.dtype) is None for x in (n, *n.inputs))
    ):
        return None
    if any(n.args[i] != p.default for i, p in enumerate(o.params) if not p.is_tensor and o.family == "elementwise"
           and o.name != "clone"):  # fmt: skip
        return None
    name = RENAMED.get(o.scalar, o.scalar)
    if o.family not in ("elementwise", "select", "cast"):
        return None
    if name in ("where", "cast", "copy"):
        return name
    if name not in _VOCABULARY:
        return None
    d = n.inputs[0].dtype
    if name in ln.FLOAT_BINARY | ln.FLOAT_TERNARY and d.category != dt.FLOAT:
        return None
    if name == "nextafter" and d in (dt.float16, dt.bfloat16):
        return None  # their neighbours are not those of the float32 in which they are computed
    if name in ln.FLOAT_UNARY and d.category != dt.FLOAT:
        return "copy" if name in ("floor", "ceil", "trunc", "round") else None
    if name in ("isnan", "isinf", "isfinite") and d.category != dt.FLOAT:
        return None
    if d is dt.bool_:
        named = {
            "add": "or",
            "mul": "and",
            "maximum": "or",
            "minimum": "and",
            "abs": "copy",
            "sign": "copy",
        }
        name = named.get(name, name)
        return name if name in ("or", "and", "xor", "not", "eq", "ne", "copy") else None
    if name in ("abs", "sign") and not d.is_signed and d.category == dt.INT:
        return "copy" if name == "abs" else None
    if d.category == dt.INT and name in ("rem", "fmod", "floor_div"):
        return None  # integer division by zero raises, which the reference does on the host
    return name


def fusable(n: Node) -> bool:
    """Whether a node can be an expression inside loops."""
    if n.op in (CONST,):
        return ln_dtype(n.dtype) is not None
    if n.name in GATHERS:
        return (
            ln_dtype(n.dtype) is not None and len(n.args[0].shape) > 0 and 0 not in n.args[0].shape
        )
    if n.name == "windows_grad" and tiles(n):
        return ln_dtype(n.dtype) is not None
    if taps(n):
        return True
    if n.name in VIEWS or n.name in ("full", "arange", "pad"):
        return ln_dtype(n.dtype) is not None
    if n.name == "random_bits":
        return True
    return scalar_op(n) is not None


def taps(n: Node) -> int:
    """How many elements of one window each a node reduces, where these are few enough to be written out; else 0."""
    if n.name not in ("sum", "amax", "amin", "argmax", "argmin") or not _reduces(n):
        return 0
    x = n.args[0]
    while x.name in ("reshape", "cast"):
        x = x.args[0]
    if x.name != "windows":
        return 0
    count = prod(n.args[0].shape[i] for i in reduced_dims(n))
    return count if 0 < count == prod(x.args[1]) <= _MOST_TAPS else 0


def reducible(n: Node) -> bool:
    """Whether a node is a reduction that a loop nest computes with loops of its own."""
    return _reduces(n) and not taps(n)


def _reduces(n: Node) -> bool:
    if n.name not in REDUCTIONS or getattr(n.op, "family", "") != "reduction":
        return False
    x = n.args[0]
    if ln_dtype(x.dtype) is None or ln_dtype(n.dtype) is None:
        return False
    if n.name in ("sum", "prod") and x.dtype.category <= dt.INT and n.dtype is not dt.int64:
        return False
    return not (
        n.name in ("amax", "amin", "argmax", "argmin") and (x.dtype is dt.bool_ or 0 in x.shape)
    )


def reduced_dims(n: Node) -> tuple[int, ...]:
    """The dimensions that a reduction node reduces."""
    if n.args[1] == () and tuple(n.shape) == tuple(n.args[0].shape):
        return ()  # any and all take an empty dim literally
    return tuple(sorted(reduced_axes(n.args[1], len(n.args[0].shape), n.name)))


def _weight(n: Node) -> int:
    if (
        n.name in VIEWS
        or n.op is CONST
        or n.name in ("full", "cast", "clone", "windows_grad", "pad")
    ):
        return 0
    return 2 * taps(n) or _DEAR.get(scalar_op(n) or n.name, 1)


def choose(
    graph: Graph,
    own: Callable[[Node], bool],
    fuse: bool = True,
    strided: Callable[[Node], bool] = lambda n: False,
) -> tuple[list[Node], dict[Node, list[Node]]]:
    """The nodes to materialise, each after its inputs, and the users of every node.

    `own(node)` says that a node has a kernel of its own (a contraction, a host call, …),
    `strided(node)` that this reads operands through any strides.
    """
    order = graph.nodes()
    users: dict[Node, list[Node]] = {n: [] for n in order}
    for n in order:
        for x in n.inputs:
            users[x].append(n)
    outputs = set(graph.outputs)
    need: set[Node] = set()
    for n in order:
        if n.name in SCATTERS:
            need.update(i for i, _, _ in index_uses(n))
        if own(n):
            # a scatter's base is computed in the memory of the result
            inputs = n.inputs[1:] if n.name in SCATTERS else n.inputs
            if strided(n):
                roots = {view_root(x) for x in inputs}
                need |= roots
                need.update(x for x in inputs if strided_view(x, roots.__contains__) is None)
            else:
                need.update(view_root(x) if is_plain_view(x) else x for x in inputs)
        elif n.name in GATHERS:
            need.update(n.inputs)
    cost: dict[Node, int] = {}
    height: dict[Node, float] = {}
    chosen: list[Node] = []
    finishing: set[Node] = set()  # expressions with a reduction in them, which is done once
    for n in order:
        cost[n], height[n] = 1, 0
        if n.op in (INPUT, LITERAL, ITEM):
            continue
        own_weight = _weight(n)
        height[n] = max((height[x] for x in n.inputs), default=0) + (1 if own_weight else _VIEW)
        weight = own_weight + sum(cost[x] for x in dict.fromkeys(n.inputs))
        readers = users[n]
        keep = n in outputs or n in need or own(n) or not (fusable(n) or reducible(n))
        if not keep and n.op is not CONST and n.name not in ("full", "arange"):
            if not fuse and n.name not in VIEWS:
                keep = True
            elif reducible(n):
                keep = not (len(readers) == 1 and _stays_small(readers[0], n))
                weight = 1
                finishing.add(n)
            elif len(readers) > 1 and any(x in finishing for x in n.inputs):
                keep = True
            elif n.name not in VIEWS or weight > 1:
                size = n.numel()
                spread = any(
                    u.numel() >= 4 * max(size, 1) and u.name not in REDUCTIONS
                    for u in readers
                    if u.outputs is None
                )
                tapped = any(u.name in ("windows", "pad") for u in readers)
                keep = (
                    (len(readers) > 1 and weight > _again(readers))
                    or ((spread or tapped) and weight >= 4)
                    or weight > _DEAREST
                )
            keep = keep or height[n] > ln.HIGHEST
            if any(x in finishing for x in n.inputs):
                finishing.add(n)
        if keep:
            chosen.append(n)
            finishing.discard(n)
            weight, height[n] = 1, 0
        cost[n] = weight
    return chosen, users


def _again(readers: list[Node]) -> float:
    """The weight up to which an expression is computed by each of its readers rather than stored and loaded.

    Where forward and backward read the erf of a gelu, computing it twice is as fast as a round trip
    to memory, and nothing waits there for backward. Rows that are summed right after are still in cache.
    """
    if any(u.name in REDUCTIONS or u.name in VIEWS or u.name == "cast" for u in readers):
        return 8
    return max(8, _TWICE / (len(readers) - 1))


def _stays_small(user: Node, n: Node) -> bool:
    return (
        user.outputs is None
        and user.numel() == n.numel()
        and (fusable(user) and user.name != "windows")
    )


class Unfusable(Exception):
    """A node that has to be materialised before the region that reads it can be written, and further ones."""

    def __init__(self, node: Node, *further: Node):
        self.node, self.further = node, further


class Region:
    """Expressions over the loops of one nest.

    `dims` are the loops; `buffers` collects (node or token, dtype) in the order of the kernel's
    arguments. `stored(node)` says whether a node lies in memory, `strides(node)` in what order.
    `leaves` binds nodes (a contraction's result in its epilogue) to expressions at the identity access.
    """

    def __init__(
        self, dims: Sequence[int], stored: Callable[[Node], bool], strides: Strides = row_major
    ):
        self.dims = tuple(dims)
        self.stored, self.strides = stored, strides
        self.buffers: list[tuple[Any, str]] = []
        self.memo: dict[Any, ln.Expr] = {}
        self.bounds: tuple[tuple[int, int, int], ...] = ()
        self.leaves: dict[Node, tuple[tuple[Affine, ...], ln.Expr]] = {}

    def buffer(self, key: Any, dtype: str) -> int:
        """The argument number of a buffer."""
        entry = (key, dtype)
        if entry not in self.buffers:
            self.buffers.append(entry)
        return self.buffers.index(entry)

    def position(self, access: Sequence[Affine], n: Node) -> ln.IndexMap:
        """Where an access of a node lies in its memory."""
        flat = maps.dot(access, self.strides(n), len(self.dims))
        return ln.IndexMap(flat.offset, flat.strides)

    def expr(self, n: Node, access: tuple[Affine, ...]) -> ln.Expr:
        """The value of a node at an access, one Affine for each of its dimensions."""
        key = (n, access, self.bounds)
        found = self.memo.get(key)
        if found is None:
            found = self.memo[key] = self._expr(n, access)
        return found

    def _expr(self, n: Node, access: tuple[Affine, ...]) -> ln.Expr:
        if n in self.leaves:
            at, leaf = self.leaves[n]
            if at != access:
                raise Unfusable(n)
            return leaf
        d = ln_dtype(n.dtype)
        if d is None:
            raise Unfusable(n)
        if n.op is CONST:
            return ln.const(n.args[0], d)
        if self.stored(n):
            return self.load(n, access, d)
        name = n.name
        if name in VIEWS or name in ("pad", "windows_grad"):
            return self._moved(n, access, d)
        if name == "full":
            return ln.const(n.args[1], d)
        if name == "arange":
            return self._arange(n, access, d)
        if name == "random_bits":
            state = n.args[0]
            if not self.stored(state):
                raise Unfusable(state)
            b = self.buffer(state, "u64")
            flat = maps.flatten(access, n.shape, len(self.dims))
            return ln.apply(
                "random_bits",
                ln.scalar(b, "u64", 0),
                ln.scalar(b, "u64", 1),
                ln.index(flat.strides, flat.offset),
            )
        if n.name in GATHERS:
            return self._gathered(n, access, d)
        if taps(n):
            return self._tapped(n, access, d)
        if reducible(n):
            raise Unfusable(n)
        primitive = scalar_op(n)
        if primitive is None:
            raise Unfusable(n)
        x = n.inputs[0]
        if (
            primitive == "cast"
            and x.name in ("argmax", "argmin")
            and taps(x)
            and not self.stored(x)
        ):
            return self._tapped(x, access, d)  # counting in the narrow dtype at once
        xs = [self.expr(x, self.broadcast(x, n, access)) for x in n.inputs]
        if primitive == "copy":
            return xs[0]
        if primitive == "cast":
            return ln.cast(xs[0], d)
        if len(n.inputs) < len([i for i in n.op.tensor_slots if n.args[i] is not None]):  # type: ignore[union-attr]
            raise Unfusable(n)
        return ln.apply(primitive, *xs)

    def load(
        self, n: Node, access: Sequence[Affine], d: str, fill: ln.Expr | None = None,
        bounds: Sequence[tuple[int, int, int]] = (),
    ) -> ln.Expr:  # fmt: skip
        """A stored node's element, read only within `bounds` and those that hold for the region."""
        at = self.position(access, n)
        limits = tuple(dict.fromkeys((*bounds, *self.bounds)))
        return ln.load(self.buffer(n, d), d, ln.IndexMap(at.offset, at.strides, limits), fill)

    def guarded(
        self, n: Node, access: tuple[Affine, ...], bounds: Sequence[tuple[int, int, int]]
    ) -> ln.Expr:
        """The value of a node at an access where loops are within bounds, else 0: nothing is read there."""
        if any(low >= high for _, low, high in bounds):
            return ln.const(0, ln_dtype(n.dtype) or "")
        live = tuple(b for b in bounds if b[1] > 0 or b[2] < self.dims[b[0]])
        before, self.bounds = self.bounds, (*self.bounds, *live)
        try:
            value = self.expr(n, access)
        finally:
            self.bounds = before
        if value.op == "load" and (not live or value.args[0] is ln.const(0, value.dtype)):
            return value  # the load itself gives 0
        for dim, low, high in live:
            i = ln.index([int(k == dim) for k in range(len(self.dims))])
            inside = ln.apply(
                "and",
                ln.apply("ge", i, ln.const(low, "i64")),
                ln.apply("lt", i, ln.const(high, "i64")),
            )
            value = ln.apply("where", inside, value, ln.const(0, value.dtype))
        return value

    def _tapped(self, n: Node, access: tuple[Affine, ...], d: str) -> ln.Expr:
        """A reduction over the few elements of a window, written out; positions count in dtype `d`."""
        x, reduced = n.args[0], reduced_dims(n)
        kept = [a for i, a in enumerate(access) if not (n.args[2] and i in reduced)]
        best: ln.Expr | None = None
        where = ln.const(0, d)
        for k, tap in enumerate(product(*(range(x.shape[i]) for i in reduced))):
            at, rest = iter(tap), iter(kept)
            value = self.expr(
                x,
                tuple(
                    maps.constant(len(self.dims), next(at)) if i in reduced else next(rest)
                    for i in range(len(x.shape))
                ),
            )
            if n.name == "sum":
                value = ln.cast(value, d)
                best = value if best is None else ln.apply("add", best, value)
            elif best is None:
                best = value
            else:  # the same for the largest value and for its position, which share it
                better = _beats(value, best, n.name.endswith("max"))
                where = ln.apply("where", better, ln.const(k, d), where)
                best = ln.apply("where", better, value, best)
        assert best is not None
        return where if n.name.startswith("arg") else best

    def broadcast(self, x: Node, n: Node, access: tuple[Affine, ...]) -> tuple[Affine, ...]:
        """The access of an operand that broadcasts to its user's shape."""
        lead = len(n.shape) - len(x.shape)
        zero = maps.constant(len(self.dims))
        return tuple(zero if s == 1 else access[lead + i] for i, s in enumerate(x.shape))

    def _moved(self, n: Node, access: tuple[Affine, ...], d: str) -> ln.Expr:
        x = n.args[0]
        if n.name == "pad":
            return self._padded(n, access, d)
        try:
            return self.expr(x, through(n, access, self.dims))
        except NotAffine:
            raise Unfusable(x if not self.stored(x) else n) from None

    def _padded(self, n: Node, access: tuple[Affine, ...], d: str) -> ln.Expr:
        x, low, high, value = n.args
        if not self.stored(x):
            raise Unfusable(x)
        bounds, moved = [], []
        for a, lo, hi, size in zip(access, low, high, x.shape, strict=True):
            inside = Affine(a.offset - lo, a.strides)
            moved.append(inside)
            if lo or hi:
                walkers = [i for i, s in enumerate(a.strides) if s]
                if not walkers and not 0 <= inside.offset < size:
                    return ln.const(value, d)
                if len(walkers) > 1 or any(a.strides[at] < 0 for at in walkers):
                    raise Unfusable(n)
                for at in walkers:  # 0 <= offset + step * index < size
                    step = a.strides[at]
                    first, end = (-(p // step) for p in (inside.offset, inside.offset - size))
                    bounds.append((at, max(first, 0), min(end, self.dims[at])))
        if any(low >= high for _, low, high in bounds):
            return ln.const(value, d)
        return self.load(x, moved, d, ln.const(value, d), bounds)

    def _gathered(self, n: Node, access: tuple[Affine, ...], d: str) -> ln.Expr:
        """A read at computed indices, which are clamped: a check elsewhere refuses those out of range."""
        x = n.args[0]
        if not self.stored(x):
            raise Unfusable(x)
        if self.bounds:
            raise Unfusable(n)
        strides = self.strides(x)
        at = maps.constant(len(self.dims))
        where: ln.Expr | None = None
        for dim, index, place in gathered_dims(n, access):
            if index is None:
                at = at.added(place[0].scaled(strides[dim]))
                continue
            step = self.index_step(index, place, x.shape[dim], strides[dim], n.name == "index")
            where = step if where is None else ln.apply("add", where, step)
        assert where is not None
        return ln.gather(self.buffer(x, d), d, where, ln.IndexMap(at.offset, at.strides))

    def index_step(
        self, index: Node, place: Sequence[Affine], size: int, stride: int, wraps: bool
    ) -> ln.Expr:
        """An index, clamped into its dimension, times the dimension's stride."""
        i = ln.cast(self.expr(index, self.broadcast_to(index, place)), "i64")
        if wraps:
            i = ln.apply(
                "where",
                ln.apply("lt", i, ln.const(0, "i64")),
                ln.apply("add", i, ln.const(size, "i64")),
                i,
            )
        i = ln.apply(
            "minimum", ln.apply("maximum", i, ln.const(0, "i64")), ln.const(size - 1, "i64")
        )
        return ln.apply("mul", i, ln.const(stride, "i64"))

    def broadcast_to(self, x: Node, access: Sequence[Affine]) -> tuple[Affine, ...]:
        """The access of a node that broadcasts to dimensions with these accesses."""
        lead = len(access) - len(x.shape)
        zero = maps.constant(len(self.dims))
        return tuple(zero if s == 1 else access[lead + i] for i, s in enumerate(x.shape))

    def _arange(self, n: Node, access: tuple[Affine, ...], d: str) -> ln.Expr:
        start, step, _, dtype = n.args
        if dtype.category == dt.INT:
            at = access[0].scaled(int(step), int(start))
            whole = ln.const(at.offset, "i64") if at.fixed else ln.index(at.strides, at.offset)
            return (
                ln.const(at.offset, d) if at.fixed and 0 <= at.offset < 128 else ln.cast(whole, d)
            )
        i = ln.index(access[0].strides, access[0].offset)
        wide = ln.apply(
            "add", ln.apply("mul", ln.cast(i, "f64"), ln.const(step, "f64")), ln.const(start, "f64")
        )
        return ln.cast(wide, d)


def _beats(x: ln.Expr, y: ln.Expr, largest: bool) -> ln.Expr:
    """Whether x is strictly better than y; NaN is better than all but NaN."""
    better = ln.apply("not", ln.apply("le" if largest else "ge", x, y))
    return ln.apply("and", better, ln.apply("eq", y, y)) if x.dtype in ln.FLOATS else better


def index_uses(n: Node) -> list[tuple[Node, int, bool]]:
    """The index nodes of a gather or scatter: (node, size of the dimension, whether it may count from the end)."""
    x = n.args[0]
    if n.name in ("index", "index_put_op"):
        indices, dims = (n.args[1], n.args[2]) if n.name == "index" else (n.args[2], n.args[3])
        return [(i, x.shape[d], True) for i, d in zip(indices, dims, strict=True)]
    dim = norm_dim(n.args[1], len(x.shape))
    return [(n.args[2], x.shape[dim] if x.shape else 1, False)]


def gathered_dims(n: Node, access: Sequence[Affine]) -> list[tuple[int, Node | None, list[Affine]]]:
    """For each dimension of a gather's source: its index node (None: the access itself) and where that is read."""
    x = n.args[0]
    if n.name == "gather":
        dim = norm_dim(n.args[1], len(x.shape))
        return [
            (d, n.args[2] if d == dim else None, list(access) if d == dim else [access[d]])
            for d in range(len(x.shape))
        ]
    if n.name == "index_select":
        dim = norm_dim(n.args[1], len(x.shape))
        index = n.args[2]
        return [
            (d, index if d == dim else None, [access[d]] if d != dim or len(index.shape) else [])
            for d in range(len(x.shape))
        ]
    _, indices, dims = n.args
    common = len(n.shape) - (len(x.shape) - len(dims))
    together = dims[-1] - dims[0] + 1 == len(dims)
    first = dims[0] if together else 0
    shared = list(access[first : first + common])
    rest = iter([*access[:first], *access[first + common :]])
    by_dim = dict(zip(dims, indices, strict=True))
    return [
        (d, by_dim.get(d), shared if d in by_dim else [next(rest)]) for d in range(len(x.shape))
    ]
