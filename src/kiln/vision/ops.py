"""Boxes (left, top, right, bottom), and layers that models of pictures are made of.

https://docs.pytorch.org/vision/stable/ops.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import kiln

from .. import nn
from ..errors import KilnValueError
from ..tensor import Tensor
from . import regions
from .regions import *  # noqa: F403

__all__ = [
    *regions.__all__, "complete_box_iou", "complete_box_iou_loss", "distance_box_iou", "distance_box_iou_loss", "drop_block2d",
    "DropBlock2d", "generalized_box_iou_loss", "masks_to_boxes",
    "MLP", "Conv2dNormActivation", "FrozenBatchNorm2d", "Permute", "SqueezeExcitation", "StochasticDepth", "batched_nms",
    "box_area", "box_convert", "box_iou", "clip_boxes_to_image", "generalized_box_iou", "nms", "remove_small_boxes",
    "sigmoid_focal_loss", "stochastic_depth",
]  # fmt: skip


def box_area(boxes: Tensor) -> Tensor:
    """The area of each box."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """What each pair of boxes shares, and what both cover."""
    corner = kiln.max(a[:, None, :2], b[:, :2])
    size = (kiln.min(a[:, None, 2:], b[:, 2:]) - corner).clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    return shared, box_area(a)[:, None] + box_area(b) - shared


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of each pair of boxes [N, M]."""
    shared, union = _overlap(boxes1, boxes2)
    return shared / union


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """`box_iou` less the share of the hull that neither covers (Rezatofighi et al. 2019)."""
    shared, union = _overlap(boxes1, boxes2)
    corner = kiln.min(boxes1[:, None, :2], boxes2[:, :2])
    size = (kiln.max(boxes1[:, None, 2:], boxes2[:, 2:]) - corner).clamp(min=0)
    hull = size[..., 0] * size[..., 1]
    return shared / union - (hull - union) / hull


def _middles(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _distance(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """How far boxes' middles are apart, squared, by the diagonal of the hull, of boxes that broadcast."""
    size = kiln.max(a[..., 2:], b[..., 2:]) - kiln.min(a[..., :2], b[..., :2])
    apart = (_middles(a) - _middles(b)).square().sum(-1)
    return apart / (size.square().sum(-1) + eps)


def _shape(a: Tensor, b: Tensor, iou: Tensor, eps: float) -> Tensor:
    """How differently boxes are shaped, weighted by how they overlap."""
    angle = [kiln.atan((x[..., 2] - x[..., 0]) / (x[..., 3] - x[..., 1])) for x in (a, b)]
    v = 4 / math.pi**2 * (angle[0] - angle[1]) ** 2
    with kiln.no_grad():
        alpha = v / (1 - iou + v + eps)
    return alpha * v


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """`box_iou` less how far the middles are apart (Zheng et al. 2020)."""
    return box_iou(boxes1, boxes2) - _distance(boxes1[:, None], boxes2, eps)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """`distance_box_iou` less how differently boxes are shaped."""
    iou = box_iou(boxes1, boxes2)
    apart = _distance(boxes1[:, None], boxes2, eps)
    return iou - apart - _shape(boxes1[:, None], boxes2, iou, eps)


def _pairwise(a: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the union, of boxes one by one."""
    size = (kiln.min(a[..., 2:], b[..., 2:]) - kiln.max(a[..., :2], b[..., :2])).clamp(min=0)
    shared = size.prod(-1)
    areas = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    union = areas[0] + areas[1] - shared
    return shared / (union + eps), union


def _reduced(name: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction not in ("none", "mean", "sum"):
        raise KilnValueError(
            name,
            f"Invalid Value for arg 'reduction': '{reduction}'",
            reduction,
            "none, mean or sum",
        )
    if reduction == "mean":
        return loss.mean() if loss.numel() else 0.0 * loss.sum()
    return loss.sum() if reduction == "sum" else loss


def generalized_box_iou_loss(
    boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7
) -> Tensor:
    """1 - `generalized_box_iou` of boxes one by one."""
    iou, union = _pairwise(boxes1, boxes2, eps)
    low, high = kiln.min(boxes1[..., :2], boxes2[..., :2]), kiln.max(boxes1[..., 2:], boxes2[..., 2:])  # fmt: skip
    hull = (high - low).prod(-1)
    loss = 1 - (iou - (hull - union) / (hull + eps))
    return _reduced("generalized_box_iou_loss", loss, reduction)


def distance_box_iou_loss(
    boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7
) -> Tensor:
    """1 - `distance_box_iou` of boxes one by one."""
    iou, _ = _pairwise(boxes1, boxes2, eps)
    loss = 1 - iou + _distance(boxes1, boxes2, eps)
    return _reduced("distance_box_iou_loss", loss, reduction)


def complete_box_iou_loss(
    boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7
) -> Tensor:
    """1 - `complete_box_iou` of boxes one by one."""
    iou, _ = _pairwise(boxes1, boxes2, eps)
    loss = 1 - iou + _distance(boxes1, boxes2, eps) + _shape(boxes1, boxes2, iou, eps)
    return _reduced("complete_box_iou_loss", loss, reduction)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """The boxes around masks [N, H, W]."""
    if masks.numel() == 0:
        return kiln.zeros(0, 4)
    out = []
    for mask in masks:
        y, x = kiln.where(mask != 0)
        out.append(kiln.stack([x.min(), y.min(), x.max(), y.max()]))
    return kiln.stack(out).float()


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Boxes between "xyxy", "xywh" and "cxcywh"."""
    for fmt in (in_fmt, out_fmt):
        if fmt not in ("xyxy", "xywh", "cxcywh"):
            raise KilnValueError(
                "box_convert",
                "Unsupported Bounding Box Conversions for given in_fmt and out_fmt",
                fmt,
            )
    a, b, c, d = boxes.unbind(-1)
    if in_fmt == "xywh":
        c, d = a + c, b + d
    elif in_fmt == "cxcywh":
        a, b, c, d = a - 0.5 * c, b - 0.5 * d, a + 0.5 * c, b + 0.5 * d
    if out_fmt == "xywh":
        c, d = c - a, d - b
    elif out_fmt == "cxcywh":
        a, b, c, d = (a + c) / 2, (b + d) / 2, c - a, d - b
    return kiln.stack([a, b, c, d], -1)


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut at the border of a picture of this height and width."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return kiln.stack((x, y), -1).reshape(boxes.shape)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Which boxes have both sides this long."""
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return kiln.where((w >= min_size) & (h >= min_size))[0]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Boxes that no better one overlaps by more than the threshold, best first."""
    order = scores.argsort(descending=True, stable=True)
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].detach().numpy().T)
    areas, left = (x2 - x1) * (y2 - y1), np.arange(len(order))
    kept: list[int] = []
    while len(left):
        i, left = left[0], left[1:]
        kept.append(i)
        wide = np.minimum(x2[i], x2[left]) - np.maximum(x1[i], x1[left])
        high = np.minimum(y2[i], y2[left]) - np.maximum(y1[i], y1[left])
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        with np.errstate(invalid="ignore"):  # of boxes without area, which overlap none
            left = left[~(shared / (areas[i] + areas[left] - shared) > np.float64(iou_threshold))]
    return order[kiln.tensor(kept, dtype=kiln.int64)]


_FEW = 4000
"""Numbers in boxes up to which all classes are compared at once."""


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` among the boxes of each class by itself."""
    if boxes.numel() == 0:
        return kiln.empty(0, dtype=kiln.int64)
    if boxes.numel() > _FEW:  # moved apart, many boxes would lose digits
        kept = []
        for label in idxs.unique():
            of = kiln.where(idxs == label)[0]
            kept.append(of[nms(boxes[of], scores[of], iou_threshold)])
        found = kiln.cat(kept).sort()[0]
        return found[scores[found].argsort(descending=True, stable=True)]
    apart = idxs.to(boxes.dtype) * (boxes.max() + 1)
    return nms(boxes + apart[:, None], scores, iou_threshold)


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """Binary cross entropy with less weight on what is sure (Lin et al. 2017)."""
    p = kiln.sigmoid(inputs)
    loss = nn.functional.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    loss = loss * (1 - p * targets - (1 - p) * (1 - targets)) ** gamma
    if alpha >= 0:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    if reduction not in ("none", "mean", "sum"):
        raise KilnValueError(
            "sigmoid_focal_loss", f"Invalid Value for arg 'reduction': '{reduction}'", reduction
        )
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def stochastic_depth(input: Tensor, p: float, mode: str, training: bool = True) -> Tensor:
    """0 in place of the input with probability p: of each sample ("row") or of all ("batch")."""
    if not 0.0 <= p <= 1.0:
        raise KilnValueError(
            "stochastic_depth", f"drop probability has to be between 0 and 1, but got {p}", p
        )
    if mode not in ("batch", "row"):
        raise KilnValueError(
            "stochastic_depth", f"mode has to be either 'batch' or 'row', but got {mode}", mode
        )
    if not training or p == 0.0:
        return input
    shape = [input.shape[0] if mode == "row" else 1] + [1] * (input.ndim - 1)
    noise = kiln.empty(shape, dtype=input.dtype).bernoulli_(1.0 - p)
    return input * (noise / (1.0 - p) if p < 1.0 else noise)


def drop_block2d(
    input: Tensor, p: float, block_size: int, inplace: bool = False, eps: float = 1e-6, training: bool = True
) -> Tensor:  # fmt: skip
    """Squares of feature maps set to zero, the rest scaled up (Ghiasi et al. 2018)."""
    if not 0.0 <= p <= 1.0:
        raise KilnValueError("drop_block2d", f"drop probability has to be between 0 and 1, but got {p}.", p)  # fmt: skip
    if not training or p == 0.0:
        return input
    n, c, h, w = input.shape
    size = min(block_size, w, h)
    gamma = p * h * w / (size**2 * (h - size + 1) * (w - size + 1))
    centres = kiln.empty(n, c, h - size + 1, w - size + 1, dtype=input.dtype).bernoulli_(gamma)
    centres = nn.functional.pad(centres, [size // 2] * 4)
    kept = 1 - nn.functional.max_pool2d(centres, size, 1, size // 2)[..., :h, :w]
    scale = kept.numel() / (eps + kept.sum())
    return input.mul_(kept).mul_(scale) if inplace else input * kept * scale


class DropBlock2d(nn.Module):
    """`drop_block2d` as a layer."""

    def __init__(self, p: float, block_size: int, inplace: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        self.p, self.block_size, self.inplace, self.eps = p, block_size, inplace, eps

    def forward(self, input: Tensor) -> Tensor:
        return drop_block2d(input, self.p, self.block_size, self.inplace, self.eps, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, block_size={self.block_size}, inplace={self.inplace}"


class StochasticDepth(nn.Module):
    """`stochastic_depth` as a layer."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, input: Tensor) -> Tensor:
        return stochastic_depth(input, self.p, self.mode, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, mode={self.mode}"


class Conv2dNormActivation(nn.Sequential):
    """A convolution that keeps the size at stride 1, a norm and an activation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1,
        padding: int | None = None, groups: int = 1, norm_layer: Callable[..., nn.Module] | None = nn.BatchNorm2d,
        activation_layer: Callable[..., nn.Module] | None = nn.ReLU, dilation: int = 1,
        inplace: bool | None = True, bias: bool | None = None,
    ) -> None:  # fmt: skip
        if padding is None:
            padding = (kernel_size - 1) // 2 * dilation
        bias = norm_layer is None if bias is None else bias
        layers: list[nn.Module] = [
            nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
            )
        ]
        if norm_layer is not None:
            layers.append(norm_layer(out_channels))
        if activation_layer is not None:
            layers.append(activation_layer(**({} if inplace is None else {"inplace": inplace})))
        super().__init__(*layers)
        self.out_channels = out_channels


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole picture says (Hu, Shen & Sun 2018)."""

    def __init__(
        self, input_channels: int, squeeze_channels: int, activation: Callable[..., nn.Module] = nn.ReLU,
        scale_activation: Callable[..., nn.Module] = nn.Sigmoid,
    ) -> None:  # fmt: skip
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, input_channels, 1)
        self.activation, self.scale_activation = activation(), scale_activation()

    def forward(self, input: Tensor) -> Tensor:
        scale = self.fc2(self.activation(self.fc1(self.avgpool(input))))
        return self.scale_activation(scale) * input


class MLP(nn.Sequential):
    """Linear layers with a norm, an activation and dropout after each but the last."""

    def __init__(
        self, in_channels: int, hidden_channels: Sequence[int],
        norm_layer: Callable[..., nn.Module] | None = None,
        activation_layer: Callable[..., nn.Module] | None = nn.ReLU, inplace: bool | None = None,
        bias: bool = True, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        options: dict[str, Any] = {} if inplace is None else {"inplace": inplace}
        layers: list[nn.Module] = []
        width = in_channels
        for hidden in hidden_channels[:-1]:
            layers.append(nn.Linear(width, hidden, bias=bias))
            if norm_layer is not None:
                layers.append(norm_layer(hidden))
            if activation_layer is not None:
                layers.append(activation_layer(**options))
            layers.append(nn.Dropout(dropout, **options))
            width = hidden
        layers += [nn.Linear(width, hidden_channels[-1], bias=bias), nn.Dropout(dropout, **options)]
        super().__init__(*layers)


class Permute(nn.Module):
    """Dimensions in another order."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.dims)


class FrozenBatchNorm2d(nn.Module):
    """A batch norm whose statistics and weights are fixed."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", kiln.ones(num_features))
        self.register_buffer("bias", kiln.zeros(num_features))
        self.register_buffer("running_mean", kiln.zeros(num_features))
        self.register_buffer("running_var", kiln.ones(num_features))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # of a batch norm that was trained
        super()._load_from_state_dict(state_dict, prefix, *more)

    def forward(self, x: Tensor) -> Tensor:
        w, b, mean, var = (
            t.reshape(1, -1, 1, 1) for t in (self.weight, self.bias, self.running_mean, self.running_var)
        )  # fmt: skip
        scale = w * (var + self.eps).rsqrt()
        return x * scale + (b - mean * scale)
