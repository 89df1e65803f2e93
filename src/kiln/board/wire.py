"""Protocol Buffers' wire format, as far as TensorBoard's messages need it.

A message is the bytes of its fields, each given as (number, value) by a function for its type; fields
that are None or empty are left out. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def varint(n: int) -> bytes:
    """A whole number, seven bits to a byte; negative ones as 64 bits."""
    n &= 2**64 - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def integer(field: int, n: Any) -> bytes:
    """A field of an integer, a bool or an enum."""
    return b"" if not n else varint(field << 3) + varint(int(n))


def double(field: int, x: Any) -> bytes:
    """A field of a double."""
    return b"" if x is None else varint(field << 3 | 1) + struct.pack("<d", x)


def single(field: int, x: Any) -> bytes:
    """A field of a float."""
    return b"" if x is None else varint(field << 3 | 5) + _float(x)


def _float(x: float) -> bytes:
    with np.errstate(over="ignore"):
        return np.float32(x).astype("<f4").tobytes()


def data(field: int, value: bytes | str | None) -> bytes:
    """A field of bytes, of text, or of a message's bytes."""
    if value is None:
        return b""
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def text(field: int, value: str | None) -> bytes:
    """A field of text that is left out where it is empty."""
    return data(field, value) if value else b""


def each(field: int, values: Iterable[bytes | str]) -> bytes:
    """A repeated field of bytes, text or messages."""
    return b"".join(data(field, v) for v in values)


def packed(field: int, values: Any, dtype: str) -> bytes:
    """A repeated field of numbers; `dtype` is "<f8", "<f4" or "varint"."""
    if dtype == "varint":
        return data(field, b"".join(map(varint, values))) if len(values) else b""
    raw = np.asarray(values).astype(dtype).tobytes()
    return data(field, raw) if raw else b""


def mapping(field: int, items: Iterable[tuple[str, bytes]]) -> bytes:
    """A map of text to messages."""
    return each(field, (data(1, k) + data(2, v) for k, v in items))


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: numbers as integers (or as the bytes of a float or double), others as bytes."""
    at = 0

    def number() -> int:
        nonlocal at
        out = shift = 0
        while True:
            byte = message[at]
            at += 1
            out |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return out

    while at < len(message):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
            continue
        size = {1: 8, 5: 4}.get(kind) or number()
        yield key >> 3, message[at : at + size]
        at += size
