"""Windows of signals and the short-time Fourier transform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..device import as_device
from ..errors import KilnError, describe
from ..tensor import Tensor, active_capture, wrap
from .creation import arange, tensor
from .registry import FUNCTIONS, Sample, composition
from .samples import draw, rng

# ---------------------------------------------------------------- windows


def _window(
    name: str, n: int, periodic: bool, dtype: Any, requires_grad: bool, values: Callable
) -> Tensor:
    """A window over n points; a periodic one is that of n + 1 points without its last."""
    d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
    if n < 0:
        raise KilnError(name, f"requires non-negative window_length, got window_length={n}", n, "")
    if d.category != dt.FLOAT:
        raise KilnError(name, f"expects floating point dtypes, got: {d.name}", d, "")
    points = n + 1 if periodic and n > 1 else n
    x = np.arange(points) / max(points - 1, 1)
    w = np.ones(n) if n == 1 else values(x)[:n]
    return tensor(w, dtype=d, requires_grad=requires_grad)


def _windows() -> Iterator[Sample]:
    yield Sample((5,))
    yield Sample((5, False))
    yield Sample((0,))
    yield Sample((1,))
    yield Sample((6,), {"dtype": dt.float64})
    yield Sample((-1,), error=RuntimeError)
    yield Sample((3,), {"dtype": dt.int64}, error=RuntimeError)


@composition(method=False, samples=_windows)
def hann_window(window_length: int, periodic: bool = True, *, dtype: Any = None, layout: Any = None, device: Any = None,
                pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """sin(pi x)**2 for x from 0 to 1."""
    as_device(device)
    return _window(
        "hann_window",
        window_length,
        periodic,
        dtype,
        requires_grad,
        lambda x: 0.5 - 0.5 * np.cos(2 * np.pi * x),
    )


@composition(method=False, samples=lambda: iter([*_windows(), Sample((5, True, 0.5, 0.4))]))
def hamming_window(window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, *,
                   dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: bool = False,
                   requires_grad: bool = False) -> Tensor:  # fmt: skip
    """alpha - beta * cos(2 pi x) for x from 0 to 1."""
    as_device(device)
    return _window("hamming_window", window_length, periodic, dtype, requires_grad,
                   lambda x: alpha - beta * np.cos(2 * np.pi * x))  # fmt: skip


@composition(method=False, samples=_windows)
def blackman_window(window_length: int, periodic: bool = True, *, dtype: Any = None, layout: Any = None, device: Any = None,
                    pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """0.42 - 0.5 cos(2 pi x) + 0.08 cos(4 pi x) for x from 0 to 1."""
    as_device(device)
    return _window("blackman_window", window_length, periodic, dtype, requires_grad,
                   lambda x: 0.42 - 0.5 * np.cos(2 * np.pi * x) + 0.08 * np.cos(4 * np.pi * x))  # fmt: skip


@composition(method=False, samples=_windows)
def bartlett_window(window_length: int, periodic: bool = True, *, dtype: Any = None, layout: Any = None, device: Any = None,
                    pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A triangle: 1 - |2 x - 1| for x from 0 to 1."""
    as_device(device)
    return _window(
        "bartlett_window",
        window_length,
        periodic,
        dtype,
        requires_grad,
        lambda x: 1 - np.abs(2 * x - 1),
    )


@composition(method=False, samples=lambda: iter([
    *(Sample(a, {"dtype": dt.float64}) for a in ((5,), (5, False), (0,), (1,), (6, True, 8.0))), Sample((-1,), error=RuntimeError),
]))  # fmt: skip
def kaiser_window(window_length: int, periodic: bool = True, beta: float = 12.0, *, dtype: Any = None, layout: Any = None,
                  device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """I0(beta sqrt(1 - (2 x - 1)**2)) / I0(beta) for x from 0 to 1."""
    as_device(device)
    return _window("kaiser_window", window_length, periodic, dtype, requires_grad,
                   lambda x: np.i0(beta * np.sqrt(np.clip(1 - (2 * x - 1) ** 2, 0, None))) / np.i0(beta))  # fmt: skip


# ---------------------------------------------------------------- the short-time Fourier transform


def _stft_samples() -> Iterator[Sample]:
    r = rng(71)
    x, w = draw(r, (2, 20)), draw(r, (8,), 0.5, 1.0)
    for kw in ({}, {"hop_length": 3}, {"center": False}, {"normalized": True}, {"onesided": False},
               {"win_length": 6, "window": w[:6]}, {"pad_mode": "constant"}):  # fmt: skip
        yield Sample((x, 8), {"window": w, "return_complex": True, **kw})
    yield Sample((x[0], 8), {"window": w, "return_complex": True})
    yield Sample((x, 8), {"window": w, "return_complex": False})
    yield Sample(
        (x, 30), {"window": w, "return_complex": True, "center": False}, error=RuntimeError
    )
    yield Sample((x, 8), {"window": w[:5], "return_complex": True}, error=RuntimeError)


@composition(samples=_stft_samples)
def stft(input: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
         center: bool = True, pad_mode: str = "reflect", normalized: bool = False, onesided: bool | None = None,
         return_complex: bool | None = None, align_to_window: bool | None = None) -> Tensor:  # fmt: skip
    """The spectra of overlapping windows of a signal (…, T): (…, frequencies, frames)."""
    name = "stft"
    hop = n_fft // 4 if hop_length is None else hop_length
    win = n_fft if win_length is None else win_length
    given = f"{describe(input)}, n_fft={n_fft}, hop_length={hop}, win_length={win}"
    if input.ndim not in (1, 2) or input.dtype.category < dt.FLOAT:
        raise KilnError(
            name, "expected a 1D or 2D tensor of floating or complex numbers", given, ""
        )
    if return_complex is None and not input.is_complex():
        raise KilnError(
            name,
            "requires the return_complex parameter be given for real inputs",
            given,
            "return_complex=True",
        )
    x = input if input.ndim == 2 else input.unsqueeze(0)
    if center:
        x = FUNCTIONS["nn.functional.pad"](
            x.unsqueeze(1), (n_fft // 2, n_fft // 2), pad_mode
        ).squeeze(1)
    if not 0 < n_fft <= x.shape[-1] or hop <= 0 or not 0 < win <= n_fft:
        raise KilnError(
            name,
            "expected 0 < win_length <= n_fft <= the signal's length, and hop_length > 0",
            given,
            "",
        )
    if window is not None and (window.ndim != 1 or window.shape[0] != win):
        raise KilnError(
            name,
            f"expected a 1D window tensor of size equal to win_length={win}",
            describe(window),
            "",
        )
    if window is None and win != n_fft:
        window = wrap(np.ones(win, input.dtype.to_real().np))
    if window is not None and win < n_fft:
        left = (n_fft - win) // 2
        window = FUNCTIONS["nn.functional.pad"](window, (left, n_fft - win - left))
    frames = x.unfold(-1, n_fft, hop)
    frames = frames if window is None else frames * window
    half = not frames.is_complex() if onesided is None else onesided
    if half and frames.is_complex():
        raise KilnError(
            name,
            "cannot have onesided output if window or input is complex",
            given,
            "onesided=False",
        )
    transform = FUNCTIONS["fft.rfft" if half else "fft.fft"]
    out = transform(frames, norm="ortho" if normalized else None).transpose(-1, -2)
    out = out if input.ndim == 2 else out.squeeze(0)
    return FUNCTIONS["view_as_real"](out) if return_complex is False else out


def _istft_samples() -> Iterator[Sample]:
    r = rng(72)
    w = draw(r, (8,), 0.5, 1.0)
    x = draw(r, (2, 5, 9)) + 1j * draw(r, (2, 5, 9))
    x[:, 0], x[:, -1] = x[:, 0].real, x[:, -1].real
    for kw in ({}, {"hop_length": 3}, {"center": False}, {"normalized": True}, {"length": 11}, {"length": 30},
               {"win_length": 6, "window": w[:6], "hop_length": 2}):  # fmt: skip
        yield Sample((x, 8), {"window": w, **kw}, fixed=("window",))
    yield Sample((x[0], 8), {"window": w}, fixed=("window",))
    full = draw(r, (8, 6)) + 1j * draw(r, (8, 6))
    yield Sample((full, 8), {"window": w, "onesided": False}, fixed=("window",))
    yield Sample(
        (full, 8), {"window": w, "onesided": False, "return_complex": True}, fixed=("window",)
    )
    yield Sample((x.real, 8), {"window": w}, error=RuntimeError)
    yield Sample((x, 8), {"window": np.zeros(8)}, error=RuntimeError)
    yield Sample((x, 10), {"window": w}, error=RuntimeError)


@composition(samples=_istft_samples)
def istft(input: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
          center: bool = True, normalized: bool = False, onesided: bool | None = None, length: int | None = None,
          return_complex: bool = False) -> Tensor:  # fmt: skip
    """The signal of spectra (…, frequencies, frames): the inverse of `stft`, least squares where frames disagree.

    Source: Griffin and Lim, 1984, "Signal estimation from modified short-time Fourier transform".
    """
    name = "istft"
    hop = n_fft // 4 if hop_length is None else hop_length
    win = n_fft if win_length is None else win_length
    given = f"{describe(input)}, n_fft={n_fft}, hop_length={hop}, win_length={win}"
    if not input.is_complex():
        raise KilnError(name, "istft requires a complex-valued input tensor matching the output from stft with "
                        "return_complex=True.", given, "view_as_complex makes one of pairs")  # fmt: skip
    if input.ndim not in (2, 3) or not input.numel():
        raise KilnError(
            name, "expected a tensor with 2 or 3 dimensions that is not empty", given, ""
        )
    half = input.shape[-2] != n_fft if onesided is None else onesided
    if input.shape[-2] != (n_fft // 2 + 1 if half else n_fft):
        raise KilnError(name, "expected the frequency dimension (3rd to the last) of the input tensor to match n_fft when "
                        f"onesided={half}", given, "")  # fmt: skip
    if not 0 < hop <= win or not 0 < win <= n_fft:
        raise KilnError(name, "expected 0 < hop_length <= win_length <= n_fft", given, "")
    if window is not None and tuple(window.shape) != (win,):
        raise KilnError(
            name, "window must be a 1D tensor of size equal to win_length", describe(window), ""
        )
    if return_complex and half:
        raise KilnError(
            name,
            "cannot have onesided output if window or input is complex",
            given,
            "onesided=False",
        )
    kind = input.dtype.to_real()
    w = (
        wrap(np.ones(win, kind.np))
        if window is None
        else window
        if window.is_complex()
        else window.to(kind)
    )
    if win < n_fft:
        left = (n_fft - win) // 2
        w = FUNCTIONS["nn.functional.pad"](w, (left, n_fft - win - left))
    x = (input if input.ndim == 3 else input.unsqueeze(0)).transpose(-1, -2)
    norm = "ortho" if normalized else None
    if not return_complex:  # of a whole spectrum the half that says it all
        x = x[..., : n_fft // 2 + 1]
        frames = FUNCTIONS["fft.irfft"](x, n_fft, norm=norm)
    else:
        frames = FUNCTIONS["fft.ifft"](x, norm=norm)
    count = x.shape[-2]
    total = n_fft + hop * (count - 1)
    at = (arange(count).unsqueeze(1) * hop + arange(n_fft)).reshape(-1)
    y = frames.new_zeros((x.shape[0], total)).index_add(1, at, (frames * w).reshape(x.shape[0], -1))
    weight = w.new_zeros((total,)).index_add(0, at, (w * w).expand(count, n_fft).reshape(-1))
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else total - n_fft // 2 if center else total
    y, weight = y[:, start:end], weight[start:end]
    if active_capture() is None and bool((weight.abs() < 1e-11).any()):
        raise KilnError(
            name,
            "window overlap add min: it must not be near 0",
            given,
            "a window without gaps, or center=True",
        )
    y = y / weight
    if end > total:
        y = FUNCTIONS["nn.functional.pad"](y, (0, end - total))
    return y if input.ndim == 3 else y.squeeze(0)
