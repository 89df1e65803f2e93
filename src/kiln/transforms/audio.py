"""Sounds as spectra: modules and functions with torchaudio's names, written in ops, so that gradients pass and `compile` fuses them.

https://docs.pytorch.org/audio/stable/transforms.html
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import nn
from ..errors import KilnValueError, describe
from ..ops.creation import tensor
from ..ops.registry import FUNCTIONS
from ..tensor import Tensor

_SCALES = ("htk", "slaney")
_LINEAR, _BREAK, _STEP = (
    200 / 3,
    1000.0,
    math.log(6.4) / 27,
)  # of Slaney's scale: Hz a mel, where it bends, logarithm a mel


def hz_to_mel(frequency: Any, mel_scale: str = "htk") -> Any:
    """Hz (a number or an array) as mels: 2595 log10(1 + f / 700) (htk), or linear up to 1 kHz and logarithmic above (slaney)."""
    f = np.asarray(frequency, np.float64)
    if _scale(mel_scale) == "htk":
        return 2595 * np.log10(1 + f / 700)
    above = _BREAK / _LINEAR + np.log(np.maximum(f, _BREAK) / _BREAK) / _STEP
    return np.where(f >= _BREAK, above, f / _LINEAR)


def mel_to_hz(mels: Any, mel_scale: str = "htk") -> Any:
    """The inverse of `hz_to_mel`."""
    m = np.asarray(mels, np.float64)
    if _scale(mel_scale) == "htk":
        return 700 * (10 ** (m / 2595) - 1)
    bend = _BREAK / _LINEAR
    return np.where(m >= bend, _BREAK * np.exp(_STEP * (np.maximum(m, bend) - bend)), _LINEAR * m)


def _scale(mel_scale: str) -> str:
    if mel_scale not in _SCALES:
        raise KilnValueError(
            "mel", 'mel_scale should be one of "htk" or "slaney".', repr(mel_scale), f"{_SCALES}"
        )
    return mel_scale


def melscale_fbanks(
    n_freqs: int, f_min: float, f_max: float, n_mels: int, sample_rate: int, norm: str | None = None,
    mel_scale: str = "htk",
) -> Tensor:  # fmt: skip
    """f32[n_freqs, n_mels]: triangles over the frequencies 0 to sample_rate / 2, whose middles are equally far apart in mels.

    With norm="slaney" each has an area of 1 Hz. ValueError for another norm or scale.
    """
    if norm not in (None, "slaney"):
        raise KilnValueError(
            "melscale_fbanks", 'norm must be one of None or "slaney"', repr(norm), ""
        )
    at = np.linspace(0, sample_rate // 2, n_freqs)
    ends = hz_to_mel([f_min, f_max], mel_scale)
    points = mel_to_hz(np.linspace(ends[0], ends[1], n_mels + 2), mel_scale)
    left, middle, right = points[:-2], points[1:-1], points[2:]
    rising = (at[:, None] - left) / (middle - left)
    falling = (right - at[:, None]) / (right - middle)
    banks = np.maximum(0, np.minimum(rising, falling))
    if norm is not None:
        banks = banks * 2 / (right - left)
    return tensor(banks.astype(np.float32))


def create_dct(n_mfcc: int, n_mels: int, norm: str | None = "ortho") -> Tensor:
    """f32[n_mels, n_mfcc]: the first columns of a discrete cosine transform (type II), orthonormal or times 2."""
    if norm not in (None, "ortho"):
        raise KilnValueError("create_dct", 'norm must be either "ortho" or None', repr(norm), "")
    k, n = np.arange(n_mfcc), np.arange(n_mels)[:, None]
    out = np.cos(np.pi / n_mels * (n + 0.5) * k)
    if norm is None:
        out *= 2
    else:
        out *= math.sqrt(2 / n_mels)
        out[:, 0] /= math.sqrt(2)
    return tensor(out.astype(np.float32))


def amplitude_to_DB(
    x: Tensor, multiplier: float, amin: float, db_multiplier: float, top_db: float | None = None
) -> Tensor:
    """multiplier * log10(x), no value below `amin`; none more than `top_db` below the loudest of its sound (…, channels, F, T)."""
    out = x.clamp(min=amin).log10() * multiplier - multiplier * db_multiplier
    if top_db is None:
        return out
    dims = tuple(range(-min(out.ndim, 3), 0))
    return FUNCTIONS["maximum"](out, out.amax(dims, keepdim=True) - top_db)


class Spectrogram(nn.Module):
    """The spectra of windows of a sound: (…, T) to (…, n_fft // 2 + 1, frames), |X| ** power, complex with power=None.

    `hop_length` is half of `win_length`, which is `n_fft`. `normalized`: True or "window" divides by the window's norm, "frame_length" by
    the square root of n_fft.
    """

    window: Tensor

    def __init__(
        self, n_fft: int = 400, win_length: int | None = None, hop_length: int | None = None, pad: int = 0,
        window_fn: Callable[..., Tensor] | None = None, power: float | None = 2.0, normalized: bool | str = False,
        wkwargs: dict[str, Any] | None = None, center: bool = True, pad_mode: str = "reflect", onesided: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_fft = n_fft
        self.win_length = n_fft if win_length is None else win_length
        self.hop_length = self.win_length // 2 if hop_length is None else hop_length
        self.pad, self.power, self.normalized = pad, power, normalized
        self.center, self.pad_mode, self.onesided = center, pad_mode, onesided
        make = FUNCTIONS["hann_window"] if window_fn is None else window_fn
        self.register_buffer("window", make(self.win_length, **(wkwargs or {})))

    def forward(self, waveform: Tensor) -> Tensor:
        """The spectra."""
        if self.pad:
            waveform = FUNCTIONS["nn.functional.pad"](waveform, (self.pad, self.pad))
        *outer, length = waveform.shape
        x = FUNCTIONS["stft"](
            waveform.reshape(-1, length), self.n_fft, self.hop_length, self.win_length, self.window, self.center,
            self.pad_mode, self.normalized == "frame_length", self.onesided, True,
        )  # fmt: skip
        x = x.reshape(*outer, *x.shape[-2:])
        if self.normalized in (True, "window"):
            x = x / self.window.square().sum().sqrt()
        if self.power is None:
            return x
        if self.power == 2:  # without a root, whose gradient at 0 there is none
            return FUNCTIONS["view_as_real"](x).square().sum(-1)
        return x.abs() if self.power == 1 else x.abs().pow(self.power)


class InverseSpectrogram(nn.Module):
    """The sound of spectra that `Spectrogram(power=None)` made with the same options."""

    window: Tensor

    def __init__(
        self, n_fft: int = 400, win_length: int | None = None, hop_length: int | None = None, pad: int = 0,
        window_fn: Callable[..., Tensor] | None = None, normalized: bool | str = False,
        wkwargs: dict[str, Any] | None = None, center: bool = True, pad_mode: str = "reflect", onesided: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_fft = n_fft
        self.win_length = n_fft if win_length is None else win_length
        self.hop_length = self.win_length // 2 if hop_length is None else hop_length
        self.pad, self.normalized, self.center, self.onesided = pad, normalized, center, onesided
        make = FUNCTIONS["hann_window"] if window_fn is None else window_fn
        self.register_buffer("window", make(self.win_length, **(wkwargs or {})))

    def forward(self, spectrogram: Tensor, length: int | None = None) -> Tensor:
        """The sound, `length` samples of it where that is known."""
        *outer, freqs, frames = spectrogram.shape
        x = spectrogram.reshape(-1, freqs, frames)
        if self.normalized in (True, "window"):
            x = x * self.window.square().sum().sqrt()
        total = None if length is None else length + 2 * self.pad
        out = FUNCTIONS["istft"](
            x, self.n_fft, self.hop_length, self.win_length, self.window, self.center,
            self.normalized == "frame_length", self.onesided, total, False,
        )  # fmt: skip
        if self.pad:
            out = out[:, self.pad : out.shape[-1] - self.pad]
        return out.reshape(*outer, out.shape[-1])


class MelScale(nn.Module):
    """The energies in mel bands: (…, n_stft, frames) to (…, n_mels, frames)."""

    fb: Tensor

    def __init__(
        self, n_mels: int = 128, sample_rate: int = 16000, f_min: float = 0.0, f_max: float | None = None,
        n_stft: int = 201, norm: str | None = None, mel_scale: str = "htk",
    ) -> None:  # fmt: skip
        super().__init__()
        f_max = float(sample_rate // 2) if f_max is None else f_max
        if f_min > f_max:
            raise KilnValueError(
                "MelScale", f"Require f_min: {f_min} <= f_max: {f_max}", (f_min, f_max), ""
            )
        self.n_mels, self.sample_rate, self.f_min, self.f_max = n_mels, sample_rate, f_min, f_max
        banks = melscale_fbanks(n_stft, f_min, f_max, n_mels, sample_rate, norm, mel_scale)
        self.register_buffer("fb", banks)

    def forward(self, specgram: Tensor) -> Tensor:
        """The bands' energies."""
        return (specgram.transpose(-1, -2) @ self.fb).transpose(-1, -2)


class MelSpectrogram(nn.Module):
    """The energies of a sound in mel bands: (…, T) to (…, n_mels, frames). See `Spectrogram` and `MelScale`."""

    def __init__(
        self, sample_rate: int = 16000, n_fft: int = 400, win_length: int | None = None, hop_length: int | None = None,
        f_min: float = 0.0, f_max: float | None = None, pad: int = 0, n_mels: int = 128,
        window_fn: Callable[..., Tensor] | None = None, power: float = 2.0, normalized: bool | str = False,
        wkwargs: dict[str, Any] | None = None, center: bool = True, pad_mode: str = "reflect",
        norm: str | None = None, mel_scale: str = "htk",
    ) -> None:  # fmt: skip
        super().__init__()
        self.spectrogram = Spectrogram(
            n_fft, win_length, hop_length, pad, window_fn, power, normalized, wkwargs, center, pad_mode
        )  # fmt: skip
        self.mel_scale = MelScale(
            n_mels, sample_rate, f_min, f_max, n_fft // 2 + 1, norm, mel_scale
        )

    def forward(self, waveform: Tensor) -> Tensor:
        """The bands' energies."""
        return self.mel_scale(self.spectrogram(waveform))


class AmplitudeToDB(nn.Module):
    """Decibels of powers (10 log10) or of magnitudes (20 log10); see `amplitude_to_DB`."""

    def __init__(self, stype: str = "power", top_db: float | None = None) -> None:
        super().__init__()
        if stype not in ("power", "magnitude") or (top_db is not None and top_db < 0):
            raise KilnValueError(
                "AmplitudeToDB", "stype is power or magnitude, top_db must be positive value",
                f"stype={stype!r}, top_db={top_db}", "",
            )  # fmt: skip
        self.stype, self.top_db = stype, top_db
        self.multiplier, self.amin, self.db_multiplier = (
            10.0 if stype == "power" else 20.0,
            1e-10,
            0.0,
        )

    def forward(self, x: Tensor) -> Tensor:
        """The decibels."""
        return amplitude_to_DB(x, self.multiplier, self.amin, self.db_multiplier, self.top_db)


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients: (…, T) to (…, n_mfcc, frames), the cosine transform of decibels (or, with
    `log_mels`, of logarithms) in mel bands. `melkwargs` are MelSpectrogram's."""

    dct_mat: Tensor

    def __init__(
        self, sample_rate: int = 16000, n_mfcc: int = 40, dct_type: int = 2, norm: str | None = "ortho",
        log_mels: bool = False, melkwargs: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if dct_type != 2:
            raise KilnValueError("MFCC", f"DCT type not supported: {dct_type}", dct_type, "2")
        self.log_mels = log_mels
        self.MelSpectrogram = MelSpectrogram(sample_rate, **(melkwargs or {}))
        self.amplitude_to_DB = AmplitudeToDB("power", 80.0)
        n_mels = self.MelSpectrogram.mel_scale.n_mels
        if n_mfcc > n_mels:
            raise KilnValueError(
                "MFCC", "Cannot select more MFCC coefficients than # mel bins", (n_mfcc, n_mels), ""
            )
        self.register_buffer("dct_mat", create_dct(n_mfcc, n_mels, norm))

    def forward(self, waveform: Tensor) -> Tensor:
        """The coefficients."""
        mel = self.MelSpectrogram(waveform)
        mel = (mel + 1e-6).log() if self.log_mels else self.amplitude_to_DB(mel)
        return (mel.transpose(-1, -2) @ self.dct_mat).transpose(-1, -2)


class _Masking(nn.Module):
    """A random stretch along a dimension set to a value (SpecAugment)."""

    dim = -1

    def __init__(self, mask_param: int, iid_masks: bool = False) -> None:
        super().__init__()
        self.mask_param, self.iid_masks = mask_param, iid_masks

    def forward(self, specgram: Tensor, mask_value: float = 0.0) -> Tensor:
        """The spectrogram with one stretch, or one for each sound with `iid_masks`, of at most `mask_param` set to a value."""
        if specgram.ndim < 2:
            raise KilnValueError(
                type(self).__name__, "expected (…, F, T)", describe(specgram), "x.unsqueeze(0)"
            )
        n = specgram.shape[self.dim]
        lead = (*specgram.shape[:-2], 1, 1) if self.iid_masks else (1,) * specgram.ndim
        rand = FUNCTIONS["rand"]
        width = rand(lead, dtype=specgram.dtype) * min(self.mask_param, n)
        start = (rand(lead, dtype=specgram.dtype) * (n - width)).floor()
        at = FUNCTIONS["arange"](n, dtype=specgram.dtype)
        at = at if self.dim == -1 else at.unsqueeze(-1)
        return specgram.masked_fill((at >= start) & (at < start + width.floor()), mask_value)


class TimeMasking(_Masking):
    """A random stretch of at most `time_mask_param` frames set to a value."""

    def __init__(self, time_mask_param: int, iid_masks: bool = False) -> None:
        super().__init__(time_mask_param, iid_masks)


class FrequencyMasking(_Masking):
    """A random stretch of at most `freq_mask_param` bands set to a value."""

    dim = -2

    def __init__(self, freq_mask_param: int, iid_masks: bool = False) -> None:
        super().__init__(freq_mask_param, iid_masks)


__all__ = [
    "MFCC", "AmplitudeToDB", "FrequencyMasking", "InverseSpectrogram", "MelScale", "MelSpectrogram", "Spectrogram",
    "TimeMasking", "amplitude_to_DB", "create_dct", "hz_to_mel", "mel_to_hz", "melscale_fbanks",
]  # fmt: skip
