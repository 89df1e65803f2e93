"""The random numbers that samplers and datasets draw: Kiln's, Python's and NumPy's global streams."""

from __future__ import annotations

import ctypes
import random
from functools import partial
from typing import Any

import numpy as np

from ... import random as kiln_random
from ...ops.creation import empty
from ...tensor import wrap


def draw_seed(generator: Any) -> int:
    """A seed as PyTorch draws it: `torch.empty((), dtype=torch.int64).random_(generator=generator)`."""
    return empty((), dtype="int64").random_(generator=generator).item()


def seed_worker(stream: str, base_seed: int, worker_id: int) -> int:
    """Begin the streams of a worker, as PyTorch begins them; gives its seed."""
    kiln_random.set_stream(stream)
    seed = base_seed + worker_id
    random.seed(seed)
    kiln_random.manual_seed(seed)
    entropy = [worker_id, base_seed & 0xFFFFFFFF, base_seed >> 32, 0]
    np.random.seed(np.random.SeedSequence(entropy).generate_state(4))
    return seed


States = tuple[Any, Any, Any]
"""States of Kiln's, Python's and NumPy's stream as they come, None for one that nobody asked for."""


def states(others: bool = True) -> States:
    """The states of the three streams, or of Kiln's alone."""
    state = kiln_random.default_generator.state.clone()
    return (state, random.getstate(), np.random.get_state()) if others else (state, None, None)


def plain(saved: States) -> dict[str, Any]:
    """States as plain data."""
    kiln, python, numpy = saved
    out: dict[str, Any] = {"kiln": kiln}
    if python is not None:
        version, words, gauss = python
        out["python"] = [version, wrap(np.array(words, np.int64)), gauss]
        kind, key, *rest = numpy
        out["numpy"] = [kind, wrap(key.astype(np.int64)), *rest]
    return out


def restore(saved: States | dict[str, Any]) -> None:
    """Go on from states, as they came or as plain data."""
    told = plain(saved) if isinstance(saved, tuple) else saved
    kiln_random.default_generator.state.copy_(told["kiln"])
    if "python" in told:
        version, words, gauss = told["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
        kind, key, *rest = told["numpy"]
        np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))


class Watcher:
    """Tells whether numbers were drawn, soon enough to be asked after each batch."""

    def __init__(self) -> None:
        self._told: Any = None
        self._numpy: Any = np.random.get_state
        bits: Any = np.random.get_bit_generator()  # type: ignore[attr-defined]
        if isinstance(
            bits, np.random.MT19937
        ):  # its memory is looked at, as its state takes long to tell
            self._numpy = partial(ctypes.string_at, bits.ctypes.state_address, 4 * 625)

    def changed(self) -> bool:
        """Whether numbers have been drawn since the last call."""
        now = kiln_random.default_generator.state._a.tobytes(), random.getstate(), self._numpy()
        if now == self._told:
            return False
        self._told = now
        return True
