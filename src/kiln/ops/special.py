"""`kiln.special`: special functions under PyTorch's names for them, most of them those of `kiln` itself."""

from __future__ import annotations

import math

from ..tensor import Tensor
from . import arithmetic, softmax, statistics, transcendental  # noqa: F401  (define what is named here)
from .dispatch import expect_tensor
from .elementary import xlogy
from .registry import FUNCTIONS, Sample, composition
from .samples import binary, draw, rng, unary
from .selection import where_op

_SAME = {
    "digamma": "digamma", "psi": "digamma", "erf": "erf", "erfc": "erfc", "erfinv": "erfinv", "exp2": "exp2",
    "expit": "sigmoid", "expm1": "expm1", "gammaln": "lgamma", "log1p": "log1p", "log_softmax": "log_softmax",
    "logit": "logit", "logsumexp": "logsumexp", "polygamma": "polygamma", "round": "round", "sinc": "sinc",
    "softmax": "softmax", "xlogy": "xlogy",
}  # fmt: skip
for _name, _known in _SAME.items():
    FUNCTIONS[f"special.{_name}"] = FUNCTIONS[_known]


@composition(namespace="special", method=False, samples=lambda: iter([
    *unary(0.1, 2.0)(), Sample((draw(rng(), (3, 4)),), grad=False), Sample((draw(rng(), (2,)) * 0,), grad=False),
]))  # fmt: skip
def entr(input: Tensor) -> Tensor:
    """-input * log(input); 0 at 0 and -inf below."""
    expect_tensor("entr", input)
    return where_op(input < 0, float("-inf"), -xlogy(input, input))


@composition(namespace="special", method=False, samples=binary(0.2, 2.0, scalar=None))
def xlog1py(input: Tensor, other: Tensor) -> Tensor:
    """input * log(1 + other); 0 where input is 0 and other a number."""
    expect_tensor("xlog1py", other)
    return where_op((input == 0) & (other == other), 0, input * other.log1p())


@composition(namespace="special", method=False, samples=unary())
def ndtr(input: Tensor) -> Tensor:
    """The area under the standard normal density up to input."""
    expect_tensor("ndtr", input)
    return FUNCTIONS["erfc"](input * -math.sqrt(0.5)) * 0.5
