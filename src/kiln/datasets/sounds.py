"""Sounds made by rule: tones of four waveforms, and words spoken by a formant synthesiser.

Vowels' formants: G. Peterson, H. Barney, Control Methods Used in a Study of the Vowels, J. Acoust. Soc. Am. 24 (1952).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import KilnValueError
from ..ops.creation import from_numpy
from ..tensor import Tensor

WAVEFORMS = ("sine", "square", "sawtooth", "triangle")

# Three formants in Hz, loudness of the voice and of the noise, and a duration in seconds. Noise of its own colour: (centre, width).
_PHONES: dict[str, tuple[tuple[float, float, float], float, float, float]] = {
    "IY": ((270, 2290, 3010), 1.0, 0.0, 0.14), "IH": ((390, 1990, 2550), 1.0, 0.0, 0.10),
    "EH": ((530, 1840, 2480), 1.0, 0.0, 0.12), "AE": ((660, 1720, 2410), 1.0, 0.0, 0.14),
    "AH": ((640, 1190, 2390), 1.0, 0.0, 0.12), "AA": ((730, 1090, 2440), 1.0, 0.0, 0.15),
    "AO": ((570, 840, 2410), 1.0, 0.0, 0.15), "UH": ((440, 1020, 2240), 1.0, 0.0, 0.10),
    "UW": ((300, 870, 2240), 1.0, 0.0, 0.14), "ER": ((490, 1350, 1690), 1.0, 0.0, 0.14),
    "R": ((330, 1060, 1380), 0.6, 0.0, 0.07), "L": ((360, 1050, 2800), 0.6, 0.0, 0.07),
    "W": ((290, 610, 2150), 0.6, 0.0, 0.06), "Y": ((260, 2200, 3000), 0.6, 0.0, 0.06),
    "N": ((280, 1700, 2600), 0.35, 0.0, 0.08), "M": ((280, 1100, 2300), 0.35, 0.0, 0.08),
    "S": ((320, 1700, 2500), 0.0, 0.35, 0.12), "F": ((320, 1200, 2400), 0.0, 0.15, 0.10),
    "V": ((320, 1100, 2300), 0.35, 0.08, 0.07), "Z": ((320, 1700, 2500), 0.3, 0.2, 0.10),
    "P": ((400, 1100, 2150), 0.0, 0.2, 0.02), "T": ((400, 1700, 2600), 0.0, 0.35, 0.03),
    "K": ((400, 1900, 2300), 0.0, 0.3, 0.03), "D": ((350, 1700, 2600), 0.3, 0.2, 0.03),
    "G": ((350, 1900, 2300), 0.3, 0.2, 0.03), "B": ((350, 1000, 2200), 0.3, 0.1, 0.02),
}  # fmt: skip
_HISS = {"S": (3600, 700), "Z": (3600, 700), "T": (3300, 900), "D": (3000, 900), "F": (2500, 2500), "V": (2500, 2500),
         "K": (1900, 500), "G": (1900, 500), "P": (900, 600), "B": (900, 600)}  # fmt: skip
_STOPS = {"P", "T", "K", "D", "G", "B"}
WORDS = {
    "yes": ("Y", "EH", "S"), "no": ("N", "AO", "UH"), "up": ("AH", "P"), "down": ("D", "AA", "UH", "N"),
    "left": ("L", "EH", "F", "T"), "right": ("R", "AA", "IH", "T"), "on": ("AA", "N"), "off": ("AO", "F"),
    "stop": ("S", "T", "AA", "P"), "go": ("G", "AO", "UH"),
}  # fmt: skip
PHONES = tuple(sorted({p for word in WORDS.values() for p in word}))
_BANDWIDTHS = (70.0, 100.0, 150.0)
_SILENCE = 0.05  # before a stop's burst, in seconds


class Tones(NamedTuple):
    """Sounds f32[n, samples] in [-1, 1], waveforms i64[n] (numbers in `WAVEFORMS`) and pitches f32[n] in Hz."""

    sounds: Tensor
    waveforms: Tensor
    pitches: Tensor


class Keywords(NamedTuple):
    """Sounds f32[n, samples] in [-1, 1], words i64[n], what the words are, and of each its phones i64[longest], from 1, then 0."""

    sounds: Tensor
    words: Tensor
    names: tuple[str, ...]
    phones: Tensor


def load_tones(
    count: int = 1000, rate: int = 8000, seconds: float = 0.25, noise: float = 0.05, seed: int = 0
) -> Tones:
    """Tones of 110 to 880 Hz with four waveforms, of any phase and loudness, with white noise.

    Waveforms have the overtones below half the rate alone, so nothing folds back.
    """
    r = np.random.Generator(np.random.PCG64(seed))
    kinds = r.integers(0, len(WAVEFORMS), count)
    pitches = 110 * 2 ** r.uniform(0, 3, count)
    n = round(rate * seconds)
    t = np.arange(n) / rate
    out = np.zeros((count, n), np.float32)
    for i, (kind, pitch) in enumerate(zip(kinds, pitches, strict=True)):
        k = np.arange(1, 2 if kind == 0 else int(rate / 2 / pitch) + 1)
        size = (np.where(k == 1, 1.0, 0.0), (k % 2) / k, 1 / k, (k % 2) * (-1.0) ** (k // 2) / k**2)
        turns = 2 * np.pi * k[:, None] * (pitch * t + r.uniform())
        wave = size[kind] @ np.sin(turns)
        wave *= r.uniform(0.3, 0.9) / np.abs(wave).max()
        out[i] = (wave + r.normal(0, noise, n)).clip(-1, 1)
    return Tones(
        *(from_numpy(a) for a in (out, kinds.astype(np.int64), pitches.astype(np.float32)))
    )


def load_keywords(
    count: int = 1000, words: tuple[str, ...] = tuple(WORDS), rate: int = 8000, seconds: float = 1.0,
    noise: float = 0.01, seed: int = 0,
) -> Keywords:  # fmt: skip
    """Words as a simple machine speaks them, each by a speaker with a pitch, tract and pace of its own, somewhere in the sound.

    `words` are among `WORDS`, whose phones are numbers in `PHONES` plus 1: targets of a CTC loss, with 0 for blank.
    """
    unknown = [w for w in words if w not in WORDS]
    if unknown or not words:
        raise KilnValueError("load_keywords", "words that are not known", unknown, ", ".join(WORDS))
    r = np.random.Generator(np.random.PCG64(seed))
    labels = r.integers(0, len(words), count)
    n = round(rate * seconds)
    out = np.zeros((count, n), np.float32)
    longest = max(len(WORDS[w]) for w in words)
    phones = np.zeros((count, longest), np.int64)
    for i, label in enumerate(labels):
        spoken = WORDS[words[label]]
        phones[i, : len(spoken)] = [PHONES.index(p) + 1 for p in spoken]
        sound = _speak(r, spoken, rate)[:n]
        start = r.integers(0, n - len(sound) + 1)
        out[i, start : start + len(sound)] = sound * r.uniform(0.4, 0.9) / np.abs(sound).max()
        out[i] = (out[i] + r.normal(0, noise, n)).clip(-1, 1)
    made = from_numpy(out), from_numpy(labels.astype(np.int64))
    return Keywords(*made, tuple(words), from_numpy(phones))


def _speak(r: np.random.Generator, phones: tuple[str, ...], rate: int) -> np.ndarray:
    """One utterance: a voice's overtones and noise, both shaped by formants that glide from phone to phone."""
    pitch, tract, pace = r.uniform(85, 240), r.uniform(0.9, 1.15), r.uniform(0.85, 1.25)
    times, rows = [0.0], [(*_PHONES[phones[0]][0], 0.0, 0.0)]
    now, glide = 0.03, 0.025 * pace
    hiss: list[tuple[float, float, str]] = []
    for p in phones:
        formants, voice, noise, length = _PHONES[p]
        if p in _STOPS:
            times.append(now)
            rows.append((*formants, 0.0, 0.0))
            now += _SILENCE * pace
        length *= pace * r.uniform(0.9, 1.1)
        times += [now + min(glide, length / 3), now + length]
        rows += [(*formants, voice, noise)] * 2
        if p in _HISS:
            hiss.append((now - glide, now + length + glide, p))
        now += length + glide
    times.append(now + 0.03)
    rows.append((*rows[-1][:3], 0.0, 0.0))
    n = int(times[-1] * rate)
    t = np.arange(n) / rate
    tracks = np.array([np.interp(t, times, column) for column in zip(*rows, strict=True)])
    f0 = pitch * (1.08 - 0.2 * t / t[-1]) * (1 + 0.015 * np.sin(2 * np.pi * 5 * t))
    k = np.arange(1, int(rate / 2 / f0.max()) + 1)[:, None]
    phase = 2 * np.pi * np.cumsum(f0) / rate
    # a source that falls by 12 dB an octave, through three resonances
    gain = _resonances(k * f0, tracks[:3] * tract) / k
    voiced = (gain * np.sin(k * phase)).sum(0)
    out = tracks[3] * voiced / np.abs(voiced).max()
    white = np.fft.rfft(r.normal(0, 1, n))
    at = np.fft.rfftfreq(n, 1 / rate)
    for begin, end, p in hiss:
        centre, width = _HISS[p]
        shaped = np.fft.irfft(white * np.exp(-0.5 * ((at - centre) / width) ** 2), n)
        shaped /= np.abs(shaped).max()
        out += np.where((begin <= t) & (t <= end), tracks[4] * shaped, 0)
    return out


def _resonances(f: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """How much resonances at the formants strengthen frequencies."""
    out = np.zeros_like(f)
    for centre, width, size in zip(formants, _BANDWIDTHS, (1.0, 0.5, 0.25), strict=True):
        out += size / np.sqrt(1 + ((f - centre) / (width / 2)) ** 2)
    return out
