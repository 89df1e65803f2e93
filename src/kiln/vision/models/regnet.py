"""RegNet (Radosavovic et al. 2020): networks whose widths lie on a line, quantised."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ... import nn
from ...tensor import Tensor
from ..ops import Conv2dNormActivation, SqueezeExcitation
from .mobile import make_divisible
from .registry import MODELS, model, weights


class SimpleStemIN(Conv2dNormActivation):
    """A 3 x 3 convolution of stride 2."""

    def __init__(
        self, width_in: int, width_out: int, norm_layer: Callable[..., nn.Module],
        activation_layer: Callable[..., nn.Module],
    ) -> None:  # fmt: skip
        super().__init__(
            width_in, width_out, 3, 2, norm_layer=norm_layer, activation_layer=activation_layer
        )


class BottleneckTransform(nn.Sequential):
    """1 x 1, grouped 3 x 3, at times a squeeze, 1 x 1."""

    def __init__(
        self, width_in: int, width_out: int, stride: int, norm: Callable[..., nn.Module], act: Callable[..., nn.Module],
        group_width: int, bottleneck_multiplier: float, se_ratio: float | None,
    ) -> None:  # fmt: skip
        inner = round(width_out * bottleneck_multiplier)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["a"] = Conv2dNormActivation(
            width_in, inner, 1, norm_layer=norm, activation_layer=act
        )
        layers["b"] = Conv2dNormActivation(
            inner, inner, 3, stride, groups=inner // group_width, norm_layer=norm, activation_layer=act
        )  # fmt: skip
        if se_ratio:
            layers["se"] = SqueezeExcitation(inner, round(se_ratio * width_in), activation=act)
        layers["c"] = Conv2dNormActivation(
            inner, width_out, 1, norm_layer=norm, activation_layer=None
        )
        super().__init__(layers)


class ResBottleneckBlock(nn.Module):
    """A `BottleneckTransform` beside a shortcut."""

    def __init__(
        self, width_in: int, width_out: int, stride: int, norm_layer: Callable[..., nn.Module],
        activation_layer: Callable[..., nn.Module], group_width: int = 1, bottleneck_multiplier: float = 1.0,
        se_ratio: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.proj = None
        if width_in != width_out or stride != 1:
            self.proj = Conv2dNormActivation(
                width_in, width_out, 1, stride, norm_layer=norm_layer, activation_layer=None
            )
        self.f = BottleneckTransform(
            width_in, width_out, stride, norm_layer, activation_layer, group_width, bottleneck_multiplier, se_ratio
        )  # fmt: skip
        self.activation = activation_layer(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation((x if self.proj is None else self.proj(x)) + self.f(x))


class AnyStage(nn.Sequential):
    """Blocks of one width."""


@dataclass
class BlockParams:
    """The stages of a network: depths, widths, widths of groups, and what all have in common."""

    depths: list[int]
    widths: list[int]
    group_widths: list[int]
    bottleneck_multipliers: list[float]
    strides: list[int]
    se_ratio: float | None = None

    @classmethod
    def from_init_params(
        cls, depth: int, w_0: int, w_a: float, w_m: float, group_width: int, bottleneck_multiplier: float = 1.0,
        se_ratio: float | None = None, **kwargs: Any,
    ) -> BlockParams:  # fmt: skip
        """Stages of the widths nearest to w_0 + w_a * i that are w_0 times a power of w_m and divisible by 8."""
        powers = [round(math.log((w_0 + w_a * i) / w_0) / math.log(w_m)) for i in range(depth)]
        widths = [round(w_0 * w_m**p / 8) * 8 for p in powers]
        stages = sorted(set(widths))
        groups, fitting = [], []
        for w in stages:
            inner = int(w * bottleneck_multiplier)
            groups.append(min(group_width, inner))
            fitting.append(int(make_divisible(inner, groups[-1]) / bottleneck_multiplier))
        n = len(stages)
        return cls(
            [widths.count(w) for w in stages], fitting, groups, [bottleneck_multiplier] * n, [2] * n, se_ratio
        )  # fmt: skip


class RegNet(nn.Module):
    """A stem, stages of bottlenecks, a linear layer."""

    def __init__(
        self, block_params: BlockParams, num_classes: int = 1000, stem_width: int = 32,
        stem_type: Callable[..., nn.Module] | None = None, block_type: Callable[..., nn.Module] | None = None,
        norm_layer: Callable[..., nn.Module] | None = None, activation: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm, act = norm_layer or nn.BatchNorm2d, activation or nn.ReLU
        block = block_type or ResBottleneckBlock
        self.stem = (stem_type or SimpleStemIN)(3, stem_width, norm, act)
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        width, p = stem_width, block_params
        for i, depth in enumerate(p.depths, 1):
            stage = AnyStage()
            for j in range(depth):
                stage.add_module(f"block{i}-{j}", block(
                    width, p.widths[i - 1], p.strides[i - 1] if j == 0 else 1, norm, act, p.group_widths[i - 1],
                    p.bottleneck_multipliers[i - 1], p.se_ratio,
                ))  # fmt: skip
                width = p.widths[i - 1]
            stages[f"block{i}"] = stage
        self.trunk_output = nn.Sequential(stages)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(width, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                fan = m.kernel_size[0] * m.kernel_size[1] * m.out_channels
                nn.init.normal_(m.weight, 0.0, math.sqrt(2.0 / fan))
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0.0, 0.01)
                nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.trunk_output(self.stem(x))).flatten(1))


_SIZES = {  # depth, w_0, w_a, w_m, width of groups, files of weights; from the paper's tables
    "y_400mf": (16, 48, 27.89, 2.09, 8, "c65dace8", "e6988f5f"),
    "y_800mf": (14, 56, 38.84, 2.4, 16, "1b27b58c", "58fc7688"),
    "y_1_6gf": (27, 48, 20.71, 2.65, 24, "b11a554e", "0d7bc02a"),
    "y_3_2gf": (21, 80, 42.63, 2.66, 24, "b5a9779c", "9180c971"),
    "y_8gf": (17, 192, 76.82, 2.19, 56, "d0d0e4a8", "dc2b1b54"),
    "y_16gf": (18, 200, 106.23, 2.48, 112, "9e6ed7dd", "3e4a00f9"),
    "y_32gf": (20, 232, 115.89, 2.53, 232, "4dee3f7a", "8db6d4b5"),
    "y_128gf": (27, 456, 160.83, 2.52, 264),
    "x_400mf": (22, 24, 24.48, 2.54, 16, "adf1edd5", "62229a5f"),
    "x_800mf": (16, 56, 35.73, 2.28, 16, "ad17e45c", "94a99ebd"),
    "x_1_6gf": (18, 80, 34.01, 2.25, 24, "e3633e7f", "a12f2b72"),
    "x_3_2gf": (25, 88, 26.31, 2.25, 48, "f342aeae", "7071aa85"),
    "x_8gf": (23, 80, 49.56, 2.88, 120, "03ceed89", "2b70d774"),
    "x_16gf": (22, 216, 55.59, 2.1, 128, "2007eb11", "ba3796d7"),
    "x_32gf": (23, 320, 69.86, 2.0, 168, "9d47f8d0", "6eb8fdc6"),
}  # fmt: skip


def _builder(size: str) -> Callable[..., RegNet]:
    depth, w_0, w_a, w_m, group, *_ = _SIZES[size]

    def build(**kwargs: Any) -> RegNet:
        squeeze = 0.25 if size[0] == "y" else None
        params = BlockParams.from_init_params(depth, w_0, w_a, w_m, group, se_ratio=squeeze)  # type: ignore[arg-type]
        norm = kwargs.pop("norm_layer", partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1))
        return RegNet(params, norm_layer=norm, **kwargs)

    build.__name__ = build.__qualname__ = f"regnet_{size}"
    build.__doc__ = (
        f"RegNet{size[0].upper()} of {size[2:].replace('_', '.').upper()} multiply-adds."
    )
    return build


for _size, _facts in _SIZES.items():
    _known = weights(
        f"RegNet_{_size[0].upper()}_{_size[2:].upper()}_Weights", *(f"regnet_{_size}-{h}.pth" for h in _facts[5:])
    ) if _facts[5:] else None  # fmt: skip
    if _known is not None:
        globals()[_known.__name__] = _known
    model(_known)(_builder(_size))
    globals()[f"regnet_{_size}"] = MODELS[f"regnet_{_size}"]

__all__ = [
    "BlockParams", "RegNet", *(n for n in list(globals()) if n.startswith(("regnet_", "RegNet_"))),
]  # fmt: skip
