"""The IR text builder: loops, branches, constants and masked memory, compiled and run."""

import ctypes

import numpy as np
import pytest

from kiln.backends.cpu import jit
from kiln.backends.cpu.ir import Module, bits_of, elem_of, float_text, lanes_of, mangle, vec
from kiln.backends.cpu.isa import host_isa
from kiln.backends.cpu.points import PointEmitter
from kiln.compile.loopnest import IndexMap, Store, apply, elementwise, leaf, load


def call(module, name, *arrays):
    address = jit.build([module.text()], host_isa())(name)
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays))(address)(
        *[a.ctypes.data for a in arrays]
    )


def function(name, pointers):
    m = Module()
    return m, m.function(name, [("ptr", p) for p in pointers])


def test_types():
    assert vec("float", 1) == "float"
    assert vec("float", 8) == "<8 x float>"
    assert (elem_of("<8 x i16>"), lanes_of("<8 x i16>"), lanes_of("i16")) == ("i16", 8, 1)
    assert (mangle("<4 x double>"), mangle("i1"), bits_of("half")) == ("v4f64", "i1", 16)


@pytest.mark.parametrize("value", [0.1, -0.0, 1e-45, 3e38, float("inf"), 1e300])
def test_float_constants_are_exact(value):
    m, f = function(f"c{abs(hash(value))}", ["out"])
    f.store(f.const("float", value), f.params[0], 4)
    f.ret()
    out = np.zeros(1, np.float32)
    call(m, f"c{abs(hash(value))}", out)
    with np.errstate(over="ignore"):
        assert out.view(np.int32)[0] == np.array([value]).astype(np.float32).view(np.int32)[0]
    assert float_text("double", 1.0) == "0x3FF0000000000000"


def test_loop_carries_values_and_may_be_empty():
    m, f = function("loop_sum", ["out", "bounds"])
    out, bounds = f.params
    start, stop = f.load("i64", bounds, 8), f.load("i64", f.gep(bounds, "i64", f.i64(1)), 8)
    with f.loop(start, stop, 2, [f.i64(100), f.i64(1)]) as loop:
        total, product = loop.carried
        loop.next(f.add(total, loop.i), f.mul(product, f.i64(3)))
    for k, v in enumerate(loop.results):
        f.store(v, f.gep(out, "i64", f.i64(k)), 8)
    f.ret()
    for a, b in ((0, 10), (3, 4), (5, 5), (7, 1)):
        got = np.zeros(2, np.int64)
        call(m, "loop_sum", got, np.array([a, b]))
        steps = range(a, b, 2)
        assert got.tolist() == [100 + sum(steps), 3 ** len(steps)]


def test_single_iterations_are_straight_line_and_empty_ones_refused():
    m, f = function("once", ["out"])
    with f.loop(f.i64(4), f.i64(5), 1, [f.i64(1)]) as loop:
        assert loop.i.const == 4
        loop.next(f.add(loop.carried[0], loop.i))
    assert loop.results[0].const == 5
    with pytest.raises(ValueError, match="empty loop"), f.loop(f.i64(2), f.i64(2)):
        pass
    f.ret()
    assert "br " not in m.text()


def test_nested_loops_and_branches():
    m, f = function("triangle", ["out"])
    with f.loop(f.i64(0), f.i64(10), 1, [f.i64(0)]) as outer:
        with f.loop(f.i64(0), outer.i, 1, [outer.carried[0]]) as inner:
            odd = f.icmp("eq", f.bin("and", inner.i, f.i64(1)), f.i64(1))
            with f.if_then(odd, [inner.carried[0]]) as branch:
                branch.set(f.add(inner.carried[0], f.mul(outer.i, inner.i)))
            inner.next(*branch.results)
        outer.next(*inner.results)
    f.store(outer.results[0], f.params[0], 8)
    f.ret()
    got = np.zeros(1, np.int64)
    call(m, "triangle", got)
    assert got[0] == sum(i * j for i in range(10) for j in range(i) if j % 2)


def test_masked_memory_touches_active_lanes_only():
    lanes = 8
    m, f = function("masked", ["out", "x"])
    out, x = f.params
    ty = vec("float", lanes)
    mask = f.active_lanes(f.i64(5), lanes)
    v = f.masked_load(ty, x, mask, 4, f.const(ty, 9.0))
    f.store(v, out, 4)
    f.masked_store(f.const(ty, 1.0), f.gep(out, "float", f.i64(8)), mask, 4)
    every = f.gep(x, "float", f.iota("i64", lanes, 2))
    g = f.masked_gather(ty, every, f.active_lanes(f.i64(3), lanes), 4)
    f.store(g, f.gep(out, "float", f.i64(16)), 4)
    f.masked_scatter(v, f.gep(out, "float", f.iota("i64", lanes, 3)), f.const("<8 x i1>", False), 4)
    f.ret()
    got, data = np.zeros(24, np.float32), np.arange(1, 9, dtype=np.float32)
    call(m, "masked", got, data)
    assert got.tolist() == [1, 2, 3, 4, 5, 9, 9, 9] + [1] * 5 + [0] * 3 + [1, 3, 5] + [0] * 5


def test_point_emitter_writes_an_epilogue():
    """bias + relu on an accumulator, as a GEMM would call it for two vectors of a row."""
    isa = host_isa()
    at = IndexMap(0, (10, 1))
    acc = leaf("acc", "f32")
    zero = apply("sub", acc, acc)
    y = apply("maximum", apply("add", acc, load(0, "f32", IndexMap(0, (0, 1)))), zero)
    nest = elementwise((3, 10), ("f32", "f32"), [Store(1, at, y)])
    m = Module()
    f = m.function("epilogue", [("ptr", "args")])
    points = PointEmitter(f, isa, nest, f.params[0])
    eight = f.const("<8 x float>", -2.0)
    points.store([f.i64(1), f.i64(0)], {acc: eight}, 1, 8)
    points.store([f.i64(1), f.i64(8)], {acc: eight}, 1, 8, f.active_lanes(f.i64(2), 8))
    (scalar,) = points.values([f.i64(0), f.i64(3)], {acc: f.const("float", 1.0)})
    f.store(scalar, f.load("ptr", f.gep(f.params[0], "ptr", f.i64(2)), 8), 4)
    f.ret()
    bias, out, one = (
        np.arange(10, dtype=np.float32),
        np.full((3, 10), -1, np.float32),
        np.zeros(1, np.float32),
    )
    table = np.array([bias.ctypes.data, out.ctypes.data, one.ctypes.data])
    call(m, "epilogue", table)
    np.testing.assert_array_equal(out[1], np.maximum(bias - 2, 0))
    assert (out[[0, 2]] == -1).all()
    assert one[0] == 4
