"""What a program computes of state that it doesn't write alone: once, and again where that has changed.

Packed weights, weights transformed for Winograd, cast or transposed ones: the launches that make them
(`ahead`) stand before all others, in a stretch of the plan of their own. What they leave for the others
lies in memory of the program that nobody else uses, so it is still there at the next call; `Prologue` says
whether it still holds (see Note [Kept results] in `sharing`).
"""

from __future__ import annotations

import numpy as np

from ...runtime import threads
from ...sharing import Watch


class Prologue:
    """The prologue of one program: whether what it computed last still holds, and the call that computes it."""

    def __init__(self, plan: int, length: int):
        self.plan, self.length = plan, length
        self.watch = Watch()
        self.kept = False  # whether it came to its end, and every change will be noticed
        self.arrays: list[np.ndarray] | None = (
            None  # of the inputs that it reads, if they are others
        )

    def due(self) -> bool:
        """Whether it has to run before the program does."""
        return self.watch.stale or not self.kept

    def bound(self, arrays: list[np.ndarray]) -> None:
        """Note that the inputs that it reads lie in these arrays from now on."""
        self.arrays, self.kept = arrays, False

    def run(self) -> None:
        """Compute everything; the addresses of its inputs are in place."""
        self.kept = False
        if self.arrays is not None:
            self.watch.follow(self.arrays)
            self.arrays = None
        private = self.watch.settle()
        threads.run_plan(self.plan, self.length)
        self.kept = private

    def __del__(self) -> None:
        self.watch.follow(())
