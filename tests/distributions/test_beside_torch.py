"""PyTorch beside it: every function of every distribution, with gradients, and KL of every pair."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import CASES, EACH, made

import kiln
from kiln import distributions as kd

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers
td = torch.distributions


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Side:
    """One library's distribution and its parameters that are tensors."""

    def __init__(self, library: Any, name: str, i: int, **more: Any):
        self.leaves: list = []
        self.torch = library is td

        def tensor(a: np.ndarray) -> Any:
            x = torch.from_numpy(a.copy()) if self.torch else kiln.tensor(a)
            self.leaves.append(x.requires_grad_())
            return x

        self.dist = made(library, name, i, tensor, **more)
        arrays = [k for k, v in CASES[name][i].items() if isinstance(v, np.ndarray)]
        self.triangular = [j for j, k in enumerate(arrays) if k == "scale_tril"]

    def tensor(self, a: Any) -> Any:
        a = np.array(a)
        return torch.from_numpy(a) if self.torch else kiln.tensor(a)

    def gradients(self, out: Any, *inputs: Any) -> list:
        """Gradients of a weighted sum of a result."""
        if not out.requires_grad:
            return []
        weights = self.tensor(np.cos(np.arange(out.numel())).reshape(tuple(out.shape)))
        grad = (torch if self.torch else kiln).autograd.grad
        found = grad((out * weights.to(out.dtype)).sum(), [*self.leaves, *inputs], allow_unused=True, retain_graph=True)  # fmt: skip
        arrays = [None if g is None else g.detach().numpy() for g in found]
        for j in (
            self.triangular
        ):  # the other triangle is 0 whatever its gradient, which torch has at times
            arrays[j] = None if arrays[j] is None else np.tril(arrays[j])
        return arrays


def outcome(fn: Callable, *args: Any) -> Any:
    try:
        return fn(*args)
    except Exception as e:
        return e


def close(a: Any, b: Any, tolerance: float) -> bool:
    return np.allclose(a, b, tolerance, tolerance, equal_nan=True)


def compare(what: str, ours: Side, theirs: Side, fn: Callable, *inputs: np.ndarray, gradient: bool = True,
            tolerance: float = 1e-7) -> list[str]:  # fmt: skip
    """What differs between fn of both sides."""
    a_in, b_in = ([s.tensor(x) for x in inputs] for s in (ours, theirs))
    if gradient:
        for x in (*a_in, *b_in):
            x.requires_grad_()
    a, b = outcome(fn, ours, *a_in), outcome(fn, theirs, *b_in)
    if isinstance(b, Exception) or isinstance(a, Exception):
        kind = NotImplementedError if isinstance(b, NotImplementedError) else type(b)
        same = isinstance(b, Exception) and isinstance(a, kind)
        return [] if same else [f"{what}: {a!r} where torch has {b!r}"]
    if not isinstance(b, torch.Tensor):
        return [] if a == b else [f"{what}: {a} where torch has {b}"]
    if tuple(a.shape) != tuple(b.shape) or a.dtype.name != str(b.dtype).removeprefix("torch."):
        return [f"{what}: {a.dtype}{tuple(a.shape)} where torch has {b.dtype}{tuple(b.shape)}"]
    tolerance = tolerance if a.dtype is not kiln.float32 else 2e-5
    if not close(a.detach().numpy(), b.detach().numpy(), tolerance):
        return [f"{what}: {a} where torch has {b}"]
    if not gradient:
        return []
    due = outcome(theirs.gradients, b, *b_in)
    if isinstance(
        due, Exception
    ):  # the incomplete gamma function's, by its parameter, which Kiln has
        return []
    found = ours.gradients(a, *a_in)
    bad = [f"{what}: gradient {i}: {g} where torch has {w}" for i, (g, w) in enumerate(itertools.zip_longest(found, due))
           if not close(0.0 if g is None else g, 0.0 if w is None else w, 10 * tolerance)]  # fmt: skip
    return bad


SLACK = {"VonMises": 1e-5}  # torch's Bessel functions are polynomials of seven digits


@pytest.mark.parametrize(("name", "i"), EACH)
def test_functions(name: str, i: int) -> None:
    ours, theirs = Side(kd, name, i), Side(td, name, i)
    kiln.manual_seed(5)
    value = ours.dist.sample((4,)).detach().numpy()
    tolerance, bad = SLACK.get(name, 1e-7), []
    whole = ours.dist.event_shape == () and not np.all(value != np.round(value))

    def check(what: str, fn: Callable, *inputs: Any, gradient: bool = True) -> None:
        bad.extend(compare(what, ours, theirs, fn, *inputs, gradient=gradient, tolerance=tolerance))

    for p in (
        "mean",
        "mode",
        "variance",
        "stddev",
        "covariance_matrix",
        "precision_matrix",
        "scale_tril",
        "probs",
        "logits",
    ):
        if p in ("mean", "mode", "variance", "stddev") or hasattr(theirs.dist, p):
            check(p, lambda s, p=p: getattr(s.dist, p))
    for p in ("has_rsample", "has_enumerate_support"):
        check(p, lambda s, p=p: getattr(s.dist, p))
    check("batch_shape", lambda s: tuple(s.dist.batch_shape))
    check("event_shape", lambda s: tuple(s.dist.event_shape))
    check("entropy", lambda s: s.dist.entropy())
    check("perplexity", lambda s: s.dist.perplexity())
    check("log_prob", lambda s, x: s.dist.log_prob(x), value, gradient=value.dtype.kind == "f")
    check("cdf", lambda s, x: s.dist.cdf(x), value, gradient=not whole)
    check(
        "icdf",
        lambda s, x: s.dist.icdf(x),
        np.linspace(0.05, 0.95, 4).reshape(4, *[1] * len(ours.dist.batch_shape)),
    )
    for expand in (True, False):
        check("enumerate_support", lambda s, e=expand: s.dist.enumerate_support(e), gradient=False)
    bigger = (3, *ours.dist.batch_shape)
    check(
        "expand",
        lambda s, x: s.dist.expand(bigger).log_prob(x),
        value[:3],
        gradient=value.dtype.kind == "f",
    )
    check("expand sample", lambda s: tuple(s.dist.expand(bigger).sample((2,)).shape))
    check("sample", lambda s: tuple(s.dist.sample((2, 3)).shape))
    check("sample dtype", lambda s: str(s.dist.sample().dtype).split(".")[-1])
    check("support", lambda s: s.dist.support.check(s.tensor(value)), gradient=False)
    assert not bad, "\n".join(bad)


def test_divergences() -> None:
    """KL of every pair of kinds: PyTorch's value and gradients, or its error."""
    kinds = [(n, 0) for n in CASES] + [("Normal", 1), ("Uniform", 1), ("MultivariateNormal", 2)]
    sides = {k: (Side(kd, *k), Side(td, *k)) for k in kinds}
    bad, known = [], 0
    for p, q in itertools.product(kinds, kinds):
        if kd.kl._find(type(sides[p][0].dist), type(sides[q][0].dist)) is None:
            assert td.kl._dispatch_kl(type(sides[p][1].dist), type(sides[q][1].dist)) is NotImplemented, (p, q)  # fmt: skip
            continue
        known += 1
        ours, theirs = (Side.__new__(Side) for _ in range(2))
        for s, j in ((ours, 0), (theirs, 1)):
            s.torch, s.leaves = bool(j), sides[p][j].leaves + (sides[q][j].leaves if p != q else [])
            s.triangular = []
            s.pair = sides[p][j].dist, sides[q][j].dist  # type: ignore[attr-defined]
        kl = {False: kd.kl_divergence, True: td.kl_divergence}
        tolerance = 1e-5 if p[1] == 1 or q[1] == 1 else 1e-7  # numbers are float32
        bad += compare(
            f"kl({p}, {q})",
            ours,
            theirs,
            lambda s, kl=kl: kl[s.torch](*s.pair),
            tolerance=tolerance,
        )
    assert known > 90
    assert not bad, "\n".join(bad)


def test_registered_pairs_are_torchs() -> None:
    ours = {(p.__name__, q.__name__) for p, q in kd.kl._REGISTRY}
    assert ours == {(p.__name__, q.__name__) for p, q in td.kl._KL_REGISTRY}


def test_public_names_are_torchs() -> None:
    assert set(td.__all__) <= set(kd.__all__)
    assert set(td.constraints.__all__) == set(kd.constraints.__all__)
    for name in td.__all__:
        home = getattr(getattr(td, name), "__module__", "").removeprefix("torch.distributions.")
        if home and home.isidentifier():
            __import__(f"kiln.distributions.{home}")
            assert hasattr(getattr(kd, home), name), f"{home}.{name}"


TRANSFORMS: dict[str, Callable] = {
    "exp": lambda d, t: d.ExpTransform(),
    "power": lambda d, t: d.PowerTransform(t(np.array(1.7))),
    "sigmoid": lambda d, t: d.SigmoidTransform(),
    "softplus": lambda d, t: d.SoftplusTransform(),
    "tanh": lambda d, t: d.TanhTransform(),
    "affine": lambda d, t: d.AffineTransform(t(np.array([1.0, 2.0, 3.0])), t(np.array(-2.0))),
    "affine of vectors": lambda d, t: d.AffineTransform(1.0, 2.0, event_dim=1),
    "softmax": lambda d, t: d.SoftmaxTransform(),
    "stick breaking": lambda d, t: d.StickBreakingTransform(),
    "correlations": lambda d, t: d.CorrCholeskyTransform(),
    "reshape": lambda d, t: d.ReshapeTransform((3,), (1, 3)),
    "independent": lambda d, t: d.IndependentTransform(d.ExpTransform(), 1),
    "composed": lambda d, t: d.ComposeTransform([d.TanhTransform(), d.AffineTransform(2.0, 0.5), d.ExpTransform().inv]),
    "composed widths": lambda d, t: d.ComposeTransform([d.AffineTransform(0.1, 0.3), d.StickBreakingTransform()]),
    "cat": lambda d, t: d.CatTransform([d.ExpTransform(), d.identity_transform], dim=-1, lengths=[1, 2]),
    "stack": lambda d, t: d.StackTransform([d.ExpTransform(), d.identity_transform, d.TanhTransform()], dim=-1),
    "cdf": lambda d, t: d.CumulativeDistributionTransform(d.Normal(0.2, 1.1)),
    "abs": lambda d, t: d.AbsTransform(),
    "lower cholesky": lambda d, t: d.LowerCholeskyTransform(),
    "positive definite": lambda d, t: d.PositiveDefiniteTransform(),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str) -> None:
    ours, theirs = (Side.__new__(Side) for _ in range(2))
    ours.torch, theirs.torch = False, True
    for s, library in ((ours, kd), (theirs, td)):
        s.leaves = s.triangular = []
        s.dist = TRANSFORMS[name](library, s.tensor)
    matrices = name in ("lower cholesky", "positive definite")
    x = np.random.default_rng(1).normal(size=(2, 3, 3) if matrices else (2, 3))
    x = np.abs(x) + 0.1 if name == "power" else x
    y = theirs.dist(torch.from_numpy(x))
    bad = compare("forward", ours, theirs, lambda s, x: s.dist(x), x)
    bad += compare("inverse", ours, theirs, lambda s, y: s.dist.inv(y), y.numpy())
    bad += compare("jacobian", ours, theirs, lambda s, x, y: s.dist.log_abs_det_jacobian(x, y), x, y.numpy())  # fmt: skip
    bad += compare("inverse jacobian", ours, theirs, lambda s, x, y: s.dist.inv.log_abs_det_jacobian(y, x), x, y.numpy())  # fmt: skip
    for what in ("bijective", "sign", "event_dim"):
        bad += compare(what, ours, theirs, lambda s, w=what: getattr(s.dist, w), gradient=False)
    for side in ("domain", "codomain"):
        bad += compare(side, ours, theirs, lambda s, w=side: getattr(s.dist, w).event_dim)
        z = x if side == "domain" else y.numpy()
        bad += compare(
            side, ours, theirs, lambda s, w=side, z=z: getattr(s.dist, w).check(s.tensor(z))
        )
    bad += compare("shape", ours, theirs, lambda s: tuple(s.dist.forward_shape(x.shape)))
    bad += compare("shape", ours, theirs, lambda s: tuple(s.dist.inverse_shape(y.shape)))
    bad += compare("shape", ours, theirs, lambda s: tuple(s.dist.inverse_shape((2, 4, 5))))
    bad += compare("shape", ours, theirs, lambda s: tuple(s.dist.forward_shape(())))
    assert not bad, "\n".join(bad)


WRONG: list[Callable] = [
    lambda d, t: d.Normal(t([0.0]), t([-1.0])),
    lambda d, t: d.Normal("x", 1.0),
    lambda d, t: d.Normal(t([0.0, 1.0]), t([1.0, 1.0, 1.0])),
    lambda d, t: d.Normal(t([0.0]), t([1.0])).log_prob(t([float("nan")])),
    lambda d, t: d.Normal(t([0.0, 1.0]), 1.0).log_prob(t([1.0, 2.0, 3.0])),
    lambda d, t: d.Normal(0.0, 1.0).log_prob(1.0),
    lambda d, t: d.Bernoulli(),
    lambda d, t: d.Bernoulli(0.3, 0.4),
    lambda d, t: d.Bernoulli(1.3),
    lambda d, t: d.Bernoulli(0.3).log_prob(t(0.5)),
    lambda d, t: d.Categorical(),
    lambda d, t: d.Categorical(t(0.5)),
    lambda d, t: d.Categorical(t([0.5, 0.5])).log_prob(t(2)),
    lambda d, t: d.Categorical(t([-0.5, 1.5])),
    lambda d, t: d.Geometric(t(0.0)),
    lambda d, t: d.Gamma(t(0.0), 1.0),
    lambda d, t: d.Dirichlet(t(1.0)),
    lambda d, t: d.Dirichlet(t([1.0, 2.0])).log_prob(t([0.5, 0.6])),
    lambda d, t: d.Uniform(1.0, 0.0),
    lambda d, t: d.Uniform(0.0, 1.0).log_prob(t(2.0)),
    lambda d, t: d.MultivariateNormal(t(0.0), t([[1.0]])),
    lambda d, t: d.MultivariateNormal(t([0.0])),
    lambda d, t: d.MultivariateNormal(t([0.0, 0.0]), t([[1.0, 0.5], [0.2, 1.0]])),
    lambda d, t: d.MultivariateNormal(t([0.0, 0.0]), t([1.0, 1.0])),
    lambda d, t: d.LowRankMultivariateNormal(t([0.0, 0.0]), t([[1.0]]), t([1.0, 1.0])),
    lambda d, t: d.Wishart(t(1.5), t([[1.0, 0.0], [0.0, 1.0]]), t([[1.0, 0.0], [0.0, 1.0]])),
    lambda d, t: d.Wishart(t(0.5), t([[1.0, 0.0], [0.0, 1.0]])),
    lambda d, t: d.LKJCholesky(1),
    lambda d, t: d.Multinomial(t([1, 2]), t([0.5, 0.5])),
    lambda d, t: d.Multinomial(2, t([0.5, 0.5])).log_prob(t([2.0, 1.0])),
    lambda d, t: d.Binomial(t([1, 2]), t([0.5, 0.5])).entropy(),
    lambda d, t: d.Binomial(t([1, 2]), t([0.5, 0.5])).enumerate_support(),
    lambda d, t: d.Independent(d.Normal(0.0, 1.0), 1),
    lambda d, t: d.Independent(d.Bernoulli(t([0.5])), 1).enumerate_support(),
    lambda d, t: d.MixtureSameFamily(d.Normal(0.0, 1.0), d.Normal(0.0, 1.0)),
    lambda d, t: d.MixtureSameFamily(d.Categorical(t([0.5, 0.5])), d.Normal(t([0.0] * 3), 1.0)),
    lambda d, t: d.TransformedDistribution(d.Normal(0.0, 1.0), 3),
    lambda d, t: d.TransformedDistribution(d.Normal(0.0, 1.0), [d.ExpTransform(), 3]),
    lambda d, t: d.TransformedDistribution(d.Normal(0.0, 1.0), d.StickBreakingTransform()),
    lambda d, t: d.ExpTransform(cache_size=2),
    lambda d, t: d.CatTransform([3]),
    lambda d, t: d.ReshapeTransform((2, 3), (4,)),
    lambda d, t: d.CorrCholeskyTransform().forward_shape((4,)),
    lambda d, t: d.constraints.dependent.check(t([1.0])),
    lambda d, t: d.constraints.dependent.event_dim,
    lambda d, t: d.constraints.independent(3, 1),
    lambda d, t: d.transform_to(d.constraints.boolean),
    lambda d, t: d.biject_to(d.constraints.lower_cholesky),
    lambda d, t: d.transform_to.register(3, lambda c: c),
    lambda d, t: d.Normal.set_default_validate_args(3),
    lambda d, t: d.Poisson(1.0).entropy(),
    lambda d, t: d.Poisson(1.0).rsample(),
    lambda d, t: d.Distribution().mean,
    lambda d, t: d.kl_divergence(d.Normal(0.0, 1.0), d.Poisson(1.0)),
    lambda d, t: d.utils.vec_to_tril_matrix(t([1.0, 2.0])),
    lambda d, t: d.utils.tril_matrix_to_vec(t([[1.0]]), 3),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(WRONG)))
def test_errors(i: int) -> None:
    """PyTorch refuses it with some exception; Kiln with one of the same class."""
    due = outcome(WRONG[i], td, torch.tensor)
    assert isinstance(due, Exception), due
    with pytest.raises(type(due)) as found:
        WRONG[i](kd, kiln.tensor)
    assert isinstance(found.value, kiln.KilnError) or type(found.value) is type(due)


CONSTRAINTS = [n for n in dir(td.constraints) if isinstance(getattr(td.constraints, n), td.constraints.Constraint)]  # fmt: skip


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints(name: str) -> None:
    ours, theirs = (getattr(x.constraints, name) for x in (kd, td))
    if name == "dependent":
        return
    assert (ours.event_dim, ours.is_discrete) == (theirs.event_dim, theirs.is_discrete)
    assert repr(ours).split("(")[0] == repr(theirs).split("(")[0]
    low = np.tril(np.ones((3, 3))) * [[1], [2**-0.5], [3**-0.5]]
    for x in (
        np.array([[-1.0, 0.0, 1.0], [0.5, 0.5, 0.0], [np.nan, np.inf, 1.0]]),
        np.eye(3),
        -np.eye(3),
        np.zeros((3, 3)),
        low,
        low.T,
        np.array([[2.0, 1.0], [1.0, 2.0]]),
        np.array([[1.0, 2.0], [2.0, 1.0]]),
        np.ones((2, 2)),
        np.array([[0, 1], [1, 0]]),
    ):
        due = outcome(theirs.check, torch.from_numpy(x))
        if isinstance(due, torch.Tensor):
            assert ours.check(kiln.tensor(x)).tolist() == due.tolist(), x
    for registry in ("biject_to", "transform_to"):
        due = outcome(getattr(td, registry), theirs)
        found = outcome(getattr(kd, registry), ours)
        assert repr(found) == repr(due) if not isinstance(due, Exception) else isinstance(found, type(due))  # fmt: skip
