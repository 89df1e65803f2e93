"""The region proposal network: which anchors hold anything at all (Ren et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kiln
import kiln.nn.functional as F

from .... import nn
from ....errors import KilnValueError
from ....tensor import Tensor
from ... import ops
from ._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher, flat_by_place
from .anchor_utils import AnchorGenerator as AnchorGenerator
from .transform import ImageList, Sizes, Targets


class RPNHead(nn.Module):
    """Convolutions, and of each anchor a score and four numbers."""

    _version = 2

    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(
            ops.Conv2dNormActivation(in_channels, in_channels, 3, norm_layer=None) for _ in range(conv_depth)
        ))  # fmt: skip
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, std=0.01)
                nn.init.zeros_(m.bias)  # type: ignore[arg-type]

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *more: Any
    ) -> None:
        if (local_metadata.get("version") or 1) < 2:  # there was one convolution, by itself
            for kind in ("weight", "bias"):
                if (old := f"{prefix}conv.{kind}") in state_dict:
                    state_dict[f"{prefix}conv.0.0.{kind}"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        seen = [self.conv(m) for m in x]
        return [self.cls_logits(m) for m in seen], [self.bbox_pred(m) for m in seen]


def concat_box_prediction_layers(
    box_cls: list[Tensor], box_regression: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """The scores [N, C] and numbers [N, 4] of all maps, in the order of anchors."""
    scores = [
        flat_by_place(c, c.shape[1] * 4 // r.shape[1])
        for c, r in zip(box_cls, box_regression, strict=True)
    ]
    numbers = [flat_by_place(r, 4) for r in box_regression]
    return kiln.cat(scores, 1).flatten(0, -2), kiln.cat(numbers, 1).reshape(-1, 4)


class RegionProposalNetwork(nn.Module):
    """Boxes that may hold something, best first, and in training how far the scores and numbers are off.

    `pre_nms_top_n` and `post_nms_top_n` say how many boxes of each map, and how many in all, are kept in "training" and
    in "testing".
    """

    def __init__(
        self, anchor_generator: nn.Module, head: nn.Module, fg_iou_thresh: float, bg_iou_thresh: float,
        batch_size_per_image: int, positive_fraction: float, pre_nms_top_n: dict[str, int], post_nms_top_n: dict[str, int],
        nms_thresh: float, score_thresh: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.anchor_generator, self.head = anchor_generator, head
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.box_similarity = ops.box_iou
        self.proposal_matcher = Matcher(fg_iou_thresh, bg_iou_thresh, True)
        self.fg_bg_sampler = BalancedPositiveNegativeSampler(
            batch_size_per_image, positive_fraction
        )
        self._pre_nms_top_n, self._post_nms_top_n = pre_nms_top_n, post_nms_top_n
        self.nms_thresh, self.score_thresh, self.min_size = nms_thresh, score_thresh, 1e-3

    def pre_nms_top_n(self) -> int:
        """How many boxes of each map are compared."""
        return self._pre_nms_top_n["training" if self.training else "testing"]

    def post_nms_top_n(self) -> int:
        """How many boxes of a picture are kept."""
        return self._post_nms_top_n["training" if self.training else "testing"]

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: Targets
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each anchor 1, 0 for background or -1 for undecided, and the true box that it belongs to."""
        labels, boxes = [], []
        for own, target in zip(anchors, targets, strict=True):
            true = target["boxes"]
            if true.numel() == 0:
                boxes.append(kiln.zeros(own.shape))
                labels.append(kiln.zeros(len(own)))
                continue
            matched = self.proposal_matcher(self.box_similarity(true, own))
            boxes.append(true[matched.clamp(min=0)])
            label = (matched >= 0).float()
            label[matched == Matcher.BETWEEN_THRESHOLDS] = -1.0
            labels.append(label)
        return labels, boxes

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, image_shapes: Sizes, num_anchors_per_level: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
        """The best boxes of each picture that no better one of the same map overlaps, and their scores."""
        n = len(proposals)
        scores = objectness.detach().reshape(n, -1)
        picked, levels, start = [], [], 0
        for level, part in enumerate(scores.split(list(num_anchors_per_level), 1)):
            best = part.topk(min(self.pre_nms_top_n(), part.shape[1]), 1)[1] + start
            picked.append(best)
            levels.append(kiln.full((best.shape[1],), level))
            start += part.shape[1]
        level = kiln.cat(levels)
        boxes_kept, scores_kept = [], []
        for own, score, who, size in zip(
            proposals, scores, kiln.cat(picked, 1), image_shapes, strict=True
        ):
            boxes, score = ops.clip_boxes_to_image(own[who], size), score[who].sigmoid()
            keep = ops.remove_small_boxes(boxes, self.min_size)
            keep = keep[score[keep] >= self.score_thresh]
            boxes, score = boxes[keep], score[keep]
            keep = ops.batched_nms(boxes, score, level[keep], self.nms_thresh)
            keep = keep[: self.post_nms_top_n()]
            boxes_kept.append(boxes[keep])
            scores_kept.append(score[keep])
        return boxes_kept, scores_kept

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """How far the scores and the numbers of some drawn anchors are off."""
        with_box, without = (kiln.where(kiln.cat(masks))[0] for masks in self.fg_bg_sampler(labels))
        drawn = kiln.cat([with_box, without])
        numbers = F.smooth_l1_loss(
            pred_bbox_deltas[with_box], kiln.cat(list(regression_targets))[with_box], beta=1 / 9, reduction="sum"
        )  # fmt: skip
        scores = F.binary_cross_entropy_with_logits(
            objectness.flatten()[drawn], kiln.cat(labels)[drawn]
        )
        return scores, numbers / len(drawn)

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: Targets | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        maps = list(features.values())
        objectness, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        counts = [m[0].numel() for m in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        proposals = self.box_coder.decode(deltas.detach(), anchors)
        proposals = proposals.reshape(len(anchors), -1, 4)
        boxes, _ = self.filter_proposals(proposals, objectness, images.image_sizes, counts)
        if not self.training:
            return boxes, {}
        if targets is None:
            raise KilnValueError("detection", "targets should not be None", None, "model(images, targets)")  # fmt: skip
        labels, true = self.assign_targets_to_anchors(anchors, targets)
        aims = self.box_coder.encode(true, anchors)
        scores, numbers = self.compute_loss(objectness, deltas, labels, aims)
        return boxes, {"loss_objectness": scores, "loss_rpn_box_reg": numbers}
