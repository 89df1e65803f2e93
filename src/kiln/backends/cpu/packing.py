"""Copying operands of a contraction into the layout that the micro-kernel streams.

Every packing function is ``void pack(base, dst, i64 k0, i64 kc, i64 col0)``: it writes rows
k0..k0+kc of columns col0..col0+live of the K x N operand at ``base`` as kc rows of ``panel``
elements, converting bf16 to f32 and i8 to i32. Columns past ``live`` are written as anything finite.
Strides and ``live`` may be names of values that are known at run time only.
"""

from __future__ import annotations

from collections.abc import Sequence

from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.text import (
    COMPUTE,
    ITEMSIZE,
    Text,
    all_lanes,
    dot,
    lane_mask,
    load_bits,
    load_scalar,
    load_vector,
    ramp_mask,
    store_vector,
)

PACK_PARAMS = [
    ("ptr noalias readonly", "base"), ("ptr noalias", "dst"),
    ("i64", "k0"), ("i64", "kc"), ("i64", "col0"),
]  # fmt: skip


Strides = tuple[int | str, int | str]


def compute_of(dtype: str) -> str:
    """The dtype that arithmetic on ``dtype`` is done in."""
    return {"f64": "f64", "i8": "i32", "i32": "i32"}.get(dtype, "f32")


def emit_pack_panel(
    b: Text, name: str, isa: Isa, dtype: str, strides: tuple[int, int], panel: int, live: int
) -> None:
    """Define ``name``, which packs ``live`` columns of an operand with (k, column) ``strides``."""
    with b.function(name, PACK_PARAMS, internal=True):
        pack_panel(b, isa, dtype, strides, panel, live)


def pack_panel(
    b: Text, isa: Isa, dtype: str, strides: Strides, panel: int, live: int | str
) -> None:
    """What `emit_pack_panel` does, in a function with ``PACK_PARAMS``: best where a stride is a number, 1."""
    offset = b.add(b.mul("%k0", strides[0]), b.mul("%col0", strides[1]))
    source = b.at("%base", offset, ITEMSIZE[dtype])
    if strides[1] == 1:
        _rows(b, isa, dtype, source, strides[0], panel, live)
    elif strides[0] == 1:
        _transposed(b, isa, dtype, source, strides[1], panel, live)
    else:
        _elements(b, dtype, source, strides, panel, live)


def _masks(b: Text, lanes: int, panel: int, live: int | str) -> list[tuple[int, str | None]]:
    """The vectors of a panel's row that have live columns: where each begins and its mask."""
    if isinstance(live, str):
        starts = range(0, panel, lanes)
        return [(at, ramp_mask(b, lanes, b.op(f"sub i64 {live}, {at}"))) for at in starts]
    return [
        (at, lane_mask(lanes, live - at) if live - at < lanes else None)
        for at in range(0, live, lanes)
    ]


def _rows(
    b: Text, isa: Isa, dtype: str, source: str, stride: int | str, panel: int, live: int | str
) -> None:
    compute = compute_of(dtype)
    lanes, out, size = isa.lanes(ITEMSIZE[compute]), ITEMSIZE[compute], ITEMSIZE[dtype]
    masks = _masks(b, lanes, panel, live)
    with b.loop(0, "%kc", carried=[("ptr", source), ("ptr", "%dst")]) as loop:
        src, dst = loop.carried
        for at, mask in masks:
            value = load_vector(b, b.at(src, at, size), dtype, lanes, mask)
            store_vector(b, value, b.at(dst, at * out), compute, lanes)
        loop.next = [b.at(src, stride, size), b.at(dst, panel * out)]


def _transposed(
    b: Text, isa: Isa, dtype: str, source: str, stride: int | str, panel: int, live: int | str,
    target: str = "%dst",
) -> None:  # fmt: skip
    """K is contiguous: of 16 bytes from each of as many columns as there are lanes become rows.

    One block's code serves all: the last block of K overlaps the one before, and columns past
    the last repeat it.
    """
    compute = compute_of(dtype)
    lanes, out, size = isa.lanes(ITEMSIZE[compute]), ITEMSIZE[compute], ITEMSIZE[dtype]
    deep = 16 // out
    last = b.op(f"sub i64 %kc, {deep}")
    with b.when(b.op(f"icmp slt i64 {last}, 0")):
        _elements(b, dtype, source, (1, stride), panel, live, target)
    with b.when(b.op(f"icmp sge i64 {last}, 0")), b.loop(0, live, lanes) as first:
        columns = []
        for j in range(lanes):
            column = b.add(first.index, j)
            if isinstance(live, str):
                column = b.least(column, b.op(f"sub i64 {live}, 1"))
            elif live % lanes:
                column = b.least(column, live - 1)
            columns.append(b.at(source, b.mul(column, stride), size))
        place = b.at(target, first.index, out)
        with b.loop(0, "%kc", deep) as step:
            k = b.least(step.index, last)
            parts = [load_vector(b, b.at(column, k, size), dtype, deep) for column in columns]
            down = b.at(place, b.mul(k, panel), out)
            for r, row in enumerate(_turned(b, parts, COMPUTE[compute])):
                store_vector(b, row, b.at(down, r * panel * out), compute, lanes)


def _turned(b: Text, parts: list[str], element: str) -> list[str]:
    """Of many short vectors, the vector of their first elements, of their second, and so on.

    Short ones that are as many apart as they are long are joined, so that all that moves moves within 16
    bytes: a third of the time to compile that a square of whole registers takes, and no slower.
    """
    lanes = len(parts)
    deep = 16 // (8 if element == "double" else 4)
    rows = [_joined(b, parts[j::deep], element, deep) for j in range(deep)]
    half, unit = deep // 2, 1
    while unit < deep:  # interleave halves, by units, of rows whose numbers differ in one bit
        before, rows = rows, list(rows)
        for i in (i for i in range(deep) if not i & unit):
            for k, first in ((i, 0), (i | unit, half)):
                starts = [g + u for g in range(first, lanes, deep) for u in range(0, half, unit)]
                order = [s + x + n for s in starts for x in (0, lanes) for n in range(unit)]
                rows[k] = _shuffled(b, before[i], before[i | unit], element, lanes, order)
        unit *= 2
    return rows[::2] + rows[1::2]  # their numbers are those of elements with bits reversed


def _joined(b: Text, parts: list[str], element: str, lanes: int) -> str:
    """Vectors of so many lanes end to end."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [_shuffled(b, x, y, element, lanes, range(2 * lanes)) for x, y in pairs]
        lanes *= 2
    return parts[0]


def _shuffled(b: Text, x: str, y: str, element: str, lanes: int, order: Sequence[int]) -> str:
    """The elements of two vectors in an order in which those of the second come after the first's."""
    vector = f"<{lanes} x {element}>"
    mask = ", ".join(f"i32 {i}" for i in order)
    return b.op(f"shufflevector {vector} {x}, {vector} {y}, <{len(order)} x i32> <{mask}>")


def _elements(
    b: Text, dtype: str, source: str, strides: Strides, panel: int, live: int | str,
    target: str = "%dst",
) -> None:  # fmt: skip
    """Neither stride is 1: one element at a time."""
    compute = compute_of(dtype)
    with b.loop(0, "%kc") as k:
        src = b.at(source, b.mul(k.index, strides[0]), ITEMSIZE[dtype])
        dst = b.at(target, b.mul(k.index, panel), ITEMSIZE[compute])
        with b.loop(0, live) as j:
            value = load_scalar(b, b.at(src, b.mul(j.index, strides[1]), ITEMSIZE[dtype]), dtype)
            place = b.at(dst, j.index, ITEMSIZE[compute])
            b.emit(f"store {COMPUTE[compute]} {value}, ptr {place}")


def transpose(b: Text, rows: list[str], element: str) -> list[str]:
    """Transpose a square of registers: swap each bit of the row number with that of the lane."""
    lanes = len(rows)
    distance = lanes // 2
    while distance:
        low = [i if not i & distance else lanes + i - distance for i in range(lanes)]
        high = [i + distance if not i & distance else lanes + i for i in range(lanes)]
        result = list(rows)
        for i in range(lanes):
            if not i & distance:
                pair = rows[i], rows[i + distance]
                result[i] = _shuffled(b, *pair, element, lanes, low)
                result[i + distance] = _shuffled(b, *pair, element, lanes, high)
        rows = result
        distance //= 2
    return rows


def interleave(b: Text, rows: list[str], element: str, lanes: int) -> list[str]:
    """As many registers that hold lane 0 of each row, then lane 1 of each, and so on."""
    count, results = len(rows), []
    for first in range(0, count * lanes, lanes):
        value = rows[0]
        for c in range(1, count):
            picks = [divmod(first + lane, count) for lane in range(lanes)]
            order = [
                lanes + pixel if channel == c else pixel if c == 1 else lane
                for lane, (pixel, channel) in enumerate(picks)
            ]
            value = _shuffled(b, value, rows[c], element, lanes, order)
        results.append(value)
    return results


ROWS_PARAMS = [
    ("ptr noalias readonly", "src"), ("ptr noalias", "dst"), ("i64", "rows"), ("i64", "cols"),
]  # fmt: skip


def emit_pack_rows(
    b: Text, name: str, isa: Isa, dtype: str, strides: tuple[int, int], pitch: int
) -> None:
    """Define ``void name(src, dst, i64 rows, i64 cols)``: a strided copy, converting bf16.

    ``dst`` rows are ``pitch`` elements apart; it may be written past ``cols`` up to ``pitch``.
    """
    with b.function(name, ROWS_PARAMS, internal=True):
        copy_rows(b, isa, dtype, strides, pitch)


def copy_rows(b: Text, isa: Isa, dtype: str, strides: Strides, pitch: int | str) -> None:
    """What `emit_pack_rows` does, in a function with ``ROWS_PARAMS``."""
    compute = compute_of(dtype)
    lanes, size, out = isa.lanes(ITEMSIZE[compute]), ITEMSIZE[dtype], ITEMSIZE[compute]
    with b.loop(0, "%rows") as r:
        src = b.at("%src", b.mul(r.index, strides[0]), size)
        dst = b.at("%dst", b.mul(r.index, pitch), out)
        if strides[1] != 1:
            with b.loop(0, "%cols") as c:
                value = load_scalar(b, b.at(src, b.mul(c.index, strides[1]), size), dtype)
                b.emit(f"store {COMPUTE[compute]} {value}, ptr {b.at(dst, c.index, out)}")
        else:
            whole = b.op(f"and i64 %cols, -{lanes}")
            with b.loop(0, whole, lanes) as c:
                value = load_vector(b, b.at(src, c.index, size), dtype, lanes)
                store_vector(b, value, b.at(dst, c.index, out), compute, lanes)
            mask = ramp_mask(b, lanes, b.op(f"sub i64 %cols, {whole}"))
            value = load_vector(b, b.at(src, whole, size), dtype, lanes, mask)
            store_vector(b, value, b.at(dst, whole, out), compute, lanes, mask)


def emit_pack_groups(
    b: Text, name: str, isa: Isa, dtype: str, strides: tuple[int, int], panel: int, live: int
) -> None:
    """As `emit_pack_panel`, for 32-bit groups along K of bf16 or i8: ``k0`` and ``kc`` count groups.

    A panel of i8 begins with a row of -128 times the sums of its columns.
    """
    with b.function(name, PACK_PARAMS, internal=True):
        pack_groups(b, isa, dtype, strides, panel, live)


def pack_groups(
    b: Text, isa: Isa, dtype: str, strides: Strides, panel: int, live: int | str
) -> None:
    """What `emit_pack_groups` does, in a function with ``PACK_PARAMS``; one stride at least is a number, 1."""
    size, lanes = ITEMSIZE[dtype], isa.lanes(4)
    unit = 4 // size
    offset = b.add(b.mul(b.mul("%k0", unit), strides[0]), b.mul("%col0", strides[1]))
    source = b.at("%base", offset, size)
    rows = b.at("%dst", 4 * panel) if dtype == "i8" else "%dst"
    if strides[1] == 1:
        masks = _masks(b, lanes, panel, live)
        with b.loop(0, "%kc", carried=[("ptr", source), ("ptr", rows)]) as loop:
            src, dst = loop.carried
            for at, mask in masks:
                value = _groups(b, b.at(src, size * at), dtype, strides[0], lanes, mask)
                store_vector(b, value, b.at(dst, 4 * at), "i32", lanes)
            loop.next = [b.at(src, strides[0], 4), b.at(dst, 4 * panel)]
    else:  # a group is one 32-bit element
        far = strides[1]
        far = b.op(f"sdiv exact i64 {far}, {unit}") if isinstance(far, str) else far // unit
        _transposed(b, isa, "i32", source, far, panel, live, rows)
    if dtype == "i8":
        _column_sums(b, rows, panel, panel if isinstance(live, str) else live, lanes)


def _column_sums(b: Text, rows: str, panel: int, live: int, lanes: int) -> None:
    """Put -128 times the sums of a packed panel's columns of i8 before it."""
    ints, starts = f"<{lanes} x i32>", range(0, live, lanes)
    ones = all_lanes(0x01010101, lanes)
    zeros = [(ints, "zeroinitializer")] * len(starts)
    with b.loop(0, "%kc", carried=[*zeros, ("ptr", rows)]) as loop:
        *sums, row = loop.carried
        values = [load_vector(b, b.at(row, 4 * at), "i32", lanes) for at in starts]
        sums = [dot(b, ones, x, total, "i8", lanes) for x, total in zip(values, sums, strict=True)]
        loop.next = [*sums, b.at(row, 4 * panel)]
    for at, total in zip(starts, loop.final, strict=False):
        value = b.op(f"mul {ints} {total}, {all_lanes(-128, lanes)}")
        store_vector(b, value, b.at("%dst", 4 * at), "i32", lanes)


def emit_pack_group_rows(
    b: Text, name: str, isa: Isa, dtype: str, k_stride: int, pitch: int
) -> None:
    """Define ``void name(src, dst, i64 groups, i64 rows)``: A as 32-bit groups along K, from columns that lie together.

    ``k_stride`` is from one column to the next; in ``dst`` groups are ``pitch`` apart.
    """
    with b.function(name, ROWS_PARAMS, internal=True):
        copy_groups(b, isa, dtype, k_stride, pitch)


def copy_groups(b: Text, isa: Isa, dtype: str, k_stride: int | str, pitch: int | str) -> None:
    """What `emit_pack_group_rows` does, in a function with ``ROWS_PARAMS``: groups and rows."""
    lanes, size = isa.lanes(4), ITEMSIZE[dtype]

    def copy(source: str, target: str, mask: str | None) -> None:
        value = _groups(b, source, dtype, k_stride, lanes, mask)
        store_vector(b, value, target, "i32", lanes, mask)

    with b.loop(0, "%rows") as group:
        src = b.at("%src", b.mul(group.index, k_stride), 4)
        dst = b.at("%dst", b.mul(group.index, pitch), 4)
        whole = b.op(f"and i64 %cols, -{lanes}")
        with b.loop(0, whole, lanes) as c:
            copy(b.at(src, c.index, size), b.at(dst, c.index, 4), None)
        # a masked store costs even where all is off
        with b.when(b.op(f"icmp slt i64 {whole}, %cols")):
            mask = ramp_mask(b, lanes, b.op(f"sub i64 %cols, {whole}"))
            copy(b.at(src, whole, size), b.at(dst, whole, 4), mask)


def _groups(
    b: Text, source: str, dtype: str, k_stride: int | str, lanes: int, mask: str | None
) -> str:
    """Rows of bf16 or i8 that lie ``k_stride`` apart, interleaved into one vector of 32-bit groups."""
    size, ints = ITEMSIZE[dtype], f"<{lanes} x i32>"
    value = load_bits(b, source, dtype, lanes, mask)
    for i in range(1, 4 // size):
        more = load_bits(b, b.at(source, b.mul(k_stride, i), size), dtype, lanes, mask)
        shifted = b.op(f"shl {ints} {more}, {all_lanes(8 * size * i, lanes)}")
        value = b.op(f"or {ints} {value}, {shifted}")
    return value
