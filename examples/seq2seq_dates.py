"""Sequence to sequence with attention: dates as people write them become ISO 8601.

A bidirectional GRU reads "monday, 3 march 1997" by character; another GRU writes "1997-03-03", looking at each step at what
it has read (D. Bahdanau, K. Cho, Y. Bengio, ICLR 2015; the attention is M. Luong's, EMNLP 2015). The picture shows where it looks.

Data: `kiln.datasets.load_dates`, pairs made by rule; no date of the test is in training.
Expected: exact match of whole test dates, at least 0.98 (small: 0.95).
"""

from __future__ import annotations

from pathlib import Path

import kiln
import kiln.nn.functional as F
from kiln import Tensor, nn
from kiln.datasets import load_dates
from kiln.transforms.text import Vocabulary

LENGTH = 10  # characters of an ISO date
START = len("0123456789-")
WIDEST = 32


class Translator(nn.Module):
    """From numbers of characters i64[n, WIDEST] to logits f32[n, LENGTH, 11]."""

    def __init__(self, letters: int, width: int = 64) -> None:
        super().__init__()
        self.letters = nn.Embedding(letters, 32)
        self.reader = nn.GRU(32, width, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * width, width)
        self.figures = nn.Embedding(START + 1, 32)
        self.writer = nn.GRU(32, width, batch_first=True)
        self.key = nn.Linear(2 * width, width, bias=False)
        self.mix = nn.Linear(3 * width, width)
        self.out = nn.Linear(width, START)

    def forward(self, source: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """`written` i64[n, LENGTH] is what stands before each character that is to be written. Also the attention."""
        read, last = self.reader(self.letters(source))
        begin = kiln.tanh(self.bridge(kiln.cat([last[0], last[1]], -1)))
        state, _ = self.writer(self.figures(written), begin[None])
        scores = state @ self.key(read).transpose(1, 2)
        scores = scores.masked_fill((source == 0)[:, None], -1e9)
        attention = scores.softmax(-1)
        seen = kiln.tanh(self.mix(kiln.cat([state, attention @ read], -1)))
        return self.out(seen), attention


def translate(model: Translator, source: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest characters, one after the other: numbers i64[n, LENGTH], and the attention."""
    written = kiln.full((len(source), LENGTH + 1), START)
    attention = kiln.empty(0)
    with kiln.no_grad():
        for i in range(LENGTH):
            logits, attention = model(source, written[:, :LENGTH])
            written[:, i + 1] = logits[:, i].argmax(-1)
    return written[:, 1:], attention


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    kiln.manual_seed(0)
    count, epochs = (4_000, 6) if small else (10_000, 8)
    data = load_dates(train=count, test=500)
    letters = Vocabulary.build(text for text, _ in data.train)
    figures = Vocabulary("0123456789-")

    def tensors(pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        source, _ = letters.batch([text for text, _ in pairs], WIDEST)
        return source, kiln.stack([figures.encode(iso) for _, iso in pairs])

    source, target = tensors(data.train)
    before = kiln.cat([kiln.full((count, 1), START), target[:, :-1]], 1)
    model = Translator(len(letters))
    optimizer = kiln.optim.Adam(model.parameters(), lr=4e-3)

    @kiln.compile
    def step(source: Tensor, before: Tensor, target: Tensor) -> Tensor:
        optimizer.zero_grad()
        logits, _ = model(source, before)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    size = 100
    for epoch in range(epochs):
        losses = [step(source[i], before[i], target[i]) for i in kiln.randperm(count).split(size)]
        print(f"epoch {epoch + 1}: loss {kiln.stack(losses).mean().item():.4f}")

    source, target = tensors(data.test)
    written, attention = translate(model, source)
    right = (written == target).all(1).float().mean().item()
    for (text, iso), got in list(zip(data.test, written, strict=True))[:3]:
        print(f"{text!r} -> {figures.decode(got)} ({iso})")
    pictures = [
        draw(out / "seq2seq_dates.png", data.test[0][0], figures.decode(written[0]), attention[0])
    ]
    return {
        "metric": "exact match", "value": right, "expected": 0.95 if small else 0.98,
        "higher": True, "pictures": pictures,
    }  # fmt: skip


def draw(path: Path, text: str, iso: str, attention: Tensor) -> Path:
    """Where the writer looked, in a picture."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2))
    axes.imshow(attention[:, : len(text)].numpy(), cmap="magma", aspect="auto")
    axes.set_xticks(range(len(text)), text)
    axes.set_yticks(range(LENGTH), iso)
    axes.set_title("where it looks for each character that it writes")
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path
