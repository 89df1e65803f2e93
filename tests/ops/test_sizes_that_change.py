"""Large eager calls in more sizes than are worth compiling, and sums, which one kernel takes in all sizes."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
from kiln import nn
from kiln.backends import by_shape
from kiln.backends.cpu import one_op
from kiln.config import config, context
from kiln.nn import functional as F
from kiln.ops.registry import REGISTRY

rng = np.random.default_rng(0)


@pytest.fixture
def made(monkeypatch):
    """The calls that were compiled."""
    names: list[str] = []
    make = one_op._make
    monkeypatch.setattr(
        one_op, "_make", lambda name, *rest, **kw: (names.append(name), make(name, *rest, **kw))[1]
    )
    one_op.shelf.clear()
    yield names
    one_op.shelf.clear()


def step(layer, x) -> list[kiln.Tensor]:
    """A layer's result, and its gradients."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *kiln.autograd.grad((y * y).mean(), [x, *layer.parameters()])]


LAYERS = {
    "conv": lambda: nn.Conv2d(8, 12, 3, padding=1), "strided": lambda: nn.Conv2d(8, 64, 3, 2, 1, dilation=2, groups=2),
    "depthwise": lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8), "transposed": lambda: nn.ConvTranspose2d(8, 4, 4, 2, 1),
    "norm": lambda: nn.BatchNorm2d(8), "groups": lambda: nn.GroupNorm(2, 8),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_in_many_sizes(kind, made):
    layer, compiled = LAYERS[kind](), []
    inputs = [kiln.randn(2 + n % 3, 8, 24 + n, 30 - n) for n in range(5)]
    with context(max_shapes=2):
        for x in inputs:
            before = len(made)
            got = step(layer, x)
            compiled.append(len(made) - before)
            with context(eager="reference"):
                want = step(layer, x)
            for a, b in zip(got, want, strict=True):
                kiln.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert compiled[0] > 0 or kind == "groups"  # which one kernel takes in all sizes

    assert max(compiled[3:]) <= compiled[0] // 4  # what is elementwise may meet a new power of two


def test_a_size_that_comes_often_is_compiled(made):
    layer = nn.Conv2d(4, 8, 3)
    with context(max_shapes=1), kiln.no_grad():
        layer(kiln.randn(2, 4, 40, 40))
        x = kiln.randn(2, 4, 41, 43)
        results = [layer(x) for _ in range(one_op._OFTEN + 2)]
    assert made.count("convolution") == 2
    for r in results[1 : one_op._OFTEN]:
        assert r.equal(results[0])  # nothing changes from call to call before
    kiln.testing.assert_close(results[-1], results[0])


def test_deterministic_algorithms_compile_all(made):
    layer = nn.Conv2d(4, 8, 3)
    assert not kiln.are_deterministic_algorithms_enabled()
    kiln.use_deterministic_algorithms(True)
    try:
        assert config.deterministic == kiln.get_deterministic_debug_mode() == 2
        with context(max_shapes=1), kiln.no_grad():
            for n in range(3):
                layer(kiln.randn(2, 4, 40 + n, 40))
    finally:
        kiln.use_deterministic_algorithms(False)
    assert made.count("convolution") == 3


@pytest.mark.parametrize("name", by_shape.ANY_SIZE)
def test_convolutions_of_any_size(name, monkeypatch):
    monkeypatch.setattr(by_shape, "_COLUMNS", 40)  # one or two images at a time
    op = REGISTRY[name]
    for sample in op.samples():
        if sample.error is None and all(a.dtype.kind == "f" for a in sample.args[:2]):
            got, want = by_shape.ANY_SIZE[name](*sample.args), op.run(*sample.args)
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, 1e-5, 1e-5)


SUMMED = [
    ((3, 11, 40, 41), (None, (0, 2, 3), (2, 3), -1, (1, 2, 3), 0, (0, 1, 2), (0, 3), (1, 3), 2)),
    ((20_011,), (None, 0)), ((3, 7001), (1, 0, (-1, -2), ())), ((900, 17), (0, 1)), ((2, 1, 1, 9000), ((2, 3), (0, 1, 3))),
    ((0, 9000), (0, 1)), ((5000, 4), (0, 1)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lies", ["plain", "turned", "channels last", "repeated", "part"])
def test_sums_and_means_of_any_shape(dtype, lies):
    kind = np.dtype(dtype)
    for shape, dims in SUMMED:
        a = rng.standard_normal(shape).astype(kind)
        n = a.ndim
        if lies == "turned":
            a = np.ascontiguousarray(a.T).T
        elif lies == "channels last" and n == 4:
            a = np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        elif lies == "repeated":
            a = np.broadcast_to(a[:1], shape) if shape[0] else a
        elif lies == "part":
            a = np.concatenate([a, a], -1)[..., : shape[-1]]
        x, wide = (
            kiln.from_numpy(a)
            if lies != "repeated"
            else kiln.from_numpy(a[:1].copy()).expand(shape),
            a.astype(float),
        )
        for dim in dims:
            axis = None if dim == () else dim
            for keepdim in (False, True):
                got = x.sum(dim, keepdim)
                want = wide.sum(axis, keepdims=keepdim)
                assert tuple(got.shape) == want.shape
                assert got.dtype is getattr(kiln, dtype)
                assert got.is_contiguous()
                bound = kind.type(1).dtype.type(np.finfo(kind).eps) * 8 * max(1, a.size) ** 0.5
                np.testing.assert_allclose(
                    got.numpy(), want, 1e-5 if dtype == "float32" else 1e-13, bound
                )
                count = a.size // max(1, want.size)
                if count:
                    np.testing.assert_allclose(
                        x.mean(dim, keepdim).numpy(), want / count, 1e-5, bound
                    )


def test_sums_of_infinities_and_nan():
    a = np.ones((40, 300), np.float32)
    a[3, 7], a[9, 0], a[10, 2] = np.inf, np.nan, -np.inf
    for dim in (None, 0, 1):
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(kiln.from_numpy(a).sum(dim).numpy(), a.sum(dim))
    assert kiln.full((300, 300), -0.0).sum(1).eq(0).all()


def test_sums_do_not_drift():
    """Rows as long as they get, added in parts."""
    n = (1 << 16) - 3
    x = kiln.full((3, n), 0.1)
    kiln.testing.assert_close(
        x.sum(1), kiln.full((3,), float(np.float32(0.1)) * n), rtol=3e-6, atol=0.0
    )
    kiln.testing.assert_close(
        x.sum(), kiln.tensor(float(np.float32(0.1)) * n * 3), rtol=1e-6, atol=0.0
    )
    assert F.mse_loss(x, x) == 0


@pytest.mark.parametrize("shape", [(4, 6, 900), (3, 4, 30, 31), (16, 100), (2, 8, 3)])
def test_norm_gradients_of_any_length(shape):
    op = REGISTRY["norm_grad"]
    for last in range(1, len(shape)):
        dims = tuple(range(len(shape) - last, len(shape)))
        for d in (np.float32, np.float64):
            g, x = (rng.standard_normal(shape).astype(d) for _ in range(2))
            np.testing.assert_allclose(
                op.eager(g, x, dims, 1e-5), op.run(g, x, dims, 1e-5), 1e-4, 1e-5
            )
