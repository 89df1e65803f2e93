"""Transforms as objects; random ones draw from Kiln's generator, in torchvision's order.

https://docs.pytorch.org/vision/stable/transforms.html
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import kiln

from ...errors import KilnTypeError, KilnValueError, describe
from ...nn import Module
from . import functional as F
from .functional import InterpolationMode


def _uniform(low: float, high: float) -> float:
    return float(kiln.empty(1).uniform_(low, high).item())


def _below(n: int) -> int:
    return int(kiln.randint(0, n, size=(1,)).item())


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = transforms

    def __call__(self, img: Any) -> Any:
        for t in self.transforms:
            img = t(img)
        return img

    def __repr__(self) -> str:
        return f"{type(self).__name__}(" + "".join(f"\n    {t}" for t in self.transforms) + "\n)"


class _Plain:
    """A transform that holds nothing but its arguments."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class ToTensor(_Plain):
    """A PIL picture or an array [H, W, C] as a tensor [C, H, W]; bytes become floats in [0, 1]."""

    def __call__(self, pic: Any) -> Any:
        return F.to_tensor(pic)


class PILToTensor(_Plain):
    """The pixels [C, H, W] of a PIL picture."""

    def __call__(self, pic: Any) -> Any:
        return F.pil_to_tensor(pic)


class ConvertImageDtype(Module):
    """A picture's values in another dtype's range."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, image: Any) -> Any:
        return F.convert_image_dtype(image, self.dtype)


class ToPILImage:
    """A tensor [C, H, W] or an array [H, W, C] as a PIL picture."""

    def __init__(self, mode: str | None = None) -> None:
        self.mode = mode

    def __call__(self, pic: Any) -> Any:
        return F.to_pil_image(pic, self.mode)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.mode is None else f'mode={self.mode}'})"


class Lambda:
    """A function as a transform."""

    def __init__(self, lambd: Callable) -> None:
        if not callable(lambd):
            raise KilnTypeError(
                "Lambda", f"Argument lambd should be callable, got {type(lambd).__name__!r}", lambd
            )
        self.lambd = lambd

    def __call__(self, img: Any) -> Any:
        return self.lambd(img)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Normalize(Module):
    """(x - mean) / std of each channel."""

    def __init__(self, mean: Any, std: Any, inplace: bool = False) -> None:
        super().__init__()
        self.mean, self.std, self.inplace = mean, std, inplace

    def forward(self, tensor: Any) -> Any:
        return F.normalize(tensor, self.mean, self.std, self.inplace)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mean={self.mean}, std={self.std})"


class Resize(Module):
    """A picture of another size: height and width, or one number for its shorter side."""

    def __init__(
        self, size: Any, interpolation: Any = InterpolationMode.BILINEAR, max_size: int | None = None,
        antialias: bool | None = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.interpolation, self.max_size = size, interpolation, max_size
        self.antialias = antialias

    def forward(self, img: Any) -> Any:
        return F.resize(img, self.size, self.interpolation, self.max_size, self.antialias)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(size={self.size}, interpolation={F._mode(self.interpolation)}, "
            f"max_size={self.max_size}, antialias={self.antialias})"
        )


class CenterCrop(Module):
    """The middle of a picture."""

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = F._pair(size)

    def forward(self, img: Any) -> Any:
        return F.center_crop(img, self.size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size})"


class Pad(Module):
    """A border around a picture."""

    def __init__(self, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> None:
        super().__init__()
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode

    def forward(self, img: Any) -> Any:
        return F.pad(img, self.padding, self.fill, self.padding_mode)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(padding={self.padding}, fill={self.fill}, "
            f"padding_mode={self.padding_mode})"
        )


class FiveCrop(Module):
    """The four corners and the middle."""

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = F._pair(size)

    def forward(self, img: Any) -> Any:
        return F.five_crop(img, self.size)


class TenCrop(Module):
    """The corners and the middle of a picture and of its mirror image."""

    def __init__(self, size: Any, vertical_flip: bool = False) -> None:
        super().__init__()
        self.size, self.vertical_flip = F._pair(size), vertical_flip

    def forward(self, img: Any) -> Any:
        return F.ten_crop(img, self.size, self.vertical_flip)


class Grayscale(Module):
    """A picture without its colours."""

    def __init__(self, num_output_channels: int = 1) -> None:
        super().__init__()
        self.num_output_channels = num_output_channels

    def forward(self, img: Any) -> Any:
        return F.rgb_to_grayscale(img, self.num_output_channels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_output_channels={self.num_output_channels})"


class GaussianBlur(Module):
    """A picture smoothed by a Gaussian window of random width."""

    def __init__(self, kernel_size: Any, sigma: Any = (0.1, 2.0)) -> None:
        super().__init__()
        self.kernel_size = F._pair(kernel_size)
        self.sigma = (sigma, sigma) if isinstance(sigma, int | float) else tuple(sigma)
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise KilnValueError(
                "GaussianBlur", "sigma values should be positive and of the form (min, max).", sigma
            )

    def forward(self, img: Any) -> Any:
        return F.gaussian_blur(img, self.kernel_size, _uniform(*self.sigma))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kernel_size={self.kernel_size}, sigma={self.sigma})"


# ---------------------------------------------------------------- drawn at random


class _Maybe(Module):
    """A transform that happens with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def change(self, img: Any) -> Any:
        """What happens."""
        raise NotImplementedError

    def forward(self, img: Any) -> Any:
        return self.change(img) if kiln.rand(1) < self.p else img

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p})"


class RandomHorizontalFlip(_Maybe):
    """Left and right exchanged, at times."""

    def change(self, img: Any) -> Any:
        return F.hflip(img)


class RandomVerticalFlip(_Maybe):
    """Top and bottom exchanged, at times."""

    def change(self, img: Any) -> Any:
        return F.vflip(img)


class RandomGrayscale(_Maybe):
    """Colours taken away, at times."""

    def __init__(self, p: float = 0.1) -> None:
        super().__init__(p)

    def change(self, img: Any) -> Any:
        return F.rgb_to_grayscale(img, F.get_image_num_channels(img))


class RandomInvert(_Maybe):
    """The negative, at times."""

    def change(self, img: Any) -> Any:
        return F.invert(img)


class RandomSolarize(_Maybe):
    """Values from a threshold on inverted, at times."""

    def __init__(self, threshold: float, p: float = 0.5) -> None:
        super().__init__(p)
        self.threshold = threshold

    def change(self, img: Any) -> Any:
        return F.solarize(img, self.threshold)


class RandomPosterize(_Maybe):
    """Only the highest bits of each byte kept, at times."""

    def __init__(self, bits: int, p: float = 0.5) -> None:
        super().__init__(p)
        self.bits = bits

    def change(self, img: Any) -> Any:
        return F.posterize(img, self.bits)


class RandomCrop(Module):
    """A part of a picture at a random place."""

    def __init__(
        self, size: Any, padding: Any = None, pad_if_needed: bool = False, fill: Any = 0,
        padding_mode: str = "constant",
    ) -> None:  # fmt: skip
        super().__init__()
        self.size = F._pair(size)
        self.padding, self.pad_if_needed = padding, pad_if_needed
        self.fill, self.padding_mode = fill, padding_mode

    @staticmethod
    def get_params(img: Any, output_size: Sequence[int]) -> tuple[int, int, int, int]:
        """Top, left, height and width of a part."""
        _, h, w = F.get_dimensions(img)
        height, width = output_size
        if h < height or w < width:
            raise KilnValueError(
                "RandomCrop", f"Required crop size {(height, width)} is larger than input image size {(h, w)}",
                output_size, "pad_if_needed=True",
            )  # fmt: skip
        if (h, w) == (height, width):
            return 0, 0, h, w
        return _below(h - height + 1), _below(w - width + 1), height, width

    def forward(self, img: Any) -> Any:
        if self.padding is not None:
            img = F.pad(img, self.padding, self.fill, self.padding_mode)
        _, h, w = F.get_dimensions(img)
        if self.pad_if_needed and w < self.size[1]:
            img = F.pad(img, [self.size[1] - w, 0], self.fill, self.padding_mode)
        if self.pad_if_needed and h < self.size[0]:
            img = F.pad(img, [0, self.size[0] - h], self.fill, self.padding_mode)
        return F.crop(img, *self.get_params(img, self.size))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, padding={self.padding})"


class RandomResizedCrop(Module):
    """A part of random size and shape at a random place, in a given size."""

    def __init__(
        self, size: Any, scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Any = InterpolationMode.BILINEAR, antialias: bool | None = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.scale, self.ratio = F._pair(size), scale, ratio
        self.interpolation, self.antialias = interpolation, antialias

    @staticmethod
    def get_params(
        img: Any, scale: Sequence[float], ratio: Sequence[float]
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width of a part."""
        _, h, w = F.get_dimensions(img)
        low, high = (math.log(x) for x in kiln.tensor(ratio).tolist())
        for _ in range(10):
            area = h * w * _uniform(scale[0], scale[1])
            shape = kiln.exp(kiln.empty(1).uniform_(low, high)).item()
            width, height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < width <= w and 0 < height <= h:
                return _below(h - height + 1), _below(w - width + 1), height, width
        if w / h < min(ratio):
            width, height = w, round(w / min(ratio))
        elif w / h > max(ratio):
            width, height = round(h * max(ratio)), h
        else:
            width, height = w, h
        return (h - height) // 2, (w - width) // 2, height, width

    def forward(self, img: Any) -> Any:
        part = self.get_params(img, self.scale, self.ratio)
        return F.resized_crop(img, *part, self.size, self.interpolation, self.antialias)

    def __repr__(self) -> str:
        scale, ratio = (tuple(round(x, 4) for x in v) for v in (self.scale, self.ratio))
        return (
            f"{type(self).__name__}(size={self.size}, scale={scale}, ratio={ratio}, "
            f"interpolation={F._mode(self.interpolation)}, antialias={self.antialias})"
        )


class ColorJitter(Module):
    """Brightness, contrast, saturation and hue changed at random, in random order."""

    def __init__(
        self, brightness: Any = 0, contrast: Any = 0, saturation: Any = 0, hue: Any = 0
    ) -> None:
        super().__init__()
        self.brightness = self._range("brightness", brightness)
        self.contrast = self._range("contrast", contrast)
        self.saturation = self._range("saturation", saturation)
        self.hue = self._range("hue", hue, 0, (-0.5, 0.5))

    @staticmethod
    def _range(
        name: str, value: Any, center: float = 1, bound: tuple[float, float] = (0, math.inf)
    ) -> tuple[float, float] | None:
        if isinstance(value, int | float):
            if value < 0:
                raise KilnValueError(
                    "ColorJitter", f"If {name} is a single number, it must be non negative.", value
                )
            low, high = center - value, center + value
            low = max(low, 0) if center else low
        else:
            low, high = map(float, value)
        if not bound[0] <= low <= high <= bound[1]:
            raise KilnValueError(
                "ColorJitter", f"{name} values should be between {bound}, but got {value}.", value
            )
        return None if low == high == center else (low, high)

    @staticmethod
    def get_params(
        brightness: Any, contrast: Any, saturation: Any, hue: Any
    ) -> tuple[Any, float | None, float | None, float | None, float | None]:
        """The order of the changes, and how large each is."""
        order = kiln.randperm(4)
        sizes = [
            None if r is None else _uniform(*r) for r in (brightness, contrast, saturation, hue)
        ]
        return (order, *sizes)  # type: ignore[return-value]

    def forward(self, img: Any) -> Any:
        order, *sizes = self.get_params(self.brightness, self.contrast, self.saturation, self.hue)
        changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for i in order.tolist():
            if sizes[i] is not None:
                img = changes[i](img, sizes[i])
        return img

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(brightness={self.brightness}, contrast={self.contrast}, "
            f"saturation={self.saturation}, hue={self.hue})"
        )


def _angles(op: str, degrees: Any) -> list[float]:
    if isinstance(degrees, int | float):
        if degrees < 0:
            raise KilnValueError(op, "If degrees is a single number, it must be positive.", degrees)
        return [-float(degrees), float(degrees)]
    if len(degrees) not in (2, 4):
        raise KilnValueError(op, "degrees should be a sequence of length 2.", describe(degrees))
    return [float(d) for d in degrees]


class RandomRotation(Module):
    """A picture turned by a random angle."""

    def __init__(
        self, degrees: Any, interpolation: Any = InterpolationMode.NEAREST, expand: bool = False,
        center: Any = None, fill: Any = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.degrees = _angles("RandomRotation", degrees)
        self.interpolation, self.expand = interpolation, expand
        self.center, self.fill = center, fill

    @staticmethod
    def get_params(degrees: Sequence[float]) -> float:
        """An angle."""
        return _uniform(degrees[0], degrees[1])

    def forward(self, img: Any) -> Any:
        angle = self.get_params(self.degrees)
        return F.rotate(img, angle, self.interpolation, self.expand, self.center, self.fill)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(degrees={self.degrees}, interpolation={F._mode(self.interpolation)}, "
            f"expand={self.expand}, fill={self.fill})"
        )


class RandomAffine(Module):
    """A picture turned, moved, scaled and slanted at random."""

    def __init__(
        self, degrees: Any, translate: Any = None, scale: Any = None, shear: Any = None,
        interpolation: Any = InterpolationMode.NEAREST, fill: Any = 0, center: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.degrees = _angles("RandomAffine", degrees)
        self.translate, self.scale = translate, scale
        self.shear = None if shear is None else _angles("RandomAffine", shear)
        self.interpolation, self.fill, self.center = interpolation, fill, center

    @staticmethod
    def get_params(
        degrees: Sequence[float],
        translate: Any,
        scale_ranges: Any,
        shears: Any,
        img_size: Sequence[int],
    ) -> tuple[float, tuple[int, int], float, tuple[float, float]]:
        """An angle, a way, a scale and a slant."""
        angle = _uniform(degrees[0], degrees[1])
        way = (0, 0)
        if translate is not None:
            far = [float(t * n) for t, n in zip(translate, img_size, strict=True)]
            x = round(_uniform(-far[0], far[0]))
            way = (x, round(_uniform(-far[1], far[1])))
        scale = 1.0 if scale_ranges is None else _uniform(scale_ranges[0], scale_ranges[1])
        sx = sy = 0.0
        if shears is not None:
            sx = _uniform(shears[0], shears[1])
            sy = _uniform(shears[2], shears[3]) if len(shears) == 4 else 0.0
        return angle, way, scale, (sx, sy)

    def forward(self, img: Any) -> Any:
        _, h, w = F.get_dimensions(img)
        drawn = self.get_params(self.degrees, self.translate, self.scale, self.shear, [w, h])
        return F.affine(img, *drawn, self.interpolation, self.fill, self.center)


class RandomErasing(Module):
    """A part of a tensor replaced, at times (Zhong et al. 2020)."""

    def __init__(
        self, p: float = 0.5, scale: Sequence[float] = (0.02, 0.33), ratio: Sequence[float] = (0.3, 3.3),
        value: Any = 0, inplace: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.p, self.scale, self.ratio, self.value, self.inplace = p, scale, ratio, value, inplace

    def forward(self, img: Any) -> Any:
        if not kiln.rand(1) < self.p:
            return img
        c, h, w = img.shape[-3:]
        low, high = (math.log(x) for x in kiln.tensor(self.ratio).tolist())
        for _ in range(10):
            area = h * w * _uniform(self.scale[0], self.scale[1])
            shape = kiln.exp(kiln.empty(1).uniform_(low, high)).item()
            height, width = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if height < h and width < w:
                if self.value == "random":
                    v = kiln.empty(c, height, width).normal_()
                else:
                    values = (
                        [self.value] if isinstance(self.value, int | float) else list(self.value)
                    )
                    v = kiln.tensor(values, dtype=kiln.float32)[:, None, None]
                top, left = _below(h - height + 1), _below(w - width + 1)
                return F.erase(img, top, left, height, width, v.to(img.dtype), self.inplace)
        return img

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(p={self.p}, scale={self.scale}, ratio={self.ratio}, value={self.value}, "
            f"inplace={self.inplace})"
        )


class RandomApply(Module):
    """A list of transforms, at times."""

    def __init__(self, transforms: Sequence[Callable], p: float = 0.5) -> None:
        super().__init__()
        self.transforms, self.p = transforms, p

    def forward(self, img: Any) -> Any:
        if self.p < kiln.rand(1):
            return img
        for t in self.transforms:
            img = t(img)
        return img


class RandomChoice:
    """One of several transforms, drawn by Python's generator."""

    def __init__(self, transforms: Sequence[Callable], p: Sequence[float] | None = None) -> None:
        self.transforms, self.p = transforms, p

    def __call__(self, *args: Any) -> Any:
        return random.choices(self.transforms, weights=self.p)[0](*args)


class RandomOrder:
    """Several transforms in an order drawn by Python's generator."""

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = transforms

    def __call__(self, img: Any) -> Any:
        order = list(range(len(self.transforms)))
        random.shuffle(order)
        for i in order:
            img = self.transforms[i](img)
        return img
