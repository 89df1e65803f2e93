"""Special functions to a few roundings: against identities that hold for all arguments, and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest

import kiln
from kiln import special

X = kiln.tensor(np.concatenate([np.geomspace(1e-6, 1, 20), np.linspace(1, 60, 200), [1e3, 1e5]]))


def close(a, b, tolerance=2e-15):
    np.testing.assert_allclose(a.numpy(), np.asarray(b), tolerance, 1e-300)


def test_wronskians():
    """J1 Y0 - J0 Y1 = 2 / (pi x) and I0 K1 + I1 K0 = 1 / x hold where each function is right."""
    j0, j1, y0, y1 = (getattr(special, f"bessel_{n}")(X) for n in ("j0", "j1", "y0", "y1"))
    size = (j0**2 + y0**2).sqrt() * (j1**2 + y1**2).sqrt()
    assert ((j1 * y0 - j0 * y1 - 2 / (math.pi * X)).abs() <= 6e-15 * size).all()
    k0, k1 = special.scaled_modified_bessel_k0(X), special.scaled_modified_bessel_k1(X)
    close(special.i0e(X) * k1 + special.i1e(X) * k0, 1 / X, 5e-15)


@pytest.mark.parametrize(
    ("name", "x", "value"),
    [("bessel_j0", 1e6, 3.3104301373987374e-04), ("bessel_y1", 25.5, -0.14536105872304941), ("i0", 30.0, 781672297823.9775),
     ("airy_ai", 2.0, 0.034924130423274379), ("airy_ai", -6.0, -0.32914517362982311), ("erfcx", -3.0, 16205.988853999587),
     ("erfcx", 30.0, 0.018795888861416751), ("log_ndtr", -40.0, -804.6084420137538), ("ndtri", 1e-200, -30.205594179579643),
     ("modified_bessel_k1", 1e-3, 999.9962381560855)],
)  # fmt: skip
def test_known_values(name, x, value):
    close(getattr(special, name)(kiln.tensor(x, dtype=kiln.float64)), value, 1e-14)


def test_incomplete_gammas():
    a = kiln.tensor(np.geomspace(0.01, 3000, 40)).unsqueeze(1)
    x = a * kiln.tensor(np.geomspace(0.1, 5, 21))
    p, q = kiln.igamma(a, x), kiln.igammac(a, x)
    close(p + q, np.ones(p.shape))
    whole = kiln.arange(
        1, 6, dtype=kiln.float64
    )  # Q(n, x) = exp(-x) (1 + x + … + x**(n - 1) / (n - 1)!)
    sums = np.cumsum([math.exp(-2.5) * 2.5**k / math.factorial(k) for k in range(5)])
    close(kiln.igammac(whole, kiln.full((5,), 2.5, dtype=kiln.float64)), sums)
    x = kiln.tensor([0.5, 2.0], dtype=kiln.float64, requires_grad=True)
    kiln.igamma(kiln.ones(2, dtype=kiln.float64), x).sum().backward()  # of 1 - exp(-x)
    close(x.grad, np.exp([-0.5, -2.0]))
    a = kiln.ones(2, dtype=kiln.float64, requires_grad=True)
    (slope,) = kiln.autograd.grad(kiln.igamma(a, x).sum(), a)
    step = 1e-5
    near = (kiln.igamma(a + step, x) - kiln.igamma(a - step, x)) / (2 * step)
    close(slope, near.detach().numpy(), 1e-8)


def test_zeta():
    x = kiln.tensor([2.0, 4.0, 41.0, 1.0], dtype=kiln.float64)
    want = [math.pi**2 / 6, math.pi**4 / 90, 1 + 2.0**-41 + 3.0**-41, math.inf]
    close(special.zeta(x, kiln.ones(4, dtype=kiln.float64)), want)
    rest = [math.pi**2 / 6 - 1, math.pi**4 / 90 - 1, 2.0**-41 + 3.0**-41 + 4.0**-41]
    close(special.zeta(x[:3], 2.0), rest, 1e-14)
    x = kiln.tensor([2.0], requires_grad=True)
    with pytest.raises(NotImplementedError, match="derivative for 'input'"):
        special.zeta(x, 2.0).backward()


def test_polynomials_by_their_angle():
    angle = np.linspace(0.1, 3, 9)
    x = kiln.tensor(np.cos(angle))
    for n in (0, 1, 5, 30):
        np.testing.assert_allclose(
            special.chebyshev_polynomial_t(x, n).numpy(), np.cos(n * angle), atol=1e-13
        )
        want = np.sin((n + 1) * angle) / np.sin(angle)
        np.testing.assert_allclose(special.chebyshev_polynomial_u(x, n).numpy(), want, atol=1e-12)
    assert special.hermite_polynomial_h(kiln.tensor(2.0), 3).item() == 40
    assert special.legendre_polynomial_p(kiln.tensor([0.5]), kiln.tensor([-1, 0, 2])).tolist() == [
        0.0,
        1.0,
        -0.125,
    ]
