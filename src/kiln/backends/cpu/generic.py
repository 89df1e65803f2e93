"""Matrix products whose sizes and strides are arguments: one object for each choice of dtypes serves all shapes.

The loops, the register tile, packing and the cut into tasks are those of `gemm` (Note [Blocking], Note
[Groups]); what is decided there when a kernel is written is decided here by the same code when a shape is
first met (`Plan`), and handed to the kernel as words behind its pointers. So a shape that was never
seen costs some microseconds of Python and nothing is compiled. What a specialised kernel gains is a tile
that suits its shape, forms for few rows, and epilogues.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np

from . import packing, tasks
from .gemm import Gemm, PanelDriver, StridedB, fold_batch, group_of, tile_shapes
from .isa import Isa
from .kernel import Kernel
from .microkernel import ARG_A, ARG_B, ARG_C, ARG_EXTRA, ARG_WORKSPACE, SIZES, Tile, emit_tile
from .text import ITEMSIZE, Text

WORDS = (
    "batches", "blocks", "panels", "part_batch", "part_rows", "part_cols",  # the tasks
    "low", "high_count", "whole", "n", "k", "kc", "k_blocks", "accumulate", "mode",
    "a_row", "a_k", "b_k", "b_col", "c_row", "fetch",
    "chunk_panels", "chunk_blocks", "task_bytes", "panel_bytes",
    "pack_a", "a_offset", "source_row", "source_k",
    "table",  # must be last: bytes from each batch's C, A and B to the next word's
)  # fmt: skip
"""What follows the pointers of C, A, B and the workspace in the argument block, 64 bits each."""

_RAW, _OTF, _PACKED = range(3)


@dataclass(frozen=True)
class Kind:
    """The dtypes of A (and B) and of C, and the groups along K that are multiplied at once, if any."""

    operand: str
    result: str
    group: str = ""

    @property
    def compute(self) -> str:
        """dtype of products and sums."""
        return packing.compute_of(self.operand)

    def symbol(self, isa: Isa) -> str:
        """The name of its kernel."""
        return f"product_{self.operand}_{self.result}_{isa.name}" + "_grouped" * bool(self.group)


class Plan(PanelDriver):
    """How one product is done: all numbers that its kernel wants, by the rules of specialised products."""

    def __init__(self, gemm: Gemm, isa: Isa):
        gemm = fold_batch(gemm)
        group = group_of(gemm, isa)
        super().__init__(gemm, isa, "", StridedB(gemm.b_dtype, gemm.b_strides, group=group))
        self.kind = Kind(gemm.a_dtype, gemm.c_dtype, group)
        # a task's scratch begins at any address
        self.workspace_bytes = self.grid.ntasks * self.task_bytes + 64 if self.task_bytes else 0

    def _tile(self) -> tuple[int, int]:
        nv, most = _shape(self.isa)
        return nv, -(-self.gemm.m // -(-self.gemm.m // most))

    def _can_split(self) -> bool:
        return self.gemm.c_dtype == self.gemm.compute

    def _reads_in_place(self) -> bool:
        return self.mode == "raw" and not self.rest  # the last panel's loads have no masks

    def words(self, accumulate: bool) -> list[int]:
        """The words of ``WORDS``, then for each batch the bytes to its C, A and B."""
        gemm, numbers = self.gemm, dict(vars(self))
        offsets = self._offsets()
        by_row = self.a_k == 1
        numbers |= {
            "batches": prod(gemm.batch), "n": gemm.n, "k": self.k, "accumulate": int(accumulate),
            "part_batch": self.grid.batch, "part_rows": self.grid.rows, "part_cols": self.grid.cols,
            "mode": ("raw", "otf", "packed").index(self.mode),
            "b_k": gemm.b_strides[0], "b_col": gemm.b_strides[1], "c_row": gemm.c_strides[0],
            "fetch": 64 if self.a_row == 1 != self.a_k else 0,
            "pack_a": int(self.pack_a) + int(self.pack_a and by_row),
            "source_row": gemm.a_strides[0], "source_k": self.unit * gemm.a_strides[1], "table": 0,
        }  # fmt: skip
        return [int(numbers[name]) for name in WORDS] + offsets.ravel().tolist()

    def _offsets(self) -> np.ndarray:
        """The bytes from each operand's beginning to its matrix of each batch."""
        gemm = self.gemm
        sizes = zip(
            (gemm.c_batch, gemm.a_batch, gemm.b_batch), (gemm.c_dtype, gemm.a_dtype, gemm.b_dtype),
            strict=True,
        )  # fmt: skip
        columns = []
        for strides, dtype in sizes:
            at = np.zeros((), np.int64)
            for size, stride in zip(gemm.batch, strides, strict=True):
                at = at[..., None] + np.arange(size) * (stride * ITEMSIZE[dtype])
            columns.append(at.ravel())
        return np.stack(columns, 1)


def _shape(isa: Isa) -> tuple[int, int]:
    """Vectors and most rows of the register tile."""
    return next(iter(tile_shapes(isa).items()))


def emit(kind: Kind, isa: Isa) -> Kernel:
    """The kernel of a kind; how many tasks and how much workspace it takes is in the `Plan`s."""
    writer = _Writer(kind, isa)
    return Kernel(writer.text(), writer.symbol)


class _Writer:
    """Writes a kind's module."""

    def __init__(self, kind: Kind, isa: Isa):
        self.kind, self.isa, self.b, self.symbol = kind, isa, Text(), kind.symbol(isa)
        self.size = ITEMSIZE[kind.compute]
        self.lanes = isa.lanes(self.size)
        self.nv, self.mr = _shape(isa)
        self.panel = self.nv * self.lanes
        self.plain = kind.operand == kind.compute  # operands are read as they lie

    def text(self) -> str:
        """The module."""
        names = self._tiles()
        self.tiles = f"@{self.symbol}.tiles"
        self.b.ir.module.constant_array(self.tiles[1:], "ptr", names)
        with self.b.function(self.symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            self._body()
        if not self.plain:
            self._define_pack_a()
        self._define_pack_b()
        return self.b.module()

    # -- tiles ------------------------------------------------------------------------------------

    def _tiles(self) -> list[str]:
        """Define the tiles: for whole panels, for last ones of 1, 2, … vectors, and packing as they go.

        The last only where there are more than four blocks of rows, which then have nearly the most rows.
        """
        rows = range(1, self.mr + 1)
        names = [self._emit_tile(mr, self.nv, "raw") for mr in rows]
        for nv in range(1, self.nv + 1):
            names += [self._emit_tile(mr, nv, "raw", edge=True) for mr in rows]
        if self.plain:
            names += [
                self._emit_tile(mr, self.nv, "otf") if mr >= self.mr - 2 else "null" for mr in rows
            ]
        return names

    def _emit_tile(self, mr: int, nv: int, mode: str, edge: bool = False) -> str:
        kind = self.kind
        tile = Tile(
            isa=self.isa, mr=mr, nv=nv, tail=0, compute=kind.compute, a_row=0, a_k=0, b_mode=mode,
            b_k=0, panel=self.panel, c_dtype=kind.result, c_row=0, c_col=1, split_k=True,
            epilogue=None, group=kind.group, far=not edge, loose=True, edge="edge" if edge else "",
        )  # fmt: skip
        name = f"{self.symbol}.{mode}{mr}x{nv}{'e' if edge else ''}"
        emit_tile(self.b, tile, name)
        return f"@{name}"

    # -- the loops --------------------------------------------------------------------------------

    def _word(self, name: str) -> str:
        at = self.b.at("%args", ARG_EXTRA + WORDS.index(name), 8)
        return self.b.op(f"load i64, ptr {at}")

    def _body(self) -> None:
        b = self.b
        self.w = {name: self._word(name) for name in WORDS[:-1]}
        w = self.w
        self.packs = b.op(f"icmp eq i64 {w['mode']}, {_PACKED}")
        self.on_the_fly = b.op(f"icmp eq i64 {w['mode']}, {_OTF}")
        self._find_workspace()
        table = b.at("%args", ARG_EXTRA + WORDS.index("table") + 1, 8)
        share = tasks.ranges(
            b, [w["part_batch"], w["part_rows"], w["part_cols"]],
            [w["batches"], w["blocks"], w["panels"]],
        )  # fmt: skip
        self.first_block, self.end_block = share.rows
        with b.loop(*share.batch) as batch:
            row = b.at(table, b.mul(batch.index, 3), 8)
            offsets = [b.op(f"load i64, ptr {b.at(row, i, 8)}") for i in range(3)]
            slots = (ARG_C, ARG_A, ARG_B)
            self.c, self.a, self.source = (
                b.at(b.argument("%args", slot), offset)
                for slot, offset in zip(slots, offsets, strict=True)
            )
            with (
                self._chunks(*share.cols, w["chunk_panels"]) as (self.chunk, self.chunk_end),
                b.loop(0, w["k_blocks"]) as block,
            ):
                self._k_block(block.index)

    @contextmanager
    def _chunks(self, start: str, stop: str, size: str) -> Iterator[tuple[str, str]]:
        """A loop over pieces of a range, of so many at most."""
        b = self.b
        more = b.add(b.op(f"sub i64 {stop}, {start}"), b.op(f"sub i64 {size}, 1"))
        with b.loop(0, b.op(f"udiv i64 {more}, {size}")) as piece:
            low = b.add(start, b.mul(piece.index, size))
            yield low, b.least(stop, b.add(low, size))

    def _find_workspace(self) -> None:
        b = self.b
        start = b.op(f"ptrtoint ptr {b.argument('%args', ARG_WORKSPACE)} to i64")
        start = b.op(f"and i64 {b.add(start, 63)}, -64")
        base = b.op(f"inttoptr i64 {start} to ptr")
        self.workspace = b.at(base, b.mul("%place", self.w["task_bytes"]))

    def _k_block(self, index: str) -> None:
        b, w = self.b, self.w
        self.k0 = b.mul(index, w["kc"])
        self.depth = b.least(w["kc"], b.op(f"sub i64 {w['k']}, {self.k0}"))
        earlier = b.op(f"or i64 {index}, {w['accumulate']}")
        self.more = b.op(f"icmp ne i64 {earlier}, 0")
        # the last panel is packed where it is not whole: the tiles' loads of B have no masks
        first = b.op(f"select i1 {self.packs}, i64 0, i64 {w['whole']}")
        with b.loop(b.most(self.chunk, first), self.chunk_end) as p:
            col = b.mul(p.index, self.panel)
            live = b.least(self.panel, b.op(f"sub i64 {w['n']}, {col}"))
            b.emit(
                f"call void @{self.symbol}.pack_b(ptr {self.source}, ptr {self._packed(p.index)}, "
                f"i64 {self.k0}, i64 {self.depth}, i64 {col}, i64 {w['b_k']}, i64 {w['b_col']}, i64 {live})"
            )
        with self._chunks(self.first_block, self.end_block, w["chunk_blocks"]) as rows:
            self._rows(*rows)

    def _packed(self, panel: str) -> str:
        b = self.b
        place = b.mul(b.op(f"sub i64 {panel}, {self.chunk}"), self.w["panel_bytes"])
        return b.at(self.workspace, place)

    def _row_of(self, block: str) -> str:
        b, w = self.b, self.w
        return b.add(b.mul(block, w["low"]), b.least(block, w["high_count"]))

    def _rows(self, start: str, end: str) -> None:
        """Blocks of rows times the chunk's panels."""
        b, w = self.b, self.w
        a_base = b.at(self.a, b.mul(self.k0, w["a_k"]), self.size)
        a_first = "0"
        if not self.plain:
            packs_a = b.op(f"icmp ne i64 {w['pack_a']}, 0")
            a_first = b.op(f"select i1 {packs_a}, i64 {self._row_of(start)}, i64 0")
            packed = b.at(self.workspace, w["a_offset"])
            with b.when(packs_a):
                self._pack_a(packed, a_first, self._row_of(end))
            a_base = b.op(f"select i1 {packs_a}, ptr {packed}, ptr {a_base}")
        with b.loop(self.chunk, self.chunk_end) as p, b.loop(start, end) as block:
            self._tile_at(p.index, block.index, a_base, a_first)

    def _tile_at(self, panel: str, block: str, a_base: str, a_first: str) -> None:
        b, w = self.b, self.w
        col = b.mul(panel, self.panel)
        left = b.op(f"sub i64 {w['n']}, {col}")
        vectors = b.op(f"udiv i64 {b.add(left, self.lanes - 1)}, {self.lanes}")
        whole = b.op(f"icmp slt i64 {panel}, {w['whole']}")
        shape = b.op(f"select i1 {whole}, i64 0, i64 {vectors}")
        live = b.op(f"sub i64 {left}, {b.mul(b.op(f'sub i64 {vectors}, 1'), self.lanes)}")
        ready = b.op(f"or i1 {self.packs}, {b.op(f'xor i1 {whole}, true')}")
        if self.plain:
            first = b.op(f"icmp eq i64 {block}, {self.first_block}")
            fresh = b.op(f"and i1 {whole}, {b.op(f'and i1 {self.on_the_fly}, {first}')}")
            shape = b.op(f"select i1 {fresh}, i64 {self.nv + 1}, i64 {shape}")
            later = b.op(f"and i1 {self.on_the_fly}, {b.op(f'xor i1 {first}, true')}")
            ready = b.op(f"or i1 {ready}, {later}")
        place = self._packed(panel)
        raw = b.add(b.mul(self.k0, w["b_k"]), col)
        raw = b.at(self.source, raw, ITEMSIZE[self.kind.operand])
        source = b.op(f"select i1 {ready}, ptr {place}, ptr {raw}")
        b_k = b.op(f"select i1 {ready}, i64 {self.panel}, i64 {w['b_k']}")
        row = self._row_of(block)
        count = b.op(f"sub i64 {self._row_of(b.add(block, 1))}, {row}")
        index = b.add(b.mul(shape, self.mr), b.op(f"sub i64 {count}, 1"))
        tile = b.op(f"load ptr, ptr {b.at(self.tiles, index, 8)}")
        a = b.at(a_base, b.mul(b.op(f"sub i64 {row}, {a_first}"), w["a_row"]), self.size)
        c = b.at(self.c, b.add(b.mul(row, w["c_row"]), col), ITEMSIZE[self.kind.result])
        sizes = {"live": live, **{n: w[n] for n in ("a_row", "a_k", "c_row", "fetch")}, "b_k": b_k}
        b.emit(
            f"call void {tile}(ptr {a}, ptr {source}, ptr {place}, ptr {c}, i64 {self.depth}, "
            f"i1 {self.more}, i1 true, i64 {row}, i64 {col}, i64 0, ptr %args, "
            + ", ".join(f"i64 {sizes[name]}" for _, name in SIZES) + ")"
        )  # fmt: skip

    # -- packing ----------------------------------------------------------------------------------

    def _define_pack_b(self) -> None:
        """Define the packing of a panel with any strides: contiguous rows, contiguous columns, or neither."""
        b, kind = self.b, self.kind
        more = [("i64", "b_k"), ("i64", "b_col"), ("i64", "live")]
        with b.function(f"{self.symbol}.pack_b", [*packing.PACK_PARAMS, *more], internal=True):
            rows, columns = (b.op(f"icmp eq i64 %{n}, 1") for n in ("b_col", "b_k"))
            full = b.op(f"icmp eq i64 %live, {self.panel}")
            part = b.op(f"xor i1 {full}, true")
            with b.when(b.op(f"and i1 {rows}, {full}")):
                self._pack_b(("%b_k", 1), self.panel)
            with b.when(b.op(f"and i1 {rows}, {part}")):
                self._pack_b(("%b_k", 1), "%live")
            other = b.op(f"xor i1 {rows}, true")
            with b.when(b.op(f"and i1 {other}, {columns}")):
                self._pack_b((1, "%b_col"), "%live")
            if not kind.group:
                neither = b.op(f"xor i1 {b.op(f'or i1 {rows}, {columns}')}, true")
                with b.when(neither):
                    self._pack_b(("%b_k", "%b_col"), "%live")

    def _pack_b(self, strides: packing.Strides, live: int | str) -> None:
        pack = packing.pack_groups if self.kind.group else packing.pack_panel
        pack(self.b, self.isa, self.kind.operand, strides, self.panel, live)

    def _pack_a(self, packed: str, start: str, end: str) -> None:
        b, w = self.b, self.w
        count = b.op(f"sub i64 {end}, {start}")
        offset = b.add(b.mul(start, w["source_row"]), b.mul(self.k0, w["source_k"]))
        source = b.at(self.a, offset, ITEMSIZE[self.kind.operand])
        by_row = b.op(f"icmp eq i64 {w['pack_a']}, 2")

        def either(yes: str, no: str) -> str:
            return b.op(f"select i1 {by_row}, i64 {yes}, i64 {no}")

        outer, inner = either(count, self.depth), either(self.depth, count)
        far, near = (
            either(*pair)
            for pair in ((w["source_row"], w["source_k"]), (w["source_k"], w["source_row"]))
        )
        pitch = b.most(w["a_row"], w["a_k"])
        b.emit(
            f"call void @{self.symbol}.pack_a(ptr {source}, ptr {packed}, i64 {outer}, "
            f"i64 {inner}, i64 {far}, i64 {near}, i64 {pitch})"
        )

    def _define_pack_a(self) -> None:
        b, kind = self.b, self.kind
        more = [("i64", "far"), ("i64", "near"), ("i64", "pitch")]
        with b.function(f"{self.symbol}.pack_a", [*packing.ROWS_PARAMS, *more], internal=True):
            if kind.group:
                far = b.op(f"sdiv exact i64 %far, {4 // ITEMSIZE[kind.operand]}")
                packing.copy_groups(b, self.isa, kind.operand, far, "%pitch")
                return
            together = b.op("icmp eq i64 %near, 1")
            with b.when(together):
                packing.copy_rows(b, self.isa, kind.operand, ("%far", 1), "%pitch")
            with b.when(b.op(f"xor i1 {together}, true")):
                packing.copy_rows(b, self.isa, kind.operand, ("%far", "%near"), "%pitch")
