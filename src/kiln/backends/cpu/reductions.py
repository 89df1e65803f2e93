"""How one reduction starts, takes a value in, merges, and folds vectors of partial results.

A state is a list of values: the accumulator, and for arg-reductions the positions of the best so far
(a sentinel where nothing has beaten the start).
"""

from __future__ import annotations

from kiln.backends.cpu.exprs import REGISTER
from kiln.backends.cpu.ir import Builder, Val, bits_of, vec
from kiln.compile.loopnest import FLOATS, UNSIGNED, Reduction

_INF = float("inf")


def carrier(r: Reduction) -> str:
    """The dtype that values are brought to before they are combined."""
    if r.kind in ("any", "all"):
        return "bool"
    dtype = r.expr.dtype if r.kind.startswith("arg") else r.dtype
    return "f32" if dtype in ("f16", "bf16") else dtype


def is_float_sum(r: Reduction) -> bool:
    """Whether rounding errors pile up."""
    return r.kind == "sum" and r.dtype in FLOATS


def start(b: Builder, r: Reduction, lanes: int, total: int) -> list[Val]:
    """The state before any value, over an inner domain of ``total`` points."""
    dtype = carrier(r)
    acc = b.const(vec(REGISTER[dtype], lanes), _identity(r.kind, dtype))
    if not r.kind.startswith("arg"):
        return [acc]
    index = "i32" if total < 2**31 - 1 else "i64"
    return [acc, b.const(vec(index, lanes), _sentinel(index))]


def _sentinel(index: str) -> int:
    return (1 << (bits_of(index) - 1)) - 1


def _identity(kind: str, dtype: str) -> float | int | bool:
    kind = kind.removeprefix("arg")
    if kind in ("sum", "any"):
        return 0
    if kind in ("prod", "all"):
        return 1
    low = kind == "max"
    if dtype in FLOATS:
        return -_INF if low else _INF
    if dtype == "bool":
        return not low
    bits = bits_of(REGISTER[dtype])
    if dtype in UNSIGNED:
        return 0 if low else (1 << bits) - 1
    return -(1 << (bits - 1)) if low else (1 << (bits - 1)) - 1


def _combine(b: Builder, r: Reduction, x: Val, y: Val) -> Val:
    dtype = carrier(r)
    kind = r.kind
    if dtype == "bool":
        return b.bin("or" if kind in ("sum", "any", "max") else "and", x, y)
    if kind in ("sum", "prod"):
        op = "add" if kind == "sum" else "mul"
        return b.bin(f"f{op}" if dtype in FLOATS else op, x, y)
    if dtype in FLOATS:
        best = b.select(b.fcmp("ogt" if kind == "max" else "olt", y, x), y, x)  # NaN in x stays
        return b.select(b.fcmp("uno", y, y), y, best)
    return b.select(_beats(b, r, y, x), y, x)


def _beats(b: Builder, r: Reduction, y: Val, x: Val) -> Val:
    """Whether ``y`` is strictly better than ``x``; NaN is better than all but NaN."""
    dtype = carrier(r)
    largest = r.kind.endswith("max")
    if dtype in FLOATS:
        better = b.fcmp("ogt" if largest else "olt", y, x)
        return b.bin("or", better, b.bin("and", b.fcmp("uno", y, y), b.fcmp("ord", x, x)))
    kind = "u" if dtype in UNSIGNED or dtype == "bool" else "s"
    return b.icmp(kind + ("gt" if largest else "lt"), y, x)


def update(
    b: Builder, r: Reduction, state: list[Val], value: Val, position: Val | None
) -> list[Val]:
    """The state after one more value, which comes later in the domain than all before in its lane."""
    if position is None:
        return [_combine(b, r, state[0], value)]
    take = _beats(b, r, value, state[0])
    return [b.select(take, value, state[0]), b.select(take, position, state[1])]


def merge(b: Builder, r: Reduction, x: list[Val], y: list[Val]) -> list[Val]:
    """Two states of any parts of the domain as one."""
    if len(x) == 1:
        return [_combine(b, r, x[0], y[0])]
    take, keep = _beats(b, r, y[0], x[0]), _beats(b, r, x[0], y[0])
    earlier = b.icmp("slt", y[1], x[1])
    tie = b.bin("and", earlier, b.bin("xor", keep, b.const(keep.ty, True)))
    take = b.bin("or", take, tie)
    return [b.select(take, y[0], x[0]), b.select(take, y[1], x[1])]


def fold(b: Builder, r: Reduction, state: list[Val], lanes: int) -> list[Val]:
    """Vectors narrowed to ``lanes``, halves combined as a tree: always in the same order."""
    while state[0].lanes > lanes:
        half = state[0].lanes // 2
        if half == 1:
            low, high = ([b.extract(v, k) for v in state] for k in (0, 1))
        else:
            low, high = ([b.shuffle(v, None, range(k, k + half)) for v in state] for k in (0, half))
        state = merge(b, r, low, high)
    return state


def finish(b: Builder, state: list[Val]) -> Val:
    """The reduction's value: positions as i64, 0 where all values equalled the start."""
    if len(state) == 1:
        return state[0]
    best = state[1]
    best = b.select(
        b.icmp("eq", best, b.const(best.ty, _sentinel(best.elem))), b.const(best.ty, 0), best
    )
    return best if best.elem == "i64" else b.conv("sext", best, "i64")
