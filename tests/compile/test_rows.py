"""Nests over the same rows become one kernel that computes what they did, and stores no more than is read."""

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln.config import context


def program_of(run):
    return run.entries[0].root.plan.program


def check(fn, *arrays, kernels=None, rtol=1e-5):
    xs = [kiln.tensor(a) for a in arrays]
    want = fn(*xs)
    run = kiln.compile(fn)
    got = run(*xs)
    many = isinstance(want, tuple | list)
    for g, w in zip(got if many else [got], want if many else [want], strict=True):
        assert g.dtype is w.dtype
        assert g.shape == w.shape
        np.testing.assert_allclose(
            g.detach().double().numpy(),
            w.detach().double().numpy(),
            rtol=rtol,
            atol=rtol,
            equal_nan=True,
        )
    if kernels is not None:
        assert len(program_of(run).recipe.kernels) <= kernels
    return run


def rows(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SHAPES = [(1, 1), (1, 7), (5, 1), (3, 17), (40, 10), (4, 3, 33), (2, 5, 2, 64), (300, 130)]


FUNCTIONS = {
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:]),
    "logsumexp": lambda x: x.logsumexp(-1),
    "var": lambda x: x.var(-1, correction=0),
    "centred": lambda x: x - x.mean(-1, True),
}


@in_turn("shape", [s for s in SHAPES if s != (3, 17)], always=[(3, 17)], name=FUNCTIONS)
def test_a_function_of_rows_is_one_kernel(name, shape):
    check(FUNCTIONS[name], rows(*shape), kernels=1 if shape[-1] > 1 else None, rtol=1e-4)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_any_dimension_may_be_the_row(dim):
    check(lambda x: (F.softmax(x, dim), F.log_softmax(x * 2, dim)), rows(6, 20, 9))


@pytest.mark.parametrize("shape", [(1, 300_000), (3, 70_001), (20_000, 3)])
def test_long_rows_and_many_short_ones(shape):
    check(lambda x: (F.softmax(x, -1), F.layer_norm(x, x.shape[-1:])), rows(*shape), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes(dtype):
    x = kiln.tensor(rows(9, 70)).to(getattr(kiln, dtype))
    for fn in (lambda x: F.softmax(x, -1), lambda x: F.layer_norm(x.exp() + x, (70,))):
        got, want = kiln.compile(fn)(x), fn(x)
        assert got.dtype is want.dtype
        tolerance = {"float64": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
        np.testing.assert_allclose(
            got.double().numpy(), want.double().numpy(), rtol=tolerance, atol=tolerance
        )


def test_rows_of_nan_and_infinity():
    x = rows(5, 40)
    x[0, 3], x[1, 7], x[2, 0], x[3] = np.nan, np.inf, -np.inf, -np.inf
    with np.errstate(all="ignore"):
        check(lambda x: (F.softmax(x, -1), F.log_softmax(x, -1), x.amax(-1)), x)


def test_empty_rows():
    check(lambda x: (F.softmax(x, -1), x.sum(-1), F.softmax(x, 0)), rows(0, 5))
    check(lambda x: (F.softmax(x, -1), x.sum(-1)), rows(5, 0))


def test_what_is_read_elsewhere_is_still_stored():
    def fn(x, w):
        shifted = x - x.amax(-1, True)
        e = shifted.exp()
        s = e.sum(-1, True)
        return e @ w, e / s, s, shifted

    check(fn, rows(12, 32), rows(32, 8), rtol=1e-4)


def test_the_gradients_of_norms_and_losses_are_one_kernel():
    def norm(x, g):
        x.requires_grad = True
        return kiln.autograd.grad(F.layer_norm(x, (64,)), x, g)[0]

    def soft(x, g):
        x.requires_grad = True
        return kiln.autograd.grad(F.softmax(x, -1), x, g)[0]

    for fn in (norm, soft):
        check(
            lambda x, g, fn=fn: fn(x * 1, g),
            rows(30, 64),
            rows(30, 64, seed=1),
            kernels=1,
            rtol=1e-4,
        )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_keeps_no_probabilities_in_memory(reduction):
    y = np.random.default_rng(1).integers(0, 500, 64)
    y[5] = -100

    def fn(x, y):
        x = x * 1
        x.requires_grad = True
        loss = F.cross_entropy(x, y, reduction=reduction)
        return loss, kiln.autograd.grad(loss.sum(), x)[0]

    x = rows(64, 500)
    run = check(fn, x, y)
    assert program_of(run).recipe.arena_bytes < x.nbytes / 2


def test_gathered_elements_of_an_expression():
    i = np.random.default_rng(0).integers(0, 50, (6, 2))
    fns = [
        lambda x, b, i: (x.exp() * 2 + b).gather(1, i),
        lambda x, b, i: (x - x.amax(1, True)).gather(1, i),
        lambda x, b, i: kiln.where(x > 0, x, b).gather(1, i),
        lambda x, b, i: (x + b.t().contiguous().t()).to(kiln.float64).gather(-1, i),
    ]
    for fn in fns:
        check(fn, rows(6, 50), rows(6, 50, seed=2), i)
    check(lambda x, i: (x + 1).gather(0, i[:2] % 6), rows(6, 2), i)
    with pytest.raises(IndexError):
        kiln.compile(fns[0])(kiln.ones(6, 50), kiln.ones(6, 50), kiln.full((6, 2), 50))


def test_an_elementwise_chain_needs_the_memory_of_one_result():
    def fn(x, w):
        for _ in range(6):
            x = (x @ w).exp().clamp(max=3)
            x = x - x.sum(1, True)
        return x.sum()

    run = check(fn, rows(256, 64), rows(64, 64) * 0.1, rtol=1e-3)
    assert program_of(run).recipe.arena_bytes <= 2.5 * 256 * 64 * 4


def test_updates_in_place_by_nests_of_several_stages():
    def fn(x):
        x.copy_(F.softmax(x, -1))
        return x.sum(-1)

    a, b = (kiln.tensor(rows(40, 33)) for _ in range(2))
    run = kiln.compile(fn)
    for _ in range(2):
        np.testing.assert_allclose(run(a).numpy(), fn(b).numpy(), rtol=1e-5)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(3000, 64), (70, 5000), (1000, 1000), (4, 3000, 16)])
def test_sums_and_positions_over_leading_dimensions(shape):
    check(lambda x: (x.sum(0), x.amax(0), x.argmax(0), (x * x).mean(0)), rows(*shape), rtol=1e-3)


def test_an_optimizer_step_is_one_kernel_for_each_parameter():
    p = kiln.tensor(rows(500, 40), requires_grad=True)
    p.grad = kiln.tensor(rows(500, 40, seed=1))
    opt = kiln.optim.AdamW([p], lr=1e-2)
    run = kiln.compile(opt.step)
    run()
    assert len(program_of(run).recipe.kernels) <= 2


def test_no_fuse_bisects():
    with context(no_fuse=True):
        check(lambda x: F.softmax(x, -1), rows(9, 40))
