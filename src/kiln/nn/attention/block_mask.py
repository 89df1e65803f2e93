"""Which blocks of a mask hold something, as lists of blocks of keys for each block of queries."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import copy
from typing import Any, Self

from ... import dtypes as dt
from ...errors import KilnError, describe
from ...ops.creation import zeros
from ...tensor import Tensor
from .. import functional as F


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """A size in both directions."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def noop_mask(batch: Tensor, head: Tensor, token_q: Tensor, token_kv: Tensor) -> Tensor:
    """The mask that is True everywhere."""
    return batch.new_ones(()).bool()


def _sliced(*_: Any) -> Tensor:
    raise KilnError(
        "BlockMask", "Cannot use mask_mod from a sliced BlockMask.", None,
        "set mask_mod: the function of the whole mask, with the positions that the slice starts from added",
    )  # fmt: skip


def blocks_of(
    mask: Tensor, size: tuple[int, int], separate_full: bool
) -> tuple[Tensor, Tensor | None]:
    """Which blocks of a mask (N, H, L, S) hold something but aren't full, and which are full."""
    rows, columns = size
    below, right = -mask.shape[2] % rows, -mask.shape[3] % columns
    parts = F.pad(mask, (0, right, 0, below)).unflatten(2, (-1, rows)).unflatten(4, (-1, columns))
    count = parts.long().sum((3, 5))
    if not separate_full:
        return count > 0, None
    full = count == rows * columns
    return (count > 0) & ~full, full


def _lists(dense: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of each row are set, and the blocks' numbers, those that are set first."""
    order = dense.int().argsort(-1, descending=True, stable=True)
    return dense.int().sum(-1).to(dt.int32), order.to(dt.int32)


def _dense(counts: Tensor, indices: Tensor) -> Tensor:
    """Which blocks the lists name, int32."""
    n = indices.shape[-1]
    place = counts.new_tensor(list(range(n)))
    named = (place < counts.unsqueeze(-1)).to(dt.int32)
    return zeros(*indices.shape, dtype=dt.int32).scatter(-1, indices.long(), named)


_LISTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks",
          "q_indices", "full_q_num_blocks", "full_q_indices")  # fmt: skip


class BlockMask:
    """A mask of `flex_attention`: its function, and lists of the blocks that are partly or wholly True.

    For each block of queries `kv_num_blocks` says how many blocks of keys are partly True and `kv_indices`
    which, those first; `full_kv_…` lists blocks that are wholly True, `q_…` goes by blocks of keys.
    """

    def __init__(
        self, seq_lengths: tuple[int, int], kv_num_blocks: Tensor, kv_indices: Tensor,
        full_kv_num_blocks: Tensor | None, full_kv_indices: Tensor | None, q_num_blocks: Tensor | None,
        q_indices: Tensor | None, full_q_num_blocks: Tensor | None, full_q_indices: Tensor | None,
        BLOCK_SIZE: tuple[int, int] = (128, 128), mask_mod: Callable[..., Tensor] = noop_mask,
    ) -> None:  # fmt: skip
        if kv_indices.ndim < 2:
            raise KilnError("BlockMask", "BlockMask must have at least 2 dimensions", describe(kv_indices))  # fmt: skip
        self.seq_lengths = seq_lengths
        self.kv_num_blocks, self.kv_indices = kv_num_blocks, kv_indices
        self.full_kv_num_blocks, self.full_kv_indices = full_kv_num_blocks, full_kv_indices
        self.q_num_blocks, self.q_indices = q_num_blocks, q_indices
        self.full_q_num_blocks, self.full_q_indices = full_q_num_blocks, full_q_indices
        self.BLOCK_SIZE, self.mask_mod = BLOCK_SIZE, mask_mod

    @classmethod
    def from_dense(
        cls, partial: Tensor, full: Tensor | None, size: tuple[int, int],
        mask_mod: Callable[..., Tensor], seq_lengths: tuple[int, int],
    ) -> Self:  # fmt: skip
        """The lists of blocks that are set in (N, H, blocks of queries, blocks of keys)."""
        whole = (None, None) if full is None else _lists(full)
        whole_q = (None, None) if full is None else _lists(full.transpose(-1, -2))
        return cls(
            seq_lengths, *_lists(partial), *whole, *_lists(partial.transpose(-1, -2)), *whole_q, size, mask_mod
        )  # fmt: skip

    @classmethod
    def from_kv_blocks(
        cls, kv_num_blocks: Tensor, kv_indices: Tensor, full_kv_num_blocks: Tensor | None = None,
        full_kv_indices: Tensor | None = None, BLOCK_SIZE: int | tuple[int, int] = 128,
        mask_mod: Callable[..., Tensor] | None = None, seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
    ) -> Self:  # fmt: skip
        """From the lists by blocks of queries; those by blocks of keys follow."""
        if (full_kv_num_blocks is None) != (full_kv_indices is None):
            raise KilnError(
                "BlockMask", "full_kv_num_blocks and full_kv_indices must be both provided or omitted", None
            )  # fmt: skip
        size = pair(BLOCK_SIZE)
        part: tuple[Any, Any] = (None, None)
        full: tuple[Any, Any] = (None, None)
        if compute_q_blocks:
            part = _lists(_dense(kv_num_blocks, kv_indices).transpose(-1, -2))
            if full_kv_num_blocks is not None and full_kv_indices is not None:
                full = _lists(_dense(full_kv_num_blocks, full_kv_indices).transpose(-1, -2))
        if seq_lengths is None:
            rows, columns = kv_indices.shape[-2:]
            seq_lengths = (rows * size[0], columns * size[1])
        return cls(
            seq_lengths, kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices, *part, *full,
            size, mask_mod or noop_mask,
        )  # fmt: skip

    def as_tuple(self, flatten: bool = True) -> tuple:
        """The lengths, the lists, the block's size and the function."""
        lists = tuple(getattr(self, name) for name in _LISTS)
        if flatten:
            return (*self.seq_lengths, *lists, *self.BLOCK_SIZE, self.mask_mod)
        return (self.seq_lengths, *lists, self.BLOCK_SIZE, self.mask_mod)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, queries, keys)."""
        return (*self.kv_indices.shape[:-2], *self.seq_lengths)

    def numel(self) -> int:
        """How many elements the whole mask has."""
        out = 1
        for n in self.shape:
            out *= n
        return out

    def to_dense(self) -> Tensor:
        """Which blocks hold something: (N, H, blocks of queries, blocks of keys), int32."""
        out = _dense(self.kv_num_blocks, self.kv_indices)
        if self.full_kv_num_blocks is None or self.full_kv_indices is None:
            return out
        return out | _dense(self.full_kv_num_blocks, self.full_kv_indices)

    def sparsity(self) -> float:
        """The percentage of the mask that lies in blocks without anything."""
        count = int(self.kv_num_blocks.sum())
        if self.full_kv_num_blocks is not None:
            count += int(self.full_kv_num_blocks.sum())
        rows, columns = self.BLOCK_SIZE
        return 100 * (1 - count * rows * columns / self.numel())

    def __getitem__(self, index: Any) -> BlockMask:
        """The lists of some batches, heads and blocks of queries; `mask_mod` has to be set again."""
        index = index if isinstance(index, tuple) else (index,)
        index = tuple(slice(i, i + 1 or None) if isinstance(i, int) else i for i in index)
        picked = [
            x if x is None else x[index] for x in (getattr(self, name) for name in _LISTS[:4])
        ]
        counts, indices = picked[0], picked[1]
        assert counts is not None
        assert indices is not None
        rows = indices.shape[-2] * self.BLOCK_SIZE[0] if len(index) > 2 else self.seq_lengths[0]
        return BlockMask.from_kv_blocks(
            counts, indices, picked[2], picked[3], self.BLOCK_SIZE, _sliced, (rows, self.seq_lengths[1]),
            self.q_indices is not None,
        )  # fmt: skip

    def _adjust(self, new_q_len: int, new_kv_len: int) -> BlockMask:
        """The lists for fewer queries and keys."""
        rows, columns = (-(-n // b) for n, b in zip((new_q_len, new_kv_len), self.BLOCK_SIZE, strict=True))  # fmt: skip
        full = None
        if self.full_kv_num_blocks is not None and self.full_kv_indices is not None:
            full = _dense(self.full_kv_num_blocks, self.full_kv_indices)[..., :rows, :columns]
        partial = _dense(self.kv_num_blocks, self.kv_indices)[..., :rows, :columns]
        return BlockMask.from_dense(
            partial, full, self.BLOCK_SIZE, self.mask_mod, (new_q_len, new_kv_len)
        )

    def to(self, device: Any) -> BlockMask:
        """Itself on another device."""
        out = copy(self)
        for name in _LISTS:
            x = getattr(self, name)
            setattr(out, name, x if x is None else x.to(device))
        return out

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of the blocks, at most `grid_size` cells for each of `limit` batches and heads; -1 for all cells."""
        dense = self.to_dense()
        *lead, rows, columns = dense.shape
        most = (rows, columns) if grid_size == -1 else pair(grid_size)
        step = [max(1, -(-n // m)) for n, m in zip((rows, columns), most, strict=True)]
        out = []
        for number, at in enumerate(itertools.product(*map(range, lead))):
            if number == limit:
                out += [
                    "...", "To print out more, set BlockMask.to_string(limit=N)",
                    "You can also index (BlockMask[batch, head]) to choose a specific batch or head",
                ]  # fmt: skip
                break
            text = f"{at}\n"
            for r in range(0, rows, step[0]):
                for c in range(0, columns, step[1]):
                    part = float(dense[at][r : r + step[0], c : c + step[1]].float().mean())
                    text += ("█" if part == 1 else " " if part == 0 else "░") * 2
                text += "\n"
            out.append(text)
        return "\n".join(out)

    def __str__(self) -> str:
        cells = self.to_string().strip()
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%, \n{cells}\n)"

    def __repr__(self) -> str:
        def shown(x: Any) -> Any:
            return x.shape if isinstance(x, Tensor) else x

        lines = [f"    {name}={shown(getattr(self, name))},\n" for name in _LISTS]
        lines += [f"    BLOCK_SIZE={self.BLOCK_SIZE},\n", f"    shape={self.shape},\n"]
        lines += [f"    sparsity={self.sparsity():.2f}%,\n"]
        lines += [f"    mask_mod={getattr(self.mask_mod, '__name__', self.mask_mod)}\n"]
        return f"BlockMask(\n{''.join(lines)})"
