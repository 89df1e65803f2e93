"""Cross entropy by kernels of rows: what the reference gives, and its errors."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln.config import context


def both(x, y, dtype, **options):
    x = kiln.tensor(x, dtype=dtype, requires_grad=True)
    if "weight" in options:
        options["weight"] = kiln.tensor(options["weight"], dtype=dtype)
    loss = F.cross_entropy(x, kiln.tensor(y), **options)
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("n", "classes"), [(40, 7), (129, 65)])
def test_losses_of_rows(n, classes, reduction):
    r = np.random.default_rng(n)
    x, y = r.standard_normal((n, classes)) * 4, r.integers(0, classes, n)
    x[0], x[1, 1:] = 1e4, -np.inf
    y[1] = 0
    some = y.copy()
    some[::5] = -100
    weight = r.uniform(0.5, 2, classes)
    for options in ({}, {"ignore_index": 1}, {"weight": weight}):
        for target in (y,) if "ignore_index" in options else (y, some):
            for dtype, close in ((kiln.float32, 2e-5), (kiln.float64, 1e-12)):
                found = both(x, target, dtype, reduction=reduction, **options)
                with context(eager="reference"):
                    due = both(x, target, dtype, reduction=reduction, **options)
                for a, b in zip(found, due, strict=True):
                    assert a.dtype == b.dtype
                    np.testing.assert_allclose(a, b, rtol=close, atol=close)


def test_rows_that_are_not_numbers_and_targets_that_are_no_class():
    x, y = kiln.randn(100, 10), kiln.zeros(100, dtype=kiln.int64)
    x[3, 4] = float("nan")
    losses = F.cross_entropy(x, y, reduction="none")
    assert losses.isnan().nonzero().tolist() == [[3]]
    y[7] = 10
    with pytest.raises(IndexError, match="Target 10 is out of bounds"):
        F.cross_entropy(x, y)


def test_strided_scores_and_second_gradients_are_left_to_others():
    x = kiln.randn(60, 30, dtype=kiln.float64)
    y = kiln.randint(0, 30, (60,))
    assert F.cross_entropy(x.t()[:, :30].t(), y[:30]).item() == pytest.approx(
        F.cross_entropy(x[:30], y[:30]).item()
    )
    x.requires_grad_()
    (g,) = kiln.autograd.grad(F.cross_entropy(x, y), x, create_graph=True)
    (h,) = kiln.autograd.grad(g.square().sum(), x)
    assert h.isfinite().all()
    assert h.abs().sum() > 0
