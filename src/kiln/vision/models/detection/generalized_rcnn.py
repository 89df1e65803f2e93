"""What all detectors do: pictures and true boxes in, losses in training and found boxes otherwise."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import kiln

from .... import nn
from ....errors import KilnAssertionError, KilnValueError, describe
from ....tensor import Tensor
from ... import ops
from ._utils import overwrite_eps
from .transform import GeneralizedRCNNTransform, ImageList, Sizes, Targets

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of ImageNet's pictures, which backbones are trained on."""


def need_channels(backbone: nn.Module) -> int:
    """The channels of a backbone's maps; ValueError where it doesn't say."""
    if not hasattr(backbone, "out_channels"):
        raise KilnValueError(
            "detection", "backbone should contain an attribute out_channels specifying the number of output channels (assumed "
            "to be the same for all the levels)", type(backbone).__name__, "backbone.out_channels = 256",
        )  # fmt: skip
    return backbone.out_channels


def _check(targets: Targets | None) -> None:
    """AssertionError unless there are true boxes [N, 4]."""
    if targets is None:
        raise KilnAssertionError("detection", "targets should not be none when in training mode", None, "model(images, targets), or model.eval()")  # fmt: skip
    for t in targets:
        if not isinstance(t["boxes"], Tensor):
            raise KilnAssertionError("detection", f"Expected target boxes to be of type Tensor, got {type(t['boxes'])}", describe(t["boxes"]), "")  # fmt: skip
        if t["boxes"].ndim != 2 or t["boxes"].shape[-1] != 4:
            raise KilnAssertionError("detection", "Expected target boxes to be a tensor of shape [N, 4]", describe(t["boxes"]), "")  # fmt: skip


def _check_sides(targets: Targets) -> None:
    """AssertionError where a true box has no width or height."""
    for i, t in enumerate(targets):
        flat = (t["boxes"][:, 2:] <= t["boxes"][:, :2]).any(1)
        if flat.any():
            raise KilnAssertionError(
                "detection", "All bounding boxes should have positive height and width. Found invalid box "
                f"{t['boxes'][flat][0].tolist()} for target at index {i}", describe(t["boxes"]), "boxes are [x1, y1, x2, y2]",
            )  # fmt: skip


class Detector(nn.Module):
    """A network that finds things in pictures: `model(images, targets)` in training, `model(images)` otherwise.

    `images` are tensors [C, H, W] from 0 to 1, of any sizes; `targets` dicts with "boxes" (float [N, 4]: left, top, right,
    bottom) and "labels" (int64 [N], 0 being the background). Gives the losses by name in training; otherwise a dict for
    each picture with "boxes", "labels" and "scores", best first.
    """

    transform: nn.Module
    backbone: nn.Module

    def forward(self, images: Any, targets: Targets | None = None) -> Any:
        if self.training:
            _check(targets)
        sizes = [(m.shape[-2], m.shape[-1]) for m in images]
        batch, targets = self.transform(images, targets)
        if targets is not None:
            _check_sides(targets)
        features: Any = self.backbone(batch.tensors)
        if isinstance(features, Tensor):
            features = OrderedDict([("0", features)])
        found = self._look(batch, features, targets)
        if self.training:
            return found
        return self.transform.postprocess(found, batch.image_sizes, sizes)

    def _look(self, images: ImageList, features: dict[str, Tensor], targets: Targets | None) -> Any:
        """The losses in training, what is found otherwise."""
        raise NotImplementedError


class GeneralizedRCNN(Detector):
    """A detector of two stages: boxes that may hold something, and what they hold."""

    def __init__(
        self, backbone: nn.Module, rpn: nn.Module, roi_heads: nn.Module, transform: nn.Module
    ) -> None:
        super().__init__()
        self.transform, self.backbone = transform, backbone
        self.rpn, self.roi_heads = rpn, roi_heads

    def _look(self, images: ImageList, features: dict[str, Tensor], targets: Targets | None) -> Any:
        proposals, first = self.rpn(images, features, targets)
        found, second = self.roi_heads(features, proposals, images.image_sizes, targets)
        return {**second, **first} if self.training else found


class OneStage(Detector):
    """A detector whose head tells the class and the box of each anchor at once."""

    score_thresh: float
    nms_thresh: float
    detections_per_img: int
    topk_candidates: int
    anchor_generator: nn.Module
    head: nn.Module

    def _options(
        self, score_thresh: float, nms_thresh: float, detections_per_img: int, topk_candidates: int
    ) -> None:
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates

    def _look(self, images: ImageList, features: dict[str, Tensor], targets: Targets | None) -> Any:
        maps = list(features.values())
        outputs = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        places = [m.shape[2] * m.shape[3] for m in maps]
        if self.training:
            return self._losses(targets, outputs, anchors, places)
        return self._found(outputs, anchors, images.image_sizes, places)

    def _losses(self, targets: Any, outputs: Any, anchors: list[Tensor], places: list[int]) -> Any:
        """The losses by name."""
        raise NotImplementedError

    def _found(
        self, outputs: dict[str, Tensor], anchors: list[Tensor], image_shapes: Sizes, places: list[int]
    ) -> Targets:  # fmt: skip
        """What is found in each picture, of each map the best."""
        per_place = outputs["cls_logits"].shape[1] // sum(places)
        counts = [n * per_place for n in places]
        parts = {k: v.split(counts, 1) for k, v in outputs.items()}
        found = []
        for i, size in enumerate(image_shapes):
            kept = [
                self._best({k: v[level][i] for k, v in parts.items()}, own, size)
                for level, own in enumerate(anchors[i].split(counts))
            ]
            found.append(self._apart(*(kiln.cat(list(group)) for group in zip(*kept, strict=True))))
        return found

    def _best(self, outputs: dict[str, Tensor], anchors: Tensor, size: tuple[int, int]) -> Any:
        """Boxes, scores and classes of the best anchors of one map."""
        scores = self._scores(outputs)
        score, classes = scores.flatten(), scores.shape[-1]
        keep = kiln.where(score > self.score_thresh)[0]
        score, best = score[keep].topk(min(self.topk_candidates, len(keep)))
        keep = keep[best]
        who = keep // classes
        return (
            self._boxes(outputs["bbox_regression"][who], anchors[who], size),
            score,
            keep % classes,
        )

    def _scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """How sure each class of each anchor is."""
        return outputs["cls_logits"].sigmoid()

    def _boxes(self, numbers: Tensor, anchors: Tensor, size: tuple[int, int]) -> Tensor:
        raise NotImplementedError

    def _apart(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What no better box of its class overlaps."""
        keep = ops.batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}


def transform_of(
    min_size: Any, max_size: int, mean: Any = None, std: Any = None, **options: Any
) -> GeneralizedRCNNTransform:
    """How pictures are prepared, normalised as ImageNet's unless told otherwise."""
    return GeneralizedRCNNTransform(min_size, max_size, mean or MEAN, std or STD, **options)


# ---------------------------------------------------------------- published weights


def coco(exact: bool = False, **more: int) -> Any:
    """What options a model has that weights trained on COCO fit; `exact` ones had no eps in their batch norms.

    ValueError where another number of classes (or what `more` names) is asked for.
    """
    fixed = {"num_classes": 91, **more}

    def published(options: dict[str, Any]) -> Any:
        for name, n in fixed.items():
            if options.get(name, n) not in (None, n):
                raise KilnValueError(
                    "detection", f"The parameter '{name}' expected value {n} but got {options[name]} instead", options[name],
                    "load the weights, then replace the predictor: model.roi_heads.box_predictor = …",
                )  # fmt: skip
        finish = (lambda net: overwrite_eps(net, 0.0)) if exact else (lambda net: None)
        return {**options, **fixed, "weights_backbone": None, "_trained": True}, finish

    return published


def fitting(options: dict[str, Any], default: Any) -> tuple[Any, bool, int | None]:
    """Taken out of a model's options: the backbone's weights, whether any are loaded, and how many stages are trained."""
    chosen = options.pop("weights_backbone", default)
    if "pretrained_backbone" in options:  # as it was called before
        chosen = default if options.pop("pretrained_backbone") else None
    trained = options.pop("_trained", False) or chosen is not None
    return chosen, trained, options.pop("trainable_backbone_layers", None)
