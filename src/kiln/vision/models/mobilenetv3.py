"""MobileNetV3 (Howard et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ... import nn
from ...tensor import Tensor
from ..ops import Conv2dNormActivation, SqueezeExcitation
from .mobile import init, make_divisible, small
from .registry import model, weights

__all__ = [
    "MobileNetV3",
    "MobileNet_V3_Large_Weights",
    "MobileNet_V3_Small_Weights",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]


class InvertedResidual(nn.Module):
    """An inverted residual with a squeeze, for one row of the paper's table."""

    def __init__(
        self, inputs: int, kernel: int, hidden: int, outputs: int, squeeze: bool, activation: Any,
        stride: int, norm: Callable[..., nn.Module], dilation: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(
                Conv2dNormActivation(
                    inputs, hidden, 1, norm_layer=norm, activation_layer=activation
                )
            )
        layers.append(Conv2dNormActivation(
            hidden, hidden, kernel, 1 if dilation > 1 else stride, groups=hidden, norm_layer=norm,
            activation_layer=activation, dilation=dilation,
        ))  # fmt: skip
        if squeeze:
            layers.append(
                SqueezeExcitation(
                    hidden, make_divisible(hidden // 4), scale_activation=nn.Hardsigmoid
                )
            )
        layers.append(
            Conv2dNormActivation(hidden, outputs, 1, norm_layer=norm, activation_layer=None)
        )
        self.block = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and inputs == outputs
        self.out_channels, self._is_cn = outputs, stride > 1

    def forward(self, input: Tensor) -> Tensor:
        return self.block(input) + input if self.use_res_connect else self.block(input)


class MobileNetV3(nn.Module):
    """Inverted residuals with squeezes and hard swishes."""

    def __init__(
        self, setting: Sequence[tuple], last_channel: int, num_classes: int = 1000, dropout: float = 0.2,
        norm_layer: Callable[..., nn.Module] | None = None, width: int = 16,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = norm_layer or partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
        layers: list[nn.Module] = [
            Conv2dNormActivation(3, width, stride=2, norm_layer=norm, activation_layer=nn.Hardswish)
        ]
        for kernel, hidden, outputs, squeeze, kind, stride, *dilation in setting:
            activation = nn.Hardswish if kind == "HS" else nn.ReLU
            layers.append(InvertedResidual(
                width, kernel, hidden, outputs, squeeze, activation, stride, norm, *dilation
            ))  # fmt: skip
            width = outputs
        layers.append(
            Conv2dNormActivation(
                width, 6 * width, 1, norm_layer=norm, activation_layer=nn.Hardswish
            )
        )
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * width, last_channel), nn.Hardswish(inplace=True), nn.Dropout(dropout, inplace=True),
            nn.Linear(last_channel, num_classes),
        )  # fmt: skip
        init(self, small)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


MobileNet_V3_Large_Weights = weights(
    "MobileNet_V3_Large_Weights",
    "mobilenet_v3_large-8738ca79.pth",
    "mobilenet_v3_large-5c1a4163.pth",
)
MobileNet_V3_Small_Weights = weights(
    "MobileNet_V3_Small_Weights", "mobilenet_v3_small-047dcff4.pth"
)


def _made(
    setting: Sequence[tuple], tail: int, last_channel: int, options: dict[str, Any]
) -> MobileNetV3:
    """Of a table of rows: `tail` ends it, narrower where `reduced_tail`, dilated instead of strided where `dilated`."""
    by = options.pop("width_mult", 1.0)
    less = 2 if options.pop("reduced_tail", False) else 1
    dilation = 2 if options.pop("dilated", False) else 1
    rows = []
    for i, (kernel, hidden, outputs, *more) in enumerate(setting):
        after = i - (len(setting) - tail)  # the first row of the tail is as wide inside as before
        hidden, outputs = (
            hidden // (less if after > 0 else 1),
            outputs // (less if after >= 0 else 1),
        )
        wide = (make_divisible(n * by) for n in (hidden, outputs))
        rows.append((kernel, *wide, *more, dilation if after >= 0 else 1))
    last = make_divisible(last_channel // less * by)
    return MobileNetV3(rows, last, width=make_divisible(16 * by), **options)


@model(MobileNet_V3_Large_Weights)
def mobilenet_v3_large(**kwargs: Any) -> MobileNetV3:
    """MobileNetV3, large."""
    setting = (
        (3, 16, 16, False, "RE", 1), (3, 64, 24, False, "RE", 2), (3, 72, 24, False, "RE", 1),
        (5, 72, 40, True, "RE", 2), (5, 120, 40, True, "RE", 1), (5, 120, 40, True, "RE", 1),
        (3, 240, 80, False, "HS", 2), (3, 200, 80, False, "HS", 1), (3, 184, 80, False, "HS", 1),
        (3, 184, 80, False, "HS", 1), (3, 480, 112, True, "HS", 1), (3, 672, 112, True, "HS", 1),
        (5, 672, 160, True, "HS", 2), (5, 960, 160, True, "HS", 1), (5, 960, 160, True, "HS", 1),
    )  # fmt: skip
    return _made(setting, 3, 1280, kwargs)


@model(MobileNet_V3_Small_Weights)
def mobilenet_v3_small(**kwargs: Any) -> MobileNetV3:
    """MobileNetV3, small."""
    setting = (
        (3, 16, 16, True, "RE", 2), (3, 72, 24, False, "RE", 2), (3, 88, 24, False, "RE", 1),
        (5, 96, 40, True, "HS", 2), (5, 240, 40, True, "HS", 1), (5, 240, 40, True, "HS", 1),
        (5, 120, 48, True, "HS", 1), (5, 144, 48, True, "HS", 1), (5, 288, 96, True, "HS", 2),
        (5, 576, 96, True, "HS", 1), (5, 576, 96, True, "HS", 1),
    )  # fmt: skip
    return _made(setting, 3, 1024, kwargs)
