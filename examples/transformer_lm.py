"""A Transformer writes code, letter by letter, in the manner of Python's standard library.

A. Vaswani et al., Attention Is All You Need (2017), its decoder alone, normalised before each part, on the letters of the
source code of the Python that runs. Expected: at most 1.6 bits for a letter of passages that it has not seen, every tenth
of 64 letters (2.7 in the small form; a letter by its frequency alone takes about 4.6). The pictures are what it wrote
after "def ", which looks like code and says nothing, and the bits for a letter of code that it has seen and not seen.
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


class Block(nn.Module):
    """Attention to what came before, then a perceptron, each added to what it was given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        """f32[n, t, width] to the same."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.join(seen.transpose(1, 2).reshape(n, t, width))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Letters to logits of the letters that follow."""

    def __init__(self, letters: int, length: int, width: int, layers: int, heads: int = 4) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, width), nn.Embedding(length, width)
        for table in (self.letter, self.place):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, letters):
        """i64[n, t] to f32[n, t, letters]."""
        x = self.letter(letters) + self.place.weight[: letters.shape[1]]
        return self.head(self.norm(self.blocks(x)))


@kiln.no_grad()
def write(model: Transformer, letters: str, start: str, length: int, window: int) -> str:
    """A text that begins with `start`, each letter drawn from what the model makes of the last `window`."""
    model.eval()
    for _ in range(length):
        logits = model(kiln.tensor([[letters.index(c) for c in start[-window:]]]))[:, -1]
        start += letters[int(kiln.multinomial((logits / 0.6).softmax(-1), 1))]
    return start


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and let it write."""
    kiln.manual_seed(0)
    text = load_library_text("code", 150_000 if small else 500_000)
    letters = "".join(sorted(c for c, n in Counter(text).items() if n > 20))
    number = {c: i for i, c in enumerate(letters)}
    ids = kiln.tensor([number[c] for c in text if c in number])
    window = 64
    windows = ids[: len(ids) // (window + 1) * (window + 1)].reshape(-1, window + 1)
    x, y = windows[:, :-1], windows[:, 1:]
    held_out = kiln.arange(len(x)) % 10 == 9  # not the end: modules there may be of another kind

    model = Transformer(len(letters), window, 64 if small else 96, 2 if small else 3)
    trainer = kiln.Trainer(
        model,
        loss=lambda output, target: F.cross_entropy(output.flatten(0, 1), target.flatten()),
        optimizer="adamw",
        callbacks=[OneCycle(0.006 if small else 0.004), GradientClipping(1.0)],
        seed=0,
    )
    seen, unseen = (x[~held_out], y[~held_out]), (x[held_out], y[held_out])
    trainer.fit(seen, val=unseen, epochs=5 if small else 9, batch_size=32, verbose=False)

    names = {"loss": "seen", "val_loss": "not seen"}
    bits = {names[k]: [v / math.log(2) for v in trainer.history[k]] for k in names}
    written = write(model, letters, "def ", 300 if small else 700, window)
    return {
        "metric": "bits for a letter",
        "value": bits["not seen"][-1],
        "expected": 2.7 if small else 1.6,
        "higher": False,
        "pictures": [
            text_page(written, out / "transformer_lm.png"),
            curves(bits, out / "transformer_lm_curves.png", ylabel="bits for a letter"),
        ],
    }
