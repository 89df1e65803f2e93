"""RetinaNet (Lin et al. 2017): one stage, with a loss that leaves what is easy aside."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import kiln

from .... import nn
from ....tensor import Tensor
from ... import ops
from ..registry import model, weights
from ._utils import BoxCoder, Matcher, _box_loss, flat_by_place
from .anchor_utils import AnchorGenerator
from .faster_rcnn import need, over_resnet50
from .generalized_rcnn import OneStage, coco, need_channels, transform_of

__all__ = [
    "RetinaNet",
    "RetinaNet_ResNet50_FPN_V2_Weights",
    "RetinaNet_ResNet50_FPN_Weights",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
]


def _default_anchorgen() -> AnchorGenerator:
    """Anchors of three sizes for each of five maps, in three ratios."""
    steps = (1.0, 2 ** (1.0 / 3), 2 ** (2.0 / 3))
    sizes = tuple(tuple(int(s * step) for step in steps) for s in (32, 64, 128, 256, 512))
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)


def unmatched(anchors: Tensor) -> Tensor:
    """That no anchor belongs to a true box."""
    return kiln.full((len(anchors),), -1, dtype=kiln.int64)


class RetinaNetHead(nn.Module):
    """A head for classes and one for boxes."""

    def __init__(
        self, in_channels: int, num_anchors: int, num_classes: int, norm_layer: Callable[..., nn.Module] | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.classification_head = RetinaNetClassificationHead(
            in_channels, num_anchors, num_classes, norm_layer=norm_layer
        )
        self.regression_head = RetinaNetRegressionHead(in_channels, num_anchors, norm_layer)

    def compute_loss(
        self, targets: Any, head_outputs: Any, anchors: Any, matched_idxs: Any
    ) -> dict[str, Tensor]:
        """Both losses by name."""
        classes = self.classification_head.compute_loss(targets, head_outputs, matched_idxs)
        boxes = self.regression_head.compute_loss(targets, head_outputs, anchors, matched_idxs)
        return {"classification": classes, "bbox_regression": boxes}

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {
            "cls_logits": self.classification_head(x),
            "bbox_regression": self.regression_head(x),
        }


class _Head(nn.Module):
    """Four convolutions on each map."""

    _version = 2

    def __init__(
        self, in_channels: int, norm_layer: Callable[..., nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(
            ops.Conv2dNormActivation(in_channels, in_channels, norm_layer=norm_layer) for _ in range(4)
        ))  # fmt: skip

    def _begin(self) -> None:
        for m in self.conv.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, std=0.01)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *more: Any
    ) -> None:
        if (local_metadata.get("version") or 1) < 2:  # convolutions and activations side by side
            for i in range(4):
                for kind in ("weight", "bias"):
                    if (old := f"{prefix}conv.{2 * i}.{kind}") in state_dict:
                        state_dict[f"{prefix}conv.{i}.0.{kind}"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


class RetinaNetClassificationHead(_Head):
    """The score of each class for each anchor, each at first as unlikely as `prior_probability`."""

    def __init__(
        self, in_channels: int, num_anchors: int, num_classes: int, prior_probability: float = 0.01,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, norm_layer)
        self._begin()
        self.cls_logits = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        nn.init.normal_(self.cls_logits.weight, std=0.01)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_probability) / prior_probability))  # type: ignore[arg-type]  # fmt: skip
        self.num_classes, self.num_anchors = num_classes, num_anchors

    def compute_loss(self, targets: Any, head_outputs: Any, matched_idxs: Any) -> Tensor:
        """The focal loss of all anchors that are decided, by the number of those with a true box."""
        losses = []
        for target, logits, matched in zip(
            targets, head_outputs["cls_logits"], matched_idxs, strict=True
        ):
            some = kiln.where(matched >= 0)[0]
            aims = kiln.zeros_like(logits)
            aims[some, target["labels"][matched[some]]] = 1.0
            decided = matched != Matcher.BETWEEN_THRESHOLDS
            loss = ops.sigmoid_focal_loss(logits[decided], aims[decided], reduction="sum")
            losses.append(loss / max(1, len(some)))
        return sum(losses[1:], losses[0]) / len(targets)

    def forward(self, x: list[Tensor]) -> Tensor:
        maps = [flat_by_place(self.cls_logits(self.conv(m)), self.num_classes) for m in x]
        return kiln.cat(maps, 1)


class RetinaNetRegressionHead(_Head):
    """Four numbers for each anchor."""

    def __init__(
        self, in_channels: int, num_anchors: int, norm_layer: Callable[..., nn.Module] | None = None
    ) -> None:
        super().__init__(in_channels, norm_layer)
        self.bbox_reg = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        nn.init.normal_(self.bbox_reg.weight, std=0.01)
        nn.init.zeros_(self.bbox_reg.bias)  # type: ignore[arg-type]
        self._begin()
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self._loss_type = "l1"

    def compute_loss(
        self, targets: Any, head_outputs: Any, anchors: Any, matched_idxs: Any
    ) -> Tensor:
        """How far the boxes of the anchors with a true box are off, by the number of these."""
        losses = []
        for target, numbers, own, matched in zip(
            targets, head_outputs["bbox_regression"], anchors, matched_idxs, strict=True
        ):
            some = kiln.where(matched >= 0)[0]
            true = target["boxes"][matched[some]]
            loss = _box_loss(self._loss_type, self.box_coder, own[some], true, numbers[some])
            losses.append(loss / max(1, len(some)))
        return sum(losses[1:], losses[0]) / max(1, len(targets))

    def forward(self, x: list[Tensor]) -> Tensor:
        return kiln.cat([flat_by_place(self.bbox_reg(self.conv(m)), 4) for m in x], 1)


class RetinaNet(OneStage):
    """A detector of one stage over a backbone that has `out_channels`; see `Detector` for what it takes and gives."""

    def __init__(
        self, backbone: nn.Module, num_classes: int, min_size: Any = 800, max_size: int = 1333, image_mean: Any = None,
        image_std: Any = None, anchor_generator: Any = None, head: Any = None, proposal_matcher: Any = None,
        score_thresh: float = 0.05, nms_thresh: float = 0.5, detections_per_img: int = 300, fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4, topk_candidates: int = 1000, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        channels = need_channels(backbone)
        need("anchor_generator", anchor_generator, AnchorGenerator)
        self.backbone = backbone
        self.anchor_generator = anchor_generator or _default_anchorgen()
        count = self.anchor_generator.num_anchors_per_location()[0]
        self.head = RetinaNetHead(channels, count, num_classes) if head is None else head
        self.proposal_matcher = proposal_matcher or Matcher(fg_iou_thresh, bg_iou_thresh, True)
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.transform = transform_of(min_size, max_size, image_mean, image_std, **kwargs)
        self._options(score_thresh, nms_thresh, detections_per_img, topk_candidates)

    def _losses(self, targets: Any, outputs: Any, anchors: list[Tensor], places: list[int]) -> Any:
        matched = [
            self.proposal_matcher(ops.box_iou(t["boxes"], own)) if t["boxes"].numel() else unmatched(own)
            for t, own in zip(targets, anchors, strict=True)
        ]  # fmt: skip
        return self.head.compute_loss(targets, outputs, anchors, matched)

    def _boxes(self, numbers: Tensor, anchors: Tensor, size: tuple[int, int]) -> Tensor:
        return ops.clip_boxes_to_image(self.box_coder.decode_single(numbers, anchors), size)


RetinaNet_ResNet50_FPN_Weights = weights(
    "RetinaNet_ResNet50_FPN_Weights", COCO_V1="retinanet_resnet50_fpn_coco-eeacb38b.pth"
)
RetinaNet_ResNet50_FPN_V2_Weights = weights(
    "RetinaNet_ResNet50_FPN_V2_Weights", COCO_V1="retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"
)


@model(RetinaNet_ResNet50_FPN_Weights, coco(exact=True))
def retinanet_resnet50_fpn(*, num_classes: int | None = None, **kwargs: Any) -> RetinaNet:
    """RetinaNet over ResNet-50."""
    more = partial(ops.LastLevelP6P7, 256, 256)
    backbone = over_resnet50(kwargs, blocks=more, returned_layers=[2, 3, 4])
    return RetinaNet(backbone, num_classes or 91, **kwargs)


@model(RetinaNet_ResNet50_FPN_V2_Weights, coco())
def retinanet_resnet50_fpn_v2(*, num_classes: int | None = None, **kwargs: Any) -> RetinaNet:
    """RetinaNet over ResNet-50, with group norms and a loss of overlaps (Zhang et al. 2020)."""
    more = partial(ops.LastLevelP6P7, 2048, 256)
    backbone = over_resnet50(kwargs, False, more, returned_layers=[2, 3, 4])
    anchors = _default_anchorgen()
    count, classes = anchors.num_anchors_per_location()[0], num_classes or 91
    norm = partial(nn.GroupNorm, 32)
    head = RetinaNetHead(backbone.out_channels, count, classes, norm)
    head.regression_head._loss_type = "giou"
    return RetinaNet(backbone, classes, **{"anchor_generator": anchors, "head": head, **kwargs})
