"""Inception v3 (Szegedy et al. 2016): branches of several kernels side by side."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import kiln
import kiln.nn.functional as F

from ... import nn
from ...tensor import Tensor
from .registry import model, weights

__all__ = ["Inception3", "InceptionOutputs", "Inception_V3_Weights", "inception_v3"]

InceptionOutputs = namedtuple("InceptionOutputs", ["logits", "aux_logits"])  # noqa: PYI024


class BasicConv2d(nn.Module):
    """A convolution, a norm, a ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any = 1, **kwargs: Any
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


def narrow(net: nn.Module, std: float) -> None:
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(m.weight, 0.0, getattr(m, "stddev", std), -2.0, 2.0)


def as_inception(x: Tensor) -> Tensor:
    """A picture normalised as others are, in the values that these weights were trained on."""
    scale = kiln.tensor([0.229, 0.224, 0.225])[:, None, None] / 0.5
    shift = (kiln.tensor([0.485, 0.456, 0.406])[:, None, None] - 0.5) / 0.5
    return x * scale + shift


def _chain(x: Tensor, *layers: nn.Module) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


_WIDE: dict[str, Any] = {"kernel_size": (1, 7), "padding": (0, 3)}
_TALL: dict[str, Any] = {"kernel_size": (7, 1), "padding": (3, 0)}


class InceptionA(nn.Module):
    """1 x 1, 5 x 5, two times 3 x 3, a pool."""

    def __init__(self, inputs: int, pool_features: int, block: Any = BasicConv2d) -> None:
        super().__init__()
        self.branch1x1 = block(inputs, 64)
        self.branch5x5_1, self.branch5x5_2 = block(inputs, 48), block(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = block(inputs, 64)
        self.branch3x3dbl_2 = block(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = block(96, 96, 3, padding=1)
        self.branch_pool = block(inputs, pool_features)

    def forward(self, x: Tensor) -> Tensor:
        five = _chain(x, self.branch5x5_1, self.branch5x5_2)
        three = _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return kiln.cat([self.branch1x1(x), five, three, pool], 1)


class InceptionB(nn.Module):
    """Half the size: 3 x 3, two times 3 x 3, a pool."""

    def __init__(self, inputs: int, block: Any = BasicConv2d) -> None:
        super().__init__()
        self.branch3x3 = block(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = block(inputs, 64)
        self.branch3x3dbl_2 = block(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = block(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        return kiln.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    """1 x 1, 7 x 7 in two strokes and in four, a pool."""

    def __init__(self, inputs: int, channels_7x7: int, block: Any = BasicConv2d) -> None:
        super().__init__()
        c = channels_7x7
        self.branch1x1 = block(inputs, 192)
        self.branch7x7_1, self.branch7x7_2 = block(inputs, c), block(c, c, **_WIDE)
        self.branch7x7_3 = block(c, 192, **_TALL)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = block(inputs, c), block(c, c, **_TALL)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = block(c, c, **_WIDE), block(c, c, **_TALL)
        self.branch7x7dbl_5 = block(c, 192, **_WIDE)
        self.branch_pool = block(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        seven = _chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3)
        twice = _chain(
            x, self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3, self.branch7x7dbl_4, self.branch7x7dbl_5
        )  # fmt: skip
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return kiln.cat([self.branch1x1(x), seven, twice, pool], 1)


class InceptionD(nn.Module):
    """Half the size: 3 x 3, 7 x 7 and 3 x 3, a pool."""

    def __init__(self, inputs: int, block: Any = BasicConv2d) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = block(inputs, 192), block(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = block(inputs, 192), block(192, 192, **_WIDE)
        self.branch7x7x3_3 = block(192, 192, **_TALL)
        self.branch7x7x3_4 = block(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = _chain(x, self.branch3x3_1, self.branch3x3_2)
        seven = _chain(
            x, self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3, self.branch7x7x3_4
        )
        return kiln.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """1 x 1, 3 x 3 in two directions at once, twice, a pool."""

    def __init__(self, inputs: int, block: Any = BasicConv2d) -> None:
        super().__init__()
        wide: dict[str, Any] = {"kernel_size": (1, 3), "padding": (0, 1)}
        tall: dict[str, Any] = {"kernel_size": (3, 1), "padding": (1, 0)}
        self.branch1x1 = block(inputs, 320)
        self.branch3x3_1 = block(inputs, 384)
        self.branch3x3_2a, self.branch3x3_2b = block(384, 384, **wide), block(384, 384, **tall)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = block(inputs, 448), block(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = (
            block(384, 384, **wide),
            block(384, 384, **tall),
        )
        self.branch_pool = block(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.branch3x3_1(x), _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        parts = [self.branch1x1(x), self.branch3x3_2a(one), self.branch3x3_2b(one)]
        parts += [self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)]
        return kiln.cat([*parts, self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class InceptionAux(nn.Module):
    """A classifier in the middle of Inception v3."""

    def __init__(self, inputs: int, num_classes: int, block: Any = BasicConv2d) -> None:
        super().__init__()
        self.conv0, self.conv1 = block(inputs, 128), block(128, 768, 5)
        self.fc = nn.Linear(768, num_classes)
        self.conv1.stddev, self.fc.stddev = 0.01, 0.001

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.conv0(F.avg_pool2d(x, 5, 3)))
        return self.fc(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class Inception3(nn.Module):
    """Inception v3, of pictures of 299 pixels; while training a classifier in the middle gives a result too."""

    def __init__(
        self, num_classes: int = 1000, aux_logits: bool = True, transform_input: bool = False,
        inception_blocks: Any = None, init_weights: bool | None = None, dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.aux_logits, self.transform_input = aux_logits, transform_input
        conv, a, b, c, d, e, aux = inception_blocks or (
            BasicConv2d, InceptionA, InceptionB, InceptionC, InceptionD, InceptionE, InceptionAux
        )  # fmt: skip
        self.Conv2d_1a_3x3 = conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = conv(32, 32, 3), conv(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = conv(64, 80), conv(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = a(192, 32), a(256, 64), a(288, 64)
        self.Mixed_6a = b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (
            c(768, n) for n in (128, 160, 160, 192)
        )
        self.AuxLogits = aux(768, num_classes) if aux_logits else None
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = d(768), e(1280), e(2048)
        self.avgpool, self.dropout = nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)
        if init_weights is not False:
            narrow(self, 0.1)

    def forward(self, x: Tensor) -> Any:
        x = as_inception(x) if self.transform_input else x
        x = _chain(
            x, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3, self.maxpool1, self.Conv2d_3b_1x1,
            self.Conv2d_4a_3x3, self.maxpool2, self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a, self.Mixed_6b,
            self.Mixed_6c, self.Mixed_6d, self.Mixed_6e,
        )  # fmt: skip
        aux = self.AuxLogits(x) if self.AuxLogits is not None and self.training else None
        x = self.avgpool(_chain(x, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c))
        x = self.fc(self.dropout(x).flatten(1))
        return InceptionOutputs(x, aux) if self.training and self.aux_logits else x


Inception_V3_Weights = weights("Inception_V3_Weights", "inception_v3_google-0cc3c7bd.pth")


def published(aux_logits: bool) -> Any:
    """Weights have the classifiers in the middle: dropped once they are loaded, unless asked for."""

    def fit(options: dict[str, Any]) -> Any:
        def finish(net: Any) -> None:
            if not options.get("aux_logits", aux_logits):
                net.aux_logits = False
                for name in {"aux1", "aux2", "AuxLogits"} & set(net._modules):
                    setattr(net, name, None)

        return {
            "transform_input": True,
            "init_weights": False,
            **options,
            "aux_logits": True,
        }, finish

    return fit


@model(Inception_V3_Weights, published(True))
def inception_v3(**kwargs: Any) -> Inception3:
    """Inception v3."""
    return Inception3(**kwargs)
