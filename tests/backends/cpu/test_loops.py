"""Loop nests compiled for every instruction set of this host, against their meaning in NumPy."""

import numpy as np
import pytest
from nest_reference import DTYPE, check, launch, philox, rng, rowmajor, unary_nest, values

from kiln.backends.cpu.loops import emit
from kiln.backends.cpu.schedule import plan
from kiln.compile.loopnest import (
    DTYPES,
    FLOATS,
    IndexMap,
    LoopNest,
    Reduction,
    Stage,
    Store,
    apply,
    bitcast,
    cast,
    const,
    elementwise,
    gather,
    index,
    load,
    ref,
    scalar,
)
from kiln.errors import KilnError
from kiln.ops.random import random_bits
from kiln.tensor import wrap

SHAPES = [(), (1,), (3,), (16,), (17,), (64,), (100,), (1000,), (7, 33), (0,), (4, 0, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_elementwise_any_size(isa, shape):
    x = values("f32", shape)
    nest = unary_nest(lambda v: apply("exp", apply("mul", v, v)), "f32", "f32", shape)
    check(nest, [x, np.zeros_like(x)], isa)


@pytest.mark.parametrize(
    "case", ["row", "column", "scalar", "outer", "transposed", "negative", "middle"]
)
def test_broadcast_and_strides(isa, case):
    shape = (5, 6, 37)
    full = IndexMap(0, rowmajor(shape))
    x, out = values("f32", shape), np.zeros(shape, np.float32)
    other, origin = {
        "row": (IndexMap(0, (0, 0, 1)), 0),
        "column": (IndexMap(0, (0, 1, 0)), 0),
        "scalar": (IndexMap(0, (0, 0, 0)), 0),
        "outer": (IndexMap(3, (2, 0, 0)), 0),
        "transposed": (IndexMap(0, (1, 5, 30)), 0),
        "negative": (IndexMap(5 * 6 * 37 - 1, (-222, -37, -1)), 0),
        "middle": (IndexMap(0, (37, 0, 1)), 0),
    }[case]
    y = values("f32", (5 * 6 * 37,), 1, 4)
    expr = apply("div", load(0, "f32", full), load(1, "f32", other))
    nest = elementwise(shape, ("f32", "f32", "f32"), [Store(2, full, expr)])
    check(nest, [x, y, out], isa, [0, origin, 0])


def test_transposed_copy_and_strided_store(isa):
    x = values("f32", (70, 45))
    nest = elementwise(
        (70, 45),
        ("f32", "f32"),
        [Store(1, IndexMap(0, (1, 70)), load(0, "f32", IndexMap(0, (45, 1))))],
    )
    got = check(nest, [x, np.zeros((45, 70), np.float32)], isa)[1]
    np.testing.assert_array_equal(got, x.T)
    strided = elementwise(
        (40,), ("f32", "f32"), [Store(1, IndexMap(1, (3,)), load(0, "f32", IndexMap(0, (2,))))]
    )
    check(strided, [values("f32", (80,)), np.zeros(130, np.float32)], isa)


@pytest.mark.parametrize("dtype", ["f32", "bool", "bf16", "i64"])
def test_pad_guards_read_nothing_outside(isa, dtype):
    rows, cols = 4, 21
    fill = const(7 if dtype != "bool" else True, dtype)
    at = IndexMap(-(2 * cols) - 3, (cols, 1), ((0, 2, 2 + rows), (1, 3, 3 + cols)))
    shape = (rows + 5, cols + 20)
    nest = elementwise(
        shape, (dtype, dtype), [Store(1, IndexMap(0, rowmajor(shape)), load(0, dtype, at, fill))]
    )
    x = values(dtype, (rows, cols))
    got = check(nest, [x, np.zeros(shape, DTYPE[dtype])], isa, exact=True)[1]
    want = np.full(shape, DTYPE[dtype](7), DTYPE[dtype])
    want[2 : 2 + rows, 3 : 3 + cols] = x
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("source", DTYPES)
def test_casts(isa, source):
    n = 53
    x = values(source, (n,))
    outs = [np.zeros(n, DTYPE[t]) for t in DTYPES]
    at = IndexMap(0, (1,))
    keep = [t for t in DTYPES if not (source in FLOATS and t in ("u8", "u16", "u32", "u64"))]
    stores = [Store(1 + DTYPES.index(t), at, cast(load(0, source, at), t)) for t in keep]
    check(elementwise((n,), (source, *DTYPES), stores), [x, *outs], isa, exact=True)
    if source in FLOATS:
        unsigned = [t for t in DTYPES if t not in keep]
        stores = [Store(1 + DTYPES.index(t), at, cast(load(0, source, at), t)) for t in unsigned]
        check(elementwise((n,), (source, *DTYPES), stores), [np.abs(x), *outs], isa, exact=True)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_every_half_converts_exactly(isa, dtype):
    """All 65536 bit patterns to float, and floats near every half back, ties included."""
    bits = np.arange(65536, dtype=np.uint16)
    halves = bits.view(DTYPE[dtype])
    nest = unary_nest(lambda v: cast(v, "f32"), dtype, "f32", (65536,))
    check(nest, [halves, np.zeros(65536, np.float32)], isa, exact=True)
    with np.errstate(all="ignore"):
        f = halves.astype(np.float32)
        f = f[np.isfinite(f)]
        nexts = np.nextafter(f, np.float32(np.inf), dtype=np.float32)
        up = np.append(f[1:], f[-1])
        f = np.concatenate(
            [f, nexts, (f + up) / 2, np.array([np.inf, -np.inf, np.nan, 1e38, 1e-30], np.float32)]
        )
    nest = unary_nest(lambda v: cast(v, dtype), "f32", dtype, f.shape)
    flats = [f, np.zeros(f.shape, DTYPE[dtype])]
    launch(emit(nest, isa), isa, flats)
    with np.errstate(all="ignore"):
        want = f.astype(DTYPE[dtype])
        np.testing.assert_array_equal(flats[1].astype(np.float32), want.astype(np.float32))


def test_float_to_int_truncates_and_wraps_like_torch(isa):
    x = np.array([1.9, -1.9, 300.0, -129.0, 65537.5, 2.0**31 - 128, -(2.0**31)], np.float32)
    for dtype in ("i8", "u8", "i16", "i32", "i64"):
        nest = unary_nest(lambda v, d=dtype: cast(v, d), "f32", dtype, x.shape)
        out = np.zeros(x.shape, DTYPE[dtype])
        launch(emit(nest, isa), isa, [x, out])
        np.testing.assert_array_equal(out, np.trunc(x).astype(np.int64).astype(DTYPE[dtype]))


FLOAT_OPS = [
    "neg",
    "abs",
    "sign",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "floor",
    "ceil",
    "trunc",
    "round",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "erf",
    "erfc",
    "sigmoid",
    "isnan",
    "isinf",
    "isfinite",
]
FLOAT_BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "floor_div",
    "rem",
    "fmod",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "atan2",
    "pow",
    "copysign",
    "nextafter",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
]
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -2.5, 3.5, 1e-40, 7.0, 2.0, -3.0, 1e30]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_float_vocabulary(isa, dtype):
    t = DTYPE[dtype]
    x = np.concatenate([np.array(EDGES), rng().uniform(-3, 3, 40)]).astype(t)
    at = IndexMap(0, (1,))
    built = [apply(op, load(0, dtype, at)) for op in FLOAT_OPS]
    check_many(built, [x], isa, dtype)
    a, b = (v.ravel() for v in np.meshgrid(x[:25], x[:25]))
    built = [
        apply(op, load(0, dtype, at), load(1, dtype, at))
        for op in FLOAT_BINARY
        if op != "floor_div"
    ]
    check_many(built, [a, b], isa, dtype)
    a, b = rng().uniform(-50, 50, (2, 200)).astype(t)
    check_many([apply("floor_div", load(0, dtype, at), load(1, dtype, at))], [a, b], isa, dtype)


def check_many(built, inputs, isa, dtype):
    at = IndexMap(0, (1,))
    n = len(inputs[0])
    k = len(inputs)
    stores = [Store(k + i, at, e) for i, e in enumerate(built)]
    nest = elementwise((n,), [dtype] * k + [e.dtype for e in built], stores)
    rtol = 1e-6 if dtype == "f32" else 3e-15
    check(
        nest, [*inputs, *(np.zeros(n, DTYPE[e.dtype]) for e in built)], isa, rtol=rtol, atol=1e-300
    )


def test_one_plus_erf_is_close_and_saturates_exactly(isa):
    x = np.concatenate([np.linspace(-7, 7, 5000), [np.inf, -np.inf, np.nan, 0.0, 1e-30]]).astype(
        np.float32
    )
    at = IndexMap(0, (1,))
    e = apply("add", const(1, "f32"), apply("erf", load(0, "f32", at)))
    out = check(
        elementwise(x.shape, ("f32", "f32"), [Store(1, at, e)]),
        [x, np.zeros_like(x)],
        isa,
        atol=5e-7,
    )[1]
    assert (out[x < -4] == 0).all()
    assert (out[x > 4] == 2).all()


def test_one_plus_tanh_keeps_its_tail(isa):
    x = np.concatenate([np.linspace(-40, 40, 5000), [np.inf, -np.inf, np.nan, 0.0]]).astype(
        np.float32
    )
    at = IndexMap(0, (1,))
    for c in (1, -1):
        out = np.zeros_like(x)
        e = apply("add", apply("tanh", load(0, "f32", at)), const(c, "f32"))
        launch(emit(elementwise(x.shape, ("f32", "f32"), [Store(1, at, e)]), isa), isa, [x, out])
        with np.errstate(all="ignore"):
            want = c * 2 / (1 + np.exp(-2.0 * c * x.astype(np.float64)))
        np.testing.assert_allclose(out, want, rtol=1e-6)


def test_fmod_is_exact_for_huge_quotients(isa):
    x = np.array([1e30, -1e30, 123456789.0, 5.5, np.inf, 3.0, 1e10], np.float32)
    y = np.array([3.0, 7.0, 0.1, -2.0, 2.0, 0.0, 1e-20], np.float32)
    at = IndexMap(0, (1,))
    e = apply("fmod", load(0, "f32", at), load(1, "f32", at))
    check(
        elementwise((7,), ("f32",) * 3, [Store(2, at, e)]),
        [x, y, np.zeros(7, np.float32)],
        isa,
        exact=True,
    )


@pytest.mark.parametrize("dtype", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"])
def test_int_vocabulary(isa, dtype):
    info = np.iinfo(DTYPE[dtype])
    edge = np.array([info.min, info.max, 0, 1, 2, 3, 7, info.max // 2], DTYPE[dtype])
    x = np.concatenate([edge, values(dtype, (30,))])
    a, b = (v.ravel() for v in np.meshgrid(x, x))
    at = IndexMap(0, (1,))
    A, B = load(0, dtype, at), load(1, dtype, at)
    names = [
        "add",
        "sub",
        "mul",
        "floor_div",
        "rem",
        "fmod",
        "gcd",
        "lcm",
        "maximum",
        "minimum",
        "and",
        "or",
        "xor",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
    ]
    stores = [apply(op, A, B) for op in names] + [
        apply(op, A) for op in ("abs", "sign", "not", "neg")
    ]
    stores += [apply(op, A, const(3, dtype)) for op in ("shl", "shr")]
    check_many(stores, [a, b], isa, dtype)


def test_shifts_by_the_width_or_more(isa):
    x = np.array([5, -5, 1 << 30], np.int32)
    at = IndexMap(0, (1,))
    built = [apply(op, load(0, "i32", at), const(40, "i32")) for op in ("shl", "shr")]
    stores = [Store(1 + i, at, e) for i, e in enumerate(built)]
    out = [np.ones(3, np.int32), np.ones(3, np.int32)]
    launch(emit(elementwise((3,), ("i32",) * 3, stores), isa), isa, [x, *out])
    assert out[0].tolist() == [0, 0, 0]
    assert out[1].tolist() == [0, -1, 0]


def test_bool_logic_where_and_bitcast(isa):
    at = IndexMap(0, (1,))
    n = 100
    p, q, x = values("bool", (n,)), ~values("bool", (n,)), values("f32", (n,))
    P, Q, X = load(0, "bool", at), load(1, "bool", at), load(2, "f32", at)
    built = [apply(op, P, Q) for op in ("and", "or", "xor", "eq", "lt")] + [apply("not", P)]
    built += [
        apply("where", apply("gt", X, const(0, "f32")), X, const(-1.5, "f32")),
        bitcast(X, "i32"),
    ]
    stores = [Store(3 + i, at, e) for i, e in enumerate(built)]
    nest = elementwise((n,), ("bool", "bool", "f32", *(e.dtype for e in built)), stores)
    check(nest, [p, q, x, *(np.zeros(n, DTYPE[e.dtype]) for e in built)], isa, exact=True)


def test_gather_rows_and_elements(isa):
    table, ids = values("f32", (50, 19)), rng().integers(0, 50, 7)
    row = apply("mul", load(1, "i64", IndexMap(0, (1, 0))), const(19, "i64"))
    e = gather(0, "f32", row, IndexMap(0, (0, 1)))
    nest = elementwise((7, 19), ("f32", "i64", "f32"), [Store(2, IndexMap(0, (19, 1)), e)])
    got = check(nest, [table, ids, np.zeros((7, 19), np.float32)], isa)[2]
    np.testing.assert_array_equal(got, table[ids])
    for dtype in ("f32", "i8", "f64"):
        where = rng().integers(0, 900, 77).astype(np.int32)
        e = gather(0, dtype, load(1, "i32", IndexMap(0, (1,))), IndexMap(0, (0,)))
        nest = elementwise((77,), (dtype, "i32", dtype), [Store(2, IndexMap(0, (1,)), e)])
        check(nest, [values(dtype, (950,)), where, np.zeros(77, DTYPE[dtype])], isa, exact=True)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((1000,), (1,), 0),
        ((5, 13), (13, 1), 0),
        ((5, 44), (44, 1), 0),
        ((6, 40), (60, 1), 7),
        ((3, 32), (64, 1), 8),
        ((40, 7), (1, 40), 0),
        ((50,), (-1,), 49),
        ((2,), (1,), 3),
    ],
    ids=str,
)
def test_random_bits_are_philox(isa, shape, strides, offset):
    at = IndexMap(0, rowmajor(shape))
    bits = apply("random_bits", scalar(0, "u64"), scalar(0, "u64", 1), index(strides, offset))
    state = np.array([0x0123456789ABCDEF, 0xFFFFFFF0], np.uint64)
    nest = elementwise(shape, ("u64", "u32"), [Store(1, at, bits)])
    check(nest, [state, np.zeros(shape, np.uint32)], isa)
    wide = elementwise(shape, ("u64", "f64"), [Store(1, at, cast(bits, "f64"))])
    check(wide, [state, np.zeros(shape)], isa, exact=True)


def test_random_bits_are_those_of_the_eager_op(isa):
    state, out = np.array([2**40 + 9, 2**63 + 5], np.uint64), np.zeros((37, 29), np.uint32)
    bits = apply("random_bits", scalar(0, "u64"), scalar(0, "u64", 1), index((29, 1)))
    nest = elementwise(out.shape, ("u64", "u32"), [Store(1, IndexMap(0, (29, 1)), bits)])
    launch(emit(nest, isa), isa, [state, out])
    np.testing.assert_array_equal(out, random_bits(wrap(state), out.shape).numpy())


def test_random_bits_of_any_chunk_and_mask(isa):
    n = 200_001  # several tasks
    at = IndexMap(0, (1,))
    bits = apply("random_bits", scalar(0, "u64"), scalar(0, "u64", 1), index((1,)))
    state, out = np.array([5, 77], np.uint64), np.zeros(n, np.uint32)
    launch(emit(elementwise((n,), ("u64", "u32"), [Store(1, at, bits)]), isa), isa, [state, out])
    for k in (0, 1, 2, 3, 65_537, 123_458, n - 2, n - 1):
        assert out[k] == philox(5, 77, k)
    total = LoopNest(
        (), (n,), ("u64", "f64"),
        (Stage((Reduction("sum", cast(bits, "f64"), "f64"),)),),
        (Store(1, IndexMap(0, (0,)), ref(0, 0, "f64")),),
    )  # fmt: skip
    got = np.zeros(1)
    launch(emit(total, isa), isa, [state, got])
    assert got[0] == out.astype(np.float64).sum()


def test_in_place_update_with_scalar_rate(isa):
    at = IndexMap(0, (1,))
    p, m, g = values("f32", (1003,)), values("f32", (1003,)), values("f32", (1003,))
    new_m = apply("add", apply("mul", load(1, "f32", at), const(0.9, "f32")), load(2, "f32", at))
    new_p = apply("sub", load(0, "f32", at), apply("mul", scalar(3, "f32"), new_m))
    nest = elementwise((1003,), ("f32",) * 4, [Store(0, at, new_p), Store(1, at, new_m)])
    check(nest, [p, m, g, np.array([0.1], np.float32)], isa)


@pytest.mark.parametrize("spread", [False, True], ids=["scalar", "load"])
def test_a_scalar_in_float64_leaves_vectors_of_float32_whole(isa, spread):
    at, none = IndexMap(0, (1,)), IndexMap(0, (0,))
    rate = load(2, "f64", none) if spread else scalar(2, "f64")
    rate = cast(apply("sub", const(1.0, "f64"), rate), "f32")
    nest = elementwise(
        (1003,), ("f32", "f32", "f64"), [Store(1, at, apply("mul", load(0, "f32", at), rate))]
    )
    check(nest, [values("f32", (1003,)), np.zeros(1003, np.float32), np.array([0.3])], isa)
    assert plan(nest, isa).lanes == isa.lanes(4)


def test_a_broken_nest_is_explained():
    at = IndexMap(0, (1,))
    with pytest.raises(KilnError, match="differ in dtype"):
        elementwise((3,), ("f32", "f64"), [Store(1, at, load(0, "f32", at))])
    with pytest.raises(KilnError, match="vocabulary"):
        apply("frobnicate", const(1, "f32"), const(1, "f32"))
    with pytest.raises(KilnError, match="later result"):
        LoopNest((), (3,), ("f32",), (Stage((), (Store(0, at, ref(0, 0, "f32")),)),)).check()


def test_shared_expressions_are_written_and_printed_once(isa):
    at = IndexMap(0, (1,))
    e = load(0, "f32", at)
    for _ in range(40):  # as a tree: 2**40 nodes
        e = apply("maximum", e, apply("mul", e, const(0.5, "f32")))
    nest = elementwise((50,), ("f32", "f32"), [Store(1, at, e)])
    check(nest, [values("f32", (50,)), np.zeros(50, np.float32)], isa)
    assert len(str(nest)) < 5000
    assert "t0 = maximum(b0[i0], (b0[i0] * 0.5:f32))" in str(nest)


def test_expressions_are_hash_consed():
    x = load(0, "f32", IndexMap(0, (1,)))
    assert apply("add", x, const(1, "f32")) is apply("add", x, const(1, "f32"))
    assert const(0.0, "f32") is not const(-0.0, "f32")
    assert const(float("nan"), "f64") is const(float("nan"), "f64")
