"""A program as users write them: pyright must see every name and the types that matter."""

from __future__ import annotations

from typing import assert_type

import kiln
import kiln.nn.functional as F
from kiln import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(8, 16)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(x)))


def train(model: Net, x: Tensor, y: Tensor) -> float:
    optimizer = kiln.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    assert_type(loss, Tensor)
    loss.backward()
    optimizer.step()
    return loss.item()


def arithmetic(x: Tensor) -> Tensor:
    y = (x + 1) * 2 - x / 3
    assert_type(y, Tensor)
    assert_type(-y @ x.T, Tensor)
    assert_type(y.exp().sum(dim=0, keepdim=True).reshape(1, -1), Tensor)
    assert_type(kiln.topk(y, 2).values, Tensor)
    assert_type(y.shape, kiln.Size)
    assert_type(kiln.zeros(2, 3, dtype=kiln.float32), Tensor)
    with kiln.no_grad():
        y.add_(1).clamp_(0, 1)
    return y[0, 1:].to(kiln.float64)


def files(x: Tensor) -> None:
    kiln.save({"x": x}, "file.kiln")
    kiln.load("file.kiln")
    kiln.manual_seed(0)
    assert kiln.autograd.grad(x.sum(), [x])
