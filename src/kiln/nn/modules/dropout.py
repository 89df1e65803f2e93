"""Dropout: random zeros in training, the identity in evaluation."""

from __future__ import annotations

from ...errors import KilnValueError
from ...tensor import Tensor
from .. import functional as F
from .module import Module


class _DropoutNd(Module):
    _fn = ""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise KilnValueError(
                type(self).__name__,
                f"dropout probability has to be between 0 and 1, but got {p}",
                p,
            )
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return getattr(F, self._fn)(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_DropoutNd):
    """Each element is 0 with probability p, the others are scaled by 1 / (1 - p)."""

    _fn = "dropout"


class Dropout1d(_DropoutNd):
    """Whole channels of (N, C, L) are dropped."""

    _fn = "dropout1d"


class Dropout2d(_DropoutNd):
    """Whole channels of (N, C, H, W) are dropped."""

    _fn = "dropout2d"


class Dropout3d(_DropoutNd):
    """Whole channels of (N, C, D, H, W) are dropped."""

    _fn = "dropout3d"


class AlphaDropout(_DropoutNd):
    """Dropout that keeps mean and variance; goes with SELU (Klambauer et al. 2017)."""

    _fn = "alpha_dropout"


class FeatureAlphaDropout(_DropoutNd):
    """AlphaDropout of whole channels."""

    _fn = "feature_alpha_dropout"
