"""ConvNeXt (Liu et al. 2022): residual networks with the shapes of vision transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import kiln

from ... import nn
from ...tensor import Tensor
from ..ops import Conv2dNormActivation, Permute, StochasticDepth
from .registry import model, weights

__all__ = [
    "ConvNeXt", "ConvNeXt_Base_Weights", "ConvNeXt_Large_Weights", "ConvNeXt_Small_Weights", "ConvNeXt_Tiny_Weights",
    "convnext_base", "convnext_large", "convnext_small", "convnext_tiny",
]  # fmt: skip


class LayerNorm2d(nn.LayerNorm):
    """A layer norm over the channels [N, C, H, W] of each pixel."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class CNBlock(nn.Module):
    """A depthwise convolution and a layer that is wide within, beside a shortcut."""

    def __init__(
        self, dim: int, layer_scale: float, stochastic_depth_prob: float,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = norm_layer or partial(nn.LayerNorm, eps=1e-6)
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, 7, padding=3, groups=dim), Permute([0, 2, 3, 1]), norm(dim),
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), Permute([0, 3, 1, 2]),
        )  # fmt: skip
        self.layer_scale = nn.Parameter(kiln.ones(dim, 1, 1) * layer_scale)
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob, "row")

    def forward(self, input: Tensor) -> Tensor:
        return self.stochastic_depth(self.layer_scale * self.block(input)) + input


@dataclass
class CNBlockConfig:
    """A stage: its width, that of the next one, its number of blocks."""

    input_channels: int
    out_channels: int | None
    num_layers: int


class ConvNeXt(nn.Module):
    """Stages of blocks with convolutions that halve the size between them."""

    def __init__(
        self, block_setting: Sequence[CNBlockConfig], stochastic_depth_prob: float = 0.0, layer_scale: float = 1e-6,
        num_classes: int = 1000, block: Callable[..., nn.Module] | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        block, norm = block or CNBlock, norm_layer or partial(LayerNorm2d, eps=1e-6)
        layers: list[nn.Module] = [
            Conv2dNormActivation(
                3, block_setting[0].input_channels, 4, 4, 0, norm_layer=norm, activation_layer=None, bias=True
            )
        ]  # fmt: skip
        total, done = sum(c.num_layers for c in block_setting), 0
        for c in block_setting:
            width, stage = c.input_channels, []
            for _ in range(c.num_layers):
                stage.append(block(width, layer_scale, stochastic_depth_prob * done / (total - 1)))
                done += 1
            layers.append(nn.Sequential(*stage))
            if c.out_channels is not None:
                layers.append(nn.Sequential(norm(width), nn.Conv2d(width, c.out_channels, 2, 2)))
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1)
        last = block_setting[-1].out_channels or block_setting[-1].input_channels
        self.classifier = nn.Sequential(norm(last), nn.Flatten(1), nn.Linear(last, num_classes))
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)))


def _convnext(width: int, deep: int, drop: float, options: dict[str, Any]) -> ConvNeXt:
    depths = (3, 3, deep, 3)
    setting = [
        CNBlockConfig(width << i, width << i + 1 if i < 3 else None, n)
        for i, n in enumerate(depths)
    ]
    return ConvNeXt(setting, **{"stochastic_depth_prob": drop, **options})


ConvNeXt_Tiny_Weights = weights("ConvNeXt_Tiny_Weights", "convnext_tiny-983f1562.pth")
ConvNeXt_Small_Weights = weights("ConvNeXt_Small_Weights", "convnext_small-0c510722.pth")
ConvNeXt_Base_Weights = weights("ConvNeXt_Base_Weights", "convnext_base-6075fbad.pth")
ConvNeXt_Large_Weights = weights("ConvNeXt_Large_Weights", "convnext_large-ea097f82.pth")


@model(ConvNeXt_Tiny_Weights)
def convnext_tiny(**kwargs: Any) -> ConvNeXt:
    """ConvNeXt, tiny."""
    return _convnext(96, 9, 0.1, kwargs)


@model(ConvNeXt_Small_Weights)
def convnext_small(**kwargs: Any) -> ConvNeXt:
    """ConvNeXt, small."""
    return _convnext(96, 27, 0.4, kwargs)


@model(ConvNeXt_Base_Weights)
def convnext_base(**kwargs: Any) -> ConvNeXt:
    """ConvNeXt, base."""
    return _convnext(128, 27, 0.5, kwargs)


@model(ConvNeXt_Large_Weights)
def convnext_large(**kwargs: Any) -> ConvNeXt:
    """ConvNeXt, large."""
    return _convnext(192, 27, 0.5, kwargs)
