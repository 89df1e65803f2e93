"""What a profiler recorded, for TensorBoard's profile tab (the package xprof).

https://github.com/openxla/xla/blob/main/third_party/tsl/tsl/profiler/protobuf/xplane.proto
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..io.files import write_bytes
from .wire import data, each, integer, text

_SHAPES, _BYTES, _FLOPS = 1, 2, 3
_STATS = {_SHAPES: "shapes", _BYTES: "bytes", _FLOPS: "flops"}


def write(folder: str, events: Iterable[Any], name: str | None) -> Path:
    """Write events as the run `name` (the present time) of the profiles in a folder; gives the file."""
    place = Path(folder, "plugins", "profile", name or time.strftime("%Y_%m_%d_%H_%M_%S"))
    place.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    path = place / f"{host}.xplane.pb"
    write_bytes("add_profile", path, data(1, _plane(list(events))) + data(4, host))
    return path


def _plane(events: list[Any]) -> bytes:
    """A plane: a line of events for each thread, each event's name by its number."""
    names: dict[str, int] = {}
    threads: dict[int, list[bytes]] = {}
    for e in events:
        number = names.setdefault(e.name, len(names) + 1)
        times = e.time_range
        what = (
            integer(1, number) + integer(2, round(times.start * 1e6))
            + integer(3, round(times.elapsed_us() * 1e6)) + each(4, _told(e))
        )  # fmt: skip
        threads.setdefault(e.thread, []).append(what)
    lines = [
        integer(1, i) + data(2, f"thread {i}") + integer(10, i) + each(4, line)
        for i, line in enumerate(threads.values(), 1)
    ]
    return (
        integer(1, 1) + data(2, "/host:CPU") + each(3, lines)
        + each(4, (_numbered(i, _known(n)) for n, i in names.items()))
        + each(5, (_numbered(i, data(2, n)) for i, n in _STATS.items()))
    )  # fmt: skip


def _told(e: Any) -> list[bytes]:
    """What was recorded of an event besides its times."""
    shapes = str(e.input_shapes) if e.input_shapes else ""
    found = {
        _SHAPES: text(5, shapes), _BYTES: integer(4, e.self_cpu_memory_usage), _FLOPS: integer(4, e.flops)
    }  # fmt: skip
    return [integer(1, k) + value for k, value in found.items() if value]


def _known(name: str) -> bytes:
    """An event's name; before an op's the one by which the tab knows ops: name:Type."""
    op = name.removeprefix("kiln::")
    if op == name or not op.isidentifier():
        return data(2, name)
    kind = "".join(word.capitalize() for word in op.split("_"))
    return data(2, f"{op}:{kind}") + data(4, name)


def _numbered(i: int, message: bytes) -> bytes:
    """An entry of a map from numbers to messages that hold their number."""
    return integer(1, i) + data(2, integer(1, i) + message)
