"""The schedulable form of a fused region: loops, scalar expressions, reductions and stores, as pure data.

A `LoopNest` runs, for every point of its outer domain, its stages one after another; each stage runs over
the inner domain, reducing and storing, and later stages see earlier results through `ref`. So softmax is
one nest of three stages, and an elementwise region is one stage without reductions. Nothing here knows a
target: backends turn nests into code.

Dtypes are the short names in `DTYPES`. f16 and bf16 are computed in f32 and rounded by `cast` and stores.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from kiln.errors import KilnError

ITEMSIZE = {
    "bool": 1, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "f16": 2, "bf16": 2, "i32": 4, "u32": 4,
    "f32": 4, "i64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
DTYPES = tuple(ITEMSIZE)
FLOATS = frozenset({"f16", "bf16", "f32", "f64"})
SIGNED = frozenset({"i8", "i16", "i32", "i64"})
UNSIGNED = frozenset({"u8", "u16", "u32", "u64"})
INTS = SIGNED | UNSIGNED

# The closed vocabulary of scalar operations: name -> number of arguments.
FLOAT_UNARY = frozenset(
    [
        "sqrt",
        "rsqrt",
        "reciprocal",
        "floor",
        "ceil",
        "trunc",
        "round",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "erf",
        "erfc",
        "sigmoid",
    ]
)
UNARY = FLOAT_UNARY | {"neg", "abs", "sign", "not", "isnan", "isinf", "isfinite"}
FLOAT_BINARY = frozenset(
    ["div", "pow", "atan2", "copysign", "nextafter", "igamma", "igammac", "gamma_slope"]
)
FLOAT_TERNARY = frozenset({"beta_slope"})
INT_BINARY = frozenset({"shl", "shr", "trunc_div", "gcd", "lcm"})
COMPARE = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
BINARY = frozenset(
    [
        "add",
        "sub",
        "mul",
        "floor_div",
        "rem",
        "fmod",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "and",
        "or",
        "xor",
        *FLOAT_BINARY,
        *INT_BINARY,
    ]
)
REDUCTIONS = frozenset({"sum", "prod", "max", "min", "any", "all", "argmax", "argmin"})
_MEMORY = frozenset({"load", "gather", "scalar"})
HIGHEST = 24
"""Most operations that wait for one another in one kernel, which caps its code too.

In a longer chain the processor finds too little to do at once: 1,000 multiplications and additions in a row
over 1M (16M) elements took 22 (360) ms in kernels of 100, 8 (138) ms in those of 24; with 16 the larger one
took 153 ms, as memory is read and written more often. Kernels of networks have 11 at most.
"""
LEAVES = frozenset({"load", "gather", "scalar", "const", "index", "ref", "leaf"})


@dataclass(frozen=True)
class IndexMap:
    """Element ``offset + sum(strides[d] * index[d])`` of a buffer, one stride for each domain dim.

    ``bounds`` holds (dim, lo, hi): the access happens only where lo <= index[dim] < hi in each of them.
    """

    offset: int
    strides: tuple[int, ...]
    bounds: tuple[tuple[int, int, int], ...] = ()

    def __str__(self) -> str:
        terms = [f"{s}*i{d}" if s != 1 else f"i{d}" for d, s in enumerate(self.strides) if s]
        text = " + ".join(([str(self.offset)] if self.offset or not terms else []) + terms)
        guards = " and ".join(f"{lo} <= i{d} < {hi}" for d, lo, hi in self.bounds)
        return f"{text} if {guards}" if guards else text


class Expr:
    """A node of a scalar expression: immutable and hash-consed, so equal means identical.

    ``op`` is a leaf kind or an operation, ``args`` its operands, ``attr`` what else defines it.
    """

    __slots__ = ("__weakref__", "args", "attr", "dtype", "op")

    op: str
    args: tuple[Expr, ...]
    dtype: str
    attr: Any

    def __new__(cls, op: str, args: tuple[Expr, ...], dtype: str, attr: Any = None) -> Self:
        # repr tells 0.0 from -0.0 and finds NaN equal to itself.
        key = (op, args, dtype, repr(attr) if op == "const" else attr)
        found = _interned.get(key)
        if found is not None:
            return found
        self = super().__new__(cls)
        for name, value in zip(
            ("op", "args", "dtype", "attr"), (op, args, dtype, attr), strict=True
        ):
            object.__setattr__(self, name, value)
        _interned[key] = self
        return self

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("expressions are immutable")

    def __repr__(self) -> str:
        return format_expr(self)


_interned: weakref.WeakValueDictionary[tuple[Any, ...], Expr] = weakref.WeakValueDictionary()


# -- leaves ---------------------------------------------------------------------------------------


def load(buffer: int, dtype: str, at: IndexMap, fill: Expr | None = None) -> Expr:
    """The element of ``buffer`` at an affine index; where ``at.bounds`` fail, ``fill`` (or zero)."""
    if fill is None and at.bounds:
        fill = const(0, dtype)
    return Expr("load", (fill,) if at.bounds else (), dtype, (buffer, at))


def gather(buffer: int, dtype: str, index: Expr, at: IndexMap) -> Expr:
    """The element at ``at`` plus an integer expression; keeping it in range is the caller's part."""
    if index.dtype not in INTS or at.bounds:
        raise _error("gather needs an integer index and no bounds", f"{index.dtype}, {at}")
    return Expr("gather", (index,), dtype, (buffer, at))


def scalar(buffer: int, dtype: str, offset: int = 0) -> Expr:
    """One element that does not depend on the loops, such as a learning rate."""
    return Expr("scalar", (), dtype, (buffer, offset))


def const(value: float | bool, dtype: str) -> Expr:
    """A constant."""
    value = float(value) if dtype in FLOATS else bool(value) if dtype == "bool" else int(value)
    return Expr("const", (), dtype, value)


def index(strides: Sequence[int], offset: int = 0) -> Expr:
    """The i64 number ``offset + sum(strides[d] * index[d])``, such as a dim's index or a linear one."""
    return Expr("index", (), "i64", IndexMap(offset, tuple(strides)))


def ref(stage: int, number: int, dtype: str) -> Expr:
    """The result of a reduction of an earlier stage."""
    return Expr("ref", (), dtype, (stage, number))


def leaf(name: str, dtype: str) -> Expr:
    """A value that the surrounding kernel binds, such as a GEMM's accumulator in an epilogue."""
    return Expr("leaf", (), dtype, name)


# -- operations -----------------------------------------------------------------------------------


def apply(op: str, *args: Expr) -> Expr:
    """An operation of the vocabulary; operands must already have one dtype (see `cast`).

    ``random_bits(key, counter, position)`` is word position % 4 of Philox4x32-10's block counter +
    position // 4: the position counts the elements of a draw, the counter the blocks of earlier ones.
    """
    if op == "where":
        cond, x, y = args
        _require(cond.dtype == "bool" and x.dtype == y.dtype, op, args)
        return Expr(op, args, x.dtype)
    if op == "random_bits":
        key, counter, position = args
        _require(key.dtype == counter.dtype == "u64" and position.dtype in ("i64", "u64"), op, args)
        return Expr(op, args, "u32")
    if op in UNARY:
        (x,) = args
        _require(op not in FLOAT_UNARY or x.dtype in FLOATS, op, args)
        _require(op != "neg" or x.dtype != "bool", op, args)
        _require(op != "not" or x.dtype not in FLOATS, op, args)
        return Expr(op, args, "bool" if op.startswith("is") else x.dtype)
    if op in FLOAT_TERNARY:
        same = len({a.dtype for a in args}) == 1 and args[0].dtype in FLOATS
        _require(len(args) == 3 and same, op, args)
        return Expr(op, args, args[0].dtype)
    if op not in BINARY and op not in COMPARE:
        raise _error(
            f"no operation {op!r} in the loop nest vocabulary", ", ".join(a.dtype for a in args)
        )
    x, y = args
    _require(x.dtype == y.dtype, op, args)
    if op in COMPARE:
        return Expr(op, args, "bool")
    if op in FLOAT_BINARY:
        _require(x.dtype in FLOATS, op, args)
    elif op in ("and", "or", "xor"):
        _require(x.dtype not in FLOATS, op, args)
    elif op in INT_BINARY:
        _require(x.dtype in INTS, op, args)
    else:
        _require(x.dtype != "bool", op, args)
    return Expr(op, args, x.dtype)


def cast(x: Expr, dtype: str) -> Expr:
    """The value in another dtype, as PyTorch converts (float to bool is != 0, to int truncates)."""
    return x if x.dtype == dtype else Expr("cast", (x,), dtype)


def bitcast(x: Expr, dtype: str) -> Expr:
    """The same bits in another dtype of the same size."""
    _require(
        ITEMSIZE[x.dtype] == ITEMSIZE[dtype] and "bool" not in (x.dtype, dtype), "bitcast", (x,)
    )
    return x if x.dtype == dtype else Expr("bitcast", (x,), dtype)


def unrounded(x: Expr, dtype: str) -> Expr:
    """An f32 value taken as an f16 or bf16 one whose rounding is still to come."""
    return x if x.dtype == dtype else Expr("unrounded", (x,), dtype)


def _require(condition: bool, op: str, args: Sequence[Expr]) -> None:
    if not condition:
        raise _error(f"{op} does not take these dtypes", ", ".join(a.dtype for a in args))


def _error(what: str, received: str) -> KilnError:
    return KilnError(
        "loops", what, received, "insert casts; see kiln.compile.loopnest for the rules"
    )


# -- the nest -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reduction:
    """``expr`` combined over the inner domain; the result is a ``dtype`` (i64 for arg-reductions).

    max, min and their arg forms let NaN win; arg forms give the first linear index over the inner domain.
    Sums of f16 and bf16 accumulate in f32; sums of other dtypes in ``dtype``.
    """

    kind: str
    expr: Expr
    dtype: str


@dataclass(frozen=True)
class Store:
    """``expr`` written to ``buffer`` at every point; the map has no bounds and repeats no element."""

    buffer: int
    at: IndexMap
    expr: Expr


@dataclass(frozen=True)
class Stage:
    """One run over the inner domain: its reductions, and its stores at every point of it."""

    reductions: tuple[Reduction, ...] = ()
    stores: tuple[Store, ...] = ()


@dataclass(frozen=True)
class LoopNest:
    """Loops over ``outer`` then, stage after stage, ``inner``; ``final`` stores once per outer point.

    ``buffers`` are the dtypes of the kernel's arguments in order. Every index map has one stride for each
    dim of ``outer + inner`` (zeros for inner dims in ``final``). A buffer may be both read and written
    where reads at an outer point see only what that point wrote. ``chunk`` = (dim, size) limits inner dim
    ``dim`` to the ``size`` indices from ``size * index[0]`` on: how schedules split long reductions.
    The last ``private`` buffers are no arguments: stages keep values for later stages in them, each read
    only where the same point stored it.
    """

    outer: tuple[int, ...]
    inner: tuple[int, ...]
    buffers: tuple[str, ...]
    stages: tuple[Stage, ...]
    final: tuple[Store, ...] = ()
    chunk: tuple[int, int] | None = None
    private: int = 0

    @property
    def dims(self) -> tuple[int, ...]:
        """All loop extents, outer first."""
        return self.outer + self.inner

    def roots(self) -> list[Expr]:
        """Every expression that the nest evaluates."""
        found = [e for s in self.stages for e in _stage_roots(s)]
        return found + [s.expr for s in self.final]

    def accesses(self) -> list[tuple[str, int, IndexMap]]:
        """(kind, buffer, map) of all loads, gathers, stores and index leaves (buffer -1), no repeats."""
        known = self.__dict__.get("_accesses")
        if known is not None:
            return known
        found: dict[tuple[str, int, IndexMap], None] = {}
        stores = [t for s in self.stages for t in s.stores] + list(self.final)
        for t in stores:
            found["store", t.buffer, t.at] = None
        for e in walk(self.roots()):
            if e.op in ("load", "gather"):
                found[(e.op, *e.attr)] = None
            elif e.op == "index":
                found["index", -1, e.attr] = None
        object.__setattr__(self, "_accesses", list(found))  # a nest never changes
        return self.__dict__["_accesses"]

    def is_copy(self) -> bool:
        """Whether the nest only copies its first buffer, each element to the same place."""
        stores = [t for s in self.stages for t in s.stores]
        if self.final or any(s.reductions for s in self.stages) or len(stores) != 1:
            return False
        e = stores[0].expr
        return e.op == "load" and e.attr == (0, stores[0].at) and stores[0].buffer == 1

    def in_place(self, old: int, new: int) -> bool:
        """Whether buffer ``new`` may be the memory of ``old``: each element is read where it is stored,
        in no later stage.
        """
        known = self.__dict__.get("_in_place", {})
        if (old, new) not in known:
            known[old, new] = self._may_lie_in(old, new)
            object.__setattr__(self, "_in_place", known)  # a nest never changes
        return known[old, new]

    def _may_lie_in(self, old: int, new: int) -> bool:
        at = stage = None
        for k, s in enumerate((*self.stages, Stage((), self.final))):
            for t in s.stores:
                if t.buffer == new:
                    if at is not None:
                        return False
                    at, stage = t.at, k
        if at is None or stage is None:
            return False
        for k, s in enumerate((*self.stages, Stage((), self.final))):
            for e in walk(_stage_roots(s)):
                reads = e.op in ("load", "gather", "scalar") and e.attr[0] == old
                if reads and (e.op != "load" or e.attr[1] != at or k > stage):
                    return False
        return True

    def check(self) -> LoopNest:
        """Raise KilnError where the nest breaks its own rules; returns the nest."""
        n = len(self.dims)
        for kind, buffer, at in self.accesses():
            if len(at.strides) != n or buffer >= len(self.buffers):
                raise _error(
                    f"{kind} does not fit the nest", f"buffer {buffer} at [{at}], {n} dims"
                )
            if kind == "store" and at.bounds:
                raise _error("a store has bounds", f"buffer {buffer} at [{at}]")
        for number, stage in enumerate((*self.stages, Stage((), self.final))):
            for r in stage.reductions:
                if r.kind not in REDUCTIONS:
                    raise _error(f"no reduction {r.kind!r}", str(r.expr))
            for e in walk(_stage_roots(stage)):
                if e.op == "ref" and e.attr[0] >= number:
                    raise _error(f"stage {number} refers to a later result", str(e))
                if e.op in _MEMORY and self.buffers[e.attr[0]] != e.dtype:
                    raise _error(
                        "load and buffer differ in dtype", f"{e} from {self.buffers[e.attr[0]]}"
                    )
        for t in [t for s in self.stages for t in s.stores] + list(self.final):
            if t.expr.dtype != self.buffers[t.buffer]:
                raise _error(
                    "store and buffer differ in dtype", f"{t.expr.dtype}, buffer {t.buffer}"
                )
        return self

    def __str__(self) -> str:
        lines = [f"buffers {', '.join(f'b{i}: {d}' for i, d in enumerate(self.buffers))}"]
        if self.private:
            lines.append(f"private from b{len(self.buffers) - self.private}")
        pad = ""
        for d, size in enumerate(self.outer):
            lines.append(f"{pad}for i{d} in {size}:")
            pad += "  "
        for number, stage in enumerate(self.stages):
            inside = pad
            for d, size in enumerate(self.inner, len(self.outer)):
                limit = (
                    f" (chunk {self.chunk[1]} at i0)" if self.chunk and self.chunk[0] == d else ""
                )
                lines.append(f"{inside}for i{d} in {size}{limit}:")
                inside += "  "
            shared, texts = format_exprs(_stage_roots(stage))
            lines += [inside + line for line in shared]
            for k, r in enumerate(stage.reductions):
                lines.append(f"{inside}r{number}.{k}: {r.dtype} = {r.kind}({texts[k]})")
            for t, text in zip(stage.stores, texts[len(stage.reductions) :], strict=True):
                lines.append(f"{inside}b{t.buffer}[{t.at}] = {text}")
        shared, texts = format_exprs([t.expr for t in self.final])
        lines += [pad + line for line in shared]
        for t, text in zip(self.final, texts, strict=True):
            lines.append(f"{pad}b{t.buffer}[{t.at}] = {text}")
        return "\n".join(lines)


def elementwise(shape: Sequence[int], buffers: Sequence[str], stores: Sequence[Store]) -> LoopNest:
    """The nest of a region without reductions."""
    return LoopNest(tuple(shape), (), tuple(buffers), (Stage((), tuple(stores)),)).check()


def _stage_roots(stage: Stage) -> list[Expr]:
    return [r.expr for r in stage.reductions] + [s.expr for s in stage.stores]


def walk(roots: Sequence[Expr]) -> list[Expr]:
    """All nodes below ``roots``, each once, operands before their users."""
    order: list[Expr] = []
    seen: set[Expr] = set()
    stack: list[Expr | None] = list(reversed(roots))
    while stack:
        e = stack.pop()
        if e is None:  # all that the one below reads is in order
            order.append(stack.pop())  # type: ignore[arg-type]
        elif e not in seen:
            seen.add(e)
            if e.args:
                stack += (e, None, *reversed(e.args))
            else:
                order.append(e)
    return order


def height(roots: Sequence[Expr]) -> int:
    """The most operations that wait for one another, from a leaf to a root."""
    above: dict[Expr, int] = {}
    for e in walk(roots):
        above[e] = (e.op not in LEAVES) + max((above[a] for a in e.args), default=0)
    return max((above[e] for e in roots), default=0)


def heightened(both: LoopNest, a: LoopNest, b: LoopNest) -> bool:
    """Whether two nests joined have chains of operations longer than the cap and than those of each."""
    reached = height(both.roots())
    return reached > HIGHEST and reached > max(height(a.roots()), height(b.roots()))


def rewrite(
    roots: Sequence[Expr],
    change: Callable[[Expr], Expr | None],
    memo: dict[Expr, Expr] | None = None,
) -> list[Expr]:
    """``roots`` with nodes replaced bottom up where ``change`` (given new operands) returns a node."""
    memo = {} if memo is None else memo
    for e in walk(roots):
        if e in memo:
            continue
        args = tuple(memo[a] for a in e.args)
        fresh = e if args == e.args else Expr(e.op, args, e.dtype, e.attr)
        memo[e] = change(fresh) or fresh
    return [memo[e] for e in roots]


def map_nest(
    nest: LoopNest, expr: Callable[[Expr], Expr | None], at: Callable[[IndexMap], IndexMap]
) -> tuple[tuple[Stage, ...], tuple[Store, ...]]:
    """Stages and final stores with every expression rewritten and every store's map changed."""
    new: dict[Expr, Expr] = {}
    rewrite(nest.roots(), expr, new)

    def stores(items: Sequence[Store]) -> tuple[Store, ...]:
        return tuple(Store(t.buffer, at(t.at), new[t.expr]) for t in items)

    stages = tuple(
        Stage(
            tuple(Reduction(r.kind, new[r.expr], r.dtype) for r in s.reductions), stores(s.stores)
        )
        for s in nest.stages
    )
    return stages, stores(nest.final)


_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=",
    "gt": ">", "ge": ">=", "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>",
}  # fmt: skip


def format_exprs(roots: Sequence[Expr]) -> tuple[list[str], list[str]]:
    """Readable text of several expressions: lines naming what is shared, then one text for each root."""
    uses: dict[Expr, int] = {}
    order = walk(roots)
    for used in [*(a for e in order for a in e.args), *roots]:
        uses[used] = uses.get(used, 0) + 1
    text: dict[Expr, str] = {}
    shared: list[str] = []
    for e in order:
        text[e] = _format(e, [text[a] for a in e.args])
        if uses[e] > 1 and e.op not in LEAVES:
            name = f"t{len(shared)}"
            shared.append(f"{name} = {text[e]}")
            text[e] = name
    return shared, [text[e] for e in roots]


def format_expr(e: Expr) -> str:
    """One line of readable text; what is used more than once is named in front."""
    shared, (text,) = format_exprs([e])
    return "; ".join([*shared, text])


def _format(e: Expr, args: list[str]) -> str:
    if e.op in ("load", "gather", "scalar"):
        buffer, at = e.attr
        extra = f" + {args[0]}" if e.op == "gather" else ""
        other = f" else {args[0]}" if e.op == "load" and args else ""
        return f"b{buffer}[{at}{extra}{other}]"
    if e.op == "const":
        return f"{e.attr}:{e.dtype}"
    if e.op == "index":
        return f"({e.attr})"
    if e.op == "ref":
        return f"r{e.attr[0]}.{e.attr[1]}"
    if e.op == "leaf":
        return str(e.attr)
    if e.op in ("cast", "bitcast"):
        return f"{e.op}({args[0]}, {e.dtype})"
    if e.op in _INFIX:
        return f"({args[0]} {_INFIX[e.op]} {args[1]})"
    return f"{e.op}({', '.join(args)})"
