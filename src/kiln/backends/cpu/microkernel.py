"""The inner kernel of every contraction: an MR x NV-vector tile of C held in registers.

Rows of A are read by broadcast straight from where A lies (measured better than packing A);
B comes from a packed panel, raw, or raw while the panel is being packed in the same loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.text import (
    COMPUTE,
    ITEMSIZE,
    Text,
    all_lanes,
    dot,
    fma,
    lane_mask,
    load_vector,
    ramp_mask,
    splat,
    store_vector,
)

ARG_C, ARG_A, ARG_B, ARG_WORKSPACE, ARG_EXTRA = 0, 1, 2, 3, 4
"""Slots of a contraction's argument block; the epilogue's operands begin at ARG_EXTRA."""

_LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Site:
    """Where an epilogue is applied: one vector of ``lanes`` neighbouring columns of one row.

    ``value`` is the SSA name of the accumulated vector of LLVM type ``vtype``; ``row``, ``col``
    (of lane 0) and ``batch`` (linear) are i64; ``mask`` is an i1 vector, or None when every
    lane is live; ``args`` is the argument block.
    """

    value: str
    vtype: str
    element: str
    lanes: int
    row: str
    col: str
    batch: str
    mask: str | None
    args: str

    def extra(self, b: Text, index: int) -> str:
        """The pointer of the epilogue's ``index``-th own operand."""
        return b.argument(self.args, ARG_EXTRA + index)


class Epilogue(Protocol):
    """Code applied to the result in registers just before it is stored; must be hashable.

    ``heavy`` (more than about 8 instructions a vector) moves it from the unrolled tile, where
    it would be repeated for each vector, into a loop over the tile while that is in L1.
    The code must be straight-line, and must not read C's memory.
    """

    @property
    def heavy(self) -> bool: ...

    def emit(self, b: Text, site: Site) -> str:
        """Write the code with ``b.emit``/``b.fresh``; return the SSA name of the new vector."""
        ...


@runtime_checkable
class Reader(Protocol):
    """An epilogue that can say what it will read, which the tile asks for before it begins."""

    def lines(self, b: Text, row: str, col: str, batch: str) -> list[str]:
        """Addresses that an emission at this place reads and that may not be in the cache."""
        ...


@dataclass(frozen=True)
class Tile:
    """What one micro-kernel is specialised for; strides are in elements.

    Rows of A and C are ``a_row`` and ``c_row`` apart, or lie at these offsets where they are tuples;
    then ``places`` holds what each adds to the epilogue's (row, batch). ``runs`` are (count, stride in
    A) of loops round that over K, outermost first; B goes on from one run to the next.
    With ``ahead`` the function has one more pointer, from where ``ahead_lines`` are fetched at each step
    of K, so many bytes apart. With ``loose`` strides (and how far ahead of A lines are fetched) are
    arguments of the function, ``SIZES``, and of the last vector's columns only ``live`` are read and
    written in C.
    """

    isa: Isa
    mr: int
    nv: int
    tail: int  # live lanes of the last vector, 0 = all
    compute: str  # dtype of the arithmetic: f32 or f64
    a_row: int | tuple[int | str, ...]
    a_k: int | str
    b_mode: str  # "packed", "raw" or "otf" (raw, packing on the fly)
    b_k: int | str  # row stride of raw B
    panel: int  # row length of the packed panel
    c_dtype: str
    c_row: int | tuple[int | str, ...]
    c_col: int
    split_k: bool
    epilogue: Epilogue | None
    group: str = ""  # "bf16" or "i8": elements of A and B are 32-bit groups of these
    runs: tuple[tuple[int, int], ...] = ()
    places: tuple[tuple[int, int], ...] = ()
    far: bool = False  # A lies column by column: rows further down are fetched ahead
    ahead: int = 0
    ahead_lines: int = 1
    loose: bool = False
    edge: str = ""  # of a loose tile: the mask of the last vector's columns of C

    @property
    def lanes(self) -> int:
        """Elements of one vector."""
        return self.isa.lanes(ITEMSIZE[self.compute])

    def place(self, row: int) -> tuple[int, int]:
        """What a row adds to the epilogue's row and batch."""
        return self.places[row] if self.places else (row, 0)


def _offset(step: int | tuple[int | str, ...], row: int) -> int | str:
    return step[row] if isinstance(step, tuple) else step * row


SIZES = [("i64", name) for name in ("a_row", "a_k", "b_k", "c_row", "live", "fetch")]
"""The further parameters of a loose tile."""


def _bound(b: Text, tile: Tile, edge: bool) -> Tile:
    """A loose tile with its function's parameters as strides, and an edge where it has one."""
    a_row, c_row = (tuple(b.mul(f"%{n}", i) for i in range(tile.mr)) for n in ("a_row", "c_row"))
    # Through memory: where LLVM sees that rows are equally far apart it makes a chain of sums of
    # their addresses, which takes as long as the products.
    table = b.op(f"alloca [{tile.mr} x i64]")
    for i, offset in enumerate(a_row[1:], 1):
        b.emit(f"store i64 {offset}, ptr {b.at(table, i, 8)}")
    a_row = ("0", *(b.op(f"load i64, ptr {b.at(table, i, 8)}") for i in range(1, tile.mr)))
    mask = ramp_mask(b, tile.lanes, "%live") if edge else ""
    return replace(tile, a_row=a_row, a_k="%a_k", b_k="%b_k", c_row=c_row, edge=mask)


def emit_tile(b: Text, tile: Tile, name: str) -> None:
    """Define the internal function ``name`` for ``tile``.

    ``void name(a, b, panel, c, i64 kc, i1 accumulate, i1 last, row, col, batch, args)``: adds
    kc steps of K into the tile at ``c``; ``last`` applies the epilogue.
    """
    lanes = tile.lanes
    element = COMPUTE[tile.compute]
    vector = f"<{lanes} x {element}>"
    with b.function(
        name,
        [("ptr noalias readonly", "a"), ("ptr noalias readonly", "b"), ("ptr noalias", "panel"),
         ("ptr noalias", "c"), ("i64", "kc"), ("i1", "accumulate"), ("i1", "last"),
         ("i64", "row"), ("i64", "col"), ("i64", "batch"), ("ptr", "args"),
         *([("ptr", "ahead")] if tile.ahead else []), *(SIZES if tile.loose else [])],
        internal=True,
    ):  # fmt: skip
        if tile.loose:
            tile = _bound(b, tile, tile.edge != "")
        scratch = None
        if tile.epilogue is not None and tile.epilogue.heavy:
            scratch = b.op(f"alloca [{tile.mr * tile.nv} x {vector}], align 64")
        if isinstance(tile.epilogue, Reader):
            _prefetch(b, tile, tile.epilogue)
        if tile.loose:
            with b.when("%accumulate"):
                _fetch_c(b, tile)
        elif tile.split_k:
            _fetch_c(b, tile)
        acc, start = ["zeroinitializer"] * (tile.mr * tile.nv), "%b"
        if tile.group == "i8":  # the panel begins with what the columns' sums start from
            size = ITEMSIZE[tile.compute]
            first = [
                load_vector(b, b.at("%b", v * lanes * size), "i32", lanes) for v in range(tile.nv)
            ]
            acc, start = first * tile.mr, b.at("%b", tile.panel * size)
        acc, _ = _runs(
            b, tile, tile.runs, acc, ["%a", start, "%panel"] + ["%ahead"] * bool(tile.ahead)
        )
        if tile.split_k:
            acc = _add_c(b, tile, acc)
        if tile.epilogue is None:
            _store(b, tile, acc, None)
        elif not tile.split_k:
            _finish(b, tile, acc, scratch)
        else:
            yes, no, out = b.new_label("last"), b.new_label("partial"), b.new_label("out")
            b.emit(f"br i1 %last, label %{yes}, label %{no}")
            b.label(yes)
            _finish(b, tile, acc, scratch)
            b.emit(f"br label %{out}")
            b.label(no)
            _store(b, tile, acc, None)
            b.emit(f"br label %{out}")
            b.label(out)


def _prefetch(b: Text, tile: Tile, epilogue: Reader) -> None:
    """Have what the epilogue reads on its way while the products are added up."""
    for i in range(tile.mr):
        more_rows, more_batches = tile.place(i)
        row, batch = b.add("%row", more_rows), b.add("%batch", more_batches)
        for v in range(tile.nv):
            for line in epilogue.lines(b, row, b.add("%col", v * tile.lanes), batch):
                b.prefetch(line)


def _fetch_c(b: Text, tile: Tile) -> None:
    """Have what is added to, which may have left the near caches, on its way."""
    for i in range(tile.mr):
        for v in range(tile.nv):
            b.prefetch(_in_c(b, tile, i, v))


def _in_c(b: Text, tile: Tile, row: int, v: int) -> str:
    """Where a vector of the tile lies in C, whose columns are neighbours."""
    size = ITEMSIZE[tile.c_dtype]
    return b.at(b.at("%c", _offset(tile.c_row, row), size), v * tile.lanes, size)


def _tail(tile: Tile, v: int) -> str | None:
    if tile.edge and v == tile.nv - 1:
        return tile.edge
    if tile.tail and v == tile.nv - 1:
        return lane_mask(tile.lanes, tile.tail)
    return None


def _runs(
    b: Text,
    tile: Tile,
    runs: tuple[tuple[int, int], ...],
    acc: list[str],
    pointers: list[str],
) -> tuple[list[str], list[str]]:
    """The loops over K; A's pointer is moved back to where a run began before the next."""
    if runs and runs[0][0] == 1:
        return _runs(b, tile, runs[1:], acc, pointers)
    if runs:
        (count, stride), vector = runs[0], f"<{tile.lanes} x {COMPUTE[tile.compute]}>"
        carried = [(vector, a) for a in acc] + [("ptr", p) for p in pointers]
        with b.loop(0, count, carried=carried) as loop:
            acc, (start, *rest) = loop.carried[: len(acc)], loop.carried[len(acc) :]
            acc, (_, *rest) = _runs(b, tile, runs[1:], acc, [start, *rest])
            loop.next = [*acc, b.at(start, stride * ITEMSIZE[tile.compute]), *rest]
        return loop.final[: len(acc)], loop.final[len(acc) :]
    few = 12 if tile.isa.has_fma else 8  # without FMA each product needs a register
    unroll = 1 if tile.mr * tile.nv >= few else 4
    if unroll == 1:
        return _k_loop(b, tile, "0", "%kc", 1, acc, pointers)
    whole = b.op(f"and i64 %kc, -{unroll}")
    acc, pointers = _k_loop(b, tile, "0", whole, unroll, acc, pointers)
    return _k_loop(b, tile, whole, "%kc", 1, acc, pointers)


def _k_loop(
    b: Text,
    tile: Tile,
    start: str,
    stop: str,
    unroll: int,
    acc: list[str],
    pointers: list[str],
) -> tuple[list[str], list[str]]:
    size, lanes = ITEMSIZE[tile.compute], tile.lanes
    element = COMPUTE[tile.compute]
    vector = f"<{lanes} x {element}>"
    aligned = tile.panel * size % tile.isa.vector_bytes == 0
    align = tile.isa.vector_bytes if aligned else size
    flip = all_lanes(0x80808080 - (1 << 32), lanes)  # adds 128 to each i8
    a_align = ITEMSIZE[tile.group] if tile.group else size
    packed = tile.b_mode == "packed"
    b_step = tile.panel if packed else tile.b_k
    carried = [(vector, a) for a in acc] + [("ptr", p) for p in pointers]
    with b.loop(start, stop, unroll, carried) as loop:
        acc = loop.carried[: len(acc)]
        pa, pb, pp, *pn = loop.carried[len(acc) :]
        for _ in range(unroll):
            columns = []
            for v in range(tile.nv):
                source = b.at(pb, v * lanes * size)
                if packed:
                    columns.append(load_vector(b, source, tile.compute, lanes, None, align))
                else:
                    mask = None if tile.loose else _tail(tile, v)
                    columns.append(load_vector(b, source, tile.compute, lanes, mask))
            if tile.b_mode == "otf":
                for v, column in enumerate(columns):
                    target = b.at(pp, v * lanes * size)
                    b.emit(f"store {vector} {column}, ptr {target}, align {align}")
                pp = b.at(pp, tile.panel * size)
            if tile.far:
                b.prefetch(b.at(pa, "%fetch" if tile.loose else _LINE))
            if pn:
                for line in range(tile.ahead_lines):
                    b.prefetch(b.at(pn[0], line * _LINE), near=False)
                pn = [b.at(pn[0], tile.ahead)]
            acc = list(acc)
            for i in range(tile.mr):
                source = b.at(pa, _offset(tile.a_row, i), size)
                scalar = b.op(f"load {element}, ptr {source}, align {a_align}")
                wide = splat(b, scalar, element, lanes)
                if tile.group == "i8":
                    wide = b.op(f"xor {vector} {wide}, {flip}")
                for v in range(tile.nv):
                    n = i * tile.nv + v
                    if tile.group:
                        acc[n] = dot(b, wide, columns[v], acc[n], tile.group, lanes)
                    else:
                        acc[n] = fma(b, wide, columns[v], acc[n], element, lanes, tile.isa.has_fma)
            pa = b.at(pa, tile.a_k, size)
            pb = b.at(pb, b_step, size)
        loop.next = [*acc, pa, pb, pp, *pn]
    return loop.final[: len(acc)], loop.final[len(acc) :]


def _add_c(b: Text, tile: Tile, acc: list[str]) -> list[str]:
    """Add what earlier K blocks left in C, where there were any."""
    lanes, element = tile.lanes, COMPUTE[tile.compute]
    vector, add = f"<{lanes} x {element}>", "add" if element == "i32" else "fadd"
    yes, after, before = b.new_label("more"), b.new_label("sum"), b.block
    b.emit(f"br i1 %accumulate, label %{yes}, label %{after}")
    b.label(yes)
    sums = []
    for i in range(tile.mr):
        for v in range(tile.nv):
            old = load_vector(b, _in_c(b, tile, i, v), tile.c_dtype, lanes, _tail(tile, v))
            sums.append(b.op(f"{add} {vector} {acc[i * tile.nv + v]}, {old}"))
    b.emit(f"br label %{after}")
    b.label(after)
    return [
        b.op(f"phi {vector} [ {a}, %{before} ], [ {s}, %{yes} ]")
        for a, s in zip(acc, sums, strict=True)
    ]


def _finish(b: Text, tile: Tile, acc: list[str], scratch: str | None) -> None:
    """Apply the epilogue and store."""
    if scratch is None:
        _store(b, tile, acc, tile.epilogue)
        return
    lanes, element = tile.lanes, COMPUTE[tile.compute]
    vector, width = f"<{lanes} x {element}>", tile.isa.vector_bytes
    for n, value in enumerate(acc):
        b.emit(f"store {vector} {value}, ptr {b.at(scratch, n * width)}, align {width}")
    size = ITEMSIZE[tile.c_dtype]
    with b.loop(0, tile.mr) as loop:
        source = b.at(scratch, b.mul(loop.index, tile.nv * width))
        if isinstance(tile.c_row, tuple):
            tables = zip("crb", (tile.c_row, *zip(*tile.places, strict=True)), strict=True)
            offset, row, batch = (_entry(b, t, values, loop.index) for t, values in tables)
        else:
            offset, row, batch = b.mul(loop.index, tile.c_row), loop.index, "0"
        target = b.at("%c", offset, size)
        row, batch = b.add("%row", row), b.add("%batch", batch)
        for v in range(tile.nv):
            value = b.op(f"load {vector}, ptr {b.at(source, v * width)}, align {width}")
            _store_vector(b, tile, value, target, v, row, batch, tile.epilogue)


def _entry(b: Text, name: str, values: Sequence[int | str], index: str) -> str:
    """``values[index]``, from a table."""
    digest = hashlib.sha256(repr(values).encode()).hexdigest()[:12]
    table = b.ir.module.constant_array(f"{name}.{digest}", "i64", values)
    return b.op(f"load i64, ptr {b.at(table.ref, index, 8)}")


def _store(b: Text, tile: Tile, acc: list[str], epilogue: Epilogue | None) -> None:
    size = ITEMSIZE[tile.c_dtype]
    for i in range(tile.mr):
        target = b.at("%c", _offset(tile.c_row, i), size)
        row, batch = "0", "0"
        if epilogue is not None:
            more_rows, more_batches = tile.place(i)
            row, batch = b.add("%row", more_rows), b.add("%batch", more_batches)
        for v in range(tile.nv):
            value = acc[i * tile.nv + v]
            _store_vector(b, tile, value, target, v, row, batch, epilogue)


def _store_vector(
    b: Text,
    tile: Tile,
    value: str,
    target: str,
    v: int,
    row: str,
    batch: str,
    epilogue: Epilogue | None,
) -> None:
    lanes, mask = tile.lanes, _tail(tile, v)
    if epilogue is not None:
        col = b.add("%col", v * lanes)
        value = apply_epilogue(b, epilogue, value, tile.compute, lanes, row, col, batch, mask)
    if tile.loose:
        place = b.at(target, v * lanes, ITEMSIZE[tile.c_dtype])
        store_vector(b, value, place, tile.c_dtype, lanes, mask)
        return
    live = tile.tail if mask else lanes
    store_columns(
        b, value, b.at(target, v * lanes * tile.c_col * ITEMSIZE[tile.c_dtype]),
        tile.c_dtype, lanes, live, tile.c_col,
    )  # fmt: skip


def apply_epilogue(
    b: Text,
    epilogue: Epilogue,
    value: str,
    compute: str,
    lanes: int,
    row: str,
    col: str,
    batch: str,
    mask: str | None,
) -> str:
    """Write the epilogue for one vector of a function whose argument block is ``%args``."""
    element = COMPUTE[compute]
    vtype = f"<{lanes} x {element}>"
    site = Site(value, vtype, element, lanes, row, col, batch, mask, "%args")
    return epilogue.emit(b, site)


def store_columns(
    b: Text, value: str, target: str, dtype: str, lanes: int, live: int, stride: int
) -> None:
    """Store the first ``live`` lanes to columns that lie ``stride`` elements apart."""
    # One lane goes by itself: see the remark in loops.py on constant one-lane masks.
    if stride == 1 and live > 1:
        mask = lane_mask(lanes, live) if live < lanes else None
        store_vector(b, value, target, dtype, lanes, mask)
        return
    element = COMPUTE[dtype]
    vector = f"<{lanes} x {element}>"
    for lane in range(live):
        if dtype == "bf16":
            one = b.op(f"shufflevector {vector} {value}, {vector} poison, <1 x i32> <i32 {lane}>")
            store_vector(b, one, b.at(target, lane * stride * 2), dtype, 1)
        else:
            scalar = b.op(f"extractelement {vector} {value}, i64 {lane}")
            where = b.at(target, lane * stride * ITEMSIZE[dtype])
            b.emit(f"store {element} {scalar}, ptr {where}, align {ITEMSIZE[dtype]}")
