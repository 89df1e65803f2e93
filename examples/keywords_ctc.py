"""Keywords are heard in synthesised speech, with spectrograms and connectionist temporal classification.

A convolution and a bidirectional GRU read a mel spectrogram and say for each frame which phone it is, or none; CTC sums over all the
ways in which a word's phones may lie in time (A. Graves et al., Connectionist Temporal Classification, ICML 2006), so nobody says when
a word is spoken. What is heard is the word whose phones are likeliest. The picture shows a spectrogram and its phones.

Data: `kiln.datasets.load_keywords`, ten words by a formant synthesiser, each by a speaker of its own.
Expected: accuracy over new speakers, at least 0.98 (small: 0.93).
"""

from __future__ import annotations

from pathlib import Path

import kiln
import kiln.nn.functional as F
from kiln import Tensor, nn
from kiln.datasets import load_keywords
from kiln.datasets.sounds import PHONES, WORDS
from kiln.transforms.audio import MelSpectrogram

RATE, BANDS = 8000, 40


class Listener(nn.Module):
    """From sounds f32[n, samples] to log-probabilities f32[frames, n, phones + 1], 0 for blank."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.mel = MelSpectrogram(RATE, n_fft=256, hop_length=128, n_mels=BANDS)
        self.conv = nn.Conv1d(BANDS, width, 5, padding=2)
        self.norm = nn.BatchNorm1d(width)
        self.gru = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(width, len(PHONES) + 1)

    def spectrogram(self, sounds: Tensor) -> Tensor:
        """In decibels / 20."""
        return self.mel(sounds).clamp(min=1e-6).log10() / 2

    def forward(self, sounds: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(self.spectrogram(sounds))))
        x, _ = self.gru(x.transpose(1, 2))
        return self.out(x).log_softmax(-1).transpose(0, 1)


def ctc(said: Tensor, phones: Tensor, reduction: str = "mean") -> Tensor:
    """-log of the probability of phones i64[n, longest], padded with 0."""
    frames, n, _ = said.shape
    return F.ctc_loss(
        said, phones, kiln.full((n,), frames), (phones > 0).sum(1), reduction=reduction
    )


def hear(said: Tensor, words: Tensor) -> Tensor:
    """Which of the words' phones i64[words, longest] is likeliest: i64[n]."""
    n = said.shape[1]
    costs = [ctc(said, word.expand(n, -1), "none") for word in words]
    return kiln.stack(costs, 1).argmin(1)


def collapse(said: Tensor) -> str:
    """The likeliest phone of each frame of f32[frames, phones + 1], without repetitions and blanks."""
    best = said.argmax(-1).unique_consecutive().tolist()
    return " ".join(PHONES[p - 1] for p in best if p)


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    kiln.manual_seed(0)
    count, epochs = (600, 12) if small else (3000, 20)
    train, test = load_keywords(count, seed=0), load_keywords(count // 4, seed=1)
    longest = train.phones.shape[1]
    words = kiln.tensor(
        [[PHONES.index(p) + 1 for p in w] + [0] * (longest - len(w)) for w in WORDS.values()]
    )
    model = Listener()
    listen = kiln.compile(model)  # the loss stays outside: it reads how long targets are
    optimizer = kiln.optim.Adam(model.parameters(), lr=5e-3)

    def step(sounds: Tensor, phones: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = ctc(listen(sounds), phones)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        return loss

    for epoch in range(epochs):
        batches = kiln.randperm(count).split(30)
        losses = [step(train.sounds[i], train.phones[i]) for i in batches]
        print(f"epoch {epoch + 1}: loss {kiln.stack(losses).mean().item():.3f}")
    model.eval()
    with kiln.no_grad():
        said = model(test.sounds)
        right = (hear(said, words) == test.words).float().mean().item()
        spectrogram = model.spectrogram(test.sounds[:3])
    names = [test.names[k] for k in test.words[:3].tolist()]
    for i, name in enumerate(names):
        print(f"{name}: heard {collapse(said[:, i])}")
    return {
        "metric": "accuracy", "value": right, "expected": 0.93 if small else 0.98,
        "higher": True, "pictures": [draw(out / "keywords_ctc.png", names, spectrogram, said)],
    }  # fmt: skip


def draw(path: Path, names: list[str], spectrogram: Tensor, said: Tensor) -> Path:
    """Spectrograms, and below them how likely each phone is in each frame."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(names), figsize=(11, 5))
    for i, name in enumerate(names):
        axes[0, i].imshow(spectrogram[i].numpy(), origin="lower", aspect="auto", cmap="magma")
        axes[0, i].set_title(f"“{name}”: {collapse(said[:, i])}")
        axes[1, i].imshow(said[:, i].exp().T.numpy(), aspect="auto", cmap="Greys", vmin=0, vmax=1)
        axes[1, i].set_yticks(range(len(PHONES) + 1), ("blank", *PHONES), fontsize=6)
        axes[1, i].set_xlabel("frame")
    axes[0, 0].set_ylabel("mel band")
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path
