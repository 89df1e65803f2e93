"""Sample inputs shared by families of ops: good ones, edge ones and bad ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .registry import Sample

SHAPES: tuple[tuple[int, ...], ...] = ((3, 4), (), (0,), (2, 0, 3), (1,), (2, 3, 5))
PAIRS = (((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1, 4), (3, 1)), ((), (3,)), ((), ()), ((0, 3), (1, 3)),
         ((2, 3, 5), (2, 3, 1)))  # fmt: skip


def rng(seed: int = 0) -> np.random.Generator:
    """A generator with a fixed seed, so that samples are the same in every run."""
    return np.random.default_rng(seed)


def draw(
    r: np.random.Generator,
    shape: Any,
    low: float = -2.0,
    high: float = 2.0,
    away: float | None = None,
) -> np.ndarray:
    """Uniform float64 values in [low, high); `away` keeps 0.1 between them and multiples of it."""
    x = r.uniform(low, high, shape)
    if away is not None:
        step = np.round(x / away) * away
        x = np.where(abs(x - step) < 0.1, step + np.where(x >= step, 0.1, -0.1), x)
    return np.asarray(x)


def strided(x: np.ndarray) -> np.ndarray:
    """The same values in memory that is not contiguous."""
    if x.ndim < 2:
        big = np.zeros((x.size * 2,) if x.ndim else (2,), x.dtype)
        view = big[::2] if x.ndim else big[:1].reshape(())
        view[...] = x
        return view
    return np.ascontiguousarray(x.swapaxes(0, -1)).swapaxes(0, -1)


def unary(low: float = -2.0, high: float = 2.0, away: float | None = None, grad: bool = True,
          bad: Callable[[], Iterator[Sample]] | None = None) -> Callable[[], Iterator[Sample]]:  # fmt: skip
    """Samples of f(x): shapes from 0-d to empty, contiguous and not."""

    def samples() -> Iterator[Sample]:
        r = rng()
        for shape in SHAPES:
            yield Sample((draw(r, shape, low, high, away),), grad=grad)
        yield Sample((strided(draw(r, (4, 3), low, high, away)),), grad=grad)
        yield Sample(([1.0, 2.0],), error=TypeError)
        if bad is not None:
            yield from bad()

    return samples


def binary(low: float = -2.0, high: float = 2.0, low2: float | None = None, high2: float | None = None,
           away: float | None = None, away2: float | None = None, scalar: Any = 1.5, grad: bool = True,
           kwargs: tuple[dict, ...] = ({},)) -> Callable[[], Iterator[Sample]]:  # fmt: skip
    """Samples of f(x, y): broadcasting, 0-d, empty, strided, a Python number, and shapes that clash."""
    low2 = low if low2 is None else low2
    high2 = high if high2 is None else high2

    def samples() -> Iterator[Sample]:
        r = rng(1)
        for kw in kwargs:
            for s1, s2 in PAIRS:
                yield Sample(
                    (draw(r, s1, low, high, away), draw(r, s2, low2, high2, away2)), kw, grad=grad
                )
            x = draw(r, (3, 4), low, high, away)
            yield Sample((strided(x), draw(r, (3, 4), low2, high2, away2)), kw, grad=grad)
            if scalar is not None:
                yield Sample((x, scalar), kw, grad=grad)
        yield Sample((draw(r, (3, 4)), draw(r, (3, 5))), error=RuntimeError)
        yield Sample((draw(r, (3,)), "x"), error=TypeError)

    return samples
