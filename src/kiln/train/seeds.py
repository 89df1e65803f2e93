"""One seed for all streams of random numbers."""

from __future__ import annotations

import random

import numpy as np

from .. import random as kiln_random


def seed_everything(seed: int) -> int:
    """Seed Kiln's, Python's and NumPy's streams; gives the seed. Workers of a DataLoader take theirs from Kiln's.

    Kiln computes the same bits for the same inputs on any number of threads, so a seeded training is the same
    each time.
    """
    kiln_random.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    return seed


__all__ = ["seed_everything"]
