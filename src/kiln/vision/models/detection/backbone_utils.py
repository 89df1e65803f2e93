"""Networks of pictures as backbones of detectors: their feature maps, and which of their weights are fixed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from .... import nn
from ....errors import KilnValueError
from ....tensor import Tensor
from ... import ops
from .. import mobile, mobilenetv3, resnet
from .._utils import IntermediateLayerGetter


class BackboneWithFPN(nn.Module):
    """A feature pyramid over maps of a network, all of `out_channels` channels."""

    def __init__(
        self, backbone: nn.Module, return_layers: dict[str, str], in_channels_list: Sequence[int], out_channels: int,
        extra_blocks: nn.Module | None = None, norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.body = IntermediateLayerGetter(backbone, return_layers)
        self.fpn = ops.FeaturePyramidNetwork(
            in_channels_list, out_channels, extra_blocks or ops.LastLevelMaxPool(), norm_layer
        )
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


def _within(name: str, value: Any, low: int, high: int) -> None:
    if not all(low <= v <= high for v in value):
        raise KilnValueError(
            "detection", f"{name} should be in the range [{low},{high}], got {list(value)}", list(value), ""
        )  # fmt: skip


def _resnet_fpn_extractor(
    backbone: Any, trainable_layers: int, returned_layers: Sequence[int] | None = None, extra_blocks: nn.Module | None = None,
    norm_layer: Callable[..., nn.Module] | None = None,
) -> BackboneWithFPN:  # fmt: skip
    """A pyramid over a ResNet, of which the last `trainable_layers` stages are trained."""
    _within("Trainable layers", [trainable_layers], 0, 5)
    layers = list(returned_layers or (1, 2, 3, 4))
    _within("Each returned layer", layers, 1, 4)
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trained.append("bn1")
    for name, p in backbone.named_parameters():
        if not name.startswith(tuple(trained)):
            p.requires_grad_(False)
    names = {f"layer{k}": str(i) for i, k in enumerate(layers)}
    channels = [backbone.inplanes // 8 * 2 ** (k - 1) for k in layers]
    return BackboneWithFPN(backbone, names, channels, 256, extra_blocks, norm_layer)


def resnet_fpn_backbone(
    *, backbone_name: str, weights: Any = None, norm_layer: Callable[..., nn.Module] = ops.FrozenBatchNorm2d,
    trainable_layers: int = 3, returned_layers: Sequence[int] | None = None, extra_blocks: nn.Module | None = None,
    pretrained: bool = False,
) -> BackboneWithFPN:  # fmt: skip
    """A pyramid over a ResNet by its name."""
    made = getattr(resnet, backbone_name)(
        weights=weights, pretrained=pretrained, norm_layer=norm_layer
    )
    return _resnet_fpn_extractor(made, trainable_layers, returned_layers, extra_blocks)


def stages(features: nn.Sequential) -> list[int]:
    """Where the parts of a MobileNet are that halve the picture, beside the first and the last."""
    strided = [i for i, b in enumerate(features) if getattr(b, "_is_cn", False)]
    return [0, *strided, len(features) - 1]


def freeze(features: nn.Sequential, at: Sequence[int], trainable: int) -> None:
    """Train only the last stages, which begin at these places."""
    _within("Trainable layers", [trainable], 0, len(at))
    first = at[len(at) - trainable] if trainable else len(features)
    for b in features[:first]:
        for p in b.parameters():
            p.requires_grad_(False)


def _mobilenet_extractor(
    backbone: Any, fpn: bool, trainable_layers: int, returned_layers: Sequence[int] | None = None,
    extra_blocks: nn.Module | None = None, norm_layer: Callable[..., nn.Module] | None = None,
) -> nn.Module:  # fmt: skip
    """A pyramid over stages of a MobileNet, or its last map with fewer channels."""
    features = backbone.features
    at = stages(features)
    freeze(features, at, trainable_layers)
    if not fpn:
        whole = nn.Sequential(features, nn.Conv2d(features[-1].out_channels, 256, 1))
        whole.out_channels = 256  # type: ignore[assignment]
        return whole
    layers = list(returned_layers or (len(at) - 2, len(at) - 1))
    _within("Each returned layer", layers, 0, len(at) - 1)
    names = {str(at[k]): str(i) for i, k in enumerate(layers)}
    channels = [features[at[k]].out_channels for k in layers]
    return BackboneWithFPN(features, names, channels, 256, extra_blocks, norm_layer)


def mobilenet_backbone(
    *, backbone_name: str, weights: Any = None, fpn: bool, norm_layer: Callable[..., nn.Module] = ops.FrozenBatchNorm2d,
    trainable_layers: int = 2, returned_layers: Sequence[int] | None = None, extra_blocks: nn.Module | None = None,
) -> nn.Module:  # fmt: skip
    """A MobileNet by its name as a backbone."""
    room = mobile if hasattr(mobile, backbone_name) else mobilenetv3
    made = getattr(room, backbone_name)(weights=weights, norm_layer=norm_layer)
    return _mobilenet_extractor(made, fpn, trainable_layers, returned_layers, extra_blocks)


def _validate_trainable_layers(
    is_trained: bool, trainable_backbone_layers: int | None, max_value: int, default_value: int
) -> int:
    """How many stages are trained: all, where none has been before."""
    n = trainable_backbone_layers
    if not is_trained:
        if n is not None:
            warnings.warn(
                "Changing trainable_backbone_layers has no effect if neither pretrained nor pretrained_backbone have been set "
                f"to True, falling back to trainable_backbone_layers={max_value} so that all layers are trainable",
                stacklevel=3,
            )  # fmt: skip
        return max_value
    n = default_value if n is None else n
    _within("Trainable backbone layers", [n], 0, max_value)
    return n
