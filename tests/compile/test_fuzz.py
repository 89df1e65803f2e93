"""Random programs, and the smallest ones for what they found."""

import itertools
import math

import numpy as np
import pytest
from tests.fuzz.checks import Runs, check, describe
from tests.fuzz.programs import program
from tests.fuzz.values import moved
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln.backends import reference
from kiln.compile.passes.simplify import simplify
from kiln.config import context
from kiln.graph import spec

rng = np.random.default_rng(0)
START = rng.bit_generator.state


@pytest.fixture(autouse=True)
def _the_same_numbers_whatever_ran_before():
    rng.bit_generator.state = START


def normal(*shape):
    return kiln.tensor(rng.normal(size=shape).astype(np.float32))


def agree(fn, *args, tol=1e-5):
    """The compiled function's results are eager mode's."""
    got, want = kiln.compile(fn)(*args), fn(*args)
    assert got.dtype is want.dtype
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=tol, atol=tol)


@in_turn("seed", [s for s in range(11, 176, 11) if s % 44 != 33], always=range(33, 176, 44))
def test_random_programs(seed):
    p = program(seed)
    verdict = check(p, deep=seed % 4 == 0)
    assert verdict.status != "differs", (verdict.detail, describe(p))


@pytest.mark.filterwarnings("ignore")
@in_turn("seed", range(1, 4), always=[0])
def test_random_programs_of_any_op(seed):
    p = program(seed, wide=True)
    verdict = check(p)
    assert verdict.status != "differs", (verdict.detail, describe(p))


def test_a_run_leaves_the_weights_as_they_were():
    """Seed 10002710: what runs next began elsewhere."""
    runs = next(
        r for s in range(40) if (r := Runs(p := program(s))).first() and p.kind == "training" and r.parameters()
    )  # fmt: skip
    before = [w.detach().clone() for w in runs.parameters()]
    runs.run(False, np.random.default_rng(0))
    for w, b in zip(runs.parameters(), before, strict=True):
        np.testing.assert_array_equal(w.detach().float().numpy(), b.float().numpy())


@pytest.mark.parametrize("away", [1e-2, 0.5])
def test_a_wrong_number_is_found(monkeypatch, away):
    run = Runs.run

    def wrong(self, compiled, *args, **options):
        results = run(self, compiled, *args, **options)
        if compiled:
            next(a for name, a in results if name.startswith("float") and a.size).flat[0] += away
        return results

    monkeypatch.setattr(Runs, "run", wrong)
    assert check(program(22)).status == "differs"


def test_signs_of_what_is_nothing_but_rounding_may_differ():
    r = np.random.default_rng(0)
    x = kiln.tensor([1.0, 2.0, 3.0, 0.0, 0.5, 1e3])
    nothing = kiln.sinc(x)
    signs = {tuple(moved(nothing, r).sign().tolist()) for _ in range(40)}
    assert {s[3:5] for s in signs} == {(1.0, 1.0)}  # 1 and a half
    assert {s[0] for s in signs} == {1.0, -1.0}


def test_whole_numbers_of_half_floats_may_be_rounded():
    r = np.random.default_rng(0)
    for d, truncated in ((kiln.bfloat16, {0.0, 1.0}), (kiln.float32, {1.0})):
        x = kiln.ones((), dtype=d)
        assert {moved(x, r).trunc().item() for _ in range(40)} == truncated


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{"no_fuse": True}, {"no_simplify": True}], ids=str)
@pytest.mark.parametrize("seed", range(5, 176, 11))
def test_random_programs_without_passes(seed, flags):
    with context(**flags):
        verdict = check(program(seed))
    assert verdict.status != "differs", verdict.detail


@in_turn("seed", range(14, 90, 22), always=range(3, 90, 22))
def test_simplify_keeps_random_programs(seed):
    p = program(seed)
    xs = [i.tensor() for i in p.inputs]
    p(*xs)
    run = kiln.compile(lambda *xs: p(*xs), backend="reference")
    run(*xs)
    plan = run.entries[0].root.plan
    better = simplify(plan.graph)
    spec.check(better, "simplify")
    arrays = [np.array(i.fetch(xs)) for i in plan.inputs]
    got, want = (
        reference.compile(g, "p").run([a.copy() for a in arrays]) for g in (better, plan.graph)
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


VIEWS = {
    "transposed": lambda a: a.transpose(2, 3),
    "flipped": lambda a: a.flip(3),
    "rows flipped": lambda a: a.flip(2),
    "both": lambda a: a.flip(2).transpose(2, 3),
    "channels flipped": lambda a: a.flip(1),
    "images flipped": lambda a: a.flip(0),
    "images and channels": lambda a: a.transpose(0, 1),
}


@in_turn("groups", [1, 2, 16], view=VIEWS)
def test_what_is_added_to_a_convolution_may_be_a_view(view, groups):
    x, w = normal(16, 16, 6, 6), normal(16, 16 // groups, 3, 3)
    agree(
        lambda x, a: F.conv2d(x, w, None, 1, 1, 1, groups) * 0.1 + VIEWS[view](a),
        x,
        normal(*x.shape),
    )


@in_turn("flips", [(), (0,), (1,), (0, 1, 2)], dims=itertools.permutations(range(3)))
def test_what_is_added_to_a_batch_of_products_may_be_a_view(dims, flips):
    w = normal(6, 5)
    agree(
        lambda x, a: (x @ w).relu() + a.permute(dims).flip(flips), normal(5, 5, 6), normal(5, 5, 5)
    )


def test_integers_beyond_the_range_of_their_dtype_wrap():
    x = kiln.tensor([1, 2, 250], dtype=kiln.uint8)
    agree(lambda x: x.clamp(min=-1), x)
    agree(lambda x: x + 300, x)


def test_casts_that_change_the_sign_stay():
    agree(lambda x: x.to(kiln.int64).to(kiln.float32), kiln.tensor([1, 2], dtype=kiln.uint64))


@pytest.mark.parametrize("pick", ["max", "min"])
def test_the_largest_truth_value(pick):
    agree(lambda x: getattr(x, pick)(1)[0], kiln.tensor([[False, True], [False, False]]))


def test_the_gradient_of_a_scan_of_nothing():
    w = kiln.zeros(0, 0, requires_grad=True)

    def fn(x):
        out = kiln.scan(lambda c, s: ((s + c @ w).tanh(), c), kiln.zeros(2, 0), x)[0]
        return kiln.autograd.grad(out.sum(), x)[0]

    agree(fn, kiln.zeros(3, 2, 0).requires_grad_())


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_branches_and_scans_of_nothing(shape):
    agree(
        lambda x: kiln.cond(x.sum() > 0, lambda a: a * 2, lambda a: a.sin(), (x,)),
        kiln.zeros(*shape),
    )
    agree(
        lambda x: kiln.scan(lambda c, s: (c + s, c), kiln.zeros(shape[1]), x)[0], kiln.zeros(*shape)
    )


@in_turn("pick", ["amax", "amin"], act=["gelu", "tanh + 1", "erf - 1"])
def test_a_value_computed_twice_is_the_same_value(act, pick):
    """The gradient goes to the elements that equal the extreme, wherever they are computed again."""
    acts = {
        "gelu": lambda x: F.gelu(x, approximate="tanh"),
        "tanh + 1": lambda x: (x.tanh() + 1) * x,
        "erf - 1": lambda x: (x.erf() - 1) * x,
    }

    def fn(x):
        y = getattr(acts[act](x), pick)((0, 2), keepdim=True)
        return kiln.autograd.grad(y.sin().sum(), x)[0]

    agree(fn, normal(2, 13, 24).requires_grad_())


@pytest.mark.parametrize("dtype", [kiln.float16, kiln.bfloat16], ids=str)
def test_half_floats_are_compared_as_they_are_stored(dtype):
    bias = normal(3, 1).to(dtype)

    def fn(x):
        y = (x + bias).relu().amax(-1)
        return kiln.autograd.grad((y.float() ** 2).sum(), x)[0].float()

    agree(fn, normal(2, 3, 32).to(dtype).requires_grad_(), tol=2e-2)


def test_a_result_is_written_beside_what_the_function_reaches():
    w = normal(3)

    def fn(x):
        out = kiln.zeros(3)
        kiln.add(w, w, out=out)
        return kiln.add(x, out, out=out) * kiln.zeros(3).add_(w)

    agree(fn, normal(3))


def test_one_hot_of_what_the_function_reaches():
    labels = kiln.tensor([2, 0, 1])
    agree(lambda x: F.one_hot(labels, 3) * x, kiln.tensor(2))


def test_an_argument_that_the_optimizer_holds_too():
    def steps(compiled):
        images = [
            kiln.arange(6.0).reshape(3, 2).t().requires_grad_(),
            kiln.ones(2, 3, requires_grad=True),
        ]
        opt = kiln.optim.SGD(images[:1], lr=0.1, momentum=0.9)

        def step(image):
            opt.zero_grad()
            loss = (image**2).sum()
            loss.backward()
            opt.step()
            return image, loss.detach()

        run = kiln.compile(step) if compiled else step
        out = []
        for image in (images[0], images[0], images[1], images[0]):
            same, loss = run(image)
            assert same is image
            out += [loss.item(), *image.detach().numpy().ravel(), *image.grad.numpy().ravel()]
        return out

    np.testing.assert_allclose(steps(True), steps(False), rtol=1e-6)


def test_the_gradient_of_a_view_changed_in_place_by_a_wider_dtype():
    w = normal(2, 3).abs().double()

    def fn(x):
        z = x * 1
        z[:2].xlogy_(w)
        return kiln.autograd.grad(z.square().sum(), x)[0]

    agree(fn, normal(3, 3).requires_grad_())


@pytest.mark.parametrize("large", [False, True])
def test_silu_ends_where_the_exponential_is_infinite(large):
    """Seed 10001797: a comparison with zero tells; PyTorch's ends there as well."""
    x = kiln.tensor([-88.0, -89.0, -94.5, -120.0, -math.inf, 100.0] * (20_000 if large else 1))
    x.requires_grad_()
    for run in (F.silu, kiln.compile(F.silu)):
        y = run(x)
        (g,) = kiln.autograd.grad(y.sum(), x)
        for a, ends in ((y, [0, 0, 0, math.nan, 100]), (g, [0, 0, 0, math.nan, 1])):
            first, *rest = a[:6].tolist()
            np.testing.assert_array_equal(rest, ends)
            assert -1e-35 < first < 0


def test_what_is_normalized_of_equal_elements_is_nothing():
    """Seed 10002197: PyTorch's variance of them is their rounding."""
    w, b, x = normal(4), normal(4), kiln.full((3, 4, 12, 4), 3470.1)
    for run in (F.batch_norm, kiln.compile(F.batch_norm)):
        y = run(x, None, None, w, b, True, eps=1e-3)
        np.testing.assert_allclose(y.mean((0, 2, 3)).numpy(), b.numpy(), atol=1e-2)
        y = run(x.round(), None, None, w, b, True, eps=1e-3)
        np.testing.assert_allclose(y.mean((0, 2, 3)).numpy(), b.numpy(), atol=1e-6)
