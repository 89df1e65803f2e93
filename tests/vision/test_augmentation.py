"""Policies, distortions and mixtures of pictures: what they give, and that draws come in torchvision's order."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
from kiln.vision import transforms as T
from kiln.vision import tv_tensors
from kiln.vision.transforms import augment, v2
from kiln.vision.transforms import functional as F

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def picture():
    kiln.manual_seed(3)
    return (kiln.rand(3, 24, 30) * 255).to(kiln.uint8)


POLICIES = [
    T.AutoAugment(), T.AutoAugment(T.AutoAugmentPolicy.CIFAR10), T.AutoAugment(T.AutoAugmentPolicy.SVHN, fill=7),
    T.RandAugment(3, 20), T.TrivialAugmentWide(fill=[1, 2, 3]), T.AugMix(), v2.AutoAugment(), v2.RandAugment(),
    v2.TrivialAugmentWide(), v2.AugMix(chain_depth=2, all_ops=False),
]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
def test_policies_keep_shapes_and_repeat_by_seed(policy, picture):
    pil = F.to_pil_image(picture)
    for seed in range(8):
        kiln.manual_seed(seed)
        a = policy(picture)
        kiln.manual_seed(seed)
        assert a.equal(policy(picture))
        assert (a.shape, a.dtype) == (picture.shape, picture.dtype)
        out = policy(pil)
        assert (out.size, out.mode) == (pil.size, pil.mode)


def test_the_policies_of_the_paper():
    for policy, ends in (
        (T.AutoAugmentPolicy.IMAGENET, ("Posterize", 0.4, 8, "Equalize", 0.6, None)),
        (T.AutoAugmentPolicy.CIFAR10, ("Invert", 0.1, None, "AutoContrast", 0.9, None)),
        (T.AutoAugmentPolicy.SVHN, ("ShearX", 0.9, 4, "Invert", 0.1, None)),
    ):
        pairs = T.AutoAugment(policy).policies
        assert len(pairs) == 25
        assert (*pairs[0][0], *pairs[-1][1]) == ends
    assert len(T.RandAugment()._space) == len(T.TrivialAugmentWide()._space) == 14


def test_draws_come_in_torchvisions_order(picture, monkeypatch):
    done = []
    monkeypatch.setattr(
        augment, "_apply_op", lambda img, name, m, *_: (done.append((name, m)), img)[1]
    )
    kiln.manual_seed(0)
    T.RandAugment(4)(picture)
    kiln.manual_seed(0)
    names = list(T.RandAugment._space)
    for name, m in done:
        assert name == names[int(kiln.randint(len(names), (1,)).item())]
        if augment._PAPER.get(name, (None, False))[1]:
            assert (m < 0) == bool(kiln.randint(2, (1,)).item())


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "sharpen", "blur"])
def test_tensors_agree_with_pil(name, picture):
    change = {
        "autocontrast": F.autocontrast, "equalize": F.equalize, "sharpen": lambda x: F.adjust_sharpness(x, 1.7),
        "blur": lambda x: F.adjust_sharpness(x, 0.3),
    }[name]  # fmt: skip
    dim = (picture // 3 + 40).to(kiln.uint8)
    want = F.pil_to_tensor(change(F.to_pil_image(dim))).int()
    assert (want - change(dim).int()).abs().max() <= 1


def test_flat_channels_stay():
    x = kiln.full((1, 4, 4), 9, dtype=kiln.uint8)
    assert F.autocontrast(x).equal(x)
    assert F.equalize(x).equal(x)
    with pytest.raises(TypeError, match="uint8"):
        F.equalize(x.float())


def test_perspective_takes_corners_to_corners(picture):
    start = [[0, 0], [29, 0], [29, 23], [0, 23]]
    assert F.perspective(picture, start, start, T.InterpolationMode.NEAREST).equal(picture)
    end = [[4, 2], [25, 0], [29, 20], [2, 23]]
    seen = F.perspective(picture, start, end, T.InterpolationMode.NEAREST, fill=[0, 0, 0])
    pil = F.perspective(F.to_pil_image(picture), start, end, T.InterpolationMode.NEAREST)
    assert (F.pil_to_tensor(pil) != seen).float().mean() < 0.02
    boxes = tv_tensors.BoundingBoxes([[0, 0, 29, 23]], format="XYXY", canvas_size=(24, 30))
    moved = F.perspective(boxes, start, end)
    np.testing.assert_allclose(moved.numpy(), [[2, 0, 29, 23]], atol=0.01)


def test_elastic_transform_moves_pixels(picture, full):
    still = kiln.zeros(1, 24, 30, 2)
    assert F.elastic_transform(picture, still).equal(picture)
    still[..., 0] = 2 / 30  # one pixel to the left
    assert F.elastic_transform(picture, still)[..., :-1].equal(picture[..., 1:])
    boxes = tv_tensors.BoundingBoxes([[5.0, 5.0, 9.0, 9.0]], format="XYXY", canvas_size=(24, 30))
    np.testing.assert_allclose(F.elastic_transform(boxes, still), [[4, 5, 8, 9]], atol=1e-5)
    transform = T.ElasticTransform() if full else T.ElasticTransform(sigma=1.0)
    assert transform(picture).shape == picture.shape
    with pytest.raises(ValueError, match="displacement shape"):
        F.elastic_transform(picture, still[:, 1:])


def test_whitening():
    x = kiln.rand(3, 2, 2)
    m, mean = kiln.randn(12, 12), kiln.rand(12)
    want = ((x.reshape(1, 12) - mean) @ m).reshape(3, 2, 2)
    kiln.testing.assert_close(T.LinearTransformation(m, mean)(x), want)
    with pytest.raises(ValueError, match="square"):
        T.LinearTransformation(m[1:], mean)


def test_mixup_and_cutmix():
    images, labels = kiln.rand(4, 3, 8, 8), kiln.tensor([0, 1, 2, 1])
    kiln.manual_seed(1)
    mixed, shares = v2.MixUp(num_classes=3)(images, labels)
    lam = 1 - shares[0, 1].item()
    kiln.testing.assert_close(mixed, images * lam + images.roll(1, 0) * (1 - lam))
    kiln.testing.assert_close(shares.sum(1), kiln.ones(4))
    cut, shares = v2.CutMix(num_classes=3)({"x": images, "label": labels}).values()
    other = (cut != images).any(1).float().mean((1, 2))
    kiln.testing.assert_close(other[0].item(), shares[0, 1].item(), atol=1e-6, rtol=0)
    either = v2.RandomChoice([v2.MixUp(num_classes=3), v2.CutMix(num_classes=3)])
    assert either(images, labels)[1].shape == (4, 3)
    for wrong, text in (
        ((images, labels[:2]), "batch size"), ((images[0], labels), "batched input"), ((images, "cat"), "labels"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            v2.MixUp(num_classes=3)(*wrong)
    with pytest.raises(ValueError, match="num_classes"):
        v2.CutMix()(images, labels)


def test_samples_change_as_a_whole(picture):
    kiln.manual_seed(5)
    image = tv_tensors.Image(picture)
    boxes = tv_tensors.BoundingBoxes([[2, 3, 20, 18]], format="XYXY", canvas_size=(24, 30))
    mask = tv_tensors.Mask(kiln.ones(24, 30, dtype=kiln.uint8))
    for t in (
        v2.RandomZoomOut(p=1), v2.RandomResize(10, 20), v2.RandomShortestSize([12, 16], 30), v2.ScaleJitter((40, 40)),
        v2.RandomPerspective(p=1), v2.ElasticTransform(), v2.RandomIoUCrop(), v2.RandomPhotometricDistort(p=1),
        v2.RandomChannelPermutation(), v2.GaussianNoise(), v2.RandAugment(), v2.RandomEqualize(p=1),
    ):  # fmt: skip
        for _ in range(4):
            out = t({"image": image, "boxes": boxes, "mask": mask, "name": "a"})
            assert [type(v).__name__ for v in out.values()] == [
                "Image",
                "BoundingBoxes",
                "Mask",
                "str",
            ]
            size = tuple(out["image"].shape[-2:])
            assert tuple(out["mask"].shape) == tuple(out["boxes"].canvas_size) == size
    same = v2.RandomPhotometricDistort(p=0)(image)
    assert same.equal(image)
