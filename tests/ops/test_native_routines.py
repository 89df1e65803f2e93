"""Eager mode's native routines: what they give is what the op's reference gives, errors included."""

from __future__ import annotations

import inspect

import ml_dtypes
import numpy as np
import pytest
from tests.turns import in_turn

import kiln
from kiln.backends import (
    by_shape,
    derived,
    elementwise,
    gradients,
    one_call,
    operands,
    products,
    rows,
)
from kiln.backends.cpu import fuse, one_op
from kiln.config import config, context
from kiln.nn import functional as F
from kiln.ops.registry import REGISTRY

NATIVE = [
    op for op in REGISTRY.values()
    if op.eager is not op.run and (op.eager.__module__ not in (derived.__name__, elementwise.__name__) or (op.family == "elementwise" and op.body))
]  # fmt: skip
ROUTINES = [op for op in NATIVE if op.family != "elementwise"]
ELEMENTWISE = [op for op in NATIVE if op.family == "elementwise"]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1e-2}
rng = np.random.default_rng(0)


@pytest.fixture
def always(monkeypatch):
    """Have routines take arrays of any size, and in any number of sizes."""
    monkeypatch.setattr(config, "deterministic", 1)
    for number in products._LEAST:
        monkeypatch.setitem(products._LEAST, number, 0)
    for name, (work, _) in by_shape.WORK.items():
        monkeypatch.setitem(by_shape.WORK, name, (work, 0))
    monkeypatch.setattr(products, "SMALL", 0)
    for module in (one_call, operands, elementwise, gradients):
        monkeypatch.setattr(module, "DEAR", 0)
    for module in (one_call, derived, gradients):
        monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(derived, "LONG", 0)
    monkeypatch.setattr(rows, "_LEAST", 0)


def same(got, want) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if got.dtype.name not in TOLERANCE:
        np.testing.assert_array_equal(got, want)
        return
    wide = np.float64
    bound = TOLERANCE[got.dtype.name]
    np.testing.assert_allclose(got.astype(wide), want.astype(wide), bound, bound)


def given(a, kind):
    """A sample's argument, floats in another dtype."""
    if isinstance(a, list):
        return [given(b, kind) for b in a]
    if not isinstance(a, np.ndarray):
        return a
    return kiln.from_numpy(a.astype(kind) if a.dtype.kind == "f" else a)


def flat(result) -> list[np.ndarray]:
    return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]


def dtypes_of(op):
    """Those that a routine has kernels of its own for; Programs of one op are alike in all."""
    own = op.family == "contraction" and op.name not in by_shape.WORK
    return ["float32", *(["float64", "float16", "bfloat16", "int32", "int8"] if own else [])]


def cases_of(op, k):
    """Every routine in float32; in a quick suite one of its other dtypes, in turn."""
    first, *others = dtypes_of(op)
    yield pytest.param(first, op, id=f"{first}-{op.name}")
    for i, d in enumerate(others):
        marks = () if i == k % len(others) else pytest.mark.slow
        yield pytest.param(d, op, id=f"{d}-{op.name}", marks=marks)


@pytest.mark.parametrize(
    ("dtype", "op"), [case for k, op in enumerate(ROUTINES) for case in cases_of(op, k)]
)
def test_samples_give_what_the_reference_gives(op, dtype, always):
    kind = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    ran = 0
    for sample in op.samples():
        args = [given(a, kind) for a in sample.args]
        with context(eager="reference"):
            try:
                want = op.fn(*args, **sample.kwargs)
            except Exception as e:
                with pytest.raises(type(e)), context(eager="cpu"):
                    op.fn(*args, **sample.kwargs)
                continue
        for got, expected in zip(*map(flat, (op.fn(*args, **sample.kwargs), want)), strict=True):
            same(got, expected)
        ran += 1
    assert ran or op.name == "_int_mm"


@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_elementwise_ops_on_large_arrays(op, full):
    forms = [((5000,), False), ((70, 1000), True)]
    for shape, turned in [*forms, ((70, 1000), False)] if full else forms:
        arrays = [rng.uniform(-3, 3, shape).astype(np.float32) for _ in op.tensor_slots]
        arrays = [a.T if turned else a for a in arrays]
        numbers = [1.0 if p.default is inspect.Parameter.empty else p.default for p in op.params]
        values = iter(arrays)
        args = [next(values) if p.is_tensor else v for p, v in zip(op.params, numbers, strict=True)]
        with np.errstate(all="ignore"):
            try:
                want = op.run(*args)
            except TypeError:  # an op of integers
                return
            got = op.eager(*args)
        assert got.dtype == want.dtype
        follows = turned and op.lies != "rows"
        assert got.flags.f_contiguous if follows else got.flags.c_contiguous
        np.testing.assert_allclose(got, want, 2e-5, 2e-6)


def conv(x, w):
    return F.conv2d(x, w, stride=2, padding=1)


def norm(x, w):
    return F.layer_norm(x, x.shape[-1:], w[:, :, 0, 0].reshape(-1)[: x.shape[-1]])


@in_turn("dtype", ["float32", "float64"], fn=[
    conv, norm, lambda x, w: F.softmax(x, -1), lambda x, w: F.log_softmax(x, 3), lambda x, w: F.max_pool2d(x, 2),
    lambda x, w: F.avg_pool2d(x, 3, 2, 1), lambda x, w: F.gelu(x.transpose(1, 2)),
    lambda x, w: F.batch_norm(x, None, None, w[0, :, 0, 0], training=True),
    lambda x, w: F.gelu(x).softmax(-1).log_softmax(-1), lambda x, w: F.conv2d(x[:, :, ::2], w) @ x[:5, :16, :32, :17],
])  # fmt: skip
def test_large_calls_and_their_gradients(fn, dtype):
    """Rows in numbers that no block divides, views, gradients that a sum has spread."""
    d = getattr(kiln, dtype)

    def results(backend: str) -> list[np.ndarray]:
        kiln.manual_seed(1)
        x = kiln.randn(5, 16, 67, 34).to(d).requires_grad_()
        w = kiln.randn(16, 17, 3, 3).to(d)[:, :16].clone().requires_grad_()
        with context(eager=backend):
            y = fn(x, w)
            (y * kiln.arange(y.numel()).reshape(y.shape).to(d).sin()).sum().backward()
            first = [y, x.grad] + [w.grad] * (w.grad is not None)
            again = fn(x, w)
            assert again.detach().numpy().tobytes() == y.detach().numpy().tobytes()
            x2 = x.detach().requires_grad_()
            fn(x2, w).sum().backward()
        return [t.detach().numpy() for t in (*first, x2.grad)]

    bound = 4 * TOLERANCE[dtype]
    for got, want in zip(results("cpu"), results("reference"), strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        assert np.abs(got - want).max() <= bound * max(1, np.abs(want).max())


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_gradients_of_a_layer_are_those_of_the_reference(dtype):
    d = getattr(kiln, dtype)

    def results(backend: str) -> list[np.ndarray]:
        kiln.manual_seed(0)
        x, w, b = (kiln.randn(*s).to(d).requires_grad_() for s in ((6, 40, 70), (90, 70), (90,)))
        with context(eager=backend):
            y = kiln.nn.functional.linear(x, w, b)
            (y * y).float().mean().backward()
            z = kiln.addmm(b, x[0], w.T) + kiln.einsum("bij,kj->bik", x, w)[1]
        return [t.float().detach().numpy() for t in (y, x.grad, w.grad, b.grad, z)]

    for got, want in zip(results("cpu"), results("reference"), strict=True):
        assert np.abs(got - want).max() <= 4 * TOLERANCE[dtype] * np.abs(want).max()


def test_errors_are_those_of_the_op():
    a, b = kiln.ones(300, 200), kiln.ones(300, 200)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        a @ b
    with pytest.raises(RuntimeError, match="same dtype"):
        a @ b.T.double()
    with pytest.raises(RuntimeError):
        kiln.ones(2, 300, 200) @ kiln.ones(3, 200, 300)
    with pytest.raises(RuntimeError):
        kiln.nn.functional.linear(a, b, kiln.ones(7))
    with pytest.raises(RuntimeError, match="takes 200"):
        kiln.nn.functional.linear(a[:3, :100], b)
    assert kiln.ones(300, 0).matmul(kiln.ones(0, 300)).sum().item() == 0


def test_int8_products_wrap_as_numpy_s_do():
    a = kiln.tensor(rng.integers(-128, 128, (40, 50)).astype(np.int8))
    b = kiln.tensor(rng.integers(-128, 128, (50, 60)).astype(np.int8))
    np.testing.assert_array_equal((a @ b).numpy(), a.numpy() @ b.numpy())


def test_deep_sums_of_bfloat16_and_views():
    a = kiln.ones(8, 9000, dtype=kiln.bfloat16)
    assert (a @ a.T).float().eq(9024).all()  # 9000 to 8 bits
    x = kiln.randn(300, 300)
    np.testing.assert_allclose((x[::2] @ x.T[:, ::3]).numpy(), x.numpy()[::2] @ x.numpy().T[:, ::3], 1e-4, 1e-3)  # fmt: skip
    assert (x @ kiln.ones(300, 1).expand(300, 80)).shape == (300, 80)


def test_blocks_are_never_written_past_the_cache(monkeypatch):
    """Such stores need aligned results, which parts of an array are not: rows of 16 MB go to the reference."""
    calls = (F.gelu, kiln.randn(140_003)), (F.layer_norm, kiln.randn(64, 16_385), (16_385,))
    monkeypatch.setattr(fuse, "STREAM_BYTES", 1 << 16)
    one_op.shelf.clear()
    try:
        # a Program made with this limit is for no other process: it would store past the cache where it must not
        with context(cache_size_mb=0):
            for op, x, *rest in calls:
                got = op(x, *rest)
                with context(eager="reference"):
                    want = op(x, *rest)
                same(got.numpy(), want.numpy())
    finally:
        one_op.shelf.clear()


def taken_apart(cut):
    """Large calls on arrays that `cut` gives of a larger one, each with what it computes."""
    x = kiln.from_numpy(rng.standard_normal((4, 64, 384), np.float32))
    q, k, v = (cut(t).view(4, 64, 4, 32).transpose(1, 2) for t in x.split(128, 2))
    yield F.scaled_dot_product_attention(q, k, v, is_causal=True)
    yield F.scaled_dot_product_attention(q[:, :, ::2], k[:, :, 8:40], v[:, :, 8:40])
    wide = kiln.from_numpy(rng.standard_normal((8, 16, 33, 40), np.float32))
    yield F.max_pool2d(cut(wide[:, 2:10, 1:, 3:35]), 2)
    yield F.avg_pool2d(cut(wide[..., ::2]), 2)
    yield cut(wide[..., 3:35]).softmax(1)
    many = x.repeat(1, 1, 2)  # (samples, classes, places)
    scale, target = kiln.tensor(0.5).expand(4, 768), kiln.arange(4 * 768).view(4, 768) % 64
    yield kiln.ops.classification.softmax_excess(cut(scale), many, target)


def test_arrays_with_gaps_are_read_where_they_lie():
    rng.bit_generator.state = start = np.random.default_rng(5).bit_generator.state
    found = list(taken_apart(lambda t: t))
    rng.bit_generator.state = start
    for got, want in zip(found, taken_apart(lambda t: t.clone()), strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def images(last: bool):
    """A residual block's results and gradients, by name, its images and weights lying one way or the other."""
    kiln.manual_seed(0)
    format = kiln.channels_last if last else kiln.contiguous_format
    model = kiln.nn.Sequential(
        kiln.nn.Conv2d(3, 16, 3, 1, 1, bias=False), kiln.nn.BatchNorm2d(16), kiln.nn.ReLU(), kiln.nn.MaxPool2d(2),
        kiln.nn.Conv2d(16, 32, 3, 2, 1, bias=False), kiln.nn.BatchNorm2d(32), kiln.nn.AvgPool2d(2),
    ).to(memory_format=format)  # fmt: skip
    x = kiln.from_numpy(np.random.default_rng(1).standard_normal((4, 3, 32, 32), np.float32))
    x = x.contiguous(memory_format=format).requires_grad_()
    y = model(x)
    (y * y * kiln.arange(y.numel()).view(y.shape).sin()).sum().backward()
    return {"y": y, "x": x.grad, **{n: p.grad for n, p in model.named_parameters()}}


def test_images_that_lie_channels_last_stay_so_and_give_the_same():
    found, want = images(True), images(False)
    for name, t in want.items():
        got = found[name]
        if t.ndim == 4:
            assert got.is_contiguous(memory_format=kiln.channels_last), name
        np.testing.assert_allclose(
            got.detach().numpy(), t.detach().numpy(), 1e-3, 1e-4 * float(t.abs().max()), err_msg=name
        )  # fmt: skip
