"""Results written past the cache: the same bits, nothing outside the array, and only where nobody reads them."""

import numpy as np
import pytest
from harness import levels
from nest_reference import DTYPE, launch, rowmajor, unary_nest, values
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln.backends.cpu import fuse
from kiln.backends.cpu.loops import emit
from kiln.compile.loopnest import (
    IndexMap,
    LoopNest,
    Reduction,
    Stage,
    Store,
    apply,
    cast,
    elementwise,
    load,
    ref,
)
from kiln.config import context
from kiln.runtime import threads

MARGIN = 256


def aligned(shape, dtype):
    """An array at a multiple of 64 bytes with a margin round it, and all of that memory."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.full(size + 2 * MARGIN + 64, 0xA5, np.uint8)
    start = -(raw.ctypes.data + MARGIN) % 64 + MARGIN
    return raw[start : start + size].view(dtype).reshape(shape), raw, (start, start + size)


def same(nest, x, shape, dtype, isa, streams):
    """A streamed kernel gives the plain one's bits, and writes nothing else."""
    plain, streamed = emit(nest, isa), emit(nest, isa, streamed=frozenset({1}))
    if streams is not None:
        assert ("nontemporal" in "".join(k.text for k in streamed.phases())) == streams
    assert "nontemporal" not in plain.text
    assert plain.symbol != streamed.symbol
    want = aligned(shape, DTYPE[dtype])[0]
    got, raw, (start, stop) = aligned(shape, DTYPE[dtype])
    launch(plain, isa, [x, want])
    launch(streamed, isa, [x, got], order=lambda n: reversed(range(n)))
    assert got.tobytes() == want.tobytes()
    assert (raw[:start] == 0xA5).all()
    assert (raw[stop:] == 0xA5).all()


@in_turn(
    "isa",
    levels(),
    shape=[(64,), (1000,), (1001,), (100_003,), (7, 64)],
    dtype=["f32", "f64", "bf16", "bool", "i64"],
)
def test_elementwise(isa, shape, dtype):
    def build(x):
        return apply("gt", x, apply("neg", x)) if dtype == "bool" else cast(apply("exp", x), dtype)

    x = values("f32", shape)
    few = isa.lanes(4) * np.dtype(DTYPE[dtype]).itemsize < 16  # bytes of a vector's results
    same(unary_nest(build, "f32", dtype, shape), x, shape, dtype, isa, None if few else True)


@pytest.mark.parametrize(("width", "streams"), [(64, True), (1024, True), (72, False), (33, False)])
def test_rows_only_where_each_begins_aligned(isa, width, streams):
    shape = (60, width)
    at = IndexMap(0, (width, 1))
    x = load(0, "f32", at)
    total = Stage((Reduction("sum", apply("exp", x), "f32"),), ())
    scale = Stage((), (Store(1, at, apply("div", apply("exp", x), ref(0, 0, "f32"))),))
    nest = LoopNest((60,), (width,), ("f32", "f32"), (total, scale))
    streams = streams or width * 4 % isa.vector_bytes == 0
    same(nest, values("f32", shape), shape, "f32", isa, streams)


def test_other_orders_of_memory(isa):
    x = values("f32", (70, 48))
    turned = elementwise(
        (48, 70), ("f32", "f32"),
        [Store(1, IndexMap(0, (1, 48)), load(0, "f32", IndexMap(0, (1, 48))))],
    )  # fmt: skip
    same(turned, x, (70, 48), "f32", isa, True)
    at = IndexMap(0, rowmajor((64, 48)))
    moved = elementwise(
        (64, 48), ("f32", "f32"), [Store(1, at, load(0, "f32", IndexMap(0, (1, 64))))]
    )
    same(moved, values("f32", (48, 64)), (64, 48), "f32", isa, True)
    part = elementwise(
        (160,), ("f32", "f32"), [Store(1, IndexMap(3, (1,)), load(0, "f32", IndexMap(0, (1,))))]
    )
    same(part, values("f32", (160,)), (200,), "f32", isa, False)


@pytest.fixture
def streamed(monkeypatch):
    """How many buffers each kernel writes past the cache, from sizes that tests can afford."""
    found, real = [], fuse._kernel

    def spy(nest, isa, streamed):
        found.append(len(streamed))
        return real(nest, isa, streamed)

    monkeypatch.setattr(fuse, "_kernel", spy)
    monkeypatch.setattr(fuse, "STREAM_BYTES", 1 << 19)
    with context(cache_size_mb=0):
        yield found


def test_programs_stream_what_nothing_reads(streamed):
    n = 1 << 18
    x, s = kiln.randn(n), kiln.zeros(n)
    small = kiln.randn(100)
    for f, want in [
        (lambda: x.exp() + 1, 1),
        (lambda: (x.exp(), small * 2), 1),
        (lambda: s.add_(x), 0),  # in place
        (lambda: s.add_(x) * 2, 1),
        (lambda: (y := x * 3, y.reshape(512, 512) @ y.reshape(512, 512)), 0),
    ]:
        streamed.clear()
        kiln.compile(f)()
        assert sum(streamed) == want


@pytest.mark.parametrize("shape", [(512, 512), (300, 1001), (64, 64, 130)], ids=str)
def test_results_have_the_same_bits_on_any_number_of_threads(streamed, shape):
    x = kiln.randn(*shape)

    def f(x):
        return F.softmax(x, -1), F.gelu(x), x.sum(-1), (x * 2).transpose(0, 1).contiguous()

    want = [y.numpy().tobytes() for y in f(x)]
    before = threads.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            threads.set_num_threads(n)
            c = kiln.compile(f)
            results.append([y.numpy().tobytes() for y in c(x)])
            assert results[-1] == [y.numpy().tobytes() for y in c(x)]
    finally:
        threads.set_num_threads(before)
    assert sum(streamed) >= 3
    assert results[0] == results[1] == results[2]
    for got, eager in zip(results[0], want, strict=True):
        np.testing.assert_allclose(
            np.frombuffer(got, np.float32), np.frombuffer(eager, np.float32), rtol=1e-4, atol=1e-5
        )
