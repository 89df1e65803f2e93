"""Boxes as networks tell them, which true box each of many belongs to, and which of them are trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import kiln
import kiln.nn.functional as F

from .... import nn
from ....errors import KilnAssertionError, KilnValueError, describe
from ....tensor import Tensor
from ... import ops


def middles(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Widths, heights and both coordinates of the middles of boxes [N, 4]."""
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return widths, heights, boxes[:, 0] + 0.5 * widths, boxes[:, 1] + 0.5 * heights


class BoxCoder:
    """Boxes as four numbers beside anchors: how far their middles are moved, and the logarithms of their growth."""

    def __init__(
        self, weights: Sequence[float], bbox_xform_clip: float = math.log(1000.0 / 16)
    ) -> None:
        self.weights, self.bbox_xform_clip = weights, bbox_xform_clip

    def encode(self, reference_boxes: list[Tensor], proposals: list[Tensor]) -> tuple[Tensor, ...]:
        """The numbers of each picture's boxes beside its anchors."""
        coded = self.encode_single(kiln.cat(reference_boxes), kiln.cat(proposals))
        return coded.split([len(b) for b in reference_boxes])

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """The numbers [N, 4] of boxes beside anchors."""
        wx, wy, ww, wh = kiln.tensor(self.weights, dtype=reference_boxes.dtype).unbind()
        width, height, x, y = middles(proposals)
        new_width, new_height, new_x, new_y = middles(reference_boxes)
        return kiln.stack([
            wx * (new_x - x) / width, wy * (new_y - y) / height,
            ww * (new_width / width).log(), wh * (new_height / height).log(),
        ], 1)  # fmt: skip

    def decode(self, rel_codes: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The boxes [N, K, 4] that the numbers [N, 4K] tell beside the anchors of all pictures."""
        n = sum(len(b) for b in boxes)
        codes = rel_codes.reshape(n, -1) if n else rel_codes
        decoded = self.decode_single(codes, kiln.cat(list(boxes)))
        return decoded.reshape(n, -1, 4) if n else decoded

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """The boxes [N, 4K] that the numbers tell beside anchors."""
        width, height, x, y = (v[:, None] for v in middles(boxes.to(rel_codes.dtype)))
        dx, dy, dw, dh = (rel_codes[:, i::4] / w for i, w in enumerate(self.weights))
        new_x, new_y = dx * width + x, dy * height + y
        half_w = 0.5 * (dw.clamp(max=self.bbox_xform_clip).exp() * width)
        half_h = 0.5 * (dh.clamp(max=self.bbox_xform_clip).exp() * height)
        corners = [new_x - half_w, new_y - half_h, new_x + half_w, new_y + half_h]
        return kiln.stack(corners, 2).flatten(1)


class BoxLinearCoder:
    """Boxes as the distances of their sides from the middles of anchors, by these anchors' sizes."""

    def __init__(self, normalize_by_size: bool = True) -> None:
        self.normalize_by_size = normalize_by_size

    def _frame(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The middles, and by what distances are divided: [..., 2] and [..., 4]."""
        size = boxes[..., 2:] - boxes[..., :2]
        middle = 0.5 * (boxes[..., :2] + boxes[..., 2:])
        return middle, kiln.cat([size, size], -1)

    def encode(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """How far the sides of `proposals` are from the middles of `reference_boxes`."""
        middle, size = self._frame(reference_boxes)
        distances = kiln.cat([middle - proposals[..., :2], proposals[..., 2:] - middle], -1)
        return distances / size if self.normalize_by_size else distances

    def decode(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """The boxes whose sides are so far from the middles of anchors."""
        middle, size = self._frame(boxes.to(rel_codes.dtype))
        far = rel_codes * size if self.normalize_by_size else rel_codes
        return kiln.cat([middle - far[..., :2], middle + far[..., 2:]], -1)


class Matcher:
    """Which true box each anchor belongs to, by how they overlap.

    Below `low_threshold` to none (-1), between the thresholds undecided (-2); with `allow_low_quality_matches` the best
    anchors of each true box belong to the box that they overlap most, however little.
    """

    BELOW_LOW_THRESHOLD = -1
    BETWEEN_THRESHOLDS = -2

    def __init__(
        self, high_threshold: float, low_threshold: float, allow_low_quality_matches: bool = False
    ) -> None:
        if low_threshold > high_threshold:
            raise KilnAssertionError(
                "Matcher", "low_threshold should be <= high_threshold", (low_threshold, high_threshold), ""
            )  # fmt: skip
        self.high_threshold, self.low_threshold = high_threshold, low_threshold
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        if match_quality_matrix.numel() == 0:
            kind = "proposal" if match_quality_matrix.shape[0] else "ground-truth"
            raise KilnValueError(
                "Matcher", f"No {kind} boxes available for one of the images during training", describe(match_quality_matrix), ""
            )  # fmt: skip
        best, matches = match_quality_matrix.max(0)
        found = matches.clone()
        found[best < self.low_threshold] = self.BELOW_LOW_THRESHOLD
        between = (best >= self.low_threshold) & (best < self.high_threshold)
        found[between] = self.BETWEEN_THRESHOLDS
        if self.allow_low_quality_matches:
            highest = match_quality_matrix.max(1, True)[0]
            best_of_some = (match_quality_matrix == highest).any(0)
            found[best_of_some] = matches[best_of_some]
        return found


class SSDMatcher(Matcher):
    """A `Matcher` of one threshold, in which the best anchor of each true box belongs to it."""

    def __init__(self, threshold: float) -> None:
        super().__init__(threshold, threshold)

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        found = super().__call__(match_quality_matrix)
        best = match_quality_matrix.max(1)[1]
        found[best] = kiln.arange(len(best))
        return found


class BalancedPositiveNegativeSampler:
    """Draws some of the anchors, at most so large a share of them from those with a class."""

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Two masks for each picture, of the drawn ones with a class (1 or above) and without (0)."""
        drawn: tuple[list[Tensor], list[Tensor]] = ([], [])
        for labels in matched_idxs:
            most = int(self.batch_size_per_image * self.positive_fraction)
            picked = []
            for who in (labels >= 1, labels == 0):
                at = kiln.where(who)[0]
                n = min(most, len(at))
                picked.append((at, n))
                most = self.batch_size_per_image - n
            for masks, (at, n) in zip(drawn, picked, strict=True):
                mask = kiln.zeros_like(labels, dtype=kiln.uint8)
                mask[at[kiln.randperm(len(at))[:n]]] = 1
                masks.append(mask)
        return drawn


def overwrite_eps(model: nn.Module, eps: float) -> None:
    """Give another eps to frozen batch norms: some published weights were trained with none."""
    for m in model.modules():
        if isinstance(m, ops.FrozenBatchNorm2d):
            m.eps = eps


def retrieve_out_channels(model: nn.Module, size: tuple[int, int]) -> list[int]:
    """The channels of each map that a backbone makes of a picture of this width and height."""
    training = model.training
    model.eval()
    with kiln.no_grad():
        found = model(kiln.zeros(1, 3, size[1], size[0]))
    model.train(training)
    return [m.shape[1] for m in ([found] if isinstance(found, Tensor) else found.values())]


def _box_loss(
    type: str, box_coder: BoxCoder, anchors_per_image: Tensor, matched_gt_boxes_per_image: Tensor,
    bbox_regression_per_image: Tensor, cnf: dict[str, float] | None = None,
) -> Tensor:  # fmt: skip
    """How far the told boxes are from the true ones, by name: l1, smooth_l1, giou, diou or ciou."""
    options: dict[str, Any] = cnf or {}
    if type in ("l1", "smooth_l1"):
        aim = box_coder.encode_single(matched_gt_boxes_per_image, anchors_per_image)
        if type == "l1":
            return F.l1_loss(bbox_regression_per_image, aim, reduction="sum")
        beta = options.get("beta", 1.0)
        return F.smooth_l1_loss(bbox_regression_per_image, aim, reduction="sum", beta=beta)
    losses = {
        "giou": ops.generalized_box_iou_loss, "diou": ops.distance_box_iou_loss, "ciou": ops.complete_box_iou_loss,
    }  # fmt: skip
    if type not in losses:
        raise KilnAssertionError("box_loss", f"Unsupported loss: {type}", type, ", ".join(losses))
    boxes = box_coder.decode_single(bbox_regression_per_image, anchors_per_image)
    return losses[type](boxes, matched_gt_boxes_per_image, "sum", options.get("eps", 1e-7))


def flat_by_place(x: Tensor, columns: int) -> Tensor:
    """A head's map [N, A * columns, H, W] as rows in the order of anchors [N, H * W * A, columns]."""
    n, _, h, w = x.shape
    return x.reshape(n, -1, columns, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, columns)
