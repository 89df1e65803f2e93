"""Transforms: PIL pictures and tensors treated alike, drawn things within their bounds."""

import numpy as np
import pytest

import kiln
from kiln.vision import ops, transforms, utils
from kiln.vision.transforms import functional as F
from kiln.vision.transforms import v2

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: extra [vision]")
R = np.random.default_rng(0)
ROWS = R.integers(0, 256, (20, 30, 3)).astype("u1")
PICTURE, TENSOR = Image.fromarray(ROWS), kiln.from_numpy(ROWS.transpose(2, 0, 1).copy())


def test_between_pictures_and_tensors():
    t = F.to_tensor(PICTURE)
    np.testing.assert_allclose(t.numpy(), ROWS.transpose(2, 0, 1) / 255, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(F.to_pil_image(t)), ROWS)
    np.testing.assert_array_equal(F.pil_to_tensor(PICTURE).numpy(), TENSOR.numpy())
    gray = Image.fromarray(ROWS[:, :, 0])
    assert F.to_tensor(gray).shape == (1, 20, 30)
    assert F.to_pil_image(kiln.rand(5, 6)).mode == "L"
    assert F.to_tensor(np.zeros((4, 5, 2))).dtype is kiln.float64
    for bad in (lambda: F.to_tensor(3), lambda: F.to_pil_image("x"), lambda: F.hflip(3)):
        with pytest.raises(TypeError):
            bad()
    with pytest.raises(ValueError, match="channels"):
        F.to_pil_image(kiln.rand(7, 4, 4))


SAME = {
    "hflip": lambda x: F.hflip(x), "vflip": lambda x: F.vflip(x), "crop": lambda x: F.crop(x, 3, 4, 10, 12),
    "crop over the border": lambda x: F.crop(x, -3, 25, 10, 12), "center": lambda x: F.center_crop(x, (11, 9)),
    "center of more": lambda x: F.center_crop(x, 40), "pad": lambda x: F.pad(x, (1, 2, 3, 4), 7),
    "reflect": lambda x: F.pad(x, (2, 3), padding_mode="reflect"), "edge": lambda x: F.pad(x, 2, padding_mode="edge"),
    "symmetric": lambda x: F.pad(x, 2, padding_mode="symmetric"), "invert": lambda x: F.invert(x),
    "nearest": lambda x: F.resize(x, (40, 60), transforms.InterpolationMode.NEAREST),
    "quarter turn": lambda x: F.rotate(x, 180), "solarize": lambda x: F.solarize(x, 100),
    "posterize": lambda x: F.posterize(x, 3),
}  # fmt: skip
NEAR = {  # rounded at other places
    "resize": lambda x: F.resize(x, 13), "larger": lambda x: F.resize(x, (40, 41), antialias=True),
    "bicubic": lambda x: F.resize(x, 13, transforms.InterpolationMode.BICUBIC),
    "brightness": lambda x: F.adjust_brightness(x, 1.3), "contrast": lambda x: F.adjust_contrast(x, 0.6),
    "saturation": lambda x: F.adjust_saturation(x, 1.7), "gray": lambda x: F.rgb_to_grayscale(x, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", [*SAME, *NEAR])
def test_pictures_and_tensors_alike(name):
    change = SAME.get(name) or NEAR[name]
    a, b = (
        np.asarray(change(PICTURE)).astype(int),
        change(TENSOR).numpy().transpose(1, 2, 0).astype(int),
    )
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= (0 if name in SAME else 2)


def test_hue_turns_colours():
    red = kiln.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
    np.testing.assert_allclose(F.adjust_hue(red, 1 / 3).flatten().numpy(), [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(F.adjust_hue(red, -1 / 3).flatten().numpy(), [0, 0, 1], atol=1e-6)
    x = kiln.rand(2, 3, 4, 5)
    np.testing.assert_allclose(F.adjust_hue(x, 0.0).numpy(), x.numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="hue_factor"):
        F.adjust_hue(red, 0.6)


def test_values():
    t = F.normalize(TENSOR.float(), [1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    np.testing.assert_allclose(t[1].numpy(), (ROWS[:, :, 1] - 2.0) / 2.0)
    for mean, std, error in ((0, 0, ValueError), (0, 1, TypeError)):
        with pytest.raises(error):
            F.normalize(TENSOR if error is TypeError else TENSOR.float(), [mean], [std])
    assert F.convert_image_dtype(TENSOR, kiln.float32).max() <= 1
    np.testing.assert_array_equal(
        F.convert_image_dtype(F.convert_image_dtype(TENSOR, kiln.float32), kiln.uint8).numpy(),
        TENSOR.numpy(),
    )
    flat = kiln.full((1, 9, 9), 5.0)
    np.testing.assert_allclose(F.gaussian_blur(flat, 3).numpy(), 5.0, rtol=1e-6)


@pytest.mark.parametrize("x", [PICTURE, TENSOR], ids=["picture", "tensor"])
def test_drawn_transforms(x):
    size = lambda y: F.get_dimensions(y)[1:]  # noqa: E731
    T = transforms
    for change, want in (
        (T.RandomCrop(16, padding=2), [16, 16]), (T.RandomCrop((25, 40), pad_if_needed=True), [25, 40]),
        (T.RandomResizedCrop((7, 9)), [7, 9]), (T.ColorJitter(0.5, (0.5, 1.5), 0.5, 0.2), [20, 30]),
        (T.RandomRotation(30), [20, 30]), (T.RandomAffine(20, (0.1, 0.2), (0.8, 1.2), 5, fill=3), [20, 30]),
        (T.RandomApply([T.Resize((5, 5))], p=1.0), [5, 5]), (T.RandomOrder([T.Resize(9), T.CenterCrop(9)]), [9, 9]),
        (T.RandomGrayscale(1.0), [20, 30]), (T.GaussianBlur(3), [20, 30]), (T.Pad(1), [22, 32]),
    ):  # fmt: skip
        for _ in range(3):
            assert size(change(x)) == want
        repr(change)
    for p, flipped in ((0.0, False), (1.0, True)):
        y = T.RandomHorizontalFlip(p)(x)
        want = F.hflip(x) if flipped else x
        np.testing.assert_array_equal(np.asarray(F.to_tensor(y) if x is PICTURE else y), np.asarray(
            F.to_tensor(want) if x is PICTURE else want))  # fmt: skip
    assert len(T.TenCrop(8)(x)) == 10
    with pytest.raises(ValueError, match="larger"):
        T.RandomCrop(31)(x)


def test_erasing():
    x = kiln.ones(3, 20, 20)
    y = transforms.RandomErasing(1.0, value=0)(x)
    assert 0 < (y == 0).sum() < 0.5 * x.numel()
    assert (x == 1).all()


def test_the_second_edition_takes_samples():
    change = v2.Compose([
        v2.ToImage(), v2.RandomHorizontalFlip(1.0), v2.ToDtype(kiln.float32, scale=True),
        v2.Normalize([0.5], [0.5]),
    ])  # fmt: skip
    x, label = change(PICTURE, 7)
    assert (x.shape, x.dtype, label) == ((3, 20, 30), kiln.float32, 7)
    got = change({"image": PICTURE, "label": 3})
    assert (got["image"] == x).all()
    assert got["label"] == 3
    assert v2.ToDtype(kiln.float32)(TENSOR).max() > 1
    assert v2.functional.to_image(ROWS).shape == (3, 20, 30)


def test_grids_and_files(tmp_path):
    x = kiln.rand(5, 1, 4, 6)
    grid = utils.make_grid(x, nrow=3, padding=1, pad_value=0.5)
    assert grid.shape == (3, 2 * 5 + 1, 3 * 7 + 1)
    np.testing.assert_array_equal(grid[1, 6:10, 8:14].numpy(), x[4, 0].numpy())
    assert (grid[:, 0] == 0.5).all()
    assert utils.make_grid(x * 9 - 3, normalize=True, scale_each=True).max() == 1
    utils.save_image(x, tmp_path / "a.png", nrow=5)
    with Image.open(tmp_path / "a.png") as found:
        want = (utils.make_grid(x, nrow=5) * 255 + 0.5).clamp(0, 255).byte().permute(1, 2, 0)
        np.testing.assert_array_equal(np.asarray(found), want.numpy())
    utils.save_image(x[0], tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as found:
        assert found.size == (6, 4)
    boxed = utils.draw_bounding_boxes(TENSOR, kiln.tensor([[1, 2, 9, 8]]), ["x"], "blue")
    assert boxed[:, 2, 5].tolist() == [0, 0, 255]
    mask = kiln.zeros(20, 30, dtype=kiln.bool)
    mask[3:5] = True
    laid = utils.draw_segmentation_masks(TENSOR, mask, 1.0, (9, 8, 7))
    assert laid[:, 3, 0].tolist() == [9, 8, 7]


def test_boxes():
    a = kiln.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [10, 10, 12, 12]])
    np.testing.assert_allclose(ops.box_iou(a, a)[0].numpy(), [1, 1 / 7, 0], rtol=1e-6)
    np.testing.assert_allclose(
        ops.generalized_box_iou(a[:1], a[1:2]).item(), 1 / 7 - 2 / 9, rtol=1e-5
    )
    assert ops.nms(a, kiln.tensor([0.5, 0.9, 0.1]), 0.1).tolist() == [1, 2]
    assert ops.batched_nms(
        a, kiln.tensor([0.5, 0.9, 0.1]), kiln.tensor([0, 1, 0]), 0.1
    ).tolist() == [1, 0, 2]
    for fmt in ("xywh", "cxcywh"):
        back = ops.box_convert(ops.box_convert(a, "xyxy", fmt), fmt, "xyxy")
        np.testing.assert_allclose(back.numpy(), a.numpy())
    assert ops.clip_boxes_to_image(a, (11, 2)).max() == 11
    assert ops.remove_small_boxes(a, 3).numel() == 0
    x, y = kiln.randn(3, 4), kiln.tensor(R.integers(0, 2, (3, 4)).astype("f4"))
    ce = kiln.nn.functional.binary_cross_entropy_with_logits(x, y)
    np.testing.assert_allclose(
        ops.sigmoid_focal_loss(x, y, -1, 0, "mean").item(), ce.item(), rtol=1e-5
    )
