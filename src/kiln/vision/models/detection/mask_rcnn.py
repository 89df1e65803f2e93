"""Mask R-CNN (He et al. 2017): a mask of each thing that is found."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from .... import nn
from ....errors import KilnValueError
from ... import ops
from ..registry import model, weights
from .faster_rcnn import (
    FasterRCNN,
    init_convolutions,
    need,
    over_resnet50,
    parts_v2,
)
from .generalized_rcnn import coco, need_channels

__all__ = [
    "MaskRCNN",
    "MaskRCNN_ResNet50_FPN_V2_Weights",
    "MaskRCNN_ResNet50_FPN_Weights",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
]


class MaskRCNN(FasterRCNN):
    """A `FasterRCNN` that tells masks too: targets have "masks" [N, H, W] of 0 and 1, results [N, 1, H, W] from 0 to 1.

    All of `FasterRCNN`'s options are taken.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int | None = None, *args: Any, mask_roi_pool: Any = None, mask_head: Any = None,
        mask_predictor: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        need("mask_roi_pool", mask_roi_pool, ops.MultiScaleRoIAlign)
        if num_classes is not None and mask_predictor is not None:
            raise KilnValueError("MaskRCNN", "num_classes should be None when mask_predictor is specified", num_classes, "")  # fmt: skip
        channels = need_channels(backbone)
        pool = mask_roi_pool or ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2)
        head = MaskRCNNHeads(channels, (256,) * 4, 1) if mask_head is None else mask_head
        if mask_predictor is None:
            mask_predictor = MaskRCNNPredictor(256, 256, num_classes)  # type: ignore[arg-type]
        super().__init__(backbone, num_classes, *args, **kwargs)
        self.roi_heads.mask_roi_pool, self.roi_heads.mask_head = pool, head
        self.roi_heads.mask_predictor = mask_predictor


class MaskRCNNHeads(nn.Sequential):
    """Convolutions on the features of a box."""

    _version = 2

    def __init__(
        self, in_channels: int, layers: Sequence[int], dilation: int, norm_layer: Callable[..., nn.Module] | None = None
    ) -> None:  # fmt: skip
        widths = [in_channels, *layers]
        super().__init__(*(
            ops.Conv2dNormActivation(a, b, 3, padding=dilation, dilation=dilation, norm_layer=norm_layer)
            for a, b in zip(widths, layers, strict=False)
        ))  # fmt: skip
        init_convolutions(self)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *more: Any
    ) -> None:
        if (local_metadata.get("version") or 1) < 2:
            for i in range(len(self)):
                for kind in ("weight", "bias"):
                    if (old := f"{prefix}mask_fcn{i + 1}.{kind}") in state_dict:
                        state_dict[f"{prefix}{i}.0.{kind}"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


class MaskRCNNPredictor(nn.Sequential):
    """A mask of each class, of twice the size."""

    def __init__(self, in_channels: int, dim_reduced: int, num_classes: int) -> None:
        super().__init__(OrderedDict([
            ("conv5_mask", nn.ConvTranspose2d(in_channels, dim_reduced, 2, 2)), ("relu", nn.ReLU(inplace=True)),
            ("mask_fcn_logits", nn.Conv2d(dim_reduced, num_classes, 1)),
        ]))  # fmt: skip
        for name, p in self.named_parameters():
            if "weight" in name:
                nn.init.kaiming_normal_(p, mode="fan_out", nonlinearity="relu")


MaskRCNN_ResNet50_FPN_Weights = weights(
    "MaskRCNN_ResNet50_FPN_Weights", COCO_V1="maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
)
MaskRCNN_ResNet50_FPN_V2_Weights = weights(
    "MaskRCNN_ResNet50_FPN_V2_Weights", COCO_V1="maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
)


@model(MaskRCNN_ResNet50_FPN_Weights, coco(exact=True))
def maskrcnn_resnet50_fpn(*, num_classes: int | None = None, **kwargs: Any) -> MaskRCNN:
    """Mask R-CNN over ResNet-50."""
    return MaskRCNN(over_resnet50(kwargs), num_classes or 91, **kwargs)


@model(MaskRCNN_ResNet50_FPN_V2_Weights, coco())
def maskrcnn_resnet50_fpn_v2(*, num_classes: int | None = None, **kwargs: Any) -> MaskRCNN:
    """Mask R-CNN over ResNet-50, with deeper heads (Li et al. 2021)."""
    backbone = over_resnet50(kwargs, False, norm_layer=nn.BatchNorm2d)
    parts = parts_v2(backbone)
    parts["mask_head"] = MaskRCNNHeads(backbone.out_channels, [256] * 4, 1, nn.BatchNorm2d)
    return MaskRCNN(backbone, num_classes or 91, **{**parts, **kwargs})
