"""A NaN put into every layer of models of several kinds: the layer, the op and the line are named, whether or not it reaches a result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.autograd import detect_anomaly
from kiln.debugging import NumericsError, check_numerics

OPS = {
    "log": (1.0, -1.0), "digamma": (1.0, -1.0), "acosh": (2.0, -1.0), "sqrt": (1.0, 0.0), "asin": (0.0, 1.0),
}  # fmt: skip
"""What makes a NaN, with a good argument and a bad one: a value, one that nothing reads, one that a mask takes away; a gradient, and one that
a mask takes away."""


NEVER = (nn.ModuleList, nn.modules.activation.NonDynamicallyQuantizableLinear)
"""Kinds of layers that hold what others call."""


class Net(nn.Module):
    """Holds the switches that its layers read, so that one capture serves all of them."""

    def __init__(self, **layers: nn.Module):
        super().__init__()
        for name, m in layers.items():
            setattr(self, name, m)
        called = [(p, m) for p, m in self.named_modules() if m is not self and type(m) not in NEVER]
        self.paths = [path for path, _ in called]
        self.register_buffer(
            "good", kiln.tensor([[good for good, _ in OPS.values()]] * len(self.paths))
        )
        for i, path in enumerate(self.paths):
            m = self.get_submodule(path)
            m.__class__ = spoilt(type(m))
            object.__setattr__(m, "switches", lambda i=i: dict(zip(OPS, self.good[i], strict=True)))


def spoilt(cls: type) -> type:
    """A layer that can spoil its output."""

    class Spoilt(cls):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            if isinstance(out, tuple):
                return (self.spoil(out[0]), *out[1:])
            return self.spoil(out)

        def spoil(self, y: kiln.Tensor) -> kiln.Tensor:
            good = self.switches()
            y = y + 0 * (y * 0 + good["log"]).log()
            (y * 0 + good["digamma"]).digamma()
            y = kiln.where(y == y, y, (y * 0 + good["acosh"]).acosh())
            y = y + 0 * (y * 0 + good["sqrt"]).sqrt()
            none = kiln.where(y > 1e9, y, kiln.zeros(()))
            return y + 0 * (none * 0 + good["asin"]).asin()

    Spoilt.__name__ = Spoilt.__qualname__ = cls.__name__
    return Spoilt


class Convolutions(Net):
    def __init__(self) -> None:
        super().__init__(
            stem=nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)),
            block=nn.Conv2d(3, 3, 3, padding=1), norm=nn.BatchNorm2d(3), head=nn.Linear(3, 3),
        )  # fmt: skip

    def forward(self, x: kiln.Tensor) -> kiln.Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.norm(self.block(x))).mean((2, 3)))


class UNet(Net):
    def __init__(self) -> None:
        super().__init__(
            down=nn.Conv2d(1, 4, 3, padding=1), act=nn.GELU(), pool=nn.AvgPool2d(2), middle=nn.Conv2d(4, 4, 3, padding=1),
            norm=nn.GroupNorm(2, 4), up=nn.ConvTranspose2d(4, 4, 2, stride=2), join=nn.Conv2d(8, 3, 1),
        )  # fmt: skip

    def forward(self, x: kiln.Tensor) -> kiln.Tensor:
        skip = self.act(self.down(x))
        deep = self.up(F.silu(self.norm(self.middle(self.pool(skip)))))
        return self.join(kiln.cat([skip, deep], 1)).amax((2, 3))


class Attention(Net):
    def __init__(self) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        super().__init__(
            embed=nn.Embedding(7, 8), encoder=nn.TransformerEncoder(layer, 2), head=nn.Linear(8, 3)
        )

    def forward(self, x: kiln.Tensor) -> kiln.Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class Recurrence(Net):
    def __init__(self) -> None:
        super().__init__(
            embed=nn.Embedding(7, 6), lstm=nn.LSTM(6, 5, 2, batch_first=True), drop=nn.Dropout(0.1), head=nn.Linear(5, 3),
        )  # fmt: skip

    def forward(self, x: kiln.Tensor) -> kiln.Tensor:
        return self.head(self.drop(self.lstm(self.embed(x))[0])[:, -1])


DATA: dict[type, Callable] = {
    Convolutions: lambda: kiln.randn(3, 1, 8, 8), UNet: lambda: kiln.randn(3, 1, 4, 4),
    Attention: lambda: kiln.randint(0, 7, (3, 4)), Recurrence: lambda: kiln.randint(0, 7, (3, 4)),
}  # fmt: skip


@in_turn("mode", ["compiled", "outside", "eager"], kind=DATA)
def test_every_layer(kind: type, mode: str, full: bool) -> None:
    kiln.manual_seed(0)
    model = kind()
    opt = kiln.optim.Adam(model.parameters())
    forward = kiln.compile(model, backend="reference") if mode == "outside" else model
    x, y = DATA[kind](), kiln.randint(0, 3, (3,))

    def step() -> None:
        opt.zero_grad()
        F.cross_entropy(forward(x), y).backward()
        opt.step()

    run = kiln.compile(step, backend="cpu" if full else "reference") if mode == "compiled" else step
    with check_numerics():
        run()
    with detect_anomaly():
        run()
    lines, first = inspect.getsourcelines(spoilt)
    for i, path in enumerate(model.paths):
        for j, (op, (good, bad)) in enumerate(OPS.items()):
            if not full and (i % 2 or (i + j) % len(OPS)):  # each other layer one, in turn
                continue
            backward = op in ("sqrt", "asin")
            model.good[i, j] = bad
            watch = detect_anomaly if backward and i % 4 > 1 else check_numerics
            with watch(), pytest.raises(NumericsError) as e:
                run()
            line = first + next(n for n, text in enumerate(lines) if f".{op}()" in text)
            said = f"{path} {op}: {e.value}"
            assert (e.value.layer, e.value.backward) == (path, backward), said
            assert e.value.place == f"test_each_layer.py:{line} in spoil", said
            assert op in str(e.value).lower(), said
            if not backward:
                assert e.value.operation == op, said
            model.good[i, j] = good
    with check_numerics():
        run()
