"""1,797 real scans of handwritten digits, 8 x 8 pixels, as bundled with scikit-learn.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..extras import need
from ..ops.creation import from_numpy
from ..tensor import Tensor

TRAINING = 1437
SPLIT_SEED = 1797


class Digits(NamedTuple):
    """Images f32[n, 1, 8, 8] in [0, 1] and labels i64[n], for training and for testing."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The digits, in a split that is the same everywhere: 1,437 to train on, 360 to test on.

    Nothing is downloaded; the scans come with scikit-learn (extra `[demo]`).
    """
    data = need("sklearn.datasets", "demo", "load_digits").load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    labels = data.target.astype(np.int64)
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(len(labels))
    train, test = order[:TRAINING], order[TRAINING:]
    return Digits(
        *(from_numpy(a) for a in (images[train], labels[train], images[test], labels[test]))
    )
