"""Reductions, softmax and norms as loop nests, and random nests, against their meaning in NumPy."""

import random

import numpy as np
import pytest
from harness import levels
from nest_reference import DTYPE, check, launch, rng, unary_nest, values
from tests.turns import in_turn

from kiln.backends.cpu import schedule
from kiln.backends.cpu.loops import emit
from kiln.compile.loopnest import (
    IndexMap,
    LoopNest,
    Reduction,
    Stage,
    Store,
    apply,
    const,
    load,
    ref,
)


def reduce_nest(kind, dtype, outer, inner, at, result, final_at):
    r = Reduction(kind, load(0, dtype, at), result)
    out = Store(1, final_at, ref(0, 0, result))
    return LoopNest(outer, inner, (dtype, result), (Stage((r,)),), (out,))


@in_turn(
    "isa",
    levels(),
    kind=["sum", "prod", "max", "min", "argmax", "argmin"],
    size=[1, 5, 16, 37, 64, 131, 1000],
)
def test_row_reductions(isa, kind, size):
    x = values("f32", (6, size), 0.9, 1.1)
    result = "i64" if kind.startswith("arg") else "f32"
    nest = reduce_nest(
        kind, "f32", (6,), (size,), IndexMap(0, (size, 1)), result, IndexMap(0, (1, 0))
    )
    check(nest, [x, np.zeros(6, DTYPE[result])], isa, rtol=1e-4 if kind == "prod" else 3e-6)


@pytest.mark.parametrize("kind", ["sum", "max", "argmin"])
@pytest.mark.parametrize("shape", [(9, 1), (37, 5), (300, 70), (1000, 16)])
def test_column_reductions(isa, kind, shape):
    rows, cols = shape
    x = values("f32", shape)
    result = "i64" if kind.startswith("arg") else "f32"
    nest = reduce_nest(
        kind, "f32", (cols,), (rows,), IndexMap(0, (1, cols)), result, IndexMap(0, (1, 0))
    )
    check(nest, [x, np.zeros(cols, DTYPE[result])], isa, atol=1e-4)


@in_turn("isa", levels(), dtype=["f64", "f16", "bf16", "i8", "u8", "i32", "i64", "bool"])
def test_reductions_of_other_dtypes(isa, dtype):
    x = values(dtype, (3, 83))
    result = "i64" if dtype[0] in "iub" and dtype != "bf16" else dtype
    at, out = IndexMap(0, (83, 1)), IndexMap(0, (1, 0))
    check(
        reduce_nest("sum", dtype, (3,), (83,), at, result, out),
        [x, np.zeros(3, DTYPE[result])],
        isa,
    )
    check(
        reduce_nest("max", dtype, (3,), (83,), at, dtype, out), [x, np.zeros(3, DTYPE[dtype])], isa
    )
    check(
        reduce_nest("argmin", dtype, (3,), (83,), at, "i64", out), [x, np.zeros(3, np.int64)], isa
    )
    check(reduce_nest("any", dtype, (3,), (83,), at, "bool", out), [x, np.zeros(3, np.bool_)], isa)
    check(reduce_nest("all", dtype, (3,), (83,), at, "bool", out), [x, np.zeros(3, np.bool_)], isa)


@pytest.mark.parametrize("n", [1, 7, 16, 100, 4096, 400_001])
@pytest.mark.parametrize("kind", ["sum", "max", "argmax"])
def test_full_reductions(isa, kind, n):
    x = values("f32", (n,))
    result = "i64" if kind.startswith("arg") else "f32"
    nest = reduce_nest(kind, "f32", (), (n,), IndexMap(0, (1,)), result, IndexMap(0, (0,)))
    check(nest, [x, np.zeros(1, DTYPE[result])], isa, atol=1e-4 * n**0.5)


def test_full_sum_is_as_accurate_as_pairwise(isa):
    x = rng().random(3_000_000).astype(np.float32)
    nest = reduce_nest("sum", "f32", (), x.shape, IndexMap(0, (1,)), "f32", IndexMap(0, (0,)))
    out = np.zeros(1, np.float32)
    launch(emit(nest, isa), isa, [x, out])
    exact = x.sum(dtype=np.float64)
    assert abs(out[0] - exact) <= max(abs(x.sum() - exact), np.spacing(np.float32(exact)))


@pytest.mark.parametrize("layout", ["row", "column"])
@pytest.mark.parametrize("kind", ["argmax", "argmin", "max", "min"])
def test_nan_wins_and_ties_go_first(isa, kind, layout):
    x = np.zeros((5, 90), np.float32)
    x[0, [40, 41]] = np.nan
    x[1] = -np.inf if kind.endswith("max") else np.inf
    x[2, [17, 33, 88]] = 3 if kind.endswith("max") else -3
    x[4, [89]] = np.nan
    data = x if layout == "row" else np.ascontiguousarray(x.T)
    at = IndexMap(0, (90, 1) if layout == "row" else (1, 5))
    result = "i64" if kind.startswith("arg") else "f32"
    nest = reduce_nest(kind, "f32", (5,), (90,), at, result, IndexMap(0, (1, 0)))
    got = check(nest, [data, np.zeros(5, DTYPE[result])], isa)[1]
    if result == "i64":
        assert got.tolist() == [40, 0, 17, 0, 89]


def test_argmax_over_two_dims_and_ties_across_chunks(isa):
    shape = (40, 9000)
    x = np.zeros(shape, np.int32)
    x[31, 5], x[31, 4], x[35, 1] = 9, 9, 9
    nest = reduce_nest(
        "argmax", "i32", (), shape, IndexMap(0, (9000, 1)), "i64", IndexMap(0, (0, 0))
    )
    kernel = emit(nest, isa)
    assert len(kernel.phases()) == 2
    assert check(nest, [x, np.zeros(1, np.int64)], isa)[1][0] == 31 * 9000 + 4


def test_empty_inner_domains_give_identities(isa):
    for kind, want in (("sum", 0), ("prod", 1), ("max", -np.inf)):
        nest = reduce_nest(kind, "f32", (3,), (0,), IndexMap(0, (0, 1)), "f32", IndexMap(0, (1, 0)))
        out = np.full(3, 9, np.float32)
        launch(emit(nest, isa), isa, [np.zeros(0, np.float32), out])
        assert (out == want).all()


def softmax(rows, cols):
    at = IndexMap(0, (cols, 1))
    x = load(0, "f32", at)
    e = apply("exp", apply("sub", x, ref(0, 0, "f32")))
    stages = (
        Stage((Reduction("max", x, "f32"),)),
        Stage((Reduction("sum", e, "f32"),), (Store(1, at, e),)),
        Stage((), (Store(1, at, apply("div", load(1, "f32", at), ref(1, 0, "f32"))),)),
    )
    return LoopNest((rows,), (cols,), ("f32", "f32"), stages)


@pytest.mark.parametrize("shape", [(1, 1), (3, 10), (5, 64), (9, 1000), (1, 200_000), (270, 1000)])
def test_softmax(isa, shape):
    x = values("f32", shape, -30, 30)
    got = check(softmax(*shape), [x, np.zeros_like(x)], isa, rtol=1e-5)[1]
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)


def layer_norm(rows, cols):
    at, row, col = IndexMap(0, (cols, 1)), IndexMap(0, (1, 0)), IndexMap(0, (0, 1))
    x = load(0, "f32", at)
    n = const(cols, "f32")
    mean = apply("div", ref(0, 0, "f32"), n)
    centred = apply("sub", x, mean)
    scale = apply("rsqrt", apply("add", apply("div", ref(1, 0, "f32"), n), const(1e-5, "f32")))
    y = apply(
        "add", apply("mul", apply("mul", centred, scale), load(1, "f32", col)), load(2, "f32", col)
    )
    stages = (
        Stage((Reduction("sum", x, "f32"),)),
        Stage((Reduction("sum", apply("mul", centred, centred), "f32"),)),
        Stage((), (Store(3, at, y),)),
    )
    final = (Store(4, row, mean), Store(5, row, scale))
    return LoopNest((rows,), (cols,), ("f32",) * 6, stages, final)


@pytest.mark.parametrize("shape", [(2, 3), (9, 64), (5, 1000), (1, 150_000)])
def test_layer_norm(isa, shape):
    rows, cols = shape
    x, w, b = values("f32", shape), values("f32", (cols,)), values("f32", (cols,))
    outs = [np.zeros_like(x), np.zeros(rows, np.float32), np.zeros(rows, np.float32)]
    check(layer_norm(*shape), [x, w, b, *outs], isa, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (2, 8, 16, 16), (64, 3, 40, 40)])
def test_batch_norm_statistics(isa, shape):
    n, c, h, w = shape
    x = values("f32", shape)
    at = IndexMap(0, (h * w, c * h * w, w, 1))
    v = load(0, "f32", at)
    sums = (Reduction("sum", v, "f32"), Reduction("sum", apply("mul", v, v), "f32"))
    out = IndexMap(0, (1, 0, 0, 0))
    final = (Store(1, out, ref(0, 0, "f32")), Store(2, out, ref(0, 1, "f32")))
    nest = LoopNest((c,), (n, h, w), ("f32",) * 3, (Stage(sums),), final)
    check(nest, [x, np.zeros(c, np.float32), np.zeros(c, np.float32)], isa, rtol=1e-4, atol=1e-2)


def test_middle_axis_and_huge_ratios(isa):
    x = values("f32", (3, 50, 21))
    nest = reduce_nest(
        "sum", "f32", (3, 21), (50,), IndexMap(0, (1050, 1, 21)), "f32", IndexMap(0, (21, 1, 0))
    )
    check(nest, [x, np.zeros((3, 21), np.float32)], isa, atol=1e-4)
    tall = values("f32", (300_000, 3))
    nest = reduce_nest(
        "sum", "f32", (3,), (300_000,), IndexMap(0, (1, 3)), "f32", IndexMap(0, (1, 0))
    )
    check(nest, [tall, np.zeros(3, np.float32)], isa, atol=1)
    nest = reduce_nest(
        "max", "f32", (300_000,), (3,), IndexMap(0, (3, 1)), "f32", IndexMap(0, (1, 0))
    )
    check(nest, [tall, np.zeros(300_000, np.float32)], isa)


def test_tasks_depend_on_shape_only_and_run_in_any_order(isa):
    nest = softmax(1, 200_000)
    x = values("f32", (1, 200_000))
    kernel = emit(nest, isa)
    assert max(k.ntasks for k in kernel.phases()) > 1
    outs = []
    for order in (range, lambda n: reversed(range(n))):
        out = np.zeros_like(x)
        launch(kernel, isa, [x, out], order)
        outs.append(out)
    np.testing.assert_array_equal(*outs)
    assert emit(unary_nest(lambda v: v, "f32", "f32", (100,)), isa).ntasks == 1


SIZES = (1, 2, 3, 5, 8, 16, 17, 33, 40, 130)


class RandomNest:
    """A nest of random dims, layouts, guards, stages and stores, exact in every dtype it uses."""

    def __init__(self, seed):
        r = self.r = random.Random(seed)
        n = r.randint(1, 4)
        self.dims = [r.choice(SIZES) for _ in range(n)]
        while np.prod(self.dims) > 20000:
            self.dims[r.randrange(n)] = 2
        self.dtype = r.choice(["f32", "f32", "f64", "i32", "bf16", "i8"])
        self.n_outer = r.randint(0, n)
        self.buffers, self.arrays, self.origins = [], [], []
        self.leaves = [self.leaf() for _ in range(r.randint(1, 3))]
        self.refs, stages, final = [], [], []
        for number in range(r.randint(1, 3)):
            stages.append(self.stage(number, final))
        outer, inner = tuple(self.dims[: self.n_outer]), tuple(self.dims[self.n_outer :])
        self.nest = LoopNest(outer, inner, tuple(self.buffers), tuple(stages), tuple(final)).check()

    def buffer(self, dtype, array, origin=0):
        self.buffers.append(dtype)
        self.arrays.append(array)
        self.origins.append(origin)
        return len(self.buffers) - 1

    def leaf(self):
        r, dims = self.r, self.dims
        strides, step = [0] * len(dims), 1
        for d in r.sample(range(len(dims)), len(dims)):
            if r.random() < 0.75:
                strides[d] = step * r.choice([1, 1, 1, -1])
                step *= dims[d]
        origin = sum(-s * (n - 1) for s, n in zip(strides, dims, strict=True) if s < 0)
        bounds = [
            (d, r.randint(0, 1), n - r.randint(0, 1))
            for d, n in enumerate(dims)
            if n > 2 and r.random() < 0.15
        ]
        k = self.buffer(self.dtype, values(self.dtype, (step,)), origin)
        return load(k, self.dtype, IndexMap(0, tuple(strides), tuple(bounds)))

    def expr(self, depth):
        if depth == 0:
            return self.r.choice([*self.leaves, const(2, self.dtype)])
        op = self.r.choice(["add", "mul", "maximum", "sub", "where", "abs"])
        args = [self.expr(depth - 1) for _ in range({"abs": 1, "where": 4}.get(op, 2))]
        if op == "where":
            args = [apply("lt", *args[:2]), *args[2:]]
        return apply(op, *args)

    def target(self, dtype, dims):
        strides, step = [0] * len(self.dims), 1
        order = dims[::-1] if self.r.random() < 0.6 else self.r.sample(dims, len(dims))
        for d in order:
            strides[d] = step
            step *= self.dims[d]
        return self.buffer(dtype, np.zeros(step, DTYPE[dtype])), IndexMap(0, tuple(strides))

    def stage(self, number, final):
        r = self.r
        e = self.expr(2)
        for at in self.refs:
            if r.random() < 0.7:
                e = apply("sub", e, ref(*at, self.dtype))
        reductions, stores = [], []
        if r.random() < 0.7:
            kind = r.choice(["sum", "max", "min", "argmax", "argmin"])
            dtype = "i64" if kind.startswith("arg") else self.dtype
            if kind == "sum":
                dtype = {"bf16": "f32", "i8": "i64"}.get(dtype, dtype)
            reductions.append(Reduction(kind, e, dtype))
            if dtype == self.dtype:
                self.refs.append((number, 0))
            buffer, at = self.target(dtype, list(range(self.n_outer)))
            final.append(Store(buffer, at, ref(number, 0, dtype)))
        if not reductions or r.random() < 0.5:
            buffer, at = self.target(self.dtype, list(range(len(self.dims))))
            stores.append(Store(buffer, at, e))
        return Stage(tuple(reductions), tuple(stores))


@in_turn("isa", levels(), seed=range(60))
def test_random_nests(isa, seed, monkeypatch):
    if seed % 2:  # make small nests split into tasks and phases too
        monkeypatch.setattr(schedule, "TASK_COST", 500)
    case = RandomNest(seed)
    check(case.nest, case.arrays, isa, case.origins, rtol=2e-4, atol=2e-3)
