"""Stable sorts with indices: by counting smaller keys in short rows, by radix in long ones.

Elements become unsigned keys whose order is theirs, so every dtype takes the same way: NaNs are equal
and largest, -0 equals 0, and descending order inverts the keys, which keeps equal ones in place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from kiln.backends.cpu.exprs import MEMORY
from kiln.backends.cpu.ir import Builder, Module, Val, mangle, vec
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.schedule import MAX_TASKS, TASK_COST
from kiln.compile.loopnest import FLOATS, ITEMSIZE, SIGNED
from kiln.errors import KilnError

_INFINITY = {"f16": 0x7C00, "bf16": 0x7F80, "f32": 0x7F800000, "f64": 0x7FF0000000000000}
_COUNTED = 1024  # up to so many vector comparisons a row, counting beats radix passes


@dataclass(frozen=True)
class Sort:
    """Each row of a contiguous (rows, n) array in order, and where each element came from.

    Stable; NaN counts as larger than all numbers. ``keep`` limits what is written to the first so many
    of each row (top k).
    """

    rows: int
    n: int
    dtype: str
    descending: bool = False
    keep: int | None = None


def emit(spec: Sort, isa: Isa, symbol: str | None = None) -> Kernel:
    """The kernel of a sort; its table is (input, values, i64 indices), and workspace.

    The outputs are contiguous (rows, keep or n) and not the input's memory. Without ``symbol`` it is
    named after its content.
    """
    if spec.dtype not in ITEMSIZE or not 0 <= (spec.keep or 0) <= spec.n < 2**31:
        raise KilnError(
            "sort", "not a row that can be sorted", str(spec), "see kiln.backends.cpu.sort"
        )
    if symbol is None:
        symbol = "sort_" + hashlib.sha256(f"{spec}|{isa.key}".encode()).hexdigest()[:20]
    return _Writer(spec, isa, symbol).kernel()


class _Writer:
    def __init__(self, spec: Sort, isa: Isa, symbol: str) -> None:
        self.spec, self.symbol = spec, symbol
        self.size = ITEMSIZE[spec.dtype]
        self.key, self.memory = f"i{8 * self.size}", MEMORY[spec.dtype]
        self.keep = spec.n if spec.keep is None else spec.keep
        self.lanes = isa.lanes(max(4, self.size))
        self.counted = spec.n * -(-spec.n // self.lanes) <= _COUNTED
        module = Module()
        self.b: Builder = module.function(
            symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]
        )

    def kernel(self) -> Kernel:
        """The finished kernel: tasks are chunks of rows."""
        b, s = self.b, self.spec
        if not (s.rows and self.keep):
            b.ret()
            return Kernel(b.module.text(), self.symbol)
        work = s.rows * s.n * (s.n // 8 + 4 if self.counted else 16 * self.size)
        want = max(1, min(MAX_TASKS, s.rows, work // TASK_COST))
        chunk = -(-s.rows // want)
        ntasks = -(-s.rows // chunk)
        buffers = [b.load("ptr", b.gep(b.params[0], "ptr", b.i64(k)), 8) for k in range(4)]
        source, values, indices, scratch = buffers
        parts = self.parts()
        space = sum(parts)
        scratch = b.gep(scratch, "i8", b.mul(b.params[1], b.i64(space)))
        places = []
        for size in parts:
            places.append(scratch)
            scratch = b.gep(scratch, "i8", b.i64(size))
        start, stop = b.i64(0), b.i64(s.rows)
        if ntasks > 1:
            start = b.mul(b.params[1], b.i64(chunk))
            stop = b.intrinsic("smin", b.add(start, b.i64(chunk)), stop)
        with b.loop(start, stop) as row:
            x = b.gep(source, self.memory, b.mul(row.i, b.i64(s.n)))
            at = b.mul(row.i, b.i64(self.keep))
            outs = b.gep(values, self.memory, at), b.gep(indices, "i64", at)
            (self.by_counting if self.counted else self.by_radix)(x, outs, places)
        b.ret()
        return Kernel(b.module.text(), self.symbol, ntasks, space * ntasks)

    def parts(self) -> list[int]:
        """Bytes of each piece of a task's workspace."""
        n = self.spec.n
        if self.counted:
            sizes = [self.size * -(-n // self.lanes) * self.lanes]
        else:
            sizes = [n * self.size, n * self.size, n * 4, n * 4, self.size * 256 * 4]
        return [-(-size // 64) * 64 for size in sizes]

    # -- keys -------------------------------------------------------------------------------------

    def key_of(self, x: Val) -> Val:
        """The unsigned key of an element's bits."""
        b, dtype = self.b, self.spec.dtype
        top = 1 << 8 * self.size - 1
        if dtype in FLOATS:
            size = b.bin("and", x, b.const(x.ty, top - 1))
            negative = b.icmp("slt", x, b.const(x.ty, 0))
            flipped = b.select(negative, b.const(x.ty, -1), b.const(x.ty, top))
            key = b.bin("xor", x, flipped)
            key = b.select(b.icmp("eq", size, b.const(x.ty, 0)), b.const(x.ty, top), key)
            nan = b.icmp("ugt", size, b.const(x.ty, _INFINITY[dtype]))
            key = b.select(nan, b.const(x.ty, -1), key)
        else:
            key = b.bin("xor", x, b.const(x.ty, top)) if dtype in SIGNED else x
        return b.bin("xor", key, b.const(x.ty, -1)) if self.spec.descending else key

    def write(self, x: Val, outs: tuple[Val, Val], place: Val, index: Val) -> None:
        """Element ``index`` of the row goes to ``place`` (both i64)."""
        b = self.b
        element = b.load(self.key, b.gep(x, self.key, index), self.size)
        b.store(element, b.gep(outs[0], self.key, place), self.size)
        b.store(index, b.gep(outs[1], "i64", place), 8)

    # -- two ways ---------------------------------------------------------------------------------

    def by_counting(self, x: Val, outs: tuple[Val, Val], places: list[Val]) -> None:
        """An element's place is the number of smaller ones and of equal ones before it."""
        b, n, lanes = self.b, self.spec.n, self.lanes
        (keys,) = places
        padded = -(-n // lanes) * lanes
        with b.loop(b.i64(0), b.i64(n)) as loop:
            raw = b.load(self.key, b.gep(x, self.key, loop.i), self.size)
            b.store(self.key_of(raw), b.gep(keys, self.key, loop.i), self.size)
        if padded > n:  # after all others, so never counted
            with b.loop(b.i64(n), b.i64(padded)) as loop:
                b.store(b.const(self.key, -1), b.gep(keys, self.key, loop.i), self.size)
        count = f"i{max(32, 8 * self.size)}"
        with b.loop(b.i64(0), b.i64(n)) as loop:
            mine = b.splat(b.load(self.key, b.gep(keys, self.key, loop.i), self.size), lanes)
            number = b.splat(b.conv("trunc", loop.i, "i32"), lanes)
            zero = b.const(vec(count, lanes), 0)
            with b.loop(b.i64(0), b.i64(padded), lanes, [zero]) as block:
                other = b.load(mine.ty, b.gep(keys, self.key, block.i), self.size)
                first = b.splat(b.conv("trunc", block.i, "i32"), lanes)
                before = b.icmp("ult", b.bin("add", first, b.iota("i32", lanes)), number)
                tie = b.bin("and", b.icmp("eq", other, mine), before)
                smaller = b.bin("or", b.icmp("ult", other, mine), tie)
                block.next(b.bin("add", block.carried[0], b.conv("zext", smaller, count)))
            total = block.results[0]
            place = b.call(f"llvm.vector.reduce.add.{mangle(total.ty)}", count, [total])
            place = b.conv("zext", place, "i64") if count == "i32" else place
            if self.keep == n:
                self.write(x, outs, place, loop.i)
            else:
                with b.if_then(b.icmp("ult", place, b.i64(self.keep))):
                    self.write(x, outs, place, loop.i)

    def by_radix(self, x: Val, outs: tuple[Val, Val], places: list[Val]) -> None:
        """Least significant byte first; bytes in which all keys agree are passed over."""
        b, n = self.b, self.b.i64(self.spec.n)
        keys, other_keys, order, other_order, counts = places
        with b.loop(b.i64(0), b.i64(256 * self.size), 16) as loop:
            b.store(b.const("<16 x i32>", 0), b.gep(counts, "i32", loop.i), 64)
        with b.loop(b.i64(0), n) as loop:
            key = self.key_of(b.load(self.key, b.gep(x, self.key, loop.i), self.size))
            b.store(key, b.gep(keys, self.key, loop.i), self.size)
            b.store(b.conv("trunc", loop.i, "i32"), b.gep(order, "i32", loop.i), 4)
            for k in range(self.size):
                slot = b.gep(counts, "i32", b.add(self.byte(key, b.i64(8 * k)), b.i64(256 * k)))
                b.store(b.add(b.load("i32", slot, 4), b.const("i32", 1)), slot, 4)
        state = [keys, other_keys, order, other_order]
        with b.loop(b.i64(0), b.i64(self.size), 1, state) as turn:
            table = b.gep(counts, "i32", b.mul(turn.i, b.i64(256)))
            shift = b.mul(turn.i, b.i64(8))
            some = self.byte(b.load(self.key, turn.carried[0], self.size), shift)
            alike = b.load("i32", b.gep(table, "i32", some), 4)
            differ = b.icmp("ne", alike, b.const("i32", self.spec.n))
            with b.if_then(differ, turn.carried) as branch:
                source, target, source_order, target_order = turn.carried
                self.one_pass(source, target, source_order, target_order, table, shift)
                branch.set(target, source, target_order, source_order)
            turn.next(*branch.results)
        order = turn.results[2]
        with b.loop(b.i64(0), b.i64(self.keep)) as loop:
            index = b.conv("zext", b.load("i32", b.gep(order, "i32", loop.i), 4), "i64")
            self.write(x, outs, loop.i, index)

    def byte(self, key: Val, shift: Val) -> Val:
        """One byte of a key, as an i64."""
        b = self.b
        if self.size < 8:
            key = b.conv("zext", key, "i64")
        return b.bin("and", b.bin("lshr", key, shift), b.i64(255))

    def one_pass(
        self, keys: Val, to_keys: Val, order: Val, to_order: Val, table: Val, shift: Val
    ) -> None:
        """Counts become places, then keys and numbers move there."""
        b = self.b
        with b.loop(b.i64(0), b.i64(256), 1, [b.const("i32", 0)]) as loop:
            slot = b.gep(table, "i32", loop.i)
            count = b.load("i32", slot, 4)
            b.store(loop.carried[0], slot, 4)
            loop.next(b.bin("add", loop.carried[0], count))
        with b.loop(b.i64(0), b.i64(self.spec.n)) as loop:
            key = b.load(self.key, b.gep(keys, self.key, loop.i), self.size)
            slot = b.gep(table, "i32", self.byte(key, shift))
            place = b.load("i32", slot, 4)
            b.store(b.add(place, b.const("i32", 1)), slot, 4)
            place = b.conv("zext", place, "i64")
            b.store(key, b.gep(to_keys, self.key, place), self.size)
            number = b.load("i32", b.gep(order, "i32", loop.i), 4)
            b.store(number, b.gep(to_order, "i32", place), 4)
