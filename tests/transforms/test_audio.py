"""Spectra of sounds against formulas written in NumPy and SciPy; gradients; compiled as eager."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
from kiln.transforms import audio

R = np.random.default_rng(0)
SOUND = R.standard_normal((2, 3, 1000)).astype(np.float32)


def spectra(x, n_fft, win, hop, pad_mode="reflect", center=True):
    """|X|**2 frame by frame, from the definition of the Fourier transform."""
    w = np.zeros(n_fft)
    left = (n_fft - win) // 2
    w[left : left + win] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
    if center:
        x = np.pad(x, (n_fft // 2, n_fft // 2), pad_mode)
    count = 1 + (len(x) - n_fft) // hop
    turn = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft)
    return np.stack([turn @ (w * x[i * hop : i * hop + n_fft]) for i in range(count)], 1)


@pytest.mark.parametrize(
    ("options", "due"),
    [({"n_fft": 64}, (64, 64, 32)), ({"n_fft": 64, "win_length": 50, "hop_length": 20}, (64, 50, 20)),
     ({"n_fft": 63, "hop_length": 16, "center": False}, (63, 63, 16)),
     ({"n_fft": 64, "pad_mode": "constant"}, (64, 64, 32))],
)  # fmt: skip
def test_spectrograms(options, due):
    rest = {k: v for k, v in options.items() if k in ("center", "pad_mode")}
    want = np.stack([[spectra(x, *due, **rest) for x in row] for row in SOUND.astype(np.float64)])
    x = kiln.from_numpy(SOUND)
    close = {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(audio.Spectrogram(**options)(x).numpy(), np.abs(want) ** 2, **close)
    one = audio.Spectrogram(**options, power=1)(x)
    np.testing.assert_allclose(one.numpy(), np.abs(want), **close)
    raw = audio.Spectrogram(**options, power=None)(x)
    np.testing.assert_allclose(raw.numpy(), want, **close)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(due[1]) / due[1])
    for normalized, by in ((True, np.sqrt((window**2).sum())), ("frame_length", np.sqrt(due[0]))):
        scaled = audio.Spectrogram(**options, power=1, normalized=normalized)(x)
        np.testing.assert_allclose(scaled.numpy(), np.abs(want) / by, **close)


def test_scipy_s_spectrogram():
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    _, _, want = signal.stft(
        SOUND[0, 0], window="hann", nperseg=64, noverlap=48, boundary=None, padded=False
    )
    made = audio.Spectrogram(64, hop_length=16, power=None, center=False)(
        kiln.from_numpy(SOUND[0, 0])
    )
    np.testing.assert_allclose(
        made.numpy() / 32, want, atol=1e-5
    )  # SciPy divides by the window's sum


def test_back_again():
    x = kiln.from_numpy(SOUND)
    for options in ({"n_fft": 64}, {"n_fft": 64, "hop_length": 16, "normalized": True, "pad": 5}):
        there = audio.Spectrogram(**options, power=None)(x)
        back = audio.InverseSpectrogram(**options)(there, length=1000)
        np.testing.assert_allclose(back.numpy(), SOUND, atol=1e-4)


def test_mel_scales():
    f = np.array([0, 100, 999, 1000, 1001, 4000, 8000.0])
    np.testing.assert_allclose(audio.hz_to_mel(f), 1126.994 * np.log1p(f / 700), rtol=1e-5)
    slaney = audio.hz_to_mel(f, "slaney")
    np.testing.assert_allclose(slaney[:4], f[:4] * 3 / 200)
    assert slaney[5] == pytest.approx(15 + 27 * np.log(4) / np.log(6.4))
    for scale in ("htk", "slaney"):
        np.testing.assert_allclose(audio.mel_to_hz(audio.hz_to_mel(f, scale), scale), f, atol=1e-9)
    with pytest.raises(ValueError, match="mel_scale"):
        audio.hz_to_mel(1, "mine")


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
def test_filter_banks(scale, norm):
    banks = audio.melscale_fbanks(257, 20.0, 7600.0, 23, 16000, norm, scale).numpy()
    assert banks.shape == (257, 23)
    points = audio.mel_to_hz(
        np.linspace(*audio.hz_to_mel(np.array([20.0, 7600.0]), scale), 25), scale
    )
    freqs = np.arange(257) * 8000 / 256
    for m in range(23):  # straight lines up to a middle and down again
        lo, mid, hi = points[m : m + 3]
        want = np.interp(freqs, [lo, mid, hi], [0, 1, 0])
        if norm:
            want *= 2 / (hi - lo)
        np.testing.assert_allclose(banks[:, m], want, rtol=1e-4, atol=1e-6)


def test_mel_spectrograms_and_coefficients():
    fft = pytest.importorskip("scipy.fft", reason="SciPy is not installed")
    x = kiln.from_numpy(SOUND)
    options = {"n_fft": 128, "hop_length": 64, "n_mels": 20}
    mel = audio.MelSpectrogram(8000, **options)(x).numpy()
    banks = audio.melscale_fbanks(65, 0.0, 4000.0, 20, 8000).numpy().astype(np.float64)
    want = np.stack(
        [[banks.T @ np.abs(spectra(s, 128, 128, 64)) ** 2 for s in row] for row in SOUND.astype(np.float64)]
    )  # fmt: skip
    np.testing.assert_allclose(mel, want, rtol=1e-4, atol=1e-4)
    db = 10 * np.log10(np.maximum(want, 1e-10))
    db = np.maximum(db, db.max((1, 2, 3), keepdims=True) - 80)
    cepstrum = fft.dct(db, type=2, axis=-2, norm="ortho")[:, :, :13]
    made = audio.MFCC(8000, 13, melkwargs=options)(x)
    np.testing.assert_allclose(made.numpy(), cepstrum, rtol=1e-3, atol=1e-2)
    plain = fft.dct(np.log(want + 1e-6), type=2, axis=-2)[:, :, :13]
    made = audio.MFCC(8000, 13, norm=None, log_mels=True, melkwargs=options)(x)
    np.testing.assert_allclose(made.numpy(), plain, rtol=1e-3, atol=1e-2)


def test_decibels():
    x = kiln.tensor([[1.0, 10.0], [1e-12, 100.0]])
    for made, due in (
        (audio.AmplitudeToDB(), [[0, 10], [-100, 20]]),
        (audio.AmplitudeToDB("magnitude"), [[0, 20], [-200, 40]]),
        (audio.AmplitudeToDB(top_db=30.0), [[0, 10], [-10, 20]]),
    ):
        np.testing.assert_allclose(made(x).numpy(), due, rtol=1e-6)
    # the loudest is of each sound of a batch, not of all
    both = kiln.stack([x, x * 1e6])[:, None]
    floor = audio.AmplitudeToDB(top_db=30.0)(both).amin((1, 2, 3)).tolist()
    assert floor == pytest.approx([-10, 50])


def test_gradients():
    x = kiln.from_numpy(SOUND[0, :1, :200].astype(np.float64)).requires_grad_()
    mfcc = audio.MFCC(
        8000, 5, log_mels=True, melkwargs={"n_fft": 32, "hop_length": 16, "n_mels": 8}
    )
    assert kiln.autograd.gradcheck(mfcc.double(), (x,))
    silent = kiln.zeros(1, 200, requires_grad=True)
    audio.Spectrogram(32)(silent).sum().backward()
    assert silent.grad.tolist() == [[0.0] * 200]


def test_compiled():
    mel = audio.MelSpectrogram(8000, n_fft=64, n_mels=10)
    model = kiln.nn.Sequential(mel, audio.AmplitudeToDB(), kiln.nn.Flatten(), kiln.nn.LazyLinear(4))
    x = kiln.from_numpy(SOUND[:, 0])
    due = model(x)
    np.testing.assert_allclose(
        kiln.compile(model)(x).detach().numpy(), due.detach().numpy(), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("kind", "dim"), [(audio.TimeMasking, -1), (audio.FrequencyMasking, -2)])
def test_masking(kind, dim):
    x = kiln.ones(6, 20, 30)
    kiln.manual_seed(0)
    widths = set()
    for _ in range(40):
        out = kind(7)(x, 5.0).numpy()
        hidden = (out == 5).all((0, 1) if dim == -1 else (0, 2))
        at = np.nonzero(hidden)[0]
        assert (out == np.where(hidden if dim == -1 else hidden[:, None], 5, 1)).all()
        assert len(at) == 0 or at[-1] - at[0] + 1 == len(at) <= 7
        widths.add(len(at))
    assert len(widths) > 3
    apart = kind(20, iid_masks=True)(x).numpy()
    assert not (apart == apart[:1]).all()


@pytest.mark.parametrize(
    ("make", "match"),
    [(lambda: audio.MFCC(dct_type=3), "DCT"), (lambda: audio.MFCC(n_mfcc=200), "more MFCC"),
     (lambda: audio.MelScale(f_min=9e9), "f_min"), (lambda: audio.AmplitudeToDB("loud"), "stype"),
     (lambda: audio.create_dct(3, 4, "l1"), "norm"), (lambda: audio.melscale_fbanks(3, 0, 1, 2, 8, "l1"), "norm")],
)  # fmt: skip
def test_wrong_options(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_torchaudio_s_results():
    torchaudio = pytest.importorskip("torchaudio", reason="torchaudio is not installed")
    import torch

    x = SOUND
    for name, options in (
        ("Spectrogram", {"n_fft": 100}), ("MelSpectrogram", {"n_mels": 30, "norm": "slaney", "mel_scale": "slaney"}),
        ("MFCC", {"n_mfcc": 13, "melkwargs": {"n_fft": 128, "n_mels": 20}}), ("AmplitudeToDB", {"top_db": 20.0}),
    ):  # fmt: skip
        due = getattr(torchaudio.transforms, name)(**options)(torch.from_numpy(x)).numpy()
        made = getattr(audio, name)(**options)(kiln.from_numpy(x)).numpy()
        np.testing.assert_allclose(made, due, rtol=1e-3, atol=1e-3)
