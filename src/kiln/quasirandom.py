"""Sobol' sequences: points that fill the unit cube more evenly than random ones. https://doi.org/10.1137/070709359"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import dtypes as dt
from .errors import KilnNotImplementedError, KilnValueError
from .ops.drawing import randint
from .random import Generator
from .tensor import Tensor, wrap


def _directions(dimension: int, bits: int) -> np.ndarray:
    """The direction numbers of Joe and Kuo, [dimension, bits], which SciPy holds."""
    try:
        from scipy.stats import qmc
    except ImportError:
        raise KilnNotImplementedError(
            "SobolEngine", "the table of direction numbers is SciPy's, which is not installed", f"dimension={dimension}",
            "pip install scipy",
        ) from None  # fmt: skip
    return qmc.Sobol(dimension, scramble=False, bits=bits)._sv.astype(np.int64)


def _scrambled(directions: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Direction numbers, [d, bits], whose bits lower triangular matrices, [d, bits, bits], multiply modulo 2."""
    bits = directions.shape[1]
    shifts = np.arange(bits - 1, -1, -1)  # the first row and column are of the highest bit
    of = directions[:, None, :] >> shifts[:, None] & 1
    return ((by @ of & 1) << shifts[:, None]).sum(1)


class SobolEngine:
    """Draws points of a Sobol' sequence in [0, 1)^dimension, scrambled where asked; `seed` is that of the scrambling.

    Up to 21201 dimensions, of which SciPy holds the direction numbers; ValueError for others.
    """

    MAXBIT = 30
    MAXDIM = 21201

    def __init__(self, dimension: int, scramble: bool = False, seed: int | None = None):
        if not 1 <= dimension <= self.MAXDIM:
            raise KilnValueError(
                "SobolEngine", f"Supported range of dimensionality for SobolEngine is [1, {self.MAXDIM}]", f"dimension={dimension}", ""
            )  # fmt: skip
        self.dimension, self.scramble, self.seed = dimension, scramble, seed
        directions = _directions(dimension, self.MAXBIT)
        shift = np.zeros(dimension, np.int64)
        if scramble:
            generator = None if seed is None else Generator().manual_seed(seed)
            ones = randint(2, (dimension, self.MAXBIT), generator=generator)._host("SobolEngine")
            shift = ones @ (1 << np.arange(self.MAXBIT))
            by = randint(2, (dimension, self.MAXBIT, self.MAXBIT), generator=generator)
            lower = np.tril(by._host("SobolEngine")) | np.eye(self.MAXBIT, dtype=np.int64)
            directions = _scrambled(directions, lower)
        self.sobolstate, self.shift = wrap(directions), wrap(shift)
        self.quasi = self.shift.clone()
        self._first_point = (self.quasi / 2**self.MAXBIT).reshape(1, -1)
        self.num_generated = 0

    def _step(self, n: int) -> np.ndarray:
        """The next n states after `quasi`, [n, dimension], which is then the last of them."""
        at = np.arange(n) + max(self.num_generated - 1, 0)
        lowest_zero = np.log2(~at & (at + 1)).astype(np.int64)
        states = self.sobolstate._a.T[lowest_zero]
        if n:
            states[0] ^= self.quasi._a
            np.bitwise_xor.accumulate(states, 0, out=states)
            self.quasi = wrap(states[-1].copy())
        return states

    def draw(self, n: int = 1, out: Tensor | None = None, dtype: Any = None) -> Tensor:
        """The next n points, [n, dimension], of the default dtype."""
        d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
        first = self.num_generated == 0
        states = self._step(n - first)
        points = states.astype(d.np) * d.np.type(2.0**-self.MAXBIT)
        if first:
            points = np.concatenate([self._first_point._a.astype(d.np), points])
        self.num_generated += n
        result = wrap(points)
        if out is None:
            return result
        return out.resize_(result.shape).copy_(result)

    def draw_base2(self, m: int, out: Tensor | None = None, dtype: Any = None) -> Tensor:
        """The next 2^m points; ValueError where all that were drawn would not be a power of 2."""
        n = 2**m
        total = self.num_generated + n
        if total & (total - 1):
            raise KilnValueError(
                "SobolEngine.draw_base2", "The balance properties of Sobol' points require n to be a power of 2",
                f"{self.num_generated} points drawn before, then 2**{m} more", "use draw(n)",
            )  # fmt: skip
        return self.draw(n, out, dtype)

    def reset(self) -> SobolEngine:
        """Begin again; returns self."""
        self.quasi = self.shift.clone()
        self.num_generated = 0
        return self

    def fast_forward(self, n: int) -> SobolEngine:
        """Pass over n points; returns self."""
        self._step(n - (self.num_generated == 0))
        self.num_generated += n
        return self

    def __repr__(self) -> str:
        words = [f"dimension={self.dimension}"]
        if self.scramble:
            words.append("scramble=True")
        if self.seed is not None:
            words.append(f"seed={self.seed}")
        return f"{self.__class__.__name__}({', '.join(words)})"
