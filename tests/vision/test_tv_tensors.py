"""Samples of pictures, masks and boxes: all parts are changed alike, by what was drawn once."""

import numpy as np
import pytest

import kiln
from kiln.vision import io as pictures
from kiln.vision import tv_tensors as tv
from kiln.vision.transforms import v2
from kiln.vision.transforms.v2 import functional as F

pytest.importorskip("PIL.Image", reason="Pillow is not installed: extra [vision]")


def sample(h=24, w=32):
    """A bright box on black ground, its mask and its corners."""
    picture, mask = kiln.zeros(3, h, w, dtype=kiln.uint8), kiln.zeros(1, h, w, dtype=kiln.uint8)
    picture[:, 6:14, 8:20], mask[:, 6:14, 8:20] = 255, 1
    boxes = tv.BoundingBoxes([[8.0, 6.0, 20.0, 14.0]], format="XYXY", canvas_size=(h, w))
    return {
        "image": tv.Image(picture),
        "target": {"masks": tv.Mask(mask), "boxes": boxes, "labels": kiln.tensor([3])},
    }


def around(x):
    ys, xs = np.nonzero(np.asarray(x.numpy()).max(0))
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(
    "t",
    [
        v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(0.5), v2.RandomCrop((20, 28)), v2.Resize((48, 64)), v2.Resize(12),
        v2.CenterCrop((20, 26)), v2.CenterCrop(40), v2.Pad([1, 2, 3, 4]), v2.RandomResizedCrop((30, 30), (0.6, 1.0)),
        v2.RandomAffine(0, translate=(0.1, 0.1), scale=(0.8, 1.2)), v2.RandomRotation((90, 90), expand=True),
        v2.RandomOrder([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]),
        v2.Compose([v2.RandomApply([v2.RandomHorizontalFlip(1.0)], 0.5), v2.RandomChoice([v2.Pad(2), v2.Pad(3)])]),
        v2.Compose([v2.RandomCrop(22, padding=2), v2.ColorJitter(0.1), v2.GaussianBlur(3), v2.RandomErasing(1.0, (0.02, 0.05))]),
    ],
    ids=lambda t: type(t).__name__,
)  # fmt: skip
def test_parts_of_a_sample_move_together(t):
    for seed in range(4):
        kiln.manual_seed(seed)
        s = sample()
        out = t(s)
        image, mask, boxes = out["image"], out["target"]["masks"], out["target"]["boxes"]
        assert (type(image), type(mask), type(boxes)) == (tv.Image, tv.Mask, tv.BoundingBoxes)
        assert out["target"]["labels"] is s["target"]["labels"]
        assert boxes.canvas_size == tuple(image.shape[-2:]) == tuple(mask.shape[-2:])
        assert set(mask.unique().tolist()) <= {0, 1}
        np.testing.assert_allclose(boxes[0].numpy(), around(mask), atol=1.5)
        if not isinstance(t, v2.Compose):
            bright = image.as_subclass(kiln.Tensor) > 127
            np.testing.assert_allclose(around(bright), around(mask), atol=1.5)


def test_what_is_drawn_is_drawn_once():
    kiln.manual_seed(0)
    v2.RandomCrop(8)(sample())
    after = kiln.rand(1)
    kiln.manual_seed(0)
    v2.RandomCrop(8)(sample()["image"])
    assert kiln.rand(1).equal(after)


def test_which_parts_are_pictures():
    plain, boxes = (
        kiln.rand(3, 8, 8),
        tv.BoundingBoxes([0, 0, 2, 2], format="XYWH", canvas_size=(8, 8)),
    )
    out, same, label = v2.RandomHorizontalFlip(1.0)((tv.Image(plain), plain, 3))
    assert same is plain
    assert label == 3
    assert out.as_subclass(kiln.Tensor).equal(plain.flip(-1))
    first, second, flipped = v2.RandomHorizontalFlip(1.0)(plain, plain, boxes)
    assert first.equal(plain.flip(-1))
    assert second is plain
    assert flipped.tolist() == [[6, 0, 2, 2]]
    mask = tv.Mask(kiln.eye(4))
    assert F.hflip(mask).tolist() == kiln.eye(4).flip(-1).tolist()
    assert v2.Normalize([0.5], [0.5])((tv.Image(kiln.ones(1, 2, 2)), mask))[1] is mask


def test_kinds_are_kept_where_torchvision_keeps_them():
    boxes = sample()["target"]["boxes"]
    assert type(boxes + 1) is kiln.Tensor
    for same in (boxes.clone(), boxes.to(kiln.float64), boxes.detach()):
        assert type(same) is tv.BoundingBoxes
        assert same.canvas_size == (24, 32)
    assert "format=BoundingBoxFormat.XYXY, canvas_size=(24, 32)" in repr(boxes)
    again = tv.wrap(boxes * 2, like=boxes, canvas_size=(48, 64))
    assert (again.canvas_size, again.format) == ((48, 64), boxes.format)
    image = v2.ToImage()(np.zeros((4, 5, 3), np.uint8))
    assert type(image) is tv.Image
    assert v2.ToDtype(kiln.float32, scale=True)(image).dtype is kiln.float32
    assert type(kiln.data.default_collate([image, image])) is kiln.Tensor
    s = v2.ToDtype({tv.Image: kiln.float32, tv.Mask: kiln.int64, "others": None}, scale=True)(
        sample()
    )
    assert s["image"].max() == 1
    assert (s["target"]["masks"].dtype, s["target"]["boxes"].dtype) == (kiln.int64, kiln.float32)
    assert type(v2.ToPureTensor()(s)["target"]["masks"]) is kiln.Tensor
    with pytest.raises(ValueError, match="four numbers"):
        tv.BoundingBoxes([[1, 2, 3]], format="XYXY", canvas_size=(4, 4))
    with pytest.raises(ValueError, match="reflect"):
        v2.Pad(1, padding_mode="reflect")(boxes)


def test_boxes_are_converted_clamped_and_sanitized():
    boxes = tv.BoundingBoxes(
        [[1, 1, 5, 5], [8, 8, 14, 9], [3, 3, 3, 9]], format="XYXY", canvas_size=(10, 10)
    )
    assert v2.ConvertBoundingBoxFormat("XYWH")(boxes).tolist()[0] == [1, 1, 4, 4]
    assert v2.ClampBoundingBoxes()(boxes).tolist()[1] == [8, 8, 10, 9]
    target = {
        "boxes": boxes,
        "labels": kiln.tensor([1, 2, 3]),
        "masks": tv.Mask(kiln.zeros(3, 10, 10)),
    }
    _, out = v2.SanitizeBoundingBoxes()((tv.Image(kiln.zeros(3, 10, 10)), target))
    assert out["labels"].tolist() == [1]
    assert out["boxes"].shape == (1, 4)
    assert out["masks"].shape == (1, 10, 10)
    with pytest.raises(ValueError, match="labels are"):
        v2.SanitizeBoundingBoxes()({"boxes": boxes})
    assert F.sanitize_bounding_boxes(boxes)[1].tolist() == [True, False, False]


def test_pictures_in_files(tmp_path):
    picture = kiln.randint(0, 256, (3, 6, 7), dtype=kiln.uint8)
    pictures.write_png(picture, str(tmp_path / "a.png"))
    assert pictures.read_image(str(tmp_path / "a.png")).equal(picture)
    assert pictures.decode_image(pictures.encode_jpeg(picture, 95)).shape == (3, 6, 7)
    assert pictures.read_image(str(tmp_path / "a.png"), pictures.ImageReadMode.GRAY).shape == (
        1,
        6,
        7,
    )
    assert pictures.read_file(str(tmp_path / "a.png"))[1:4].tolist() == [80, 78, 71]
    with pytest.raises(RuntimeError, match="no picture"):
        pictures.decode_image(kiln.zeros(10, dtype=kiln.uint8))
    with pytest.raises(NotImplementedError, match="videos"):
        pictures.read_video("x.mp4")


def test_sizes_have_the_height_first():
    picture = tv.Image(kiln.zeros(3, 80, 96))
    boxes = tv.BoundingBoxes([[8.0, 10, 39, 39]], format="XYXY", canvas_size=F.get_size(picture))
    for x in (
        picture,
        picture.as_subclass(kiln.Tensor),
        boxes,
        tv.Mask(kiln.zeros(2, 80, 96)),
    ):
        assert F.get_size(x) == [80, 96]
    assert F.horizontal_flip(boxes).tolist() == [[57, 10, 88, 39]]
