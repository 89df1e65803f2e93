"""Policies that draw what is done to a picture: AutoAugment, RandAugment, TrivialAugment, AugMix.

https://docs.pytorch.org/vision/stable/transforms.html#auto-augmentation
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import kiln

from ...errors import KilnValueError
from ...nn import Module
from ...ops.sampling import _sample_dirichlet
from ...tensor import Tensor
from . import functional as F
from .classes import _below
from .functional import InterpolationMode

Space = dict[str, tuple[Callable[[int, int, int], Tensor] | None, bool]]
"""What may be done: its strengths, of so many steps and a height and width, and whether they go both ways."""


def _to(end: float) -> Callable[[int, int, int], Tensor]:
    return lambda n, h, w: kiln.linspace(0.0, end, n)


def _bits(of: int, fewer: int) -> Callable[[int, int, int], Tensor]:
    return lambda n, h, w: of - (kiln.arange(n) / ((n - 1) / fewer)).round().int()


def _space(shear: float, x: Any, y: Any, turn: float, bits: Any, colour: float) -> Space:
    return {
        "ShearX": (_to(shear), True), "ShearY": (_to(shear), True), "TranslateX": (x, True), "TranslateY": (y, True),
        "Rotate": (_to(turn), True), "Brightness": (_to(colour), True), "Color": (_to(colour), True),
        "Contrast": (_to(colour), True), "Sharpness": (_to(colour), True), "Posterize": (bits, False),
        "Solarize": (lambda n, h, w: kiln.linspace(255.0, 0.0, n), False), "AutoContrast": (None, False),
        "Equalize": (None, False),
    }  # fmt: skip


def _share(part: float) -> tuple[Callable, Callable]:
    return (
        lambda n, h, w: kiln.linspace(0.0, part * w, n),
        lambda n, h, w: kiln.linspace(0.0, part * h, n),
    )


_PAPER = _space(0.3, *_share(150.0 / 331.0), 30.0, _bits(8, 4), 0.9)
_WIDE = _space(0.99, _to(32.0), _to(32.0), 135.0, _bits(8, 6), 0.99)
_MIX = _space(0.3, *_share(1.0 / 3.0), 30.0, _bits(4, 4), 0.9)
_COLOURS = ("Brightness", "Color", "Contrast", "Sharpness")
_MIX = {k: v for k, v in _MIX.items() if k not in _COLOURS} | {k: _MIX[k] for k in _COLOURS}


def _apply_op(
    img: Any, op_name: str, magnitude: float, interpolation: InterpolationMode, fill: Any
) -> Any:
    """A picture changed in a way that policies name, so strongly."""
    if op_name in ("ShearX", "ShearY"):
        slant = math.degrees(math.atan(magnitude))
        shear = [slant, 0.0] if op_name == "ShearX" else [0.0, slant]
        return F.affine(img, 0.0, [0, 0], 1.0, shear, interpolation, fill, [0, 0])
    if op_name in ("TranslateX", "TranslateY"):
        way = [int(magnitude), 0] if op_name == "TranslateX" else [0, int(magnitude)]
        return F.affine(img, 0.0, way, 1.0, [0.0, 0.0], interpolation, fill)
    if op_name == "Rotate":
        return F.rotate(img, magnitude, interpolation, fill=fill)
    if op_name in _ADJUSTED:
        return _ADJUSTED[op_name](img, 1.0 + magnitude)
    if op_name == "Posterize":
        return F.posterize(img, int(magnitude))
    if op_name == "Solarize":
        return F.solarize(img, magnitude)
    if op_name not in _PLAIN:
        raise KilnValueError("augment", f"The provided operator {op_name} is not recognized.", op_name, "")  # fmt: skip
    return _PLAIN[op_name](img)


_ADJUSTED = {
    "Brightness": F.adjust_brightness, "Color": F.adjust_saturation, "Contrast": F.adjust_contrast,
    "Sharpness": F.adjust_sharpness,
}  # fmt: skip
_PLAIN = {
    "AutoContrast": F.autocontrast, "Equalize": F.equalize, "Invert": F.invert, "Identity": lambda img: img,
}  # fmt: skip


class _Policy(Module):
    """What policies have in common. `_second`: numbers are drawn as the second edition draws them."""

    _second = False

    def __init__(self, interpolation: InterpolationMode, fill: Any) -> None:
        super().__init__()
        self.interpolation, self.fill = interpolation, fill

    def _sign(self) -> float:
        if self._second:
            return -1.0 if kiln.rand(()) <= 0.5 else 1.0
        return -1.0 if _below(2) else 1.0

    def _strength(self, space: Space, name: str, img: Any, steps: int, pick: Callable) -> float:
        """How strongly something is done: `pick` says which step."""
        strengths, signed = space[name]
        if strengths is None:
            return 0.0
        _, h, w = F.get_dimensions(img)
        value = float(strengths(steps, h, w)[pick()].item())
        return value * self._sign() if signed else value

    def _do(self, img: Any, name: str, strength: float) -> Any:
        fill = self.fill
        if isinstance(img, Tensor):
            if name == "Solarize" and img.is_floating_point():
                strength /= 255.0
            if fill is not None:
                many = isinstance(fill, Sequence)
                fill = list(map(float, fill)) if many else [float(fill)] * img.shape[-3]
        return _apply_op(img, name, strength, self.interpolation, fill)


class AutoAugmentPolicy(Enum):
    """The data that a policy of AutoAugment was found for."""

    IMAGENET = "imagenet"
    CIFAR10 = "cifar10"
    SVHN = "svhn"


# Pairs of what is done, with its probability and its strength from 0 to 9; from the appendix of Cubuk et al. 2019
_POLICIES = {
    AutoAugmentPolicy.IMAGENET: """Posterize .4 8 Rotate .6 9|Solarize .6 5 AutoContrast .6 -|Equalize .8 - Equalize .6 -
        Posterize .6 7 Posterize .6 6|Equalize .4 - Solarize .2 4|Equalize .4 - Rotate .8 8|Solarize .6 3 Equalize .6 -
        Posterize .8 5 Equalize 1 -|Rotate .2 3 Solarize .6 8|Equalize .6 - Posterize .4 6|Rotate .8 8 Color .4 0
        Rotate .4 9 Equalize .6 -|Equalize 0 - Equalize .8 -|Invert .6 - Equalize 1 -|Color .6 4 Contrast 1 8
        Rotate .8 8 Color 1 2|Color .8 8 Solarize .8 7|Sharpness .4 7 Invert .6 -|ShearX .6 5 Equalize 1 -
        Color .4 0 Equalize .6 -|Equalize .4 - Solarize .2 4|Solarize .6 5 AutoContrast .6 -|Invert .6 - Equalize 1 -
        Color .6 4 Contrast 1 8|Equalize .8 - Equalize .6 -""",
    AutoAugmentPolicy.CIFAR10: """Invert .1 - Contrast .2 6|Rotate .7 2 TranslateX .3 9|Sharpness .8 1 Sharpness .9 3
        ShearY .5 8 TranslateY .7 9|AutoContrast .5 - Equalize .9 -|ShearY .2 7 Posterize .3 7|Color .4 3 Brightness .6 7
        Sharpness .3 9 Brightness .7 9|Equalize .6 - Equalize .5 -|Contrast .6 7 Sharpness .6 5|Color .7 7 TranslateX .5 8
        Equalize .3 - AutoContrast .4 -|TranslateY .4 3 Sharpness .2 6|Brightness .9 6 Color .2 8|Solarize .5 2 Invert 0 -
        Equalize .2 - AutoContrast .6 -|Equalize .2 - Equalize .6 -|Color .9 9 Equalize .6 -|AutoContrast .8 - Solarize .2 8
        Brightness .1 3 Color .7 0|Solarize .4 5 AutoContrast .9 -|TranslateY .9 9 TranslateY .7 9
        AutoContrast .9 - Solarize .8 3|Equalize .8 - Invert .1 -|TranslateY .7 9 AutoContrast .9 -""",
    AutoAugmentPolicy.SVHN: """ShearX .9 4 Invert .2 -|ShearY .9 8 Invert .7 -|Equalize .6 - Solarize .6 6
        Invert .9 - Equalize .6 -|Equalize .6 - Rotate .9 3|ShearX .9 4 AutoContrast .8 -|ShearY .9 8 Invert .4 -
        ShearY .9 5 Solarize .2 6|Invert .9 - AutoContrast .8 -|Equalize .6 - Rotate .9 3|ShearX .9 4 Solarize .3 3
        ShearY .8 8 Invert .7 -|Equalize .9 - TranslateY .6 6|Invert .9 - Equalize .6 -|Contrast .3 3 Rotate .8 4
        Invert .8 - TranslateY 0 2|ShearY .7 6 Solarize .4 8|Invert .6 - Rotate .8 4|ShearY .3 7 TranslateX .9 3
        ShearX .1 6 Invert .6 -|Solarize .7 2 TranslateY .6 7|ShearY .8 4 Invert .8 -|ShearX .7 9 TranslateY .8 3
        ShearY .8 5 AutoContrast .7 -|ShearX .7 2 Invert .1 -""",
}  # fmt: skip


def _pairs(text: str) -> list[tuple]:
    def part(name: str, p: str, at: str) -> tuple[str, float, int | None]:
        return name, float(p), None if at == "-" else int(at)

    return [
        (part(*w[:3]), part(*w[3:]))
        for w in map(str.split, text.replace("\n", "|").split("|"))
    ]  # fmt: skip


class AutoAugment(_Policy):
    """One of 25 pairs of changes that were found by search (Cubuk et al. 2019)."""

    def __init__(
        self, policy: AutoAugmentPolicy = AutoAugmentPolicy.IMAGENET, interpolation: InterpolationMode = InterpolationMode.NEAREST,
        fill: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(interpolation, fill)
        self.policy = policy
        if policy not in _POLICIES:
            raise KilnValueError("AutoAugment", f"The provided policy {policy} is not recognized.", policy, "one of AutoAugmentPolicy")  # fmt: skip
        self.policies = _pairs(_POLICIES[policy])

    @staticmethod
    def get_params(transform_num: int) -> tuple[int, Tensor, Tensor]:
        """Which pair; for each of it a number that decides whether it is done, and a sign."""
        return _below(transform_num), kiln.rand((2,)), kiln.randint(2, (2,))

    def forward(self, img: Any) -> Any:
        space = _PAPER | {"Invert": (None, False)}
        if self._second:
            for name, p, at in self.policies[_below(len(self.policies))]:
                if kiln.rand(()) <= p:
                    img = self._do(img, name, self._strength(space, name, img, 10, lambda a=at: a))
            return img
        which, chances, signs = self.get_params(len(self.policies))
        _, h, w = F.get_dimensions(img)
        for i, (name, p, at) in enumerate(self.policies[which]):
            if chances[i] <= p:
                strengths, signed = space[name]
                value = 0.0 if strengths is None else float(strengths(10, h, w)[at].item())
                img = self._do(img, name, -value if signed and signs[i] == 0 else value)
        return img

    def __repr__(self) -> str:
        return f"{type(self).__name__}(policy={self.policy}, fill={self.fill})"


class RandAugment(_Policy):
    """`num_ops` changes drawn one after the other, all equally strong (Cubuk et al. 2020)."""

    _space = {"Identity": (None, False)} | _PAPER

    def __init__(
        self, num_ops: int = 2, magnitude: int = 9, num_magnitude_bins: int = 31,
        interpolation: InterpolationMode = InterpolationMode.NEAREST, fill: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(interpolation, fill)
        self.num_ops, self.magnitude, self.num_magnitude_bins = (
            num_ops,
            magnitude,
            num_magnitude_bins,
        )

    def forward(self, img: Any) -> Any:
        names = list(self._space)
        for _ in range(self.num_ops):
            name = names[_below(len(names))]
            strength = self._strength(
                self._space, name, img, self.num_magnitude_bins, lambda: self.magnitude
            )
            img = self._do(img, name, strength)
        return img

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_ops={self.num_ops}, magnitude={self.magnitude}, "
            f"num_magnitude_bins={self.num_magnitude_bins}, interpolation={self.interpolation}, fill={self.fill})"
        )


class TrivialAugmentWide(_Policy):
    """One change, its strength drawn too (Mueller & Hutter 2021)."""

    _space = {"Identity": (None, False)} | _WIDE

    def __init__(
        self, num_magnitude_bins: int = 31, interpolation: InterpolationMode = InterpolationMode.NEAREST, fill: Any = None
    ) -> None:  # fmt: skip
        super().__init__(interpolation, fill)
        self.num_magnitude_bins = num_magnitude_bins

    def forward(self, img: Any) -> Any:
        n = self.num_magnitude_bins
        name = list(self._space)[_below(len(self._space))]
        return self._do(img, name, self._strength(self._space, name, img, n, lambda: _below(n)))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_magnitude_bins={self.num_magnitude_bins}, "
            f"interpolation={self.interpolation}, fill={self.fill})"
        )


class AugMix(_Policy):
    """A picture mixed with results of chains of changes (Hendrycks et al. 2020)."""

    def __init__(
        self, severity: int = 3, mixture_width: int = 3, chain_depth: int = -1, alpha: float = 1.0, all_ops: bool = True,
        interpolation: InterpolationMode = InterpolationMode.BILINEAR, fill: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(interpolation, fill)
        if not 1 <= severity <= 10:
            raise KilnValueError("AugMix", f"The severity must be between [1, 10]. Got {severity} instead.", severity, "")  # fmt: skip
        self.severity, self.mixture_width, self.chain_depth = severity, mixture_width, chain_depth
        self.alpha, self.all_ops = alpha, all_ops
        self._space = {k: v for k, v in _MIX.items() if all_ops or k not in _COLOURS}

    def _shares(self, n: int, samples: int) -> Tensor:
        return _sample_dirichlet(kiln.tensor([self.alpha] * n).expand(samples, -1))

    def forward(self, orig_img: Any) -> Any:
        img = orig_img if isinstance(orig_img, Tensor) else F.pil_to_tensor(orig_img)
        batch = img.reshape(*[1] * max(4 - img.ndim, 0), *img.shape)
        ones = (len(batch), *[1] * (batch.ndim - 1))
        first = self._shares(2, len(batch))
        shares = self._shares(self.mixture_width, len(batch)) * first[:, 1:]
        mix = first[:, 0].reshape(ones) * batch
        names = list(self._space)
        for i in range(self.mixture_width):
            changed = batch
            for _ in range(self.chain_depth if self.chain_depth > 0 else 1 + _below(3)):
                name = names[_below(len(names))]
                strength = self._strength(self._space, name, changed, 10, self._step)
                changed = self._do(changed, name, strength)
            mix.add_(shares[:, i].reshape(ones) * changed)
        out = mix.reshape(img.shape).to(img.dtype)
        return out if isinstance(orig_img, Tensor) else F.to_pil_image(out)

    def _step(self) -> int:
        return _below(self.severity)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(severity={self.severity}, mixture_width={self.mixture_width}, "
            f"chain_depth={self.chain_depth}, alpha={self.alpha}, all_ops={self.all_ops}, "
            f"interpolation={self.interpolation}, fill={self.fill})"
        )
