"""MNASNet (Tan et al. 2019) and ShuffleNetV2 (Ma et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kiln

from ... import nn
from ...errors import KilnValueError
from ...tensor import Tensor
from .mobile import make_divisible
from .registry import model, weights

__all__ = [
    "MNASNet", "MNASNet0_5_Weights", "MNASNet0_75_Weights", "MNASNet1_0_Weights", "MNASNet1_3_Weights", "ShuffleNetV2",
    "ShuffleNet_V2_X0_5_Weights", "ShuffleNet_V2_X1_0_Weights", "ShuffleNet_V2_X1_5_Weights", "ShuffleNet_V2_X2_0_Weights",
    "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
]  # fmt: skip

_MOMENTUM = 1 - 0.9997


class _InvertedResidual(nn.Module):
    """A depthwise convolution between a wide and a narrow 1 x 1 one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.apply_residual = inputs == outputs and stride == 1
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden, momentum=_MOMENTUM), nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden, momentum=_MOMENTUM), nn.ReLU(inplace=True),
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs, momentum=_MOMENTUM),
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        return self.layers(input) + input if self.apply_residual else self.layers(input)


class MNASNet(nn.Module):
    """Inverted residuals found by search, of widths that `alpha` scales."""

    def __init__(self, alpha: float, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        if alpha <= 0.0:
            raise KilnValueError("MNASNet", f"alpha should be greater than 0.0 instead of {alpha}", alpha)  # fmt: skip
        self.alpha, self.num_classes = alpha, num_classes
        d = [make_divisible(n * alpha) for n in (32, 16, 24, 40, 80, 96, 192, 320)]
        layers: list[nn.Module] = [
            nn.Conv2d(3, d[0], 3, 2, 1, bias=False), nn.BatchNorm2d(d[0], momentum=_MOMENTUM), nn.ReLU(inplace=True),
            nn.Conv2d(d[0], d[0], 3, 1, 1, groups=d[0], bias=False), nn.BatchNorm2d(d[0], momentum=_MOMENTUM),
            nn.ReLU(inplace=True), nn.Conv2d(d[0], d[1], 1, bias=False), nn.BatchNorm2d(d[1], momentum=_MOMENTUM),
        ]  # fmt: skip
        rows = ((3, 2, 3, 3), (5, 2, 3, 3), (5, 2, 6, 3), (3, 1, 6, 2), (5, 2, 6, 4), (3, 1, 6, 1))
        for i, (kernel, stride, expand, repeats) in enumerate(rows, 1):
            stage = [_InvertedResidual(d[i], d[i + 1], kernel, stride, expand)]
            stage += [
                _InvertedResidual(d[i + 1], d[i + 1], kernel, 1, expand) for _ in range(repeats - 1)
            ]
            layers.append(nn.Sequential(*stage))
        layers += [
            nn.Conv2d(d[7], 1280, 1, bias=False), nn.BatchNorm2d(1280, momentum=_MOMENTUM), nn.ReLU(inplace=True)
        ]  # fmt: skip
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout, inplace=True), nn.Linear(1280, num_classes)
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.Linear):
                nn.init.kaiming_uniform_(m.weight, mode="fan_out", nonlinearity="sigmoid")
                nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.layers(x).mean([2, 3]))


MNASNet0_5_Weights = weights("MNASNet0_5_Weights", "mnasnet0.5_top1_67.823-3ffadce67e.pth")
MNASNet0_75_Weights = weights("MNASNet0_75_Weights", "mnasnet0_75-7090bc5f.pth")
MNASNet1_0_Weights = weights("MNASNet1_0_Weights", "mnasnet1.0_top1_73.512-f206786ef8.pth")
MNASNet1_3_Weights = weights("MNASNet1_3_Weights", "mnasnet1_3-a4c69d6f.pth")


@model(MNASNet0_5_Weights)
def mnasnet0_5(**kwargs: Any) -> MNASNet:
    """MNASNet of half the width."""
    return MNASNet(0.5, **kwargs)


@model(MNASNet0_75_Weights)
def mnasnet0_75(**kwargs: Any) -> MNASNet:
    """MNASNet of three quarters of the width."""
    return MNASNet(0.75, **kwargs)


@model(MNASNet1_0_Weights)
def mnasnet1_0(**kwargs: Any) -> MNASNet:
    """MNASNet."""
    return MNASNet(1.0, **kwargs)


@model(MNASNet1_3_Weights)
def mnasnet1_3(**kwargs: Any) -> MNASNet:
    """MNASNet of 1.3 times the width."""
    return MNASNet(1.3, **kwargs)


# ---------------------------------------------------------------- ShuffleNetV2


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels of groups taken in turn."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class InvertedResidual(nn.Module):
    """Half of the channels as they are (or smaller), half through convolutions; then shuffled."""

    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__()
        if not 1 <= stride <= 3:
            raise KilnValueError("InvertedResidual", "illegal stride value", stride)
        self.stride, half = stride, oup // 2

        def depthwise(n: int) -> list[nn.Module]:
            return [nn.Conv2d(n, n, 3, stride, 1, groups=n, bias=False), nn.BatchNorm2d(n)]

        def pointwise(n: int) -> list[nn.Module]:
            return [
                nn.Conv2d(n, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            ]

        self.branch1 = nn.Sequential(*([*depthwise(inp), *pointwise(inp)] if stride > 1 else []))
        self.branch2 = nn.Sequential(
            *pointwise(inp if stride > 1 else half), *depthwise(half), *pointwise(half)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            a, b = x.chunk(2, 1)
        else:
            a, b = self.branch1(x), x
        return channel_shuffle(kiln.cat((a, self.branch2(b)), 1), 2)


class ShuffleNetV2(nn.Module):
    """Three stages of shuffled halves."""

    def __init__(
        self, stages_repeats: Sequence[int], stages_out_channels: Sequence[int], num_classes: int = 1000,
        inverted_residual: Any = InvertedResidual,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(stages_repeats) != 3 or len(stages_out_channels) != 5:
            raise KilnValueError("ShuffleNetV2", "expected stages_repeats as list of 3 and stages_out_channels as list of 5 positive ints", [stages_repeats, stages_out_channels])  # fmt: skip
        width = stages_out_channels[0]
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, (repeats, out) in enumerate(
            zip(stages_repeats, stages_out_channels[1:], strict=False), 2
        ):
            blocks = [inverted_residual(width, out, 2)]
            blocks += [inverted_residual(out, out, 1) for _ in range(repeats - 1)]
            setattr(self, f"stage{i}", nn.Sequential(*blocks))
            width = out
        last = stages_out_channels[-1]
        self.conv5 = nn.Sequential(
            nn.Conv2d(width, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU(inplace=True)
        )
        self.fc = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        return self.fc(self.conv5(x).mean([2, 3]))


ShuffleNet_V2_X0_5_Weights = weights(
    "ShuffleNet_V2_X0_5_Weights", "shufflenetv2_x0.5-f707e7126e.pth"
)
ShuffleNet_V2_X1_0_Weights = weights("ShuffleNet_V2_X1_0_Weights", "shufflenetv2_x1-5666bf0f80.pth")
ShuffleNet_V2_X1_5_Weights = weights("ShuffleNet_V2_X1_5_Weights", "shufflenetv2_x1_5-3c479a10.pth")
ShuffleNet_V2_X2_0_Weights = weights("ShuffleNet_V2_X2_0_Weights", "shufflenetv2_x2_0-8be3c8ee.pth")


@model(ShuffleNet_V2_X0_5_Weights)
def shufflenet_v2_x0_5(**kwargs: Any) -> ShuffleNetV2:
    """ShuffleNetV2 of half the width."""
    return ShuffleNetV2([4, 8, 4], [24, 48, 96, 192, 1024], **kwargs)


@model(ShuffleNet_V2_X1_0_Weights)
def shufflenet_v2_x1_0(**kwargs: Any) -> ShuffleNetV2:
    """ShuffleNetV2."""
    return ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], **kwargs)


@model(ShuffleNet_V2_X1_5_Weights)
def shufflenet_v2_x1_5(**kwargs: Any) -> ShuffleNetV2:
    """ShuffleNetV2 of 1.5 times the width."""
    return ShuffleNetV2([4, 8, 4], [24, 176, 352, 704, 1024], **kwargs)


@model(ShuffleNet_V2_X2_0_Weights)
def shufflenet_v2_x2_0(**kwargs: Any) -> ShuffleNetV2:
    """ShuffleNetV2 of twice the width."""
    return ShuffleNetV2([4, 8, 4], [24, 244, 488, 976, 2048], **kwargs)
