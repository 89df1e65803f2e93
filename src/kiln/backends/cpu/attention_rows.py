"""Attention of short sequences and of few queries: one kernel for all sizes and strides, query by query.

The scores of a query stay in the cache nearest to the processor. Where there are many of them, kernels made for
the shape take several queries at once (`attention`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod

import numpy as np

from ...runtime.blocks import allocator
from . import jit
from .ir import Builder, Module, Val
from .isa import make_isa, requested_isa
from .rows import ELEMENT, Row, Runner

_TASK = 1 << 16
"""Products of elements in a task."""
_BRIEF = 1 << 17  # products that take less time than letting go of the GIL may cost
_ARRAYS = 7  # out, lse, query, key, value, room for scores, sizes


class _Sizes:
    """The words of the array of sizes, by name."""

    NAMES = (
        "heads", "each", "shared", "length", "keys", "width", "out_width", "causal", "chunk", "scale",
        "qn", "qh", "ql", "kn", "kh", "kl", "vn", "vh", "vl",
    )  # fmt: skip

    def __init__(self, b: Builder, at: Val):
        self.b, self.at = b, at

    def __getattr__(self, name: str) -> Val:
        place = self.b.gep(self.at, "i64", self.b.i64(self.NAMES.index(name)))
        return self.b.load("double" if name == "scale" else "i64", place, 8)


@lru_cache(16)
def _kernel(d: np.dtype, isa_name: str | None) -> int:
    """The address of the kernel: its arguments are addresses, the last of them that of the sizes."""
    isa = make_isa(isa_name)
    element, size = ELEMENT[d]
    module, symbol = Module(), f"attention_rows_{element}_{isa.name}"
    b = module.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")])
    args, task, _ = b.params
    out, lse, query, key, value, room, at = (
        b.load("ptr", b.gep(args, "i64", b.i64(i)), 8) for i in range(_ARRAYS)
    )
    s = _Sizes(b, at)
    heads, each, shared, length, keys, chunk = s.heads, s.each, s.shared, s.length, s.keys, s.chunk
    width, out_width, scale = s.width, s.out_width, s.scale
    causal = b.icmp("ne", s.causal, b.i64(0))
    if element == "float":
        scale = b.conv("fptrunc", scale, "float")
    scores = b.gep(room, element, b.mul(task, keys))

    def row(cols: Val) -> Row:
        return Row(b, isa, element, size, cols, (b.i64(0), b.i64(0)), scale)

    def place(array: Val, *terms: tuple[Val, Val]) -> Val:
        for i, stride in terms:
            array = b.gep(array, element, b.mul(i, stride))
        return array

    features, results = row(width), row(out_width)
    zero, times = features.constant(0.0), b.splat(scale, features.lanes)
    strides = {n: getattr(s, n) for n in _Sizes.NAMES[-9:]}
    first = b.mul(task, chunk)
    end = b.add(first, chunk)
    with b.loop(first, b.select(b.icmp("slt", end, heads), end, heads)) as head:
        n = b.bin("sdiv", head.i, each)
        h = b.sub(head.i, b.mul(n, each))
        group = b.bin("sdiv", h, shared)
        q = place(query, (n, strides["qn"]), (h, strides["qh"]))
        k = place(key, (n, strides["kn"]), (group, strides["kh"]))
        v = place(value, (n, strides["vn"]), (group, strides["vh"]))
        with b.loop(b.i64(0), length) as line:
            i = line.i
            seen = b.add(i, b.i64(1))
            fewer = b.bin("and", causal, b.icmp("slt", seen, keys))
            seen = b.select(fewer, seen, keys)
            here = place(q, (i, strides["ql"]))
            with b.loop(b.i64(0), seen) as each_key:
                there = place(k, (each_key.i, strides["kl"]))
                m = features.math

                def multiply(at: Val, mask: Val | None, now: list[Val]) -> list[Val]:
                    x = features.load(here, at, mask, zero)
                    return [m.fma(x, features.load(there, at, mask, zero), now[0])]

                (dot,) = features.sweep([zero], multiply)
                dot = m.mul(features.joined(dot, m.add), times)
                b.store(b.extract(dot, 0), b.gep(scores, element, each_key.i), size)
            one = row(seen)
            low, m = one.constant(float("-inf")), one.math
            (top,) = one.sweep(
                [low],
                lambda at, mask, now: [one.larger(now[0], one.load(scores, at, mask, low))],
            )
            top = one.joined(top, one.larger)

            def add(at: Val, mask: Val | None, now: list[Val]) -> list[Val]:
                e = m.exp(m.sub(one.load(scores, at, mask, zero), top))
                one.store(e, scores, at, mask)
                return [m.add(now[0], one.live(e, mask))]

            (total,) = one.sweep([zero], add)
            total = one.joined(total, m.add)
            known = b.extract(m.add(top, m.log(total)), 0)
            b.store(known, b.gep(lse, element, b.add(b.mul(head.i, length), i)), size)
            share = b.bin("fdiv", one.constant(1.0), total)
            lines = b.add(b.mul(b.add(b.mul(n, length), i), each), h)
            to = place(out, (lines, out_width))

            def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
                with b.loop(b.i64(0), seen, 1, [zero]) as each_key:
                    p = b.load(element, b.gep(scores, element, each_key.i), size)
                    there = place(v, (each_key.i, strides["vl"]))
                    x = results.load(there, at, mask, zero)
                    p = b.splat(p, results.lanes)
                    each_key.next(results.math.fma(p, x, each_key.carried[0]))
                results.store(results.math.mul(each_key.results[0], share), to, at, mask)
                return []

            results.sweep([], put)
    b.ret()
    return jit.build([module.text()], isa)(symbol)


@lru_cache(256)
def _runner(d: np.dtype, isa: str | None, tasks: int, brief: bool) -> Runner:
    return Runner(_kernel(d, isa), _ARRAYS, tasks, brief)


def prepared(
    shapes: tuple[tuple[int, ...], ...], strides: tuple[tuple[int, ...], ...], causal: bool, scale: float, d: np.dtype
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """`attention` of float32 or float64 query, key and value of four dimensions, as a function of them.

    None of the sizes is 0, and the last dimension is dense.
    """
    (n, h, length, e), (_, groups, keys, _), (*_, v) = shapes
    work = length * keys * (e + v)
    chunk = max(1, _TASK // work)
    tasks = -(-n * h // chunk)
    brief = tasks == 1 and n * h * work < _BRIEF
    known = [n * h, h, h // groups, length, keys, e, v, int(causal), chunk, 0]
    sizes = np.array([*known, *[s // d.itemsize for x in strides for s in x[:3]]], np.int64)
    sizes[9:10].view(np.float64)[0] = scale
    run = _runner(d, requested_isa(), tasks, brief).function()
    out_shape, lse_shape, room = (n, length, h, v), (n, h, length), tasks * keys
    empty = allocator(prod(out_shape) * d.itemsize)

    def call(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out, lse = empty(out_shape, d), np.empty(lse_shape, d)
        run(out, lse, q, k, v, np.empty(room, d), sizes)
        return out, lse

    return call
