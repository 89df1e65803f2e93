"""Batches of sequences of several lengths: padding, and packing as PyTorch lays them out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from ...errors import KilnError, KilnTypeError, KilnValueError, describe
from ...ops.creation import from_numpy, full
from ...ops.creation import tensor as make_tensor
from ...ops.joining import cat, stack
from ...tensor import Tensor


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Packed):
    """Sequences, longest first, their steps one after the other: all first steps, all second ones, …

    `data` (sum of the lengths, *), `batch_sizes` int64: how many sequences have each step;
    `sorted_indices` says which sequence of the batch comes where, `unsorted_indices` is its inverse.
    """

    sizes: list[Any] | None = None
    """`batch_sizes` as Python numbers, where they are known."""

    def __new__(
        cls, data: Any, batch_sizes: Tensor | None = None, sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> Self:  # fmt: skip
        if batch_sizes is None:
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)  # type: ignore[call-arg]

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The data with another dtype or device."""
        return repacked(self.data.to(*args, **kwargs), self)

    def float(self) -> PackedSequence:
        """The data as float32."""
        return repacked(self.data.float(), self)

    def double(self) -> PackedSequence:
        """The data as float64."""
        return repacked(self.data.double(), self)

    def half(self) -> PackedSequence:
        """The data as float16."""
        return repacked(self.data.half(), self)

    def long(self) -> PackedSequence:
        """The data as int64."""
        return repacked(self.data.long(), self)

    def int(self) -> PackedSequence:
        """The data as int32."""
        return repacked(self.data.int(), self)

    def short(self) -> PackedSequence:
        """The data as int16."""
        return repacked(self.data.short(), self)

    def char(self) -> PackedSequence:
        """The data as int8."""
        return repacked(self.data.char(), self)

    def byte(self) -> PackedSequence:
        """The data as uint8."""
        return repacked(self.data.byte(), self)

    def cuda(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The data on a GPU."""
        return repacked(self.data.cuda(*args, **kwargs), self)

    def pin_memory(self) -> PackedSequence:
        """The data in pinned memory, which on CPUs all memory is as good as."""
        return repacked(self.data.pin_memory(), self)

    def cpu(self) -> PackedSequence:
        """Itself: the data is in the host's memory."""
        return self

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a GPU."""
        return False

    def is_pinned(self) -> bool:
        """Whether the data is in pinned memory."""
        return False


def repacked(data: Tensor, like: PackedSequence) -> PackedSequence:
    """A packed sequence of the same lengths."""
    out = PackedSequence(data, *like[1:])
    out.sizes = like.sizes
    return out


def step_sizes(packed: PackedSequence) -> list[int]:
    """How many sequences have each step."""
    return packed.batch_sizes.tolist() if packed.sizes is None else packed.sizes


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes another."""
    return None if permutation is None else permutation.argsort()


def pad_steps(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """(time, batch, *) with zeros after each sequence's end, and a mask (time, batch, 1) that is false there."""
    sizes = np.array(step_sizes(packed))
    batch = np.arange(sizes[0])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    inside = batch < sizes[:, None]
    index = np.where(inside, starts[:, None] + batch, 0)
    data = packed.data
    x = data.index_select(0, from_numpy(index.reshape(-1)))
    x = x.reshape(*index.shape, *data.shape[1:])
    mask = from_numpy(inside)
    wide = mask.reshape(*index.shape, *[1] * (data.ndim - 1))
    return x * wide.to(x.dtype), mask.unsqueeze(-1)


def unpad_steps(x: Tensor, packed: PackedSequence) -> Tensor:
    """The steps of (time, batch, *) that belong to sequences of these lengths, in the packed order."""
    sizes = np.array(step_sizes(packed))
    index = np.flatnonzero(np.arange(sizes[0]) < sizes[:, None])
    return x.reshape(-1, *x.shape[2:]).index_select(0, from_numpy(index))


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack (time, batch, *), or (batch, time, *) if `batch_first`, of sequences with these lengths.

    With `enforce_sorted` they must come longest first; otherwise the packed sequence remembers their order.
    """
    n = np.asarray(lengths.tolist() if isinstance(lengths, Tensor) else lengths, np.int64)
    x = input.transpose(0, 1) if batch_first else input
    if n.ndim != 1 or len(n) != x.shape[1]:
        raise KilnError(
            "pack_padded_sequence", f"Expected `len(lengths)` to be equal to batch_size, but got {n.size} (batch_size={x.shape[1]})", describe(input),
        )  # fmt: skip
    if len(n) and n.min() <= 0:
        raise KilnError("pack_padded_sequence", "Length of all samples has to be greater than 0", n.tolist())  # fmt: skip
    order = None
    if not enforce_sorted:
        at = np.argsort(-n, kind="stable")
        n, order = n[at], make_tensor(at.tolist())
        x = x.index_select(1, order)
    elif (np.diff(n) > 0).any():
        raise KilnError(
            "pack_padded_sequence", "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True", n.tolist(),
            "pass enforce_sorted=False",
        )  # fmt: skip
    if len(n) and n[0] > x.shape[0]:
        raise KilnError("pack_padded_sequence", "a length is greater than the padded size", f"{n[0]} of {x.shape[0]}")  # fmt: skip
    sizes = (n > np.arange(n[0])[:, None]).sum(1).tolist()
    out = PackedSequence(x, make_tensor(sizes), order)
    out.sizes = sizes
    return repacked(unpad_steps(x[: len(sizes)], out), out)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The padded batch of a packed one, in the order before packing, and the lengths, int64."""
    sizes = step_sizes(sequence)
    x, mask = pad_steps(sequence)
    if padding_value:
        mask = mask.reshape(*mask.shape[:2], *[1] * (x.ndim - 2))
        x = mask.where(x, make_tensor(padding_value, dtype=x.dtype))
    if total_length is not None:
        if total_length < len(sizes):
            raise KilnValueError(
                "pad_packed_sequence", "Expected total_length to be at least the length of the longest sequence in input, but "
                f"got total_length={total_length} and max sequence length being {len(sizes)}", total_length,
            )  # fmt: skip
        rest = full((total_length - len(sizes), *x.shape[1:]), padding_value, dtype=x.dtype)
        x = cat([x, rest])
    lengths = make_tensor((np.array(sizes)[:, None] > np.arange(sizes[0])).sum(0).tolist())
    if sequence.unsorted_indices is not None:
        x = x.index_select(1, sequence.unsorted_indices)
        lengths = lengths[sequence.unsorted_indices]
    return (x.transpose(0, 1) if batch_first else x), lengths


def pad_sequence(
    sequences: Iterable[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Sequences (length, *) as one batch, padded to the longest, on the right or the left."""
    if not isinstance(sequences, Iterable):
        raise KilnError("pad_sequence", "Expected iterable for input sequences", describe(sequences))  # fmt: skip
    given = list(sequences)
    if padding_side not in ("left", "right"):
        raise KilnValueError("pad_sequence", "padding_side is 'left' or 'right'", padding_side)
    if not given:
        raise KilnError("pad_sequence", "received an empty list of sequences", "[]")
    longest = max(s.shape[0] for s in given)
    out = []
    for s in given:
        rest = full((longest - s.shape[0], *s.shape[1:]), padding_value, dtype=s.dtype)
        out.append(cat([s, rest] if padding_side == "right" else [rest, s]))
    return stack(out, 0 if batch_first else 1)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Any, batch_first: bool = False
) -> list[Tensor]:
    """The sequences of a padded batch, without their padding."""
    x = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    n = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    return [x[i, :k] for i, k in enumerate(n)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (length, *)."""
    if not isinstance(sequences, list | tuple):
        raise KilnTypeError("pack_sequence", "expected a list of tensors", describe(sequences))
    return pack_padded_sequence(
        pad_sequence(sequences), [s.shape[0] for s in sequences], enforce_sorted=enforce_sorted
    )


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a packed batch, in the order before packing."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences, True), batch_first=True)


__all__ = [
    "PackedSequence", "invert_permutation", "pack_padded_sequence", "pack_sequence", "pad_packed_sequence",
    "pad_sequence", "unpack_sequence", "unpad_sequence",
]  # fmt: skip
