"""Backward-weight of 3x3 windows by Winograd's F(3x3, 4x4), see Note [Winograd] in ``winograd``.

The window is now dy's tile of 4x4 pixels: dw is the interpolation of V Q, summed over all tiles, where Q
are dy's values at the six points. Tasks own chunks of tiles or, where dw is large, rows of points, and
leave U[point][co][ci]; a second phase adds the chunks up in a fixed order and interpolates.
"""

from __future__ import annotations

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_halo import Halo
from kiln.backends.cpu.conv_shape import ARG_IMAGE, ARG_OTHER, ARG_OUT, Conv
from kiln.backends.cpu.gemm import choose_tile
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel, chain
from kiln.backends.cpu.microkernel import ARG_WORKSPACE, Tile, emit_tile
from kiln.backends.cpu.patches import Lanes, scatter
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, Text, lane_mask, load_vector, store_vector
from kiln.backends.cpu.winograd import PARAMS, Points, emit_input, norms, plane, side_by_side

_BLOCK_BYTES = 1 << 20
_SUM_BYTES = 5 << 19
_HALF_BYTES = 16 << 20
_CHUNK_BYTES = 10 << 20


class BackwardWeight:
    """Writes the kernel of one convolution's weight gradient."""

    def __init__(self, conv: Conv, isa: Isa, symbol: str) -> None:
        self.conv, self.isa, self.symbol = conv, isa, symbol
        self.size, self.element = ITEMSIZE[conv.dtype], COMPUTE[conv.dtype]
        self.lanes = isa.lanes(self.size)
        self.in_pitch = -(-conv.c_in // self.lanes) * self.lanes
        self.out_pitch = -(-conv.c_out // self.lanes) * self.lanes
        self.u_plane = plane(conv.c_out * self.in_pitch, self.size)
        whole = 36 * self.u_plane * self.size
        # fewer parts repeat less of the transforms, but sums of more points are passed over for each block
        self.part_rows = 6 if whole <= _SUM_BYTES else 3 if whole <= _HALF_BYTES else 1
        self.points = 6 * self.part_rows
        self.tiles = -(-conv.out[0] // 4), -(-conv.out[1] // 4)
        block = _BLOCK_BYTES if self.part_rows == 6 else 2 * _BLOCK_BYTES
        fit = block // (self.points * (self.in_pitch + self.out_pitch) * self.size)
        high, wide = self.tiles
        count = -(-high // max(1, min(high, fit // wide)))
        self.rows = -(-high // count)
        self.images = max(1, min(conv.n, fit // (high * wide))) if count == 1 else 1
        self.units = -(-conv.n // self.images), -(-high // self.rows)
        tiles = self.images * self.rows * wide
        self.nv, self.mr = choose_tile(conv.c_out, conv.c_in, self.lanes, isa)
        self.panel = self.nv * self.lanes
        self.v_plane = plane(tiles * self.in_pitch, self.size)
        self.q_plane = plane(tiles * self.out_pitch, self.size)
        chunks = max(1, min(tasks.task_count(conv.flops), self.units[0] * self.units[1]))
        parts = 6 // self.part_rows
        chunks = min(chunks, max(1, 4 // parts, _CHUNK_BYTES // whole))
        self.grid = tasks.Grid(chunks, parts, 1)
        self.x_halo = Halo(
            conv.dtype, conv.c_in, conv.image, conv.x_strides[1:],
            (conv.padding[0][0], conv.padding[1][0]), 4 * self.rows + 2, 4 * wide + 2, self.in_pitch,
        )  # fmt: skip
        self.y_halo = Halo(
            conv.dtype, conv.c_out, conv.out, conv.y_strides[1:], (0, 0),
            4 * self.rows, 4 * wide, self.out_pitch,
        )  # fmt: skip
        self.front = -(-chunks * whole // 64) * 64
        self.places, self.task_bytes = side_by_side(
            (self.x_halo.elements, self.y_halo.elements, self.points * self.v_plane,
             self.points * self.q_plane), self.size,
        )  # fmt: skip

    def emit(self) -> Kernel:
        """Both phases."""
        b = self.b = Text()
        name = f"{self.symbol}.tiles"
        self.names: dict[tuple[bool, bool], str] = {}
        with b.function(name, PARAMS):
            self._body(name)
        self.x_halo.emit(b, f"{name}.x_halo", self.isa)
        self.y_halo.emit(b, f"{name}.y_halo", self.isa)
        wide = self.tiles[1]
        for part in range(6 // self.part_rows):
            rows = range(part * self.part_rows, (part + 1) * self.part_rows)
            emit_input(
                b, f"{name}.x{part}", self.isa, self.conv.dtype, wide, self.x_halo.cols,
                self.in_pitch, self.v_plane, rows,
            )  # fmt: skip
            self._define_values(f"{name}.y{part}", rows)
        low = self.conv.c_out // -(-self.conv.c_out // self.mr)
        for (high, tail), tile_name in self.names.items():
            rest = self.in_pitch % self.panel
            tile = Tile(
                isa=self.isa, mr=low + high, nv=rest // self.lanes if tail else self.nv, tail=0,
                compute=self.conv.dtype, a_row=1, a_k=self.out_pitch, b_mode="raw",
                b_k=self.in_pitch, panel=self.panel, c_dtype=self.conv.dtype,
                c_row=self.in_pitch, c_col=1, split_k=True, epilogue=None,
            )  # fmt: skip
            emit_tile(b, tile, tile_name)
        ntasks = self.grid.ntasks
        main = Kernel(b.module(), name, ntasks, self.front + ntasks * self.task_bytes)
        return chain(main, self._emit_sum(f"{self.symbol}.sum"))

    def _body(self, name: str) -> None:
        b, conv, size = self.b, self.conv, self.size
        x, dy = b.argument("%args", ARG_IMAGE), b.argument("%args", ARG_OTHER)
        sums = b.argument("%args", ARG_WORKSPACE)
        scratch = b.at(sums, b.add(b.mul("%place", self.task_bytes), self.front))
        x_band, y_band, v, q = (b.at(scratch, place) for place in self.places)
        share = self.grid.ranges(b, self.units[0] * self.units[1], self.grid.rows, 1)
        part = share.rows[0]
        chunk = b.op(f"udiv i64 %task, {self.grid.rows}")
        offset = b.add(b.mul(chunk, 36), b.mul(part, self.points))
        sums = b.at(sums, b.mul(offset, self.u_plane), size)
        high, wide = self.tiles
        with b.loop(*share.batch) as unit:
            image = b.mul(b.op(f"udiv i64 {unit.index}, {self.units[1]}"), self.images)
            row = b.mul(b.op(f"urem i64 {unit.index}, {self.units[1]}"), self.rows)
            images = b.least(self.images, b.op(f"sub i64 {conv.n}, {image}"))
            rows = b.least(self.rows, b.op(f"sub i64 {high}, {row}"))
            above = b.mul(row, 4)
            with b.loop(0, images) as j:
                number = b.add(image, j.index)
                for what, source, band, step in (
                    ("x_halo", x, x_band, conv.x_strides[0]),
                    ("y_halo", dy, y_band, conv.y_strides[0]),
                ):
                    where = b.at(source, b.mul(number, step), size)
                    b.emit(f"call void @{name}.{what}(ptr {where}, ptr {band}, i64 {above})")
                with b.loop(0, rows) as r:
                    at = b.mul(b.add(b.mul(j.index, rows), r.index), wide)
                    for what, halo, band, target, pitch in (
                        ("x", self.x_halo, x_band, v, self.in_pitch),
                        ("y", self.y_halo, y_band, q, self.out_pitch),
                    ):
                        line = b.at(band, b.mul(r.index, 4 * halo.cols * pitch), size)
                        place = b.at(target, b.mul(at, pitch), size)
                        self._by_part(f"{name}.{what}", part, f"ptr {line}, ptr {place}")
            depth = b.mul(b.mul(images, rows), wide)
            later = b.op(f"icmp ne i64 {unit.index}, {share.batch[0]}")
            self._products(q, v, sums, depth, later)

    def _by_part(self, name: str, part: str, arguments: str) -> None:
        """Call the variant of a transform for this task's rows of points."""
        b = self.b
        if self.grid.rows == 1:
            b.emit(f"call void @{name}0({arguments})")
            return
        for i in range(self.grid.rows):
            with b.when(b.op(f"icmp eq i64 {part}, {i}")):
                b.emit(f"call void @{name}{i}({arguments})")

    def _products(self, q: str, v: str, sums: str, depth: str, more: str) -> None:
        """U[co, ci] += Q[t, co]' @ V[t, ci] for each of this task's points."""
        b = self.b
        whole, rest = divmod(self.in_pitch, self.panel)
        with b.loop(0, self.points) as point:
            a = b.at(q, b.mul(point.index, self.q_plane), self.size)
            w = b.at(v, b.mul(point.index, self.v_plane), self.size)
            c = b.at(sums, b.mul(point.index, self.u_plane), self.size)
            for tail, first, stop in ((False, 0, whole), (True, whole, whole + (rest > 0))):
                if first == stop:
                    continue
                with b.loop(first, stop) as panel:
                    columns = b.at(w, b.mul(panel.index, self.panel), self.size)
                    target = b.at(c, b.mul(panel.index, self.panel), self.size)
                    for high, row, _ in tasks.row_blocks(b, self.conv.c_out, self.mr):
                        name = f"{self.symbol}.product{len(self.names)}"
                        name = self.names.setdefault((high, tail), name)
                        source = b.at(a, row, self.size)
                        place = b.at(target, b.mul(row, self.in_pitch), self.size)
                        b.emit(
                            f"call void @{name}(ptr {source}, ptr {columns}, ptr null, "
                            f"ptr {place}, i64 {depth}, i1 {more}, i1 true, i64 0, i64 0, "
                            f"i64 0, ptr null)"
                        )

    def _define_values(self, name: str, rows: range) -> None:
        """Define ``void name(ptr line, ptr q)``: a row of dy's tiles at some rows of the points."""
        b, dtype, size, pitch = self.b, self.conv.dtype, self.size, self.out_pitch
        points = Points(b, self.isa, self.element, self.lanes)
        params = [("ptr noalias readonly", "line"), ("ptr noalias", "q")]
        with (
            b.function(name, params, internal=True),
            b.loop(0, self.tiles[1]) as t,
            b.loop(0, pitch, self.lanes) as c,
        ):
            source = b.at("%line", b.add(b.mul(t.index, 4 * pitch), c.index), size)
            target = b.at("%q", b.add(b.mul(t.index, pitch), c.index), size)
            half = []
            for j in range(4):
                steps = [(i * self.y_halo.cols + j) * pitch for i in range(4)]
                column = [load_vector(b, b.at(source, s, size), dtype, self.lanes) for s in steps]
                half.append(points.values(column))
            for i in rows:
                for j, value in enumerate(points.values([half[x][i] for x in range(4)])):
                    step = (6 * (i - rows[0]) + j) * self.q_plane
                    store_vector(b, value, b.at(target, step, size), dtype, self.lanes)

    def _emit_sum(self, name: str) -> Kernel:
        """dw from the sums of all chunks."""
        b, conv, size = Text(), self.conv, self.size
        co, ci, ky, kx = conv.w_strides
        scales = norms()
        vector = f"<{self.lanes} x {self.element}>"
        ntasks = max(1, min(8, conv.c_out * self.in_pitch * self.grid.batch >> 11))
        points, grid = Points(b, self.isa, self.element, self.lanes), Lanes(b, self.lanes)
        whole = conv.c_in // self.lanes * self.lanes
        blocks = [(0, whole, self.lanes), (whole, conv.c_in, conv.c_in - whole)]
        with b.function(name, PARAMS):
            dw = b.argument("%args", ARG_OUT)
            sums = b.argument("%args", ARG_WORKSPACE)
            share = tasks.Grid(1, ntasks, 1).ranges(b, 1, conv.c_out, 1)
            apart = grid.op("mul", grid.iota(), ci)
            for first, stop, live in blocks:
                if first == stop:
                    continue
                with b.loop(*share.rows) as row, b.loop(first, stop, self.lanes) as col:
                    source = b.at(sums, b.add(b.mul(row.index, self.in_pitch), col.index), size)
                    half = []
                    for j in range(6):
                        column = []
                        for i in range(6):
                            at = b.at(source, (6 * i + j) * self.u_plane, size)
                            total = load_vector(b, at, conv.dtype, self.lanes)
                            for chunk in range(1, self.grid.batch):
                                more = b.at(at, chunk * 36 * self.u_plane, size)
                                part = load_vector(b, more, conv.dtype, self.lanes)
                                total = b.op(f"fadd {vector} {total}, {part}")
                            column.append(points.scale(1 / (scales[i] * scales[j]), total))
                        half.append(points.interpolated(column, 3))
                    target = b.at(dw, b.add(b.mul(row.index, co), b.mul(col.index, ci)), size)
                    mask = lane_mask(self.lanes, live)
                    for i in range(3):
                        line = points.interpolated([half[j][i] for j in range(6)], 3)
                        for j, value in enumerate(line):
                            where = b.at(target, i * ky + j * kx, size)
                            scatter(b, value, where, apart, self.element, self.lanes, mask)
        return Kernel(b.module(), name, ntasks)
