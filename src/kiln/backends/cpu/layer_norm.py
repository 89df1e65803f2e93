"""Layer norm of rows of any number and length, and its three gradients in one kernel: see `rows`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod

import numpy as np

from ...runtime.blocks import allocator
from .ir import Val
from .isa import requested_isa
from .rows import Kind, Row, plan


def _count(r: Row) -> Val:
    """1 / the number of a row's elements, in all lanes."""
    n = r.b.splat(r.b.conv("sitofp", r.cols, r.element), r.lanes)
    return r.b.bin("fdiv", r.constant(1.0), n)


def _total(r: Row, value: Val) -> Val:
    return r.joined(value, r.math.add)


def _rstd(r: Row, squares: Val, share: Val) -> Val:
    """1 / the deviation, from a sum of squares."""
    var = r.math.add(r.math.mul(squares, share), r.b.splat(r.number, r.lanes))
    return r.b.bin("fdiv", r.constant(1.0), r.math.sqrt(var))


@cache
def _forward(weighted: bool, biased: bool) -> Kind:
    def write(r: Row, arrays: list[Val]) -> None:
        m, zero, share = r.math, r.constant(0.0), _count(r)
        out, x = map(r.here, arrays[:2])
        (s,) = r.sweep([zero], lambda at, mask, now: [m.add(now[0], r.load(x, at, mask, zero))])
        mean = m.mul(_total(r, s), share)

        def centered(at: Val, mask: Val | None) -> Val:
            return m.sub(r.load(x, at, mask, zero), mean)

        def square(at: Val, mask: Val | None, now: list[Val]) -> list[Val]:
            c = r.live(centered(at, mask), mask)
            return [m.fma(c, c, now[0])]

        rstd = _rstd(r, _total(r, r.sweep([zero], square)[0]), share)

        def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
            y = m.mul(centered(at, mask), rstd)
            if weighted:
                y = m.mul(y, r.load(arrays[2], at, mask, zero))
            if biased:
                y = m.add(y, r.load(arrays[3], at, mask, zero))
            r.store(y, out, at, mask)
            return []

        r.sweep([], put)

    return write


@cache
def _backward(weighted: bool) -> Kind:
    def write(r: Row, arrays: list[Val]) -> None:
        m, zero, share = r.math, r.constant(0.0), _count(r)
        out, g, x = map(r.here, arrays[:3])
        weight, dw, db = arrays[3], r.own(arrays[4]), r.own(arrays[5])

        def scaled(at: Val, mask: Val | None) -> Val:
            h = r.load(g, at, mask, zero)
            return m.mul(h, r.load(weight, at, mask, zero)) if weighted else h

        def sums(at: Val, mask: Val | None, now: list[Val]) -> list[Val]:
            return [m.add(now[0], r.load(x, at, mask, zero)), m.add(now[1], scaled(at, mask))]

        s, h = (m.mul(_total(r, v), share) for v in r.sweep([zero, zero], sums))

        def products(at: Val, mask: Val | None, now: list[Val]) -> list[Val]:
            c = r.live(m.sub(r.load(x, at, mask, zero), s), mask)
            return [m.fma(c, c, now[0]), m.fma(scaled(at, mask), c, now[1])]

        squares, inner = (_total(r, v) for v in r.sweep([zero, zero], products))
        rstd = _rstd(r, squares, share)
        inner = m.mul(m.mul(inner, share), rstd)  # the mean of h * xhat

        def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
            xhat = m.mul(m.sub(r.load(x, at, mask, zero), s), rstd)
            d = m.sub(m.sub(scaled(at, mask), h), m.mul(xhat, inner))
            r.store(m.mul(d, rstd), out, at, mask)
            if weighted:
                v = r.load(g, at, mask, zero)
                r.store(m.fma(v, xhat, r.load(dw, at, mask, zero)), dw, at, mask)
                r.store(m.add(v, r.load(db, at, mask, zero)), db, at, mask)
            return []

        r.sweep([], put)

    return write


def prepared(
    shape: tuple[int, ...], last: int, weighted: bool, biased: bool, eps: float, d: np.dtype
) -> Callable[..., np.ndarray]:
    """Layer norm over so many last dimensions, as a function of C-contiguous arrays: of input, weight and bias.

    They are float32 or float64 with elements; what there is none of is given as None.
    """
    name = "layer_norm" + "_w" * weighted + "_b" * biased
    kind = _forward(weighted, biased)
    run = plan(name, kind, 4, shape, last, d, requested_isa(), eps).function()
    empty = allocator(prod(shape) * d.itemsize)

    def call(x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None) -> np.ndarray:
        out = empty(shape, d)
        run(out, x, x if weight is None else weight, x if bias is None else bias)
        return out

    return call


def backward(
    g: np.ndarray, x: np.ndarray, last: int, weight: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The gradients of x, and with a weight those of weight and bias."""
    weighted = weight is not None
    name = "layer_norm_grad" + "_w" * weighted
    out = allocator(x.nbytes)(x.shape, x.dtype)
    run = plan(name, _backward(weighted), 6, x.shape, last, x.dtype, requested_isa(), eps)
    if weight is None:
        run(out, g, x, x, x, x)
        return out, None, None
    dw, db = np.zeros((2, run.tasks, *weight.shape), x.dtype)  # of each task's rows
    run(out, g, x, weight, dw, db)
    return out, np.add.reduce(dw, axis=0), np.add.reduce(db, axis=0)
