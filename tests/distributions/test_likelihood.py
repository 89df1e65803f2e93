"""What distributions compute at once of few numbers: the bits of the ops that it stands for, and the same refusals."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kiln
from kiln import nn
from kiln.distributions import Bernoulli, Categorical, Normal, Uniform, constraints
from kiln.ops import likelihood as at_once

SHAPES = ((2,), (1, 2), (1, 1), (5, 3), (2, 3, 4))
ONE = {
    "normalized": (at_once.normalized, lambda x: x / x.sum(-1, True)),
    "scores": (at_once.scores, lambda x: x - x.logsumexp(-1, True)),
    "log_inside": (lambda x: at_once.log_inside(x, 0.3), lambda x: x.clamp(0.3, 0.7).log()),
    "entropy of logits": (lambda x: at_once.entropy(x, 1 - half(x)), lambda x: -(x.clamp(-3e38) * (1 - half(x))).sum(-1)),
    "entropy of probs": (lambda x: at_once.entropy(half(x), x), lambda x: -(half(x).clamp(-3e38) * x).sum(-1)),
    "picked": (lambda x: at_once.picked(x, some(x)), lambda x: x.gather(-1, some(x).unsqueeze(-1)).squeeze(-1)),
    "density of value": (lambda x: at_once.gaussian(x, half(x), half(x)), lambda x: density(x, half(x), half(x))),
    "density of loc": (lambda x: at_once.gaussian(half(x), x, half(x)), lambda x: density(half(x), x, half(x))),
    "density of scale": (lambda x: at_once.gaussian(1 - half(x), half(x), x), lambda x: density(1 - half(x), half(x), x)),
}  # fmt: skip


def half(x):
    return x.detach() * 0.5


def density(value, loc, scale):
    return -0.5 * ((value - loc) / scale).square() - scale.log() - 0.5 * math.log(math.tau)


def some(x):
    return kiln.arange(math.prod(x.shape[:-1])).reshape(x.shape[:-1]) % x.shape[-1]


@pytest.mark.parametrize("dtype", [kiln.float32, kiln.float64, kiln.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ONE)
def test_bits_and_gradients_are_those_of_the_ops(name, shape, dtype):
    fused, ops = ONE[name]
    kiln.manual_seed(0)
    x = kiln.rand(shape, dtype=dtype).clamp(0.05).requires_grad_()
    found = []
    for fn in (fused, ops):
        out = fn(x)
        weights = kiln.linspace(0.5, 1.5, out.numel()).reshape(out.shape).to(dtype)
        loss = (out * weights).sum()
        (first,) = kiln.autograd.grad(loss, x, create_graph=True)
        second = None
        if first.requires_grad:
            (second,) = kiln.autograd.grad(first.square().sum(), x, retain_graph=True, allow_unused=True)  # fmt: skip
        x.grad = None
        loss.backward()
        found.append((out, first, x.grad, second))
    *known, second = [
        [None if t is None else t.detach().double().numpy() for t in pair]
        for pair in zip(*found, strict=True)
    ]
    for a, b in known:
        np.testing.assert_array_equal(a, b)
    assert (second[0] is None) == (second[1] is None)
    if second[0] is not None:
        np.testing.assert_allclose(
            *second, rtol=1e-2 if dtype is kiln.bfloat16 else 1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ONE)
def test_strided_and_captured_tensors_are_computed_alike(name):
    fused, ops = ONE[name]
    x = kiln.rand(3, 4).mT.clamp(0.05)
    np.testing.assert_allclose(fused(x).numpy(), ops(x).numpy(), rtol=1e-6)
    np.testing.assert_allclose(kiln.compile(fused)(x).numpy(), ops(x).numpy(), rtol=1e-5, atol=1e-6)
    mapped = kiln.vmap(fused)(x)
    np.testing.assert_allclose(mapped.numpy(), kiln.stack([ops(r) for r in x]).numpy(), rtol=1e-6)


def test_rows_of_zeros_are_not_a_number_even_where_warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        c = Categorical(kiln.zeros(1, 2), validate_args=False)
        assert c.probs.isnan().all()
        assert (
            Categorical(logits=kiln.full((2,), -math.inf), validate_args=False).logits.isnan().all()
        )
        with pytest.raises(ValueError, match="Simplex"):
            Categorical(kiln.zeros(1, 2))


def test_an_index_that_is_no_category():
    c = Categorical(kiln.ones(2, 3), validate_args=False)
    for bad in (3, -1):
        with pytest.raises(RuntimeError, match="out of bounds"):
            c.log_prob(kiln.tensor([0, bad]))
        with pytest.raises(RuntimeError, match="out of bounds"):
            Categorical(kiln.ones(3), validate_args=False).log_prob(kiln.tensor(bad))
    with pytest.raises(ValueError, match="support"):
        Categorical(kiln.ones(3)).log_prob(kiln.tensor(3))


REGIONS = (
    constraints.real, constraints.positive, constraints.nonnegative, constraints.unit_interval, constraints.simplex,
    constraints.nonnegative_integer, constraints.boolean, constraints.integer_interval(0, 3), constraints.real_vector,
    constraints.interval(0.0, 0.1), constraints.half_open_interval(-1, 1.0), constraints.less_than(0.3),
    constraints.greater_than(-math.inf), constraints.interval(0, 1 << 25),
)  # fmt: skip
NUMBERS = st.sampled_from([0.0, -0.0, 0.1, 0.3, 0.5, 1.0, 1.0000001, 2.0, 3.0, -1.0, 2.5, math.nan, math.inf, -math.inf, 2.0**25, 2.0**25 + 4])  # fmt: skip


@given(
    st.lists(NUMBERS, min_size=1, max_size=12), st.sampled_from(["float32", "float64", "float16"])
)
@settings(max_examples=150, deadline=None)
def test_few_numbers_lie_in_a_region_where_each_does(values, dtype):
    with np.errstate(all="ignore"):
        x = kiln.tensor(np.array(values, dtype))
    for region in REGIONS:
        assert region.holds(x) == bool(region.check(x).all())
    if np.isfinite(values).all():
        i = x.long()
        for region in REGIONS[1:-1]:
            assert region.holds(i) == bool(region.check(i).all())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=16))
@settings(max_examples=100, deadline=None)
def test_probabilities_of_few_categories_sum_to_1(values):
    for dtype in (np.float32, np.float64):
        p = np.array(values, dtype)
        p = kiln.tensor(p / p.sum() if p.sum() > 0 else p)
        assert constraints.simplex.holds(p) == bool(constraints.simplex.check(p).all())


@given(st.lists(st.sampled_from([0.0, -0.0, 0.5, 1.0, 3.0, -1.0, math.nan, math.inf]), min_size=9, max_size=9),
       st.booleans(), st.booleans())  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_small_matrix_lies_in_a_region_where_its_check_says_so(values, even, lower):
    x = kiln.tensor(values).reshape(3, 3)
    x = x.tril() + x.tril(-1).T if even else x.tril() if lower else x
    for region in (
        constraints.lower_cholesky,
        constraints.positive_definite,
        constraints.corr_cholesky,
    ):
        for matrix in (x, x[:2], x + 3 * kiln.eye(3), x.double().expand(2, 3, 3)):
            if matrix.shape[-1] == matrix.shape[-2] or region is constraints.positive_definite:
                assert region.holds(matrix) == bool(region.check(matrix).all())


def test_parameters_of_modules_stay_their_own():
    scale = nn.Parameter(kiln.ones(3))
    d = Normal(kiln.zeros(3), scale)
    assert d.scale is not scale
    assert type(d.scale) is kiln.Tensor
    d.log_prob(kiln.ones(3)).sum().backward()
    np.testing.assert_array_equal(scale.grad.numpy(), np.zeros(3))


def test_shapes_and_numbers_broadcast():
    d = Normal(0.0, kiln.tensor([1.0, 2.0]))
    assert d.loc.shape == (2,)
    assert d.log_prob(kiln.zeros(4, 2)).shape == (4, 2)
    assert Uniform(0, 1).low.shape == ()
    assert Bernoulli(0.3).probs.dtype is kiln.float32
    c = Categorical(kiln.ones(4, 3))
    assert c.log_prob(kiln.tensor(1)).shape == (4,)
    assert c.log_prob(kiln.ones(2, 4)).shape == (2, 4)
    assert c.sample((2, 3)).shape == (2, 3, 4)
    assert c.sample().shape == (4,)
    assert not c.sample().requires_grad
