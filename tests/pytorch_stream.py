"""What this PyTorch draws from."""

from __future__ import annotations


def by_mkl() -> bool:
    """Whether it takes trials of one probability, and dropout's, from MKL, as it does on some processors."""
    import torch

    g = torch.Generator().manual_seed(1)
    torch.empty(4).bernoulli_(0.5, generator=g)
    return int(g.get_state()[16]) != 8
