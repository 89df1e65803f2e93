"""Sizes of 0 among others: results and gradients as PyTorch's, in which no product of sizes may be guessed (`-1`)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

SIZES = (0, 1, 3)
PAIRS: list[Callable] = [
    lambda n, k, p: ((n, k), (k, p)), lambda n, k, p: ((k,), (k, p)), lambda n, k, p: ((n, k), (k,)),
    lambda n, k, p: ((2, n, k), (k, p)), lambda n, k, p: ((2, n, k), (k,)), lambda n, k, p: ((k,), (2, k, p)),
    lambda n, k, p: ((0, n, k), (k, p)), lambda n, k, p: ((0, n, k), (k,)), lambda n, k, p: ((2, n, k), (2, k, p)),
    lambda n, k, p: ((2, 1, n, k), (3, k, p)), lambda n, k, p: ((n, k), (0, k, p)),
]  # fmt: skip
OF_MATRICES: dict[str, Callable] = {
    "softmax": lambda m, x: m.softmax(x, -1) * x, "log_softmax": lambda m, x: m.log_softmax(x, -1) * x,
    "layer_norm": lambda m, x: m.nn.functional.layer_norm(x, x.shape[-1:]) * x,
    "rms_norm": lambda m, x: m.nn.functional.rms_norm(x, x.shape[-1:]) * x,
    "sum": lambda m, x: x.sum(1), "mean": lambda m, x: x.mean(-1), "var": lambda m, x: x.var(-1),
    "norm": lambda m, x: x.norm(dim=1), "prod": lambda m, x: x.prod(1), "cumsum": lambda m, x: x.cumsum(-1) * x,
    "part": lambda m, x: x[:, :1] * 2, "split": lambda m, x: sum(p.sum() for p in x.split(1, 0)),
    "relu": lambda m, x: m.relu(x) * x, "pow": lambda m, x: x**3, "clamp": lambda m, x: x.clamp(-1, 1) * x,
    "largest": lambda m, x: x.topk(min(1, x.shape[-1]))[0], "logsumexp": lambda m, x: x.logsumexp(-1),
    "cross_entropy": lambda m, x: m.nn.functional.cross_entropy(x, m.zeros(x.shape[0], dtype=m.int64)),
    "nll_loss": lambda m, x: m.nn.functional.nll_loss(x, m.zeros(x.shape[0], dtype=m.int64), reduction="sum"),
    "embedding": lambda m, x: m.nn.functional.embedding(m.zeros(2, 0, dtype=m.int64), x),
    "broadcast": lambda m, x: x * m.ones(4, 1, 1), "turned": lambda m, x: x.t().contiguous() * 2,
    "attention": lambda m, x: m.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None]),
    "stack": lambda m, x: m.stack([x, x * 2]), "cat": lambda m, x: m.cat([x, x * 2], -1),
    "linear": lambda m, x: m.nn.functional.linear(x, m.ones(2, x.shape[1]), m.ones(2)),
}  # fmt: skip


def outcome(m: Any, fn: Callable, shapes: tuple) -> Any:
    """Result and gradients, or that it is refused."""
    r = np.random.default_rng(0)
    xs = [m.tensor(r.normal(size=s).astype(np.float32), requires_grad=True) for s in shapes]
    try:
        y = fn(m, *xs)
        y.sum().backward()
    except (RuntimeError, IndexError, ValueError):
        return "refused"
    return [y.detach().numpy(), *(x.detach().numpy() * 0 if x.grad is None else x.grad.numpy() for x in xs)]  # fmt: skip


def agree(fn: Callable, *shapes: tuple) -> None:
    want, got = outcome(torch, fn, shapes), outcome(kiln, fn, shapes)
    if "refused" in (want, got):
        assert (want, got) == ("refused", "refused"), shapes
        return
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape, shapes
        np.testing.assert_allclose(a, b, 1e-4, 1e-5, err_msg=str(shapes))


@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_products(pair):  # seed 10012262
    for n, k, p in product(SIZES, repeat=3):
        agree(lambda m, x, y: m.matmul(x, y), *PAIRS[pair](n, k, p))


@pytest.mark.parametrize("name", OF_MATRICES)
def test_functions_of_matrices(name):
    for shape in product(SIZES, repeat=2):
        agree(OF_MATRICES[name], shape)
