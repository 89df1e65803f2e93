"""Keypoint R-CNN (He et al. 2017): points of each thing that is found, as a person's joints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kiln.nn.functional as F

from .... import nn
from ....errors import KilnValueError
from ....tensor import Tensor
from ... import ops
from ..registry import model, weights
from .faster_rcnn import FasterRCNN, init_convolutions, need, over_resnet50
from .generalized_rcnn import coco

__all__ = ["KeypointRCNN", "KeypointRCNN_ResNet50_FPN_Weights", "keypointrcnn_resnet50_fpn"]


class KeypointRCNN(FasterRCNN):
    """A `FasterRCNN` that tells points too: targets have "keypoints" [N, K, 3] of x, y and whether it is visible.

    All of `FasterRCNN`'s options are taken.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int | None = None, min_size: Any = None, *args: Any,
        keypoint_roi_pool: Any = None, keypoint_head: Any = None, keypoint_predictor: Any = None,
        num_keypoints: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        need("keypoint_roi_pool", keypoint_roi_pool, ops.MultiScaleRoIAlign)
        if num_keypoints is not None and keypoint_predictor is not None:
            raise KilnValueError("KeypointRCNN", "num_keypoints should be None when keypoint_predictor is specified", num_keypoints, "")  # fmt: skip
        sizes = (640, 672, 704, 736, 768, 800) if min_size is None else min_size
        pool = keypoint_roi_pool or ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2)
        head = keypoint_head
        if head is None:
            head = KeypointRCNNHeads(backbone.out_channels, (512,) * 8)  # type: ignore[arg-type]
        if keypoint_predictor is None:
            keypoint_predictor = KeypointRCNNPredictor(512, num_keypoints or 17)
        super().__init__(backbone, num_classes, sizes, *args, **kwargs)
        self.roi_heads.keypoint_roi_pool, self.roi_heads.keypoint_head = pool, head
        self.roi_heads.keypoint_predictor = keypoint_predictor


class KeypointRCNNHeads(nn.Sequential):
    """Convolutions on the features of a box."""

    def __init__(self, in_channels: int, layers: Sequence[int]) -> None:
        made: list[nn.Module] = []
        for outputs in layers:
            made += [nn.Conv2d(in_channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            in_channels = outputs
        super().__init__(*made)
        init_convolutions(self)


class KeypointRCNNPredictor(nn.Module):
    """A map of where each point is, of four times the size."""

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.kps_score_lowres = nn.ConvTranspose2d(in_channels, num_keypoints, 4, 2, 1)
        nn.init.kaiming_normal_(self.kps_score_lowres.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.kps_score_lowres.bias)  # type: ignore[arg-type]
        self.up_scale, self.out_channels = 2, num_keypoints

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(
            self.kps_score_lowres(x), scale_factor=float(self.up_scale), mode="bilinear", align_corners=False
        )  # fmt: skip


KeypointRCNN_ResNet50_FPN_Weights = weights(
    "KeypointRCNN_ResNet50_FPN_Weights", COCO_V1="keypointrcnn_resnet50_fpn_coco-fc266e95.pth"
)


@model(KeypointRCNN_ResNet50_FPN_Weights, coco(exact=True, num_classes=2, num_keypoints=17))
def keypointrcnn_resnet50_fpn(
    *, num_classes: int | None = None, num_keypoints: int | None = None, **kwargs: Any
) -> KeypointRCNN:
    """Keypoint R-CNN over ResNet-50."""
    options = {"num_keypoints": num_keypoints or 17} if "keypoint_predictor" not in kwargs else {}
    return KeypointRCNN(over_resnet50(kwargs), num_classes or 2, **options, **kwargs)
