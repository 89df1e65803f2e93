"""Windows of signals: `kiln.signal.windows`. Defined when that module is first imported."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..device import as_device
from ..errors import KilnTypeError, KilnValueError
from ..tensor import Tensor
from ._special.bessel import i0
from .creation import tensor
from .registry import Sample, composition


def _made(
    name: str,
    M: int,
    values: Callable[[np.ndarray], np.ndarray],
    dtype: Any,
    layout: Any,
    requires_grad: bool,
) -> Tensor:
    """The window of `values(n)` for n from 0 to M - 1."""
    d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
    if M < 0:
        raise KilnValueError(name, f"{name} requires non-negative window length, got M={M}", M, "")
    if layout not in (None, "strided"):
        raise KilnValueError(
            name, f"{name} is implemented for strided tensors only, got: {layout}", layout, ""
        )
    if d not in (dt.float32, dt.float64):
        raise KilnValueError(
            name,
            f"{name} expects float32 or float64 dtypes, got: {d.name}",
            d.name,
            "convert it after",
        )
    w = values(np.arange(M, dtype=np.float64)) if M else np.zeros(0)
    return tensor(w, dtype=d, requires_grad=requires_grad)


def _period(M: int, sym: bool) -> int:
    """How many steps apart the ends are: a periodic window lacks its last point."""
    return M - 1 if sym or M == 1 else M


def _samples(*calls: dict, bad: tuple[dict, ...] = ()) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        for kw in calls or ({},):
            for M, sym in ((7, True), (7, False), (8, False), (1, True), (1, False), (0, True)):
                yield Sample((M,), {**kw, "sym": sym, "dtype": dt.float64})
        yield Sample((5,), calls[0] if calls else {})
        yield Sample((-1,), calls[0] if calls else {}, error=ValueError)
        yield Sample((5,), {**(calls[0] if calls else {}), "dtype": dt.int64}, error=ValueError)
        for kw in bad:
            yield Sample((5,), kw, error=ValueError)

    return samples


def _window(samples: Callable) -> Callable:
    return composition(namespace="signal.windows", method=False, samples=samples)


# ---------------------------------------------------------------- sums of cosines


def _cosines(
    name: str, M: int, a: Iterable, sym: bool, dtype: Any, layout: Any, requires_grad: bool
) -> Tensor:
    def values(n: np.ndarray) -> np.ndarray:
        turn = 2 * math.pi * n / max(_period(M, sym), 1)
        total = sum((-1) ** i * c * np.cos(i * turn) for i, c in enumerate(a))
        return np.ones(1) if M == 1 else np.asarray(total)

    return _made(name, M, values, dtype, layout, requires_grad)


@_window(_samples({"a": [0.46, 0.23, 0.31]}, bad=({"a": []},)))
def general_cosine(M: int, *, a: Iterable, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
                   requires_grad: bool = False) -> Tensor:  # fmt: skip
    """The sum over i of (-1)**i a[i] cos(2 pi i n / (M - 1))."""
    as_device(device)
    if not isinstance(a, Iterable):
        raise KilnTypeError("general_cosine", "Coefficients must be a list/tuple", repr(a), "")
    a = list(a)
    if not a:
        raise KilnValueError("general_cosine", "Coefficients cannot be empty", repr(a), "")
    return _cosines("general_cosine", M, a, sym, dtype, layout, requires_grad)


@_window(_samples({}, {"alpha": 0.7}))
def general_hamming(M: int, *, alpha: float = 0.54, sym: bool = True, dtype: Any = None, layout: Any = None,
                    device: Any = None, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """alpha - (1 - alpha) cos(2 pi n / (M - 1))."""
    as_device(device)
    return _cosines("general_hamming", M, (alpha, 1 - alpha), sym, dtype, layout, requires_grad)


def _named(name: str, a: tuple[float, ...], doc: str) -> None:
    def fn(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
           requires_grad: bool = False) -> Tensor:  # fmt: skip
        as_device(device)
        return _cosines(name, M, a, sym, dtype, layout, requires_grad)

    fn.__name__, fn.__doc__ = name, doc
    _window(_samples())(fn)


_named("hamming", (0.54, 0.46), "The Hamming window: 0.54 - 0.46 cos(2 pi n / (M - 1)).")
_named("hann", (0.5, 0.5), "The Hann window: sin(pi n / (M - 1)) squared.")
_named("blackman", (0.42, 0.5, 0.08), "The Blackman window, of three cosines.")
_named(
    "nuttall",
    (0.3635819, 0.4891775, 0.1365995, 0.0106411),
    "Nuttall's minimum four-term Blackman-Harris window (Nuttall, 1981).",
)


# ---------------------------------------------------------------- other shapes


@_window(_samples())
def bartlett(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
             requires_grad: bool = False) -> Tensor:  # fmt: skip
    """The triangle 1 - |2 n / (M - 1) - 1|."""
    as_device(device)
    period = _period(M, sym)
    return _made(
        "bartlett",
        M,
        lambda n: 1 - np.abs(2 * n / period - 1) if period else np.ones(1),
        dtype,
        layout,
        requires_grad,
    )


@_window(_samples())
def cosine(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
           requires_grad: bool = False) -> Tensor:  # fmt: skip
    """Half a wave: sin(pi (n + 1/2) / M)."""
    as_device(device)
    return _made(
        "cosine",
        M,
        lambda n: np.sin(math.pi * (n + 0.5) / (_period(M, sym) + 1)),
        dtype,
        layout,
        requires_grad,
    )


@_window(_samples({}, {"tau": 2.5}, bad=({"tau": -1.0}, {"center": 1.0})))
def exponential(M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, dtype: Any = None,
                layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """exp(-|n - center| / tau), by default around the middle."""
    as_device(device)
    if tau <= 0:
        raise KilnValueError("exponential", f"Tau must be positive, got: {tau} instead.", tau, "")
    if sym and center is not None:
        raise KilnValueError(
            "exponential", "Center must be None for symmetric windows", center, "sym=False"
        )
    middle = _period(M, sym) / 2 if center is None else center
    return _made(
        "exponential", M, lambda n: np.exp(-np.abs(n - middle) / tau), dtype, layout, requires_grad
    )


@_window(_samples({}, {"std": 0.7}, bad=({"std": -1.0},)))
def gaussian(M: int, *, std: float = 1.0, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
             requires_grad: bool = False) -> Tensor:  # fmt: skip
    """exp(-(n - (M - 1) / 2)**2 / (2 std**2))."""
    as_device(device)
    if std <= 0:
        raise KilnValueError(
            "gaussian", f"Standard deviation must be positive, got: {std} instead.", std, ""
        )
    middle = _period(M, sym) / 2
    return _made(
        "gaussian",
        M,
        lambda n: np.exp(-(((n - middle) / std) ** 2) / 2),
        dtype,
        layout,
        requires_grad,
    )


@_window(_samples({}, {"beta": 4.5}, bad=({"beta": -1.0},)))
def kaiser(M: int, *, beta: float = 12.0, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
           requires_grad: bool = False) -> Tensor:  # fmt: skip
    """I0(beta sqrt(1 - (2 n / (M - 1) - 1)**2)) / I0(beta)."""
    as_device(device)
    if beta < 0:
        raise KilnValueError("kaiser", f"beta must be non-negative, got: {beta} instead.", beta, "")
    period = _period(M, sym)

    def values(n: np.ndarray) -> np.ndarray:
        inside = np.clip(1 - (2 * n / period - 1) ** 2, 0, None) if period else np.ones(1)
        return i0(beta * np.sqrt(inside)) / i0(np.asarray(float(beta)))

    return _made("kaiser", M, values, dtype, layout, requires_grad)
