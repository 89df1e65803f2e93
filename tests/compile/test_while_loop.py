"""while_loop: stopped by values, differentiated at any length, nested in scans."""

from __future__ import annotations

import pytest
from tests.compile.loops import BACKENDS, B, W, f64, hosts, same
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F


@pytest.mark.parametrize("backend", BACKENDS)
def test_while_loop_stops_by_value(backend, programs):
    def fn(x, most):
        return kiln.while_loop(
            lambda n, y: (y.sum() < 1000.0) & (n < most),
            lambda n, y: (n + 1, y * 1.5 + W.detach()),
            (kiln.tensor(0), x),
        )

    run = kiln.compile(fn, backend=backend)
    for most in (0, 3, 100):
        n, y = run(f64(4, 4).abs(), kiln.tensor(most))
        want_n, want_y = fn(f64(4, 4).abs(), kiln.tensor(most))
        assert n.item() == want_n.item()
        same([y], [want_y])
    assert not hosts(programs)


@in_turn("backend", BACKENDS, most=[0, 1, 2, 5, 17])
def test_gradient_of_a_while_loop_of_any_length(backend, most, programs):
    def fn(x, most):
        def body(n, y, z):
            return n + 1, kiln.tanh(F.linear(y, W, B)) + z[0], z * 1.1 + y.mean()

        n, y, z = kiln.while_loop(lambda n, y, z: n < most, body, (kiln.tensor(0), x, x[:2] * 2))
        return (
            n,
            y,
            *kiln.autograd.grad((y * y).sum() + z.sin().sum(), [x, W, B], allow_unused=True),
        )

    run = kiln.compile(fn, backend=backend)
    x = f64(4, 4).requires_grad_()
    want = fn(x, kiln.tensor(most))
    got = run(x, kiln.tensor(most))
    if not most:  # the program can't know that a weight is not used
        want = [
            kiln.zeros_like(t) if g is None else g
            for g, t in zip(want, (None, None, x, W, B), strict=True)
        ]
    same(got, want)
    assert not hosts(programs)


def test_one_program_differentiates_while_loops_of_all_lengths():
    def fn(x, limit):
        (y,) = kiln.while_loop(lambda y: y.sum() < limit, lambda y: y * y * 0.5 + 1, (x,))
        return kiln.autograd.grad(y.sum(), x)

    run, x = kiln.compile(fn), f64(3).requires_grad_()
    for limit in (-100.0, 5.0, 50.0, 1e6):
        same(run(x, kiln.tensor(limit, dtype=kiln.float64)), fn(x, kiln.tensor(limit)))
    assert len(run.entries) == 1


def test_gradient_of_a_while_loop_in_a_scan_and_of_a_scan_in_a_while_loop():
    def inner(n, y):
        c, _ = kiln.scan(lambda c, r: (c * r.cos() + W[0], None), y, y.expand(3, 4))
        return n + 1, c

    def fn(h, xs):
        def step(c, x):
            _, c = kiln.while_loop(
                lambda n, y: (n < 4) & (y.sum() < 20), inner, (kiln.tensor(0), c + x)
            )
            return c.sin(), c

        c, ys = kiln.scan(step, h, xs)
        return kiln.autograd.grad(c.sum() + (ys * ys).sum(), [h, xs, W])

    h, xs = f64(4).requires_grad_(), f64(3, 4, seed=3).requires_grad_()
    same(kiln.compile(fn)(h, xs), fn(h, xs))


def test_second_gradient_of_a_while_loop():
    def fn(x, w):
        _, y = kiln.while_loop(
            lambda n, y: n < 3, lambda n, y: (n + 1, y * w + y.sin()), (kiln.tensor(0), x)
        )
        (g,) = kiln.autograd.grad((y * y).sum(), [x], create_graph=True)
        return kiln.autograd.grad((g * g).sum(), [x, w])

    x, w = f64(3).requires_grad_(), f64(3, seed=4).requires_grad_()
    same(kiln.compile(fn)(x, w), fn(x, w))


def test_the_gradient_of_a_while_loop_sees_the_random_numbers_of_its_steps():
    def fn(x):
        _, y = kiln.while_loop(
            lambda n, y: n < 6,
            lambda n, y: (n + 1, F.dropout(y * 1.2, 0.3) + y.cos()),
            (kiln.tensor(0), x),
        )
        return y, *kiln.autograd.grad(y.sum(), [x]), kiln.rand(2)

    x = f64(20).requires_grad_()
    kiln.manual_seed(7)
    want = fn(x)
    kiln.manual_seed(7)
    same(kiln.compile(fn)(x), want)
