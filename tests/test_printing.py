"""Tensors print as PyTorch's do."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
from kiln import printing
from kiln.tensor import wrap


@pytest.fixture(autouse=True)
def _default_options():
    yield
    kiln.set_printoptions(profile="default")


def text(values, dtype="float32") -> str:
    return repr(wrap(np.asarray(values, dtype)))


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1, 2, 3], "float32", "tensor([1., 2., 3.])"),
        ([1.5, 1e5], "float32", "tensor([1.5000e+00, 1.0000e+05])"),
        ([1e10, np.nan], "float32", "tensor([1.0000e+10,        nan])"),
        ([np.inf, 1.0], "float32", "tensor([inf, 1.])"),
        (3.0, "float32", "tensor(3.)"),
        ([True, False], "bool", "tensor([ True, False])"),
        ([1, -20], "int64", "tensor([  1, -20])"),
        ([1, 2], "int32", "tensor([1, 2], dtype=kiln.int32)"),
        ([0.1], "float64", "tensor([0.1000], dtype=kiln.float64)"),
        ([[1, 2], [3, 4]], "float32", "tensor([[1., 2.],\n        [3., 4.]])"),
        ([1 + 2j], "complex64", "tensor([1.+2.j])"),
        ([], "float32", "tensor([])"),
        ([], "int64", "tensor([], dtype=kiln.int64)"),
        (np.zeros((0, 3)), "float32", "tensor([], size=(0, 3))"),
    ],
)
def test_values(values, dtype, expected):
    assert text(values, dtype) == expected


def test_gradient_fields():
    x = kiln.ones(2, requires_grad=True)
    assert repr(x) == "tensor([1., 1.], requires_grad=True)"
    assert repr(x + 1) == "tensor([2., 2.], grad_fn=<AddBackward0>)"
    assert str(x.detach()) == "tensor([1., 1.])"


def test_long_tensors_are_summarised():
    assert text(np.arange(2000), "int64") == "tensor([   0,    1,    2,  ..., 1997, 1998, 1999])"


def test_options():
    kiln.set_printoptions(precision=2)
    assert text([0.123456]) == "tensor([0.12])"
    kiln.set_printoptions(sci_mode=True)
    assert text([1.0]) == "tensor([1.00e+00])"
    kiln.set_printoptions(profile="full", edgeitems=1)
    assert "..." not in text(np.arange(2000), "int64")
    with pytest.raises(ValueError, match="no such profile"):
        kiln.set_printoptions(profile="fancy")


@pytest.mark.peers
@pytest.mark.parametrize(
    "options",
    [{}, {"precision": 2, "linewidth": 40}, {"profile": "short"}, {"sci_mode": True}, {"sci_mode": False},
     {"edgeitems": 5, "threshold": 10}],
    ids=str,
)  # fmt: skip
def test_as_torch_prints(options, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    monkeypatch.setattr(kiln.dtype, "__repr__", lambda self: f"torch.{self.name}")
    rng = np.random.default_rng(0)
    shapes = [
        (),
        (1,),
        (0,),
        (0, 3),
        (7,),
        (30,),
        (3, 4),
        (2, 3, 4),
        (2000,),
        (50, 60),
        (1, 1, 1, 1200),
    ]
    makers = [
        lambda s: rng.normal(size=s), lambda s: rng.normal(size=s) * 1e5, lambda s: rng.normal(size=s) * 1e-6,
        lambda s: np.round(rng.normal(size=s) * 10), np.zeros,
        lambda s: np.where(rng.random(s) < 0.3, np.nan, rng.normal(size=s)),
        lambda s: np.where(rng.random(s) < 0.3, -np.inf, np.round(rng.normal(size=s) * 1e9)),
    ]  # fmt: skip
    torch.set_printoptions(profile="default")
    torch.set_printoptions(**options)
    kiln.set_printoptions(**options)
    try:
        for shape in shapes:
            for make in makers:
                for dtype in (
                    "bool",
                    "uint8",
                    "int32",
                    "int64",
                    "float16",
                    "float32",
                    "float64",
                    "complex128",
                ):
                    a = np.asarray(make(shape))
                    if dtype in ("uint8", "int32", "int64"):
                        a = np.clip(np.nan_to_num(a), 0, 255)
                    with np.errstate(all="ignore"):
                        a = (
                            a + 1j * a.T.reshape(a.shape) * 7 if dtype == "complex128" else a
                        ).astype(dtype)
                        a = np.asarray(a)
                    assert repr(wrap(a)) == repr(torch.from_numpy(a)), (shape, dtype)
    finally:
        torch.set_printoptions(profile="default")


def test_summaries_keep_the_edges():
    a = np.arange(60 * 70.0).reshape(60, 70)
    assert printing._edges(a).shape == (6, 6)


def test_str_says_what_repr_says():
    p = kiln.nn.Parameter(kiln.ones(2))
    assert str(p) == f"{p}" == repr(p)
    assert repr(p) == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"

    class Named(kiln.Tensor):
        def __repr__(self, *, tensor_contents=None):
            return "named"

    assert str(kiln.ones(2).as_subclass(Named)) == "named"
