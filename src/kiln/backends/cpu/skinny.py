"""Matrix products with very few rows or columns, where a register tile would be mostly empty.

axpy: up to 3 rows times a row-major B; several rows of B are scaled and added to C at once.
dot: up to 4 rows (or columns) where K is contiguous; vectors run along K and are summed at the end.
Both read the large operand exactly once, which is all that such a product costs.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from kiln.backends.cpu import packing, tasks
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.microkernel import (
    ARG_WORKSPACE,
    apply_epilogue,
    store_columns,
)
from kiln.backends.cpu.text import (
    COMPUTE,
    ITEMSIZE,
    Text,
    fma,
    lane_mask,
    load_scalar,
    load_vector,
    reduce_add,
    splat,
    store_vector,
)

if TYPE_CHECKING:
    from kiln.backends.cpu.gemm import Gemm

_PARAMS = [("ptr", "args"), ("i64", "task"), ("i64", "place")]


def fits_axpy(gemm: Gemm, isa: Isa) -> bool:
    """Whether the axpy form applies: few rows, B row-major, sums kept in C itself."""
    lanes = isa.lanes(ITEMSIZE[gemm.compute])
    plain = gemm.b_dtype == gemm.c_dtype == gemm.compute
    contiguous = gemm.b_strides[1] == 1 and gemm.c_strides[1] == 1
    return plain and contiguous and gemm.m <= 3 and gemm.n >= lanes and gemm.k >= 1


def fits_dot(gemm: Gemm, isa: Isa) -> bool:
    """Whether the dot form applies: the large operand is contiguous along K."""
    lanes = isa.lanes(ITEMSIZE[gemm.compute])
    rows = gemm.m <= 4 and gemm.b_strides[0] == 1
    columns = gemm.n <= min(4, lanes) and gemm.a_strides[1] == 1
    return gemm.k >= lanes and (rows or columns)


def emit_axpy(gemm: Gemm, isa: Isa, symbol: str, slots: tuple[int, int, int]) -> Kernel:
    """The axpy kernel, as ``gemm.emit``; ``slots`` of the argument block hold C, A and B."""
    b, size = Text(), ITEMSIZE[gemm.compute]
    lanes = isa.lanes(size)
    depth = 8 if isa.n_vregs >= 32 else 4
    vectors = -(-gemm.n // lanes)
    batches = prod(gemm.batch)
    grid = tasks.Grid.choose(2 * batches * gemm.m * gemm.n * gemm.k, batches, 1, vectors)
    with b.function(symbol, _PARAMS):
        pointers = [b.argument("%args", slot) for slot in slots]
        share = grid.ranges(b, batches, 1, vectors)
        with b.loop(*share.batch) as batch:
            c, a, source = tasks.batch_pointers(b, gemm, pointers, batch.index)
            head = gemm.k % depth or min(depth, gemm.k)

            def one(k: str, rows: int, first: bool, last: bool) -> None:
                _axpy_pass(b, gemm, isa, (c, a, source), batch.index, share.cols, k, rows,
                           first, last)  # fmt: skip

            one("0", head, True, head == gemm.k)
            if head < gemm.k - depth:
                with b.loop(head, gemm.k - depth, depth) as k:
                    one(k.index, depth, False, False)
            if head < gemm.k:
                one(str(gemm.k - depth), depth, False, True)
    return Kernel(b.module(), symbol, grid.ntasks, 0)


def _axpy_pass(
    b: Text,
    gemm: Gemm,
    isa: Isa,
    pointers: tuple[str, str, str],
    batch: str,
    vectors: tuple[str, str],
    k: str,
    rows: int,
    first: bool,
    last: bool,
) -> None:
    """C += A[:, k:k+rows] @ B[k:k+rows, :] over a range of vectors."""
    c, a, source = pointers
    element, size = COMPUTE[gemm.compute], ITEMSIZE[gemm.compute]
    lanes = isa.lanes(size)
    tail = gemm.n % lanes
    factors = []
    for i in range(gemm.m):
        for r in range(rows):
            offset = b.add(b.mul(b.add(k, r), gemm.a_strides[1]), i * gemm.a_strides[0])
            scalar = load_scalar(b, b.at(a, offset, ITEMSIZE[gemm.a_dtype]), gemm.a_dtype)
            factors.append(splat(b, scalar, element, lanes))
    base = b.at(source, b.mul(k, gemm.b_strides[0]), size)

    def vector(v: str, mask: str | None) -> None:
        col = b.mul(v, lanes)
        place, targets = b.at(base, col, size), []
        values = ["zeroinitializer"] * gemm.m
        for i in range(gemm.m):
            targets.append(b.at(c, b.add(col, i * gemm.c_strides[0]), size))
            if not first:
                values[i] = load_vector(b, targets[i], gemm.c_dtype, lanes, mask)
        for r in range(rows):
            x = load_vector(b, b.at(place, r * gemm.b_strides[0] * size), gemm.b_dtype, lanes, mask)
            for i in range(gemm.m):
                factor = factors[i * rows + r]
                values[i] = fma(b, factor, x, values[i], element, lanes, isa.has_fma)
        for i in range(gemm.m):
            if last and gemm.epilogue is not None:
                values[i] = apply_epilogue(
                    b, gemm.epilogue, values[i], gemm.compute, lanes, str(i), col, batch, mask
                )
            store_vector(b, values[i], targets[i], gemm.c_dtype, lanes, mask)

    start, end = vectors
    whole = gemm.n // lanes
    with b.loop(start, b.least(end, whole)) as v:
        vector(v.index, None)
    if tail:
        with b.when(b.op(f"icmp sgt i64 {end}, {whole}")):
            vector(str(whole), lane_mask(lanes, tail))


def emit_dot(gemm: Gemm, isa: Isa, symbol: str, slots: tuple[int, int, int]) -> Kernel:
    """The dot kernel, as ``gemm.emit``; ``slots`` of the argument block hold C, A and B."""
    b, size = Text(), ITEMSIZE[gemm.compute]
    wide = gemm.m <= 4 and gemm.b_strides[0] == 1  # the long way is along columns
    length, short = (gemm.n, gemm.m) if wide else (gemm.m, gemm.n)
    width = min(4, isa.lanes(size))
    groups, batches = -(-length // width), prod(gemm.batch)
    flops = 2 * batches * gemm.m * gemm.n * gemm.k
    grid = tasks.Grid.choose(flops, batches, 1, groups)
    small_strides = gemm.a_strides if wide else (gemm.b_strides[1], gemm.b_strides[0])
    small_dtype = gemm.a_dtype if wide else gemm.b_dtype
    pack = small_strides[1] != 1
    pitch = -(-gemm.k // 16) * 16
    task_bytes = -(-short * pitch * size // 64) * 64 if pack else 0
    shape = _DotShape(gemm, isa, wide, pack, pitch, width)
    with b.function(symbol, _PARAMS):
        pointers = [b.argument("%args", slot) for slot in slots]
        share = grid.ranges(b, batches, 1, groups)
        with b.loop(*share.batch) as batch:
            c, a, other = tasks.batch_pointers(b, gemm, pointers, batch.index)
            few, many = (a, other) if wide else (other, a)
            if pack:
                scratch = b.argument("%args", ARG_WORKSPACE)
                scratch = b.at(scratch, b.mul("%place", task_bytes))
                b.emit(f"call void @{symbol}.pack(ptr {few}, ptr {scratch}, i64 {short}, "
                       f"i64 {gemm.k})")  # fmt: skip
                few = scratch
            start, end = share.cols
            if length >= width:
                with b.loop(start, b.least(end, length // width)) as group:
                    shape.call(b, f"{symbol}.dot", few, many, c, group.index, batch.index)
            if length % width:
                with b.when(b.op(f"icmp eq i64 {end}, {groups}")):
                    place = str(length // width)
                    shape.call(b, f"{symbol}.dot_tail", few, many, c, place, batch.index)
    if length >= width:
        shape.define(b, f"{symbol}.dot", short, width)
    if length % width:
        shape.define(b, f"{symbol}.dot_tail", short, length % width)
    if pack:
        packing.emit_pack_rows(b, f"{symbol}.pack", isa, small_dtype, small_strides, pitch)
    return Kernel(b.module(), symbol, grid.ntasks, grid.ntasks * task_bytes)


class _DotShape:
    """The dot tile: ``short`` rows of the small operand times up to ``width`` of the large one."""

    def __init__(
        self, gemm: Gemm, isa: Isa, wide: bool, packed: bool, pitch: int, width: int
    ) -> None:
        self.gemm, self.isa, self.wide, self.width = gemm, isa, wide, width
        few = (gemm.a_strides[0], gemm.a_dtype) if wide else (gemm.b_strides[1], gemm.b_dtype)
        many = (gemm.b_strides[1], gemm.b_dtype) if wide else (gemm.a_strides[0], gemm.a_dtype)
        self.few = (pitch, gemm.compute) if packed else few
        self.many = many

    def call(self, b: Text, name: str, few: str, many: str, c: str, group: str, batch: str) -> None:
        """Compute group number ``group`` of the long way."""
        place = b.mul(group, self.width)
        many = b.at(many, b.mul(place, self.many[0]), ITEMSIZE[self.many[1]])
        along = self.gemm.c_strides[1 if self.wide else 0]
        c = b.at(c, b.mul(place, along), ITEMSIZE[self.gemm.c_dtype])
        row, col = ("0", place) if self.wide else (place, "0")
        b.emit(
            f"call void @{name}(ptr {few}, ptr {many}, ptr {c}, i64 {row}, i64 {col}, "
            f"i64 {batch}, ptr %args)"
        )

    def define(self, b: Text, name: str, short: int, count: int) -> None:
        """Define the tile function for ``count`` of the long way."""
        params = [("ptr noalias readonly", "few"), ("ptr noalias readonly", "many"),
                  ("ptr noalias", "c"), ("i64", "row"), ("i64", "col"), ("i64", "batch"),
                  ("ptr", "args")]  # fmt: skip
        gemm, element = self.gemm, COMPUTE[self.gemm.compute]
        lanes = self.isa.lanes(ITEMSIZE[gemm.compute])
        vector = f"<{lanes} x {element}>"
        cells = short * count
        # Enough independent sums to cover the latency of a multiply-add.
        copies = max(1, 8 // cells)
        with b.function(name, params, internal=True):

            def step(k: str, sums: list[str], copy: int, mask: str | None) -> None:
                xs = [self._load(b, "%few", self.few, i, k, mask) for i in range(short)]
                ys = [self._load(b, "%many", self.many, j, k, mask) for j in range(count)]
                for i in range(short):
                    for j in range(count):
                        n = (copy * short + i) * count + j
                        sums[n] = fma(b, xs[i], ys[j], sums[n], element, lanes, self.isa.has_fma)

            sums = ["zeroinitializer"] * (cells * copies)
            stride = lanes * copies
            bulk = gemm.k // stride * stride
            if bulk:
                with b.loop(0, bulk, stride, [(vector, s) for s in sums]) as loop:
                    inner = list(loop.carried)
                    for copy in range(copies):
                        step(b.add(loop.index, copy * lanes), inner, copy, None)
                    loop.next = inner
                sums = list(loop.final)
            for k in range(bulk, gemm.k, lanes):
                left = gemm.k - k
                step(str(k), sums, 0, lane_mask(lanes, left) if left < lanes else None)
            cell = []
            for n in range(cells):
                total = sums[n]
                for copy in range(1, copies):
                    total = b.op(f"fadd {vector} {total}, {sums[copy * cells + n]}")
                cell.append(reduce_add(b, total, element, lanes))
            self._store(b, cell, short, count)

    def _load(
        self, b: Text, base: str, operand: tuple[int, str], i: int, k: str, mask: str | None
    ) -> str:
        stride, dtype = operand
        lanes = self.isa.lanes(ITEMSIZE[self.gemm.compute])
        return load_vector(b, b.at(base, b.add(k, i * stride), ITEMSIZE[dtype]), dtype, lanes, mask)

    def _store(self, b: Text, cell: list[str], short: int, count: int) -> None:
        gemm, element = self.gemm, COMPUTE[self.gemm.compute]
        lanes = self.isa.lanes(ITEMSIZE[gemm.compute])
        rows, columns = (short, count) if self.wide else (count, short)
        for i in range(rows):
            value = "zeroinitializer"
            for j in range(columns):
                scalar = cell[i * count + j] if self.wide else cell[j * count + i]
                value = b.op(
                    f"insertelement <{lanes} x {element}> {value}, {element} {scalar}, i64 {j}"
                )
            target = b.at("%c", i * gemm.c_strides[0], ITEMSIZE[gemm.c_dtype])
            if gemm.epilogue is not None:
                mask = lane_mask(lanes, columns)
                value = apply_epilogue(b, gemm.epilogue, value, gemm.compute, lanes,
                                       b.add("%row", i), "%col", "%batch", mask)  # fmt: skip
            store_columns(b, value, target, gemm.c_dtype, lanes, columns, gemm.c_strides[1])
