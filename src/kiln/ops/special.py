"""`kiln.special`: special functions under PyTorch's names for them, most of them those of `kiln` itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError
from ..tensor import Tensor
from . import arithmetic, softmax, statistics, transcendental  # noqa: F401  (define what is named here)
from .arithmetic import elementwise, only
from .creation import tensor
from .dispatch import expect_tensor
from .elementary import lgamma, xlogy
from .implicit import standard_gamma_grad
from .indexing import assign
from .registry import FUNCTIONS, Operand, Sample, composition, method
from .samples import binary, draw, rng, unary
from .selection import where_op
from .storing import store_out

# ---------------------------------------------------------------- under names of `kiln` too


def _i1(x: Tensor) -> Tensor:
    from .special_functions import i1

    return i1(x)


@elementwise(
    "float", inplace=True, out=True, samples=unary(-4, 4), check=True,
    infer=only("i0", dt.BOOL, dt.FLOAT, KilnNotImplementedError), grad={"input": lambda g, input: g * _i1(input)},
)  # fmt: skip
def i0(input: Tensor) -> Tensor:
    """The modified Bessel function of the first kind of order 0."""
    from ._special.bessel import i0 as f

    return f(input)


def _incomplete_facts(name: str, sign: int) -> dict:
    """What the two incomplete gamma functions share; their sum is 1."""

    def grad(g: Tensor, input: Tensor, other: Tensor) -> Tensor:
        return g * ((input - 1) * other.log() - other - lgamma(input)).exp() * sign

    def shape_grad(g: Tensor, input: Tensor, other: Tensor) -> Tensor:
        return grad(g, input, other) * -standard_gamma_grad(input, other)

    def samples() -> Iterator[Sample]:
        r = rng(2)
        x = draw(r, (3, 4), 0.3, 6)
        yield Sample((draw(r, (3, 4), 0.3, 6), x), grad=False)
        yield Sample((draw(r, (3, 1), 60, 4000), draw(r, (4,), 50, 4500)), grad=False)
        edges = np.array([0.0, 0.1, 1.0, 30.0, 1e4, np.inf, -1.0])
        yield Sample((edges[:, None], edges), grad=False)
        yield Sample((draw(r, (3, 4)), draw(r, (3, 5))), error=RuntimeError)
        yield Sample((np.array([1]), np.array([2])), error=NotImplementedError)

    return {"scalar": name, "dear": True, "inplace": True, "out": True, "check": True, "samples": samples, "grad": {"input": shape_grad, "other": grad},
            "infer": only(name, dt.FLOAT, dt.FLOAT, KilnNotImplementedError)}  # fmt: skip


@elementwise(**_incomplete_facts("igamma", 1))
def igamma(input: Tensor, other: Tensor) -> Tensor:
    """The regularised lower incomplete gamma function P(input, other)."""
    from ._special.gamma import gammainc as f

    return f(input, other)


@elementwise(**_incomplete_facts("igammac", -1))
def igammac(input: Tensor, other: Tensor) -> Tensor:
    """The regularised upper incomplete gamma function Q(input, other)."""
    from ._special.gamma import gammaincc as f

    return f(input, other)


def _multigamma_samples() -> Iterator[Sample]:
    for p in (1, 2, 5):
        yield Sample((draw(rng(), (3, 4), 2.5, 6), p))
    yield Sample((np.array([1, 2]), 1), grad=False)
    yield Sample((draw(rng(), (3, 4), 0.5, 6), 0), error=RuntimeError)


@composition(samples=_multigamma_samples, inplace=True)
def mvlgamma(input: Tensor, p: int, *, out: Tensor | None = None) -> Tensor:
    """The logarithm of the multivariate gamma function of dimension p."""
    expect_tensor("mvlgamma", input)
    if p < 1:
        raise KilnError("mvlgamma", "p has to be greater than or equal to 1", p, "")
    x = input if input.dtype.category >= dt.FLOAT else input.to(dt.get_default_dtype())
    halves = FUNCTIONS["arange"](0, -p, -1, dtype=x.dtype) / 2
    r = lgamma(x.unsqueeze(-1) + halves).sum(-1) + p * (p - 1) / 4 * math.log(math.pi)
    return store_out(lgamma.op, r, out)


@method("polygamma")
def polygamma_method(self: Tensor, n: int) -> Tensor:
    """The n-th derivative of digamma."""
    return FUNCTIONS["polygamma"](n, self)


@method("polygamma_")
def polygamma_(self: Tensor, n: int) -> Tensor:
    """`polygamma` in place."""
    return assign(self, polygamma_method, n)


_SAME = {
    "digamma": "digamma", "psi": "digamma", "erf": "erf", "erfc": "erfc", "erfinv": "erfinv", "exp2": "exp2",
    "expit": "sigmoid", "expm1": "expm1", "gammaln": "lgamma", "log1p": "log1p", "log_softmax": "log_softmax",
    "gammainc": "igamma", "gammaincc": "igammac", "i0": "i0", "logit": "logit", "logsumexp": "logsumexp", "multigammaln": "mvlgamma", "polygamma": "polygamma", "round": "round", "sinc": "sinc",
    "softmax": "softmax", "xlogy": "xlogy",
}  # fmt: skip
for _name, _known in _SAME.items():
    FUNCTIONS[f"special.{_name}"] = FUNCTIONS[_known]


# ---------------------------------------------------------------- under no other name


@elementwise("float", private=True, samples=unary(0.1, 2.0), grad={"input": lambda g, input: g * (-input.log() - 1)},
             body=lambda input: where_op(input < 0, float("-inf"), 0 - xlogy(input, input)))  # fmt: skip
def _entr(input: Tensor) -> Tensor:
    """-input * log(input)."""
    return np.where(input < 0, -np.inf, np.where(input == 0, 0, -input * np.log(input)))


@composition(out="cast", namespace="special", method=False, samples=lambda: iter([
    *unary(0.1, 2.0)(), Sample((draw(rng(), (3, 4)),), grad=False), Sample((draw(rng(), (2,)) * 0,), grad=False),
]))  # fmt: skip
def entr(input: Tensor) -> Tensor:
    """-input * log(input); 0 at 0 and -inf below."""
    expect_tensor("entr", input)
    return _entr(input)


@elementwise(
    "float", private=True, samples=binary(0.2, 2.0, scalar=None),
    body=lambda input, other: where_op((input == 0) & (other == other), 0, input * other.log1p()),
    grad={
        "input": lambda g, input, other: _xlog1py(where_op((input == 0) & (other <= -1), 0, g), other),
        "other": lambda g, input, other: g * (input / (other + 1)),
    },
)  # fmt: skip
def _xlog1py(input: Tensor, other: Tensor) -> Tensor:
    """input * log(1 + other)."""
    return np.where((input == 0) & ~np.isnan(other), other.dtype.type(0), input * np.log1p(other))


@composition(out="cast", namespace="special", method=False, samples=binary(0.2, 2.0, scalar=None))
def xlog1py(input: Operand, other: Operand) -> Tensor:
    """input * log(1 + other); 0 where input is 0 and other a number. One of the two is a tensor."""
    if isinstance(input, Tensor):
        return _xlog1py(input, other if isinstance(other, Tensor) else tensor(other))
    expect_tensor("xlog1py", other)
    return _xlog1py(tensor(input), other)


@composition(out="cast across", namespace="special", method=False, samples=unary())
def ndtr(input: Tensor) -> Tensor:
    """The area under the standard normal density up to input."""
    expect_tensor("ndtr", input)
    return FUNCTIONS["erfc"](input * -math.sqrt(0.5)) * 0.5
