"""Kernels that programs don't need: one pass over memory instead of several, and no store that nobody reads."""

import re

import numpy as np

import kiln
from kiln.config import context


def kernels(fn, *args, capsys):
    capsys.readouterr()
    with context(debug=2, cache_size_mb=0):
        result = kiln.compile(fn)(*args)
    found = re.findall(r"us .* GFLOP/s  \S+\s+(<.*>)", capsys.readouterr().err)
    return result, found


def x4(seed=0):
    return kiln.tensor(np.random.default_rng(seed).standard_normal((4, 6, 5, 5)).astype(np.float32))


def test_the_sum_of_what_a_kernel_stores_costs_no_kernel(capsys):
    w = kiln.tensor(np.random.default_rng(1).standard_normal((6, 6, 3, 3)).astype(np.float32))

    def fn(x):
        y = (x * 2).exp()
        z = kiln.nn.functional.conv2d(
            y, w
        )  # y has to be in memory, and another kernel comes between
        return z, y.sum((0, 2, 3)), (y * y).sum((0, 2, 3))

    (z, s, t), names = kernels(fn, x4(), capsys=capsys)
    assert len([n for n in names if "convolution" not in n]) == 1
    for got, want in zip((z, s, t), fn(x4()), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=2e-4, atol=1e-4)


def test_a_reduction_with_several_readers_is_done_once(capsys):
    def fn(x):
        mean = x.sum((0, 2, 3)) / 100
        return mean.exp(), mean.sin(), mean * 2

    got, names = kernels(fn, x4(), capsys=capsys)
    assert len([n for n in names if "convolution" not in n]) == 1
    for a, b in zip(got, fn(x4()), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_only_read_by_its_own_kernel_is_not_written(capsys):
    def fn(x):
        y = (x.exp() + 1).log().sqrt().tanh()
        return kiln.where(y > 0.5, y, y * y)

    with context(debug=3, cache_size_mb=0):
        got = kiln.compile(fn)(x4())
    assert len(re.findall(r"^ *b\d+\[.*\] = ", capsys.readouterr().err, re.M)) == 1
    np.testing.assert_allclose(got.numpy(), fn(x4()).numpy(), rtol=1e-5, atol=1e-6)


def test_running_statistics_move_in_place_and_the_old_ones_are_still_read():
    running = kiln.zeros(6)

    def fn(x):
        old = running * 1
        running.mul_(0.9).add_(x.sum((0, 2, 3)), alpha=0.1)
        return old + x.sum((0, 2, 3)) * running

    step = kiln.compile(fn)
    for seed in range(3):
        before = running.numpy().copy()
        got = step(x4(seed)).numpy()
        sums = x4(seed).numpy().sum((0, 2, 3))
        after = before * np.float32(0.9) + sums * np.float32(0.1)
        np.testing.assert_allclose(running.numpy(), after, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got, before + sums * after, rtol=1e-3, atol=1e-3)


def indices():
    return kiln.tensor([[3, 0, 3], [1, 2, 3]])


def test_what_rows_are_added_to_is_written_once_where_the_result_lies(capsys):
    w, g = kiln.ones(4, 8, requires_grad=True), kiln.randn(2, 3, 8)

    def fn(i, g):
        y = kiln.nn.functional.embedding(i, w)
        return kiln.autograd.grad(y, w, g)[0]

    got, names = kernels(fn, indices(), g, capsys=capsys)
    assert len([n for n in names if "index_add" in n]) == 2  # zeros, rows
    assert not [n for n in names if "full" in n]
    np.testing.assert_allclose(got.numpy(), fn(indices(), g).numpy(), rtol=1e-6, atol=1e-6)


def test_rows_added_in_place_copy_nothing(capsys):
    table, g = kiln.zeros(4, 3), kiln.randn(3, 3)

    def fn(i, g):
        table.index_add_(0, i, g)

    _, names = kernels(fn, indices()[0], g, capsys=capsys)
    assert [n for n in names if "any" not in n] == ["<index_add f32[4, 3]>"]
    want = np.zeros((4, 3), np.float32)
    np.add.at(want, [3, 0, 3], g.numpy())
    np.testing.assert_allclose(table.numpy(), want, rtol=1e-6, atol=1e-6)


def test_a_scan_that_adds_rows_to_its_carry_copies_nothing(capsys):
    g = kiln.randn(6, 3)

    def fn(g):
        return kiln.scan(
            lambda c, x: (c.clone().index_add(0, kiln.arange(1), x[None]), None),
            kiln.zeros(4, 3),
            g,
        )[0]

    got, names = kernels(fn, g, capsys=capsys)
    assert [n for n in names if "index_add" in n] == ["<index_add f32[4, 3]>"]
    np.testing.assert_allclose(got.numpy()[0], g.numpy().sum(0), rtol=1e-5, atol=1e-6)
