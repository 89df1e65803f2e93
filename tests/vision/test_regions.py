"""Regions of feature maps, moved taps, pyramids and what boxes are compared by."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln.vision import ops


def at(a: np.ndarray, y: float, x: float) -> np.ndarray:
    """A map's value between pixels, 0 farther out than one pixel."""
    h, w = a.shape[1:]
    if not (-1 <= y <= h and -1 <= x <= w):
        return np.zeros(len(a))
    y, x = max(y, 0), max(x, 0)
    y0, x0 = min(int(y), h - 1), min(int(x), w - 1)
    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
    fy, fx = (y - y0 if y0 < h - 1 else 0), (x - x0 if x0 < w - 1 else 0)
    top = a[:, y0, x0] * (1 - fx) + a[:, y0, x1] * fx
    return top * (1 - fy) + (a[:, y1, x0] * (1 - fx) + a[:, y1, x1] * fx) * fy


def slow_roi_align(a, rows, size, scale, ratio, aligned):
    """`roi_align` point by point."""
    out = []
    for n, *corners in rows:
        x1, y1, x2, y2 = (c * scale - 0.5 * aligned for c in corners)
        w, h = x2 - x1, y2 - y1
        if not aligned:
            w, h = max(w, 1.0), max(h, 1.0)
        bh, bw = h / size[0], w / size[1]
        gy, gx = (ratio, ratio) if ratio > 0 else (math.ceil(bh), math.ceil(bw))
        grid = np.zeros((a.shape[1], *size))
        for p in range(size[0]):
            for q in range(size[1]):
                points = [
                    at(a[int(n)], y1 + p * bh + (i + 0.5) * bh / gy, x1 + q * bw + (j + 0.5) * bw / gx)
                    for i in range(gy) for j in range(gx)
                ]  # fmt: skip
                grid[:, p, q] = np.sum(points, 0) / max(gy * gx, 1)
        out.append(grid)
    return np.stack(out)


ROWS = [
    [0, 1.2, 2.1, 9.7, 7.4],
    [1, -2.0, -1.5, 6.0, 12.0],
    [1, 4.0, 4.0, 4.2, 4.1],
    [0, 0, 0, 19.0, 15.0],
]


@pytest.mark.parametrize("ratio", [2, -1])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_is_a_mean_of_points(ratio, aligned):
    x, rows = kiln.randn(2, 3, 8, 10, dtype=kiln.float64), kiln.tensor(ROWS, dtype=kiln.float64)
    got = ops.roi_align(x, rows, (2, 3), 0.5, ratio, aligned)
    want = slow_roi_align(x.numpy(), ROWS, (2, 3), 0.5, ratio, aligned)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-12)
    by_picture = [rows[rows[:, 0] == i, 1:] for i in (0, 1)]
    layer = ops.RoIAlign((2, 3), 0.5, ratio, aligned)
    kiln.testing.assert_close(layer(x, by_picture), got[[0, 3, 1, 2]])


def test_gradients_of_regions():
    x = kiln.randn(2, 4, 2, 3, dtype=kiln.float64, requires_grad=True)
    rows = kiln.tensor([[1, 0.3, 0.2, 2.1, 1.3]], dtype=kiln.float64)
    for fn in (ops.roi_align, ops.ps_roi_align, ops.roi_pool):
        assert kiln.autograd.gradcheck(lambda t, f=fn: f(t, rows, (2, 2)), (x,))
    assert ops.roi_align(x, rows[:0], 2).shape == (0, 4, 2, 2)
    with pytest.raises(ValueError, match=r"Tensor\[K, 5\]"):
        ops.roi_align(x, rows[:, 1:], 2)


def test_channels_of_their_own_for_each_place():
    x = kiln.randn(1, 8, 6, 6)
    rows = kiln.tensor([[0.0, 0.0, 0.0, 5.0, 5.0]])
    full = ops.roi_align(x, rows, 2, aligned=True)
    got = ops.ps_roi_align(x, rows, 2)
    want = [
        [[full[0, c * 4 + p * 2 + q, p, q].item() for q in (0, 1)] for p in (0, 1)] for c in (0, 1)
    ]
    np.testing.assert_allclose(got[0].numpy(), want)


def test_roi_pool_takes_the_largest():
    x = kiln.arange(36.0).reshape(1, 1, 6, 6)
    rows = kiln.tensor([[0.0, 0.0, 0.0, 3.0, 3.0], [0.0, 4.0, 4.0, 9.0, 9.0]])
    out = ops.RoIPool(2, 1.0)(x, rows)
    assert out[0, 0].tolist() == [[7, 9], [19, 21]]
    assert out[1, 0].tolist() == [[35, 0], [0, 0]]


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"dilation": (2, 1), "padding": (2, 1)}]
)
def test_taps_that_are_not_moved_are_a_convolution(options):
    x, w, b = kiln.randn(2, 4, 7, 8), kiln.randn(6, 2, 3, 3), kiln.randn(6)
    want = F.conv2d(x, w, b, groups=2, **options)
    offset = kiln.zeros(2, 2 * 2 * 9, *want.shape[-2:])
    kiln.testing.assert_close(
        ops.deform_conv2d(x, offset, w, b, **options), want, atol=1e-5, rtol=1e-5
    )
    mask = kiln.full((2, 2 * 9, *want.shape[-2:]), 0.5)
    half = ops.deform_conv2d(x, offset, w, None, **options, mask=mask)
    kiln.testing.assert_close(half * 2 + b[:, None, None], want, atol=1e-5, rtol=1e-5)


def test_taps_are_moved():
    x, layer = kiln.randn(1, 2, 6, 6), ops.DeformConv2d(2, 3, 3, padding=1)
    offset = kiln.zeros(1, 18, 6, 6)
    offset[:, 1::2] = 1.0  # one pixel to the right
    want = F.conv2d(F.pad(x, (1, 2, 1, 1))[..., 1:], layer.weight, layer.bias)
    kiln.testing.assert_close(layer(x, offset), want, atol=1e-5, rtol=1e-5)
    d = {"dtype": kiln.float64, "requires_grad": True}
    given = (kiln.randn(1, 2, 3, 3, **d), kiln.rand(1, 8, 2, 2, **d), kiln.randn(1, 2, 2, 2, **d), kiln.rand(1, 4, 2, 2, **d))  # fmt: skip
    assert kiln.autograd.gradcheck(
        lambda x, o, w, m: ops.deform_conv2d(x, o * 0.8 + 0.1, w, mask=m), given
    )
    with pytest.raises(ValueError, match="shape of the offset"):
        layer(x, offset[:, 1:])


def test_pyramids():
    fpn = ops.FeaturePyramidNetwork([4, 8], 5, ops.LastLevelMaxPool())
    assert list(fpn.state_dict()) == [
        f"{part}.{i}.0.{kind}" for part in ("inner_blocks", "layer_blocks") for i in (0, 1) for kind in ("weight", "bias")
    ]  # fmt: skip
    maps = OrderedDict(a=kiln.rand(1, 4, 8, 8), b=kiln.rand(1, 8, 4, 4))
    out = fpn(maps)
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "a": (1, 5, 8, 8), "b": (1, 5, 4, 4), "pool": (1, 5, 2, 2)
    }  # fmt: skip
    more, names = ops.LastLevelP6P7(5, 5)([out["b"]], [], ["b"])
    assert names == ["b", "p6", "p7"]
    assert more[-1].shape == (1, 5, 1, 1)
    pooler = ops.MultiScaleRoIAlign(["a", "b"], 2, 2, canonical_scale=28, canonical_level=3)
    boxes = kiln.tensor([[0.0, 0.0, 12.0, 12.0], [0.0, 0.0, 60.0, 60.0]])
    got = pooler(out, [boxes], [(64, 64)])
    rows = kiln.cat([kiln.zeros(2, 1), boxes], 1)
    kiln.testing.assert_close(got[0], ops.roi_align(out["a"], rows[:1], 2, 1 / 8, 2)[0])
    kiln.testing.assert_close(got[1], ops.roi_align(out["b"], rows[1:], 2, 1 / 16, 2)[0])


def test_losses_of_boxes():
    a = kiln.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 6.0]], requires_grad=True)
    b = kiln.tensor([[1.0, 1.0, 5.0, 3.0], [1.0, 1.0, 3.0, 6.0]])
    for name in ("generalized", "distance", "complete"):
        loss = getattr(ops, f"{name}_box_iou_loss")(a, b)
        kiln.testing.assert_close(
            loss, 1 - getattr(ops, f"{name}_box_iou")(a, b).diagonal(), atol=1e-5, rtol=1e-5
        )
        assert loss[1].item() == pytest.approx(0, abs=1e-5)
        getattr(ops, f"{name}_box_iou_loss")(a, b, "sum").backward()
        with pytest.raises(ValueError, match="reduction"):
            getattr(ops, f"{name}_box_iou_loss")(a, b, "most")
    # Zheng et al. 2020: overlap 6 of 18, middles (2, 2) and (3, 2) apart by 1 of 5² + 4²
    assert ops.distance_box_iou(a, b)[0, 0].item() == pytest.approx(6 / 18 - 1 / 41, abs=1e-5)


def test_boxes_around_masks():
    masks = kiln.zeros(2, 6, 7)
    masks[0, 1:4, 2:5] = 1
    masks[1, 5, 6] = 1
    assert ops.masks_to_boxes(masks).tolist() == [[2, 1, 4, 3], [6, 5, 6, 5]]


def test_blocks_are_dropped():
    kiln.manual_seed(0)
    x = kiln.ones(2, 3, 12, 12)
    out = ops.DropBlock2d(0.3, 3)(x)
    share = (out == 0).float().mean().item()
    assert 0.1 < share < 0.5
    assert out.mean().item() == pytest.approx(1, abs=1e-4)
    assert ops.drop_block2d(x, 0.3, 3, training=False) is x
