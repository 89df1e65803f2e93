"""Models of short videos [N, 3, T, H, W]: residual networks (Tran et al. 2018) and S3D (Xie et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import kiln

from ... import nn
from ...tensor import Tensor
from .registry import model, weights

__all__ = [
    "S3D",
    "MC3_18_Weights",
    "R2Plus1D_18_Weights",
    "R3D_18_Weights",
    "S3D_Weights",
    "VideoResNet",
    "mc3_18",
    "r2plus1d_18",
    "r3d_18",
    "s3d",
]


class Conv3DSimple(nn.Conv3d):
    """A 3 x 3 x 3 convolution."""

    def __init__(
        self, in_planes: int, out_planes: int, midplanes: int | None = None, stride: int = 1, padding: int = 1
    ) -> None:  # fmt: skip
        super().__init__(in_planes, out_planes, 3, stride, padding, bias=False)

    @staticmethod
    def get_downsample_stride(stride: int) -> tuple[int, int, int]:
        """The stride of a shortcut beside it."""
        return stride, stride, stride


class Conv3DNoTemporal(nn.Conv3d):
    """A convolution of each picture by itself."""

    def __init__(
        self, in_planes: int, out_planes: int, midplanes: int | None = None, stride: int = 1, padding: int = 1
    ) -> None:  # fmt: skip
        super().__init__(
            in_planes, out_planes, (1, 3, 3), (1, stride, stride), (0, padding, padding), bias=False
        )

    @staticmethod
    def get_downsample_stride(stride: int) -> tuple[int, int, int]:
        """The stride of a shortcut beside it."""
        return 1, stride, stride


class Conv2Plus1D(nn.Sequential):
    """A convolution of each picture, then one in time."""

    get_downsample_stride = staticmethod(Conv3DSimple.get_downsample_stride)

    def __init__(
        self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1
    ) -> None:
        super().__init__(
            Conv3DNoTemporal(in_planes, midplanes, None, stride, padding), nn.BatchNorm3d(midplanes), nn.ReLU(inplace=True),
            nn.Conv3d(midplanes, out_planes, (3, 1, 1), (stride, 1, 1), (padding, 0, 0), bias=False),
        )  # fmt: skip


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    expansion = 1

    def __init__(
        self, inplanes: int, planes: int, conv_builder: Any, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        middle = (
            inplanes * planes * 27 // (inplanes * 9 + 3 * planes)
        )  # as many numbers as 3 x 3 x 3 taps have
        self.conv1 = nn.Sequential(
            conv_builder(inplanes, planes, middle, stride), nn.BatchNorm3d(planes), nn.ReLU(inplace=True)
        )  # fmt: skip
        self.conv2 = nn.Sequential(conv_builder(planes, planes, middle), nn.BatchNorm3d(planes))
        self.relu = nn.ReLU(inplace=True)
        self.downsample, self.stride = downsample, stride

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


def _first(outputs: int, kernel: tuple, stride: tuple, padding: tuple, inputs: int = 3) -> list:
    conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
    return [conv, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)]


class BasicStem(nn.Sequential):
    """The first convolution."""

    def __init__(self) -> None:
        super().__init__(*_first(64, (3, 7, 7), (1, 2, 2), (1, 3, 3)))


class R2Plus1dStem(nn.Sequential):
    """The first convolutions, of each picture and in time."""

    def __init__(self) -> None:
        super().__init__(
            *_first(45, (1, 7, 7), (1, 2, 2), (0, 3, 3)), *_first(64, (3, 1, 1), (1, 1, 1), (1, 0, 0), 45)
        )  # fmt: skip


class VideoResNet(nn.Module):
    """Four stages of blocks after a stem, and a linear layer on the mean of all places and times."""

    def __init__(
        self, block: Any, conv_makers: Sequence[Any], layers: Sequence[int], stem: Callable[..., nn.Module],
        num_classes: int = 400, zero_init_residual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.inplanes = 64
        self.stem = stem()
        self.layer1 = self._make_layer(block, conv_makers[0], 64, layers[0])
        self.layer2 = self._make_layer(block, conv_makers[1], 128, layers[1], 2)
        self.layer3 = self._make_layer(block, conv_makers[2], 256, layers[2], 2)
        self.layer4 = self._make_layer(block, conv_makers[3], 512, layers[3], 2)
        self.avgpool = nn.AdaptiveAvgPool3d((1, 1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv3d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.BatchNorm3d):
                nn.init.ones_(m.weight)
                nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.01)
                nn.init.zeros_(m.bias)
        if zero_init_residual:  # each block begins as its shortcut
            for m in self.modules():
                if isinstance(m, BasicBlock):
                    nn.init.zeros_(m.conv2[1].weight)  # type: ignore[arg-type]

    def _make_layer(
        self, block: Any, conv: Any, planes: int, blocks: int, stride: int = 1
    ) -> nn.Sequential:
        out, shortcut = planes * block.expansion, None
        if stride != 1 or self.inplanes != out:
            step = conv.get_downsample_stride(stride)
            shortcut = nn.Sequential(
                nn.Conv3d(self.inplanes, out, 1, step, bias=False), nn.BatchNorm3d(out)
            )
        made = [block(self.inplanes, planes, conv, stride, shortcut)]
        self.inplanes = out
        made += [block(out, planes, conv) for _ in range(1, blocks)]
        return nn.Sequential(*made)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(self.avgpool(x).flatten(1))


# ---------------------------------------------------------------- S3D

Norm = Callable[..., nn.Module]


def _conv(
    inputs: int, outputs: int, norm: Norm, kernel: Any = 1, stride: Any = 1, padding: Any = 0
) -> nn.Sequential:
    conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, norm(outputs), nn.ReLU(inplace=True))


class TemporalSeparableConv(nn.Sequential):
    """A convolution of each picture, then one in time, each with a norm and an activation."""

    def __init__(
        self, in_planes: int, out_planes: int, kernel_size: int, stride: int, padding: int, norm_layer: Norm
    ) -> None:  # fmt: skip
        k, s, p = kernel_size, stride, padding
        super().__init__(
            _conv(in_planes, out_planes, norm_layer, (1, k, k), (1, s, s), (0, p, p)),
            _conv(out_planes, out_planes, norm_layer, (k, 1, 1), (s, 1, 1), (p, 0, 0)),
        )


class SepInceptionBlock3D(nn.Module):
    """Convolutions of several sizes side by side."""

    def __init__(
        self, in_planes: int, b0_out: int, b1_mid: int, b1_out: int, b2_mid: int, b2_out: int, b3_out: int, norm_layer: Norm
    ) -> None:  # fmt: skip
        super().__init__()
        norm = norm_layer
        self.branch0 = _conv(in_planes, b0_out, norm)
        self.branch1 = nn.Sequential(
            _conv(in_planes, b1_mid, norm), TemporalSeparableConv(b1_mid, b1_out, 3, 1, 1, norm)
        )
        self.branch2 = nn.Sequential(
            _conv(in_planes, b2_mid, norm), TemporalSeparableConv(b2_mid, b2_out, 3, 1, 1, norm)
        )
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), _conv(in_planes, b3_out, norm))

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch0, self.branch1, self.branch2, self.branch3)
        return kiln.cat([branch(x) for branch in branches], 1)


class S3D(nn.Module):
    """An Inception network whose convolutions are apart in time and space; of 14 pictures of 224 x 224 at least."""

    def __init__(
        self, num_classes: int = 400, dropout: float = 0.2, norm_layer: Norm | None = None
    ) -> None:
        super().__init__()
        norm = norm_layer or partial(nn.BatchNorm3d, eps=0.001, momentum=0.001)
        block = partial(SepInceptionBlock3D, norm_layer=norm)
        self.features = nn.Sequential(
            TemporalSeparableConv(3, 64, 7, 2, 3, norm), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            _conv(64, 64, norm), TemporalSeparableConv(64, 192, 3, 1, 1, norm),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)), block(192, 64, 96, 128, 16, 32, 32),
            block(256, 128, 128, 192, 32, 96, 64), nn.MaxPool3d(3, 2, 1), block(480, 192, 96, 208, 16, 48, 64),
            block(512, 160, 112, 224, 24, 64, 64), block(512, 128, 128, 256, 24, 64, 64),
            block(512, 112, 144, 288, 32, 64, 64), block(528, 256, 160, 320, 32, 128, 128), nn.MaxPool3d(2, 2),
            block(832, 256, 160, 320, 32, 128, 128), block(832, 384, 192, 384, 48, 128, 128),
        )  # fmt: skip
        self.avgpool = nn.AvgPool3d((2, 7, 7), 1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv3d(1024, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x))).mean((2, 3, 4))


R3D_18_Weights = weights("R3D_18_Weights", KINETICS400_V1="r3d_18-b3b3357e.pth")
MC3_18_Weights = weights("MC3_18_Weights", KINETICS400_V1="mc3_18-a90a0ba3.pth")
R2Plus1D_18_Weights = weights("R2Plus1D_18_Weights", KINETICS400_V1="r2plus1d_18-91a641e6.pth")
S3D_Weights = weights("S3D_Weights", KINETICS400_V1="s3d-d76dad2f.pth")


@model(R3D_18_Weights)
def r3d_18(**kwargs: Any) -> VideoResNet:
    """A residual network of 3 x 3 x 3 convolutions."""
    return VideoResNet(BasicBlock, [Conv3DSimple] * 4, [2] * 4, BasicStem, **kwargs)


@model(MC3_18_Weights)
def mc3_18(**kwargs: Any) -> VideoResNet:
    """A residual network whose first stage alone looks at several pictures at once."""
    makers = [Conv3DSimple, *[Conv3DNoTemporal] * 3]
    return VideoResNet(BasicBlock, makers, [2] * 4, BasicStem, **kwargs)


@model(R2Plus1D_18_Weights)
def r2plus1d_18(**kwargs: Any) -> VideoResNet:
    """A residual network of convolutions of pictures and in time, one after the other."""
    return VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [2] * 4, R2Plus1dStem, **kwargs)


@model(S3D_Weights)
def s3d(**kwargs: Any) -> S3D:
    """S3D."""
    return S3D(**kwargs)
