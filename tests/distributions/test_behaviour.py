"""Distributions as objects: subclasses, expansion, checks, caches, registries."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import numpy as np
import pytest

import kiln
from kiln import distributions as kd
from kiln.distributions import constraints


class Shifted(kd.Normal):
    """A user's subclass with a constructor of its own."""

    def __init__(self, by: Any):
        super().__init__(by, 1.0)


class Twice(kd.Normal):
    """A user's subclass that only adds a method."""

    def log_prob(self, value: Any) -> Any:
        return 2 * super().log_prob(value)


def test_expand_is_a_view_and_keeps_the_class() -> None:
    loc = kiln.tensor([0.0, 1.0], requires_grad=True)
    d = Twice(loc, 1.0).expand((3, 2))
    assert isinstance(d, Twice)
    assert d.batch_shape == (3, 2)
    d.log_prob(kiln.ones(3, 2)).sum().backward()
    assert loc.grad is not None
    assert loc.grad.tolist() == [6.0, 0.0]


def test_expand_of_a_subclass_with_its_own_constructor() -> None:
    with pytest.raises(NotImplementedError, match=r"custom \.expand"):
        Shifted(kiln.tensor([0.0])).expand((2, 1))

    class Better(Shifted):
        def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
            return super().expand(
                batch_shape, self._get_checked_instance(Better, object.__new__(Better))
            )

    assert Better(kiln.tensor([0.0])).expand((2, 1)).batch_shape == (2, 1)


def test_lazy_parameters_keep_their_gradient() -> None:
    probs = kiln.tensor([0.2, 0.8], requires_grad=True)
    d = kd.Bernoulli(probs)
    with kiln.no_grad():
        logits = d.logits
    assert d.logits is logits
    assert logits.requires_grad
    assert "logits" in vars(d.expand((2, 2)))


def test_validation_can_be_turned_off() -> None:
    bad = kiln.tensor(-1.0)
    with pytest.raises(ValueError, match="Expected parameter scale"):
        kd.Normal(0.0, bad)
    assert kd.Normal(0.0, bad, validate_args=False).log_prob(kiln.tensor(0.0)).isnan()
    kd.Distribution.set_default_validate_args(False)
    try:
        kd.Normal(0.0, bad)
    finally:
        kd.Distribution.set_default_validate_args(True)


def test_a_distribution_without_constraints_says_so() -> None:
    class Plain(kd.Distribution):
        def log_prob(self, value: Any) -> Any:
            self._validate_sample(value)
            return value

    with pytest.warns(UserWarning, match="does not define `arg_constraints`"):
        d = Plain()
    with pytest.warns(UserWarning, match="does not define `support`"):
        d.log_prob(kiln.tensor(1.0))


def test_copies() -> None:
    for d in (
        kd.Normal(kiln.zeros(2), 1.0),
        kd.Gumbel(0.0, 1.0),
        kd.RelaxedBernoulli(kiln.tensor(1.0), 0.3),
    ):
        for e in (copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
            assert repr(e) == repr(d)
            kiln.manual_seed(0)
            x = d.sample()
            kiln.manual_seed(0)
            assert e.sample().tolist() == x.tolist()


def test_reprs() -> None:
    assert (
        repr(kd.Normal(0.0, kiln.ones(3))) == "Normal(loc: kiln.Size([3]), scale: kiln.Size([3]))"
    )
    assert repr(kd.Independent(kd.Normal(0.0, kiln.ones(3)), 1)).startswith("Independent(Normal(")
    assert repr(constraints.interval(0, 1)) == "Interval(lower_bound=0, upper_bound=1)"
    assert repr(constraints.real) == "Real()"


def test_caches_return_the_very_tensors() -> None:
    t = kd.TanhTransform(cache_size=1)
    x = kiln.tensor([20.0])
    assert t.inv(t(x)) is x
    assert t.inv.inv is t
    assert kd.TanhTransform().inv(t(x)).isinf().all()
    both = kd.ComposeTransform([kd.ExpTransform(), kd.AffineTransform(1.0, 2.0)]).with_cache()
    assert both.inv(both(x)) is x
    assert both.inv.inv is both


def test_transforms_are_equal_by_their_parameters() -> None:
    assert kd.ExpTransform() == kd.ExpTransform(cache_size=1)
    assert kd.ExpTransform() != kd.TanhTransform()
    assert kd.AffineTransform(0.0, kiln.ones(2)) == kd.AffineTransform(0.0, 1.0)
    assert kd.PowerTransform(2.0) != kd.PowerTransform(3.0)
    assert kd.ExpTransform().inv == kd.ExpTransform().inv

    class Custom(kd.Transform):
        pass

    assert Custom() != Custom()


@pytest.mark.parametrize("c", [
    constraints.positive, constraints.unit_interval, constraints.simplex, constraints.corr_cholesky, constraints.greater_than(2.0),
    constraints.less_than(-1.0), constraints.interval(-1.0, kiln.tensor(3.0)), constraints.independent(constraints.positive, 1),
    constraints.cat([constraints.positive, constraints.real], -1, [1, 2]),
    constraints.stack([constraints.positive, constraints.real, constraints.unit_interval], -1),
], ids=repr)  # fmt: skip
def test_bijections_lead_into_their_region_and_back(c: Any) -> None:
    x = kiln.tensor(np.random.default_rng(0).normal(size=(5, 3)))
    for registry in (kd.biject_to, kd.transform_to):
        t = registry(c)
        y = t(x)
        assert c.check(y).all()
    t = kd.biject_to(c)
    assert t.bijective
    assert np.allclose(t.inv(t(x)).numpy(), x.numpy(), atol=1e-6)


def test_jacobians_are_those_of_autograd() -> None:
    x = kiln.tensor(np.random.default_rng(0).normal(size=3), requires_grad=True)
    for t in (
        kd.ExpTransform(),
        kd.TanhTransform(),
        kd.SigmoidTransform(),
        kd.SoftplusTransform(),
        kd.AffineTransform(1.0, -2.0),
    ):
        y = t(x)
        (slope,) = kiln.autograd.grad(y.sum(), x)
        assert np.allclose(
            t.log_abs_det_jacobian(x, y).detach().numpy(), slope.abs().log().numpy(), atol=1e-9
        )
    t = kd.StickBreakingTransform()
    y = t(x)
    rows = [kiln.autograd.grad(y[i], x, retain_graph=True)[0] for i in range(3)]
    _, due = kiln.linalg.slogdet(kiln.stack(rows))
    assert np.allclose(float(t.log_abs_det_jacobian(x, y)), float(due), atol=1e-9)


def test_new_kinds_register() -> None:
    class Mine(kd.Normal):
        pass

    @kd.register_kl(Mine, Mine)
    def _mine(p: Any, q: Any) -> Any:
        return kiln.tensor(7.0)

    try:
        assert kd.kl_divergence(Mine(0.0, 1.0), Mine(1.0, 1.0)) == 7
        assert kd.kl_divergence(Mine(0.0, 1.0), kd.Normal(0.0, 1.0)) == 0

        @kd.register_kl(kd.Normal, Mine)
        @kd.register_kl(Mine, kd.Normal)
        def _mixed(p: Any, q: Any) -> Any:
            return kiln.tensor(1.0)

        class Derived(Mine):
            pass

        del kd.kl._REGISTRY[Mine, Mine]
        kd.kl._REGISTRY[kd.Normal, Mine] = _mine
        with pytest.warns(RuntimeWarning, match="Ambiguous"):
            kd.kl_divergence(Derived(0.0, 1.0), Derived(0.0, 1.0))
    finally:
        for pair in ((Mine, Mine), (kd.Normal, Mine), (Mine, kd.Normal)):
            kd.kl._REGISTRY.pop(pair, None)
    with pytest.raises(TypeError):
        kd.register_kl(3, kd.Normal)


def test_mixtures_broadcast() -> None:
    weights = kd.Categorical(kiln.tensor([0.25, 0.75]))
    d = kd.MixtureSameFamily(weights, kd.Independent(kd.Normal(kiln.randn(4, 2, 3), 1.0), 1))
    assert (d.batch_shape, d.event_shape) == ((4,), (3,))
    assert d.sample((5,)).shape == (5, 4, 3)
    assert d.log_prob(d.sample((5,))).shape == (5, 4)
    assert d.mean.shape == d.variance.shape == (4, 3)
    assert d.expand((2, 4)).sample().shape == (2, 4, 3)


def test_exponential_families_have_entropy_from_their_normalizer() -> None:
    for d in (
        kd.Normal(kiln.tensor([0.3]), 2.0),
        kd.Gamma(2.0, kiln.tensor([3.0])),
        kd.Exponential(2.0),
    ):
        assert np.allclose(
            kd.ExponentialFamily.entropy(d).detach().numpy(), d.entropy().numpy(), atol=1e-6
        )
    p, q = kd.Gamma(2.0, 3.0), kd.Gamma(1.5, 2.0)
    general = kd.kl._REGISTRY[kd.ExponentialFamily, kd.ExponentialFamily]
    assert np.allclose(general(p, q).detach().numpy(), kd.kl_divergence(p, q).numpy(), atol=1e-6)


def test_modules_of_single_classes_can_be_imported_from() -> None:
    from kiln.distributions.multivariate_normal import MultivariateNormal
    from kiln.distributions.normal import Normal
    from kiln.distributions.studentT import StudentT

    assert (MultivariateNormal, Normal, StudentT) == (kd.MultivariateNormal, kd.Normal, kd.StudentT)


def test_distributions_of_a_program_expand_and_fill_instances():
    class Masked(kd.Distribution):
        arg_constraints: ClassVar = {}

        def __init__(self, base):
            self.base = base
            super().__init__(base.batch_shape, base.event_shape)

        def expand(self, batch_shape, _instance=None):
            new = self._get_checked_instance(Masked, _instance)
            new.base = self.base.expand(batch_shape)
            super(Masked, new).__init__(new.base.batch_shape, new.base.event_shape)
            return new

    class Own(Masked):
        def __init__(self):
            super().__init__(kd.Normal(0.0, 1.0))

    class Scaled(kd.Normal):
        def __init__(self):
            super().__init__(0.0, 2.0)

    assert Masked(kd.Normal(0.0, 1.0)).expand((3,)).batch_shape == (3,)
    for made in (Own(), Scaled()):
        with pytest.raises(NotImplementedError, match="custom"):
            made.expand((3,))
    matrix = object.__new__(kd.MultivariateNormal)  # as GPyTorch's fills its own
    matrix.loc, matrix._unbroadcasted_scale_tril = kiln.zeros(3, 2), kiln.eye(2)
    kd.Distribution.__init__(matrix, (3,), (2,), validate_args=False)
    assert matrix.scale_tril.shape == (3, 2, 2)
