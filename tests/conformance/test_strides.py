"""PyTorch beside every function whose arguments lie in other orders than their dimensions': the strides of results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Report, convert, leaves
from test_torch import CASES, run_torch, torch_call, torch_leaves

import kiln
from kiln.tensor import wrap

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers

# What is row-major in Kiln, or lies as its operands do, where LAPACK, FFT or a loop of PyTorch's left it otherwise.
LEFT = {
    "LAPACK's columns, which a copy would give": {"cholesky", "cholesky_ex", "cholesky_inverse", "cholesky_solve", "eig", "eigh",
        "geqrf", "inv", "inv_ex", "householder_product", "inverse", "ldl_factor", "ldl_factor_ex", "ldl_solve", "lstsq", "lu_factor",
        "lu_factor_ex", "lu_solve", "orgqr", "qr", "solve", "solve_ex", "solve_triangular", "svd", "tensorinv",
        "triangular_solve"},
    "the order in which MKL takes the dimensions": {"fft", "fft2", "fftn", "hfft", "hfft2", "hfftn", "ifft", "ifft2", "ifftn",
        "ihfft", "ihfft2", "ihfftn", "irfft", "irfft2", "irfftn", "rfft", "rfft2", "rfftn", "stft"},
    "float64 volumes, which oneDNN does not take": {"conv3d", "conv_transpose3d"},
    "a choice of kernels": {"scaled_dot_product_attention"},
    "compositions of others here": {"addr", "grid_sample", "gru_cell", "instance_norm", "put", "rsub", "tensordot"},
    "not laid out anew by this test": {"view_as_real"},
    "refused": {"view_copy"},
}  # fmt: skip
MEANT = {name for names in LEFT.values() for name in names}


def channels_last(a: np.ndarray) -> np.ndarray:
    """Images and volumes with channels innermost in memory."""
    return np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1) if a.ndim in (4, 5) else a


def reversed_order(a: np.ndarray) -> np.ndarray:
    """The last dimension outermost in memory."""
    return np.asfortranarray(a) if a.ndim else a


def seen(t: Any) -> tuple:
    """The strides of the dimensions along which there is more than one element."""
    return tuple(s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.good and c.name not in MEANT], ids=lambda c: c.id
)
def test_strides(case, counts):
    report = Report(case)
    for order in (channels_last, reversed_order):
        compared = 0
        for i, s in case.good:

            def one(a: np.ndarray, order: Any = order) -> Any:
                return wrap(order(a).copy(order="K"))

            args, kwargs = convert(s.args, one), convert(s.kwargs, one)
            if compared == 3 or all(t.is_contiguous() for t in leaves([args, kwargs])):
                continue
            try:
                want = run_torch(*torch_call(case, s, order))
            except Exception:  # told by test_values
                continue
            compared += 1
            for x, y in zip(leaves(case(*args, **kwargs)), torch_leaves(want), strict=True):
                counts["strides compared with torch"] += 1
                if x.numel() and seen(x) != seen(y):
                    report.add(i, s, f"{order.__name__}: {x.stride()} where torch has {y.stride()}")
    report.finish()


def of_slices(t: Any, x: Any) -> Any:
    """Functions of images that are a slice of others, in the way of one of the two frameworks."""
    F = t.nn.functional
    half = x[:, 1:5]
    w = t.ones(4, 6, 3, 3).requires_grad_()
    yield F.conv_transpose2d(half, w, t.ones(6), 2, 1)
    yield F.conv2d(half, w.detach().transpose(0, 1))
    yield F.max_pool2d(half, 2)
    yield t.cat([half, half + 1], 1)
    yield F.pad(half, (1, 1, 1, 1), mode="replicate")
    yield half.roll(1, 2)
    yield F.rrelu(half - 0.5, training=True)
    yield t.stack([half, half])
    yield t.stack([half, half], 1)
    yield t.stack([half, half], -1)


@pytest.mark.parametrize("draw", ["dropout", "gumbel_softmax"])
def test_draws_go_along_the_memory_of_slices_of_images(draw, torch_stream):
    a = np.linspace(0, 1, 2 * 5 * 4 * 6, dtype=np.float32).reshape(2, 5, 4, 6)
    kiln.manual_seed(0)
    ours = [(r, kiln.nn.functional.__dict__[draw](r)) for r in of_slices(kiln, kiln.from_numpy(a).permute(0, 3, 1, 2))]  # fmt: skip
    torch.manual_seed(0)
    theirs = [(r, torch.nn.functional.__dict__[draw](r)) for r in of_slices(torch, torch.from_numpy(a).permute(0, 3, 1, 2))]  # fmt: skip
    for x, y in zip(leaves(ours), torch_leaves(theirs), strict=True):
        assert seen(x) == seen(y)
        assert np.allclose(x.detach().numpy(), y.detach().numpy(), 1e-5, 1e-6)
