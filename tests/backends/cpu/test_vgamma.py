"""Kernels of the incomplete gamma functions and of how gamma and beta numbers move, beside the references."""

from __future__ import annotations

from functools import cache

import numpy as np
from tests.turns import in_turn

from kiln.config import context
from kiln.ops.registry import REGISTRY

N = 4400
OPS = ["igamma", "igammac", "standard_gamma_grad", "dirichlet_grad"]


@cache
def arguments(name: str, dtype: str) -> tuple:
    """Ordinary shapes, shapes of all sizes, numbers near their peak and, of P and Q, all edges; and what is to come of them."""
    rng = np.random.default_rng(5)
    wide = 10 ** rng.uniform(-3, 4, (2, N // 4))
    usual = rng.uniform(0.1, 6, (2, N // 2))
    if name.startswith("igamma"):
        a = np.concatenate([usual[0], wide[0], wide[1]])
        x = np.concatenate([usual[1], wide[1], wide[1] * rng.uniform(0.6, 1.5, N // 4)])
        edges = np.array([0.0, 0.1, 1.0, 30.0, 1e4, np.inf, -1.0, np.nan, 1e-30, 1e30])
        a[:100], x[:100] = np.repeat(edges, 10), np.tile(edges, 10)
        args: tuple = (a, x)
    elif name == "standard_gamma_grad":
        a = np.concatenate([usual[0], wide[0], wide[1]])
        args = a, np.maximum(rng.standard_gamma(a), 1e-30)
    else:
        a, b = (np.concatenate([usual[i], wide[i] / 10, wide[i]]) for i in (0, 1))
        args = np.clip(rng.beta(a, b), 1e-4, 1 - 1e-4), a, a + b
    args = tuple(x.astype(dtype) for x in args)
    with np.errstate(all="ignore"):
        return args, REGISTRY[name].run(*args)


@in_turn("isa,dtype", [("", "float32"), ("", "float64"), ("sse2", "float32")], pauses=1, name=OPS)
def test_kernels_give_what_references_give(isa, name, dtype):
    args, want = arguments(name, dtype)
    with context(cpu_isa=isa):
        got = REGISTRY[name].eager(*args)
    assert got.dtype == want.dtype
    # sums of what the numbers move by cancel where they lie close to 0 or 1
    usual, far = (3e-6, 1e-3) if dtype == "float32" else (2e-11, 1e-6)
    with np.errstate(all="ignore"):
        off = np.abs(got - want) / np.maximum(np.abs(want), np.finfo(dtype).tiny)
    off = np.where((got == want) | (np.isnan(got) & np.isnan(want)), 0, off)
    assert np.quantile(off, 0.99) < usual
    assert off.max() < far
