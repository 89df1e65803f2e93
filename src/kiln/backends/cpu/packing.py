"""Copying operands of a contraction into the layout that the micro-kernel streams.

Every packing function is ``void pack(base, dst, i64 k0, i64 kc, i64 col0)``: it writes rows
k0..k0+kc of columns col0..col0+live of the K x N operand at ``base`` as kc rows of ``panel``
elements, converting bf16 to f32. Columns past ``live`` are written as anything finite.
"""

from __future__ import annotations

from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.text import (
    COMPUTE,
    ITEMSIZE,
    Text,
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


def compute_of(dtype: str) -> str:
    """The dtype that arithmetic on ``dtype`` is done in."""
    return "f64" if dtype == "f64" else "f32"


def emit_pack_panel(
    b: Text, name: str, isa: Isa, dtype: str, strides: tuple[int, int], panel: int, live: int
) -> None:
    """Define ``name``, which packs ``live`` columns of an operand with (k, column) ``strides``."""
    size = ITEMSIZE[dtype]
    with b.function(name, PACK_PARAMS, internal=True):
        offset = b.add(b.mul("%k0", strides[0]), b.mul("%col0", strides[1]))
        source = b.at("%base", offset, size)
        if strides[1] == 1:
            _rows(b, isa, dtype, source, strides[0], panel, live)
        elif strides[0] == 1:
            _transposed(b, isa, dtype, source, strides[1], panel, live)
        else:
            _elements(b, dtype, source, strides, panel, live)


def _rows(b: Text, isa: Isa, dtype: str, source: str, stride: int, panel: int, live: int) -> None:
    compute = compute_of(dtype)
    lanes, out = isa.lanes(ITEMSIZE[compute]), ITEMSIZE[compute]
    with b.loop(0, "%kc", carried=[("ptr", source), ("ptr", "%dst")]) as loop:
        src, dst = loop.carried
        for at in range(0, live, lanes):
            mask = lane_mask(lanes, live - at) if live - at < lanes else None
            value = load_vector(b, b.at(src, at * ITEMSIZE[dtype]), dtype, lanes, mask)
            store_vector(b, value, b.at(dst, at * out), compute, lanes)
        loop.next = [b.at(src, stride * ITEMSIZE[dtype]), b.at(dst, panel * out)]


def _transposed(
    b: Text, isa: Isa, dtype: str, source: str, stride: int, panel: int, live: int
) -> None:
    """K is contiguous: blocks of lanes x lanes elements are transposed in registers.

    One block's code serves all: the last block of K overlaps the one before, and columns past
    the last repeat it (transposing is most of the compile time of a kernel).
    """
    compute = compute_of(dtype)
    lanes, out, size = isa.lanes(ITEMSIZE[compute]), ITEMSIZE[compute], ITEMSIZE[dtype]
    last = b.op(f"sub i64 %kc, {lanes}")
    with b.when(b.op(f"icmp slt i64 {last}, 0")):
        _elements(b, dtype, source, (1, stride), panel, live)
    with b.when(b.op(f"icmp sge i64 {last}, 0")), b.loop(0, "%kc", lanes) as step:
        k = b.least(step.index, last)
        along = b.at(source, k, size)
        down = b.at("%dst", b.mul(k, panel), out)
        with b.loop(0, live, lanes) as first:
            rows = []
            for j in range(lanes):
                column = b.add(first.index, j)
                if live % lanes:
                    column = b.least(column, live - 1)
                rows.append(load_vector(b, b.at(along, b.mul(column, stride), size), dtype, lanes))
            target = b.at(down, first.index, out)
            for r, row in enumerate(transpose(b, rows, COMPUTE[compute])):
                store_vector(b, row, b.at(target, r * panel * out), compute, lanes)


def _elements(
    b: Text, dtype: str, source: str, strides: tuple[int, int], panel: int, live: int
) -> None:
    """Neither stride is 1: one element at a time."""
    compute = compute_of(dtype)
    with b.loop(0, "%kc") as k:
        src = b.at(source, b.mul(k.index, strides[0]), ITEMSIZE[dtype])
        dst = b.at("%dst", b.mul(k.index, panel), ITEMSIZE[compute])
        with b.loop(0, live) as j:
            value = load_scalar(b, b.at(src, b.mul(j.index, strides[1]), ITEMSIZE[dtype]), dtype)
            place = b.at(dst, j.index, ITEMSIZE[compute])
            b.emit(f"store {COMPUTE[compute]} {value}, ptr {place}")


def transpose(b: Text, rows: list[str], element: str) -> list[str]:
    """Transpose a square of registers: swap each bit of the row number with that of the lane."""
    lanes = len(rows)
    vector, kind = f"<{lanes} x {element}>", f"<{lanes} x i32>"
    distance = lanes // 2
    while distance:
        low = [i if not i & distance else lanes + i - distance for i in range(lanes)]
        high = [i + distance if not i & distance else lanes + i for i in range(lanes)]
        masks = ["<" + ", ".join(f"i32 {i}" for i in m) + ">" for m in (low, high)]
        result = list(rows)
        for i in range(lanes):
            if not i & distance:
                pair = f"{vector} {rows[i]}, {vector} {rows[i + distance]}"
                result[i] = b.op(f"shufflevector {pair}, {kind} {masks[0]}")
                result[i + distance] = b.op(f"shufflevector {pair}, {kind} {masks[1]}")
        rows = result
        distance //= 2
    return rows


def emit_pack_rows(
    b: Text, name: str, isa: Isa, dtype: str, strides: tuple[int, int], pitch: int
) -> None:
    """Define ``void name(src, dst, i64 rows, i64 cols)``: a strided copy, converting bf16.

    ``dst`` rows are ``pitch`` elements apart; it may be written past ``cols`` up to ``pitch``.
    """
    compute = compute_of(dtype)
    lanes, size, out = isa.lanes(ITEMSIZE[compute]), ITEMSIZE[dtype], ITEMSIZE[compute]
    params = [("ptr noalias readonly", "src"), ("ptr noalias", "dst"), ("i64", "rows"),
              ("i64", "cols")]  # fmt: skip
    with b.function(name, params, internal=True), b.loop(0, "%rows") as r:
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


def emit_pack_pairs(
    b: Text, name: str, isa: Isa, dtype: str, strides: tuple[int, int], panel: int, live: int
) -> None:
    """As `emit_pack_panel`, for bf16 as pairs along K: ``k0`` and ``kc`` count pairs."""
    with b.function(name, PACK_PARAMS, internal=True):
        offset = b.add(b.mul("%k0", 2 * strides[0]), b.mul("%col0", strides[1]))
        source = b.at("%base", offset, ITEMSIZE[dtype])
        if strides[1] == 1:
            lanes = isa.lanes(4)
            with b.loop(0, "%kc", carried=[("ptr", source), ("ptr", "%dst")]) as loop:
                src, dst = loop.carried
                for at in range(0, live, lanes):
                    mask = lane_mask(lanes, live - at) if live - at < lanes else None
                    value = _pairs(b, b.at(src, 2 * at), strides[0], lanes, mask)
                    store_vector(b, value, b.at(dst, 4 * at), "f32", lanes)
                loop.next = [b.at(src, 4 * strides[0]), b.at(dst, 4 * panel)]
        else:  # a pair is one 32-bit element
            _transposed(b, isa, "f32", source, strides[1] // 2, panel, live)


def emit_pack_pair_rows(b: Text, name: str, isa: Isa, k_stride: int, pitch: int) -> None:
    """Define ``void name(src, dst, i64 pairs, i64 cols)``: rows of bf16 as rows of pairs.

    Neighbouring columns lie together in ``src``, neighbours along K ``k_stride`` apart.
    """
    lanes = isa.lanes(4)
    params = [("ptr noalias readonly", "src"), ("ptr noalias", "dst"), ("i64", "pairs"),
              ("i64", "cols")]  # fmt: skip
    with b.function(name, params, internal=True), b.loop(0, "%pairs") as r:
        src = b.at("%src", b.mul(r.index, 2 * k_stride), 2)
        dst = b.at("%dst", b.mul(r.index, pitch), 4)
        whole = b.op(f"and i64 %cols, -{lanes}")
        with b.loop(0, whole, lanes) as c:
            value = _pairs(b, b.at(src, c.index, 2), k_stride, lanes, None)
            store_vector(b, value, b.at(dst, c.index, 4), "f32", lanes)
        with b.when(
            b.op(f"icmp slt i64 {whole}, %cols")
        ):  # a masked store costs even where all is off
            mask = ramp_mask(b, lanes, b.op(f"sub i64 %cols, {whole}"))
            value = _pairs(b, b.at(src, whole, 2), k_stride, lanes, mask)
            store_vector(b, value, b.at(dst, whole, 4), "f32", lanes, mask)


def _pairs(b: Text, source: str, k_stride: int, lanes: int, mask: str | None) -> str:
    """Two rows of bf16 that lie ``k_stride`` apart, interleaved: pairs as the bits of floats."""
    low = load_bits(b, source, lanes, mask)
    high = load_bits(b, b.at(source, 2 * k_stride), lanes, mask)
    kind = f"<{lanes} x i32>"
    sixteen = "<" + ", ".join(["i32 16"] * lanes) + ">"
    both = b.op(f"or {kind} {low}, {b.op(f'shl {kind} {high}, {sixteen}')}")
    return b.op(f"bitcast {kind} {both} to <{lanes} x float>")
