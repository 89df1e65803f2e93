"""Detectors: the losses, gradients and boxes of torchvision's from the same seed, and what they are made of."""

from __future__ import annotations

import pytest

import kiln
from kiln import nn
from kiln.vision import models, ops
from kiln.vision.models import detection
from kiln.vision.models.detection import _utils as parts
from kiln.vision.models.detection import instances
from kiln.vision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from kiln.vision.models.detection.backbone_utils import (
    mobilenet_backbone,
    resnet_fpn_backbone,
)
from kiln.vision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from kiln.vision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from kiln.vision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from kiln.vision.models.detection.rpn import RPNHead
from kiln.vision.models.detection.transform import GeneralizedRCNNTransform, ImageList

BOXES = [[4.0, 6, 20, 25], [10, 2, 26, 12.5]]
RATIOS = ((0.5, 1.0, 2.0),) * 2


class Backbone(nn.Module):
    """Maps of a quarter and an eighth of the picture's sides."""

    def __init__(self, c, channels=None):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, c, 4, 4), nn.Conv2d(c, c, 2, 2)
        self.out_channels = channels or c

    def forward(self, x):
        a = self.a(x)
        return {"0": a, "1": self.b(a.relu())}


def two_stage(kind, **more):
    backbone = Backbone(8)
    pool = ops.MultiScaleRoIAlign(["0", "1"], 3, 2)
    return kind(
        backbone, min_size=(32, 32), max_size=64, rpn_anchor_generator=AnchorGenerator(((8,), (16,)), RATIOS),
        box_roi_pool=pool, box_head=TwoMLPHead(72, 16), box_predictor=FastRCNNPredictor(16, 3), rpn_pre_nms_top_n_train=40,
        rpn_post_nms_top_n_train=12, rpn_pre_nms_top_n_test=30, rpn_post_nms_top_n_test=10, box_score_thresh=0.2,
        rpn_batch_size_per_image=16, box_batch_size_per_image=8, **more,
    )  # fmt: skip


def faster():
    return two_stage(detection.FasterRCNN)


def mask():
    return two_stage(
        detection.MaskRCNN, mask_roi_pool=ops.MultiScaleRoIAlign(["0", "1"], 4, 2),
        mask_head=MaskRCNNHeads(8, (8,), 1), mask_predictor=MaskRCNNPredictor(8, 8, 3),
    )  # fmt: skip


def keypoint():
    return two_stage(
        detection.KeypointRCNN, keypoint_roi_pool=ops.MultiScaleRoIAlign(["0", "1"], 4, 2),
        keypoint_head=KeypointRCNNHeads(8, (8,)), keypoint_predictor=KeypointRCNNPredictor(8, 4),
    )  # fmt: skip


def retina():
    anchors = AnchorGenerator(((8, 12), (16, 20)), RATIOS)
    return detection.RetinaNet(
        Backbone(8), 3, 32, 48, anchor_generator=anchors, score_thresh=0.0099, detections_per_img=6
    )


def fcos():
    anchors = AnchorGenerator(((4,), (8,)), ((1.0,),) * 2)
    return detection.FCOS(
        Backbone(32), 3, 32, 48, anchor_generator=anchors, score_thresh=0.05, detections_per_img=6
    )


def ssd():
    anchors = DefaultBoxGenerator([[2], [2, 3]])
    return detection.SSD(
        Backbone(8, [8, 8]), anchors, (32, 32), 3, score_thresh=0.3, detections_per_img=6
    )


def picture(i, h, w):
    """A picture in which no two places are alike."""
    y, x = kiln.meshgrid(kiln.arange(h), kiln.arange(w), indexing="ij")
    parts = [
        (x**3 * (7 + c) + y * y * (1009 + i) + x * y * 31 + x * y * y * 3) % 251 for c in range(3)
    ]
    return kiln.stack(parts).double() / 251


PICTURES = [(0, 32, 64), (1, 64, 32)]


def targets():
    out = []
    boxes = kiln.tensor(BOXES, dtype=kiln.float64)
    share = kiln.tensor([[0.1, 0.2], [0.5, 0.5], [0.9, 0.8], [1, 1]], dtype=kiln.float64)
    seen = kiln.tensor([1.0, 1, 0, 1]).reshape(1, 4, 1).expand(2, 4, 1)
    points = boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])
    for _, h, w in PICTURES:
        y, x = kiln.arange(h)[:, None], kiln.arange(w)
        masks = [(x >= a) & (x < c) & (y >= b) & (y < d) for a, b, c, d in BOXES]
        out.append({
            "boxes": boxes.clone(), "labels": kiln.tensor([1, 2]), "masks": kiln.stack(masks).byte(),
            "keypoints": kiln.cat([points.float(), seen.float()], 2),
        })  # fmt: skip
    return out


# What torchvision 0.28 gives: losses, the sum of the gradients' sizes, and of each picture how many boxes and their sum.
TORCHVISION = {
    faster: (
        {"loss_classifier": 0.968195345, "loss_box_reg": 0.091646176, "loss_objectness": 0.692961156, "loss_rpn_box_reg": 0.064079704},
        12.8836554, [(17, 1640.7396), (14, 1246.394144)],
    ),
    mask: (
        {"loss_classifier": 1.034317182, "loss_box_reg": 0.097837209, "loss_mask": 0.68889403, "loss_objectness": 0.693284512,
         "loss_rpn_box_reg": 0.064199758},
        19.8761572, [(18, 1734.970394), (20, 1474.05338)],
    ),
    keypoint: (
        {"loss_classifier": 1.105106105, "loss_box_reg": 0.080903299, "loss_keypoint": 5.541018706, "loss_objectness": 0.6932078,
         "loss_rpn_box_reg": 0.064200909},
        22.8783312, [(20, 1538.821684), (18, 1636.804287)],
    ),
    retina: ({"classification": 1.128810716, "bbox_regression": 0.624663388}, 3.0941697, [(6, 415.999847), (6, 549.333284)]),
    fcos: (
        {"classification": 1.137778106, "bbox_regression": 1.000979913, "bbox_ctrness": 0.690458122},
        906.08073, [(6, 636.835898), (6, 425.351521)],
    ),
    ssd: ({"bbox_regression": 3.932065841, "classification": 6.756456693}, 225.3104785, [(6, 570.38379), (6, 672.712566)]),
}  # fmt: skip
MORE = {  # the sums of masks, points and how sure these are
    mask: {"masks": (683.566761, 789.783404)},
    keypoint: {"keypoints": (3078.253592, 3319.489389), "keypoints_scores": (23.711388, 19.849624)},
}


@pytest.fixture
def float64():
    before = kiln.get_default_dtype()
    kiln.set_default_dtype(kiln.float64)
    yield
    kiln.set_default_dtype(before)


@pytest.mark.parametrize("make", TORCHVISION, ids=lambda f: f.__name__)
@pytest.mark.usefixtures("torch_stream", "float64")
def test_a_seeded_detector_is_torchvisions(make):
    losses, gradients, boxes = TORCHVISION[make]
    kiln.manual_seed(1)
    m = make()
    pictures = [picture(*p) for p in PICTURES]
    aims = targets()
    told = m(pictures, aims)
    assert list(told) == list(losses)
    assert {k: v.item() for k, v in told.items()} == pytest.approx(losses, rel=1e-7)
    assert aims[0]["boxes"].tolist() == BOXES
    kiln.stack(list(told.values())).sum().backward()
    sizes = [p.grad.abs().sum().item() for p in m.parameters() if p.grad is not None]
    assert sum(sizes) == pytest.approx(gradients, rel=1e-7)
    m.eval()
    with kiln.no_grad():
        found = m(pictures)
    assert [len(d["boxes"]) for d in found] == [n for n, _ in boxes]
    assert [d["boxes"].sum().item() for d in found] == pytest.approx(
        [s for _, s in boxes], rel=1e-6
    )
    for d in found:
        assert d["scores"].tolist() == sorted(d["scores"].tolist(), reverse=True)
        assert len(d["labels"]) == len(d["boxes"])
    for key, sums in MORE.get(make, {}).items():
        assert [d[key].double().sum().item() for d in found] == pytest.approx(sums, rel=1e-6)


@pytest.mark.parametrize("make", [faster, mask, keypoint, retina, fcos, ssd])
def test_a_picture_without_anything(make):
    m = make()
    empty = {"boxes": kiln.zeros(0, 4), "labels": kiln.zeros(0, dtype=kiln.int64), "masks": kiln.zeros(0, 32, 64).byte(),
             "keypoints": kiln.zeros(0, 4, 3)}  # fmt: skip
    losses = m([kiln.rand(3, 32, 64)], [empty])
    total = kiln.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert losses.get("bbox_regression", losses.get("loss_box_reg")).item() == 0


# ---------------------------------------------------------------- what programs get wrong


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m, x, t: m([x]), AssertionError, "targets should not be none"),
        (lambda m, x, t: m([x], [{**t, "boxes": BOXES}]), AssertionError, "of type Tensor"),
        (lambda m, x, t: m([x], [{**t, "boxes": kiln.ones(4)}]), AssertionError, r"shape \[N, 4\]"),
        (lambda m, x, t: m([x], [{**t, "boxes": t["boxes"][:, [2, 1, 0, 3]]}]), AssertionError, "positive height and width"),
        (lambda m, x, t: m([x], [{**t, "labels": t["labels"].float()}]), TypeError, "labels must be of int64"),
        (lambda m, x, t: m([x], [{"boxes": t["boxes"]}]), (ValueError, KeyError), "labels"),
        (lambda m, x, t: m([(x * 255).byte()], [t]), TypeError, "floating type"),
        (lambda m, x, t: m([x[None]], [t]), ValueError, "3d tensors"),
        (lambda m, x, t: detection.FasterRCNN(nn.ReLU(), 2), ValueError, "out_channels"),
        (lambda m, x, t: detection.FasterRCNN(m.backbone), ValueError, "num_classes should not be None"),
        (lambda m, x, t: detection.FasterRCNN(m.backbone, 2, rpn_anchor_generator=1), TypeError, "AnchorGenerator"),
        (lambda m, x, t: models.get_model("fasterrcnn_resnet50_fpn", weights="COCO_V1", num_classes=2), ValueError, "expected value 91"),
        (lambda m, x, t: resnet_fpn_backbone(backbone_name="resnet18", trainable_layers=6), ValueError, "range"),
    ],
)  # fmt: skip
def test_mistakes(call, kind, words):
    m = faster()
    with pytest.raises(kind, match=words):
        call(
            m,
            kiln.rand(3, 32, 64),
            {k: v.float() if k == "boxes" else v for k, v in targets()[0].items()},
        )


# ---------------------------------------------------------------- parts


def test_boxes_are_told_beside_anchors_and_back():
    anchors, boxes = kiln.tensor([[0.0, 0, 10, 20]]), kiln.tensor([[5.0, 0, 15, 40]])
    coder = parts.BoxCoder((10.0, 10.0, 5.0, 5.0))
    told = coder.encode_single(boxes, anchors)
    assert told[0].tolist() == pytest.approx([5, 5, 0, 5 * 0.6931472])
    assert coder.decode(told, [anchors]).flatten().tolist() == pytest.approx(boxes[0].tolist())
    far = coder.decode_single(kiln.tensor([[0.0, 0, 1e9, 1e9]]), anchors)
    assert (far[0, 2] - far[0, 0]).item() == pytest.approx(10 * 1000 / 16)
    linear = parts.BoxLinearCoder()
    sides = linear.encode(anchors, boxes)
    assert sides[0].tolist() == pytest.approx([0, 0.5, 1, 1.5])
    assert linear.decode(sides, anchors)[0].tolist() == pytest.approx(boxes[0].tolist())


def test_which_true_box_an_anchor_belongs_to():
    overlaps = kiln.tensor([[0.8, 0.4, 0.1, 0.2], [0.1, 0.35, 0.05, 0.2]])
    assert parts.Matcher(0.7, 0.3)(overlaps).tolist() == [0, -2, -1, -1]
    assert parts.Matcher(0.7, 0.3, True)(overlaps).tolist() == [0, 0, -1, -1]
    assert parts.SSDMatcher(0.5)(overlaps).tolist() == [0, 1, -1, -1]
    with pytest.raises(ValueError, match="No ground-truth"):
        parts.Matcher(0.7, 0.3)(kiln.zeros(0, 3))
    with pytest.raises(AssertionError):
        parts.Matcher(0.3, 0.7)


def test_how_many_anchors_are_drawn():
    labels = kiln.tensor([1.0] * 3 + [0.0] * 20 + [-1.0] * 5)
    some, none = parts.BalancedPositiveNegativeSampler(8, 0.25)([labels])
    assert [int(some[0].sum()), int(none[0].sum())] == [2, 6]
    assert labels[some[0].bool()].tolist() == [1, 1]
    assert not labels[none[0].bool()].any()
    assert int(parts.BalancedPositiveNegativeSampler(8, 0.75)([labels])[1][0].sum()) == 5


def test_anchors():
    made = AnchorGenerator((32,), (0.5, 1.0, 2.0))
    assert made.cell_anchors[0].tolist() == [
        [-23, -11, 23, 11],
        [-16, -16, 16, 16],
        [-11, -23, 11, 23],
    ]
    batch = ImageList(kiln.zeros(2, 3, 16, 32), [(16, 32)] * 2)
    anchors = made(batch, [kiln.zeros(2, 1, 2, 2)])
    assert len(anchors) == 2
    assert anchors[0][3:6].tolist() == (made.cell_anchors[0] + kiln.tensor([16, 0, 16, 0])).tolist()
    with pytest.raises(AssertionError, match="match between"):
        made(batch, [kiln.zeros(2, 1, 2, 2)] * 2)
    default = DefaultBoxGenerator([[2]], scales=[0.5, 0.5], steps=[8])
    assert default.num_anchors_per_location() == [4]
    first = default(batch, [kiln.zeros(2, 1, 2, 4)])[0][0]
    assert first.tolist() == [4 - 8, 4 - 4, 4 + 8, 4 + 4]


def test_pictures_become_one_batch():
    change = GeneralizedRCNNTransform(20, 30, [0.5] * 3, [0.5] * 3).eval()
    target = {"boxes": kiln.tensor([[0.0, 0, 10, 10]]), "masks": kiln.ones(1, 10, 20).byte()}
    batch, (aim, _) = change([kiln.ones(3, 10, 20), kiln.zeros(3, 40, 40)], [target, target])
    assert batch.image_sizes == [(15, 30), (20, 20)]
    assert batch.tensors.shape == (2, 3, 32, 32)
    assert batch.tensors[0, :, :15, :30].eq(1).all()
    assert batch.tensors[0, :, 15:].eq(0).all()
    assert aim["boxes"].tolist() == [[0, 0, 15, 15]]
    assert aim["masks"].shape == (1, 15, 30)
    assert target["masks"].shape == (1, 10, 20)


def test_masks_lie_where_their_boxes_do():
    pasted = instances.paste_masks_in_image(
        kiln.ones(2, 1, 4, 4), kiln.tensor([[2.0, 1, 6, 5], [-9.0, -9, -3, -3]]), (8, 10)
    )
    assert pasted.shape == (2, 1, 8, 10)
    assert pasted[0, 0, 2:4, 3:5].gt(0.99).all()
    assert pasted[0, 0, :, 8:].eq(0).all()
    assert not pasted[1].any()
    assert instances.paste_masks_in_image(
        kiln.zeros(0, 1, 4, 4), kiln.zeros(0, 4), (8, 10)
    ).shape == (0, 1, 8, 10)


def test_points_of_maps_and_back():
    boxes = kiln.tensor([[2.0, 4, 10, 12]])
    places, seen = instances.keypoints_to_heatmap(
        kiln.tensor([[[5.0, 8, 1], [10, 12, 1], [0, 0, 1], [5, 8, 0]]]), boxes, 4
    )
    assert places.tolist() == [[2 * 4 + 1, 15, 0, 0]]
    assert seen.tolist() == [[1, 1, 0, 0]]
    maps = kiln.zeros(1, 1, 4, 4)
    maps[0, 0, 2, 1] = 1
    (point,), score = instances.heatmaps_to_keypoints(maps, boxes)
    assert point[0].tolist() == pytest.approx([5, 9, 1], abs=1)
    assert score.item() == pytest.approx(1, abs=0.3)


def test_only_the_best_of_overlapping_boxes_remain():
    kiln.manual_seed(0)
    corner = kiln.rand(60, 2) * 40
    boxes = kiln.cat([corner, corner + 5 + kiln.rand(60, 2) * 20], 1)
    scores, label = kiln.rand(60), kiln.arange(60) % 3
    overlaps, kept = ops.box_iou(boxes, boxes).tolist(), []
    for i in scores.argsort(descending=True).tolist():
        if all(overlaps[i][j] <= 0.4 for j in kept):
            kept.append(i)
    assert ops.nms(boxes, scores, 0.4).tolist() == kept
    assert 5 < len(kept) < 50
    few = ops.batched_nms(boxes, scores, label, 0.4)
    assert all(
        (label[few] == c).sum() == len(ops.nms(boxes[label == c], scores[label == c], 0.4))
        for c in range(3)
    )
    many = [
        kiln.cat([t + (100 * i if t is boxes else 0) for i in range(20)])
        for t in (boxes, scores, label)
    ]
    found = ops.batched_nms(*many, 0.4)
    assert sorted((found % 60).tolist()) == sorted(few.tolist() * 20)
    assert many[1][found].tolist() == sorted(many[1][found].tolist(), reverse=True)


# ---------------------------------------------------------------- published names


def test_a_backbone_is_trained_from_some_layer_on():
    made = resnet_fpn_backbone(backbone_name="resnet18", trainable_layers=2, returned_layers=[2, 4])
    assert list(made(kiln.rand(1, 3, 64, 64))) == ["0", "1", "pool"]
    trained = {
        n.split(".")[1] for n, p in made.body.named_parameters(prefix="b") if p.requires_grad
    }
    assert trained == {"layer3", "layer4"}
    assert isinstance(made.body["bn1"], ops.FrozenBatchNorm2d)
    small = mobilenet_backbone(
        backbone_name="mobilenet_v3_small", fpn=True, norm_layer=nn.BatchNorm2d
    )
    assert [m.shape[1] for m in small(kiln.rand(1, 3, 64, 64)).values()] == [256] * 3
    assert mobilenet_backbone(backbone_name="mobilenet_v2", fpn=False).out_channels == 256


def test_frozen_norms_take_the_state_of_trained_ones():
    frozen = ops.FrozenBatchNorm2d(3)
    frozen.load_state_dict(nn.BatchNorm2d(3).state_dict())
    assert "num_batches_tracked" not in frozen.state_dict()


PARAMETERS = {  # with norms that are trained, as without weights
    "ssdlite320_mobilenet_v3_large": 3_440_060,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 19_410_754, "fasterrcnn_mobilenet_v3_large_fpn": 19_410_754,
    "fasterrcnn_resnet50_fpn": 41_808_406, "fasterrcnn_resnet50_fpn_v2": 43_712_278, "fcos_resnet50_fpn": 32_322_720,
    "keypointrcnn_resnet50_fpn": 59_190_378, "maskrcnn_resnet50_fpn": 44_454_513, "maskrcnn_resnet50_fpn_v2": 46_359_409,
    "retinanet_resnet50_fpn": 34_068_119, "retinanet_resnet50_fpn_v2": 38_198_935, "ssd300_vgg16": 35_641_826,
}  # fmt: skip
NAMES = {
    "fasterrcnn_resnet50_fpn": [
        "backbone.body.layer4.2.bn3.running_var", "backbone.fpn.inner_blocks.0.0.weight", "backbone.fpn.layer_blocks.3.0.bias",
        "rpn.head.conv.0.0.weight", "rpn.head.cls_logits.bias", "roi_heads.box_head.fc7.weight", "roi_heads.box_predictor.bbox_pred.bias",
    ],
    "maskrcnn_resnet50_fpn": ["roi_heads.mask_head.3.0.bias", "roi_heads.mask_predictor.conv5_mask.weight", "roi_heads.mask_predictor.mask_fcn_logits.bias"],
    "keypointrcnn_resnet50_fpn": ["roi_heads.keypoint_head.14.weight", "roi_heads.keypoint_predictor.kps_score_lowres.bias"],
    "retinanet_resnet50_fpn": ["backbone.fpn.extra_blocks.p7.bias", "head.classification_head.conv.3.0.weight", "head.regression_head.bbox_reg.bias"],
    "fcos_resnet50_fpn": ["head.classification_head.conv.10.bias", "head.regression_head.bbox_ctrness.weight"],
    "ssd300_vgg16": ["backbone.scale_weight", "backbone.features.21.bias", "backbone.extra.0.7.3.weight", "backbone.extra.4.2.bias", "head.classification_head.module_list.5.bias"],
    "ssdlite320_mobilenet_v3_large": ["backbone.features.0.13.1.running_mean", "backbone.features.1.0.1.0.weight", "backbone.extra.3.2.1.bias", "head.regression_head.module_list.0.1.bias"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_names_and_numbers_of_parameters(name):
    m = models.get_model(name, weights=None, weights_backbone=None)
    state = m.state_dict()
    assert [k for k in NAMES.get(name, []) if k not in state] == []
    assert sum(p.numel() for p in m.parameters()) == PARAMETERS[name]


def test_older_states_are_taken():
    head = RPNHead(4, 3)
    state = {k.replace("conv.0.0.", "conv."): v for k, v in head.state_dict().items()}
    head.load_state_dict(state)
