"""Eager mode's native routines: what they give is what the op's reference gives, errors included."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import kiln
from kiln.backends import eager
from kiln.config import context
from kiln.ops.registry import REGISTRY

ROUTINES = [op for op in REGISTRY.values() if op.eager is not op.run]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1e-2}
rng = np.random.default_rng(0)


@pytest.fixture
def always(monkeypatch):
    """Have routines take arrays of any size."""
    for number in eager._LEAST:
        monkeypatch.setitem(eager._LEAST, number, 0)
    monkeypatch.setattr(eager, "SMALL", 0)


def same(got, want) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if got.dtype.name not in TOLERANCE:
        np.testing.assert_array_equal(got, want)
        return
    wide = np.float64
    bound = TOLERANCE[got.dtype.name]
    np.testing.assert_allclose(got.astype(wide), want.astype(wide), bound, bound)


@pytest.mark.parametrize("op", ROUTINES, ids=lambda op: op.name)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32", "int8"])
def test_samples_give_what_the_reference_gives(op, dtype, always):
    kind = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    ran = 0
    for sample in op.samples():
        args = [
            kiln.from_numpy(a.astype(kind) if a.dtype != np.int8 and a.dtype.kind != "c" else a)
            if isinstance(a, np.ndarray) else a
            for a in sample.args
        ]  # fmt: skip
        with context(eager="reference"):
            try:
                want = op.fn(*args, **sample.kwargs).numpy()
            except Exception as e:
                with pytest.raises(type(e)), context(eager="cpu"):
                    op.fn(*args, **sample.kwargs)
                continue
        same(op.fn(*args, **sample.kwargs).numpy(), want)
        ran += 1
    assert ran or op.name == "_int_mm"


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
