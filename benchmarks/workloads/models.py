"""The models in PyTorch's API: `lib` is kiln or torch.

Beside each stand what it eats (`classes`, `tokens`, …: functions that draw a batch) and what is done
with it (`training`, `adversarial`, `inference`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

VOCABULARY = 256


def mlp(*widths: int) -> Callable[[Any], Any]:
    """Linear layers with ReLU between them."""

    def build(lib: Any) -> Any:
        layers = []
        for i, o in itertools.pairwise(widths):
            layers += [lib.nn.Linear(i, o), lib.nn.ReLU()]
        return lib.nn.Sequential(*layers[:-1])

    return build


def mnist_cnn(lib: Any) -> Any:
    """Two convolutions, a pool, two linear layers, as in PyTorch's first example."""
    nn = lib.nn
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def cifar_cnn(lib: Any) -> Any:
    """Three stages of two convolutions with batch norm, and a pool."""
    nn, layers, c = lib.nn, [], 3
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(c, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            c = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 10))


def _conv(lib: Any, i: int, o: int, k: int, stride: int, norm: bool) -> list[Any]:
    """A convolution with batch norm, or with the bias into which batch norm folds."""
    conv = lib.nn.Conv2d(i, o, k, stride, k // 2, bias=not norm)
    return [conv, lib.nn.BatchNorm2d(o)] if norm else [conv]


def resnet(lib: Any, depths: tuple[int, ...], bottleneck: bool, norm: bool, classes: int) -> Any:
    """A residual network (He et al., 2015) with so many blocks in each of its stages."""
    nn = lib.nn

    class Block(nn.Module):
        def __init__(self, i: int, width: int, stride: int):
            super().__init__()
            o = width * 4 if bottleneck else width
            plan = [(i, width, 3, stride), (width, o, 3, 1)]
            if bottleneck:
                plan = [(i, width, 1, 1), (width, width, 3, stride), (width, o, 1, 1)]
            layers: list[Any] = []
            for p in plan:
                layers += [*_conv(lib, *p, norm), nn.ReLU()]
            self.path = nn.Sequential(*layers[:-1])
            same = stride == 1 and i == o
            self.short = (
                nn.Identity() if same else nn.Sequential(*_conv(lib, i, o, 1, stride, norm))
            )

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.path(x) + self.short(x))

    layers, c = [*_conv(lib, 3, 64, 7, 2, norm), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        for block in range(depth):
            layers.append(Block(c, width, 2 if stage and not block else 1))
            c = width * 4 if bottleneck else width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes))


def resnet18(lib: Any) -> Any:
    """ResNet-18 for ten classes."""
    return resnet(lib, (2, 2, 2, 2), bottleneck=False, norm=True, classes=10)


def resnet50(lib: Any) -> Any:
    """ResNet-50 as deployed: batch norm folded into the convolutions."""
    return resnet(lib, (3, 4, 6, 3), bottleneck=True, norm=False, classes=1000)


def recurrent(kind: str) -> Callable[[Any], Any]:
    """An LSTM or GRU over the sequence, then a linear layer on its last output."""

    def build(lib: Any) -> Any:
        nn = lib.nn

        class Recurrent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rnn = getattr(nn, kind)(64, 256, batch_first=True)
                self.head = nn.Linear(256, 10)

            def forward(self, x: Any) -> Any:
                return self.head(self.rnn(x)[0][:, -1])

        return Recurrent()

    return build


def GPT(lib: Any) -> Any:
    """A decoder of four layers, norm first, over bytes."""
    nn, width, heads, layers, context = lib.nn, 256, 4, 4, 128
    attention = nn.functional.scaled_dot_product_attention

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            b, t, _ = x.shape
            q, k, v = (
                part.view(b, t, heads, width // heads).transpose(1, 2)
                for part in self.qkv(self.norm1(x)).split(width, dim=2)
            )
            seen = attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, width)
            x = x + self.out(seen)
            return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Embedding(VOCABULARY, width)
            self.place = nn.Parameter(lib.zeros(context, width))
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, VOCABULARY, bias=False)

        def forward(self, x: Any) -> Any:
            y = self.head(self.norm(self.blocks(self.token(x) + self.place)))
            return y.reshape(-1, VOCABULARY)

    return Model()


def Bert(lib: Any) -> Any:
    """An encoder of four layers, norm last, without a mask."""
    nn, width, context = lib.nn, 256, 128

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Embedding(VOCABULARY, width)
            self.place = nn.Parameter(lib.zeros(context, width))
            make = nn.TransformerEncoderLayer
            self.layers = nn.Sequential(
                *(make(width, 4, 4 * width, activation="gelu", batch_first=True) for _ in range(4))
            )

        def forward(self, x: Any) -> Any:
            return self.layers(self.token(x) + self.place)

    return Model()


def dcgan(lib: Any) -> Any:
    """A generator from 64 numbers to an image and a discriminator (after Radford et al., 2015)."""
    nn = lib.nn

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = nn.Sequential(
                nn.Linear(64, 128 * 49), nn.Unflatten(1, (128, 7, 7)), nn.BatchNorm2d(128), nn.ReLU(),
                nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                nn.ConvTranspose2d(64, 1, 4, 2, 1), nn.Tanh(),
            )  # fmt: skip
            self.judge = nn.Sequential(
                nn.Conv2d(1, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 128, 4, 2, 1, bias=False),
                nn.BatchNorm2d(128), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128 * 49, 1),
            )  # fmt: skip

        def forward(self, z: Any) -> Any:
            return self.judge(self.generator(z))

    return Pair()


def classes(n: int, batch: int, *shape: int) -> Callable[[Any], tuple[Any, ...]]:
    """Draws noise around a mean of each class, and the class: something that can be learnt."""

    def draw(rng: Any) -> tuple[Any, ...]:
        import numpy as np

        means = np.random.default_rng(1).standard_normal((n, *shape), np.float32)
        y = rng.integers(0, n, batch)
        return means[y] + 2 * rng.standard_normal((batch, *shape), np.float32), y

    return draw


def tokens(n: int, batch: int, length: int) -> Callable[[Any], tuple[Any, ...]]:
    """Draws token sequences and for each place the token that follows."""

    def draw(rng: Any) -> tuple[Any, ...]:
        x = rng.integers(0, n, (batch, length + 1))
        return x[:, :-1].copy(), x[:, 1:].reshape(-1).copy()

    return draw


def words(n: int, batch: int, length: int) -> Callable[[Any], tuple[Any, ...]]:
    """Draws token sequences."""
    return lambda rng: (rng.integers(0, n, (batch, length)),)


def normal(*shapes: tuple[int, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Draws float32 arrays of these shapes."""
    return lambda rng: tuple(rng.standard_normal(s, "float32") for s in shapes)


def noise_and_images(batch: int) -> Callable[[Any], tuple[Any, ...]]:
    """Draws what a generator starts from, and images between -1 and 1."""

    def draw(rng: Any) -> tuple[Any, ...]:
        import numpy as np

        z, x = normal((batch, 64), (batch, 1, 28, 28))(rng)
        return z, np.tanh(x)

    return draw


def optimizer(lib: Any, parameters: Any, options: dict[str, Any]) -> Any:
    """The optimizer that the options name."""
    rest = dict(options)
    return getattr(lib.optim, rest.pop("name"))(parameters, **rest)


def training(options: dict[str, Any]) -> Callable[[Any, Any], Callable[..., Any]]:
    """A training step with cross entropy."""

    def make(lib: Any, net: Any) -> Callable[..., Any]:
        opt = optimizer(lib, net.parameters(), options)
        cross_entropy = lib.nn.functional.cross_entropy

        def step(x: Any, y: Any) -> Any:
            opt.zero_grad()
            loss = cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            return loss.detach()

        return step

    return make


def adversarial(options: dict[str, Any]) -> Callable[[Any, Any], Callable[..., Any]]:
    """A step of the discriminator on real and made images, then one of the generator."""

    def make(lib: Any, net: Any) -> Callable[..., Any]:
        bce = lib.nn.functional.binary_cross_entropy_with_logits
        generator = optimizer(lib, net.generator.parameters(), options)
        judge = optimizer(lib, net.judge.parameters(), options)
        yes, no = lib.ones(32, 1), lib.zeros(32, 1)

        def step(z: Any, real: Any) -> Any:
            made = net.generator(z)
            judge.zero_grad()
            told = bce(net.judge(real), yes) + bce(net.judge(made.detach()), no)
            told.backward()
            judge.step()
            generator.zero_grad()
            fooled = bce(net.judge(made), yes)
            fooled.backward(inputs=list(net.generator.parameters()))
            generator.step()
            return (told + fooled).detach()

        return step

    return make


def inference(lib: Any, net: Any) -> Callable[..., Any]:
    """A forward pass without gradients."""
    net.eval()

    def infer(*batch: Any) -> Any:
        with lib.no_grad():
            return net(*batch)

    return infer
