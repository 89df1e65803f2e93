"""Event files: records of events, each with checksums of its length and its bytes.

https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..errors import KilnError
from .wire import data, double, integer

_POLYNOMIAL = 0x82F63B78
_LANES = 4096
"""From this many bytes on, a checksum is computed in lanes side by side."""


@cache
def _table() -> np.ndarray:
    """The checksum of each byte."""
    out = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        out = np.where(out & 1, out >> 1 ^ _POLYNOMIAL, out >> 1)
    return out


def _extend(crc: int, message: bytes) -> int:
    table = _table().tolist()
    for byte in message:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc


@cache
def _past_zeros(n: int) -> list[list[int]]:
    """What n zero bytes make of a checksum, as a table for each of its bytes."""
    values = np.left_shift(
        np.arange(256, dtype=np.uint32), np.array([0, 8, 16, 24], np.uint32)[:, None]
    )
    table = _table()
    for _ in range(n):
        values = table[values & 255] ^ values >> 8
    return values.tolist()


def crc32c(message: bytes) -> int:
    """The Castagnoli CRC of bytes."""
    crc = 0xFFFFFFFF
    if len(message) >= _LANES:
        # the lanes' checksums from 0, side by side; the checksum is linear, so each is then joined to what
        # came before it, moved past as many zeros as the lane is long
        length = 1 << (len(message).bit_length() // 2)
        count = len(message) // length
        lanes = np.frombuffer(message, np.uint8, count * length).reshape(count, length).T
        table, sums = _table(), np.zeros(count, np.uint32)
        for column in lanes:
            sums = table[(sums ^ column) & 255] ^ sums >> 8
        a, b, c, d = _past_zeros(length)
        for lane in sums.tolist():
            crc = a[crc & 255] ^ b[crc >> 8 & 255] ^ c[crc >> 16 & 255] ^ d[crc >> 24] ^ lane
        message = message[count * length :]
    return _extend(crc, message) ^ 0xFFFFFFFF


def masked(message: bytes) -> bytes:
    """A record's checksum: rotated and shifted, so that it is none of what holds it."""
    crc = crc32c(message)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(message: bytes) -> bytes:
    """The bytes of a record."""
    size = struct.pack("<Q", len(message))
    return size + masked(size) + message + masked(message)


def read_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The messages in a file of records; KilnError where it is corrupt, the end where it is cut short."""
    content = Path(path).read_bytes()
    at = 0
    while at + 12 <= len(content):
        size = content[at : at + 8]
        (n,) = struct.unpack("<Q", size)
        message = content[at + 12 : at + 12 + n]
        if content[at + 8 : at + 12] != masked(size):
            raise KilnError("read_records", "a record's length is corrupt", f"{path}, at byte {at}")
        if at + 16 + n > len(content):
            return
        if content[at + 12 + n : at + 16 + n] != masked(message):
            raise KilnError("read_records", "a record is corrupt", f"{path}, at byte {at}")
        yield message
        at += 16 + n


_uid = itertools.count()


class FileWriter:
    """Writes events into one new file of a folder.

    What is added is written out when `max_queue` events wait, when the last time was `flush_secs` ago,
    and by `flush` and `close`.
    """

    def __init__(
        self, log_dir: Any, max_queue: int = 10, flush_secs: float = 120, filename_suffix: str = ""
    ):
        self._logdir = os.fspath(log_dir)
        self._max_queue, self._flush_secs = max_queue, flush_secs
        self._lock, self._waiting, self._last = Lock(), [], time.monotonic()
        name = (
            f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}."
            f"{next(_uid)}{filename_suffix}"
        )
        try:
            os.makedirs(self._logdir, exist_ok=True)
            self._file = open(os.path.join(self._logdir, name), "ab")  # noqa: SIM115
        except OSError as e:
            raise KilnError(
                "SummaryWriter", f"can't write event files here: {e}", self._logdir, "choose another log_dir"
            ) from None  # fmt: skip
        self.add_event(data(3, "brain.Event:2"))
        self.flush()

    def get_logdir(self) -> str:
        """The folder."""
        return self._logdir

    def add_event(self, event: bytes, step: Any = None, walltime: float | None = None) -> None:
        """Add an event: the fields of the message but its time and its step."""
        when = double(1, time.time() if walltime is None else walltime)
        message = when + (b"" if step is None else integer(2, int(step))) + event
        with self._lock:
            self._waiting.append(record(message))
            late = time.monotonic() - self._last > self._flush_secs
        if late or len(self._waiting) > self._max_queue:
            self.flush()

    def add_summary(
        self, summary: bytes, global_step: Any = None, walltime: float | None = None
    ) -> None:
        """Add a summary (see `kiln.board.summary`)."""
        self.add_event(data(5, summary), global_step, walltime)

    def flush(self) -> None:
        """Write out what waits."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._file.write(b"".join(waiting))
            self._file.flush()
            self._last = time.monotonic()

    def close(self) -> None:
        """Write out what waits, and close the file."""
        if not self._file.closed:
            self.flush()
            self._file.close()
