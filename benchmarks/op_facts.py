"""Why a call takes more than twice PyTorch's time, as measured: where the time goes, and what PyTorch leaves out."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OURS = "kernels"


def _place(entry: tuple[str, int, str]) -> str:
    """A function of a profile in a word or two: NumPy's by name, Kiln's by file, native programs as kernels."""
    path, _, name = entry
    if path == "~":
        if name == "<built-in method call>":
            return _OURS
        return name.strip("<>{}").removeprefix("built-in ").removeprefix("method ").split(" of ")[0].strip("'")  # fmt: skip
    file = Path(path)
    if "numpy" in file.parts:
        return f"numpy's {name}"
    return f"{file.stem}.{name}" if "kiln" in file.parts else name


def spent(fn: Callable[[], Any]) -> str:
    """Where a call spends its time: the two places with most of it, and their shares."""
    fn()
    profile, end = cProfile.Profile(), time.perf_counter() + 0.02
    profile.enable()
    while True:
        fn()
        if time.perf_counter() > end:
            break
    profile.disable()
    times: dict[str, float] = {}
    for entry, (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        times[_place(entry)] = times.get(_place(entry), 0.0) + own
    total = sum(times.values()) or 1.0
    top = sorted(times.items(), key=lambda p: -p[1])[:2]
    return ", ".join(f"{t / total:.0%} in {name}" for name, t in top if t > 0.15 * total)


def _memory(t: Any) -> int | None:
    """Where a tensor's memory begins."""
    try:
        return t.untyped_storage().data_ptr()
    except Exception:
        return None


def shares(result: Any, *tensors: Any) -> bool:
    """Whether the first tensor of a result has the memory of one of these."""
    while isinstance(result, list | tuple) and result:
        result = result[0]
    where = _memory(result)
    return where is not None and any(where == _memory(t) for t in tensors)


def why(
    seconds: float, small: Callable[[], Any], call: Callable[[], Any], theirs_shares: bool, ours_shares: bool
) -> str:  # fmt: skip
    """What is measured of a slow call, in words; `small` is the same call with far fewer elements."""
    small()
    start = time.perf_counter()
    small()
    fixed = time.perf_counter() - start
    if theirs_shares and ours_shares:
        return f"a view: {fixed * 1e6:.0f} µs of Python at any size"
    if fixed > 0.5 * seconds:
        return f"{fixed * 1e6:.0f} µs of Python at any size"
    where = spent(call)
    if not theirs_shares:
        return where
    return f"PyTorch's shares memory with what it was given, Kiln's is a copy: {where}"
