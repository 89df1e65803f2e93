"""A class for each pixel: FCN (Long et al. 2015), DeepLabV3 (Chen et al. 2017) and LR-ASPP (Howard et al. 2019)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import kiln
import kiln.nn.functional as F

from ... import nn
from ...tensor import Tensor
from ._utils import IntermediateLayerGetter
from .detection.backbone_utils import stages
from .mobilenetv3 import MobileNet_V3_Large_Weights, mobilenet_v3_large
from .registry import model, weights
from .resnet import ResNet50_Weights, ResNet101_Weights, resnet50, resnet101

__all__ = [
    "FCN",
    "LRASPP",
    "DeepLabV3",
    "DeepLabV3_MobileNet_V3_Large_Weights",
    "DeepLabV3_ResNet50_Weights",
    "DeepLabV3_ResNet101_Weights",
    "FCN_ResNet50_Weights",
    "FCN_ResNet101_Weights",
    "LRASPP_MobileNet_V3_Large_Weights",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
]  # fmt: skip


class _SimpleSegmentationModel(nn.Module):
    """A backbone and a classifier of places, whose scores are as large as the picture: `{"out": …, "aux": …}`."""

    def __init__(
        self, backbone: nn.Module, classifier: nn.Module, aux_classifier: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, aux_classifier

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        features = self.backbone(x)
        heads = {"out": self.classifier, "aux": self.aux_classifier}
        return OrderedDict(
            (name, F.interpolate(head(features[name]), size=x.shape[-2:], mode="bilinear", align_corners=False))
            for name, head in heads.items() if head is not None
        )  # fmt: skip


class FCN(_SimpleSegmentationModel):
    """A fully convolutional network."""


class DeepLabV3(_SimpleSegmentationModel):
    """A network with dilated convolutions of several rates side by side."""


def _block(
    inputs: int, outputs: int, kernel: int = 1, padding: int = 0, dilation: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


class FCNHead(nn.Sequential):
    """A narrow convolution and a classifier of places."""

    def __init__(self, in_channels: int, channels: int) -> None:
        inner = in_channels // 4
        super().__init__(
            *_block(in_channels, inner, 3, 1), nn.Dropout(0.1), nn.Conv2d(inner, channels, 1)
        )


class ASPPConv(nn.Sequential):
    """A convolution of one rate."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__(*_block(in_channels, out_channels, 3, dilation, dilation))


class ASPPPooling(nn.Sequential):
    """The mean of the whole picture, at each place."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_block(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        return F.interpolate(super().forward(x), size=size, mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """Convolutions of several rates side by side."""

    def __init__(
        self, in_channels: int, atrous_rates: Sequence[int], out_channels: int = 256
    ) -> None:
        super().__init__()
        parts = [nn.Sequential(*_block(in_channels, out_channels))]
        parts += [ASPPConv(in_channels, out_channels, r) for r in atrous_rates]
        self.convs = nn.ModuleList([*parts, ASPPPooling(in_channels, out_channels)])
        joined = len(self.convs) * out_channels
        self.project = nn.Sequential(*_block(joined, out_channels), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(kiln.cat([conv(x) for conv in self.convs], 1))


class DeepLabHead(nn.Sequential):
    """Convolutions of several rates, and a classifier of places."""

    def __init__(
        self, in_channels: int, num_classes: int, atrous_rates: Sequence[int] = (12, 24, 36)
    ) -> None:
        super().__init__(
            ASPP(in_channels, atrous_rates), *_block(256, 256, 3, 1), nn.Conv2d(256, num_classes, 1)
        )


def _over_resnet(
    kind: Callable[..., Any], head: Callable[..., nn.Module], resnet: Callable[..., nn.Module], known: Any,
    num_classes: int | None = None, aux_loss: bool | None = None, **options: Any,
) -> Any:  # fmt: skip
    classes = 21 if num_classes is None else num_classes
    backbone = resnet(
        weights=options.get("weights_backbone", known.IMAGENET1K_V1), replace_stride_with_dilation=[False, True, True]
    )  # fmt: skip
    layers = {"layer4": "out"} | ({"layer3": "aux"} if aux_loss else {})
    aux = FCNHead(1024, classes) if aux_loss else None
    return kind(IntermediateLayerGetter(backbone, layers), head(2048, classes), aux)


class LRASPP(nn.Module):
    """Scores from two maps of a backbone: `{"out": …}`."""

    def __init__(
        self, backbone: nn.Module, low_channels: int, high_channels: int, num_classes: int, inter_channels: int = 128
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.classifier = LRASPPHead(low_channels, high_channels, num_classes, inter_channels)

    def forward(self, input: Tensor) -> OrderedDict[str, Tensor]:
        out = self.classifier(self.backbone(input))
        size = input.shape[-2:]
        return OrderedDict(out=F.interpolate(out, size=size, mode="bilinear", align_corners=False))


class LRASPPHead(nn.Module):
    """A small map weighted by the mean of the whole picture, and scores of it and of a large map."""

    def __init__(
        self, low_channels: int, high_channels: int, num_classes: int, inter_channels: int
    ) -> None:
        super().__init__()
        self.cbr = nn.Sequential(*_block(high_channels, inter_channels))
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(high_channels, inter_channels, 1, bias=False), nn.Sigmoid()
        )  # fmt: skip
        self.low_classifier = nn.Conv2d(low_channels, num_classes, 1)
        self.high_classifier = nn.Conv2d(inter_channels, num_classes, 1)

    def forward(self, input: dict[str, Tensor]) -> Tensor:
        low, high = input["low"], input["high"]
        x = self.cbr(high) * self.scale(high)
        x = F.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.low_classifier(low) + self.high_classifier(x)


def _dilated(options: dict[str, Any]) -> tuple[Any, list[int]]:
    """The features of a MobileNetV3 whose last maps are not strided, and where its stages begin."""
    chosen = options.pop("weights_backbone", MobileNet_V3_Large_Weights["IMAGENET1K_V1"])
    features = mobilenet_v3_large(weights=chosen, dilated=True).features
    return features, stages(features)


def _published(options: dict[str, Any]) -> Any:
    return {
        **options,
        "weights_backbone": None,
        "aux_loss": True,
        "num_classes": 21,
    }, lambda net: None


def _published_small(options: dict[str, Any]) -> Any:
    return {**options, "weights_backbone": None, "num_classes": 21}, lambda net: None


FCN_ResNet50_Weights = weights(
    "FCN_ResNet50_Weights", COCO_WITH_VOC_LABELS_V1="fcn_resnet50_coco-1167a1af.pth"
)
FCN_ResNet101_Weights = weights(
    "FCN_ResNet101_Weights", COCO_WITH_VOC_LABELS_V1="fcn_resnet101_coco-7ecb50ca.pth"
)
DeepLabV3_ResNet50_Weights = weights(
    "DeepLabV3_ResNet50_Weights", COCO_WITH_VOC_LABELS_V1="deeplabv3_resnet50_coco-cd0a2569.pth"
)
DeepLabV3_ResNet101_Weights = weights(
    "DeepLabV3_ResNet101_Weights", COCO_WITH_VOC_LABELS_V1="deeplabv3_resnet101_coco-586e9e4e.pth"
)
DeepLabV3_MobileNet_V3_Large_Weights = weights(
    "DeepLabV3_MobileNet_V3_Large_Weights", COCO_WITH_VOC_LABELS_V1="deeplabv3_mobilenet_v3_large-fc3c493d.pth"
)  # fmt: skip
LRASPP_MobileNet_V3_Large_Weights = weights(
    "LRASPP_MobileNet_V3_Large_Weights", COCO_WITH_VOC_LABELS_V1="lraspp_mobilenet_v3_large-d234d4ea.pth"
)  # fmt: skip


@model(FCN_ResNet50_Weights, _published)
def fcn_resnet50(**kwargs: Any) -> FCN:
    """FCN over ResNet-50."""
    return _over_resnet(FCN, FCNHead, resnet50, ResNet50_Weights, **kwargs)


@model(FCN_ResNet101_Weights, _published)
def fcn_resnet101(**kwargs: Any) -> FCN:
    """FCN over ResNet-101."""
    return _over_resnet(FCN, FCNHead, resnet101, ResNet101_Weights, **kwargs)


@model(DeepLabV3_ResNet50_Weights, _published)
def deeplabv3_resnet50(**kwargs: Any) -> DeepLabV3:
    """DeepLabV3 over ResNet-50."""
    return _over_resnet(DeepLabV3, DeepLabHead, resnet50, ResNet50_Weights, **kwargs)


@model(DeepLabV3_ResNet101_Weights, _published)
def deeplabv3_resnet101(**kwargs: Any) -> DeepLabV3:
    """DeepLabV3 over ResNet-101."""
    return _over_resnet(DeepLabV3, DeepLabHead, resnet101, ResNet101_Weights, **kwargs)


@model(DeepLabV3_MobileNet_V3_Large_Weights, _published)
def deeplabv3_mobilenet_v3_large(
    *, num_classes: int | None = None, aux_loss: bool | None = None, **kwargs: Any
) -> DeepLabV3:
    """DeepLabV3 over MobileNetV3."""
    features, at = _dilated(kwargs)
    classes = num_classes or 21
    layers = {str(at[-1]): "out"} | ({str(at[-4]): "aux"} if aux_loss else {})
    aux = FCNHead(features[at[-4]].out_channels, classes) if aux_loss else None
    head = DeepLabHead(features[at[-1]].out_channels, classes)
    return DeepLabV3(IntermediateLayerGetter(features, layers), head, aux)


@model(LRASPP_MobileNet_V3_Large_Weights, _published_small)
def lraspp_mobilenet_v3_large(*, num_classes: int | None = None, **kwargs: Any) -> LRASPP:
    """LR-ASPP over MobileNetV3."""
    features, at = _dilated(kwargs)
    low, high = at[-4], at[-1]
    backbone = IntermediateLayerGetter(features, {str(low): "low", str(high): "high"})
    widths = features[low].out_channels, features[high].out_channels
    return LRASPP(backbone, *widths, num_classes or 21)
