"""Numbers that decide on which side of a kink a program is have PyTorch's bits, and slopes at kinks are PyTorch's."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

import kiln

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")


def test_evenly_spaced_numbers(torch):
    r = np.random.default_rng(0)
    for n in (1, 2, 3, 28, 77, *r.integers(2, 3000, 30).tolist()):
        start, end = (r.normal(size=2) * 10.0 ** r.integers(-2, 3)).tolist()
        for a, b, dtype in itertools.product((-1.0, start), (1.0, end), ("float32", "float64", "int64")):  # fmt: skip
            if dtype == "int64":
                a, b = int(a), int(b)
            ours, theirs = (m.linspace(a, b, n, dtype=getattr(m, dtype)) for m in (kiln, torch))
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("size", [(1, 2, 8, 9), (1, 2, 28, 28), (1, 2, 4, 4, 5)])
def test_samples_and_slopes_on_the_grid_of_the_identity(torch, align, padding, size):
    k = len(size) - 2
    r = np.random.default_rng(1)
    x, weight = r.random(size), r.random(size[2:])

    def sampled(m):
        f = m.nn.functional
        theta = m.eye(k + 1)[:k][None].requires_grad_()
        grid = f.affine_grid(theta, size, align_corners=align)
        grid.retain_grad()
        y = f.grid_sample(m.tensor(x, dtype=m.float32), grid, "bilinear", padding, align)
        (y * m.tensor(weight, dtype=m.float32)).sum().backward()
        return [t.detach().numpy() for t in (grid, y, grid.grad, theta.grad)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = sampled(kiln), sampled(torch)
    np.testing.assert_array_equal(ours[0], theirs[0])
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
