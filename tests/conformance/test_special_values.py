"""PyTorch beside every function of one or two tensors where numbers end: zeros and their signs, infinities, NaN, huge and tiny."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import Case, convert, describe_sample
from test_torch import CASES, attribute, counterpart

import kiln
from kiln.ops.registry import Sample

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
    "scaled_modified_bessel_k0": "three digits for subnormal numbers", "modified_bessel_k1": "NaN for subnormal numbers",
    "modified_bessel_k0": "inf for subnormal numbers",
    "scaled_modified_bessel_k1": "NaN for subnormal numbers",
    "soft_margin_loss": "inf where the exponential overflows", "fake_quantize_per_tensor_affine": "a number for NaN", "norm_except_dim": "of vectors",
}  # fmt: skip
# Signs of zero that are PyTorch's alone.
MEANT_SIGNS = {
    "i1e": "0 for -0, of an odd function", "lerp": "a product too small for its dtype, which is added before it is rounded",
    "remainder": "the dividend's, where the Array API standard asks for the divisor's", "msort": "0 and -0 in the order of an unstable sort",
}  # fmt: skip
MEANT_GRADIENTS = MEANT_VALUES | {
    "digamma": "at poles, of which the sign of rounding decides", "i1e": "a number for NaN",
    "log_ndtr": "NaN where the derivative is -x", "logit": "the sign of infinity at -0",
    "polar": "0 at an absolute value of 0, where Kiln has the derivative",
    "entr": "at 0, where Kiln's is NaN", "xlog1py": "inf at (0, inf), where Kiln's is 0",
}  # fmt: skip
DRAWN = {
    "binomial",
    "multinomial",
    "poisson",
    "_sample_dirichlet",
    "_standard_gamma",
    "bernoulli",
    "normal",
    "dropout2d",
    "dropout3d",
}
SLOW = {"zeta", "polygamma"}  # at 1e30 PyTorch adds up terms for minutes
REFUSED = {"binary_cross_entropy"}  # beyond [0, 1]


def calls(case: Case) -> Iterator[tuple[Sample, int]]:
    """The samples of one or two floating tensors, one for each choice of other arguments, and the count of tensors."""
    seen = set()
    for _, s in case.good:
        found: list[np.ndarray] = []
        key = repr(convert((s.args, s.kwargs), lambda a, found=found: found.append(a)))
        if len(found) in (1, 2) and key not in seen and all(a.dtype.kind == "f" for a in found):
            seen.add(key)
            yield s, len(found)


def call(s: Sample, fn: Any, xs: Any, as_torch: bool = False) -> Any:
    """The sample's call with other tensors."""
    rest = iter(xs)
    args, kwargs = (attribute(s.args), attribute(s.kwargs)) if as_torch else (s.args, s.kwargs)
    return fn(*convert(args, lambda a: next(rest)), **convert(kwargs, lambda a: next(rest)))


def by_element(case: Case, s: Sample, n: int) -> bool:
    """Whether PyTorch's result at a place depends on the numbers there alone."""
    fn, xs = counterpart(case), [torch.linspace(0.1 + i / 9, 0.7, 5) for i in range(n)]
    try:
        whole = call(s, fn, xs, True)
        each = [call(s, fn, [x[i : i + 1] for x in xs], True) for i in range(5)]
        return bool(torch.allclose(whole, torch.cat(each), equal_nan=True))
    except Exception:
        return False


FOUND = [
    (case, s, n)
    for case in CASES
    if not case.random
    and case.id not in DRAWN | SLOW | REFUSED
    and "_polynomial_" not in case.id  # recurrences, whose overflow depends on the order
    for s, n in calls(case)
    if by_element(case, s, n)
]


def grid(n: int, kind: type = np.float32) -> list[np.ndarray]:
    with np.errstate(over="ignore"):
        x = VALUES.astype(kind)
    if n == 1:
        most, least = np.finfo(kind).max, np.finfo(kind).smallest_subnormal
        return [np.concatenate([x, np.array([most, -most, least, -least], kind)])]
    return [a.ravel() for a in np.meshgrid(x, x, indexing="ij")]


def off(got: Any, want: Any, at: list[np.ndarray], tolerance: float = 2e-4) -> str:
    """Where two results differ."""
    g, w = np.asarray(got), np.asarray(want)
    places = np.flatnonzero(~np.isclose(g, w, tolerance, tolerance / 1000, equal_nan=True))
    return "; ".join(f"at {[float(a[i]) for a in at]} {g[i]}, in torch {w[i]}" for i in places[:5])


def signs_off(case: Case, got: Any, wants: list[Any], at: list[np.ndarray]) -> str:
    """Where a 0 has another sign than both of PyTorch's, whose vectors and single elements may differ."""
    if case.id in MEANT_SIGNS:
        return ""
    g, w = np.asarray(got), [np.asarray(x) for x in wants]
    wrong = [(g == 0) & (x == 0) & (np.signbit(g) != np.signbit(x)) for x in w]
    places = np.flatnonzero(np.logical_and.reduce(wrong))
    return "; ".join(f"at {[float(a[i]) for a in at]} {g[i]} for {w[0][i]}" for i in places[:5])


def torch_values(case: Case, s: Sample, xs: list[Any]) -> list[Any]:
    """PyTorch's results of vectors and of elements that don't lie side by side."""
    apart = [x.repeat_interleave(2)[::2] for x in xs]
    return [call(s, counterpart(case), x, True).detach().numpy() for x in (xs, apart)]


def compare(case: Case, s: Sample, how: str, got: Any, wants: list[Any], at: list) -> list[str]:
    if case.id in MEANT_VALUES or got.dtype.kind not in "fb":
        return []
    tolerance = 1e-9 if got.dtype == np.float64 else 2e-4
    text = off(got, wants[0], at, tolerance) or signs_off(case, got, wants, at)
    return [f"{case.id} ({describe_sample(s)}), {how}: {text}"] if text else []


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_values_where_numbers_end(kind, counts):
    errors = []
    for case, s, n in FOUND:
        at = grid(n, kind)
        wants = torch_values(case, s, [torch.from_numpy(a) for a in at])
        counts["functions at special values"] += 1
        got = call(s, case.fn, [kiln.tensor(a) for a in at]).numpy()
        errors += compare(case, s, "eager", got, wants, at)
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize("n", [1, 2])
def test_captured_values_where_numbers_end(n, counts):
    """All functions in a few programs, in which what can be is fused."""
    at = grid(n)
    xs, ours = [torch.from_numpy(a) for a in at], [kiln.tensor(a) for a in at]
    found = [(case, s) for case, s, m in FOUND if m == n and case.op is not None]
    errors = []
    for part in (found[i : i + 50] for i in range(0, len(found), 50)):

        def every(*k: Any, part: Any = part) -> list:
            return [call(s, case.fn, k) for case, s in part]

        for (case, s), got in zip(part, kiln.compile(every)(*ours), strict=True):
            counts["captured functions at special values"] += 1
            errors += compare(case, s, "captured", got.numpy(), torch_values(case, s, xs), at)
    assert not errors, "\n".join(errors)


def test_gradients_where_numbers_end(counts):
    errors, seen = [], set()
    for case, s, n in FOUND:
        if case.id in MEANT_GRADIENTS or case.id in seen:
            continue
        seen.add(case.id)
        at = grid(n)
        theirs = [torch.tensor(a, requires_grad=True) for a in at]
        ours = [kiln.tensor(a, requires_grad=True) for a in at]
        want, got = call(s, counterpart(case), theirs, True), call(s, case.fn, ours)
        if not (want.requires_grad and got.requires_grad):
            continue
        try:
            first = torch.autograd.grad(want, theirs, torch.ones_like(want), allow_unused=True)
        except RuntimeError:  # not implemented there
            continue
        counts["gradients at special values"] += 1
        mine = kiln.autograd.grad(got, ours, kiln.ones_like(got), allow_unused=True)
        for i, (w, g) in enumerate(zip(first, mine, strict=True)):
            zeros = np.zeros_like(at[0])
            w, g = (
                zeros if x is None else x for x in (None if w is None else w.numpy(force=True), g)
            )
            if text := off(g, w, at):
                errors.append(f"{case.id}, gradient {i}: {text}")
    assert not errors, "\n".join(errors)


PLAIN = np.array([-0.0, 0.0] * 20 + [np.nan, 1, -1, np.inf, -np.inf])
ZEROS: dict[str, Callable] = {
    "clamp to 0": lambda m, x: m.clamp(x, min=0),
    "clamp up to 0": lambda m, x: m.clamp(x, max=0),
    "clamp to -0": lambda m, x: m.clamp(x, -0.0, 1),
    "clamp with tensors": lambda m, x: m.clamp(x, -m.zeros_like(x), m.zeros_like(x)),
    "relu6": lambda m, x: m.nn.functional.relu6(x),
    "leaky_relu downwards": lambda m, x: m.nn.functional.leaky_relu(x, -0.5),
    "root": lambda m, x: x**0.5,
    "one over root": lambda m, x: x**-0.5,
    "sums": lambda m, x: m.cumsum(x[0:40:2], 0),
    "sum": lambda m, x: m.sum(x[0:40:2].reshape(4, 5), 1),
    "logs of sums": lambda m, x: m.logcumsumexp(x[:40], 0),
    "sums of products": lambda m, x: x[0:40:2].reshape(4, 5) @ m.ones(5, 3, dtype=x.dtype),
    "less nothing": lambda m, x: x - 0,
    "and nothing": lambda m, x: x + 0,
    "by division": lambda m, x: m.div(x, -3, rounding_mode="floor"),
    "nextafter": lambda m, x: m.nextafter(x, m.ones_like(x)),
}


@pytest.mark.parametrize("d", ["float32", "float64", "bfloat16"])
def test_signs_of_zero(d):
    """Where a bound, a start or a divisor is 0, which samples stay away from."""
    ours, theirs = (
        kiln.tensor(PLAIN).to(getattr(kiln, d)),
        torch.tensor(PLAIN, dtype=getattr(torch, d)),
    )

    def every(x: Any) -> list:
        return [f(kiln, x).double() for f in ZEROS.values()]

    for how, results in (("eager", every(ours)), ("captured", kiln.compile(every)(ours))):
        for (name, f), got in zip(ZEROS.items(), results, strict=True):
            wants = [
                f(torch, x).double().numpy() for x in (theirs, theirs.repeat_interleave(2)[::2])
            ]
            assert np.allclose(got, wants[0], equal_nan=True), (name, how, got)
            wrong = [(got.numpy() == 0) & (np.signbit(got.numpy()) != np.signbit(w)) for w in wants]
            assert not np.logical_and(*wrong).any(), (name, how, got)
