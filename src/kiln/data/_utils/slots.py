"""Where the batches of a worker lie: blocks of shared memory that are used again and again.

Note [Slots]: each large array of a batch travels in a slot, a block of memory that the worker and the loader both
have mapped; only its number is sent. A slot is free again when no array refers to it on either side any
more (a `Lease` is the base of all of them), so a batch may be kept for as long as one likes, and what is
written next goes where pages are mapped and warm already. After a fork the child may still read
what lay in a slot, so such a slot is never written again.
"""

from __future__ import annotations

import io
import os
import pickle
import weakref
from collections import deque
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from ...dtypes import known
from ...errors import KilnError, describe
from ...runtime.shared import CAN_SHARE, Segment, interface, like
from ...tensor import Tensor, wrap

SMALL = 1 << 14
"""Arrays of fewer bytes are sent within the message."""

_MOST_NEW = 200  # slots in one message

_forks = 0


class Lease:
    """The base of arrays in a slot: `released` gets the slot's number when the last of them is gone.

    After a fork it gets ~number: the slot is given up, as the child may have such arrays still.
    """

    __slots__ = ("__array_interface__", "__weakref__", "born", "number", "released", "segment")

    def __init__(self, segment: Segment, number: int, released: deque[int] | None = None):
        self.segment, self.number, self.released, self.born = segment, number, released, _forks
        self.__array_interface__ = interface(segment.address, segment.nbytes)

    def __del__(self) -> None:
        if self.released is not None:
            self.released.append(self.number if self.born == _forks else ~self.number)


def _note_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_note_fork)


class _Slot:
    def __init__(self, number: int, nbytes: int):
        step = max(1 << 12, 1 << max(nbytes.bit_length() - 4, 0))  # sizes often vary a little
        self.number, self.segment = number, Segment(-(-nbytes // step) * step)
        self.users: Any = lambda: None
        self.fresh = True

    def lease(self) -> np.ndarray:
        lease = Lease(self.segment, self.number)
        self.users = weakref.ref(lease)
        return np.asarray(lease)


class Pool:
    """The worker's side: takes slots for the arrays of a batch, and packs the batch."""

    def __init__(self) -> None:
        self._idle: list[_Slot] = []
        self._away: dict[int, _Slot] = {}
        self._taken: list[_Slot] = []
        self._dropped: list[int] = []
        self._count = self._last = 0

    def begin(self) -> None:
        """Start a batch: what was taken for another one that was never sent is free again."""
        self._idle += self._taken
        most = 2 * self._last + 8
        while len(self._idle) > most:
            self._drop(self._idle[0])
        self._taken = []

    def take(self, nbytes: int) -> np.ndarray | None:
        """Bytes that will travel without a copy; None where they are few, or travel within the message."""
        if nbytes < SMALL or not CAN_SHARE:
            return None
        free = [s for s in self._idle if s.users() is None]
        fitting = [s for s in free if nbytes <= s.segment.nbytes <= 4 * nbytes]
        if fitting:
            slot = min(fitting, key=lambda s: s.segment.nbytes)
            self._idle.remove(slot)
        else:
            if sum(s.fresh for s in self._taken) >= _MOST_NEW:
                return None
            if free:
                self._drop(free[0])
            self._count += 1
            slot = _Slot(self._count, nbytes)
        self._taken.append(slot)
        return slot.lease()[:nbytes]

    def released(self, numbers: list[int]) -> None:
        """Note that the loader has done with these slots, or with ~n has given one up."""
        for n in numbers:
            slot = self._away.pop(n if n >= 0 else ~n, None)
            if slot is not None and n >= 0:
                self._idle.append(slot)

    def pack(self, data: Any) -> tuple[Parcel, list[int]]:
        """A batch ready to be sent, and the descriptors that go with it. Raises what pickling it raises."""
        refs: list[tuple[int, int, int]] = []

        def outside(buffer: pickle.PickleBuffer) -> bool:
            found = self._place(np.frombuffer(buffer.raw(), np.uint8))
            if found is not None:
                refs.append(found)
            return found is None

        file = io.BytesIO()
        _Pickler(self, file, outside).dump(data)
        used = {number for number, _, _ in refs}
        sent = [s for s in self._taken if s.number in used]
        fresh = [s for s in sent if s.fresh]
        parcel = (
            file.getvalue(), refs, [(s.number, s.segment.nbytes) for s in fresh], self._dropped,
        )  # fmt: skip
        self._taken = [s for s in self._taken if s.number not in used]
        self._idle += self._taken
        self._taken, self._dropped = sent, []
        return parcel, [s.segment.fd for s in fresh]

    def sent(self) -> None:
        """Note that what was packed is on its way."""
        for slot in self._taken:
            slot.fresh = False
            slot.segment.close_file()
            self._away[slot.number] = slot
        self._last, self._taken = len(self._taken), []

    def _drop(self, slot: _Slot) -> None:
        self._idle.remove(slot)
        if not slot.fresh:
            self._dropped.append(slot.number)

    def _place(self, memory: np.ndarray) -> tuple[int, int, int] | None:
        address, nbytes = memory.__array_interface__["data"][0], memory.size
        for slot in self._taken:
            at = address - slot.segment.address
            if at >= 0 and at + nbytes <= slot.segment.nbytes:
                return slot.number, at, nbytes
        room = self.take(nbytes)
        if room is None:
            return None
        room[:] = memory
        return self._taken[-1].number, 0, nbytes


Parcel = tuple[bytes, list[tuple[int, int, int]], list[tuple[int, int]], list[int]]
"""A packed batch: its pickle, (slot, offset, bytes) of each buffer, (slot, bytes) of new ones, dropped slots."""


class Mappings:
    """The loader's side of the slots of one worker."""

    def __init__(self) -> None:
        self._segments: dict[int, Segment] = {}
        self._released: deque[int] = deque()

    def receive(self, parcel: Parcel, files: list[int]) -> Delivery:
        """Map what came with a message."""
        body, refs, fresh, dropped = parcel
        for n in dropped:
            self._segments.pop(n, None)
        for (n, nbytes), fd in zip(fresh, files, strict=True):
            self._segments[n] = segment = Segment(nbytes, fd)
            segment.close_file()
        leases = {
            n: np.asarray(Lease(self._segments[n], n, self._released))
            for n in {n for n, _, _ in refs}
        }
        return Delivery(body, [leases[n][at : at + nbytes] for n, at, nbytes in refs])

    def released(self) -> list[int]:
        """The slots that have become free since the last call, ~n for one that is given up."""
        out = []
        while self._released:
            out.append(self._released.popleft())
            if out[-1] < 0:
                self._segments.pop(~out[-1], None)
        return out


class Delivery:
    """A batch that has arrived; nobody has looked at it yet."""

    def __init__(self, body: bytes, buffers: list[np.ndarray]):
        self.body, self.buffers = body, buffers

    def open(self) -> Any:
        """The batch. Raises what unpickling it raises."""
        return pickle.loads(self.body, buffers=self.buffers)


class _Pickler(ForkingPickler):
    def __init__(self, pool: Pool, file: Any, outside: Any):
        super().__init__(file, 5, True, outside)  # type: ignore[call-arg]
        self.pool = pool

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        if obj.requires_grad and not obj.is_leaf:
            raise KilnError(
                "DataLoader", "a tensor with history can't be sent to another process: gradients don't "
                "cross processes", describe(obj), "detach() it in the dataset or in collate_fn",
            )  # fmt: skip
        a = obj._a
        if not isinstance(a, np.ndarray) or a.nbytes < SMALL or not a.flags.writeable:
            return obj.__reduce_ex__(5)
        room = None
        if not a.flags.c_contiguous and not (a.flags.f_contiguous and a.dtype.isbuiltin == 1):
            room = self.pool.take(a.nbytes)
        if room is not None:
            moved = like(a, room)
            moved[...] = a
            return _in_memory, (
                pickle.PickleBuffer(room.data),
                a.dtype,
                a.shape,
                moved.strides,
                *_rest(obj),
            )
        if a.flags.c_contiguous:
            memory = pickle.PickleBuffer(a.reshape(-1).view(np.uint8).data)
            return _in_memory, (memory, a.dtype, a.shape, a.strides, *_rest(obj))
        return obj.__reduce_ex__(5)


def _rest(t: Tensor) -> tuple[bool, type, dict]:
    return t.requires_grad, type(t), dict(t.__dict__)


def _in_memory(
    memory: Any, dtype: Any, shape: Any, strides: Any, rg: bool, cls: type, extra: dict
) -> Tensor:
    t = wrap(known(np.ndarray(shape, dtype, memory, 0, strides)))
    t.__class__ = cls
    t._rg = rg
    t.__dict__.update(extra)
    return t
