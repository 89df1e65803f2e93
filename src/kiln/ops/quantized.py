"""Products of quantised integers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size
from ..tensor import Tensor
from .registry import Sample, op
from .samples import rng, strided


def _infer(input: Tensor, mat2: Tensor) -> tuple[Size, dt.dtype]:
    a, b = tuple(input.shape), tuple(mat2.shape)
    if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        raise KilnError(
            "_int_mm", "expected matrices whose inner sizes are equal", describe((input, mat2)), "see mm"
        )  # fmt: skip
    if input.dtype is not dt.int8 or mat2.dtype is not dt.int8:
        raise KilnError(
            "_int_mm", "expected int8 matrices", describe((input, mat2)), "quantise both to int8"
        )
    return Size((a[0], b[1])), dt.int32


def _samples() -> Iterator[Sample]:
    r = rng(90)

    def draw(*shape: int) -> np.ndarray:
        return r.integers(-128, 128, shape).astype(np.int8)

    for m, k, n in (
        (3, 4, 5),
        (20, 64, 49),
        (1, 7, 3),
        (17, 32, 16),
        (0, 3, 2),
        (2, 0, 3),
        (2, 3, 0),
    ):
        yield Sample((draw(m, k), draw(k, n)), grad=False)
    yield Sample((strided(draw(20, 8)), draw(40, 8).T), grad=False)
    yield Sample((draw(8, 20).T, strided(draw(8, 40))), grad=False)
    yield Sample((np.full((2, 600), -128, np.int8), np.full((600, 2), -128, np.int8)), grad=False)
    yield Sample((draw(3, 4), draw(5, 4)), error=RuntimeError)
    yield Sample((draw(3), draw(3, 4)), error=RuntimeError)
    yield Sample((draw(3, 4).astype(np.int32), draw(4, 3).astype(np.int32)), error=RuntimeError)


@op(family="contraction", infer=_infer, samples=_samples, method=False, exact=True, out=True)
def _int_mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two int8 matrices, added up in int32: the heart of quantised layers.

    Source: https://docs.pytorch.org/docs/stable/quantization.html
    """
    return np.matmul(input.astype(np.int32), mat2.astype(np.int32))
