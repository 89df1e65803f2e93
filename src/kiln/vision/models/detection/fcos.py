"""FCOS (Tian et al. 2019): one stage without anchors; each place tells how far the sides of its box are."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import kiln
import kiln.nn.functional as F

from .... import nn
from ....errors import KilnValueError
from ....tensor import Tensor
from ... import ops
from ..registry import model, weights
from ._utils import BoxLinearCoder, flat_by_place
from .anchor_utils import AnchorGenerator
from .faster_rcnn import need, over_resnet50
from .generalized_rcnn import OneStage, coco, need_channels, transform_of
from .retinanet import unmatched

__all__ = ["FCOS", "FCOS_ResNet50_FPN_Weights", "fcos_resnet50_fpn"]


class FCOSHead(nn.Module):
    """A head for classes, and one for boxes and how near to their middles a place is."""

    def __init__(
        self, in_channels: int, num_anchors: int, num_classes: int, num_convs: int = 4
    ) -> None:
        super().__init__()
        self.box_coder = BoxLinearCoder()
        self.classification_head = FCOSClassificationHead(
            in_channels, num_anchors, num_classes, num_convs
        )
        self.regression_head = FCOSRegressionHead(in_channels, num_anchors, num_convs)

    def compute_loss(
        self, targets: Any, head_outputs: Any, anchors: Any, matched_idxs: Any
    ) -> dict[str, Tensor]:
        """The losses of classes, boxes and middles, by the number of places in true boxes."""
        labels, boxes = [], []
        for target, matched in zip(targets, matched_idxs, strict=True):
            who = matched.clamp(min=0)
            some = len(target["labels"]) > 0
            label = target["labels"][who] if some else target["labels"].new_zeros(len(who))
            box = target["boxes"][who] if some else target["boxes"].new_zeros((len(who), 4))
            labels.append(kiln.where(matched < 0, -1, label))
            boxes.append(box)
        label, true, own = kiln.stack(labels), kiln.stack(boxes), kiln.stack(list(anchors))
        logits = head_outputs["cls_logits"]
        inside = label >= 0
        aims = kiln.zeros_like(logits)
        aims[(*kiln.where(inside), label[inside])] = 1.0
        told = self.box_coder.decode(head_outputs["bbox_regression"], own)
        sides = self.box_coder.encode(own, true)
        across, down = sides[..., 0::2], sides[..., 1::2]
        middle = (
            across.min(-1)[0] / across.max(-1)[0] * (down.min(-1)[0] / down.max(-1)[0])
        ).sqrt()
        near = head_outputs["bbox_ctrness"].squeeze(2)[inside]
        n = max(1, int(inside.sum().item()))
        return {
            "classification": ops.sigmoid_focal_loss(logits, aims, reduction="sum") / n,
            "bbox_regression": ops.generalized_box_iou_loss(told[inside], true[inside], "sum") / n,
            "bbox_ctrness": F.binary_cross_entropy_with_logits(near, middle[inside], reduction="sum") / n,
        }  # fmt: skip

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        logits = self.classification_head(x)
        boxes, middles = self.regression_head(x)
        return {"cls_logits": logits, "bbox_regression": boxes, "bbox_ctrness": middles}


def _convolutions(
    channels: int, count: int, norm_layer: Callable[..., nn.Module] | None
) -> nn.Sequential:
    norm = norm_layer or partial(nn.GroupNorm, 32)
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), norm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _begin(*layers: nn.Module) -> None:
    for m in layers:
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, std=0.01)
            nn.init.zeros_(m.bias)  # type: ignore[arg-type]


class FCOSClassificationHead(nn.Module):
    """The score of each class at each place, each at first as unlikely as `prior_probability`."""

    def __init__(
        self, in_channels: int, num_anchors: int, num_classes: int, num_convs: int = 4, prior_probability: float = 0.01,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_classes, self.num_anchors = num_classes, num_anchors
        self.conv = _convolutions(in_channels, num_convs, norm_layer)
        _begin(*self.conv)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        _begin(self.cls_logits)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_probability) / prior_probability))  # type: ignore[arg-type]  # fmt: skip

    def forward(self, x: list[Tensor]) -> Tensor:
        maps = [flat_by_place(self.cls_logits(self.conv(m)), self.num_classes) for m in x]
        return kiln.cat(maps, 1)


class FCOSRegressionHead(nn.Module):
    """How far the sides of each place's box are, and how near to its middle the place is."""

    def __init__(
        self, in_channels: int, num_anchors: int, num_convs: int = 4, norm_layer: Callable[..., nn.Module] | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = _convolutions(in_channels, num_convs, norm_layer)
        self.bbox_reg = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        self.bbox_ctrness = nn.Conv2d(in_channels, num_anchors, 3, padding=1)
        _begin(self.bbox_reg, self.bbox_ctrness, *self.conv)

    def forward(self, x: list[Tensor]) -> tuple[Tensor, Tensor]:
        seen = [self.conv(m) for m in x]
        boxes = [flat_by_place(F.relu(self.bbox_reg(m)), 4) for m in seen]
        middles = [flat_by_place(self.bbox_ctrness(m), 1) for m in seen]
        return kiln.cat(boxes, 1), kiln.cat(middles, 1)


class FCOS(OneStage):
    """A detector of one stage over a backbone that has `out_channels`; see `Detector` for what it takes and gives."""

    def __init__(
        self, backbone: nn.Module, num_classes: int, min_size: Any = 800, max_size: int = 1333, image_mean: Any = None,
        image_std: Any = None, anchor_generator: Any = None, head: Any = None, center_sampling_radius: float = 1.5,
        score_thresh: float = 0.2, nms_thresh: float = 0.6, detections_per_img: int = 100, topk_candidates: int = 1000,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        channels = need_channels(backbone)
        need("anchor_generator", anchor_generator, AnchorGenerator)
        self.backbone = backbone
        self.anchor_generator = anchor_generator or AnchorGenerator(
            ((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5
        )
        count = self.anchor_generator.num_anchors_per_location()[0]
        if count != 1:
            raise KilnValueError("FCOS", f"anchor_generator.num_anchors_per_location()[0] should be 1 instead of {count}", count, "")  # fmt: skip
        self.head = FCOSHead(channels, count, num_classes) if head is None else head
        self.box_coder = BoxLinearCoder()
        self.transform = transform_of(min_size, max_size, image_mean, image_std, **kwargs)
        self.center_sampling_radius = center_sampling_radius
        self._options(score_thresh, nms_thresh, detections_per_img, topk_candidates)

    def _losses(self, targets: Any, outputs: Any, anchors: list[Tensor], places: list[int]) -> Any:
        matched = [
            self._matched(t["boxes"], own, places) if t["boxes"].numel() else unmatched(own)
            for t, own in zip(targets, anchors, strict=True)
        ]
        return self.head.compute_loss(targets, outputs, anchors, matched)

    def _matched(self, true: Tensor, anchors: Tensor, places: list[int]) -> Tensor:
        """Of each place the smallest true box around it that is of its map's size and has its middle nearby, or -1."""
        at = ((anchors[:, :2] + anchors[:, 2:]) / 2)[:, None]
        size = anchors[:, 2] - anchors[:, 0]
        apart = (at - (true[:, :2] + true[:, 2:]) / 2).abs().max(2)[0]
        fits = apart < self.center_sampling_radius * size[:, None]
        sides = kiln.cat([at - true[:, :2], true[:, 2:] - at], 2)
        low, high = size * 4, size * 8
        low[: places[0]] = 0
        high[-places[-1] :] = math.inf
        longest = sides.max(2)[0]
        fits = fits & (sides.min(2)[0] > 0) & (longest > low[:, None]) & (longest < high[:, None])
        best, who = (fits.float() * (1e8 - ops.box_area(true))).max(1)
        return kiln.where(best < 1e-5, -1, who)

    def _scores(self, outputs: dict[str, Tensor]) -> Tensor:
        return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()

    def _boxes(self, numbers: Tensor, anchors: Tensor, size: tuple[int, int]) -> Tensor:
        return ops.clip_boxes_to_image(self.box_coder.decode(numbers, anchors), size)


FCOS_ResNet50_FPN_Weights = weights(
    "FCOS_ResNet50_FPN_Weights", COCO_V1="fcos_resnet50_fpn_coco-99b0c9b7.pth"
)


@model(FCOS_ResNet50_FPN_Weights, coco())
def fcos_resnet50_fpn(*, num_classes: int | None = None, **kwargs: Any) -> FCOS:
    """FCOS over ResNet-50."""
    more = partial(ops.LastLevelP6P7, 256, 256)
    backbone = over_resnet50(kwargs, blocks=more, returned_layers=[2, 3, 4])
    return FCOS(backbone, num_classes or 91, **kwargs)
