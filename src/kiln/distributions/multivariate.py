"""Distributions of correlated vectors and of matrices."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import kiln

from ..autograd.modes import no_grad
from ..errors import KilnAssertionError, KilnError, KilnValueError, describe
from ..linalg import cholesky, slogdet, solve_triangular
from ..ops.sampling import _standard_gamma
from ..ops.special import mvlgamma
from ..random import default_generator
from ..shape import Size, broadcast_shapes
from ..tensor import Tensor, active_capture
from . import constraints
from .distribution import Distribution, ExponentialFamily, _Shape
from .gamma import Beta
from .utils import broadcast_all, filled, lazy_property, standard_normal


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Products of matrices and vectors, batches broadcast."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _unscaled(tril: Tensor, x: Tensor) -> Tensor:
    """tril⁻¹ x of vectors, whose leading dimensions become columns, so that no matrix is repeated for them."""
    batch = tril.dim() - 2
    lead = max(x.dim() - 1 - batch, 0)
    columns = x.reshape((-1, *x.shape[lead:])).movedim(0, -1)
    solved = solve_triangular(tril, columns, upper=False).movedim(-1, 0)
    return solved.reshape((*x.shape[:lead], *solved.shape[1:]))


def _log_diagonal(tril: Tensor) -> Tensor:
    """Half the logarithm of det(tril trilᵀ)."""
    return tril.diagonal(0, -2, -1).log().sum(-1)


def _inverse(tril: Tensor) -> Tensor:
    return solve_triangular(tril, kiln.eye(tril.shape[-1], dtype=tril.dtype).expand_as(tril), upper=False)  # fmt: skip


def _factor_of_inverse(precision: Tensor) -> Tensor:
    """The Cholesky factor of a matrix's inverse: that of the reversed matrix, reversed, is its inverse transposed."""
    reverse = cholesky(precision.flip((-2, -1))).flip((-2, -1)).mT
    return _inverse(reverse)


def _refuse(name: str, what: str, received: Any) -> None:
    raise KilnValueError(name, what, describe(received), "see its documentation")


_MATRIX = {
    "covariance_matrix": constraints.positive_definite,
    "precision_matrix": constraints.positive_definite,
    "scale_tril": constraints.lower_cholesky,
}


class _OfMatrix(Distribution):
    """Distributions given a positive definite matrix, its inverse, or its Cholesky factor."""

    _unbroadcasted_scale_tril: Tensor

    @property
    def _matrix_shape(self) -> Size:
        return Size((self._event_shape[-1],) * 2)

    def _one(self, error: type[KilnError], given: dict[str, Any]) -> tuple[str, Tensor]:
        """The matrix that was given."""
        found = [(n, x) for n, x in given.items() if x is not None]
        if len(found) != 1:
            raise error(
                type(self).__name__,
                "Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified.",
                [n for n, _ in found], "scale_tril needs no factorization",
            )  # fmt: skip
        ((name, matrix),) = found
        if matrix.dim() < 2:
            what = "must be at least two-dimensional, with optional leading batch dimensions"
            _refuse(type(self).__name__, f"{name} {what}", matrix)
        return name, matrix

    def _keep(self, name: str, matrix: Tensor, batch_shape: Size) -> None:
        """The matrix, broadcast to the batch."""
        setattr(self, name, matrix.expand(batch_shape + matrix.shape[-2:]))

    def _factored(self, name: str, matrix: Tensor) -> None:
        """Its Cholesky factor: of matrices whose parameters have been checked."""
        factor = {"covariance_matrix": cholesky, "precision_matrix": _factor_of_inverse}
        self._unbroadcasted_scale_tril = factor.get(name, lambda x: x)(matrix)

    def _whole(self, matrix: Tensor) -> Tensor:
        return matrix.expand(self._batch_shape + self._matrix_shape)

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The Cholesky factor."""
        return self._whole(self._unbroadcasted_scale_tril)

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """The matrix."""
        return self._whole(self._unbroadcasted_scale_tril @ self._unbroadcasted_scale_tril.mT)

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """Its inverse."""
        inverse = _inverse(self._unbroadcasted_scale_tril)
        return self._whole(inverse.mT @ inverse)


class Gaussian(Distribution):
    """Normal vectors, by what KL divergences need of their covariance."""

    arg_constraints: ClassVar = {}
    support = constraints.real_vector
    has_rsample = True
    loc: Tensor

    @property
    def mean(self) -> Tensor:
        return self.loc

    mode = mean

    def _half_log_det(self) -> Tensor:
        """Half the logarithm of the covariance's determinant."""
        raise NotImplementedError

    def _mahalanobis(self, x: Tensor) -> Tensor:
        """xᵀ covariance⁻¹ x."""
        raise NotImplementedError

    def _precision_diagonal(self) -> Tensor:
        """The diagonal of covariance⁻¹."""
        raise NotImplementedError

    def _parts(self) -> tuple[Tensor, Tensor | None]:
        """A matrix F and a vector d, if any, with covariance = F Fᵀ + diag(d)."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        scale = 0.5 * self._event_shape[0] * math.log(math.tau) + self._half_log_det()
        return -0.5 * self._mahalanobis(value - self.loc) - scale

    def entropy(self) -> Tensor:
        own = 0.5 * self._event_shape[0] * (1 + math.log(math.tau)) + self._half_log_det()
        return own.expand(self._batch_shape)


class MultivariateNormal(_OfMatrix, Gaussian):
    """Normal vectors with a covariance matrix, its inverse, or its Cholesky factor."""

    arg_constraints: ClassVar = {"loc": constraints.real_vector, **_MATRIX}

    def __init__(self, loc: Tensor, covariance_matrix: Tensor | None = None, precision_matrix: Tensor | None = None,
                 scale_tril: Tensor | None = None, validate_args: bool | None = None):  # fmt: skip
        if loc.dim() < 1:
            _refuse("MultivariateNormal", "loc must be at least one-dimensional.", loc)
        given = {"covariance_matrix": covariance_matrix, "precision_matrix": precision_matrix, "scale_tril": scale_tril}  # fmt: skip
        name, matrix = self._one(KilnValueError, given)
        batch_shape = broadcast_shapes(matrix.shape[:-2], loc.shape[:-1])
        self._keep(name, matrix, batch_shape)
        self.loc = loc.expand(batch_shape + loc.shape[-1:])
        super().__init__(batch_shape, self.loc.shape[-1:], validate_args=validate_args)
        self._factored(name, matrix)

    @property
    def variance(self) -> Tensor:
        own = self._unbroadcasted_scale_tril.square().sum(-1)
        return own.expand(self._batch_shape + self._event_shape)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        z = standard_normal(self._extended_shape(sample_shape), self.loc)
        return self.loc + _times(self._unbroadcasted_scale_tril, z)

    def _half_log_det(self) -> Tensor:
        return _log_diagonal(self._unbroadcasted_scale_tril)

    def _mahalanobis(self, x: Tensor) -> Tensor:
        return _unscaled(self._unbroadcasted_scale_tril, x).square().sum(-1)

    def _precision_diagonal(self) -> Tensor:
        return _inverse(self._unbroadcasted_scale_tril).square().sum(-2)

    def _parts(self) -> tuple[Tensor, Tensor | None]:
        return self._unbroadcasted_scale_tril, None


class LowRankMultivariateNormal(Gaussian):
    """Normal vectors of covariance cov_factor cov_factorᵀ + diag(cov_diag).

    Everything is computed from the small matrix 1 + cov_factorᵀ diag(cov_diag)⁻¹ cov_factor (Woodbury).
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_vector,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None):  # fmt: skip
        name, event = "LowRankMultivariateNormal", loc.shape[-1:]
        if loc.dim() < 1:
            _refuse(name, "loc must be at least one-dimensional.", loc)
        if cov_factor.dim() < 2:
            what = "must be at least two-dimensional, with optional leading batch dimensions"
            _refuse(name, f"cov_factor {what}", cov_factor)
        if cov_factor.shape[-2:-1] != event:
            _refuse(name, f"cov_factor must be a batch of matrices with shape {event[0]} x m", cov_factor)  # fmt: skip
        if cov_diag.shape[-1:] != event:
            _refuse(name, f"cov_diag must be a batch of vectors with shape {event}", cov_diag)
        try:
            batch = broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        except KilnError:
            _refuse(name, "Incompatible batch shapes", [loc, cov_factor, cov_diag])
            raise
        self.loc, self.cov_diag = loc.expand(batch + event), cov_diag.expand(batch + event)
        self.cov_factor = cov_factor.expand(batch + cov_factor.shape[-2:])
        self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag = cov_factor, cov_diag
        small = self._weighted() @ cov_factor
        self._capacitance_tril = cholesky(small + kiln.eye(small.shape[-1], dtype=small.dtype))
        super().__init__(batch, event, validate_args=validate_args)

    def _weighted(self) -> Tensor:
        """cov_factorᵀ diag(cov_diag)⁻¹."""
        return self._unbroadcasted_cov_factor.mT / self._unbroadcasted_cov_diag.unsqueeze(-2)

    def _correction(self) -> Tensor:
        """A matrix A with covariance⁻¹ = diag(cov_diag)⁻¹ - Aᵀ A."""
        return solve_triangular(self._capacitance_tril, self._weighted(), upper=False)

    def _whole(self, matrix: Tensor) -> Tensor:
        return matrix.expand(self._batch_shape + self._event_shape * 2)

    @lazy_property
    def variance(self) -> Tensor:
        own = self._unbroadcasted_cov_factor.square().sum(-1) + self._unbroadcasted_cov_diag
        return own.expand(self._batch_shape + self._event_shape)

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The covariance's Cholesky factor."""
        return self._whole(cholesky(self.covariance_matrix))

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """The covariance."""
        factor = self._unbroadcasted_cov_factor
        return self._whole(factor @ factor.mT + self._unbroadcasted_cov_diag.diag_embed())

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """The covariance's inverse."""
        a = self._correction()
        return self._whole(self._unbroadcasted_cov_diag.reciprocal().diag_embed() - a.mT @ a)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        z = standard_normal(shape[:-1] + self.cov_factor.shape[-1:], self.loc)
        own = self._unbroadcasted_cov_diag.sqrt() * standard_normal(shape, self.loc)
        return self.loc + _times(self._unbroadcasted_cov_factor, z) + own

    def _half_log_det(self) -> Tensor:
        return _log_diagonal(self._capacitance_tril) + 0.5 * self._unbroadcasted_cov_diag.log().sum(-1)  # fmt: skip

    def _mahalanobis(self, x: Tensor) -> Tensor:
        own = (x.square() / self._unbroadcasted_cov_diag).sum(-1)
        return own - _unscaled(self._capacitance_tril, _times(self._weighted(), x)).square().sum(-1)

    def _precision_diagonal(self) -> Tensor:
        return self._unbroadcasted_cov_diag.reciprocal() - self._correction().square().sum(-2)

    def _parts(self) -> tuple[Tensor, Tensor | None]:
        return self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag


# ---------------------------------------------------------------- matrices


def _halves(p: int, like: Tensor) -> Tensor:
    """0, 1/2, 1, … of p elements."""
    return kiln.arange(p, dtype=like.dtype) / 2


def _multi_digamma(x: Tensor, p: int) -> Tensor:
    return (x.unsqueeze(-1) - _halves(p, x)).digamma().sum(-1)


class Wishart(_OfMatrix, ExponentialFamily):
    """Sums of products x xᵀ of `df` normal vectors of mean 0; `df` need not be whole."""

    support = constraints.positive_definite
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(self, df: Tensor | float, covariance_matrix: Tensor | None = None, precision_matrix: Tensor | None = None,
                 scale_tril: Tensor | None = None, validate_args: bool | None = None):  # fmt: skip
        given = {"covariance_matrix": covariance_matrix, "precision_matrix": precision_matrix, "scale_tril": scale_tril}  # fmt: skip
        name, matrix = self._one(KilnAssertionError, given)
        df = df if isinstance(df, Tensor) else filled(matrix, (), df)
        batch_shape, n = broadcast_shapes(matrix.shape[:-2], df.shape), matrix.shape[-1]
        self.df = df.expand(batch_shape)
        if active_capture() is None:
            if bool((df <= n - 1).any()):
                _refuse("Wishart", f"Value of df={df} expected to be greater than ndim - 1 = {n - 1}.", df)  # fmt: skip
            if bool((df < n).any()):
                warnings.warn(
                    "Low df values detected. Singular samples are highly likely to occur for ndim - 1 < df < ndim.",
                    stacklevel=2,
                )  # fmt: skip
        self._keep(name, matrix, batch_shape)
        super().__init__(batch_shape, matrix.shape[-2:], validate_args=validate_args)
        self._factored(name, matrix)

    @property
    def arg_constraints(self) -> Any:
        return {**_MATRIX, "df": constraints.greater_than(self._matrix_shape[-1] - 1)}

    def _by_matrix(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1).unsqueeze(-1)

    @property
    def mean(self) -> Tensor:
        return self._by_matrix(self.df) * self.covariance_matrix

    @property
    def mode(self) -> Tensor:
        excess = self.df - self._event_shape[-1] - 1
        return self._by_matrix(kiln.where(excess > 0, excess, math.nan)) * self.covariance_matrix

    @property
    def variance(self) -> Tensor:
        v = self.covariance_matrix
        d = v.diagonal(0, -2, -1)
        return self._by_matrix(self.df) * (v.square() + d.unsqueeze(-1) * d.unsqueeze(-2))

    def _bartlett(self, sample_shape: _Shape) -> Tensor:
        """Samples by Bartlett's decomposition: chi numbers on the diagonal, normal ones below it."""
        p, lead = self._event_shape[-1], (*sample_shape, *self._batch_shape)
        half = (self.df.unsqueeze(-1) / 2 - _halves(p, self.df)).expand((*lead, p))
        noise = (
            (2 * _standard_gamma(half)).sqrt().clamp(min=kiln.finfo(self.df.dtype).eps).diag_embed()
        )
        row, column = kiln.tril_indices(p, p, -1)
        noise[..., row, column] = standard_normal(Size((*lead, p * (p - 1) // 2)), self.df)
        factor = self._unbroadcasted_scale_tril @ noise
        return factor @ factor.mT

    def rsample(self, sample_shape: _Shape = (), max_try_correction: int | None = None) -> Tensor:
        """Samples; matrices that rounding made singular are drawn again, so many times at most (10).

        PyTorch draws those again at first that are not singular; on its stream so is done here, for its numbers.
        """
        sample = self._bartlett(sample_shape)
        if active_capture() is not None:
            return sample
        again = self._is_singular(sample)
        if bool(again.any()):
            warnings.warn("Singular sample detected.", stacklevel=2)
        again = ~again if default_generator.stream == "torch" else again
        for _ in range(10 if max_try_correction is None else max_try_correction):
            if not bool(again.any()):
                break
            new = self._bartlett((int(again.sum()),))
            sample, again = sample.clone(), again.clone()
            sample[again] = new
            again[again.clone()] = self._is_singular(new)
        return sample

    def _is_singular(self, sample: Tensor) -> Tensor:
        """Whether any matrix of the batch is singular."""
        with no_grad():
            out = kiln.linalg.cholesky_ex(sample)[1] != 0
            return (
                out.flatten(out.ndim - len(self._batch_shape)).any(-1) if self._batch_shape else out
            )

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        nu, p = self.df, self._event_shape[-1]
        inner = solve_triangular(self.scale_tril, value, upper=False)
        trace = (inner * _inverse(self.scale_tril)).sum((-2, -1))
        scale = nu * (p * math.log(2) / 2 + _log_diagonal(self._unbroadcasted_scale_tril))
        return (nu - p - 1) / 2 * slogdet(value)[1] - trace / 2 - scale - mvlgamma(nu / 2, p)

    def entropy(self) -> Tensor:
        nu, p = self.df, self._event_shape[-1]
        scale = p * math.log(2) / 2 + _log_diagonal(self._unbroadcasted_scale_tril)
        slope = (nu - p - 1) / 2 * _multi_digamma(nu / 2, p)
        return (p + 1) * scale + mvlgamma(nu / 2, p) - slope + nu * p / 2

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return -self.precision_matrix / 2, (self.df - self._event_shape[-1] - 1) / 2

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:
        p = self._event_shape[-1]
        half = y + (p + 1) / 2
        return half * (p * math.log(2) - slogdet(-2 * x)[1]) + mvlgamma(half, p)


class LKJCholesky(Distribution):
    """Cholesky factors of correlation matrices of density det ** (concentration - 1).

    Samples by the onion method (Lewandowski, Kurowicka and Joe, 2009, "Generating random correlation
    matrices based on vines and extended onion method").
    """

    arg_constraints: ClassVar = {"concentration": constraints.positive}
    support = constraints.corr_cholesky

    def __init__(self, dim: int, concentration: Tensor | float = 1.0, validate_args: bool | None = None):  # fmt: skip
        if dim < 2:
            _refuse("LKJCholesky", f"Expected dim to be an integer greater than or equal to 2. Found dim={dim}.", dim)  # fmt: skip
        self.dim = dim
        (self.concentration,) = broadcast_all(concentration)
        super().__init__(self.concentration.shape, (dim, dim), validate_args=validate_args)

    def _beta(self) -> Beta:
        """The distribution of the squares of rows' lengths before the diagonal.

        PyTorch takes one of twice the elements, whose matrices are more correlated than `log_prob` says; on its stream
        so is done here, for its numbers.
        """
        row = (kiln.arange(self.dim, dtype=self.concentration.dtype) - 1).clamp(min=0)
        most = self.concentration.unsqueeze(-1) + (self.dim - 2) / 2
        return Beta((row if default_generator.stream == "torch" else row / 2) + 0.5, most - row / 2)

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        with no_grad():
            shape = self._extended_shape(sample_shape)
            length = (
                self._beta().sample(sample_shape).unsqueeze(-1)
            )  # of each row before the diagonal
            z = standard_normal(shape, self.concentration).tril(-1)
            norm = z.square().sum(-1, True).sqrt()
            w = length.sqrt() * z / kiln.where(norm > 0, norm, 1.0)
            left = (1 - w.square().sum(-1)).clamp(min=kiln.finfo(w.dtype).tiny).sqrt()
            return w + left.diag_embed()

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        n = self.dim
        order = 2 * (self.concentration - 1).unsqueeze(-1) + kiln.arange(n - 2, -1, -1, dtype=self.concentration.dtype)  # fmt: skip
        powers = (order * value.diagonal(0, -2, -1)[..., 1:].log()).sum(-1)
        alpha = self.concentration + 0.5 * (n - 1)
        scale = mvlgamma(alpha - 0.5, n - 1) - (n - 1) * alpha.lgamma()
        return powers - scale - 0.5 * (n - 1) * math.log(math.pi)
