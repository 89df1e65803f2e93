"""Pictures of several sizes as one batch, with their true boxes, and what was found back in their own sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import kiln
import kiln.nn.functional as F

from .... import nn
from ....errors import KilnTypeError, KilnValueError, describe
from ....tensor import Tensor
from .instances import paste_masks_in_image

Sizes = Sequence[tuple[int, int]]
Targets = list[dict[str, Tensor]]


class ImageList:
    """Pictures of several sizes, padded to one, and how large each is."""

    def __init__(self, tensors: Tensor, image_sizes: Sizes) -> None:
        self.tensors, self.image_sizes = tensors, image_sizes

    def to(self, device: Any) -> ImageList:
        """The same on a device."""
        return ImageList(self.tensors.to(device), self.image_sizes)


def _ratios(before: Sequence[int], after: Sequence[int]) -> list[Tensor]:
    """By what heights and widths are multiplied, as float32."""
    kept = kiln.float32
    return [
        kiln.tensor(n, dtype=kept) / kiln.tensor(o, dtype=kept)
        for n, o in zip(after, before, strict=True)
    ]


def resize_boxes(boxes: Tensor, original_size: Sequence[int], new_size: Sequence[int]) -> Tensor:
    """Boxes of a picture of one height and width in another."""
    down, right = _ratios(original_size, new_size)
    return boxes * kiln.stack([right, down, right, down])


def resize_keypoints(
    keypoints: Tensor, original_size: Sequence[int], new_size: Sequence[int]
) -> Tensor:
    """Points (x, y, visible) of a picture of one height and width in another."""
    down, right = _ratios(original_size, new_size)
    return keypoints * kiln.stack([right, down, kiln.ones((), dtype=kiln.float32)])


class GeneralizedRCNNTransform(nn.Module):
    """Normalises pictures, resizes them with their true boxes, and pads them to one size.

    The shorter side becomes `min_size` (in training one of several, drawn at random), unless the longer one would
    exceed `max_size`; with `fixed_size` each becomes so wide and high.
    """

    def __init__(
        self, min_size: Any, max_size: int, image_mean: Sequence[float], image_std: Sequence[float], size_divisible: int = 32,
        fixed_size: tuple[int, int] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.min_size = min_size if isinstance(min_size, list | tuple) else (min_size,)
        self.max_size, self.image_mean, self.image_std = max_size, image_mean, image_std
        self.size_divisible, self.fixed_size = size_divisible, fixed_size
        self._skip_resize = options.pop("_skip_resize", False)

    def forward(
        self, images: list[Tensor], targets: Targets | None = None
    ) -> tuple[ImageList, Targets | None]:
        resized, aims = [], []
        for i, image in enumerate(images):
            if image.ndim != 3:
                raise KilnValueError(
                    "detection", "images is expected to be a list of 3d tensors of shape [C, H, W]", describe(image), "model([picture, …])"
                )  # fmt: skip
            target = None if targets is None else dict(targets[i])
            image, target = self.resize(self.normalize(image), target)
            resized.append(image)
            aims.append(target)
        sizes = [(m.shape[-2], m.shape[-1]) for m in resized]
        batch = self.batch_images(resized, self.size_divisible)
        return ImageList(batch, sizes), None if targets is None else aims

    def normalize(self, image: Tensor) -> Tensor:
        """The picture less the mean of its channels, by their deviation; TypeError unless it is floating."""
        if not image.is_floating_point():
            raise KilnTypeError(
                "detection", "Expected input images to be of floating type (in range [0, 1])", describe(image), "image / 255"
            )  # fmt: skip
        mean, std = (
            kiln.tensor(list(v), dtype=image.dtype)[:, None, None]
            for v in (self.image_mean, self.image_std)
        )
        return (image - mean) / std

    def torch_choice(self, k: Sequence[int]) -> int:
        """One of several numbers, drawn at random."""
        return k[int(kiln.empty(1).uniform_(0.0, float(len(k))).item())]

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """A picture in the size that it is looked at in, and its true boxes, masks and points."""
        if self.training and self._skip_resize:
            return image, target
        before = image.shape[-2:]
        least = self.torch_choice(self.min_size) if self.training else self.min_size[-1]
        if self.fixed_size is not None:
            how: dict[str, Any] = {"size": [self.fixed_size[1], self.fixed_size[0]]}
        else:
            scale = min(least / min(before), self.max_size / max(before))
            how = {"scale_factor": scale, "recompute_scale_factor": True}
        image = F.interpolate(image[None], mode="bilinear", align_corners=False, **how)[0]
        if target is None:
            return image, target
        target["boxes"] = resize_boxes(target["boxes"], before, image.shape[-2:])
        if "masks" in target:
            target["masks"] = F.interpolate(target["masks"][:, None].float(), **how)[:, 0].byte()
        if "keypoints" in target:
            target["keypoints"] = resize_keypoints(target["keypoints"], before, image.shape[-2:])
        return image, target

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        """Pictures in one tensor, zeros beside the smaller ones, its sides multiples of a number."""
        largest = [max(m.shape[d] for m in images) for d in range(3)]
        sides = [math.ceil(n / size_divisible) * size_divisible for n in largest[1:]]
        batch = images[0].new_zeros((len(images), largest[0], *sides))
        for place, m in zip(batch, images, strict=True):
            place[: m.shape[0], : m.shape[1], : m.shape[2]] = m
        return batch

    def postprocess(self, result: Targets, image_shapes: Sizes, original_image_sizes: Sizes) -> Any:
        """What was found, in the pictures' own sizes."""
        if self.training:
            return result
        for found, size, own in zip(result, image_shapes, original_image_sizes, strict=True):
            found["boxes"] = resize_boxes(found["boxes"], size, own)
            if "masks" in found:
                found["masks"] = paste_masks_in_image(found["masks"], found["boxes"], own)
            if "keypoints" in found:
                found["keypoints"] = resize_keypoints(found["keypoints"], size, own)
        return result

    def extra_repr(self) -> str:
        return (
            f"Normalize(mean={self.image_mean}, std={self.image_std})\n"
            f"Resize(min_size={self.min_size}, max_size={self.max_size}, mode='bilinear')"
        )
