"""Seeded programs under PyTorch's stream: its weights, its order, its dropout, its own losses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pytorch_stream import by_mkl

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers


@pytest.fixture(autouse=True)
def stream(torch_stream: None) -> None:
    if by_mkl():
        pytest.skip("this PyTorch takes dropout's trials from MKL")


def mlp(m: Any) -> Any:
    nn = m.nn
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Dropout(0.4), nn.Linear(50, 10)
    )


def cnn(m: Any) -> Any:
    nn = m.nn
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2),
        nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 10),
    )  # fmt: skip


def recurrent(m: Any, mode: str) -> Any:
    class Model(m.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(m.nn, mode)(
                8, 12, 2, dropout=0.3, batch_first=mode == "LSTM", bidirectional=mode == "GRU"
            )
            self.head = m.nn.Linear(24 if mode == "GRU" else 12, 10)

        def forward(self, x: Any) -> Any:
            y, _ = self.rnn(x.reshape(-1, 8, 8))
            return self.head(y[:, -1])

    return Model()


def transformer(m: Any) -> Any:
    nn = m.nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(m.randn(8, 16) * 0.02)
            self.embed = nn.Embedding(16, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(16, 10)

        def forward(self, x: Any) -> Any:
            tokens = (x.reshape(-1, 8, 8).sum(-1) * 2).long().clamp(0, 15)
            return self.head(self.encoder(self.embed(tokens) + self.place).mean(1))

    return Model()


PROGRAMS: dict[str, Callable] = {
    "mlp": mlp,
    "cnn": cnn,
    "lstm": lambda m: recurrent(m, "LSTM"),
    "gru": lambda m: recurrent(m, "GRU"),
    "transformer": transformer,
}


def losses(m: Any, make: Callable, compiled: bool) -> list[float]:
    """A program's losses: data, weights, order and noise all follow from the seed."""
    m.manual_seed(123)
    images, labels = m.rand(60, 1, 8, 8), m.randint(0, 10, (60,))
    model = make(m)
    opt = m.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(x: Any, y: Any) -> Any:
        opt.zero_grad()
        x = x + 0.05 * m.randn_like(x)
        loss = m.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss.detach()

    run = kiln.compile(step) if compiled else step
    model.train()
    found = []
    for _ in range(2):  # the second in an order of its own
        order = m.randperm(60)
        for at in range(0, 60, 12):
            rows = order[at : at + 12]
            found.append(float(run(images[rows], labels[rows])))
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_losses_are_those_of_pytorch(name: str, full: bool) -> None:
    for compiled in [False, True] if full or name == "mlp" else [name == "cnn"]:
        _compare(name, compiled)


def _compare(name: str, compiled: bool) -> None:
    theirs = losses(torch, PROGRAMS[name], False)
    np.testing.assert_allclose(losses(kiln, PROGRAMS[name], compiled), theirs, rtol=1e-4)
    assert kiln.equal(kiln.get_rng_state(), kiln.from_numpy(torch.get_rng_state().numpy()))


PROGRAM = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
torch.manual_seed(42)
data = TensorDataset(torch.rand(60, 6), torch.randint(0, 3, (60,)))
train, test = random_split(data, [40, 20])
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
opt = torch.optim.Adam(net.parameters(), lr=0.01)
for epoch in range(2):
    for x, y in DataLoader(train, batch_size=8, shuffle=True):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        print(f"{loss.item():.4f}")
"""


def test_an_unmodified_program_prints_its_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "kiln.run", "--torch", "program.py"],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    exec(PROGRAM, {})
    theirs = [float(x) for x in capsys.readouterr().out.split()]
    np.testing.assert_allclose([float(x) for x in done.stdout.split()], theirs, atol=1.5e-4)


INITS: dict[str, Callable] = {
    "uniform": lambda i, x: i.uniform_(x, -1, 2), "normal": lambda i, x: i.normal_(x, 1, 2),
    "trunc_normal": lambda i, x: i.trunc_normal_(x, std=0.5, a=-0.4, b=0.7),
    "trunc_normal_rare": lambda i, x: i.trunc_normal_(x, a=1.6, b=1.9),
    "trunc_normal_tail": lambda i, x: i.trunc_normal_(x, 0.5, 2.0, 2.6, 9.0),
    "xavier_uniform": lambda i, x: i.xavier_uniform_(x), "xavier_normal": lambda i, x: i.xavier_normal_(x),
    "kaiming_uniform": lambda i, x: i.kaiming_uniform_(x, 0.2), "kaiming_normal": lambda i, x: i.kaiming_normal_(x, mode="fan_out"),
    "orthogonal": lambda i, x: i.orthogonal_(x, 2.0), "sparse": lambda i, x: i.sparse_(x, 0.4),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", INITS)
def test_initial_weights_are_those_of_pytorch(name: str, dtype: str) -> None:
    for shape in ((3, 4), (20, 7), (7, 20)):
        found = []
        for m in (kiln, torch):
            m.manual_seed(9)
            x = m.empty(shape, dtype=getattr(m, dtype))
            found.append(INITS[name](m.nn.init, x).numpy())
        np.testing.assert_allclose(*found, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-6)
        assert kiln.equal(kiln.get_rng_state(), kiln.from_numpy(torch.get_rng_state().numpy()))
