"""Direct convolution with channels in vectors: no matrix of patches is ever made.

Note [Direct convolution]: a register tile is a box of neighbouring output pixels by some vectors of
output channels. Its K loop runs over (ky, kx, ci): for a row of the window the (kx, ci) lie in one run
of memory, so a pixel is one pointer with a constant offset. Images with padding, or not channels-last,
are first copied to padded scratch (``conv_halo``), and a y that is not channels-last is written from
scratch; both cost a few percent. Weights are packed once, by a phase before.
Backward-data is the same on dy with mirrored weights, by residues of the position for strides > 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd, prod

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_halo import Source, Surface
from kiln.backends.cpu.conv_shape import ARG_IMAGE, ARG_OUT, Conv, flat_stride
from kiln.backends.cpu.conv_weights import emit_panels
from kiln.backends.cpu.gemm import tile_shapes
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel, chain, prepared
from kiln.backends.cpu.microkernel import ARG_WORKSPACE, Epilogue, Tile, emit_tile
from kiln.backends.cpu.text import ITEMSIZE, Text

_BAND_BYTES = 384 * 1024
_PANEL_BYTES = 400 * 1024
_FAR_BYTES = 256 * 1024
_LINE = 64
_RATE, _READ_RATE, _FAR_RATE = 250, 200, 100
"""Flops and, as they go on meanwhile, bytes read from L3 or memory that take a nanosecond."""
_L2_BYTES, _THREADS = 1 << 20, 8
_COPY = 0.05
"""What copying a row of x takes of the time of computing one of y."""
_PARAMS = [("ptr", "args"), ("i64", "task"), ("i64", "place")]


def fits(conv: Conv) -> bool:
    """Whether y is channels-last, or many sums pay for copying both images."""
    return conv.channels_last or (conv.co >= 16 and conv.ci * conv.taps >= 128)


@dataclass(frozen=True)
class Box:
    """Output pixels of one register tile, images x rows x columns, and its vectors of channels."""

    nv: int
    images: int
    rows: int
    cols: int

    @staticmethod
    def choose(conv: Conv, lanes: int, isa: Isa, exact: bool) -> Box:
        """Least estimated cycles; ``exact`` boxes tile images and rows without overlap."""
        (high, wide), best, choice = conv.out, float("inf"), None
        vectors = -(-conv.co // lanes)
        for nv, most in tile_shapes(isa).items():
            cols = -(-wide // -(-wide // most))
            rows = _part(high, most // wide, exact) if cols == wide else 1
            images = _part(conv.n, most // (wide * high), exact) if rows == high else 1
            size = images * rows * cols
            boxes = -(-conv.n // images) * -(-high // rows) * -(-wide // cols)
            whole, rest = divmod(vectors, nv)
            cycles = sum(
                count * (max(size * v / 2, (size + v) / 2, 4) + 0.5)
                for count, v in ((whole, nv), (1, rest))
                if v
            )
            cost = boxes * cycles * (1.0 if choice is None else 1.03)
            if cost < best:
                best, choice = cost, Box(nv, images, rows, cols)
        assert choice is not None
        return choice


def _part(total: int, most: int, exact: bool) -> int:
    """The size of equal parts of ``total``, at most ``most``; the last part may overlap unless ``exact``."""
    most = max(1, min(total, most))
    if not exact:
        return -(-total // -(-total // most))
    return max(d for d in range(1, most + 1) if total % d == 0)


def emit(conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None) -> Kernel:
    """As ``conv.emit_forward``."""
    line = as_line(conv) if conv.channels_last else conv
    return _Direct(line, isa, symbol, epilogue).emit()


def residues(conv: Conv) -> list[Conv]:
    """The convolutions of dy, of stride 1, whose results together are dx."""
    parts, (co, ci, ky, kx), (n, c, h, w) = [], conv.w_strides, conv.x_strides
    for top in range(min(conv.stride[0], conv.image[0])):
        for left in range(min(conv.stride[1], conv.image[1])):
            rows, cols = _residue(conv, 0, top), _residue(conv, 1, left)
            part = replace(
                conv, c_in=conv.c_out, c_out=conv.c_in, image=conv.out,
                x_strides=conv.y_strides, window=(rows.taps, cols.taps), stride=(1, 1),
                y_strides=(n, c, h * conv.stride[0], w * conv.stride[1]),
                y_offset=conv.y_offset + top * h + left * w,
                w_strides=(ci, co, rows.step * ky, cols.step * kx),
                w_offset=conv.w_offset + rows.last * ky + cols.last * kx,
                padding=(rows.padding, cols.padding), dilation=(rows.dilation, cols.dilation),
                w_group=conv.group_stride,
            )  # fmt: skip
            parts.append(part)
    return parts


@dataclass(frozen=True)
class _Residue:
    """One dimension of ``residues``: the window's pixels that reach positions of one residue."""

    taps: int
    last: int
    step: int
    dilation: int
    padding: tuple[int, int]


def _residue(conv: Conv, axis: int, at: int) -> _Residue:
    stride, dilation = conv.stride[axis], conv.dilation[axis]
    size = -(-(conv.image[axis] - at) // stride)
    shift = at + conv.padding[axis][0]
    # input = output * stride + k * dilation - padding
    taps = [k for k in range(conv.window[axis]) if (shift - k * dilation) % stride == 0]
    if not taps:
        return _Residue(0, 0, 1, 1, (0, size - 1 - conv.out[axis]))
    common = gcd(stride, dilation)
    before = -((shift - taps[-1] * dilation) // stride)
    apart = dilation // common
    after = size - 1 + (len(taps) - 1) * apart + 1 - before - conv.out[axis]
    return _Residue(len(taps), taps[-1], -(stride // common), apart, (before, after))


def as_line(conv: Conv) -> Conv:
    """A 1x1 convolution's image as one row, if it is one in memory."""
    x, y = flat_stride(conv.image, conv.x_strides[2:]), flat_stride(conv.out, conv.y_strides[2:])
    plain = conv.taps == 1 and conv.stride == (1, 1) and not any(map(any, conv.padding))
    if not plain or x is None or y is None:
        return conv
    pixels = prod(conv.image)
    return replace(
        conv, image=(1, pixels), x_strides=(*conv.x_strides[:2], pixels * x, x),
        y_strides=(*conv.y_strides[:2], pixels * y, y),
    )  # fmt: skip


class _Direct:
    """Writes the kernel of one convolution."""

    def __init__(self, conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None) -> None:
        self.conv, self.isa, self.symbol, self.epilogue = conv, isa, symbol, epilogue
        self.size = ITEMSIZE[conv.dtype]
        self.lanes = isa.lanes(self.size)
        k_bytes = conv.ci * conv.taps * self.size
        widest = max(tile_shapes(isa)) * self.lanes
        self.k_parts = conv.window[0] if k_bytes * widest > _PANEL_BYTES else 1
        exact = self.k_parts > 1
        self.box = Box.choose(conv, self.lanes, isa, exact)
        self.panel = self.box.nv * self.lanes
        self.whole, self.rest = divmod(conv.co, self.panel)
        self.panels = self.whole + (self.rest > 0)
        self.panel_size = conv.ci * conv.taps * self.panel
        self.pitch = 0 if conv.channels_last else -(-conv.c_out // self.lanes) * self.lanes
        self.blocks = -(-conv.out[1] // self.box.cols)
        weights = conv.groups * self.panels * self.panel_size * self.size
        self.front = -(-weights // 64) * 64
        self.far = self.front > _FAR_BYTES
        self.source = Source.of(conv, conv.out[0], self.lanes)
        self.padded = self.source.halo if self._shares() else None
        if self.padded:
            self.source = self.source.shared()
        self._choose_units(exact)
        if self.source.halo:
            self.source = Source.of(conv, self.rows, self.lanes)
        # where tiles write: strides of an image, a row and a pixel
        n, _, *self.steps = conv.y_strides
        self.surface = None
        if not conv.channels_last:
            n, *self.steps = (
                self.pitch * step for step in (self.rows * conv.out[1], conv.out[1], 1)
            )
            self.surface = Surface(
                conv.dtype, conv.c_out, conv.out, conv.y_strides, conv.out[1], self.pitch, epilogue
            )
            self.epilogue = None
        self.steps = (n, *self.steps)
        self._layout()

    def _shares(self) -> bool:
        """Whether the padded images are copied once for all tasks, which part the output channels then.

        Worth a phase of its own where the weights are the bulk, and would else be read by each task.
        """
        conv, halo = self.conv, self.source.halo
        if halo is None or self.pitch or conv.n >= tasks.task_count(conv.flops):
            return False
        return self.panels > 1 and conv.n * halo.elements * self.size < self.front

    def _choose_units(self, exact: bool) -> None:
        """What is worked on at a time: images, rows of one or, where nothing is copied, any part of one.

        ``parts`` are how many parts of an image's lines of boxes, and of a line's, are units.
        """
        conv, box = self.conv, self.box
        wanted = tasks.task_count(conv.flops)
        high, wide = (min(s, k) for s, k in zip(conv.stride, conv.window, strict=True))
        line = (conv.out[1] * wide + conv.window[1]) * conv.c_in * self.size
        line = line * high + conv.out[1] * self.pitch * self.size
        image = conv.out[0] * line
        self.rows, self.images, self.parts = conv.out[0], box.images, (1, 1)
        # where y is written from scratch, a task has whole pixels
        most = 1 if self.pitch else self.panels
        if conv.n < wanted and self.source.halo is None and not self.pitch:
            return self._choose_parts(wanted, image)
        if image > _BAND_BYTES or conv.n < wanted:
            fit = max(1, _BAND_BYTES // line)
            if conv.n < wanted:
                fit = self._even_rows(wanted, fit, exact)
            self.rows = box.rows * _part(max(1, conv.out[0] // box.rows), fit // box.rows, exact)
        else:
            share = max(1, conv.n // wanted)
            groups = max(1, min(_BAND_BYTES // image, share) // box.images)
            self.images = box.images * _part(max(1, conv.n // box.images), groups, exact)
        self.units = -(-conv.n // self.images), -(-conv.out[0] // self.rows)
        units = prod(self.units)
        self.grid = tasks.Grid.choose(conv.flops, units, 1, self.panels, 1, 1, most)
        if wanted < units <= 2 * wanted:
            self.grid = tasks.Grid(units, 1, 1)
        return None

    def _choose_parts(self, wanted: int, image: int) -> None:
        """Cut pixels and channels for tasks of even size that read little again."""
        conv = self.conv
        lines, groups = -(-conv.out[0] // self.box.rows), -(-conv.n // self.images)
        length = lines if lines > 1 else self.blocks
        vectors = [self.box.nv] * self.whole + [-(-self.rest // self.lanes)] * (self.rest > 0)
        best, choice = float("inf"), (1, 1)
        for cols in range(1, self.panels + 1):
            most = max(cols // self.panels, min(length, 2 * wanted // (groups * cols)))
            for parts in range(1, most + 1):
                count = groups * parts * cols
                if wanted == 1 < count:
                    break
                heights = [high - low for low, high in tasks.parts(length, parts)]
                widths = [sum(vectors[low:high]) for low, high in tasks.parts(self.panels, cols)]
                stretch = tasks.stretch([h * w for h in heights * groups for w in widths])
                near = image <= parts * _BAND_BYTES
                weights = parts * self.front / (_FAR_RATE if self.front > _L2_BYTES else _READ_RATE)
                images = (min(cols, _THREADS) if near else self.panels) * image / _READ_RATE
                cost = stretch * conv.flops / _RATE + groups * (weights + images)
                if cost < best:
                    best, choice = cost, (parts, cols)
        parts, cols = choice
        self.parts = (parts, 1) if lines > 1 else (1, parts)
        self.units = groups, parts
        self.grid = tasks.Grid(groups * parts, 1, cols)

    def _even_rows(self, wanted: int, fit: int, exact: bool) -> int:
        """Rows to copy at a time, at most ``fit``: few of them twice, in tasks of even number."""
        conv, unit = self.conv, self.box.rows
        found = []
        for groups in range(1, max(1, min(fit, conv.out[0]) // unit) + 1):
            rows = unit * groups
            count = -(-conv.out[0] // rows)
            if (exact and conv.out[0] % rows) or (groups > 1 and conv.n * count < wanted // 2):
                continue
            ntasks = conv.n * count if conv.n * count <= 2 * wanted else wanted
            even = tasks.stretch([high - low for low, high in tasks.parts(conv.n * count, ntasks)])
            copied = (rows - 1) * conv.stride[0] + conv.window[0]
            found.append((count * (rows + _COPY * copied) * even, rows))
        return min(found)[1]

    def _layout(self) -> None:
        """Where things lie in the workspace: weights, the padded images, then each task's scratch."""
        conv = self.conv
        self.padded_at = self.tasks_at = 0 if conv.kept else self.front
        if self.padded:
            self.tasks_at += -(-conv.n * self.padded.elements * self.size // 64) * 64
        self.lines_at = self.source.bytes_for(self.images)
        lines = self.images * self.steps[0] * self.size if self.surface else 0
        self.task_bytes = self.lines_at + -(-lines // 64) * 64

    def emit(self) -> Kernel:
        """The weights' packing, then the tiles."""
        b = self.b = Text()
        name = f"{self.symbol}.direct"
        self.names: dict[tuple[int, bool], str] = {}
        with b.function(name, _PARAMS):
            self._body(name)
        if self.source.halo:
            self.source.halo.emit(b, f"{name}.halo", self.isa)
        if self.surface:
            self.surface.emit(b, f"{name}.surface", self.isa)
        for (cols, tail), tile_name in self.names.items():
            self._emit_tile(tile_name, cols, tail)
        ntasks = self.grid.ntasks
        main = Kernel(b.module(), name, ntasks, self.tasks_at + ntasks * self.task_bytes)
        weights = emit_panels(self.conv, self.isa, f"{self.symbol}.weights", self.panel)
        main = chain(self._padding(), main)
        return prepared(weights, self.front, main) if self.conv.kept else chain(weights, main)

    def _padding(self) -> Kernel | None:
        """The phase that copies the padded images, a row at a time."""
        if self.padded is None:
            return None
        b, conv, name = Text(), self.conv, f"{self.symbol}.padding"
        row = replace(self.padded, rows=1)
        units, width = conv.n * self.padded.rows, row.cols * row.pitch
        ntasks = max(1, min(4, units * width * self.size >> 16))
        with b.function(name, _PARAMS):
            x = b.argument("%args", ARG_IMAGE)
            bands = b.at(b.argument("%args", ARG_WORKSPACE), self.padded_at)
            share = tasks.Grid(1, ntasks, 1).ranges(b, 1, units, 1)
            with b.loop(*share.rows) as unit:
                number = b.op(f"udiv i64 {unit.index}, {self.padded.rows}")
                line = b.op(f"urem i64 {unit.index}, {self.padded.rows}")
                image = b.at(x, b.mul(number, conv.x_strides[0]), self.size)
                place = b.add(b.mul(number, self.padded.elements), b.mul(line, width))
                band = b.at(bands, place, self.size)
                b.emit(f"call void @{name}.row(ptr {image}, ptr {band}, i64 {line})")
        row.emit(b, f"{name}.row", self.isa)
        return Kernel(b.module(), name, ntasks)

    def _emit_tile(self, name: str, cols: int, tail: bool) -> None:
        conv, box = self.conv, self.box
        pixels = [
            (j, y, x) for j in range(box.images) for y in range(box.rows) for x in range(cols)
        ]
        (sy, sx), (dy, dx) = conv.stride, conv.dilation
        n, h, w = self.steps
        kh = conv.window[0] // self.k_parts
        dense = dx == 1 and self.source.col == conv.ci
        runs = (
            ((kh, dy * self.source.row),)
            if dense
            else ((kh, dy * self.source.row), (conv.window[1], dx * self.source.col))
        )
        live = self.rest if tail else self.panel
        emit_tile(
            self.b,
            Tile(
                isa=self.isa, mr=len(pixels), nv=-(-live // self.lanes), tail=live % self.lanes,
                compute=conv.dtype,
                a_row=tuple(j * self.source.image + y * sy * self.source.row + x * sx * self.source.col for j, y, x in pixels),
                a_k=1, b_mode="packed", b_k=0, panel=self.panel, c_dtype=conv.dtype,
                c_row=tuple(j * n + y * h + x * w for j, y, x in pixels), c_col=1,
                split_k=self.k_parts > 1, epilogue=self.epilogue, runs=runs,
                places=tuple((y * conv.out[1] + x, j) for j, y, x in pixels),
                ahead=_LINE if self.far else 0,
            ),
            name,
        )  # fmt: skip

    def _body(self, name: str) -> None:
        b, conv, size = self.b, self.conv, self.size
        y = b.at(b.argument("%args", ARG_OUT), conv.y_offset, size)
        x, w = b.argument("%args", ARG_IMAGE), b.argument("%args", conv.prepared)
        room = b.argument("%args", ARG_WORKSPACE)
        scratch = b.at(room, b.add(b.mul("%place", self.task_bytes), self.tasks_at))
        if self.padded:
            x = b.at(room, self.padded_at)
        share = self.grid.ranges(b, prod(self.units), 1, self.panels)
        with b.loop(*share.batch) as unit:
            first = b.mul(b.op(f"udiv i64 {unit.index}, {self.units[1]}"), self.images)
            strip = b.op(f"urem i64 {unit.index}, {self.units[1]}")
            first = b.least(first, conv.n - self.images)
            row = "0"
            if prod(self.parts) == 1:
                row = b.least(b.mul(strip, self.rows), conv.out[0] - self.rows)
            self.lines = tasks.part(b, strip, self.parts[0], -(-self.rows // self.box.rows))
            self.span = tasks.part(b, strip, self.parts[1], self.blocks)
            above = b.mul(row, conv.stride[0])
            source = self.source.emit(
                b, f"{name}.halo", x, scratch, conv, first, str(self.images), above
            )
            if self.surface:
                target = b.at(scratch, self.lines_at)
            else:
                n, h, _ = self.steps
                target = b.at(y, b.add(b.mul(first, n), b.mul(row, h)), size)
            with b.loop(0, conv.groups) as group:
                a = b.at(source, b.mul(group.index, conv.ci), size)
                c = b.at(target, b.mul(group.index, conv.co), size)
                columns = b.at(w, b.mul(group.index, self.panels * self.panel_size), size)
                col = b.mul(group.index, conv.co)
                self._panels(a, columns, c, share.cols, (first, row, col))
            if self.surface:
                with b.loop(0, self.images) as j:
                    number = b.add(first, j.index)
                    lines = b.at(target, b.mul(j.index, self.steps[0]), size)
                    image = b.at(y, b.mul(number, conv.y_strides[0]), size)
                    b.emit(
                        f"call void @{name}.surface(ptr {lines}, ptr {image}, i64 {number}, "
                        f"i64 {row}, i64 {self.rows}, ptr %args)"
                    )

    def _panels(
        self, a: str, w: str, c: str, panels: tuple[str, str], at: tuple[str, str, str]
    ) -> None:
        b = self.b
        if self.whole:
            with b.loop(panels[0], b.least(panels[1], self.whole)) as p:
                self._parts(a, w, c, p.index, False, at)
        if self.rest:
            with b.when(b.op(f"icmp sgt i64 {panels[1]}, {self.whole}")):
                self._parts(a, w, c, str(self.whole), True, at)

    def _parts(
        self, a: str, w: str, c: str, panel: str, tail: bool, at: tuple[str, str, str]
    ) -> None:
        """One panel of all of the unit's pixels, by parts of the window."""
        b, conv, box, size = self.b, self.conv, self.box, self.size
        w = b.at(w, b.mul(panel, self.panel_size), size)
        c = b.at(c, b.mul(panel, self.panel), size)
        first, row, col = at
        col = b.add(col, b.mul(panel, self.panel))
        with b.loop(0, self.k_parts) as part:
            a = b.at(a, b.mul(part.index, conv.dilation[0] * self.source.row), size)
            w = b.at(w, b.mul(part.index, self.panel_size // self.k_parts), size)
            self.following = b.at(w, self.panel_size // self.k_parts, size)
            more = b.op(f"icmp ne i64 {part.index}, 0")
            last = b.op(f"icmp eq i64 {part.index}, {self.k_parts - 1}")
            with b.loop(0, self.images, box.images) as j, b.loop(*self.lines) as y:
                image = b.least(j.index, self.images - box.images)
                line = b.least(b.mul(y.index, box.rows), self.rows - box.rows)
                done = b.mul(b.op(f"sub i64 {y.index}, {self.lines[0]}"), self.blocks)
                done = b.op(f"sub i64 {done}, {self.span[0]}")
                low, high_count = divmod(conv.out[1], self.blocks)
                for high, begin, end in ((True, 0, high_count), (False, high_count, self.blocks)):
                    if begin == end:
                        continue
                    tile = f"{self.symbol}.tile{len(self.names)}"
                    tile = self.names.setdefault((low + high, tail), tile)
                    if self.parts[1] > 1:
                        begin, end = b.most(begin, self.span[0]), b.least(end, self.span[1])
                    with b.loop(begin, end) as block:
                        x = b.mul(block.index, low + high)
                        x = x if high else b.add(x, high_count)
                        number = b.add(done, block.index)
                        self._call(
                            tile, a, w, c, (more, last), (image, line, x), (first, row, col), number
                        )

    def _call(
        self,
        tile: str,
        a: str,
        w: str,
        c: str,
        phase: tuple[str, str],
        pixel: tuple[str, str, str],
        at: tuple[str, str, str],
        tile_number: str,
    ) -> None:
        b, conv, size = self.b, self.conv, self.size
        (image, line, x), (first, row, col) = pixel, at
        ahead = f", ptr {self._ahead(tile_number, phase[1])}" if self.far else ""
        sy, sx = conv.stride
        source = b.add(b.mul(image, self.source.image), b.mul(line, sy * self.source.row))
        source = b.at(a, b.add(source, b.mul(x, sx * self.source.col)), size)
        n, h, across = self.steps
        target = b.add(b.mul(image, n), b.add(b.mul(line, h), b.mul(x, across)))
        target = b.at(c, target, size)
        number = b.add(b.mul(b.add(row, line), conv.out[1]), x)
        depth = (
            conv.ci
            if conv.dilation[1] != 1 or self.source.col != conv.ci
            else conv.ci * conv.window[1]
        )
        b.emit(
            f"call void @{tile}(ptr {source}, ptr {w}, ptr null, ptr {target}, i64 {depth}, "
            f"i1 {phase[0]}, i1 {phase[1]}, i64 {number}, i64 {col}, i64 {b.add(first, image)}, ptr %args{ahead})"
        )

    def _ahead(self, tile: str, last: str) -> str:
        """Where a tile of a panel begins to fetch weights: its share of what this thread will read next.

        That is the next part or panel; where each task is a panel it may also be the one after, as
        another thread may be at the next.
        """
        b = self.b
        steps = self.conv.ci * self.conv.taps // self.k_parts
        lines = self.panel_size // self.k_parts * self.size // _LINE
        most = max(0, lines - steps)
        if self.grid.cols < self.panels:
            return b.at(self.following, b.mul(b.least(b.mul(tile, steps), most), _LINE))
        limit = b.op(f"select i1 {last}, i64 {most + lines}, i64 {most}")
        line = b.least(b.mul(tile, steps), limit)
        beyond = b.op(f"icmp sge i64 {line}, {lines}")
        skipped = b.op(f"select i1 {beyond}, i64 {lines * (self.k_parts - 1)}, i64 0")
        return b.at(self.following, b.mul(b.add(line, skipped), _LINE))
