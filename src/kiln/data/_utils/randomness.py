"""The random numbers that samplers and datasets draw: Kiln's, Python's and NumPy's global streams."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from ... import random as kiln_random
from ...ops.creation import empty
from ...tensor import wrap


def draw_seed(generator: Any) -> int:
    """A seed as PyTorch draws it: `torch.empty((), dtype=torch.int64).random_(generator=generator)`."""
    return empty((), dtype="int64").random_(generator=generator).item()


def seed_worker(base_seed: int, worker_id: int) -> int:
    """Begin the streams of a worker, as PyTorch begins them; gives its seed."""
    seed = base_seed + worker_id
    random.seed(seed)
    kiln_random.manual_seed(seed)
    entropy = [worker_id, base_seed & 0xFFFFFFFF, base_seed >> 32, 0]
    np.random.seed(np.random.SeedSequence(entropy).generate_state(4))
    return seed


def states() -> dict[str, Any]:
    """The states of the three streams, as plain data."""
    version, words, gauss = random.getstate()
    kind, key, *rest = np.random.get_state(legacy=True)
    return {
        "kiln": kiln_random.get_rng_state(),
        "python": [version, wrap(np.array(words, np.int64)), gauss],
        "numpy": [kind, wrap(key.astype(np.int64)), *rest],  # type: ignore[union-attr]
    }


def restore(saved: dict[str, Any]) -> None:
    """Go on from such states."""
    kiln_random.set_rng_state(saved["kiln"])
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, key, *rest = saved["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))


class Watcher:
    """Tells the state of the streams where it is another one than when it was told last."""

    def __init__(self) -> None:
        self._told: Any = None

    def changed(self) -> bool:
        """Whether numbers have been drawn since the last call."""
        key = np.random.get_state(legacy=True)
        now = (
            kiln_random.default_generator.get_state().numpy().tobytes(), random.getstate(),
            key[1].tobytes(), key[2:],  # type: ignore[union-attr]
        )  # fmt: skip
        if now == self._told:
            return False
        self._told = now
        return True
