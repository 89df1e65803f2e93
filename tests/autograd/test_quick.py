"""Gradient rules on plain arrays (`quick`) give what the rules written in ops give, and parts add up in one array."""

import numpy as np
import pytest

import kiln
from kiln.autograd import tape
from kiln.ops.dispatch import apply
from kiln.ops.registry import REGISTRY
from kiln.tensor import Tensor, wrap

QUICK = [op for op in REGISTRY.values() if op.quick and op.samples]


def leaf(x, d):
    """A sample's argument, its floats as leaves of one dtype."""
    if isinstance(x, list) and any(isinstance(y, np.ndarray) for y in x):
        return [leaf(y, d) for y in x]
    if not isinstance(x, np.ndarray):
        return x
    x = x.astype(d) if x.dtype.kind == "f" else x.copy()
    return wrap(x).requires_grad_(x.dtype.kind == "f")


def both(op, sample, d):
    """The gradients of a sample's call by quick rules and by the others; None where there are none."""
    found = []
    for quick in (True, False):
        args = op.bind(
            [leaf(x, d) for x in sample.args], {k: leaf(v, d) for k, v in sample.kwargs.items()}
        )
        out = apply(op, args)
        if (
            not isinstance(out, Tensor)
            or out._fn is None
            or out.is_complex()
            or out._fn.plan.quick is None
        ):
            return None
        seed = np.random.default_rng(0).standard_normal(out.shape).astype(out._a.dtype)
        node = out._fn
        if quick:
            results = node.backward_arrays([seed])
        else:
            results = [None if r is None else r._a for r in node.backward([wrap(seed)])]
        found.append([
            None if r is None else tape.fit(wrap(np.asarray(r)), e[2], e[3])._a
            for r, e in zip(results, node.edges, strict=True)
        ])  # fmt: skip
    return zip(*found, strict=True)


@pytest.mark.parametrize("op", QUICK, ids=lambda op: op.name)
def test_quick_rules_are_the_rules(op):
    for d, close in ((np.float64, 1e-12), (np.float32, 1e-5)):
        for sample in op.samples():
            for a, b in (both(op, sample, d) if sample.error is None else None) or ():
                assert (a is None) == (b is None), sample
                if a is not None:
                    np.testing.assert_allclose(a, b, rtol=close, atol=close, err_msg=str(sample))


def test_gradients_of_parts_add_up():
    x = kiln.arange(12.0).reshape(3, 4).requires_grad_()
    y = x * 2
    left, right = y.chunk(2, 1)
    rows = y.unbind()
    (
        (left * right).sum()
        + rows[0].sum() * 3
        + (y * y).sum()
        + x[1:, None, 2].sum()
        + x[0, 1] * x.sum()
    ).backward()
    other = kiln.arange(12.0).reshape(3, 4).requires_grad_()
    z = other * 2
    mask = kiln.zeros(3, 4)
    mask[0] = 3
    part = kiln.zeros(3, 4)
    part[1:, 2] = 1
    total = (
        (z[:, :2] * z[:, 2:]).sum()
        + (z * mask).sum()
        + (z * z).sum()
        + (other * part).sum()
        + other.sum() * 1
    )
    (g,) = kiln.autograd.grad(total + other.sum() * (other[0, 1] - 1), other)
    np.testing.assert_allclose(x.grad.numpy(), g.numpy())


def test_the_gradient_of_a_part_does_not_write_to_one_that_others_have():
    x = kiln.zeros(4).requires_grad_()
    y = x * 1
    seen = []
    z = y.reshape(2, 2)
    z.register_hook(lambda g: seen.append(g))
    y.register_hook(lambda g: seen.append(g))
    given = kiln.ones(2, 2)
    kiln.autograd.backward([z, y[1:3]], [given, kiln.ones(2)])
    assert given.tolist() == [[1, 1], [1, 1]]
    assert seen[0].tolist() == [[1, 1], [1, 1]]
    assert seen[1].tolist() == x.grad.tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize("d", [np.float32, np.float64])
def test_the_bias_of_one_row_has_the_bits_of_a_sum(d):
    g = np.array([[-0.0, 0.0, np.inf, np.nan, 1e-45, -2.5]], d)
    x, w, b = (
        kiln.ones(*s, dtype=dt, requires_grad=True)
        for dt in [wrap(g).dtype]
        for s in [(1, 2), (6, 2), (6,)]
    )
    kiln.nn.functional.linear(x, w, b).backward(wrap(g))
    assert b.grad.numpy().tobytes() == g.sum(0).tobytes()
