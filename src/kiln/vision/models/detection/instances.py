"""Masks and points of the things in boxes: what is aimed at, how far it is missed, and what was found.

https://arxiv.org/abs/1703.06870
"""

from __future__ import annotations

from collections.abc import Sequence

import kiln
import kiln.nn.functional as F

from ....errors import KilnValueError, describe
from ....tensor import Tensor
from ...regions import roi_align

# ---------------------------------------------------------------- masks


def maskrcnn_inference(x: Tensor, labels: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of each box's masks by class [N, C, M, M] that of its own class, by picture [n, 1, M, M]."""
    own = x.sigmoid()[kiln.arange(len(x)), kiln.cat(list(labels))][:, None]
    return own.split([len(c) for c in labels])


def project_masks_on_boxes(gt_masks: Tensor, boxes: Tensor, matched_idxs: Tensor, M: int) -> Tensor:
    """What of the true masks lies in each box, as M x M places."""
    rows = kiln.cat([matched_idxs.to(boxes.dtype)[:, None], boxes], 1)
    return roi_align(gt_masks[:, None].to(boxes.dtype), rows, (M, M), 1.0)[:, 0]


def maskrcnn_loss(
    mask_logits: Tensor, proposals: Sequence[Tensor], gt_masks: Sequence[Tensor], gt_labels: Sequence[Tensor],
    mask_matched_idxs: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Binary cross entropy of the masks of the true classes."""
    of = list(zip(gt_masks, gt_labels, proposals, mask_matched_idxs, strict=True))
    labels = kiln.cat([own[who] for _, own, _, who in of])
    m = mask_logits.shape[-1]
    aims = kiln.cat([project_masks_on_boxes(true, boxes, who, m) for true, _, boxes, who in of])
    if aims.numel() == 0:
        return mask_logits.sum() * 0  # its gradient is there, so that several processes agree
    return F.binary_cross_entropy_with_logits(mask_logits[kiln.arange(len(labels)), labels], aims)


def _wider(boxes: Tensor, scale: float) -> Tensor:
    """Boxes so many times as large around their middles."""
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    middle = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return kiln.cat([middle - half, middle + half], 1)


def paste_mask_in_image(mask: Tensor, box: Tensor, im_h: int, im_w: int) -> Tensor:
    """A mask [M, M] where its box lies in a picture of this height and width."""
    x1, y1, x2, y2 = box.tolist()
    size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
    full = F.interpolate(mask[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    picture = mask.new_zeros((im_h, im_w))
    left, right = max(x1, 0), min(x2 + 1, im_w)
    top, bottom = max(y1, 0), min(y2 + 1, im_h)
    if left < right and top < bottom:
        picture[top:bottom, left:right] = full[top - y1 : bottom - y1, left - x1 : right - x1]
    return picture


def paste_masks_in_image(
    masks: Tensor, boxes: Tensor, img_shape: tuple[int, int], padding: int = 1
) -> Tensor:
    """Masks [N, 1, M, M] where their boxes lie in a picture: [N, 1, H, W]."""
    if not len(masks):
        return masks.new_empty((0, 1, *img_shape))
    m = masks.shape[-1]
    places = _wider(boxes, (m + 2 * padding) / m).to(kiln.int64)
    padded = F.pad(masks, (padding,) * 4)[:, 0]
    return kiln.stack(
        [paste_mask_in_image(x, b, *img_shape) for x, b in zip(padded, places, strict=True)]
    )[:, None]


# ---------------------------------------------------------------- points


def keypoints_to_heatmap(
    keypoints: Tensor, rois: Tensor, heatmap_size: int
) -> tuple[Tensor, Tensor]:
    """The place of each point [N, K] in its box's map, counted row by row, and whether it lies there and is visible."""
    places, inside = [], keypoints[..., 2] > 0
    for d in (0, 1):
        low, high = rois[:, d : d + 1], rois[:, d + 2 : d + 3]
        at = ((keypoints[..., d] - low) * (heatmap_size / (high - low))).floor().long()
        at = kiln.where(keypoints[..., d] == high, heatmap_size - 1, at)
        inside = inside & (at >= 0) & (at < heatmap_size)
        places.append(at)
    valid = inside.long()
    return (places[1] * heatmap_size + places[0]) * valid, valid


def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    """The highest place of each map [N, K, H, W] as a point (x, y, 1) of the picture, and how high it is."""
    n, k = maps.shape[:2]
    points, scores = kiln.zeros(n, k, 3), kiln.zeros(n, k)
    sizes = (rois[:, 2:] - rois[:, :2]).clamp(min=1)
    for i, (w, h) in enumerate(sizes.ceil().long().tolist()):
        full = F.interpolate(maps[i][:, None], size=(h, w), mode="bicubic", align_corners=False)[
            :, 0
        ]
        flat = full.reshape(k, -1)
        best = flat.argmax(1)
        at = kiln.stack([best % w, best // w], 1).float() + 0.5
        points[i, :, :2] = at * (sizes[i] / kiln.tensor([float(w), float(h)])) + rois[i, :2]
        points[i, :, 2] = 1
        scores[i] = flat[kiln.arange(k), best]
    return points, scores


def keypointrcnn_loss(
    keypoint_logits: Tensor, proposals: Sequence[Tensor], gt_keypoints: Sequence[Tensor],
    keypoint_matched_idxs: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Cross entropy over the places of each map [N, K, H, H], of the points that are visible in their boxes."""
    n, k, h, w = keypoint_logits.shape
    if h != w:
        raise KilnValueError(
            "keypointrcnn_loss", "keypoint_logits height and width (last two elements of shape) should be equal",
            describe(keypoint_logits), "",
        )  # fmt: skip
    found = [
        keypoints_to_heatmap(points[who], boxes, h)
        for boxes, points, who in zip(proposals, gt_keypoints, keypoint_matched_idxs, strict=True)
    ]
    aims = kiln.cat([a.reshape(-1) for a, _ in found])
    seen = kiln.where(kiln.cat([v.reshape(-1) for _, v in found]))[0]
    if not len(seen):
        return keypoint_logits.sum() * 0
    return F.cross_entropy(keypoint_logits.reshape(n * k, h * w)[seen], aims[seen])


def keypointrcnn_inference(x: Tensor, boxes: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The points of each picture's boxes [n, K, 3], and how sure they are [n, K]."""
    parts = x.split([len(b) for b in boxes])
    found = [heatmaps_to_keypoints(m, b) for m, b in zip(parts, boxes, strict=True)]
    return [p for p, _ in found], [s for _, s in found]
