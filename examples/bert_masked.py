"""A masked encoder, as BERT is, fills in characters that are missing.

Of each piece of text 15 % of the characters are hidden: 8 of 10 by a mask, one by another character, one by nothing; an encoder that
sees both sides says what they were (J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, BERT, NAACL 2019). Where characters are is told by
a learned bias of the attention for each distance (C. Raffel et al., T5, JMLR 21, 2020), with which small models learn sooner.

Data: `kiln.datasets.load_library_text`, the docstrings of Python's own library; the last tenth is for the test.
Expected: accuracy on hidden characters, at least 0.64 (small: 0.45; always the blank: 0.17).
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import kiln
import kiln.nn.functional as F
from kiln import Tensor, nn
from kiln.datasets import load_library_text
from kiln.transforms.text import Vocabulary

LENGTH, HIDDEN, IGNORED = 64, 0.15, -100


class MaskedEncoder(nn.Module):
    """From numbers of characters i64[n, LENGTH] to logits f32[n, LENGTH, characters]."""

    def __init__(self, characters: int, width: int, depth: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        heads = width // 16
        at = kiln.arange(LENGTH)
        self.apart: Tensor
        self.register_buffer("apart", at - at[:, None] + LENGTH - 1)
        slopes = 2.0 ** -kiln.arange(heads)[:, None]  # at first, near characters count more
        self.nearness = nn.Parameter(-slopes * kiln.arange(1 - LENGTH, LENGTH).abs())
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(kiln.zeros(characters))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.nearness[:, self.apart].repeat(len(x), 1, 1)
        x = self.norm(self.encoder(self.characters(x), mask=bias))
        return x @ self.characters.weight.T + self.bias  # what reads characters writes them, too


def hide(x: Tensor, characters: int, mask: int) -> tuple[Tensor, Tensor]:
    """What the encoder sees of x, and what it is to say: IGNORED where nothing was hidden."""
    hidden = kiln.rand(x.shape) < HIDDEN
    how = kiln.rand(x.shape)
    seen = x.masked_fill(hidden & (how < 0.8), mask)
    seen = kiln.where(hidden & (how > 0.9), kiln.randint(0, characters, x.shape), seen)
    return seen, x.masked_fill(~hidden, IGNORED)


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    kiln.manual_seed(0)
    text = load_library_text("prose", 200_000 if small else 1_000_000)
    vocabulary = Vocabulary.build(text, size=96, specials=("<pad>", "<unk>", "<mask>"))
    mask, characters = vocabulary["<mask>"], len(vocabulary)
    numbers = vocabulary.encode(text)
    cut = len(numbers) * 9 // 10
    width, depth, steps = (64, 2, 500) if small else (96, 3, 1500)
    model = MaskedEncoder(characters, width, depth)
    nn.init.normal_(model.characters.weight, std=width**-0.5)
    optimizer = kiln.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    one_cycle = kiln.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=steps, pct_start=0.1
    )

    @kiln.compile
    def step(seen: Tensor, wanted: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(seen).flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    losses = []
    for k in range(steps):
        begins = kiln.randint(0, cut - LENGTH, (32, 1))
        losses.append(step(*hide(numbers[begins + kiln.arange(LENGTH)], characters, mask)))
        one_cycle.step()
        if (k + 1) % (steps // 10) == 0:
            print(f"step {k + 1}: loss {kiln.stack(losses[-50:]).mean().item():.3f}")

    model.eval()
    rest = numbers[cut:]
    test = rest[: len(rest) // LENGTH * LENGTH].reshape(-1, LENGTH)[:1000]
    seen, wanted = hide(test, characters, mask)
    with kiln.no_grad():
        said = kiln.cat([model(s).softmax(-1) for s in seen.split(50)])
    guess, hidden = said.argmax(-1), wanted != IGNORED
    right = (guess == wanted)[hidden].float().mean().item()
    filled = kiln.where(hidden, guess, seen)
    letters = [*" ?▒", *vocabulary.tokens[3:]]  # one for each number, the specials too
    lines = [["".join(letters[i] for i in x) for x in y[:5].tolist()] for y in (seen, filled, test)]
    for line in chain(*zip(*lines[:2], strict=True)):
        print(repr(line))
    curve = kiln.stack(losses).tolist()
    return {
        "metric": "accuracy on hidden characters", "value": right, "expected": 0.45 if small else 0.64,
        "higher": True, "pictures": [draw(out / "bert_masked.png", curve, *lines)],
    }  # fmt: skip


def draw(
    path: Path, curve: list[float], seen: list[str], said: list[str], truth: list[str]
) -> Path:
    """The loss; lines of text as the encoder saw them and, below each, as it filled in what was hidden."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    top, below = figure.subplots(2, height_ratios=(1, 1.6))
    top.plot(curve, linewidth=0.6)
    top.set(xlabel="step", ylabel="loss")
    for row, lines in enumerate(zip(seen, said, truth, strict=True)):
        for column, (before, after, right) in enumerate(zip(*lines, strict=True)):
            color = "red" if after != right else "green" if after != before else "0.6"
            for letter, place, c in ((before, 0.0, "0.3"), (after, 0.4, color)):
                shown = letter.replace("\n", "¶").replace("$", r"\$")
                below.text(column, row + place, shown, color=c, family="monospace", ha="center")
    below.set(xlim=(-1, LENGTH), ylim=(len(seen), -0.5))
    below.set_title("seen, and filled in: green is right, red is wrong", fontsize=10)
    below.axis("off")
    figure.savefig(path, dpi=110)
    return path
