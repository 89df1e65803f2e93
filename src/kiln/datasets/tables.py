"""Tables of numbers that come with scikit-learn: nothing is downloaded.

Sources, by scikit-learn's pages: R. Fisher (1936), iris; M. Forina et al. (1991), wine; W. Wolberg, O. Mangasarian,
N. Street (1995), breast cancer; B. Efron, T. Hastie, I. Johnstone, R. Tibshirani (2004), diabetes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..extras import need
from ..ops.creation import from_numpy
from ..tensor import Tensor

SPLIT_SEED = 1936


class Table(NamedTuple):
    """Inputs f32[n, features], targets (classes i64[n], or numbers f32[n]), and what features and classes are called."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    features: tuple[str, ...]
    classes: tuple[str, ...]


def _load(name: str, standardize: bool) -> Table:
    data = getattr(need("sklearn.datasets", "demo", name), name)()
    x, y = np.asarray(data.data, np.float64), np.asarray(data.target)
    classes = tuple(str(c) for c in getattr(data, "target_names", ()))
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(len(y))
    split = len(y) * 4 // 5
    train, test = order[:split], order[split:]
    if standardize:
        x = (x - x[train].mean(0)) / x[train].std(0)
    x, y = x.astype(np.float32), y.astype(np.int64 if classes else np.float32)
    return Table(
        from_numpy(x[train]), from_numpy(y[train]), from_numpy(x[test]), from_numpy(y[test]),
        tuple(map(str, data.feature_names)), classes,
    )  # fmt: skip


def load_iris(standardize: bool = True) -> Table:
    """150 flowers of three kinds, four lengths each; a fifth is for testing, in a split that is the same everywhere.

    `standardize`: each feature with mean 0 and deviation 1 over what is trained on. Needs scikit-learn (extra `[demo]`).
    """
    return _load("load_iris", standardize)


def load_wine(standardize: bool = True) -> Table:
    """178 wines of three growers, thirteen measurements each. See `load_iris`."""
    return _load("load_wine", standardize)


def load_breast_cancer(standardize: bool = True) -> Table:
    """569 tumours, malignant or benign, thirty measurements each. See `load_iris`."""
    return _load("load_breast_cancer", standardize)


def load_diabetes(standardize: bool = True) -> Table:
    """442 patients, ten measurements each, and how far the disease went in a year (a number, 25 to 346). See `load_iris`."""
    return _load("load_diabetes", standardize)
