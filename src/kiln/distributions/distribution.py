"""What all distributions share: shapes, checks, `expand`, sampling without gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import kiln

from ..autograd.engine import grad
from ..autograd.modes import no_grad
from ..errors import KilnNotImplementedError, KilnValueError, describe
from ..naming import home
from ..shape import Size
from ..tensor import Tensor, active_capture
from . import constraints
from .utils import lazy_property

_Shape = Sequence[int]


def _same_kind(a: Any, b: Any) -> bool:
    return a == b or a == 1 or b == 1


_HOME = __name__.partition(".")[0]


class Distribution:
    """A batch of probability distributions of shape `batch_shape` over events of shape `event_shape`.

    Parameters are checked against `arg_constraints` and values against `support`, with a ValueError,
    unless `validate_args=False`. Elements that `kiln.compile` captures can't be known: there they are
    checked only under an explicit `validate_args=True`, which costs a branch.
    https://docs.pytorch.org/docs/stable/distributions.html
    """

    has_rsample: Any = False
    has_enumerate_support: Any = False
    arg_constraints: ClassVar[Any]
    support: Any
    _validate_args = __debug__

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Whether distributions check their arguments where they aren't told; it begins as `__debug__`."""
        if value not in (True, False):
            raise KilnValueError("set_default_validate_args", "expected True or False", value, "")
        Distribution._validate_args = value

    def __init__(self, batch_shape: _Shape = (), event_shape: _Shape = (),
                 validate_args: bool | None = None):  # fmt: skip
        self._batch_shape = batch_shape if isinstance(batch_shape, Size) else Size(batch_shape)
        self._event_shape = event_shape if isinstance(event_shape, Size) else Size(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            self._check_parameters()

    # ------------------------------------------------------------ shapes

    @property
    def batch_shape(self) -> Size:
        """The shape over which parameters are batched."""
        return self._batch_shape

    @property
    def event_shape(self) -> Size:
        """The shape of one sample of one distribution."""
        return self._event_shape

    def _extended_shape(self, sample_shape: _Shape = ()) -> Size:
        """The shape of samples: `sample_shape`, then those of the batch and the event."""
        shape = self._batch_shape
        if self._event_shape:
            shape = shape + self._event_shape
        return Size(sample_shape) + shape if sample_shape else shape

    def expand(self, batch_shape: _Shape, _instance: Any = None) -> Any:
        """The distribution with its batch broadcast to another shape, as a view of its parameters."""
        ours = next(c for c in type(self).__mro__ if home(c).partition(".")[0] == _HOME)
        new = self._get_checked_instance(ours, _instance)
        batch_shape = Size(batch_shape)
        known = self.arg_constraints
        for name, value in vars(self).items():
            if name in known and isinstance(value, Tensor):
                value = value.expand(
                    batch_shape + value.shape[value.dim() - known[name].event_dim :]
                )
            elif isinstance(value, Distribution):
                value = value.expand(batch_shape + value.batch_shape[len(self._batch_shape) :])
            elif isinstance(getattr(type(self), name, None), lazy_property):
                continue
            setattr(new, name, value)
        new._batch_shape = batch_shape
        return new

    def _get_checked_instance(self, cls: type, _instance: Any = None) -> Any:
        """An instance to fill: the one given, or a new one where the constructor is that of `cls`, which expands itself."""
        if _instance is not None:
            return _instance
        if type(self).__init__ is not cls.__init__:
            raise KilnNotImplementedError(
                "expand", f"Subclass {type(self).__name__} of {cls.__name__} that defines a custom __init__ method "
                "must also define a custom .expand() method.", None, "fill an instance and pass it as _instance",
            )  # fmt: skip
        return object.__new__(type(self))

    # ------------------------------------------------------------ checks

    def _looks(self) -> bool:
        return active_capture() is None or "_validate_args" in vars(self)

    def _check_parameters(self) -> None:
        try:
            known = self.arg_constraints
        except (NotImplementedError, AttributeError):
            warnings.warn(
                f"{type(self)} does not define `arg_constraints`. Please set `arg_constraints = {{}}` or "
                "initialize the distribution with `validate_args=False` to turn off validation.",
                stacklevel=4,
            )  # fmt: skip
            return
        looks, own = self._looks(), self.__dict__
        for name, constraint in known.items():
            if constraints.is_dependent(constraint) or (
                name not in own and isinstance(getattr(type(self), name, None), lazy_property)
            ):
                continue
            value = getattr(self, name)
            if looks and not constraint.holds(value):
                raise KilnValueError(
                    type(self).__name__,
                    f"Expected parameter {name} ({type(value).__name__} of shape {tuple(value.shape)}) of distribution "
                    f"{self!r} to satisfy the constraint {constraint!r}, but found invalid values:\n{value}",
                    describe(value), "pass validate_args=False to go without this check",
                )  # fmt: skip

    def _validate_sample(self, value: Any) -> None:
        """ValueError where a value isn't of the batch's and event's shape, or outside of the support."""
        name = type(self).__name__
        if not isinstance(value, Tensor):
            raise KilnValueError(
                name, "The value argument to log_prob must be a Tensor", describe(value), "use kiln.tensor(…)"
            )  # fmt: skip
        shape, due = value.shape, self._batch_shape
        if self._event_shape:
            due = due + self._event_shape
            if shape[len(shape) - len(self._event_shape) :] != self._event_shape:
                raise KilnValueError(
                    name, f"The right-most size of value must match event_shape: {shape} vs {self._event_shape}.",
                    describe(value), "",
                )  # fmt: skip
        if shape != due and not all(map(_same_kind, reversed(shape), reversed(due))):
            raise KilnValueError(
                name, f"Value is not broadcastable with batch_shape+event_shape: {shape} vs {due}.",
                describe(value), "",
            )  # fmt: skip
        try:
            support = self.support
        except (NotImplementedError, AttributeError):
            warnings.warn(
                f"{type(self)} does not define `support` to enable sample validation. Please initialize the "
                "distribution with `validate_args=False` to turn off validation.", stacklevel=4,
            )  # fmt: skip
            return
        if self._looks() and not support.holds(value):
            raise KilnValueError(
                name, f"Expected value argument ({type(value).__name__} of shape {tuple(shape)}) to be within the "
                f"support ({support!r}) of the distribution {self!r}, but found invalid values:\n{value}",
                describe(value), "pass validate_args=False to go without this check",
            )  # fmt: skip

    def _check(self, value: Any) -> None:
        """`_validate_sample` where arguments are checked."""
        if self._validate_args:
            self._validate_sample(value)

    # ------------------------------------------------------------ what a distribution has

    def _lacks(self, what: str) -> Any:
        raise KilnNotImplementedError(
            type(self).__name__, f"{type(self)} does not implement {what}", None, ""
        )

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self._lacks("mean")

    @property
    def mode(self) -> Tensor:
        """The value of the highest probability or density."""
        return self._lacks("mode")

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self._lacks("variance")

    @property
    def stddev(self) -> Tensor:
        """The standard deviation."""
        return self.variance.sqrt()

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        """Samples of shape sample_shape + batch_shape + event_shape, without gradients."""
        with no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        """Samples that are differentiable functions of the parameters, where `has_rsample`."""
        return self._lacks("rsample")

    def sample_n(self, n: int) -> Tensor:
        """n samples; `sample((n,))` is the name to use."""
        warnings.warn(
            "`sample_n(n)` will be deprecated. Use `sample((n,))` instead.", FutureWarning, stacklevel=2
        )  # fmt: skip
        return self.sample((n,))

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the probability or density at `value`: sample_shape + batch_shape."""
        return self._lacks("log_prob")

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a number up to `value`."""
        return self._lacks("cdf")

    def icdf(self, value: Tensor) -> Tensor:
        """The number up to which the probability is `value`."""
        return self._lacks("icdf")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values of a discrete distribution, along a new first dimension; `expand` repeats them over the batch."""
        return self._lacks("enumerate_support")

    def entropy(self) -> Tensor:
        """The entropy, in nats: batch_shape."""
        return self._lacks("entropy")

    def perplexity(self) -> Tensor:
        """e to the power of the entropy."""
        return self.entropy().exp()

    def _enumerated(self, values: Tensor, expand: bool) -> Tensor:
        """Values along the first of new dimensions, one for each of the batch."""
        values = values.view((-1,) + (1,) * len(self._batch_shape))
        return values.expand((-1, *self._batch_shape)) if expand else values

    def __repr__(self) -> str:
        known = {n: vars(self)[n] for n in self.arg_constraints if n in vars(self)}
        shown = [f"{n}: {v if v.numel() == 1 else v.size()}" for n, v in known.items()]
        return f"{type(self).__name__}({', '.join(shown)})"


class ExponentialFamily(Distribution):
    """Distributions of density exp(t(x) . theta - F(theta) + k(x)).

    Subclasses that give the natural parameters theta and the log normalizer F get entropy and KL
    divergence from F's gradient (Nielsen and Nock, 2010, "Entropies and cross-entropies of exponential
    families").
    """

    _mean_carrier_measure: Any = None  # the mean of k(x)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        """theta."""
        return self._lacks("_natural_params")

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        """F(theta)."""
        return self._lacks("_log_normalizer")

    def _normalizer_and_slope(self) -> tuple[list[Tensor], Tensor, tuple[Tensor, ...]]:
        """theta, F and dF / d theta."""
        theta = [p.detach().requires_grad_() for p in self._natural_params]
        with kiln.enable_grad():
            value = self._log_normalizer(*theta)
            slopes: Any = grad(value.sum(), theta, create_graph=True)
            return theta, value, slopes

    def entropy(self) -> Tensor:
        carrier = self._mean_carrier_measure
        if carrier is None:
            self._lacks("entropy")
        theta, result, slopes = self._normalizer_and_slope()
        for p, slope in zip(theta, slopes, strict=True):
            result = result - (p * slope).reshape((*self._batch_shape, -1)).sum(-1)
        return result - carrier
