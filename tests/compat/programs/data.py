"""Weights and data that are the same under every framework: of NumPy's generator."""

import numpy as np
import torch

RNG = np.random.RandomState(0)


def begin(model):
    """Parameters drawn anew, of the size that layers begin with."""
    with torch.no_grad():
        for p in model.parameters():
            bound = 1 / max(p[0].numel(), 1) ** 0.5 if p.dim() > 1 else 0.1
            p.copy_(torch.from_numpy(RNG.uniform(-bound, bound, tuple(p.shape)).astype(np.float32)))
    return model


def images(n, size=12, classes=4):
    """Noisy pictures of a few classes, and which they show."""
    kinds = RNG.uniform(0, 1, (classes, 1, size, size))
    labels = RNG.randint(0, classes, n)
    noisy = kinds[labels] * 0.7 + RNG.uniform(0, 0.3, (n, 1, size, size))
    return torch.tensor(noisy, dtype=torch.float), torch.from_numpy(labels)


def text(n, words=20):
    """Word numbers that follow one another by a rule, mostly."""
    out = [0]
    while len(out) < n:
        out.append(int(RNG.randint(words)) if RNG.rand() < 0.2 else (out[-1] * 3 + 1) % words)
    return torch.LongTensor(out)
