"""Distributions over a finite number of categories, along the last dimension of their parameters."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

import kiln

from ..autograd.modes import no_grad
from ..errors import KilnNotImplementedError, KilnValueError, describe
from ..nn.functional import one_hot
from ..ops.likelihood import entropy, normalized, picked, scores
from ..shape import Size, numel
from ..tensor import CAPTURING, PLAIN, Tensor, wrap
from . import constraints
from .discrete import Binomial, one_of
from .distribution import Distribution, _Shape
from .utils import (
    broadcast_all,
    filled,
    lazy_property,
    logits_to_probs,
    probs_to_logits,
    uniform_inside,
)


class Categorical(Distribution):
    """Indices of categories, given their probabilities or logits, either at any scale."""

    arg_constraints: ClassVar = {"probs": constraints.simplex, "logits": constraints.real_vector}
    has_enumerate_support = True

    def __init__(self, probs: Tensor | None = None, logits: Tensor | None = None,
                 validate_args: bool | None = None):  # fmt: skip
        name = one_of(self, probs, logits)
        given: Any = logits if probs is None else probs
        if given.dim() < 1:
            raise KilnValueError(
                "Categorical", f"`{name}` parameter must be at least one-dimensional.", describe(given),
                "the last dimension holds the categories",
            )  # fmt: skip
        setattr(self, name, scores(given) if probs is None else normalized(given))
        shape = given.shape
        self._num_events = shape[-1]
        super().__init__(shape[:-1], validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """The logarithms of the probabilities."""
        return probs_to_logits(self.probs)

    @lazy_property
    def probs(self) -> Tensor:
        """The probabilities, of sum 1."""
        return logits_to_probs(self.logits)

    @property
    def _param(self) -> Tensor:
        return self.probs if "probs" in vars(self) else self.logits

    @property
    def param_shape(self) -> Size:
        """The shape of the parameter."""
        return self._param.shape

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self._num_events - 1)

    @property
    def mean(self) -> Tensor:
        return filled(self._param, self._extended_shape(), math.nan)

    variance = mean

    @property
    def mode(self) -> Tensor:
        return self.probs.argmax(-1)

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        probs, n = self.probs, numel(sample_shape)
        shape = self._extended_shape(sample_shape)
        if not CAPTURING and probs.__class__ in PLAIN and (a := probs._a).__class__ is np.ndarray:
            drawn = kiln.multinomial(wrap(a.reshape(-1, self._num_events)), n, True)
            return wrap(drawn._a.T.reshape(shape))
        with no_grad():
            rows = probs.reshape(-1, self._num_events)
            return kiln.multinomial(rows, n, True).T.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        index, logits = value.long(), self.logits
        if value.shape != self._batch_shape:
            shape = kiln.broadcast_shapes(value.shape, self._batch_shape)
            index, logits = index.expand(shape), logits.expand((*shape, self._num_events))
        return picked(logits, index)

    def entropy(self) -> Tensor:
        return entropy(self.logits, self.probs)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._enumerated(kiln.arange(self._num_events), expand)


class OverCategories(Distribution):
    """Distributions of vectors with an element for each category of a `Categorical`."""

    arg_constraints: ClassVar = {"probs": constraints.simplex, "logits": constraints.real_vector}

    def __init__(self, probs: Tensor | None, logits: Tensor | None, validate_args: bool | None):
        self._categorical = Categorical(probs, logits)
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def probs(self) -> Tensor:
        """The probabilities, of sum 1."""
        return self._categorical.probs

    @property
    def logits(self) -> Tensor:
        """The logarithms of the probabilities."""
        return self._categorical.logits

    @property
    def _param(self) -> Tensor:
        return self._categorical._param

    @property
    def param_shape(self) -> Size:
        """The shape of the parameter."""
        return self._categorical.param_shape


class OneHotCategorical(OverCategories):
    """Vectors with a 1 at the index of a category."""

    support = constraints.one_hot
    has_enumerate_support = True

    def __init__(self, probs: Tensor | None = None, logits: Tensor | None = None,
                 validate_args: bool | None = None):  # fmt: skip
        super().__init__(probs, logits, validate_args)

    def _hot(self, index: Tensor) -> Tensor:
        return one_hot(index, self._event_shape[0]).to(self._param.dtype)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return self._hot(self._categorical.mode)

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        return self._hot(self._categorical.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        return self._categorical.log_prob(value.argmax(-1))

    def entropy(self) -> Tensor:
        return self._categorical.entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n = self._event_shape[0]
        values = kiln.eye(n, dtype=self._param.dtype).view(n, *(1,) * len(self._batch_shape), n)
        return values.expand(n, *self._batch_shape, n) if expand else values


class OneHotCategoricalStraightThrough(OneHotCategorical):
    """A `OneHotCategorical` whose samples pass gradients to `probs` as if they were it (Bengio et al., 2013)."""

    has_rsample = True

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        return self.sample(sample_shape) + (self.probs - self.probs.detach())


class Multinomial(OverCategories):
    """How often each category comes in `total_count` draws."""

    def __init__(self, total_count: int = 1, probs: Tensor | None = None, logits: Tensor | None = None,
                 validate_args: bool | None = None):  # fmt: skip
        if not isinstance(total_count, int):
            raise KilnNotImplementedError(
                "Multinomial", "inhomogeneous total_count is not supported", describe(total_count), "pass an int"
            )  # fmt: skip
        self.total_count = total_count
        super().__init__(probs, logits, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        return constraints.multinomial(self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        drawn = self._categorical.sample((self.total_count, *sample_shape)).movedim(0, -1)
        counts = kiln.zeros(self._extended_shape(sample_shape), dtype=kiln.int64)
        counts = counts.scatter_add(-1, drawn, kiln.ones_like(drawn))
        return counts.to(self._param.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        logits, value = broadcast_all(self.logits, value)
        logits = kiln.where((value == 0) & (logits == -math.inf), 0.0, logits)
        ways = (value.sum(-1) + 1).lgamma() - (value + 1).lgamma().sum(-1)
        return ways + (logits * value).sum(-1)

    def entropy(self) -> Tensor:
        each = Binomial(self.total_count, self.probs, validate_args=False)
        counts = each.enumerate_support(expand=False)[1:]
        ways = (each.log_prob(counts).exp() * (counts + 1).lgamma()).sum((0, -1))
        return self.total_count * self._categorical.entropy() - math.lgamma(self.total_count + 1) + ways  # fmt: skip


class ExpRelaxedCategorical(OverCategories):
    """The logarithms of `RelaxedOneHotCategorical` points."""

    support = constraints.real_vector
    has_rsample = True

    def __init__(self, temperature: Tensor, probs: Tensor | None = None, logits: Tensor | None = None,
                 validate_args: bool | None = None):  # fmt: skip
        self.temperature = temperature
        super().__init__(probs, logits, validate_args)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        u = uniform_inside(self._extended_shape(sample_shape), self._param)
        scores = (self.logits - (-u.log()).log()) / self.temperature
        return scores.log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        n = self._event_shape[0]
        logits, value = broadcast_all(self.logits, value)
        score = (logits - value * self.temperature).log_softmax(-1).sum(-1)
        return score + math.lgamma(n) + (n - 1) * self.temperature.log()
