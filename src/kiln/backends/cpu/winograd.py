"""Convolutions of 3x3 windows by Winograd's F(4x4, 3x3): 36 products of a quarter of the flops.

Note [Winograd]: 4x4 pixels of y are six-point polynomial products in each direction. A tile of 6x6
pixels d of x and the window g are evaluated at the points 0, ±3/4, ±3/2 and infinity, V = B'dB and
U = G g G', multiplied point by point over all channels, and interpolated, y = A'(U V)A. These
points have half the rms error of the usual 0, ±1, ±2 (2e-7 to 2e-6 relative, where the direct sum
has 3e-7 to 8e-7). Tiles are taken a block at a time, so that V and the products stay in L2; where U is
larger than both for all tiles, it is read once, by tasks that take some of the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_halo import Halo, Surface
from kiln.backends.cpu.conv_shape import ARG_IMAGE, ARG_OTHER, ARG_OUT, Conv
from kiln.backends.cpu.gemm import choose_tile
from kiln.backends.cpu.ir import float_text
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel, chain, prepared
from kiln.backends.cpu.microkernel import ARG_WORKSPACE, Epilogue, Tile, apply_epilogue, emit_tile
from kiln.backends.cpu.patches import Lanes, gather
from kiln.backends.cpu.text import (
    COMPUTE,
    ITEMSIZE,
    Text,
    fma,
    lane_mask,
    load_vector,
    ramp_mask,
    store_vector,
)
from kiln.config import config

POINTS = (3 / 4, 3 / 2)
_BLOCK_BYTES, _NEAR_BYTES, _FAR_BYTES = 640 << 10, 900 << 10, 16 << 20
_FEW_BLOCKS = 32
_LINE = 64
PARAMS = [("ptr", "args"), ("i64", "task"), ("i64", "place")]


def possible(conv: Conv) -> bool:
    """Whether the transforms exist: 3x3 windows, stride 1, undilated, one group."""
    plain = conv.window == (3, 3) and conv.stride == conv.dilation == (1, 1)
    return plain and conv.groups == 1 and conv.dtype == "f32"


def fits(conv: Conv) -> bool:
    """Whether this form is allowed and, by a model of its cost, faster than the direct sum.

    Nanoseconds for each weight: the transformed weights are written and read once, from L2 or from
    beyond; tiles cost their products and their transforms. Kept weights are only read, from memory,
    while products go on. Rates are measured ones of one core.
    """
    if config.float32_matmul_precision == "highest" or not possible(conv):
        return False
    weights = conv.c_in * conv.c_out
    # Of few channels the sums are short and exact, and small networks follow the eager run for long.
    if min(conv.c_in, conv.c_out) < 32 or not weights:
        return False
    tiles = conv.n * -(-conv.out[0] // 4) * -(-conv.out[1] // 4)
    direct = 18 * conv.n * conv.out[0] * conv.out[1] / 230
    products, transforms = 72 / 220, 288 * (conv.c_in + conv.c_out) / (60 * weights)
    if conv.kept:
        return max(6.0, tiles * products) + tiles * transforms < 0.9 * direct
    once = 4.0 if 144 * weights <= _BLOCK_BYTES else 14.4
    return once + tiles * (products + transforms) < 0.9 * direct


class Points:
    """The three transforms of one dimension, on vectors."""

    def __init__(self, b: Text, isa: Isa, element: str, lanes: int) -> None:
        self.b, self.isa, self.element, self.lanes = b, isa, element, lanes
        self.vector = f"<{lanes} x {element}>"

    def constant(self, value: float) -> str:
        return f"splat ({self.element} {float_text(self.element, value)})"

    def add(self, x: str, y: str) -> str:
        return self.b.op(f"fadd {self.vector} {x}, {y}")

    def sub(self, x: str, y: str) -> str:
        return self.b.op(f"fsub {self.vector} {x}, {y}")

    def scale(self, factor: float, x: str) -> str:
        return self.b.op(f"fmul {self.vector} {self.constant(factor)}, {x}")

    def fma(self, factor: float, x: str, y: str) -> str:
        return fma(self.b, self.constant(factor), x, y, self.element, self.lanes, self.isa.has_fma)

    def tile(self, d: list[str]) -> list[str]:
        """Six neighbouring pixels at the six points (B')."""
        (a, c), (d0, d1, d2, d3, d4, d5) = POINTS, d
        total, product = a * a + c * c, a * a * c * c
        even, odd = self.fma(-c * c, d2, d4), self.fma(-c * c, d1, d3)
        far_even, far_odd = self.fma(-a * a, d2, d4), self.fma(-a * a, d1, d3)
        return [
            self.fma(product, d0, self.fma(-total, d2, d4)),
            self.fma(a, odd, even),
            self.fma(-a, odd, even),
            self.fma(c, far_odd, far_even),
            self.fma(-c, far_odd, far_even),
            self.fma(product, d1, self.fma(-total, d3, d5)),
        ]

    def values(self, g: list[str]) -> list[str]:
        """A polynomial of three or four coefficients at the six points."""
        found = [g[0]]
        for point in POINTS:
            even = self.fma(point**2, g[2], g[0])
            odd = self.fma(point**2, g[3], g[1]) if len(g) > 3 else g[1]
            found += [self.fma(point, odd, even), self.fma(-point, odd, even)]
        return [*found, g[-1]]

    def interpolated(self, m: list[str], count: int) -> list[str]:
        """``count`` results from the products at the six points (A')."""
        a, c = POINTS
        near, far = self.add(m[1], m[2]), self.add(m[3], m[4])
        tilt, far_tilt = self.sub(m[1], m[2]), self.sub(m[3], m[4])
        found = [self.add(m[0], self.add(near, far))]
        for power in range(1, count):
            x, y = (tilt, far_tilt) if power % 2 else (near, far)
            found.append(self.fma(a**power, x, self.scale(c**power, y)))
        found[-1] = self.add(found[-1], m[5])
        return found


def side_by_side(elements: Sequence[int], size: int) -> tuple[list[int], int]:
    """Places in bytes for arrays of so many elements, each on a cache line, and what they take together."""
    lines = [-(-count * size // 64) * 64 for count in elements]
    *places, total = accumulate(lines, initial=0)
    return places, total


def plane(elements: int, size: int) -> int:
    """Elements from one point's matrix to the next: lines of all 36 must not fall on one set."""
    line = 64 // size
    return (-(-elements // line) | 1) * line


def norms() -> list[float]:
    """What the values of one operand are divided by, point by point."""
    a, c = POINTS
    near, far = 2 * a * a * (a * a - c * c), 2 * c * c * (c * c - a * a)
    return [a * a * c * c, near, near, far, far, 1.0]


@dataclass(frozen=True)
class Blocks:
    """Tiles of the output, and how many of them are worked on at a time."""

    tiles: tuple[int, int]
    images: int
    rows: int
    count: tuple[int, int]

    @staticmethod
    def choose(conv: Conv, tile_bytes: int) -> Blocks:
        """Least estimated cost: weights read seldom, data in L2, few tiles twice, all cores.

        Each block reads all weights, for little where both stay in L2; data beyond it cost the more, the
        fewer channels share their way.
        """
        n, out = conv.n, conv.out
        weight_bytes = 36 * conv.c_in * conv.c_out * ITEMSIZE[conv.dtype]
        once = 6 if weight_bytes <= _FAR_BYTES else 10
        most = 16 / conv.c_in + 16 / conv.c_out
        high, wide = -(-out[0] // 4), -(-out[1] // 4)
        best, choice = float("inf"), None
        for images, rows in [(1, r) for r in range(1, high + 1)] + [
            (i, high) for i in range(2, min(n, 64) + 1)
        ]:
            count = -(-n // images), -(-high // rows)
            tiles = images * rows * wide
            twice = count[0] * images * count[1] * rows / (n * high)
            over = max(0.0, tiles * tile_bytes / _BLOCK_BYTES - 1)
            blocks = count[0] * count[1]
            idle = 0.3 * (tasks.stretch([1.0] * blocks) - 1) if blocks <= _FEW_BLOCKS else 0.0
            far = min(0.25 * over, most) + 0.005 * over
            read = once if weight_bytes + tiles * tile_bytes > _NEAR_BYTES else 1
            cost = twice * (1 + read / tiles) * (1 + far) * (1 + idle)
            if cost < best:
                best, choice = cost, Blocks((high, wide), images, rows, count)
        assert choice is not None
        return choice

    @staticmethod
    def lines(conv: Conv) -> Blocks:
        """Single rows of tiles."""
        high, wide = (-(-size // 4) for size in conv.out)
        return Blocks((high, wide), 1, 1, (conv.n, high))

    @property
    def all_tiles(self) -> int:
        """Tiles of all blocks."""
        return self.count[0] * self.count[1] * self.size

    @property
    def size(self) -> int:
        """Tiles of a block."""
        return self.images * self.rows * self.tiles[1]


class Forward:
    """Writes the kernel of one forward convolution."""

    def __init__(self, conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None) -> None:
        self.conv, self.isa, self.symbol, self.epilogue = conv, isa, symbol, epilogue
        self.size, self.element = ITEMSIZE[conv.dtype], COMPUTE[conv.dtype]
        self.lanes = isa.lanes(self.size)
        self.vector = f"<{self.lanes} x {self.element}>"
        self.k = conv.c_in
        self.in_pitch = -(-conv.c_in // self.lanes) * self.lanes
        self.out_pitch = -(-conv.c_out // self.lanes) * self.lanes
        tile_bytes = 36 * (self.in_pitch + self.out_pitch) * self.size
        self.blocks = Blocks.choose(conv, tile_bytes)
        t, lines = self.blocks.size, Blocks.lines(conv)
        # with weights as the bulk they are read once: each kind of work is a phase over all tiles
        self.apart = lines.all_tiles * (self.in_pitch + self.out_pitch) < conv.c_in * conv.c_out
        if self.apart:
            self.blocks, t = lines, lines.all_tiles
        self.tiles = t
        self.nv, self.mr = choose_tile(t, conv.c_out, self.lanes, isa)
        self.panel = self.nv * self.lanes
        self.panels = -(-conv.c_out // self.panel)
        self.v_plane = plane(t * self.in_pitch, self.size)
        self.m_plane = plane(t * self.out_pitch, self.size)
        self.u_plane = plane(self.panels * self.k * self.panel, self.size)
        self.halo = Halo(
            conv.dtype, conv.c_in, conv.image, conv.x_strides[1:],
            (conv.padding[0][0], conv.padding[1][0]),
            4 * self.blocks.rows + 2, 4 * self.blocks.tiles[1] + 2, self.in_pitch,
        )  # fmt: skip
        self.surface = None
        if not conv.channels_last:
            self.surface = Surface(
                conv.dtype, conv.c_out, conv.out, conv.y_strides,
                4 * self.blocks.tiles[1], self.out_pitch, epilogue,
            )  # fmt: skip
        self._layout()

    def _layout(self) -> None:
        """Where things lie in the workspace: weights, V and M of all tiles or of a task's, its scratch."""
        conv, blocks = self.conv, self.blocks
        self.units = blocks.count[0] * blocks.count[1]
        wanted = tasks.task_count(conv.flops)
        self.grid = tasks.Grid(self.units if self.units <= 2 * wanted else wanted, 1, 1)
        self.parts = tasks.Grid.choose(conv.flops, 36, 1, self.panels)
        lines = 16 * blocks.rows * blocks.tiles[1] * self.out_pitch if self.surface else 0
        self.weights = -(-36 * self.u_plane * self.size // 64) * 64
        self.front = 0 if conv.kept else self.weights
        self.places, total = side_by_side(
            (36 * self.v_plane, 36 * self.m_plane, self.halo.elements * blocks.images, lines),
            self.size,
        )
        self.common = self.places[2] if self.apart else 0
        self.task_bytes = total - self.common

    def emit(self) -> Kernel:
        """The weights' transform, then blocks of tiles, or the three kinds of work on all of them."""
        self.names: dict[tuple[bool, bool], str] = {}
        weights = emit_weights(self.conv, self.isa, f"{self.symbol}.weights", self.panel)
        if self.apart:
            main = chain(
                self._phase("inputs", True, False, False),
                self._phase("products", False, True, False),
                self._phase("outputs", False, False, True),
            )
        else:
            main = self._phase("tiles", True, True, True)
        return prepared(weights, self.weights, main) if self.conv.kept else chain(weights, main)

    def _phase(self, what: str, inputs: bool, products: bool, outputs: bool) -> Kernel:
        """A kernel that transforms inputs, multiplies or transforms outputs, for blocks of tiles."""
        b, self.name = Text(), f"{self.symbol}.{what}"
        self.b = b
        ntasks = self.grid.ntasks
        with b.function(self.name, PARAMS):
            u, room = b.argument("%args", self.conv.prepared), b.argument("%args", ARG_WORKSPACE)
            base = b.mul("%place", self.task_bytes)
            v, m = (b.at(room, b.add(base, self.front + at)) for at in self.places[:2])
            if self.apart:
                v, m = (b.at(room, self.front + at) for at in self.places[:2])
            band, lines = (b.at(room, b.add(base, self.front + at)) for at in self.places[2:])
            if inputs or outputs:
                share = self.grid.ranges(b, self.units, 1, 1)
                with b.loop(*share.batch) as unit:
                    at = self._block(unit.index)
                    if inputs:
                        self._inputs(at, band, v)
                    if products:
                        self._products(u, v, m, "0", str(36 * self.panels))
                    if outputs:
                        self._outputs(at, m, lines)
            else:
                ntasks = self.parts.ntasks
                share = tasks.part(b, "%task", ntasks, 36 * self.panels)
                self._products(u, v, m, *share)
        if inputs:
            self.halo.emit(b, f"{self.name}.halo", self.isa)
            self._define_input(f"{self.name}.input")
        if products:
            self._define_products()
        if outputs:
            self._define_output(f"{self.name}.output")
            if self.surface:
                self.surface.emit(b, f"{self.name}.surface", self.isa)
        room = self.front + self.common + self.grid.ntasks * self.task_bytes
        return Kernel(b.module(), self.name, ntasks, room)

    def _define_products(self) -> None:
        low = self.tiles // -(-self.tiles // self.mr)
        for (high, tail), name in self.names.items():
            rest = self.conv.c_out - (self.panels - 1) * self.panel
            live = rest if tail else self.panel
            tile = Tile(
                isa=self.isa, mr=low + high, nv=-(-live // self.lanes), tail=0,
                compute=self.conv.dtype, a_row=self.in_pitch, a_k=1, b_mode="packed", b_k=0,
                panel=self.panel, c_dtype=self.conv.dtype, c_row=self.out_pitch, c_col=1,
                split_k=False, epilogue=None, ahead=_LINE * self.ahead, ahead_lines=self.ahead,
            )  # fmt: skip
            emit_tile(self.b, tile, name)

    def _block(self, unit: str) -> tuple[str, str, str]:
        """First image and tile row of a block, and where its tiles begin in V and M."""
        b, conv, blocks = self.b, self.conv, self.blocks
        first = b.mul(b.op(f"udiv i64 {unit}, {blocks.count[1]}"), blocks.images)
        first = b.least(first, conv.n - blocks.images)
        row = b.mul(b.op(f"urem i64 {unit}, {blocks.count[1]}"), blocks.rows)
        row = b.least(row, blocks.tiles[0] - blocks.rows)
        return first, row, b.mul(unit, blocks.tiles[1]) if self.apart else "0"

    def _inputs(self, at: tuple[str, str, str], band: str, v: str) -> None:
        """V of a block."""
        b, conv, blocks, (first, row, start) = self.b, self.conv, self.blocks, at
        x = b.argument("%args", ARG_IMAGE)
        with b.loop(0, blocks.images) as j:
            image = b.at(x, b.mul(b.add(first, j.index), conv.x_strides[0]), self.size)
            mine = b.at(band, b.mul(j.index, self.halo.elements), self.size)
            b.emit(f"call void @{self.name}.halo(ptr {image}, ptr {mine}, i64 {b.mul(row, 4)})")
            with b.loop(0, blocks.rows) as r:
                step = 4 * self.halo.cols * self.in_pitch
                line = b.at(mine, b.mul(r.index, step), self.size)
                number = b.mul(b.add(b.mul(j.index, blocks.rows), r.index), blocks.tiles[1])
                target = b.at(v, b.mul(b.add(start, number), self.in_pitch), self.size)
                b.emit(f"call void @{self.name}.input(ptr {line}, ptr {target})")

    def _outputs(self, at: tuple[str, str, str], m: str, lines: str) -> None:
        """y of a block."""
        b, conv, blocks, (first, row, start) = self.b, self.conv, self.blocks, at
        wide, above = blocks.tiles[1], b.mul(row, 4)
        y = b.at(b.argument("%args", ARG_OUT), conv.y_offset, self.size)
        with b.loop(0, blocks.images) as j:
            number = b.add(first, j.index)
            image = b.at(y, b.mul(number, conv.y_strides[0]), self.size)
            with b.loop(0, blocks.rows) as r:
                tile = b.mul(b.add(b.mul(j.index, blocks.rows), r.index), wide)
                source = b.at(m, b.mul(b.add(start, tile), self.out_pitch), self.size)
                down = b.add(above, b.mul(r.index, 4))
                target = image
                if self.surface:
                    step = 16 * wide * self.out_pitch
                    target = b.at(lines, b.mul(r.index, step), self.size)
                b.emit(
                    f"call void @{self.name}.output(ptr {source}, ptr {target}, i64 {down}, "
                    f"i64 {number}, ptr %args)"
                )
            if self.surface:
                left = b.op(f"sub i64 {conv.out[0]}, {above}")
                rows = b.least(left, 4 * blocks.rows)
                b.emit(
                    f"call void @{self.name}.surface(ptr {lines}, ptr {image}, i64 {number}, "
                    f"i64 {above}, i64 {rows}, ptr %args)"
                )

    def _products(self, u: str, v: str, m: str, first: str, stop: str) -> None:
        """M[t, co] = V[t, ci] @ U[ci, co] for panels of co, counted over the 36 points."""
        b, size = self.b, self.size
        # a task that reads weights once has them fetched a panel ahead, by all of its tiles together
        self.ahead = -(-self.nv // -(-self.tiles // self.mr)) if self.apart else 0
        step = self.k * self.panel
        with b.loop(first, stop) as number:
            point = b.op(f"udiv i64 {number.index}, {self.panels}")
            panel = b.op(f"urem i64 {number.index}, {self.panels}")
            a = b.at(v, b.mul(point, self.v_plane), size)
            w = b.at(u, b.add(b.mul(point, self.u_plane), b.mul(panel, step)), size)
            c = b.at(m, b.add(b.mul(point, self.m_plane), b.mul(panel, self.panel)), size)

            def tiles(tail: bool) -> None:
                for high, row, block in tasks.row_blocks(b, self.tiles, self.mr):
                    name = f"{self.symbol}.product{len(self.names)}"
                    name = self.names.setdefault((high, tail), name)
                    source = b.at(a, b.mul(row, self.in_pitch), size)
                    place = b.at(c, b.mul(row, self.out_pitch), size)
                    line = b.mul(block, self.k * self.ahead * _LINE)
                    ahead = f", ptr {b.at(w, b.add(line, step * size))}" if self.ahead else ""
                    b.emit(
                        f"call void @{name}(ptr {source}, ptr {w}, ptr null, "
                        f"ptr {place}, i64 {self.k}, i1 false, i1 true, i64 0, i64 0, "
                        f"i64 0, ptr null{ahead})"
                    )

            if self.conv.c_out % self.panel == 0:
                tiles(False)
            else:
                tail = b.op(f"icmp eq i64 {panel}, {self.panels - 1}")
                with b.when(tail):
                    tiles(True)
                if self.panels > 1:
                    with b.when(b.op(f"xor i1 {tail}, true")):
                        tiles(False)

    def _define_input(self, name: str) -> None:
        emit_input(
            self.b, name, self.isa, self.conv.dtype, self.blocks.tiles[1], self.halo.cols,
            self.in_pitch, self.v_plane,
        )  # fmt: skip

    def _define_output(self, name: str) -> None:
        """Define ``void name(ptr m, ptr y, i64 row, i64 image, args)``: one row of tiles to y."""
        b, conv, wide = self.b, self.conv, self.blocks.tiles[1]
        params = [("ptr noalias readonly", "m"), ("ptr noalias", "y"), ("i64", "row"),
                  ("i64", "image"), ("ptr", "args")]  # fmt: skip
        with b.function(name, params, internal=True):
            room = "" if self.surface else b.op(f"alloca [16 x {self.vector}], align 64")
            channels = self.out_pitch if self.surface else conv.c_out
            points = Points(b, self.isa, self.element, self.lanes)
            with b.loop(0, wide) as t, b.loop(0, channels, self.lanes) as c:
                source = b.at("%m", b.add(b.mul(t.index, self.out_pitch), c.index), self.size)
                half = []
                for j in range(6):
                    column = [
                        load_vector(b, b.at(source, (6 * i + j) * self.m_plane, self.size),
                                    conv.dtype, self.lanes)
                        for i in range(6)
                    ]  # fmt: skip
                    half.append(points.interpolated(column, 4))
                results = [points.interpolated([half[j][i] for j in range(6)], 4) for i in range(4)]
                if self.surface:
                    place = b.add(b.mul(t.index, 4 * self.out_pitch), c.index)
                    for i, line in enumerate(results):
                        for j, value in enumerate(line):
                            step = (i * 4 * wide + j) * self.out_pitch
                            where = b.at("%y", b.add(place, step), self.size)
                            store_vector(b, value, where, conv.dtype, self.lanes)
                else:
                    self._finish(results, room, t.index, c.index)

    def _finish(self, results: list[list[str]], room: str, tile: str, channel: str) -> None:
        """Write 4x4 pixels of y, through the epilogue, where they are inside."""
        b, conv, width = self.b, self.conv, self.isa.vector_bytes
        mask = None
        if conv.c_out % self.lanes:
            mask = ramp_mask(b, self.lanes, b.op(f"sub i64 {conv.c_out}, {channel}"))
        for n, value in enumerate(v for line in results for v in line):
            store_vector(b, value, b.at(room, n * width), conv.dtype, self.lanes)
        left = b.mul(tile, 4)
        down = b.least(4, b.op(f"sub i64 {conv.out[0]}, %row"))
        across = b.least(4, b.op(f"sub i64 {conv.out[1]}, {left}"))
        with b.loop(0, down) as i, b.loop(0, across) as j:
            place = b.mul(b.add(b.mul(i.index, 4), j.index), width)
            value = load_vector(b, b.at(room, place), conv.dtype, self.lanes)
            y, x = b.add("%row", i.index), b.add(left, j.index)
            if self.epilogue is not None:
                pixel = b.add(b.mul(y, conv.out[1]), x)
                value = apply_epilogue(
                    b, self.epilogue, value, conv.dtype, self.lanes, pixel, channel, "%image", mask
                )
            offset = b.add(b.mul(y, conv.y_strides[2]), b.mul(x, conv.y_strides[3]))
            where = b.at("%y", b.add(offset, channel), self.size)
            store_vector(b, value, where, conv.dtype, self.lanes, mask)


def emit_input(
    b: Text,
    name: str,
    isa: Isa,
    dtype: str,
    wide: int,
    cols: int,
    pitch: int,
    plane: int,
    rows: range = range(6),
) -> None:
    """Define ``void name(ptr line, ptr v)``: a row of ``wide`` tiles at some rows of the points."""
    size, element = ITEMSIZE[dtype], COMPUTE[dtype]
    lanes = isa.lanes(size)
    points = Points(b, isa, element, lanes)
    params = [("ptr noalias readonly", "line"), ("ptr noalias", "v")]
    with (
        b.function(name, params, internal=True),
        b.loop(0, wide) as t,
        b.loop(0, pitch, lanes) as c,
    ):
        source = b.at("%line", b.add(b.mul(t.index, 4 * pitch), c.index), size)
        target = b.at("%v", b.add(b.mul(t.index, pitch), c.index), size)
        half = []
        for j in range(6):
            column = [
                load_vector(b, b.at(source, (i * cols + j) * pitch, size), dtype, lanes)
                for i in range(6)
            ]
            half.append(points.tile(column))
        for i in rows:
            for j, value in enumerate(points.tile([half[j][i] for j in range(6)])):
                where = b.at(target, (6 * (i - rows[0]) + j) * plane, size)
                store_vector(b, value, where, dtype, lanes)


def emit_weights(conv: Conv, isa: Isa, symbol: str, panel: int) -> Kernel:
    """The phase that leaves U[point][panel][ci][co in panel] at the workspace's beginning."""
    b, size, element = Text(), ITEMSIZE[conv.dtype], COMPUTE[conv.dtype]
    lanes = isa.lanes(size)
    co, ci, ky, kx = conv.w_strides
    columns = -(-conv.c_out // panel) * panel
    step = plane(columns * conv.c_in, size)
    ntasks = max(1, min(8, conv.c_in * columns >> 11))
    points, grid, scales = Points(b, isa, element, lanes), Lanes(b, lanes), norms()
    with b.function(symbol, PARAMS):
        w = b.at(b.argument("%args", ARG_OTHER), conv.w_offset, size)
        u = b.argument("%args", ARG_WORKSPACE)
        share = tasks.Grid(1, ntasks, 1).ranges(b, 1, conv.c_in, 1)
        apart = grid.op("mul", grid.iota(), co)
        with b.loop(0, columns, lanes) as first, b.loop(*share.rows) as k:
            mask = lane_mask(lanes, lanes)
            if columns != conv.c_out:
                mask = ramp_mask(b, lanes, b.op(f"sub i64 {conv.c_out}, {first.index}"))
            source = b.at(w, b.add(b.mul(first.index, co), b.mul(k.index, ci)), size)
            half = []
            for x in range(3):
                taps = [
                    gather(b, b.at(source, y * ky + x * kx, size), apart, element, lanes, mask)
                    for y in range(3)
                ]
                half.append(points.values(taps))
            number = b.op(f"udiv i64 {first.index}, {panel}")
            offset = b.mul(b.add(b.mul(number, conv.c_in), k.index), panel)
            offset = b.add(offset, b.op(f"urem i64 {first.index}, {panel}"))
            target = b.at(u, offset, size)
            for i in range(6):
                for j, value in enumerate(points.values([half[x][i] for x in range(3)])):
                    scaled = points.scale(1 / (scales[i] * scales[j]), value)
                    where = b.at(target, (6 * i + j) * step, size)
                    # too many streams for the machine to foresee
                    b.prefetch(b.at(where, panel, size), write=True)
                    store_vector(b, scaled, where, conv.dtype, lanes)
    return Kernel(b.module(), symbol, ntasks)
