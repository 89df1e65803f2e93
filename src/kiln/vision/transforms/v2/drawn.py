"""Random transforms that only the second edition has: of samples, what is drawn once serves all parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kiln

from ....errors import KilnTypeError, describe
from ....tensor import Tensor
from ...ops import box_iou
from ...tv_tensors import BoundingBoxes, Mask
from .. import functional as F
from ..classes import _uniform
from ..functional import InterpolationMode
from . import functional
from .samples import Transform, is_picture


def query_size(sample: Sequence[Any]) -> tuple[int, int]:
    """Height and width of the pictures, masks and boxes in a sample."""
    for x in sample:
        if isinstance(x, BoundingBoxes):
            return x.canvas_size
        if isinstance(x, Mask) or is_picture(x):
            return tuple(F.get_dimensions(x)[1:])  # type: ignore[return-value]
    raise KilnTypeError("query_size", "No image, video, mask, bounding box of keypoint was found in the sample", describe(sample), "")  # fmt: skip


class _Resized(Transform):
    """Parts of a sample in a size that is drawn."""

    def __init__(self, interpolation: Any, antialias: bool | None) -> None:
        super().__init__()
        self.interpolation, self.antialias = interpolation, antialias

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resize(inpt, params["size"], self.interpolation, params.get("max_size"), antialias=self.antialias)  # fmt: skip


class RandomResize(_Resized):
    """The shorter side between `min_size` and `max_size`."""

    def __init__(
        self, min_size: int, max_size: int, interpolation: Any = InterpolationMode.BILINEAR, antialias: bool | None = True
    ) -> None:  # fmt: skip
        super().__init__(interpolation, antialias)
        self.min_size, self.max_size = min_size, max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"size": [int(kiln.randint(self.min_size, self.max_size, ()))]}


class RandomShortestSize(_Resized):
    """The shorter side as long as one of `min_size`, the longer one at most `max_size`."""

    def __init__(
        self, min_size: int | Sequence[int], max_size: int | None = None, interpolation: Any = InterpolationMode.BILINEAR,
        antialias: bool | None = True,
    ) -> None:  # fmt: skip
        super().__init__(interpolation, antialias)
        self.min_size = [min_size] if isinstance(min_size, int) else list(min_size)
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        h, w = query_size(flat_inputs)
        r = self.min_size[int(kiln.randint(len(self.min_size), ()))] / min(h, w)
        if self.max_size is not None:
            r = min(r, self.max_size / max(h, w))
        return {"size": (int(h * r), int(w * r))}


class ScaleJitter(_Resized):
    """As large as fits into `target_size`, times a factor."""

    def __init__(
        self, target_size: tuple[int, int], scale_range: tuple[float, float] = (0.1, 2.0),
        interpolation: Any = InterpolationMode.BILINEAR, antialias: bool | None = True,
    ) -> None:  # fmt: skip
        super().__init__(interpolation, antialias)
        self.target_size, self.scale_range = target_size, scale_range

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        h, w = query_size(flat_inputs)
        low, high = self.scale_range
        scale = low + float(kiln.rand(1)) * (high - low)
        r = min(self.target_size[1] / h, self.target_size[0] / w) * scale
        return {"size": (int(h * r), int(w * r))}


class RandomPhotometricDistort(Transform):
    """Brightness, contrast, saturation, hue and the order of channels, each at times."""

    def __init__(
        self, brightness: tuple[float, float] = (0.875, 1.125), contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5), hue: tuple[float, float] = (-0.05, 0.05), p: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue, self.p = (
            brightness,
            contrast,
            saturation,
            hue,
            p,
        )

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        c = F.get_dimensions(flat_inputs[0])[0]
        drawn: dict[str, Any] = {
            name: _uniform(*ends) if kiln.rand(1) < self.p else None
            for name, ends in (
                ("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation),
                ("hue", self.hue),
            )
        }  # fmt: skip
        drawn["first"] = bool(kiln.rand(()) < 0.5)
        drawn["order"] = kiln.randperm(c) if kiln.rand(1) < self.p else None
        return drawn

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, Mask | BoundingBoxes):
            return inpt
        steps = ["brightness", "contrast", "saturation", "hue"]
        if not params["first"]:
            steps = ["brightness", "saturation", "hue", "contrast"]
        for name in steps:
            if params[name] is not None:
                inpt = getattr(F, f"adjust_{name}")(inpt, params[name])
        if params["order"] is not None:
            inpt = functional.permute_channels(inpt, params["order"].tolist())
        return inpt


class RandomChannelPermutation(Transform):
    """The channels in another order."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"order": kiln.randperm(F.get_dimensions(flat_inputs[0])[0]).tolist()}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, Mask | BoundingBoxes):
            return inpt
        return functional.permute_channels(inpt, params["order"])


class GaussianNoise(Transform):
    """Noise of this mean and deviation on top of values in [0, 1], or of bytes."""

    def __init__(self, mean: float = 0.0, sigma: float = 0.1, clip: bool = True) -> None:
        super().__init__()
        self.mean, self.sigma, self.clip = mean, sigma, clip

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, Mask | BoundingBoxes):
            return inpt
        return functional.gaussian_noise(inpt, self.mean, self.sigma, self.clip)


class RandomZoomOut(Transform):
    """The picture somewhere in a larger one, at times."""

    def __init__(
        self, fill: Any = 0, side_range: Sequence[float] = (1.0, 4.0), p: float = 0.5
    ) -> None:
        super().__init__()
        self.fill, self.side_range, self.p = fill, side_range, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        if not kiln.rand(1) < self.p:
            return {}
        h, w = query_size(flat_inputs)
        low, high = self.side_range
        r = low + float(kiln.rand(1)) * (high - low)
        wide, tall = int(w * r), int(h * r)
        x, y = (kiln.rand(2) * kiln.tensor([float(wide - w), float(tall - h)])).int().tolist()
        return {"padding": [x, y, wide - (x + w), tall - (y + h)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.pad(inpt, params["padding"], self.fill) if params else inpt


class RandomIoUCrop(Transform):
    """A part of the picture that overlaps some box by as much as is drawn (Liu et al. 2016); boxes outside become empty."""

    def __init__(
        self, min_scale: float = 0.3, max_scale: float = 1.0, min_aspect_ratio: float = 0.5, max_aspect_ratio: float = 2.0,
        sampler_options: Sequence[float] | None = None, trials: int = 40,
    ) -> None:  # fmt: skip
        super().__init__()
        self.min_scale, self.max_scale = min_scale, max_scale
        self.min_aspect_ratio, self.max_aspect_ratio = min_aspect_ratio, max_aspect_ratio
        self.options = list(sampler_options or (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0))
        self.trials = trials

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        h, w = query_size(flat_inputs)
        boxes = next((x for x in flat_inputs if isinstance(x, BoundingBoxes)), None)
        if boxes is None:
            raise KilnTypeError("RandomIoUCrop", "requires input sample to contain tensor or PIL images and bounding boxes.", describe(flat_inputs), "")  # fmt: skip
        corners = functional.convert_bounding_box_format(boxes, new_format="XYXY").as_subclass(
            Tensor
        )
        while True:
            least = self.options[int(kiln.randint(0, len(self.options), size=(1,)))]
            if least >= 1.0:
                return {}
            for _ in range(self.trials):
                r = (self.min_scale + (self.max_scale - self.min_scale) * kiln.rand(2)).tolist()
                wide, tall = int(w * r[0]), int(h * r[1])
                if not tall or not self.min_aspect_ratio <= wide / tall <= self.max_aspect_ratio:
                    continue
                place = kiln.rand(2).tolist()
                left, top = int((w - wide) * place[0]), int((h - tall) * place[1])
                right, bottom = left + wide, top + tall
                if left == right or top == bottom:
                    continue
                cx, cy = (
                    (corners[:, 0] + corners[:, 2]) * 0.5,
                    (corners[:, 1] + corners[:, 3]) * 0.5,
                )
                inside = (left < cx) & (cx < right) & (top < cy) & (cy < bottom)
                if not inside.any():
                    continue
                part = kiln.tensor([[left, top, right, bottom]], dtype=corners.dtype)
                if box_iou(corners[inside], part).max() < least:
                    continue
                return {"part": (top, left, tall, wide), "inside": inside}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not params:
            return inpt
        out = F.crop(inpt, *params["part"])
        if isinstance(out, BoundingBoxes):
            out[~params["inside"]] = 0
        return out


__all__ = [
    "GaussianNoise", "RandomChannelPermutation", "RandomIoUCrop", "RandomPhotometricDistort", "RandomResize",
    "RandomShortestSize", "RandomZoomOut", "ScaleJitter", "query_size",
]  # fmt: skip
