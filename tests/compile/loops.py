"""What the tests of scan, cond and while_loop share."""

from __future__ import annotations

import numpy as np

import kiln
from kiln.backends.cpu.recipe import Host

BACKENDS = ("cpu", "reference")


def f64(*shape, seed=0, scale=1.0):
    x = np.random.default_rng(seed).normal(size=shape) * scale
    return kiln.tensor(x, dtype=kiln.float64)


def same(a, b, atol=1e-10):
    a, b = ([t for t in x if t is not None] for x in (a, b))
    assert len(a) == len(b)
    for p, q in zip(a, b, strict=True):
        assert p.shape == q.shape
        assert p.dtype is q.dtype
        np.testing.assert_allclose(p.numpy(force=True), q.numpy(force=True), atol=atol, rtol=1e-9)


def hosts(made):
    return [s for p in made for s in p.recipe.steps if isinstance(s, Host)]


W, B = f64(4, 4, seed=1, scale=0.4).requires_grad_(), f64(4, seed=2).requires_grad_()
