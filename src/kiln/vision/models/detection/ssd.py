"""SSD (Liu et al. 2016) over VGG-16, and SSDLite (Sandler et al. 2018) over MobileNetV3."""

from __future__ import annotations

import itertools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import kiln
import kiln.nn.functional as F

from .... import nn
from ....errors import KilnValueError
from ....tensor import Tensor
from ... import ops
from ..classic import VGG16_Weights, vgg16
from ..mobilenetv3 import MobileNet_V3_Large_Weights, mobilenet_v3_large
from ..registry import model, weights
from ._utils import BoxCoder, SSDMatcher, flat_by_place, retrieve_out_channels
from .anchor_utils import DefaultBoxGenerator
from .backbone_utils import _validate_trainable_layers, freeze, stages
from .generalized_rcnn import OneStage, coco, fitting, transform_of
from .retinanet import unmatched
from .transform import Sizes, Targets

__all__ = [
    "SSD",
    "SSD300_VGG16_Weights",
    "SSDLite320_MobileNet_V3_Large_Weights",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
]

Norm = Callable[..., nn.Module]


def _begin(net: nn.Module, draw: Callable[[Tensor], Any]) -> None:
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            draw(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


_xavier_init = partial(_begin, draw=nn.init.xavier_uniform_)
_normal_init = partial(_begin, draw=partial(nn.init.normal_, mean=0.0, std=0.03))


def _maps(features: Sequence[Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((str(i), m) for i, m in enumerate(features))


# ---------------------------------------------------------------- heads


class SSDScoringHead(nn.Module):
    """A module for each map, whose channels are so many columns of each anchor."""

    def __init__(self, module_list: nn.ModuleList, num_columns: int) -> None:
        super().__init__()
        self.module_list, self.num_columns = module_list, num_columns

    def forward(self, x: list[Tensor]) -> Tensor:
        told = [head(m) for head, m in zip(self.module_list, x, strict=True)]
        return kiln.cat([flat_by_place(m, self.num_columns) for m in told], 1)


def _convolutions(
    in_channels: Sequence[int], num_anchors: Sequence[int], columns: int
) -> nn.ModuleList:
    made = nn.ModuleList(
        nn.Conv2d(c, columns * n, 3, padding=1)
        for c, n in zip(in_channels, num_anchors, strict=True)
    )
    _xavier_init(made)
    return made


class SSDClassificationHead(SSDScoringHead):
    """The score of each class for each anchor."""

    def __init__(
        self, in_channels: Sequence[int], num_anchors: Sequence[int], num_classes: int
    ) -> None:
        super().__init__(_convolutions(in_channels, num_anchors, num_classes), num_classes)


class SSDRegressionHead(SSDScoringHead):
    """Four numbers for each anchor."""

    def __init__(self, in_channels: Sequence[int], num_anchors: Sequence[int]) -> None:
        super().__init__(_convolutions(in_channels, num_anchors, 4), 4)


class SSDHead(nn.Module):
    """A head for classes and one for boxes."""

    def __init__(
        self, in_channels: Sequence[int], num_anchors: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        self.classification_head: nn.Module = SSDClassificationHead(
            in_channels, num_anchors, num_classes
        )
        self.regression_head: nn.Module = SSDRegressionHead(in_channels, num_anchors)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {
            "bbox_regression": self.regression_head(x),
            "cls_logits": self.classification_head(x),
        }


def _prediction_blocks(
    in_channels: Sequence[int], num_anchors: Sequence[int], columns: int, norm: Norm
) -> nn.ModuleList:
    """Of each map a depthwise and a 1 x 1 convolution."""
    made = nn.ModuleList(
        nn.Sequential(
            ops.Conv2dNormActivation(c, c, 3, groups=c, norm_layer=norm, activation_layer=nn.ReLU6),
            nn.Conv2d(c, columns * n, 1),
        )
        for c, n in zip(in_channels, num_anchors, strict=True)
    )
    _normal_init(made)
    return made


class SSDLiteClassificationHead(SSDScoringHead):
    """`SSDClassificationHead` with depthwise convolutions."""

    def __init__(
        self, in_channels: Sequence[int], num_anchors: Sequence[int], num_classes: int, norm_layer: Norm
    ) -> None:  # fmt: skip
        super().__init__(
            _prediction_blocks(in_channels, num_anchors, num_classes, norm_layer), num_classes
        )


class SSDLiteRegressionHead(SSDScoringHead):
    """`SSDRegressionHead` with depthwise convolutions."""

    def __init__(
        self, in_channels: Sequence[int], num_anchors: Sequence[int], norm_layer: Norm
    ) -> None:
        super().__init__(_prediction_blocks(in_channels, num_anchors, 4, norm_layer), 4)


class SSDLiteHead(SSDHead):
    """`SSDHead` with depthwise convolutions."""

    def __init__(
        self, in_channels: Sequence[int], num_anchors: Sequence[int], num_classes: int, norm_layer: Norm
    ) -> None:  # fmt: skip
        nn.Module.__init__(self)
        self.classification_head = SSDLiteClassificationHead(
            in_channels, num_anchors, num_classes, norm_layer
        )
        self.regression_head = SSDLiteRegressionHead(in_channels, num_anchors, norm_layer)


# ---------------------------------------------------------------- the detector


class SSD(OneStage):
    """A detector of one stage, of pictures resized to `size` (width, height); see `Detector` for what it takes and gives."""

    def __init__(
        self, backbone: nn.Module, anchor_generator: DefaultBoxGenerator, size: tuple[int, int], num_classes: int,
        image_mean: Any = None, image_std: Any = None, head: Any = None, score_thresh: float = 0.01, nms_thresh: float = 0.45,
        detections_per_img: int = 200, iou_thresh: float = 0.5, topk_candidates: int = 400, positive_fraction: float = 0.25,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone, self.anchor_generator = backbone, anchor_generator
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        if head is None:
            channels = getattr(backbone, "out_channels", None)
            channels = retrieve_out_channels(backbone, size) if channels is None else channels
            if len(channels) != len(anchor_generator.aspect_ratios):
                raise KilnValueError(
                    "SSD", f"The length of the output channels from the backbone ({len(channels)}) do not match the length of the "
                    f"anchor generator aspect ratios ({len(anchor_generator.aspect_ratios)})", channels, "",
                )  # fmt: skip
            head = SSDHead(channels, anchor_generator.num_anchors_per_location(), num_classes)
        self.head = head
        self.proposal_matcher = SSDMatcher(iou_thresh)
        self.transform = transform_of(
            min(size), max(size), image_mean, image_std, size_divisible=1, fixed_size=size, **kwargs
        )
        self._options(score_thresh, nms_thresh, detections_per_img, topk_candidates)
        self.neg_to_pos_ratio = (1.0 - positive_fraction) / positive_fraction

    def _losses(self, targets: Any, outputs: Any, anchors: list[Tensor], places: list[int]) -> Any:
        matched = [
            self.proposal_matcher(ops.box_iou(t["boxes"], own)) if t["boxes"].numel() else unmatched(own)
            for t, own in zip(targets, anchors, strict=True)
        ]  # fmt: skip
        return self.compute_loss(targets, outputs, anchors, matched)

    def compute_loss(
        self, targets: Targets, head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:  # fmt: skip
        """How far boxes and classes are off, by the number of anchors with a true box.

        Of the others those count whose classes are farthest off, `neg_to_pos_ratio` times as many.
        """
        count, boxes, aims = 0, [], []
        told = head_outputs["bbox_regression"]
        for target, numbers, own, matched in zip(targets, told, anchors, matched_idxs, strict=True):
            some = kiln.where(matched >= 0)[0]
            who = matched[some]
            count += len(some)
            true = self.box_coder.encode_single(target["boxes"][who], own[some])
            boxes.append(F.smooth_l1_loss(numbers[some], true, reduction="sum"))
            aim = kiln.zeros(len(numbers), dtype=target["labels"].dtype)
            aim[some] = target["labels"][who]
            aims.append(aim)
        aim, logits = kiln.stack(aims), head_outputs["cls_logits"]
        loss = F.cross_entropy(logits.flatten(0, 1), aim.flatten(), reduction="none")
        loss = loss.reshape(aim.shape)
        some = aim > 0
        worst_first = loss.detach().masked_fill(some, -float("inf")).argsort(1, True)
        hard = worst_first.argsort(1) < self.neg_to_pos_ratio * some.sum(1, keepdim=True)
        n = max(1, count)
        return {
            "bbox_regression": kiln.stack(boxes).sum() / n,
            "classification": (loss[some].sum() + loss[hard].sum()) / n,
        }

    def _found(
        self, outputs: dict[str, Tensor], anchors: list[Tensor], image_shapes: Sizes, places: list[int]
    ) -> Targets:  # fmt: skip
        found = []
        scores_of = F.softmax(outputs["cls_logits"], -1)
        of = zip(outputs["bbox_regression"], scores_of, anchors, image_shapes, strict=True)
        for numbers, scores, own, size in of:
            boxes = ops.clip_boxes_to_image(self.box_coder.decode_single(numbers, own), size)
            kept = []
            for label in range(1, scores.shape[1]):
                who = kiln.where(scores[:, label] > self.score_thresh)[0]
                score, best = scores[who, label].topk(min(self.topk_candidates, len(who)))
                kept.append((boxes[who[best]], score, kiln.full((len(best),), label)))
            found.append(self._apart(*(kiln.cat(list(group)) for group in zip(*kept, strict=True))))
        return found


# ---------------------------------------------------------------- backbones


class SSDFeatureExtractorVGG(nn.Module):
    """Six maps (seven where `highres`) of a VGG's features and of convolutions after them."""

    def __init__(self, backbone: nn.Sequential, highres: bool) -> None:
        super().__init__()
        pools = [i for i, m in enumerate(backbone) if isinstance(m, nn.MaxPool2d)]
        backbone[pools[2]].ceil_mode = True  # 75 places become 38, as in the paper
        self.scale_weight = nn.Parameter(kiln.ones(512) * 20)
        self.features = nn.Sequential(*backbone[: pools[3]])
        rows = [
            (1024, 256, 512, 3, 1, 2),
            (512, 128, 256, 3, 1, 2),
            (256, 128, 256, 3, 0, 1),
            (256, 128, 256, 3, 0, 1),
        ]
        if highres:
            rows.append((256, 128, 256, 4, 0, 1))
        more = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 1), nn.ReLU(inplace=True), nn.Conv2d(b, c, kernel, stride, padding), nn.ReLU(inplace=True)
            )
            for a, b, c, kernel, padding, stride in rows
        )  # fmt: skip
        _xavier_init(more)
        wide = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1), nn.ReLU(inplace=True),
        )  # fmt: skip
        _xavier_init(wide)
        more.insert(0, nn.Sequential(*backbone[pools[3] : -1], wide))
        self.extra = more

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = self.features(x)
        maps = [self.scale_weight.reshape(1, -1, 1, 1) * F.normalize(x)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return _maps(maps)


def _vgg_extractor(backbone: Any, highres: bool, trainable_layers: int) -> SSDFeatureExtractorVGG:
    pools = [i for i, m in enumerate(backbone.features) if isinstance(m, nn.MaxPool2d)]
    freeze(backbone.features, [0, *pools[:-1]], trainable_layers)
    return SSDFeatureExtractorVGG(backbone.features, highres)


def _extra_block(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """A map of half the size, by a depthwise convolution between two 1 x 1 ones."""
    inner = out_channels // 2
    made = partial(ops.Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
    return nn.Sequential(
        made(in_channels, inner, 1), made(inner, inner, 3, 2, groups=inner), made(inner, out_channels, 1)
    )  # fmt: skip


class SSDLiteFeatureExtractorMobileNet(nn.Module):
    """Two maps of a MobileNet, and four of convolutions after it."""

    def __init__(
        self, backbone: nn.Sequential, c4_pos: int, norm_layer: Norm, width_mult: float = 1.0, min_depth: int = 16
    ) -> None:  # fmt: skip
        super().__init__()
        middle: Any = backbone[c4_pos]
        if middle.use_res_connect:
            raise KilnValueError("SSDLite", "backbone[c4_pos].use_res_connect should be False", c4_pos, "")  # fmt: skip
        self.features = nn.Sequential(
            nn.Sequential(*backbone[:c4_pos], middle.block[0]),
            nn.Sequential(middle.block[1:], *backbone[c4_pos + 1 :]),
        )
        widths = [backbone[-1].out_channels]  # type: ignore[list-item]
        widths += [max(min_depth, int(d * width_mult)) for d in (512, 256, 256, 128)]
        self.extra = nn.ModuleList(
            _extra_block(a, b, norm_layer)  # type: ignore[arg-type]
            for a, b in itertools.pairwise(widths)
        )
        _normal_init(self.extra)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = []
        for block in (*self.features, *self.extra):
            x = block(x)
            maps.append(x)
        return _maps(maps)


SSD300_VGG16_Weights = weights("SSD300_VGG16_Weights", COCO_V1="ssd300_vgg16_coco-b556d3b4.pth")
SSDLite320_MobileNet_V3_Large_Weights = weights(
    "SSDLite320_MobileNet_V3_Large_Weights", COCO_V1="ssdlite320_mobilenet_v3_large_coco-a79551df.pth"
)  # fmt: skip


def _no_size(options: dict[str, Any]) -> None:
    if options.pop("size", None) is not None:
        warnings.warn(
            "The size of the model is already fixed; ignoring the parameter.", stacklevel=4
        )


@model(SSD300_VGG16_Weights, coco())
def ssd300_vgg16(*, num_classes: int | None = None, **kwargs: Any) -> SSD:
    """SSD over VGG-16, of pictures of 300 x 300."""
    _no_size(kwargs)
    chosen, trained, layers = fitting(kwargs, VGG16_Weights["IMAGENET1K_FEATURES"])
    layers = _validate_trainable_layers(trained, layers, 5, 4)
    backbone = _vgg_extractor(vgg16(weights=chosen), False, layers)
    anchors = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]], scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )  # fmt: skip
    options = {"image_mean": [0.48235, 0.45882, 0.40784], "image_std": [1.0 / 255.0] * 3, **kwargs}
    return SSD(backbone, anchors, (300, 300), num_classes or 91, **options)


@model(SSDLite320_MobileNet_V3_Large_Weights, coco())
def ssdlite320_mobilenet_v3_large(
    *, num_classes: int | None = None, norm_layer: Norm | None = None, **kwargs: Any
) -> SSD:
    """SSDLite over MobileNetV3, of pictures of 320 x 320."""
    _no_size(kwargs)
    chosen, trained, layers = fitting(kwargs, MobileNet_V3_Large_Weights["IMAGENET1K_V1"])
    layers = _validate_trainable_layers(trained, layers, 6, 6)
    norm = norm_layer or partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    net = mobilenet_v3_large(weights=chosen, norm_layer=norm, reduced_tail=chosen is None)
    if chosen is None:
        _normal_init(net)
    at = stages(net.features)
    freeze(net.features, at, layers)
    backbone = SSDLiteFeatureExtractorMobileNet(net.features, at[-2], norm)
    anchors = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    channels = retrieve_out_channels(backbone, (320, 320))
    head = SSDLiteHead(channels, anchors.num_anchors_per_location(), num_classes or 91, norm)
    defaults = {
        "score_thresh": 0.001, "nms_thresh": 0.55, "detections_per_img": 300, "topk_candidates": 300,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    return SSD(
        backbone, anchors, (320, 320), num_classes or 91, **{"head": head, **defaults, **kwargs}
    )
