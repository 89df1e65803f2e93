"""Matrix multiplication kernels: C = epilogue(A @ B), batched, any strides, f32, f64, bf16 and i8.

Note [Blocking]: the loops are batch, NC columns, KC of K, MC rows, panels, row blocks. A is read
in place; where its columns lie together each step of K is on another page, which no hardware
foresees: the tile fetches the next rows' line as it goes (packing such an A was slower at every
size). B is read raw when small, packed inside the first row block's micro-kernel when its rows are
contiguous, and packed beforehand otherwise; in a loop whose steps share B, once before the loop
(`pack_ahead`). Tasks are independent sub-matrices chosen from the shape, so there is no barrier and
the bits don't depend on the number of threads.

Note [Groups]: where the machine has a dot product of bf16 pairs (AVX512-BF16) or of four i8
(AVX512-VNNI), both operands are seen as 32-bit groups of neighbours along K: to the loops and the
tile a product of half or a quarter of the depth on elements as large as a float. B is packed; A
too, except where its rows are contiguous. The bf16 instruction takes subnormal inputs as zero. That
of i8 wants one operand unsigned: the tile adds 128 to A as it reads it, and a panel of B begins with
-128 times its columns' sums, from which the tile's sums start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

from kiln.backends.cpu import packing, skinny, tasks
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.microkernel import (
    ARG_A,
    ARG_B,
    ARG_C,
    ARG_WORKSPACE,
    Epilogue,
    Tile,
    emit_tile,
)
from kiln.backends.cpu.text import ITEMSIZE, Text
from kiln.errors import KilnValueError

_RAW_B_BYTES = 300 * 1024
_AHEAD_BYTES = 32 * 1024
_KC, _KC_PACKED_A, _MC, _NC = 512, 256, 192, 960


@dataclass(frozen=True)
class Gemm:
    """One matrix product: C[m, n] = epilogue(sum over k of A[m, k] * B[k, n]), batched.

    Strides are in elements and may be zero or negative; ``batch`` are leading sizes, with one
    stride each per operand (0 broadcasts). dtypes: "f32", "f64", "bf16" (added up in f32), "i32",
    and "i8" times "i8" into "i32".
    C must not overlap A, B or the epilogue's operands. With ``ahead`` B is what `pack_ahead` left.
    """

    m: int
    n: int
    k: int
    a_strides: tuple[int, int]
    b_strides: tuple[int, int]
    c_strides: tuple[int, int]
    a_dtype: str = "f32"
    b_dtype: str = "f32"
    c_dtype: str = "f32"
    batch: tuple[int, ...] = ()
    a_batch: tuple[int, ...] = ()
    b_batch: tuple[int, ...] = ()
    c_batch: tuple[int, ...] = ()
    epilogue: Epilogue | None = None
    ahead: bool = False

    @property
    def compute(self) -> str:
        """dtype of products and sums: f64 if an input is f64, i32 of i8 and i32, else f32."""
        if self.a_dtype in ("i8", "i32"):
            return "i32"
        return "f64" if "f64" in (self.a_dtype, self.b_dtype) else "f32"


def emit(gemm: Gemm, isa: Isa, symbol: str) -> Kernel:
    """Generate the kernel ``void symbol(args, task, place)`` for ``gemm``.

    ``args`` points to [C, A, B, workspace, epilogue operands...]; workspace is 64-byte aligned
    and may be null when ``workspace_bytes`` is 0.
    """
    _check(gemm)
    slots = (ARG_C, ARG_A, ARG_B)
    if gemm.epilogue is None and gemm.c_strides[1] != 1 and gemm.c_strides[0] == 1:
        gemm, slots = _turned(gemm), (ARG_C, ARG_B, ARG_A)
    gemm = fold_batch(gemm)
    if prod(gemm.batch) * gemm.m * gemm.n == 0:
        b = Text()
        with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            pass
        return Kernel(b.module(), symbol, 1, 0)
    if not gemm.ahead and gemm.compute != "i32":
        if skinny.fits_axpy(gemm, isa):
            return skinny.emit_axpy(gemm, isa, symbol, slots)
        if skinny.fits_dot(gemm, isa):
            return skinny.emit_dot(gemm, isa, symbol, slots)
    return _driver(gemm, isa, symbol, slots).emit()


def _driver(gemm: Gemm, isa: Isa, symbol: str, slots: tuple[int, int, int]) -> PanelDriver:
    operand = StridedB(gemm.b_dtype, gemm.b_strides, group=group_of(gemm, isa))
    return PanelDriver(gemm, isa, symbol, operand, slots)


def pack_ahead(gemm: Gemm, isa: Isa, symbol: str) -> tuple[Kernel, int] | None:
    """The kernel that packs B into the workspace for a product with ``ahead``, and how many bytes it fills.

    None where the product does not gain: its B is small, each batch has another, or its form packs nothing.
    """
    small = gemm.k * gemm.n * ITEMSIZE[gemm.b_dtype] <= _AHEAD_BYTES and gemm.b_strides[1] == 1
    few = gemm.compute != "i32" and (skinny.fits_axpy(gemm, isa) or skinny.fits_dot(gemm, isa))
    if small or few or any(gemm.b_batch) or gemm.c_strides[1] != 1:
        return None
    driver = _driver(replace(gemm, ahead=True), isa, symbol, (ARG_C, ARG_A, ARG_B))
    return driver.emit_packing(), driver.packed_bytes


def group_of(gemm: Gemm, isa: Isa) -> str:
    """The dtype whose 32-bit groups along K the machine multiplies at once, see Note [Groups]; "" if none."""

    def whole(k: int, other: int, batch: tuple[int, ...], unit: int) -> bool:
        """Whether groups can be loaded: rows of them, or every row begins at a group."""
        return other == 1 or (k == 1 and not any(s % unit for s in (other, *batch)))

    def both(unit: int) -> bool:
        return (
            gemm.k % unit == 0
            and whole(gemm.a_strides[1], gemm.a_strides[0], gemm.a_batch, unit)
            and whole(gemm.b_strides[0], gemm.b_strides[1], gemm.b_batch, unit)
        )

    if gemm.a_dtype == gemm.b_dtype == "bf16" and isa.has("avx512bf16") and both(2):
        return "bf16"
    return "i8" if gemm.a_dtype == "i8" and isa.has("avx512vnni") and both(4) else ""


def _check(gemm: Gemm) -> None:
    dtypes = (gemm.a_dtype, gemm.b_dtype, gemm.c_dtype)
    mixed = ("f64" in dtypes and dtypes != ("f64", "f64", "f64")) or (
        {"i8", "i32"} & {*dtypes} and dtypes not in (("i8", "i8", "i32"), ("i32",) * 3)
    )
    ranks = {len(x) for x in (gemm.batch, gemm.a_batch, gemm.b_batch, gemm.c_batch)}
    if mixed or len(ranks) > 1 or min(gemm.m, gemm.n, gemm.k, *gemm.batch) < 0:
        raise KilnValueError(
            "gemm", "an operand's dtype, size or batch strides are not possible", gemm,
            "f64 doesn't mix with other dtypes, i8 gives i32; give one stride per batch size and operand",
        )  # fmt: skip


def _turned(gemm: Gemm) -> Gemm:
    """C = A @ B as C' = B' @ A', which makes the rows of a column-major C contiguous."""
    return replace(
        gemm,
        m=gemm.n, n=gemm.m,
        a_strides=gemm.b_strides[::-1], b_strides=gemm.a_strides[::-1],
        c_strides=gemm.c_strides[::-1],
        a_dtype=gemm.b_dtype, b_dtype=gemm.a_dtype,
        a_batch=gemm.b_batch, b_batch=gemm.a_batch,
    )  # fmt: skip


def fold_batch(gemm: Gemm) -> Gemm:
    """Drop batch sizes of 1; make rows of the last batch size when B is shared by them."""
    keep = [i for i, size in enumerate(gemm.batch) if size != 1]
    if len(keep) < len(gemm.batch):
        batch, a, b, c = (
            tuple(dims[i] for i in keep)
            for dims in (gemm.batch, gemm.a_batch, gemm.b_batch, gemm.c_batch)
        )
        gemm = replace(gemm, batch=batch, a_batch=a, b_batch=b, c_batch=c)
    # An epilogue sees row and batch numbers, which folding would change.
    while (
        gemm.batch
        and gemm.epilogue is None
        and gemm.b_batch[-1] == 0
        and gemm.a_batch[-1] == gemm.m * gemm.a_strides[0]
        and gemm.c_batch[-1] == gemm.m * gemm.c_strides[0]
    ):
        gemm = replace(
            gemm, m=gemm.m * gemm.batch[-1], batch=gemm.batch[:-1],
            a_batch=gemm.a_batch[:-1], b_batch=gemm.b_batch[:-1], c_batch=gemm.c_batch[:-1],
        )  # fmt: skip
    return gemm


class Operand(Protocol):
    """How the micro-kernel is fed with B, the K x N operand.

    At most ``chunk_bytes`` are packed (but one panel at least) before they are used.
    """

    @property
    def chunk_bytes(self) -> int: ...

    @property
    def group(self) -> str: ...

    def k_unit(self, lanes: int) -> int:
        """K is cut into blocks of a multiple of this."""
        ...

    def mode(self, gemm: Gemm, row_blocks: int) -> str:
        """How the micro-kernel gets B: "raw", "otf" (packs as it goes) or "packed" before."""
        ...

    def emit_pack(self, b: Text, name: str, isa: Isa, panel: int, live: int) -> None:
        """Define the packing function of a panel with ``live`` columns."""
        ...


@dataclass(frozen=True)
class StridedB:
    """B as it lies in memory, with (k, column) strides."""

    dtype: str
    strides: tuple[int, int]
    chunk_bytes: int = 2 << 20
    group: str = ""

    def k_unit(self, lanes: int) -> int:
        """Whole vectors, so that only the last block has a tail to transpose."""
        return lanes

    def mode(self, gemm: Gemm, row_blocks: int) -> str:
        """Raw while B is small or used by few row blocks, else packed on the fly if it can be."""
        if gemm.ahead or self.dtype != gemm.compute or self.strides[1] != 1:
            return "packed"
        small = gemm.k * gemm.n * ITEMSIZE[self.dtype] <= _RAW_B_BYTES
        return "raw" if small or row_blocks <= 4 else "otf"

    def emit_pack(self, b: Text, name: str, isa: Isa, panel: int, live: int) -> None:
        """Define the packing function of a panel with ``live`` columns."""
        emit = packing.emit_pack_groups if self.group else packing.emit_pack_panel
        emit(b, name, isa, self.dtype, self.strides, panel, live)


class PanelDriver:
    """Writes the loops round the micro-kernel for one problem.

    ``operand`` is B (its ``group`` is A's too); ``slots`` says where C, A and B stand in the argument block;
    ``front`` bytes at the beginning of the workspace are left to the caller.
    """

    def __init__(
        self,
        gemm: Gemm,
        isa: Isa,
        symbol: str,
        operand: Operand,
        slots: tuple[int, int, int] = (ARG_C, ARG_A, ARG_B),
    ) -> None:
        self.gemm, self.isa, self.symbol, self.operand = gemm, isa, symbol, operand
        self.slots, self.front = slots, 0
        self.shifts = (0, 0, 0)  # bytes from there to C, A and B
        self.size = ITEMSIZE[gemm.compute]
        self.lanes = isa.lanes(self.size)
        self.nv, self.mr = self._tile()
        self.panel = self.nv * self.lanes
        self.whole, self.rest = divmod(gemm.n, self.panel)
        self.panels = self.whole + (self.rest > 0)
        self.blocks = -(-gemm.m // self.mr)
        self.low, self.high_count = divmod(gemm.m, self.blocks)
        self.mode = operand.mode(gemm, self.blocks)
        # so many elements along K are one to the loops
        self.unit = 4 // ITEMSIZE[operand.group] if operand.group else 1
        self.k = gemm.k // self.unit
        ready = gemm.a_strides[1] == 1 if operand.group else gemm.a_dtype == gemm.compute
        self.pack_a = not ready
        self._block_k()
        self._split()
        self.chunk_blocks = max(1, _MC // self.mr)
        wide = operand.chunk_bytes // (self.kc * self.panel * self.size)
        wide = max(1, min(_NC // self.panel, wide))
        if self.blocks <= self.chunk_blocks and not self.pack_a:
            wide = 1  # no other rows will want a panel again: one place for all stays in cache
        self.chunk_panels = min(wide, -(-self.panels // self.grid.cols))
        self._layout_workspace()
        self.names: dict[tuple[bool, bool, str], str] = {}

    def _tile(self) -> tuple[int, int]:
        """Vectors and rows of the register tile."""
        gemm = self.gemm
        if gemm.ahead:  # as fast as wider panels, and more evenly split among few threads
            return 2, -(-gemm.m // -(-gemm.m // tile_shapes(self.isa)[2]))
        return choose_tile(gemm.m, gemm.n, self.lanes, self.isa)

    def _can_split(self) -> bool:
        """Whether sums may be left in C between blocks of K."""
        gemm = self.gemm
        return gemm.c_dtype == gemm.compute != "i32" and gemm.c_strides[1] == 1

    def _block_k(self) -> None:
        limit = _KC_PACKED_A if self.pack_a else _KC
        self.k_blocks = max(1, -(-self.k // limit)) if self._can_split() else 1
        unit = self.operand.k_unit(self.lanes)
        self.kc = -(-max(1, -(-self.k // self.k_blocks)) // unit) * unit
        self.k_blocks = max(1, -(-self.k // self.kc))

    def _split(self) -> None:
        gemm = self.gemm
        batches = prod(gemm.batch)
        flops = 2 * batches * gemm.m * gemm.n * max(self.k, 1)  # a group takes as long as a float
        # Each part of the rows reads all of B, each part of the columns all of A; packing costs more.
        again = 1 if gemm.ahead else {"raw": 2, "otf": 3, "packed": 10}[self.mode]
        row_cost, col_cost = again * gemm.n, (5 if self.pack_a else 1) * gemm.m
        rows = max(1, self.blocks // 2)
        self.grid = tasks.Grid.cheapest(flops, batches, rows, self.panels, row_cost, col_cost)

    def _reads_in_place(self) -> bool:
        """Whether no panel of B is packed."""
        return self.mode == "raw" or self.gemm.ahead

    def _layout_workspace(self) -> None:
        rows = -(-self.kc // self.lanes) * self.lanes
        header = self.operand.group == "i8"
        self.panel_bytes = (rows + header) * self.panel * self.size
        packed_b = 0 if self._reads_in_place() else self.panel_bytes * self.chunk_panels
        packed_a = 0
        self.a_offset = packed_b
        self.a_row, self.a_k = self.gemm.a_strides[0] // self.unit, self.gemm.a_strides[1]
        if self.pack_a:
            chunk = self.chunk_blocks * self.mr
            # An odd number of cache lines apart, so that columns don't fall on one L1 set.
            odd = 64 // self.size
            if self.gemm.a_strides[0] == 1 and self.gemm.a_strides[1] != 1:
                pitch = (-(-chunk // odd) | 1) * odd
                self.a_row, self.a_k, packed_a = 1, pitch, rows * pitch * self.size
            else:
                pitch = (-(-rows // odd) | 1) * odd
                self.a_row, self.a_k, packed_a = pitch, 1, chunk * pitch * self.size
        self.task_bytes = -(-(packed_b + packed_a) // 64) * 64

    def emit(self) -> Kernel:
        """The module's text and what it needs at run time."""
        b = self.b = Text()
        with b.function(self.symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            self._body()
        self._define_parts()
        ntasks = self.grid.ntasks
        return Kernel(b.module(), self.symbol, ntasks, self.front + ntasks * self.task_bytes)

    @property
    def packed_bytes(self) -> int:
        """The size of the whole of B, packed."""
        return self.k_blocks * self.panels * self.panel_bytes

    def emit_packing(self) -> Kernel:
        """The kernel that packs all panels of B into the workspace: block after block of K."""
        b = self.b = Text()
        ntasks = min(8, self.panels, max(1, self.packed_bytes >> 16))
        with b.function(self.symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            target, self.source = (b.argument("%args", k) for k in (ARG_WORKSPACE, ARG_B))
            share = tasks.Grid(1, 1, ntasks).ranges(b, 1, 1, self.panels)
            self.chunk, self.chunk_end = share.cols
            with b.loop(0, self.k_blocks) as k:
                self._cut(k.index)
                self.packed = b.at(target, b.mul(k.index, self.panels * self.panel_bytes))
                self._each_panel(self._pack_panel)
        self._define_packing()
        return Kernel(b.module(), self.symbol, ntasks)

    def _define_packing(self) -> None:
        live = [(self.whole > 0, "pack", self.panel), (self.rest > 0, "pack_tail", self.rest)]
        for wanted, name, columns in live:
            if wanted:
                name = f"{self.symbol}.{name}"
                self.operand.emit_pack(self.b, name, self.isa, self.panel, columns)

    def _define_parts(self) -> None:
        """Define the functions that the body calls."""
        b = self.b
        for (high, tail, mode), name in self.names.items():
            self._emit_tile(name, high, tail, mode)
        if self.mode == "packed" and not self.gemm.ahead:
            self._define_packing()
        name, group, (_, far) = f"{self.symbol}.pack_a", self.operand.group, self.gemm.a_strides
        if self.pack_a and group:
            packing.emit_pack_group_rows(b, name, self.isa, group, far, self.a_k)
        elif self.pack_a:
            row, k = self.gemm.a_strides
            strides = (row, k) if self.a_k == 1 else (k, row)
            pitch = max(self.a_row, self.a_k)
            packing.emit_pack_rows(
                b, f"{self.symbol}.pack_a", self.isa, self.gemm.a_dtype, strides, pitch
            )

    def _emit_tile(self, name: str, high: bool, tail: bool, mode: str) -> None:
        gemm = self.gemm
        live = self.rest if tail else self.panel
        tile = Tile(
            isa=self.isa, mr=self.low + high, nv=-(-live // self.lanes), tail=live % self.lanes,
            compute=gemm.compute, a_row=self.a_row, a_k=self.a_k, b_mode=mode,
            b_k=gemm.b_strides[0], panel=self.panel, c_dtype=gemm.c_dtype,
            c_row=gemm.c_strides[0], c_col=gemm.c_strides[1], split_k=self.k_blocks > 1,
            epilogue=gemm.epilogue, group=self.operand.group,
            far=self.a_row == 1 != self.a_k,
        )  # fmt: skip
        emit_tile(self.b, tile, name)

    def _body(self) -> None:
        b, gemm = self.b, self.gemm
        places = zip(self.slots, self.shifts, strict=True)
        pointers = [b.at(b.argument("%args", slot), shift) for slot, shift in places]
        self._find_workspace()
        share = self.grid.ranges(b, prod(gemm.batch), self.blocks, self.panels)
        self.first_block, self.end_block = share.rows
        with b.loop(*share.batch) as batch:
            self.batch = batch.index
            self.c, self.a, self.source = tasks.batch_pointers(b, gemm, pointers, batch.index)
            self._columns(share.cols)

    def _columns(self, panels: tuple[str, str]) -> None:
        """Compute a range of panels of C from the whole of K."""
        b = self.b
        with b.loop(*panels, self.chunk_panels) as chunk:
            self.chunk = chunk.index
            self.chunk_end = b.least(panels[1], b.add(chunk.index, self.chunk_panels))
            self._all_k()

    def _all_k(self) -> None:
        with self.b.loop(0, self.k_blocks) as k:
            self._k_block(k.index)

    def _find_workspace(self) -> None:
        b = self.b
        self.workspace = "null"
        if self.task_bytes:
            base = b.argument("%args", ARG_WORKSPACE)
            self.workspace = b.at(base, b.add(b.mul("%place", self.task_bytes), self.front))
        self.packed = self.workspace  # where packed panels lie

    def _cut(self, index: str) -> None:
        """Find where a block of K begins, and its depth."""
        b = self.b
        self.k0 = b.mul(index, self.kc)
        if self.k_blocks == 1:
            self.depth, self.more, self.last = str(self.k), "false", "true"
        else:
            self.depth = b.least(self.kc, b.op(f"sub i64 {self.k}, {self.k0}"))
            self.more = b.op(f"icmp ne i64 {index}, 0")
            self.last = b.op(f"icmp eq i64 {index}, {self.k_blocks - 1}")

    def _k_block(self, index: str) -> None:
        b = self.b
        self._cut(index)
        if self.gemm.ahead:
            self.packed = b.at(self.source, b.mul(index, self.panels * self.panel_bytes))
        elif self.mode == "packed":
            self._each_panel(self._pack_panel)
        with b.loop(self.first_block, self.end_block, self.chunk_blocks) as rows:
            self.rows = rows.index
            self.rows_end = b.least(self.end_block, b.add(rows.index, self.chunk_blocks))
            if self.pack_a:
                self._pack_a()
            self._each_panel(self._panel_rows)

    def _each_panel(self, action) -> None:  # type: ignore[no-untyped-def]
        """Call ``action(panel index, is tail)`` in a loop over the chunk's panels."""
        b = self.b
        if self.whole:
            with b.loop(self.chunk, b.least(self.chunk_end, self.whole)) as p:
                action(p.index, False)
        if self.rest:
            with b.when(b.op(f"icmp sgt i64 {self.chunk_end}, {self.whole}")):
                action(str(self.whole), True)

    def _packed(self, panel: str) -> str:
        b = self.b
        place = panel if self.gemm.ahead else b.op(f"sub i64 {panel}, {self.chunk}")
        return b.at(self.packed, b.mul(place, self.panel_bytes))

    def _pack_panel(self, panel: str, tail: bool) -> None:
        b = self.b
        name = f"{self.symbol}.{'pack_tail' if tail else 'pack'}"
        b.emit(
            f"call void @{name}(ptr {self.source}, ptr {self._packed(panel)}, i64 {self.k0}, "
            f"i64 {self.depth}, i64 {b.mul(panel, self.panel)})"
        )

    def _row_of(self, block: str) -> str:
        b = self.b
        return b.add(b.mul(block, self.low), b.least(block, self.high_count))

    def _pack_a(self) -> None:
        b, gemm = self.b, self.gemm
        start = self._row_of(self.rows)
        count = b.op(f"sub i64 {self._row_of(self.rows_end)}, {start}")
        along = b.mul(self.k0, self.unit * gemm.a_strides[1])
        offset = b.add(b.mul(start, gemm.a_strides[0]), along)
        source = b.at(self.a, offset, ITEMSIZE[gemm.a_dtype])
        self.a_packed, self.a_start = b.at(self.workspace, self.a_offset), start
        shape = (count, self.depth) if self.a_k == 1 else (self.depth, count)
        b.emit(
            f"call void @{self.symbol}.pack_a(ptr {source}, ptr {self.a_packed}, "
            f"i64 {shape[0]}, i64 {shape[1]})"
        )

    def _panel_rows(self, panel: str, tail: bool) -> None:
        b, gemm = self.b, self.gemm
        col = b.mul(panel, self.panel)
        packed = "null" if self.mode == "raw" else self._packed(panel)
        raw = "null"
        if self.mode != "packed":
            raw = b.at(self.source, b.add(b.mul(self.k0, gemm.b_strides[0]), col), self.size)
        start = self.rows
        if self.mode == "otf":
            first = b.op(f"icmp eq i64 {self.rows}, {self.first_block}")
            with b.when(first):
                for high in self._kinds():
                    test = "slt" if high else "sge"
                    mine = b.op(f"icmp {test} i64 {self.rows}, {self.high_count}")
                    with b.when(mine):
                        self._call(high, tail, "otf", self.rows, raw, packed, col)
            start = b.add(start, b.op(f"zext i1 {first} to i64"))
        mode = "raw" if self.mode == "raw" else "packed"
        source = raw if mode == "raw" else packed
        for high in self._kinds():
            low = start if high else b.most(start, self.high_count)
            end = b.least(self.rows_end, self.high_count) if high else self.rows_end
            with b.loop(low, end) as block:
                self._call(high, tail, mode, block.index, source, packed, col)

    def _kinds(self) -> list[bool]:
        return [True, False] if self.high_count else [False]

    def _call(
        self, high: bool, tail: bool, mode: str, block: str, source: str, packed: str, col: str
    ) -> None:
        b, gemm = self.b, self.gemm
        row = b.mul(block, self.low + 1) if high else b.add(b.mul(block, self.low), self.high_count)
        if self.pack_a:
            local = b.op(f"sub i64 {row}, {self.a_start}")
            a = b.at(self.a_packed, b.mul(local, self.a_row), self.size)
        else:
            offset = b.add(b.mul(row, self.a_row), b.mul(self.k0, self.a_k))
            a = b.at(self.a, offset, self.size)
        offset = b.add(b.mul(row, gemm.c_strides[0]), b.mul(col, gemm.c_strides[1]))
        c = b.at(self.c, offset, ITEMSIZE[gemm.c_dtype])
        name = self.names.setdefault((high, tail, mode), f"{self.symbol}.tile{len(self.names)}")
        b.emit(
            f"call void @{name}(ptr {a}, ptr {source}, ptr {packed}, ptr {c}, i64 {self.depth}, "
            f"i1 {self.more}, i1 {self.last}, i64 {row}, i64 {col}, i64 {self.batch}, ptr %args)"
        )


def choose_tile(m: int, n: int, lanes: int, isa: Isa) -> tuple[int, int]:
    """(vectors, rows) of the register tile for an m x n result: least estimated cycles."""
    best, choice = float("inf"), (1, 1)
    vectors = -(-n // lanes)
    wide = isa.n_vregs >= 32  # B comes from L2 there as often as not; elsewhere it was no gain
    for nv, mr in tile_shapes(isa).items():
        blocks = -(-m // mr)
        rows = -(-m // blocks)
        whole, rest = divmod(vectors, nv)
        cycles = sum(
            count * (max(rows * v / 2, (rows + v) / 2, 4) + (1 + v / 5 if wide else 0.5))
            for count, v in ((whole, nv), (1, rest))
            if v
        )
        # The first candidate was best in measurements where the model sees no difference, least so
        # beside four vectors (256 columns: 1 to 6 % better with four).
        cost = blocks * cycles * (1.0 if best == float("inf") else 1.01 if nv == 4 else 1.03)
        if cost < best:
            best, choice = cost, (nv, rows)
    return choice


def tile_shapes(isa: Isa) -> dict[int, int]:
    """The register tiles, as most rows for a number of vectors; the best one first."""
    if isa.n_vregs >= 32:
        return {3: 8, 2: 12, 4: 6, 1: 16}
    if isa.has_fma:
        return {2: 6, 3: 4, 1: 12}
    return {2: 6, 1: 12}  # each product needs a register of its own
