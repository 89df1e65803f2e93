"""Transforms of batches: pictures and labels mixed with those of the next sample."""

from __future__ import annotations

import math
from typing import Any

import kiln

from ....distributions import Beta
from ....errors import KilnTypeError, KilnValueError, describe
from ....nn import Module
from ....tensor import Tensor
from ...tv_tensors import BoundingBoxes, Mask, TVTensor, wrap
from .. import functional as F
from .samples import is_picture, leaves_of, parts_of, rebuilt, sample_of


class _Mixing(Module):
    """A share of each sample replaced by that of the one before it: `lam` is drawn from Beta(alpha, alpha)."""

    def __init__(
        self, *, alpha: float = 1.0, num_classes: int | None = None, labels_getter: Any = "default"
    ) -> None:
        super().__init__()
        self.alpha, self.num_classes, self.labels_getter = float(alpha), num_classes, labels_getter

    def _labels(self, sample: Any) -> Any:
        if callable(self.labels_getter):
            return self.labels_getter(sample)
        if isinstance(sample, tuple | list) and len(sample) > 1:
            sample = sample[1]
        if isinstance(sample, dict):
            names = [k for k in sample if str(k).lower() in ("label", "labels")]
            names = names or [k for k in sample if "label" in str(k).lower()]
            sample = sample[names[0]] if names else None
        if not isinstance(sample, Tensor):
            raise KilnValueError(type(self).__name__, "Could not infer where the labels are in the sample.", describe(sample), "pass a callable as the labels_getter parameter")  # fmt: skip
        return sample

    def draw(self, images: Tensor) -> Any:
        """How the pictures of a batch are mixed, and the share of their own labels."""
        raise NotImplementedError

    def mixed(self, images: Tensor, how: Any) -> Tensor:
        """A batch of pictures, mixed."""
        raise NotImplementedError

    def _mixed_labels(self, label: Tensor, lam: float) -> Tensor:
        if label.ndim == 1:
            if self.num_classes is None:
                raise KilnValueError(type(self).__name__, "num_classes must be passed if the labels are passed as indices", describe(label), "")  # fmt: skip
            label = kiln.nn.functional.one_hot(label, self.num_classes)
        label = label.float()
        return label.roll(1, 0) * (1.0 - lam) + label * lam

    def forward(self, *inputs: Any) -> Any:
        name, sample = type(self).__name__, sample_of(inputs)
        leaves: list[Any] = []
        structure = leaves_of(sample, leaves)
        if any(
            isinstance(x, BoundingBoxes | Mask) or (not isinstance(x, Tensor) and is_picture(x))
            for x in leaves
        ):
            raise KilnValueError(name, f"{name}() does not support PIL images, bounding boxes and masks.", describe(sample), "")  # fmt: skip
        labels = self._labels(sample)
        if labels.ndim not in (1, 2):
            raise KilnValueError(name, f"labels should be index based with shape (batch_size,) or probability based with shape (batch_size, num_classes), but got a tensor of shape {tuple(labels.shape)} instead.", describe(labels), "")  # fmt: skip
        parts = [i for i in parts_of(leaves) if leaves[i] is not labels]
        for i in parts:
            if leaves[i].ndim != 4:
                raise KilnValueError(name, f"Expected a batched input with ndim = 4, but got ndim = {leaves[i].ndim} instead.", describe(leaves[i]), "")  # fmt: skip
            if len(leaves[i]) != len(labels):
                raise KilnValueError(name, f"The batch size of the image or video does not match the batch size of the labels: {len(leaves[i])} != {len(labels)}.", describe(leaves[i]), "")  # fmt: skip
        if not parts:
            raise KilnTypeError(name, "there are no pictures in the sample", describe(sample), "")
        how, lam = self.draw(leaves[parts[0]])
        for i, x in enumerate(leaves):
            if x is labels:
                leaves[i] = self._mixed_labels(x, lam)
            elif i in parts:
                out = self.mixed(x.as_subclass(Tensor), how)
                leaves[i] = wrap(out, like=x) if isinstance(x, TVTensor) else out
        return rebuilt(structure, leaves)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, num_classes={self.num_classes}"


class MixUp(_Mixing):
    """Pictures and labels as weighted means of two samples (Zhang et al. 2018)."""

    def draw(self, images: Tensor) -> Any:
        lam = float(Beta(self.alpha, self.alpha).sample(()))
        return lam, lam

    def mixed(self, images: Tensor, how: Any) -> Tensor:
        return images.roll(1, 0) * (1.0 - how) + images * how


class CutMix(_Mixing):
    """A rectangle of each picture replaced by the other sample's, labels by its area (Yun et al. 2019)."""

    def draw(self, images: Tensor) -> Any:
        lam = float(Beta(self.alpha, self.alpha).sample(()))
        _, h, w = F.get_dimensions(images)
        x, y = (int(kiln.randint(n, size=(1,)).item()) for n in (w, h))
        half = 0.5 * math.sqrt(1.0 - lam)
        x1, y1 = max(x - int(half * w), 0), max(y - int(half * h), 0)
        x2, y2 = min(x + int(half * w), w), min(y + int(half * h), h)
        return (x1, y1, x2, y2), float(1.0 - (x2 - x1) * (y2 - y1) / (w * h))

    def mixed(self, images: Tensor, how: Any) -> Tensor:
        x1, y1, x2, y2 = how
        out = images.clone()
        out[..., y1:y2, x1:x2] = images.roll(1, 0)[..., y1:y2, x1:x2]
        return out
