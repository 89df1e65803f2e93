"""Faster R-CNN (Ren et al. 2015) over feature pyramids (Lin et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import kiln.nn.functional as F

from .... import nn
from ....errors import KilnAssertionError, KilnTypeError, KilnValueError, describe
from ....tensor import Tensor
from ... import ops
from ..mobilenetv3 import MobileNet_V3_Large_Weights, mobilenet_v3_large
from ..registry import model, weights
from ..resnet import ResNet50_Weights, resnet50
from .anchor_utils import AnchorGenerator
from .backbone_utils import (
    _mobilenet_extractor,
    _resnet_fpn_extractor,
    _validate_trainable_layers,
)
from .generalized_rcnn import GeneralizedRCNN, coco, fitting, need_channels, transform_of
from .roi_heads import RoIHeads
from .rpn import RegionProposalNetwork, RPNHead

__all__ = [
    "FasterRCNN",
    "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights",
    "FasterRCNN_MobileNet_V3_Large_FPN_Weights",
    "FasterRCNN_ResNet50_FPN_V2_Weights",
    "FasterRCNN_ResNet50_FPN_Weights",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
]


def _default_anchorgen() -> AnchorGenerator:
    """Anchors of one size for each of five maps, in three ratios."""
    return AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)


def need(name: str, value: Any, kind: type) -> None:
    """TypeError unless a part is of its class, or None."""
    if not isinstance(value, kind | None):
        raise KilnTypeError(
            "detection", f"{name} should be of type {kind.__name__} or None instead of {type(value)}", describe(value), ""
        )  # fmt: skip


class FasterRCNN(GeneralizedRCNN):
    """A detector of two stages over a backbone that has `out_channels`; see `Detector` for what it takes and gives.

    `num_classes` counts the background too; it is None where `box_predictor` is given.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int | None = None, min_size: Any = 800, max_size: int = 1333,
        image_mean: Any = None, image_std: Any = None, rpn_anchor_generator: Any = None, rpn_head: Any = None,
        rpn_pre_nms_top_n_train: int = 2000, rpn_pre_nms_top_n_test: int = 1000, rpn_post_nms_top_n_train: int = 2000,
        rpn_post_nms_top_n_test: int = 1000, rpn_nms_thresh: float = 0.7, rpn_fg_iou_thresh: float = 0.7,
        rpn_bg_iou_thresh: float = 0.3, rpn_batch_size_per_image: int = 256, rpn_positive_fraction: float = 0.5,
        rpn_score_thresh: float = 0.0, box_roi_pool: Any = None, box_head: Any = None, box_predictor: Any = None,
        box_score_thresh: float = 0.05, box_nms_thresh: float = 0.5, box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5, box_bg_iou_thresh: float = 0.5, box_batch_size_per_image: int = 512,
        box_positive_fraction: float = 0.25, bbox_reg_weights: Sequence[float] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        channels = need_channels(backbone)
        need("rpn_anchor_generator", rpn_anchor_generator, AnchorGenerator)
        need("box_roi_pool", box_roi_pool, ops.MultiScaleRoIAlign)
        if (num_classes is None) == (box_predictor is None):
            not_ = "not " if num_classes is None else ""
            raise KilnValueError(
                "FasterRCNN", f"num_classes should {not_}be None when box_predictor is {not_}specified", num_classes, "give one of them"
            )  # fmt: skip
        anchors = _default_anchorgen() if rpn_anchor_generator is None else rpn_anchor_generator
        if rpn_head is None:
            rpn_head = RPNHead(channels, anchors.num_anchors_per_location()[0])
        rpn = RegionProposalNetwork(
            anchors, rpn_head, rpn_fg_iou_thresh, rpn_bg_iou_thresh, rpn_batch_size_per_image, rpn_positive_fraction,
            {"training": rpn_pre_nms_top_n_train, "testing": rpn_pre_nms_top_n_test},
            {"training": rpn_post_nms_top_n_train, "testing": rpn_post_nms_top_n_test},
            rpn_nms_thresh, rpn_score_thresh,
        )  # fmt: skip
        if box_roi_pool is None:
            box_roi_pool = ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
        if box_head is None:
            box_head = TwoMLPHead(channels * box_roi_pool.output_size[0] ** 2, 1024)
        if box_predictor is None:
            box_predictor = FastRCNNPredictor(1024, num_classes)  # type: ignore[arg-type]
        roi_heads = RoIHeads(
            box_roi_pool, box_head, box_predictor, box_fg_iou_thresh, box_bg_iou_thresh, box_batch_size_per_image,
            box_positive_fraction, bbox_reg_weights, box_score_thresh, box_nms_thresh, box_detections_per_img,
        )  # fmt: skip
        transform = transform_of(min_size, max_size, image_mean, image_std, **kwargs)
        super().__init__(backbone, rpn, roi_heads, transform)


class TwoMLPHead(nn.Module):
    """Two linear layers on the features of a box."""

    def __init__(self, in_channels: int, representation_size: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(in_channels, representation_size)
        self.fc7 = nn.Linear(representation_size, representation_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class FastRCNNConvFCHead(nn.Sequential):
    """Convolutions and linear layers on the features [C, H, W] of a box."""

    def __init__(
        self, input_size: tuple[int, int, int], conv_layers: Sequence[int], fc_layers: Sequence[int],
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        channels, height, width = input_size
        layers: list[nn.Module] = []
        for outputs in conv_layers:
            layers.append(ops.Conv2dNormActivation(channels, outputs, norm_layer=norm_layer))
            channels = outputs
        layers.append(nn.Flatten())
        channels *= height * width
        for outputs in fc_layers:
            layers += [nn.Linear(channels, outputs), nn.ReLU(inplace=True)]
            channels = outputs
        super().__init__(*layers)
        init_convolutions(self)


def init_convolutions(net: nn.Module) -> None:
    """Begin convolutions as He et al. (2015) do, by what they give."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)


class FastRCNNPredictor(nn.Module):
    """The score of each class, and four numbers of its box."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, num_classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim == 4 and tuple(x.shape[2:]) != (1, 1):
            raise KilnAssertionError(
                "FastRCNNPredictor", "x has the wrong shape, expecting the last two dimensions to be [1,1]", describe(x), ""
            )  # fmt: skip
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x)


def over_resnet50(
    options: dict[str, Any], frozen: bool = True, blocks: Callable[[], nn.Module] | None = None, **pyramid: Any
) -> Any:  # fmt: skip
    """The pyramid over a ResNet-50, whose batch norms are `frozen` where it was trained before; `blocks` makes more levels."""
    chosen, trained, layers = fitting(
        options, ResNet50_Weights["IMAGENET1K_V1"] if frozen else None
    )
    layers = _validate_trainable_layers(trained, layers, 5, 3)
    norm = ops.FrozenBatchNorm2d if trained and frozen else nn.BatchNorm2d
    net = resnet50(weights=chosen, norm_layer=norm)
    return _resnet_fpn_extractor(net, layers, extra_blocks=blocks and blocks(), **pyramid)


def parts_v2(backbone: Any) -> dict[str, Any]:
    """The heads of the second edition: deeper, with batch norms."""
    anchors = _default_anchorgen()
    channels = backbone.out_channels
    rpn = RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=2)
    box = FastRCNNConvFCHead((channels, 7, 7), [256] * 4, [1024], nn.BatchNorm2d)
    return {"rpn_anchor_generator": anchors, "rpn_head": rpn, "box_head": box}


FasterRCNN_ResNet50_FPN_Weights = weights(
    "FasterRCNN_ResNet50_FPN_Weights", COCO_V1="fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
)
FasterRCNN_ResNet50_FPN_V2_Weights = weights(
    "FasterRCNN_ResNet50_FPN_V2_Weights", COCO_V1="fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"
)
FasterRCNN_MobileNet_V3_Large_FPN_Weights = weights(
    "FasterRCNN_MobileNet_V3_Large_FPN_Weights", COCO_V1="fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"
)  # fmt: skip
FasterRCNN_MobileNet_V3_Large_320_FPN_Weights = weights(
    "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights", COCO_V1="fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth"
)  # fmt: skip


@model(FasterRCNN_ResNet50_FPN_Weights, coco(exact=True))
def fasterrcnn_resnet50_fpn(*, num_classes: int | None = None, **kwargs: Any) -> FasterRCNN:
    """Faster R-CNN over ResNet-50."""
    return FasterRCNN(over_resnet50(kwargs), num_classes or 91, **kwargs)


@model(FasterRCNN_ResNet50_FPN_V2_Weights, coco())
def fasterrcnn_resnet50_fpn_v2(*, num_classes: int | None = None, **kwargs: Any) -> FasterRCNN:
    """Faster R-CNN over ResNet-50, with deeper heads (Li et al. 2021)."""
    backbone = over_resnet50(kwargs, False, norm_layer=nn.BatchNorm2d)
    return FasterRCNN(backbone, num_classes or 91, **{**parts_v2(backbone), **kwargs})


def _over_mobilenet(num_classes: int | None, options: dict[str, Any]) -> FasterRCNN:
    chosen, trained, layers = fitting(options, MobileNet_V3_Large_Weights["IMAGENET1K_V1"])
    layers = _validate_trainable_layers(trained, layers, 6, 3)
    norm = ops.FrozenBatchNorm2d if trained else nn.BatchNorm2d
    net = mobilenet_v3_large(weights=chosen, norm_layer=norm)
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    backbone = _mobilenet_extractor(net, True, layers)
    return FasterRCNN(backbone, num_classes or 91, rpn_anchor_generator=anchors, **options)


@model(FasterRCNN_MobileNet_V3_Large_FPN_Weights, coco())
def fasterrcnn_mobilenet_v3_large_fpn(
    *, num_classes: int | None = None, **kwargs: Any
) -> FasterRCNN:
    """Faster R-CNN over MobileNetV3."""
    return _over_mobilenet(num_classes, {"rpn_score_thresh": 0.05, **kwargs})


@model(FasterRCNN_MobileNet_V3_Large_320_FPN_Weights, coco())
def fasterrcnn_mobilenet_v3_large_320_fpn(
    *, num_classes: int | None = None, **kwargs: Any
) -> FasterRCNN:
    """Faster R-CNN over MobileNetV3, of small pictures."""
    small = {"min_size": 320, "max_size": 640, "rpn_pre_nms_top_n_test": 150, "rpn_post_nms_top_n_test": 150, "rpn_score_thresh": 0.05}  # fmt: skip
    return _over_mobilenet(num_classes, {**small, **kwargs})
