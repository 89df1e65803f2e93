"""What attention's kernels share: the problem, its blocks, register tiles, and rows of scores."""

from __future__ import annotations

from dataclasses import dataclass

from kiln.backends.cpu import packing
from kiln.backends.cpu.ir import Builder, Val, vec
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.microkernel import ARG_WORKSPACE, Epilogue, Tile, emit_tile
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, Text
from kiln.backends.cpu.vmath import VMath

Strides = tuple[int, ...]


@dataclass(frozen=True)
class Mask:
    """What is added to the scores (a float dtype) or says which take part ("bool"), as (N, H, L, S)."""

    dtype: str
    strides: Strides


@dataclass(frozen=True)
class Attention:
    """One attention problem: see Note [Attention's shapes] in `kiln.ops.attention`.

    Strides are in elements: of query (n, head, row), key and value (n, group, row), and for the
    backward of the incoming gradient (n, row, head); features lie next to each other in all of them.
    """

    batch: int
    heads: int
    groups: int
    length: int
    keys: int
    features: int
    values: int
    q: Strides
    k: Strides
    v: Strides
    mask: Mask | None
    causal: bool
    scale: float
    dtype: str = "f32"
    g: Strides = ()

    @property
    def flops(self) -> int:
        """Of one product over all scores and both kinds of features."""
        work = 2 * self.batch * self.heads * self.length * self.keys
        return work * (self.features + self.values) // (2 if self.causal else 1)


class Driver:
    """Writes one attention kernel: the blocks of rows and keys, and the code that both passes need.

    Note [Blocks of attention]: scores exist for one block of rows and keys at a time, in memory that
    stays in L1 or L2. Rows are cut into tiles of ``mr``; keys into blocks of ``block``, whose
    transposed rows are packed once and read by every tile. Everything is cut by shape alone.

    Note [What causal attention leaves out]: keys after a row have a weight of zero, so that their
    products are not computed. But zero times NaN or infinity is NaN, and must be seen: where a head's
    numbers are not all finite, ``whole`` holds and nothing of it is left out.
    """

    def __init__(self, spec: Attention, isa: Isa, symbol: str, block: int) -> None:
        self.spec, self.isa, self.symbol = spec, isa, symbol
        self.b = Text()
        self.size, self.element = ITEMSIZE[spec.dtype], COMPUTE[spec.dtype]
        self.lanes = isa.lanes(self.size)
        self.nv = 2
        self.panel = self.nv * self.lanes
        heights = (12, 11, 10, 9, 8) if isa.n_vregs >= 32 else (6, 5, 4)
        both = (spec.length, spec.keys)
        exact = [h for h in heights if not any(n % h for n in both)]
        self.mr = min((exact or heights)[0], max(both))
        self.tiles = -(-spec.length // self.mr)
        self.rest = spec.length % self.mr  # rows of the last tile, 0 = all
        self.key_blocks = -(-spec.keys // block)
        even = -(-spec.keys // self.key_blocks)
        self.block = -(-even // self.panel) * self.panel
        self.key_blocks = -(-spec.keys // self.block)
        # Columns past the last key exist in the scores of a block, but take no part.
        self.ragged = spec.causal or spec.keys % self.lanes != 0
        self.pitch = self.block + 64 // self.size
        self.names: dict[Tile, str] = {}
        self.packs: dict[tuple[int, int], str] = {}
        self.dots: dict[tuple[int, int, int], str] = {}
        self.workspace_bytes = 0
        self.squares = self.reserve(1)
        self.whole = "false"

    # -- memory -----------------------------------------------------------------------------------

    def reserve(self, elements: int) -> int:
        """Offset of so many elements in a task's workspace."""
        at = self.workspace_bytes
        self.workspace_bytes += -(-elements * self.size // 64) * 64
        return at

    def workspace(self) -> str:
        """The beginning of a task's workspace, which is its place's; all of it must have been reserved."""
        b = self.b
        base = b.argument("%args", ARG_WORKSPACE)
        return b.at(base, b.mul("%place", self.workspace_bytes))

    def move(self, pointer: str, *steps: tuple[str, int]) -> str:
        """A pointer moved by sums of index times stride, in elements."""
        return self.move_by(pointer, self.size, *steps)

    def move_by(self, pointer: str, itemsize: int, *steps: tuple[str, int]) -> str:
        """As `move`, for elements of another size."""
        b, offset = self.b, "0"
        for index, stride in steps:
            offset = b.add(offset, b.mul(index, stride))
        return b.at(pointer, offset, itemsize)

    # -- products ---------------------------------------------------------------------------------

    def pack_keys(self, source: str, stride: int, depth: int, target: str, start: str, end: str) -> None:  # fmt: skip
        """Rows start..end of ``source`` transposed: panels of ``depth`` rows of ``panel`` keys."""
        b, spec = self.b, self.spec
        width = depth * self.panel * self.size
        tail = spec.keys % self.panel
        whole = spec.keys - tail
        for live in (self.panel, tail):
            if not live or (live == self.panel and not whole):
                continue
            name = self.packs.setdefault((stride, live), f"{self.symbol}.pack{len(self.packs)}")

            def one(column: str, name: str = name) -> None:
                place = b.op(f"udiv i64 {b.op(f'sub i64 {column}, {start}')}, {self.panel}")
                b.emit(
                    f"call void @{name}(ptr {source}, ptr {b.at(target, b.mul(place, width))}, "
                    f"i64 0, i64 {depth}, i64 {column})"
                )

            if live == self.panel:
                with b.loop(start, b.least(end, whole), self.panel) as column:
                    one(column.index)
            else:
                with b.when(b.op(f"icmp sgt i64 {end}, {whole}")):
                    one(str(whole))

    def product(
        self,
        rows: int,
        n: int,
        a: tuple[str, int, int],
        right: tuple[str, int],
        c: tuple[str, int],
        depth: str,
        more: str = "false",
        last: str = "true",
        epilogue: Epilogue | None = None,
        args: str = "null",
    ) -> None:
        """C (rows x n) = or += A @ B: (pointer, strides) of A, B and C, B's columns contiguous.

        ``more`` says that C is added to, ``last`` that the epilogue, which sees ``args``, is applied.
        """
        b = self.b
        (ap, a_row, a_k), (bp, b_k), (cp, c_row) = a, right, c
        whole, tail = divmod(n, self.panel)
        split = more != "false" or last != "true"

        def call(column: str, live: int) -> None:
            tile = Tile(
                self.isa, rows, -(-live // self.lanes), live % self.lanes, self.spec.dtype, a_row,
                a_k, "raw", b_k, self.panel, self.spec.dtype, c_row, 1, split, epilogue,
            )  # fmt: skip
            self._call(tile, ap, b.at(bp, column, self.size), b.at(cp, column, self.size),
                       depth, more, last, args)  # fmt: skip

        if whole:
            with b.loop(0, whole * self.panel, self.panel) as column:
                call(column.index, self.panel)
        if tail:
            call(str(whole * self.panel), tail)

    def scores(
        self, rows: int, a: tuple[str, int], packed: str, depth: int, target: str, columns: str
    ) -> None:
        """Rows of A times packed keys, for all panels that hold some of the first ``columns``."""
        b = self.b
        tile = Tile(
            self.isa, rows, self.nv, 0, self.spec.dtype, a[1], 1, "packed", 0, self.panel,
            self.spec.dtype, self.pitch, 1, False, None,
        )  # fmt: skip
        with b.loop(0, columns, self.panel) as column:
            source = b.at(packed, b.mul(column.index, depth), self.size)
            where = b.at(target, column.index, self.size)
            self._call(tile, a[0], source, where, str(depth), "false", "true", "null")

    def _call(self, tile: Tile, a: str, right: str, c: str, depth: str, more: str, last: str, args: str) -> None:  # fmt: skip
        name = self.names.setdefault(tile, f"{self.symbol}.tile{len(self.names)}")
        self.b.emit(
            f"call void @{name}(ptr {a}, ptr {right}, ptr null, ptr {c}, i64 {depth}, i1 {more}, "
            f"i1 {last}, i64 0, i64 0, i64 0, ptr {args})"
        )

    # -- sums -------------------------------------------------------------------------------------

    def dot(self, x: str, y: str, n: int, target: str, rows: int = 1, stride: int = 0) -> None:
        """Store the products of two rows of ``n`` numbers, summed, of all rows that are ``stride`` apart."""
        name = self.dots.setdefault((n, rows, stride), f"{self.symbol}.dot{len(self.dots)}")
        self.b.emit(f"call void @{name}(ptr {x}, ptr {y}, ptr {target})")

    def all_finite(self, space: str, *parts: tuple[str, int, int, int]) -> str:
        """i1: whether no number of some (pointer, rows, stride, n) is infinite or NaN, nor the sum of their squares."""
        b, e = self.b, self.element
        finite = "true"
        for pointer, rows, stride, n in parts:
            target = b.at(space, self.squares)
            self.dot(pointer, pointer, n, target, rows, stride)
            x = b.op(f"load {e}, ptr {target}")
            here = b.op(f"fcmp ord {e} {b.op(f'fsub {e} {x}, {x}')}, 0.0")
            finite = b.op(f"and i1 {finite}, {here}")
        return finite

    def _define_dot(self, n: int, count: int, stride: int, name: str) -> None:
        with self.b.function(name, [("ptr", "x"), ("ptr", "y"), ("ptr", "target")], internal=True):
            ir = self.b.ir
            rows = Rows(self, ir)
            tail = n % self.lanes
            with ir.loop(ir.i64(0), ir.i64(count), 1, [rows.splat(0.0)]) as each:
                start = ir.mul(each.i, ir.i64(stride))
                x, y = (rows.at(Val(base, "ptr"), start) for base in ("%x", "%y"))
                total = each.carried[0]
                if n - tail:
                    with ir.loop(ir.i64(0), ir.i64(n - tail), self.lanes, [total]) as loop:
                        both = (rows.load(base, loop.i) for base in (x, y))
                        loop.next(rows.math.fma(*both, loop.carried[0]))
                    total = loop.results[0]
                if tail:
                    mask, at = ir.active_lanes(ir.i64(tail), self.lanes), ir.i64(n - tail)
                    both = (ir.masked_load(rows.type, rows.at(base, at), mask, self.size) for base in (x, y))  # fmt: skip
                    total = rows.math.fma(*both, total)
                each.next(total)
            ir.store(rows.fold(each.results[0], False), Val("%target", "ptr"), self.size)

    def define_parts(self) -> None:
        """Define the tiles, packing functions and sums that were called."""
        for shape, name in self.dots.items():
            self._define_dot(*shape, name)
        for tile, name in self.names.items():
            emit_tile(self.b, tile, name)
        for (stride, live), name in self.packs.items():
            packing.emit_pack_panel(
                self.b, name, self.isa, self.spec.dtype, (1, stride), self.panel, live
            )

    # -- loops ------------------------------------------------------------------------------------

    def each_tile(self, start: str, end: str, action) -> None:  # type: ignore[no-untyped-def]
        """Call ``action(tile index, rows)`` in a loop over row tiles."""
        b = self.b
        whole = self.tiles - (self.rest > 0)
        if whole:
            with b.loop(start, b.least(end, whole)) as tile:
                action(tile.index, self.mr)
        if self.rest:
            with b.when(b.op(f"icmp eq i64 {end}, {self.tiles}")):
                action(str(whole), self.rest)

    def live(self, first: str, row: str, rows: int) -> str:
        """How many keys of the block at key ``first`` a tile of rows sees; may be negative."""
        b = self.b
        count = b.least(self.block, b.op(f"sub i64 {self.spec.keys}, {first}"))
        if not self.spec.causal:
            return count
        return self.unless_whole(
            b.least(count, b.op(f"sub i64 {b.add(row, rows)}, {first}")), count
        )

    def unless_whole(self, some: str, everything: str) -> str:
        """An i64 of causal attention; see Note [What causal attention leaves out]."""
        return self.b.op(f"select i1 {self.whole}, i64 {everything}, i64 {some}")

    def row_live(self, first: str, row: str, columns: str) -> str:
        """How many of a tile's columns one row sees; may be negative."""
        b = self.b
        if not self.spec.causal:
            return columns
        return b.least(columns, b.op(f"sub i64 {b.add(row, 1)}, {first}"))

    def mask_at(self, base: str, row: str, first: str) -> str:
        """The mask of a row, from key ``first`` on."""
        if self.spec.mask is None:
            return "null"
        size = 1 if self.spec.mask.dtype == "bool" else self.size
        strides = self.spec.mask.strides
        return self.move_by(base, size, (row, strides[2]), (first, strides[3]))


class Rows:
    """Emits arithmetic on one row of scores, vector by vector."""

    def __init__(self, driver: Driver, b: Builder) -> None:
        self.spec, self.b, self.lanes = driver.spec, b, driver.lanes
        self.element, self.size = driver.element, driver.size
        self.type = vec(driver.element, driver.lanes)
        self.math = VMath(b, driver.isa)
        self.ragged = driver.ragged

    def splat(self, value: float) -> Val:
        """A constant in every lane."""
        return self.b.const(self.type, value)

    def at(self, base: Val, v: Val) -> Val:
        """The address of vector number ``v`` lanes into a row."""
        return self.b.gep(base, self.element, v)

    def load(self, base: Val, v: Val) -> Val:
        """A vector of a row."""
        return self.b.load(self.type, self.at(base, v), self.size)

    def active(self, v: Val, live: Val) -> Val | None:
        """Lanes from column ``v`` on that are among the first ``live``; None where all are."""
        if not self.ragged:
            return None
        b = self.b
        left = b.sub(live, v)
        left = b.intrinsic("smax", left, b.i64(0))
        return b.active_lanes(left, self.lanes)

    def score(self, raw: Val, mask: Val, v: Val, on: Val | None) -> Val:
        """A vector of scores: scaled and masked; lanes that are off are -inf."""
        b, spec = self.b, self.spec
        minus = self.splat(float("-inf"))
        scale = self.splat(spec.scale)
        if spec.mask is None:
            x = self.math.mul(raw, scale)
        else:
            given = self._mask(mask, v, on)
            if spec.mask.dtype == "bool":
                x = self.math.mul(raw, scale)
                x = b.select(b.icmp("ne", given, b.const(given.ty, 0)), x, minus)
            else:
                x = self.math.add(self.math.mul(raw, scale), given)
        return x if on is None else b.select(on, x, minus)

    def _mask(self, base: Val, v: Val, on: Val | None) -> Val:
        assert self.spec.mask is not None
        b = self.b
        is_bool = self.spec.mask.dtype == "bool"
        element, size = ("i8", 1) if is_bool else (self.element, self.size)
        if self.spec.mask.strides[3] == 0:
            return b.splat(b.load(element, base, size), self.lanes)
        address, kind = b.gep(base, element, v), vec(element, self.lanes)
        if on is None:
            return b.load(kind, address, size)
        return b.masked_load(kind, address, on, size)

    def fold(self, x: Val, largest: bool) -> Val:
        """Sum or largest of a vector's lanes, by halving."""
        b, n = self.b, x.lanes
        join = self.larger if largest else self.math.add
        while n > 2:
            n //= 2
            x = join(b.shuffle(x, None, range(n)), b.shuffle(x, None, range(n, 2 * n)))
        return join(b.extract(x, 0), b.extract(x, 1))

    def larger(self, x: Val, y: Val) -> Val:
        """The larger one; what a NaN gives does not matter, it comes through the sum."""
        return self.b.select(self.b.fcmp("ogt", x, y), x, y)
