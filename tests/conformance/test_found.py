"""The smallest programs for what `python -m tests.fuzz --torch` found: eager, compiled and PyTorch's agree."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from tests.fuzz import checks, peer
from tests.fuzz.__main__ import FINE
from tests.fuzz.programs import program

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers

INF, NAN = float("inf"), float("nan")
SPECIAL = [-INF, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, INF, NAN]
PAIRS = tuple(map(list, zip(*product(SPECIAL, repeat=2), strict=True)))
FOUND: dict[str, tuple[Callable, tuple]] = {}


def found(*inputs: Any) -> Callable[[Callable], Callable]:
    """A program of a namespace, kiln or torch, and of tensors made of these inputs."""

    def keep(fn: Callable) -> Callable:
        FOUND[fn.__name__] = fn, inputs
        return fn

    return keep


def outcome(m: Any, fn: Callable, inputs: tuple, weight: float, compiled: bool = False) -> Any:
    """Dtypes and numbers of the results, then the gradients of their weighted sum; or that it is refused."""

    def step(*xs: Any) -> list[Any]:
        outs = fn(m, *(x * 1 for x in xs))  # what is changed in place is no leaf
        outs = list(outs) if isinstance(outs, tuple) else [outs]
        terms = [(o * weight).nan_to_num(0, 0, 0).sum() for o in outs if o.requires_grad]
        if terms:
            sum(terms).backward()
        return outs

    xs = [m.tensor(x) for x in inputs]
    for x in xs:
        if x.is_floating_point():
            x.requires_grad_()
    try:
        outs = (kiln.compile(step) if compiled else step)(*xs)
    except RuntimeError:
        return "refused"
    grads = [x * 0 if x.grad is None else x.grad for x in xs if x.requires_grad]
    return [(str(x.dtype).split(".")[-1], x.detach().numpy()) for x in outs + grads]


@found(*PAIRS)
def gradients_of_two_special_numbers(m, x, y):
    names = [
        "atan2",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "logaddexp",
        "logaddexp2",
        "xlogy",
        "remainder",
        "fmod",
        "hypot",
        "nextafter",
    ]
    return tuple(getattr(m, name)(x, y) for name in names)


@found(*(tuple(p[10:]) for p in PAIRS))
def gradients_of_powers_of_special_numbers(m, x, y):
    return x**y


@found([1.0, 2.0])
def lgamma_at_its_zeros(m, x):  # seed 10016329
    return (m.lgamma(x.detach()) != 0).sum()


@found([0.0, -0.0, -1.0, -3.0, -0.5, 0.25, 2.0])
def trigamma_at_poles(m, x):  # seed 10014261
    return m.polygamma(1, x.detach())


@found([False, True, False], [1.5, -1.0, 2.0])
def gradients_of_powers_of_bools(m, x, y):  # seed 10005269
    return x**y


@found(SPECIAL)
def gradients_of_special_numbers(m, x):
    return (
        m.logit(x),
        m.logit(x, 0.1),
        m.special.xlogy(x, 2.0),
        m.special.xlog1py(x, x * 2),
        m.special.entr(x),
    )


@found([1.0, -2.0, 3.0, -4.0], 0.5)
def comparisons_in_place_have_a_gradient_of_zero(m, x, y):
    whole, part, strided = x * 2, x * 2, x * 2
    whole.gt_(y)
    part[:2].le_(y)
    strided.unfold(0, 1, 2).ne_(y)
    return whole, part, strided


@found([1.0, -2.0, 3.0, -4.0], 0.5)
def logic_in_place_leaves_gradients_as_they_were(m, x, y):
    whole, part = x * 2, x * 2
    whole.logical_not_()
    part[:2].logical_or_(y)
    return whole, part


@found([1.0, -2.0])
def a_step_has_no_derivative(m, x):
    return m.heaviside(x, x * 2)


@found([1.0, -2.0])
def a_step_in_place_has_no_derivative(m, x):
    x.heaviside_(m.tensor(1.0))
    return x


@found([1.0, -2.0])
def a_step_is_not_written_as_another_dtype(m, x):
    return m.heaviside(x.detach(), x.detach(), out=m.zeros(2, dtype=m.float64))


@found([3.0, -2.0])
def floor_division_has_no_derivative(m, x):
    return m.floor_divide(x, 2)


@found([[0.0, 0.0], [1.0, 2.0]], [[1.0, 2.0], [0.0, 0.0]])
def the_cosine_of_a_vector_of_zeros(m, x, y):
    return m.cosine_similarity(x, y, dim=-1, eps=1e-3)


@found([0.0, 0.25, 1.0, 0.0, 1.0], [0.0, 0.5, 1.0, 1.0, 0.0])
def certain_answers_have_finite_gradients(m, x, y):
    return m.nn.functional.binary_cross_entropy(x, y, reduction="none")


@found([[1.0, 2.0, 0.0], [3.0, 3.0, 2.0]])
def a_margin_that_is_just_kept_costs_nothing(m, x):
    F = m.nn.functional
    several = m.tensor([[0, 1, -1], [2, -1, 0]])
    return F.multi_margin_loss(x, m.tensor([1, 0])), F.multilabel_margin_loss(x, several)


@found([[3.0], [-2.0]], [[1.0, INF, -INF], [NAN, 2.0, 0.5]], [0.0, INF])
def a_margin_alone_counts(m, one, x, zero):  # seed 30000717
    loss = m.nn.functional.multi_margin_loss
    first = m.tensor([0, 0])
    return loss(one, first) / zero, loss(x.detach(), first), loss(x.detach(), first, p=2)


@found([[3.0, -1.0], [-2.0, 0.5]], [0.0], [1.0, 2.0])
def samples_that_are_left_out_have_no_gradient(m, x, zero, weight):  # seed 10000314
    F, classes = m.nn.functional, m.tensor([0, 1])
    options = product((None, weight.detach()), ("sum", "mean"))
    whole = (F.cross_entropy(x, classes, w, ignore_index=0, reduction=how) for w, how in options)
    return *(y / zero for y in whole), F.nll_loss(x, classes, ignore_index=1) / zero


@found([0.0, 1.0], [2.0, 1.0])
def nothing_that_arrives_stays_in_its_part_of_a_complex_number(m, x, y):
    z = m.complex(x, y) * 1
    return z.imag / x, (x - z).real / x, x.log().norm()


@found([NAN, INF, 0.0])
def not_a_number_arrives_through_what_replaces_it(m, x):
    return 1 / x.nan_to_num(0, 0, 0)


@found([1.25])
def a_fraction_is_not_written_as_another_dtype(m, x):
    return m.frac(x.detach(), out=m.zeros(1, dtype=m.float64))


@found([1.0, 2.0, 3.0, 4.0])
def a_strided_view_may_be_written_to(m, x):
    whole = x * 2
    part = whole.as_strided((2,), (2,), 1)
    part.mul_(3)
    return part, whole


@found([1.0, 2.0, 3.0, 4.0])
def an_unfolded_tensor_may_be_written_to(m, x):
    y = x.unfold(0, 2, 1) * 2
    x.mul_(2)
    return y, x


@found([[1.0, -2.0], [0.5, 0.25]])
def what_backward_does_not_read_may_be_written_to(m, x):
    F = m.nn.functional
    i = m.tensor([[0, 1], [1, 0]])
    joined, padded, shifted = m.cat([x, x * 2]), F.pad(x, (1, 1)), x.roll(1, 0)
    added = x.scatter_add(1, i, x), x.scatter(1, i, x), x.masked_scatter(x > 0, x)
    x.mul_(2)
    picked = x.topk(1)[0], x.sort(1)[0], x.cummax(1)[0], x.max(1)[0], x.frexp()[0]
    squashed = F.elu(x), F.selu(x), F.celu(x), F.hardtanh(x), F.relu6(x), x.mul(0.1).erfinv()
    for y in (joined, padded, shifted, *added, *picked, *squashed):
        y.mul_(3)
    return joined, padded, shifted, *added, *picked, *squashed


@found([[2.0, 1.0], [0.5, 3.0]], [1.0, -2.0])
def what_was_solved_may_be_written_to(m, A, b):
    right, size, angle = b * 1, b.abs() + 1, b * 2
    made = m.polar(size, angle), m.linalg.solve(A, right), m.linalg.tensorsolve(A, right)
    least, residuals, *_ = m.linalg.lstsq(A, b.unsqueeze(1) * 1)
    for x in (right, size, angle, residuals):
        x.mul_(2)
    return made[0].real, made[0].imag, *made[1:], right, size, angle, least


@found([0.0, 2.0, -0.0], [0.5, 1.5, 2.5])
def gradients_of_polar_follow_from_its_result(m, size, angle):
    z = m.polar(size, angle)
    return z.real, z.imag


@found([5.0, 2.0, 2.0, 7.0], [5.0, 5.0, 2.0, 1.0, 3.0])
def equal_extremes_share_a_gradient(m, x, y):
    at = m.tensor([0, 0, 1, 0, 2])
    options = product(("amax", "amin"), (True, False))
    reduced = [x.scatter_reduce(0, at, y, how, include_self=own) for how, own in options]
    parts = {"lengths": m.tensor([2, 0, 3]), "unsafe": True}
    ends = (
        m.segment_reduce(y, how, initial=first, **parts)
        for how, first in product(("max", "min"), (2.0, 5.0))
    )
    return *reduced, *ends


@found([[1.0, -2.0], [0.5, 4.0]], [1.5, 0.5], [0.25, -1.0])
def a_norm_lets_its_bias_be_written_to(m, x, weight, bias):
    F = m.nn.functional
    mean, var = m.tensor([0.5, 1.0]), m.tensor([2.0, 3.0])
    whole = F.batch_norm(x, mean, var, weight, bias)
    bias = bias.mul_(2)
    wide = x.reshape(2, 2, 1).expand(2, 2, 3) * m.tensor([1.0, 2.0, 4.0])
    each = F.instance_norm(wide, None, None, weight * 1, bias)
    some = weight * 2
    part = F.instance_norm(wide, mean, var, some, bias, use_input_stats=False)
    full = F.instance_norm(wide, weight=some, bias=bias)
    some.mul_(2)
    bias.mul_(3)
    return whole, each, part, full, some, bias


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("name", FOUND)
def test_found(name, weight):
    fn, inputs = FOUND[name]
    want = outcome(torch, fn, inputs, weight)
    for compiled in (False, True):
        got = outcome(kiln, fn, inputs, weight, compiled)
        if want == "refused":
            assert got == want
            continue
        for (n, a), (m, b) in zip(got, want, strict=True):
            assert n == m
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


UNREAD = {
    "fill_": lambda m, x: (x * 1).fill_(3.0),
    "fill": lambda m, x: m.fill(x, 3.0),
    "zero_": lambda m, x: (x * 1).zero_(),
    "copy_": lambda m, x: (x * 1).copy_(m.ones(2, 2)),
    "index_copy": lambda m, x: m.index_copy(x.sum(), 0, m.tensor([0]), m.ones(1)),
    "addmm": lambda m, x: m.addmm(x, m.eye(2), m.ones(2, 2, requires_grad=True), beta=0),
    "addmv": lambda m, x: m.addmv(x[0], m.eye(2), m.ones(2, requires_grad=True), beta=0),
    "baddbmm": lambda m, x: m.baddbmm(x[None], m.eye(2)[None], m.ones(1, 2, 2), beta=0),
    "addbmm": lambda m, x: m.addbmm(x, m.eye(2)[None], m.ones(1, 2, 2), beta=0),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_has_a_gradient_of_zeros(name):
    for m in (torch, kiln):
        x = m.full((2, 2), INF, requires_grad=True)
        out = UNREAD[name](m, x)
        assert out.requires_grad
        assert not out.isnan().any()
        out.sum().backward()
        assert x.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("seed", range(3, 150, 21))
def test_random_programs_beside_torch(seed):
    p = program(seed)
    verdict = peer.check(p)
    assert verdict.status in FINE, (verdict.detail, checks.describe(p))


def test_a_wrong_number_is_found_beside_torch(monkeypatch):
    run = checks.Runs.run

    def wrong(self, *args, **options):
        results = run(self, *args, **options)
        return [(name, a + 0.5 if name == "float32" else a) for name, a in results]

    monkeypatch.setattr(checks.Runs, "run", wrong)
    told = [peer.check(program(seed)).status for seed in range(6, 12)]
    assert told.count("differs") > len(told) / 2
