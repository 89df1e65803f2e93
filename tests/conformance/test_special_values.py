"""PyTorch beside every function of one or two tensors where numbers end: zeros, infinities, NaN, huge and tiny."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case, convert
from test_torch import CASES, attribute, counterpart

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers

VALUES = np.array(
    [
        0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1,
        -1,
        2.5,
        -2.5,
        1e30,
        -1e30,
        1e-30,
        -1e-30,
        1e-44,
        0.5,
        3,
        88,
        -104,
    ]
)
# What is PyTorch's alone: vector code that gives NaN for a limit that exists, or a value for NaN.
MEANT_VALUES = {
    "remainder": "NaN where the quotient overflows", "fmod": "NaN where the quotient overflows",
    "gelu": "NaN at inf", "i0": "NaN at inf", "i1": "NaN at inf", "modified_bessel_i0": "NaN at inf",
    "modified_bessel_i1": "NaN at inf", "airy_ai": "NaN at -1e30", "igamma": "a number for NaN", "igammac": "a number for NaN",
    "scaled_modified_bessel_k0": "three digits for subnormal numbers",
    "fake_quantize_per_tensor_affine": "a number for NaN", "norm_except_dim": "of vectors",
}  # fmt: skip
MEANT_GRADIENTS = MEANT_VALUES | {
    "digamma": "at poles, of which the sign of rounding decides", "i1e": "a number for NaN",
    "log_ndtr": "NaN where the derivative is -x", "logit": "the sign of infinity at -0",
    "polar": "0 at an absolute value of 0, where Kiln has the derivative",
    "entr": "at 0, where Kiln's is NaN", "xlog1py": "inf at (0, inf), where Kiln's is 0",
}  # fmt: skip
DRAWN = {
    "binomial",
    "poisson",
    "_sample_dirichlet",
    "_standard_gamma",
    "bernoulli",
    "normal",
    "dropout2d",
    "dropout3d",
}
SLOW = {"zeta", "polygamma"}  # at 1e30 PyTorch adds up terms for minutes


def arrays(case: Case) -> list[np.ndarray]:
    s, out = case.good[0][1], []
    convert((s.args, s.kwargs), lambda a: out.append(a) or a)
    return out


def call(case: Case, fn: Any, xs: list[Any], as_torch: bool) -> Any:
    """The first sample's call with other tensors."""
    s, rest = case.good[0][1], iter(xs)
    args, kwargs = (attribute(s.args), attribute(s.kwargs)) if as_torch else (s.args, s.kwargs)
    return fn(*convert(args, lambda a: next(rest)), **convert(kwargs, lambda a: next(rest)))


def by_element(case: Case) -> bool:
    """Whether PyTorch's result at a place depends on the numbers there alone."""
    if case.random or case.id in DRAWN | SLOW or not case.good:
        return False
    n = len(found := arrays(case))
    if n not in (1, 2) or any(a.dtype.kind != "f" for a in found):
        return False
    xs = [torch.linspace(0.1 + i / 9, 0.7, 5) for i in range(n)]
    try:
        whole = call(case, counterpart(case), xs, True)
        each = [call(case, counterpart(case), [x[i : i + 1] for x in xs], True) for i in range(5)]
        return bool(torch.allclose(whole, torch.cat(each), equal_nan=True))
    except Exception:
        return False


def grid(n: int) -> list[np.ndarray]:
    if n == 1:
        return [VALUES.astype(np.float32)]
    return [a.ravel().astype(np.float32) for a in np.meshgrid(VALUES, VALUES, indexing="ij")]


def off(got: Any, want: Any, at: list[np.ndarray]) -> str:
    """Where two results differ."""
    g, w = np.asarray(got), np.asarray(want)
    places = np.flatnonzero(~np.isclose(g, w, 2e-4, 2e-7, equal_nan=True))
    return "; ".join(f"at {[float(a[i]) for a in at]} {g[i]}, in torch {w[i]}" for i in places[:5])


def test_values_and_gradients_where_numbers_end(counts):
    errors = []
    for case in filter(by_element, CASES):
        at = grid(len(arrays(case)))
        theirs = [torch.tensor(a, requires_grad=True) for a in at]
        ours = [kiln.tensor(a, requires_grad=True) for a in at]
        want, got = call(case, counterpart(case), theirs, True), call(case, case.fn, ours, False)
        counts["functions at special values"] += 1
        if case.id not in MEANT_VALUES and (text := off(got.detach(), want.detach(), at)):
            errors.append(f"{case.id}: {text}")
        if not (want.requires_grad and got.requires_grad) or case.id in MEANT_GRADIENTS:
            continue
        try:
            first = torch.autograd.grad(want, theirs, torch.ones_like(want), allow_unused=True)
        except RuntimeError:  # not implemented there
            continue
        mine = kiln.autograd.grad(got, ours, kiln.ones_like(got), allow_unused=True)
        for i, (w, g) in enumerate(zip(first, mine, strict=True)):
            zeros = np.zeros_like(at[0])
            w, g = (
                zeros if x is None else x for x in (None if w is None else w.numpy(force=True), g)
            )
            if text := off(g, w, at):
                errors.append(f"{case.id}, gradient {i}: {text}")
    assert not errors, "\n".join(errors)
