"""Libraries that are written to the standard take Kiln's tensors: SciPy and scikit-learn, from extra [demo]."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
import scipy.differentiate, scipy.integrate, scipy.special, scipy.stats
import sklearn
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import kiln

functions = {
    "zscore": lambda x, y: scipy.stats.zscore(x, axis=0),
    "pearsonr": lambda x, y: scipy.stats.pearsonr(x[:, 0], x[:, 1]).pvalue,
    "logsumexp": lambda x, y: scipy.special.logsumexp(x, axis=0),
    "derivative": lambda x, y: scipy.differentiate.derivative(lambda t: t**3, x).df,
    "tanhsinh": lambda x, y: scipy.integrate.tanhsinh(lambda t: t * t, x - x, x).integral,
    "StandardScaler": lambda x, y: StandardScaler().fit_transform(x),
    "PolynomialFeatures": lambda x, y: PolynomialFeatures(2).fit_transform(x),
    "PCA": lambda x, y: abs(PCA(2, svd_solver="full").fit_transform(x)),
    "LinearDiscriminantAnalysis": lambda x, y: LinearDiscriminantAnalysis().fit(x, y).predict_proba(x),
}
x = np.random.default_rng(0).normal(size=(40, 3))
y = (x[:, 0] > 0).astype(np.int64)
for name, f in functions.items():
    want = f(x, y)
    with sklearn.config_context(array_api_dispatch=True):
        got = f(kiln.tensor(x), kiln.tensor(y))
    assert isinstance(got, kiln.Tensor), name
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6, atol=1e-9, err_msg=name)
"""


def test_scipy_and_scikit_learn_take_tensors() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: extra [demo]")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env=os.environ | {"SCIPY_ARRAY_API": "1"}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
