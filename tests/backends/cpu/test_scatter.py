"""Scatter kernels for every instruction set of this host, against NumPy's unbuffered updates."""

import numpy as np
import pytest
from harness import levels
from nest_reference import DTYPE, launch, rng, rowmajor, values
from tests.turns import in_turn

from kiln.backends.cpu.scatter import MODES, Scatter, emit
from kiln.compile.loopnest import DTYPES, FLOATS, IndexMap, apply, cast, const, index, load
from kiln.errors import KilnError

UFUNC = {"add": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
LOGICAL = {
    "add": np.logical_or,
    "prod": np.logical_and,
    "max": np.logical_or,
    "min": np.logical_and,
}


def rows(dtype, n, width, mode="add", ids="i64"):
    """out[ids[i], j] from value[i, j]: an embedding's gradient."""
    where = apply("mul", cast(load(1, ids, IndexMap(0, (1, 0))), "i64"), const(width, "i64"))
    return Scatter(
        (n, width),
        (dtype, ids, dtype),
        0,
        IndexMap(0, (0, 1)),
        where,
        load(2, dtype, IndexMap(0, (width, 1))),
        mode,
        (1,),
    )


def expected(out, ids, value, mode):
    """Row after row, in the output's dtype."""
    out = out.copy()
    for i, row in zip(ids, value, strict=True):
        if mode == "set":
            out[i] = row
        else:
            f = LOGICAL[mode] if out.dtype == bool else UFUNC[mode]
            out[i] = f(out[i], row).astype(out.dtype)
    return out


@pytest.mark.parametrize("width", [1, 3, 8, 17, 32, 67, 200])
def test_rows_of_any_width(isa, width):
    n, table = 50, 9
    out, ids, value = (
        values("f32", (table, width)),
        rng().integers(0, table, n),
        values("f32", (n, width)),
    )
    want = expected(out, ids, value, "add")
    launch(emit(rows("f32", n, width), isa), isa, [out, ids, value])
    np.testing.assert_array_equal(out, want)


@in_turn("isa", levels(), mode=MODES, dtype=DTYPES)
def test_dtypes_and_modes(isa, dtype, mode):
    n, table, width = 12, 5, 21
    out, value = values(dtype, (table, width)), values(dtype, (n, width), -3, 3)
    ids = rng().integers(0, table, n).astype(np.int32)
    with np.errstate(all="ignore"):
        want = expected(out, ids, value, mode)
    launch(emit(rows(dtype, n, width, mode, "i32"), isa), isa, [out, ids, value])
    np.testing.assert_array_equal(out, want)


def test_nan_wins_extremes(isa):
    for mode in ("max", "min"):
        out = np.array([[1.0], [np.nan], [2.0]], np.float32)
        value = np.array([[np.nan], [5.0], [3.0]], np.float32)
        launch(emit(rows("f32", 3, 1, mode), isa), isa, [out, np.arange(3), value])
        assert np.isnan(out[:2]).all()
        assert not np.isnan(out[2])


@pytest.mark.parametrize("shape", [(6, 70), (300, 400)], ids=str)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("mode", ["set", "add"])
def test_scatter_along_a_dim(isa, shape, dim, mode):
    """torch.scatter and scatter_add: an index for every element, duplicates among them."""
    size = (8, 90) if shape == (6, 70) else (310, 410)
    strides = rowmajor(size)
    full = IndexMap(0, rowmajor(shape))
    where = apply("mul", load(1, "i64", full), const(strides[dim], "i64"))
    at = IndexMap(0, tuple(0 if d == dim else s for d, s in enumerate(strides)))
    spec = Scatter(
        shape, ("f32", "i64", "f32"), 0, at, where, load(2, "f32", full), mode, (1 - dim,)
    )
    out, value = values("f32", size), values("f32", shape)
    ids = rng().integers(0, size[dim], shape)
    want = out.copy()
    grid = list(np.indices(shape))
    grid[dim] = ids
    if mode == "add":
        np.add.at(want, tuple(grid), value)
    else:
        for p in np.ndindex(*shape):
            want[tuple(g[p] for g in grid)] = value[p]
    kernel = emit(spec, isa)
    assert (kernel.ntasks > 1) == (shape == (300, 400))
    launch(kernel, isa, [out, ids, value], order=lambda n: reversed(range(n)))
    np.testing.assert_array_equal(out, want)


def test_index_in_the_middle_and_several_index_expressions(isa):
    """out[:, ids, jds, :] += f(value), as index_put with accumulate; unit and contiguous dims merge."""
    a, n, b, c = 3, 40, 5, 7
    size = (a, 6, 4, b, c)
    s = rowmajor(size)
    i, j = load(1, "i64", IndexMap(0, (0, 1, 0, 0))), load(2, "i32", IndexMap(0, (0, 1, 0, 0)))
    where = apply(
        "add", apply("mul", i, const(s[1], "i64")), apply("mul", cast(j, "i64"), const(s[2], "i64"))
    )
    value = apply("mul", load(3, "f32", IndexMap(0, (n * b * c, b * c, c, 1))), const(2.0, "f32"))
    spec = Scatter(
        (a, n, b, c),
        ("f32", "i64", "i32", "f32"),
        0,
        IndexMap(0, (s[0], 0, s[3], s[4])),
        where,
        value,
        "add",
        (0, 2, 3),
    )
    out, v = values("f32", size), values("f32", (a, n, b, c))
    ids, jds = rng().integers(0, 6, n), rng().integers(0, 4, n).astype(np.int32)
    want = out.copy()
    np.add.at(want, (slice(None), ids, jds), 2 * v)
    launch(emit(spec, isa), isa, [out, ids, jds, v])
    np.testing.assert_allclose(out, want, rtol=1e-6)


def test_order_is_kept_across_tasks(isa):
    """Large enough for several tasks: the same bits as one by one, whatever order tasks run in."""
    n, width = 600, 400
    out, ids, value = (
        np.zeros((4, width), np.float32),
        rng().integers(0, 4, n),
        values("f32", (n, width)),
    )
    want = expected(out, ids, value, "add")
    kernel = emit(rows("f32", n, width), isa)
    assert kernel.ntasks > 1
    launch(kernel, isa, [out, ids, value], order=lambda n: reversed(range(n)))
    np.testing.assert_array_equal(out, want)


def test_counting_without_a_separate_dim(isa):
    ids = rng().integers(0, 5, 1000)
    out = np.zeros(5, np.int64)
    one = const(1, "i64")
    spec = Scatter(
        (1000,), ("i64", "i64"), 0, IndexMap(0, (0,)), load(1, "i64", IndexMap(0, (1,))), one, "add"
    )
    launch(emit(spec, isa), isa, [out, ids])
    np.testing.assert_array_equal(out, np.bincount(ids))


def test_a_value_from_the_index_and_empty_domains(isa):
    spec = Scatter(
        (20,), ("i64", "i64"), 0, IndexMap(1, (0,)), load(1, "i64", IndexMap(0, (1,))), index((1,))
    )
    out, ids = np.full(21, -1), rng().permutation(20)
    launch(emit(spec, isa), isa, [out, ids])
    np.testing.assert_array_equal(out[1:][ids], np.arange(20))
    launch(emit(rows("f32", 0, 5), isa), isa, [out, ids, out])
    launch(emit(rows("f32", 5, 0), isa), isa, [out, ids, out])


def test_mistakes_are_explained(isa):
    good = rows("f32", 3, 4)
    for change, message in [
        ({"mode": "mean"}, "no mode"),
        ({"index": load(2, "f32", IndexMap(0, (1, 0)))}, "not an integer"),
        ({"value": const(1, "f64")}, "differ in dtype"),
        ({"out": 2}, "reads the output"),
    ]:
        with pytest.raises(KilnError, match=message):
            emit(Scatter(**(vars(good) | change)), isa)


def test_half_floats_round_at_every_step(isa):
    assert {"f16", "bf16"} <= FLOATS
    out = np.ones((1, 1), DTYPE["bf16"])
    value = np.full((100, 1), 2.0**-9, DTYPE["bf16"])
    launch(emit(rows("bf16", 100, 1), isa), isa, [out, np.zeros(100, np.int64), value])
    assert out[0, 0] == 1
