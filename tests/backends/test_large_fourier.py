"""Large Fourier transforms in eager mode: the reference's bits, on any number of threads."""

from __future__ import annotations

import pytest

import kiln
from kiln.config import context

CASES = {
    "rows": lambda x: kiln.fft.fft(x),
    "columns": lambda x: kiln.fft.fft(x, dim=0),
    "inverse": lambda x: kiln.fft.ifft2(x, norm="ortho"),
    "real": lambda x: kiln.fft.rfft2(x.real),
    "back": lambda x: kiln.fft.irfft2(x, s=(400, 701)),
    "three": lambda x: kiln.fft.fftn(x.reshape(4, 100, 700)),
    "odd": lambda x: kiln.fft.irfft(x, n=1397),
    "a view": lambda x: kiln.fft.rfft(x.imag.T),
    "one row": lambda x: kiln.fft.rfft(x.real.reshape(-1)),
    "gradients": lambda x: kiln.func.grad(lambda y: kiln.fft.rfft2(y).abs().sum())(x.real),
}


@pytest.mark.parametrize("name", CASES)
def test_bits_are_the_reference_s_on_any_number_of_threads(name):
    kiln.manual_seed(0)
    x = kiln.randn(400, 700, dtype=kiln.complex64)
    with context(eager="reference"):
        want = CASES[name](x)
    threads = kiln.get_num_threads()
    try:
        for n in (1, 2, 3):
            kiln.set_num_threads(n)
            got = CASES[name](x)
            assert got.dtype is want.dtype
            if name != "gradients":
                assert kiln.equal(got, want)
            assert kiln.allclose(got, want, 1e-4, 1e-4)
    finally:
        kiln.set_num_threads(threads)
