"""Pooling in compiled programs: windows written out, whatever their geometry, order in memory and instruction set."""

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln.config import context

GEOMETRIES = {
    "halves": {"kernel_size": 2},
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
    "sliding": {"kernel_size": 3, "stride": 1, "padding": 1},
    "gaps": {"kernel_size": 2, "stride": 3},
    "ceil": {"kernel_size": (3, 2), "stride": 2, "ceil_mode": True},
    "many taps": {"kernel_size": 7, "stride": 3, "padding": 3},
}
LAYOUTS = ["row_major", "channels_last"]
SHAPES = [(2, 5, 13, 38), (1, 17, 9, 8), (2, 33, 7, 7)]


def array(shape, seed=0):
    r = np.random.default_rng(seed)
    return (r.permutation(int(np.prod(shape))).reshape(shape) / 7).astype(np.float32)


def pooled(pool, x, geometry):
    """Values and gradient, the image and the result both in the middle of a program."""

    def step(x):
        h = (x * 2).sin() * 3
        y = pool(h, **geometry)
        g = kiln.autograd.grad([(y * y).sum()], [x])[0]
        return y, g, y.flatten(1).cos()

    x = kiln.tensor(x, requires_grad=True)
    return step, x


@in_turn(
    "pool,layout,shape",
    [(pool, LAYOUTS[k % 2], SHAPES[k % 3]) for k in range(6) for pool in ("max_pool2d", "avg_pool2d")],
    name=GEOMETRIES,
)  # fmt: skip
def test_pooling_is_eager_pooling(pool, name, shape, layout):
    step, x = pooled(getattr(F, pool), array(shape), GEOMETRIES[name])
    want = step(x)
    with context(layout=layout):
        got = kiln.compile(step)(x)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-4, atol=1e-4)


@in_turn(
    "isa,layout", [(isa, layout) for layout in LAYOUTS for isa in ("avx2", "sse2")],
    name=["halves", "overlapping"],
)  # fmt: skip
def test_pooling_at_every_level(name, layout, isa):
    step, x = pooled(F.max_pool2d, array(SHAPES[0]), GEOMETRIES[name])
    want = step(x)
    try:
        with context(layout=layout, cpu_isa=isa):
            got = kiln.compile(step)(x)
    except kiln.errors.KilnError as e:
        if "not available" in str(e):
            pytest.skip(f"no {isa} here")
        raise
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["row_major", "channels_last"])
def test_nan_wins_and_the_first_of_equals(layout):
    x = np.zeros((1, 3, 4, 6), np.float32)
    x[0, 0, 1, 1] = x[0, 0, 0, 1] = np.nan
    x[0, 1, 2, 3] = -0.0
    x[0, 2] = -np.inf

    def fn(t):
        y, i = F.max_pool2d(t + 0, 2, return_indices=True)
        return y * 1, i

    want, where = fn(kiln.tensor(x))
    with context(layout=layout):
        got, at = kiln.compile(fn)(kiln.tensor(x))
    np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert np.isnan(got.numpy()[0, 0, 0, 0])
    assert where[0, 0, 0, 0] == 1
    np.testing.assert_array_equal(at.numpy(), where.numpy())
