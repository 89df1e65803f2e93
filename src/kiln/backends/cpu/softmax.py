"""Softmax and log softmax along rows of any number and length, and their gradients: see `rows`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from ...runtime.blocks import allocator
from .ir import Val
from .isa import requested_isa
from .rows import Kind, Row, plan


def _largest(r: Row, x: Val) -> Val:
    low = r.constant(float("-inf"))
    (m,) = r.sweep([low], lambda at, mask, now: [r.larger(now[0], r.load(x, at, mask, low))])
    return r.joined(m, r.larger)


def _softmax(r: Row, arrays: list[Val]) -> None:
    out, x, _ = map(r.here, arrays)
    b, zero, m = r.b, r.constant(0.0), _largest(r, x)

    def add(at: Val, mask: Val | None, now: list[Val]) -> list[Val]:
        e = r.math.exp(r.math.sub(r.load(x, at, mask, zero), m))
        r.store(e, out, at, mask)
        return [r.math.add(now[0], r.live(e, mask))]

    (s,) = r.sweep([zero], add)
    scale = b.bin("fdiv", r.constant(1.0), r.joined(s, r.math.add))

    def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        r.store(r.math.mul(r.load(out, at, mask, zero), scale), out, at, mask)
        return []

    r.sweep([], put)


def _log_softmax(r: Row, arrays: list[Val]) -> None:
    out, x, _ = map(r.here, arrays)
    zero, m = r.constant(0.0), _largest(r, x)

    def shifted(at: Val, mask: Val | None) -> Val:
        return r.math.sub(r.load(x, at, mask, zero), m)

    (s,) = r.sweep(
        [zero],
        lambda at, mask, now: [r.math.add(now[0], r.live(r.math.exp(shifted(at, mask)), mask))],
    )
    log = r.math.log(r.joined(s, r.math.add))

    def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        r.store(r.math.sub(shifted(at, mask), log), out, at, mask)
        return []

    r.sweep([], put)


def _softmax_grad(r: Row, arrays: list[Val]) -> None:
    out, g, y = map(r.here, arrays)
    zero = r.constant(0.0)

    def both(at: Val, mask: Val | None) -> tuple[Val, Val]:
        p = r.load(y, at, mask, zero)
        return r.math.mul(r.load(g, at, mask, zero), p), p

    (d,) = r.sweep([zero], lambda at, mask, now: [r.math.add(now[0], both(at, mask)[0])])
    d = r.joined(d, r.math.add)

    def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        h, p = both(at, mask)
        r.store(r.math.sub(h, r.math.mul(p, d)), out, at, mask)
        return []

    r.sweep([], put)


def _log_softmax_grad(r: Row, arrays: list[Val]) -> None:
    out, g, y = map(r.here, arrays)
    zero = r.constant(0.0)
    (d,) = r.sweep([zero], lambda at, mask, now: [r.math.add(now[0], r.load(g, at, mask, zero))])
    d = r.joined(d, r.math.add)

    def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        p = r.math.exp(r.load(y, at, mask, zero))
        r.store(r.math.sub(r.load(g, at, mask, zero), r.math.mul(p, d)), out, at, mask)
        return []

    r.sweep([], put)


_KINDS: dict[str, Kind] = {
    "softmax": _softmax, "log_softmax": _log_softmax,
    "softmax_grad": _softmax_grad, "log_softmax_grad": _log_softmax_grad,
}  # fmt: skip


def prepared(kind: str, shape: tuple[int, ...], d: np.dtype) -> Callable[..., np.ndarray]:
    """A kind along the last dimension as a function of C-contiguous float32 or float64 arrays with elements, of one shape.

    Gradients are given those of the result, and the result; others the input twice.
    """
    run = plan(kind, _KINDS[kind], 3, shape, 1, d, requested_isa()).function()
    empty = allocator(prod(shape) * d.itemsize)

    def call(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = empty(shape, d)
        run(out, x, y)
        return out

    return call
