"""What is in proposed boxes: a class, a better box, and where asked a mask or points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kiln
import kiln.nn.functional as F

from .... import nn
from ....errors import KilnTypeError, KilnValueError, describe
from ....tensor import Tensor
from ... import ops
from ._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from .instances import *  # noqa: F403
from .instances import (
    keypointrcnn_inference,
    keypointrcnn_loss,
    maskrcnn_inference,
    maskrcnn_loss,
)
from .transform import Sizes, Targets


def fastrcnn_loss(
    class_logits: Tensor, box_regression: Tensor, labels: Sequence[Tensor], regression_targets: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Cross entropy of the classes, and how far the boxes of the true classes are off."""
    label, aims = kiln.cat(list(labels)), kiln.cat(list(regression_targets))
    classes = F.cross_entropy(class_logits, label)
    some = kiln.where(label > 0)[0]
    numbers = box_regression.reshape(len(class_logits), -1, 4)[some, label[some]]
    boxes = F.smooth_l1_loss(numbers, aims[some], beta=1 / 9, reduction="sum")
    return classes, boxes / label.numel()


class RoIHeads(nn.Module):
    """The second stage of an R-CNN: features of each box, and heads that tell what they see there."""

    def __init__(
        self, box_roi_pool: Any, box_head: Any, box_predictor: Any, fg_iou_thresh: float, bg_iou_thresh: float,
        batch_size_per_image: int, positive_fraction: float, bbox_reg_weights: Sequence[float] | None, score_thresh: float,
        nms_thresh: float, detections_per_img: int, mask_roi_pool: Any = None, mask_head: Any = None,
        mask_predictor: Any = None, keypoint_roi_pool: Any = None, keypoint_head: Any = None, keypoint_predictor: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.box_similarity = ops.box_iou
        self.proposal_matcher = Matcher(fg_iou_thresh, bg_iou_thresh)
        self.fg_bg_sampler = BalancedPositiveNegativeSampler(
            batch_size_per_image, positive_fraction
        )
        self.box_coder = BoxCoder(bbox_reg_weights or (10.0, 10.0, 5.0, 5.0))
        self.box_roi_pool, self.box_head = box_roi_pool, box_head
        self.box_predictor = box_predictor
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img = detections_per_img
        self.mask_roi_pool, self.mask_head = mask_roi_pool, mask_head
        self.mask_predictor = mask_predictor
        self.keypoint_roi_pool, self.keypoint_head = keypoint_roi_pool, keypoint_head
        self.keypoint_predictor = keypoint_predictor

    def has_mask(self) -> bool:
        """Whether it tells masks."""
        parts = (self.mask_roi_pool, self.mask_head, self.mask_predictor)
        return all(m is not None for m in parts)

    def has_keypoint(self) -> bool:
        """Whether it tells points."""
        parts = (self.keypoint_roi_pool, self.keypoint_head, self.keypoint_predictor)
        return all(m is not None for m in parts)

    # ---- what is trained on

    def check_targets(self, targets: Targets | None) -> None:
        """ValueError where something is missing that is aimed at."""
        if targets is None:
            raise KilnValueError("detection", "targets should not be None", None, "model(images, targets)")  # fmt: skip
        for key in ("boxes", "labels", *(["masks"] if self.has_mask() else [])):
            if not all(key in t for t in targets):
                raise KilnValueError(
                    "detection", f"Every element of targets should have a {key} key", [sorted(t) for t in targets], ""
                )  # fmt: skip

    def _check_dtypes(self, targets: Targets) -> None:
        for t in targets:
            wanted = [
                ("boxes", "float", (kiln.float32, kiln.float64, kiln.float16)),
                ("labels", "int64", (kiln.int64,)),
            ]
            if self.has_keypoint():
                wanted.append(("keypoints", "float", (kiln.float32,)))
            for key, kind, dtypes in wanted:
                if t[key].dtype not in dtypes:
                    raise KilnTypeError(
                        "detection", f"target {key} must be of {kind} type", describe(t[key]), f"targets[i]['{key}'].to(…)"
                    )  # fmt: skip

    def assign_targets_to_proposals(
        self, proposals: Sequence[Tensor], gt_boxes: Sequence[Tensor], gt_labels: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each box which true one it belongs to, and the class: 0 for background, -1 for undecided."""
        matched, labels = [], []
        for own, true, classes in zip(proposals, gt_boxes, gt_labels, strict=True):
            if true.numel() == 0:
                matched.append(kiln.zeros(len(own), dtype=kiln.int64))
                labels.append(kiln.zeros(len(own), dtype=kiln.int64))
                continue
            found = self.proposal_matcher(self.box_similarity(true, own))
            matched.append(found.clamp(min=0))
            label = classes[matched[-1]].to(kiln.int64)
            label[found == Matcher.BELOW_LOW_THRESHOLD] = 0
            label[found == Matcher.BETWEEN_THRESHOLDS] = -1
            labels.append(label)
        return matched, labels

    def subsample(self, labels: list[Tensor]) -> list[Tensor]:
        """Which boxes of each picture are drawn."""
        pairs = zip(*self.fg_bg_sampler(labels), strict=True)
        return [kiln.where(a | b)[0] for a, b in pairs]

    def select_training_samples(self, proposals: list[Tensor], targets: Targets | None) -> Any:
        """Some of the proposed and the true boxes, the true ones they belong to, their classes and numbers."""
        self.check_targets(targets)
        assert targets is not None
        dtype = proposals[0].dtype
        true = [t["boxes"].to(dtype) for t in targets]
        boxes = [kiln.cat([b, t]) for b, t in zip(proposals, true, strict=True)]
        matched, labels = self.assign_targets_to_proposals(
            boxes, true, [t["labels"] for t in targets]
        )
        aims = []
        for i, drawn in enumerate(self.subsample(labels)):
            boxes[i], labels[i], matched[i] = boxes[i][drawn], labels[i][drawn], matched[i][drawn]
            own = true[i] if true[i].numel() else kiln.zeros(1, 4, dtype=dtype)
            aims.append(own[matched[i]])
        return boxes, matched, labels, self.box_coder.encode(aims, boxes)

    # ---- what is found

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: Sequence[Tensor], image_shapes: Sizes
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:  # fmt: skip
        """The boxes of each picture that no better one of their class overlaps, their scores and classes."""
        counts = [len(b) for b in proposals]
        boxes_of = self.box_coder.decode(box_regression, proposals).split(counts)
        scores_of = F.softmax(class_logits, -1).split(counts)
        kept: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, scores, size in zip(boxes_of, scores_of, image_shapes, strict=True):
            classes = kiln.arange(scores.shape[-1]).expand_as(scores)
            boxes = ops.clip_boxes_to_image(boxes, size)[:, 1:].reshape(-1, 4)  # but the background
            score, label = scores[:, 1:].reshape(-1), classes[:, 1:].reshape(-1)
            keep = kiln.where(score > self.score_thresh)[0]
            keep = keep[ops.remove_small_boxes(boxes[keep], 1e-2)]
            boxes, score, label = boxes[keep], score[keep], label[keep]
            keep = ops.batched_nms(boxes, score, label, self.nms_thresh)[: self.detections_per_img]
            for group, values in zip(kept, (boxes, score, label), strict=True):
                group.append(values[keep])
        return kept

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: Targets | None = None
    ) -> tuple[Targets, dict[str, Tensor]]:  # fmt: skip
        if targets is not None:
            self._check_dtypes(targets)
        matched: Any = None
        labels: Any = None
        aims: Any = None
        if self.training:
            proposals, matched, labels, aims = self.select_training_samples(proposals, targets)
        seen = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, deltas = self.box_predictor(seen)
        result: Targets = []
        losses: dict[str, Tensor] = {}
        if self.training:
            classes, boxes = fastrcnn_loss(logits, deltas, labels, aims)
            losses = {"loss_classifier": classes, "loss_box_reg": boxes}
            some = [kiln.where(label > 0)[0] for label in labels]
            own = [b[who] for b, who in zip(proposals, some, strict=True)]
            matched = [m[who] for m, who in zip(matched, some, strict=True)]
        else:
            found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
            for b, s, c in zip(*found, strict=True):
                result.append({"boxes": b, "labels": c, "scores": s})
            own = [r["boxes"] for r in result]
        if self.has_mask():
            seen = self.mask_head(self.mask_roi_pool(features, own, image_shapes))
            self._masks(self.mask_predictor(seen), own, matched, targets, result, losses)
        if self.has_keypoint():
            seen = self.keypoint_head(self.keypoint_roi_pool(features, own, image_shapes))
            self._points(self.keypoint_predictor(seen), own, matched, targets, result, losses)
        return result, losses

    def _masks(
        self, logits: Tensor, own: list[Tensor], matched: Any, targets: Any, result: Targets, losses: dict[str, Tensor]
    ) -> None:  # fmt: skip
        if self.training:
            true = [t["masks"] for t in targets]
            classes = [t["labels"] for t in targets]
            losses["loss_mask"] = maskrcnn_loss(logits, own, true, classes, matched)
            return
        for masks, r in zip(
            maskrcnn_inference(logits, [r["labels"] for r in result]), result, strict=True
        ):
            r["masks"] = masks

    def _points(
        self, logits: Tensor, own: list[Tensor], matched: Any, targets: Any, result: Targets, losses: dict[str, Tensor]
    ) -> None:  # fmt: skip
        if self.training:
            true = [t["keypoints"] for t in targets]
            losses["loss_keypoint"] = keypointrcnn_loss(logits, own, true, matched)
            return
        for points, scores, r in zip(*keypointrcnn_inference(logits, own), result, strict=True):
            r["keypoints"], r["keypoints_scores"] = points, scores
