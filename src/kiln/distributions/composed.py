"""Distributions made of others: independent batches, mixtures, and transformed numbers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from ..autograd.modes import no_grad
from ..errors import KilnNotImplementedError, KilnValueError, describe
from ..tensor import Tensor
from . import constraints
from .categorical import Categorical
from .distribution import Distribution, _same_kind, _Shape
from .transforms import ComposeTransform, Transform
from .utils import sum_rightmost


class Independent(Distribution):
    """The last batch dimensions of a distribution as dimensions of its events."""

    arg_constraints: ClassVar = {}

    def __init__(self, base_distribution: Distribution, reinterpreted_batch_ndims: int,
                 validate_args: bool | None = None):  # fmt: skip
        batch, n = base_distribution.batch_shape, reinterpreted_batch_ndims
        if n > len(batch):
            raise KilnValueError(
                "Independent", "Expected reinterpreted_batch_ndims <= len(base_distribution.batch_shape), "
                f"actual {n} vs {len(batch)}", describe(base_distribution), "",
            )  # fmt: skip
        self.base_dist = base_distribution
        self.reinterpreted_batch_ndims = n
        cut = len(batch) - n
        event = batch[cut:] + base_distribution.event_shape
        super().__init__(batch[:cut], event, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        return self.base_dist.has_rsample

    @property
    def has_enumerate_support(self) -> bool:
        return self.reinterpreted_batch_ndims == 0 and self.base_dist.has_enumerate_support

    @constraints.dependent_property
    def support(self) -> Any:
        own, n = self.base_dist.support, self.reinterpreted_batch_ndims
        return constraints.independent(own, n) if n else own

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def mode(self) -> Tensor:
        return self.base_dist.mode

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        return self.base_dist.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_rightmost(self.base_dist.log_prob(value), self.reinterpreted_batch_ndims)

    def entropy(self) -> Tensor:
        return sum_rightmost(self.base_dist.entropy(), self.reinterpreted_batch_ndims)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        if self.reinterpreted_batch_ndims > 0:
            raise KilnNotImplementedError(
                "Independent", "Enumeration over cartesian product is not implemented", describe(self), ""
            )  # fmt: skip
        return self.base_dist.enumerate_support(expand=expand)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_dist}, {self.reinterpreted_batch_ndims})"


class MixtureSameFamily(Distribution):
    """A mixture of the distributions along the last batch dimension, with a `Categorical`'s probabilities."""

    arg_constraints: ClassVar = {}

    def __init__(self, mixture_distribution: Categorical, component_distribution: Distribution,
                 validate_args: bool | None = None):  # fmt: skip
        for given, kind in ((mixture_distribution, Categorical), (component_distribution, Distribution)):  # fmt: skip
            if not isinstance(given, kind):
                raise KilnValueError(
                    "MixtureSameFamily", f"the distribution needs to be an instance of {kind.__name__}",
                    describe(given), "MixtureSameFamily(Categorical(…), components)",
                )  # fmt: skip
        self._mixture_distribution = mixture_distribution
        self._component_distribution = component_distribution
        weights, parts = mixture_distribution.batch_shape, component_distribution.batch_shape
        n = mixture_distribution._num_events
        if not all(map(_same_kind, reversed(weights), reversed(parts[:-1]))) or n != parts[-1]:
            raise KilnValueError(
                "MixtureSameFamily", "`mixture_distribution` and `component_distribution` are not compatible: "
                "the last batch dimension of components is that of the mixture's categories",
                f"mixture {tuple(weights)} of {n}, components {tuple(parts)}", "",
            )  # fmt: skip
        self._num_component = n
        self._event_ndims = len(component_distribution.event_shape)
        super().__init__(parts[:-1], component_distribution.event_shape, validate_args=validate_args)  # fmt: skip

    @constraints.dependent_property
    def support(self) -> Any:
        return constraints.MixtureSameFamilyConstraint(self._component_distribution.support)

    @property
    def mixture_distribution(self) -> Categorical:
        """The distribution of the components' indices."""
        return self._mixture_distribution

    @property
    def component_distribution(self) -> Distribution:
        """The components, along the last batch dimension."""
        return self._component_distribution

    def _pad(self, x: Tensor) -> Tensor:
        """With a dimension for the components."""
        return x.unsqueeze(-1 - self._event_ndims)

    def _mixed(self, x: Tensor) -> Tensor:
        """The weighted sum over components."""
        weights = self._mixture_distribution.probs
        weights = weights.reshape((*weights.shape, *(1,) * self._event_ndims))
        return (weights * x).sum(-1 - self._event_ndims)

    @property
    def mean(self) -> Tensor:
        return self._mixed(self._component_distribution.mean)

    @property
    def variance(self) -> Tensor:
        parts = self._component_distribution
        return self._mixed(parts.variance + (parts.mean - self._pad(self.mean)).square())

    def cdf(self, value: Tensor) -> Tensor:
        value = self._component_distribution.cdf(self._pad(value))
        return (value * self._mixture_distribution.probs).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        parts = self._component_distribution.log_prob(self._pad(value))
        return (parts + self._mixture_distribution.logits.log_softmax(-1)).logsumexp(-1)

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        with no_grad():
            dim = len(sample_shape) + len(self._batch_shape)
            index = self._mixture_distribution.expand(self._batch_shape).sample(sample_shape)
            drawn = self._component_distribution.sample(sample_shape)
            index = index.reshape((*index.shape, 1, *(1,) * self._event_ndims))
            return drawn.gather(dim, index.expand((*drawn.shape[:dim], 1, *self._event_shape))).squeeze(dim)  # fmt: skip

    def __repr__(self) -> str:
        return f"MixtureSameFamily(\n  {self._mixture_distribution},\n  {self._component_distribution})"


class TransformedDistribution(Distribution):
    """What transforms make of the samples of a distribution."""

    arg_constraints: ClassVar = {}
    has_rsample: Any = property(lambda self: self.base_dist.has_rsample)
    base_dist: Any

    def __init__(self, base_distribution: Distribution, transforms: Transform | list[Transform],
                 validate_args: bool | None = None):  # fmt: skip
        given = [transforms] if isinstance(transforms, Transform) else transforms
        if not isinstance(given, list) or not all(isinstance(t, Transform) for t in given):
            raise KilnValueError(
                "TransformedDistribution", f"transforms must be a Transform or a list of Transforms, but was {transforms}",
                describe(transforms), "",
            )  # fmt: skip
        self.transforms = given
        whole = ComposeTransform(given)
        shape = base_distribution.batch_shape + base_distribution.event_shape
        before, after = whole.domain.event_dim, whole.codomain.event_dim
        own = len(base_distribution.event_shape)
        if len(shape) < before:
            raise KilnValueError(
                "TransformedDistribution", f"base_distribution needs to have shape with size at least {before}, "
                f"but got {shape}.", describe(base_distribution), "",
            )  # fmt: skip
        forward = whole.forward_shape(shape)
        needed = whole.inverse_shape(forward)
        if tuple(needed) != tuple(shape):
            base_distribution = base_distribution.expand(needed[: len(needed) - own])
        if before > own:
            base_distribution = Independent(base_distribution, before - own)
        self.base_dist = base_distribution
        cut = len(forward) - max(after, own + after - before)
        super().__init__(forward[:cut], forward[cut:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        if not self.transforms:
            return self.base_dist.support
        last = self.transforms[-1].codomain
        more = len(self._event_shape) - last.event_dim
        return constraints.independent(last, more) if more > 0 else last

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        with no_grad():
            return self._forward(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        return self._forward(self.base_dist.rsample(sample_shape))

    def _forward(self, x: Tensor) -> Tensor:
        for transform in self.transforms:
            x = transform(x)
        return x

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        dim, total = len(self._event_shape), 0.0
        for transform in reversed(self.transforms):
            x = transform.inv(value)
            dim += transform.domain.event_dim - transform.codomain.event_dim
            own = transform.log_abs_det_jacobian(x, value)
            total = total - sum_rightmost(own, dim - transform.domain.event_dim)
            value = x
        own = self.base_dist.log_prob(value)
        return total + sum_rightmost(own, dim - len(self.base_dist.event_shape))

    def _rising(self, p: Tensor) -> Tensor:
        """Probabilities, turned around where the transforms fall."""
        sign = math.prod(t.sign for t in self.transforms)
        return p if isinstance(sign, int) and sign == 1 else sign * (p - 0.5) + 0.5

    def cdf(self, value: Tensor) -> Tensor:
        for transform in reversed(self.transforms):
            value = transform.inv(value)
        if self._validate_args:
            self.base_dist._validate_sample(value)
        return self._rising(self.base_dist.cdf(value))

    def icdf(self, value: Tensor) -> Tensor:
        return self._forward(self.base_dist.icdf(self._rising(value)))
