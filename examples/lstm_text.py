"""A recurrent network learns to write, letter by letter, as Python's own documentation does.

The docstrings of the standard library of the Python that runs; one embedding, one recurrent layer (LSTM; GRU or RNN with
`--set cell=GRU`), one linear layer, gradients clipped. Expected: at most 2.45 bits for a letter of docstrings that it has
not seen (the LSTM reached 2.32, the GRU 2.29, the RNN 2.41; 3.2 in the small form; a letter by its frequency alone takes
about 4.8). The picture is a text that it wrote.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import kiln
import kiln.nn.functional as F
from examples.pictures import curves, text_page
from kiln import nn
from kiln.datasets import load_library_text
from kiln.train import GradientClipping, OneCycle

WINDOW = 64


class Writer(nn.Module):
    """Letters to logits of the letters that follow."""

    def __init__(self, letters: int, cell: str, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, 32)
        self.recurrent = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[cell](32, width, batch_first=True)  # fmt: skip
        self.head = nn.Linear(width, letters)

    def step(self, letters, state=None):
        """i64[n, t] and a state to f32[n, t, letters] and the state that follows."""
        y, state = self.recurrent(self.embedding(letters), state)
        return self.head(y), state

    def forward(self, letters):
        """i64[n, t] to f32[n, t, letters]."""
        return self.step(letters)[0]


@kiln.no_grad()
def write(model: Writer, letters: str, start: str, length: int, temperature: float = 0.6) -> str:
    """A text that begins with `start`, each letter drawn from what the model makes of those before."""
    model.eval()
    logits, state = model.step(kiln.tensor([[letters.index(c) for c in start]]))
    for _ in range(length):
        letter = kiln.multinomial((logits[:, -1] / temperature).softmax(-1), 1)
        start += letters[int(letter)]
        logits, state = model.step(letter, state)
    return start


def main(small: bool = False, out: Path = Path("."), cell: str = "LSTM") -> dict:
    """Train, and let it write."""
    kiln.manual_seed(0)
    text = load_library_text("prose", 120_000 if small else 600_000)
    letters = "".join(sorted(c for c, n in Counter(text).items() if n > 20))
    number = {c: i for i, c in enumerate(letters)}
    ids = kiln.tensor([number[c] for c in text if c in number])
    windows = ids[: len(ids) // (WINDOW + 1) * (WINDOW + 1)].reshape(-1, WINDOW + 1)
    x, y = windows[:, :-1], windows[:, 1:]
    held_out = len(x) // 10  # the end of the text

    model = Writer(len(letters), cell, width=128 if small else 256)
    trainer = kiln.Trainer(
        model,
        loss=lambda output, target: F.cross_entropy(output.flatten(0, 1), target.flatten()),
        optimizer="adam",
        callbacks=[OneCycle(0.01 if small else 0.004), GradientClipping(1.0)],
        seed=0,
    )
    seen, unseen = (x[:-held_out], y[:-held_out]), (x[-held_out:], y[-held_out:])
    trainer.fit(seen, val=unseen, epochs=6 if small else 12, batch_size=32, verbose=False)

    names = {"loss": "seen", "val_loss": "not seen"}
    bits = {names[k]: [v / math.log(2) for v in trainer.history[k]] for k in names}
    written = write(model, letters, "Return ", 600)
    return {
        "metric": f"bits for a letter ({cell})",
        "value": bits["not seen"][-1],
        "expected": 3.2 if small else 2.45,
        "higher": False,
        "pictures": [
            text_page(written, out / "lstm_text.png"),
            curves(bits, out / "lstm_text_curves.png", ylabel="bits for a letter"),
        ],
    }
