"""MobileNetV2 (Sandler et al. 2018) and EfficientNet (Tan & Le 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ... import nn
from ...tensor import Tensor
from ..ops import Conv2dNormActivation, SqueezeExcitation, StochasticDepth
from .registry import model, weights

__all__ = [
    "EfficientNet",
    "EfficientNet_B0_Weights",
    "EfficientNet_B1_Weights",
    "EfficientNet_B2_Weights",
    "EfficientNet_B3_Weights",
    "EfficientNet_B4_Weights",
    "EfficientNet_B5_Weights",
    "EfficientNet_B6_Weights",
    "EfficientNet_B7_Weights",
    "EfficientNet_V2_L_Weights",
    "EfficientNet_V2_M_Weights",
    "EfficientNet_V2_S_Weights",
    "InvertedResidual",
    "MBConv",
    "MobileNetV2",
    "MobileNet_V2_Weights",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "mobilenet_v2",
]


def make_divisible(v: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to a number of channels, never less than nine tenths of it."""
    out = max(divisor, int(v + divisor / 2) // divisor * divisor)
    return out + divisor if out < 0.9 * v else out


def init(net: nn.Module, linear: Callable[[nn.Linear], None]) -> None:
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear):
            linear(m)
            nn.init.zeros_(m.bias)


def small(m: nn.Linear) -> None:
    nn.init.normal_(m.weight, 0, 0.01)


# ---------------------------------------------------------------- MobileNetV2


class InvertedResidual(nn.Module):
    """A depthwise convolution between a wide and a narrow 1 x 1 one."""

    def __init__(
        self, inp: int, oup: int, stride: int, expand_ratio: float,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm, hidden = norm_layer or nn.BatchNorm2d, round(inp * expand_ratio)
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(
                Conv2dNormActivation(inp, hidden, 1, norm_layer=norm, activation_layer=nn.ReLU6)
            )
        layers += [
            Conv2dNormActivation(
                hidden, hidden, stride=stride, groups=hidden, norm_layer=norm, activation_layer=nn.ReLU6
            ),
            nn.Conv2d(hidden, oup, 1, 1, 0, bias=False), norm(oup),
        ]  # fmt: skip
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and inp == oup
        self.out_channels, self._is_cn = oup, stride > 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals of a width that `width_mult` scales."""

    def __init__(
        self, num_classes: int = 1000, width_mult: float = 1.0,
        inverted_residual_setting: Sequence[Sequence[int]] | None = None, round_nearest: int = 8,
        block: Callable[..., nn.Module] | None = None, norm_layer: Callable[..., nn.Module] | None = None,
        dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__()
        block, norm = block or InvertedResidual, norm_layer or nn.BatchNorm2d
        setting = inverted_residual_setting or (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
            (6, 320, 1, 1),
        )  # fmt: skip
        width = make_divisible(32 * width_mult, round_nearest)
        self.last_channel = make_divisible(1280 * max(1.0, width_mult), round_nearest)
        layers: list[nn.Module] = [
            Conv2dNormActivation(3, width, stride=2, norm_layer=norm, activation_layer=nn.ReLU6)
        ]
        for expand, channels, count, stride in setting:
            outputs = make_divisible(channels * width_mult, round_nearest)
            for i in range(count):
                layers.append(
                    block(width, outputs, stride if i == 0 else 1, expand, norm_layer=norm)
                )
                width = outputs
        layers.append(
            Conv2dNormActivation(
                width, self.last_channel, 1, norm_layer=norm, activation_layer=nn.ReLU6
            )
        )
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(self.last_channel, num_classes)
        )
        init(self, small)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(x.flatten(1))


MobileNet_V2_Weights = weights(
    "MobileNet_V2_Weights", "mobilenet_v2-b0353104.pth", "mobilenet_v2-7ebf99e0.pth"
)


@model(MobileNet_V2_Weights)
def mobilenet_v2(**kwargs: Any) -> MobileNetV2:
    """MobileNetV2."""
    return MobileNetV2(**kwargs)


# ---------------------------------------------------------------- EfficientNet


class MBConv(nn.Module):
    """An inverted residual with a squeeze and stochastic depth."""

    def __init__(
        self, inputs: int, outputs: int, expand: int, kernel: int, stride: int, drop: float,
        norm: Callable[..., nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        hidden, layers = make_divisible(inputs * expand), []
        if hidden != inputs:
            layers.append(
                Conv2dNormActivation(inputs, hidden, 1, norm_layer=norm, activation_layer=nn.SiLU)
            )
        layers += [
            Conv2dNormActivation(
                hidden,
                hidden,
                kernel,
                stride,
                groups=hidden,
                norm_layer=norm,
                activation_layer=nn.SiLU,
            ),
            SqueezeExcitation(
                hidden, max(1, inputs // 4), activation=partial(nn.SiLU, inplace=True)
            ),
            Conv2dNormActivation(hidden, outputs, 1, norm_layer=norm, activation_layer=None),
        ]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop, "row")
        self.use_res_connect = stride == 1 and inputs == outputs

    def forward(self, input: Tensor) -> Tensor:
        out = self.block(input)
        return self.stochastic_depth(out) + input if self.use_res_connect else out


class FusedMBConv(nn.Module):
    """`MBConv` with one convolution in place of a wide and a depthwise one, without a squeeze."""

    def __init__(
        self, inputs: int, outputs: int, expand: int, kernel: int, stride: int, drop: float,
        norm: Callable[..., nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = make_divisible(inputs * expand)
        part = partial(Conv2dNormActivation, norm_layer=norm)
        if hidden != inputs:
            layers = [part(inputs, hidden, kernel, stride, activation_layer=nn.SiLU)]
            layers.append(part(hidden, outputs, 1, activation_layer=None))
        else:
            layers = [part(inputs, outputs, kernel, stride, activation_layer=nn.SiLU)]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop, "row")
        self.use_res_connect = stride == 1 and inputs == outputs

    def forward(self, input: Tensor) -> Tensor:
        out = self.block(input)
        return self.stochastic_depth(out) + input if self.use_res_connect else out


_B0 = (
    (1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 3), (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4), (6, 3, 1, 192, 320, 1),
)  # fmt: skip


class EfficientNet(nn.Module):
    """Stages of MBConv blocks whose widths and depths grow together.

    `setting` says which stages: (expansion, kernel, stride, channels in and out, blocks); where a seventh is True, of
    `FusedMBConv`.
    """

    def __init__(
        self, width_mult: float, depth_mult: float, dropout: float, stochastic_depth_prob: float = 0.2,
        num_classes: int = 1000, norm_layer: Callable[..., nn.Module] | None = None,
        setting: Sequence[Sequence[Any]] = _B0, last_channel: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = norm_layer or nn.BatchNorm2d
        rows = [
            (
                e,
                k,
                s,
                make_divisible(i * width_mult),
                make_divisible(o * width_mult),
                math.ceil(n * depth_mult),
                FusedMBConv if fused else MBConv,
            )
            for e, k, s, i, o, n, *fused in setting
        ]
        total, done = sum(r[5] for r in rows), 0
        layers: list[nn.Module] = [
            Conv2dNormActivation(3, rows[0][3], stride=2, norm_layer=norm, activation_layer=nn.SiLU)
        ]
        for expand, kernel, stride, inputs, outputs, count, block in rows:
            stage = []
            for i in range(count):
                first = i == 0
                stage.append(block(
                    inputs if first else outputs, outputs, expand, kernel, stride if first else 1,
                    stochastic_depth_prob * done / total, norm,
                ))  # fmt: skip
                done += 1
            layers.append(nn.Sequential(*stage))
        before = rows[-1][4]
        last = last_channel or 4 * before
        layers.append(
            Conv2dNormActivation(before, last, 1, norm_layer=norm, activation_layer=nn.SiLU)
        )
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout, inplace=True), nn.Linear(last, num_classes)
        )

        def linear(m: nn.Linear) -> None:
            bound = 1.0 / math.sqrt(m.out_features)
            nn.init.uniform_(m.weight, -bound, bound)

        init(self, linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


EfficientNet_B0_Weights = weights(
    "EfficientNet_B0_Weights", "efficientnet_b0_rwightman-7f5810bc.pth"
)
EfficientNet_B1_Weights = weights(
    "EfficientNet_B1_Weights",
    "efficientnet_b1_rwightman-bac287d4.pth",
    "efficientnet_b1-c27df63c.pth",
)
EfficientNet_B2_Weights = weights(
    "EfficientNet_B2_Weights", "efficientnet_b2_rwightman-c35c1473.pth"
)
EfficientNet_B3_Weights = weights(
    "EfficientNet_B3_Weights", "efficientnet_b3_rwightman-b3899882.pth"
)
EfficientNet_B4_Weights = weights(
    "EfficientNet_B4_Weights", "efficientnet_b4_rwightman-23ab8bcd.pth"
)
EfficientNet_B5_Weights = weights(
    "EfficientNet_B5_Weights", "efficientnet_b5_lukemelas-1a07897c.pth"
)
EfficientNet_B6_Weights = weights(
    "EfficientNet_B6_Weights", "efficientnet_b6_lukemelas-24a108a5.pth"
)
EfficientNet_B7_Weights = weights(
    "EfficientNet_B7_Weights", "efficientnet_b7_lukemelas-c5b4e57e.pth"
)
_B5 = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


@model(EfficientNet_B0_Weights)
def efficientnet_b0(**kwargs: Any) -> EfficientNet:
    """EfficientNet-B0."""
    return EfficientNet(1.0, 1.0, **{"dropout": 0.2, **kwargs})


@model(EfficientNet_B1_Weights)
def efficientnet_b1(**kwargs: Any) -> EfficientNet:
    """EfficientNet-B1."""
    return EfficientNet(1.0, 1.1, **{"dropout": 0.2, **kwargs})


@model(EfficientNet_B2_Weights)
def efficientnet_b2(**kwargs: Any) -> EfficientNet:
    """EfficientNet-B2."""
    return EfficientNet(1.1, 1.2, **{"dropout": 0.3, **kwargs})


@model(EfficientNet_B3_Weights)
def efficientnet_b3(**kwargs: Any) -> EfficientNet:
    """EfficientNet-B3."""
    return EfficientNet(1.2, 1.4, **{"dropout": 0.3, **kwargs})


@model(EfficientNet_B4_Weights)
def efficientnet_b4(**kwargs: Any) -> EfficientNet:
    """EfficientNet-B4."""
    return EfficientNet(1.4, 1.8, **{"dropout": 0.4, **kwargs})


@model(EfficientNet_B5_Weights)
def efficientnet_b5(**kwargs: Any) -> EfficientNet:
    """EfficientNet-B5."""
    return EfficientNet(1.6, 2.2, **{"dropout": 0.4, "norm_layer": _B5, **kwargs})


@model(EfficientNet_B6_Weights)
def efficientnet_b6(**kwargs: Any) -> EfficientNet:
    """EfficientNet-B6."""
    return EfficientNet(1.8, 2.6, **{"dropout": 0.5, "norm_layer": _B5, **kwargs})


@model(EfficientNet_B7_Weights)
def efficientnet_b7(**kwargs: Any) -> EfficientNet:
    """EfficientNet-B7."""
    return EfficientNet(2.0, 3.1, **{"dropout": 0.5, "norm_layer": _B5, **kwargs})


_V2 = {
    "s": (
        (1, 3, 1, 24, 24, 2, True), (4, 3, 2, 24, 48, 4, True), (4, 3, 2, 48, 64, 4, True), (4, 3, 2, 64, 128, 6),
        (6, 3, 1, 128, 160, 9), (6, 3, 2, 160, 256, 15),
    ),
    "m": (
        (1, 3, 1, 24, 24, 3, True), (4, 3, 2, 24, 48, 5, True), (4, 3, 2, 48, 80, 5, True), (4, 3, 2, 80, 160, 7),
        (6, 3, 1, 160, 176, 14), (6, 3, 2, 176, 304, 18), (6, 3, 1, 304, 512, 5),
    ),
    "l": (
        (1, 3, 1, 32, 32, 4, True), (4, 3, 2, 32, 64, 7, True), (4, 3, 2, 64, 96, 7, True), (4, 3, 2, 96, 192, 10),
        (6, 3, 1, 192, 224, 19), (6, 3, 2, 224, 384, 25), (6, 3, 1, 384, 640, 7),
    ),
}  # fmt: skip


def _v2(size: str, dropout: float, options: dict[str, Any]) -> EfficientNet:
    more = {"dropout": dropout, "norm_layer": partial(nn.BatchNorm2d, eps=1e-3), **options}
    return EfficientNet(1.0, 1.0, setting=_V2[size], last_channel=1280, **more)


EfficientNet_V2_S_Weights = weights("EfficientNet_V2_S_Weights", "efficientnet_v2_s-dd5fe13b.pth")
EfficientNet_V2_M_Weights = weights("EfficientNet_V2_M_Weights", "efficientnet_v2_m-dc08266a.pth")
EfficientNet_V2_L_Weights = weights("EfficientNet_V2_L_Weights", "efficientnet_v2_l-59c71312.pth")


@model(EfficientNet_V2_S_Weights)
def efficientnet_v2_s(**kwargs: Any) -> EfficientNet:
    """EfficientNetV2-S (Tan & Le 2021)."""
    return _v2("s", 0.2, kwargs)


@model(EfficientNet_V2_M_Weights)
def efficientnet_v2_m(**kwargs: Any) -> EfficientNet:
    """EfficientNetV2-M."""
    return _v2("m", 0.3, kwargs)


@model(EfficientNet_V2_L_Weights)
def efficientnet_v2_l(**kwargs: Any) -> EfficientNet:
    """EfficientNetV2-L."""
    return _v2("l", 0.4, kwargs)
