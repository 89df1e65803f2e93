"""AlexNet (Krizhevsky 2014), VGG (Simonyan & Zisserman 2015), SqueezeNet (Iandola et al. 2016) and DenseNet
(Huang et al. 2017)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import kiln

from ... import nn
from ...errors import KilnValueError
from ...tensor import Tensor
from ...utils.checkpoint import checkpoint
from .registry import model, weights

__all__ = [
    "VGG",
    "AlexNet",
    "AlexNet_Weights",
    "DenseNet",
    "DenseNet121_Weights",
    "DenseNet161_Weights",
    "DenseNet169_Weights",
    "DenseNet201_Weights",
    "Fire",
    "SqueezeNet",
    "SqueezeNet1_0_Weights",
    "SqueezeNet1_1_Weights",
    "VGG11_BN_Weights",
    "VGG11_Weights",
    "VGG13_BN_Weights",
    "VGG13_Weights",
    "VGG16_BN_Weights",
    "VGG16_Weights",
    "VGG19_BN_Weights",
    "VGG19_Weights",
    "alexnet",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

# ---------------------------------------------------------------- AlexNet


class AlexNet(nn.Module):
    """Five convolutions and three linear layers."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True),
            nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


AlexNet_Weights = weights("AlexNet_Weights", "alexnet-owt-7be5be79.pth")


@model(AlexNet_Weights)
def alexnet(**kwargs: Any) -> AlexNet:
    """AlexNet."""
    return AlexNet(**kwargs)


# ---------------------------------------------------------------- VGG


class VGG(nn.Module):
    """Stages of 3 x 3 convolutions, and three linear layers."""

    def __init__(
        self, features: nn.Module, num_classes: int = 1000, init_weights: bool = True, dropout: float = 0.5
    ) -> None:  # fmt: skip
        super().__init__()
        self.features, self.avgpool = features, nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(True), nn.Dropout(dropout),
            nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout(dropout), nn.Linear(4096, num_classes),
        )  # fmt: skip
        if not init_weights:
            return
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
                if m.bias is not None:
                    nn.init.constant_(m.bias, 0)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.01)
                nn.init.constant_(m.bias, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def make_layers(cfg: Sequence[int | str], batch_norm: bool = False) -> nn.Sequential:
    """Convolutions with these numbers of channels, and a pooling for each "M"."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in cfg:
        if isinstance(outputs, str):
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
        layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
        inputs = outputs
    return nn.Sequential(*layers)


def _vgg(depth: int, norm: bool, options: dict[str, Any]) -> VGG:
    cfg: list[int | str] = []
    for count, outputs in zip(_STAGES[depth], (64, 128, 256, 512, 512), strict=True):
        cfg += [outputs] * count + ["M"]
    return VGG(make_layers(cfg, norm), **options)


VGG11_Weights = weights("VGG11_Weights", "vgg11-8a719046.pth")
VGG11_BN_Weights = weights("VGG11_BN_Weights", "vgg11_bn-6002323d.pth")
VGG13_Weights = weights("VGG13_Weights", "vgg13-19584684.pth")
VGG13_BN_Weights = weights("VGG13_BN_Weights", "vgg13_bn-abd245e5.pth")
VGG16_Weights = weights(
    "VGG16_Weights", "vgg16-397923af.pth", IMAGENET1K_FEATURES="vgg16_features-amdegroot-88682ab5.pth"
)  # fmt: skip
VGG16_BN_Weights = weights("VGG16_BN_Weights", "vgg16_bn-6c64b313.pth")
VGG19_Weights = weights("VGG19_Weights", "vgg19-dcbb9e9d.pth")
VGG19_BN_Weights = weights("VGG19_BN_Weights", "vgg19_bn-c79401a0.pth")


@model(VGG11_Weights)
def vgg11(**kwargs: Any) -> VGG:
    """VGG with 11 layers."""
    return _vgg(11, False, kwargs)


@model(VGG11_BN_Weights)
def vgg11_bn(**kwargs: Any) -> VGG:
    """VGG with 11 layers and batch norms."""
    return _vgg(11, True, kwargs)


@model(VGG13_Weights)
def vgg13(**kwargs: Any) -> VGG:
    """VGG with 13 layers."""
    return _vgg(13, False, kwargs)


@model(VGG13_BN_Weights)
def vgg13_bn(**kwargs: Any) -> VGG:
    """VGG with 13 layers and batch norms."""
    return _vgg(13, True, kwargs)


@model(VGG16_Weights)
def vgg16(**kwargs: Any) -> VGG:
    """VGG with 16 layers."""
    return _vgg(16, False, kwargs)


@model(VGG16_BN_Weights)
def vgg16_bn(**kwargs: Any) -> VGG:
    """VGG with 16 layers and batch norms."""
    return _vgg(16, True, kwargs)


@model(VGG19_Weights)
def vgg19(**kwargs: Any) -> VGG:
    """VGG with 19 layers."""
    return _vgg(19, False, kwargs)


@model(VGG19_BN_Weights)
def vgg19_bn(**kwargs: Any) -> VGG:
    """VGG with 19 layers and batch norms."""
    return _vgg(19, True, kwargs)


# ---------------------------------------------------------------- SqueezeNet


class Fire(nn.Module):
    """A 1 x 1 convolution to few channels, and 1 x 1 and 3 x 3 ones from there."""

    def __init__(
        self, inplanes: int, squeeze_planes: int, expand1x1_planes: int, expand3x3_planes: int
    ) -> None:
        super().__init__()
        self.inplanes = inplanes
        self.squeeze = nn.Conv2d(inplanes, squeeze_planes, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze_planes, expand1x1_planes, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze_planes, expand3x3_planes, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return kiln.cat(
            [
                self.expand1x1_activation(self.expand1x1(x)),
                self.expand3x3_activation(self.expand3x3(x)),
            ],
            1,
        )


class SqueezeNet(nn.Module):
    """Fire modules, with a convolution in place of a last linear layer."""

    def __init__(self, version: str = "1_0", num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.num_classes = num_classes
        if version not in ("1_0", "1_1"):
            raise KilnValueError(
                "SqueezeNet",
                f"Unsupported SqueezeNet version {version}: 1_0 or 1_1 expected",
                version,
            )
        first = nn.Conv2d(3, 96, 7, 2) if version == "1_0" else nn.Conv2d(3, 64, 3, 2)
        layers: list[nn.Module] = [first, nn.ReLU(inplace=True)]
        inputs = first.out_channels
        pools = (0, 3, 7) if version == "1_0" else (0, 2, 4)
        for i, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
            if i in pools:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            layers.append(Fire(inputs, squeeze, squeeze * 4, squeeze * 4))
            inputs = squeeze * 8
        self.features = nn.Sequential(*layers)
        last = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                if m is last:
                    nn.init.normal_(m.weight, mean=0.0, std=0.01)
                else:
                    nn.init.kaiming_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.constant_(m.bias, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).flatten(1)


SqueezeNet1_0_Weights = weights("SqueezeNet1_0_Weights", "squeezenet1_0-b66bff10.pth")
SqueezeNet1_1_Weights = weights("SqueezeNet1_1_Weights", "squeezenet1_1-b8a52dc0.pth")


@model(SqueezeNet1_0_Weights)
def squeezenet1_0(**kwargs: Any) -> SqueezeNet:
    """SqueezeNet 1.0."""
    return SqueezeNet("1_0", **kwargs)


@model(SqueezeNet1_1_Weights)
def squeezenet1_1(**kwargs: Any) -> SqueezeNet:
    """SqueezeNet 1.1, with less work."""
    return SqueezeNet("1_1", **kwargs)


# ---------------------------------------------------------------- DenseNet


class _DenseLayer(nn.Module):
    """A few new channels from all before."""

    def __init__(
        self, inputs: int, growth_rate: int, bn_size: int, drop_rate: float, memory_efficient: bool = False
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, bn_size * growth_rate, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(bn_size * growth_rate), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(bn_size * growth_rate, growth_rate, 3, padding=1, bias=False)
        self.drop_rate, self.memory_efficient = float(drop_rate), memory_efficient

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any) -> None:
        for i in (1, 2):  # published weights are of layers named `norm.1`
            for old in [
                k for k in state_dict if k.startswith((f"{prefix}norm.{i}.", f"{prefix}conv.{i}."))
            ]:
                state_dict[f"{prefix}{old.removeprefix(prefix).replace('.', '', 1)}"] = (
                    state_dict.pop(old)
                )
        super()._load_from_state_dict(state_dict, prefix, *more)

    def _narrow(self, *features: Tensor) -> Tensor:
        return self.conv1(self.relu1(self.norm1(kiln.cat(features, 1))))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        if self.memory_efficient and any(f.requires_grad for f in features):
            x = checkpoint(self._narrow, *features, use_reentrant=False)
        else:
            x = self._narrow(*features)
        x = self.conv2(self.relu2(self.norm2(x)))
        return nn.functional.dropout(x, self.drop_rate, self.training) if self.drop_rate > 0 else x


class _DenseBlock(nn.ModuleDict):
    """Layers that each see what all before have made."""

    def __init__(
        self, count: int, inputs: int, bn_size: int, growth_rate: int, *options: Any
    ) -> None:
        super().__init__()
        for i in range(count):
            layer = _DenseLayer(inputs + i * growth_rate, growth_rate, bn_size, *options)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return kiln.cat(features, 1)


class _Transition(nn.Sequential):
    """Half of the channels, half of the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(OrderedDict(
            norm=nn.BatchNorm2d(inputs), relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(inputs, outputs, 1, bias=False), pool=nn.AvgPool2d(2, 2),
        ))  # fmt: skip


class DenseNet(nn.Module):
    """Four blocks of layers that see all features before."""

    def __init__(
        self, growth_rate: int = 32, block_config: Sequence[int] = (6, 12, 24, 16), num_init_features: int = 64,
        bn_size: int = 4, drop_rate: float = 0, num_classes: int = 1000, memory_efficient: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        width = num_init_features
        self.features = nn.Sequential(OrderedDict(
            conv0=nn.Conv2d(3, width, 7, 2, 3, bias=False), norm0=nn.BatchNorm2d(width),
            relu0=nn.ReLU(inplace=True), pool0=nn.MaxPool2d(3, 2, 1),
        ))  # fmt: skip
        for i, count in enumerate(block_config, 1):
            block = _DenseBlock(count, width, bn_size, growth_rate, drop_rate, memory_efficient)
            self.features.add_module(f"denseblock{i}", block)
            width += count * growth_rate
            if i < len(block_config):
                self.features.add_module(f"transition{i}", _Transition(width, width // 2))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)
            elif isinstance(m, nn.Linear):
                nn.init.constant_(m.bias, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.features(x), inplace=True)
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


DenseNet121_Weights = weights("DenseNet121_Weights", "densenet121-a639ec97.pth")
DenseNet161_Weights = weights("DenseNet161_Weights", "densenet161-8d451a50.pth")
DenseNet169_Weights = weights("DenseNet169_Weights", "densenet169-b2777c0a.pth")
DenseNet201_Weights = weights("DenseNet201_Weights", "densenet201-c1103571.pth")


@model(DenseNet121_Weights)
def densenet121(**kwargs: Any) -> DenseNet:
    """DenseNet-121."""
    return DenseNet(32, (6, 12, 24, 16), 64, **kwargs)


@model(DenseNet161_Weights)
def densenet161(**kwargs: Any) -> DenseNet:
    """DenseNet-161."""
    return DenseNet(48, (6, 12, 36, 24), 96, **kwargs)


@model(DenseNet169_Weights)
def densenet169(**kwargs: Any) -> DenseNet:
    """DenseNet-169."""
    return DenseNet(32, (6, 12, 32, 32), 64, **kwargs)


@model(DenseNet201_Weights)
def densenet201(**kwargs: Any) -> DenseNet:
    """DenseNet-201."""
    return DenseNet(32, (6, 12, 48, 32), 64, **kwargs)
