"""The digits and their fixed split."""

from __future__ import annotations

import hashlib

import pytest

import kiln
from kiln.datasets import load_digits

pytest.importorskip("sklearn", reason="scikit-learn is not installed: extra [demo]")


def test_shapes_and_range():
    d = load_digits()
    assert d.train_images.shape == (1437, 1, 8, 8)
    assert d.test_images.shape == (360, 1, 8, 8)
    assert d.train_images.dtype is kiln.float32
    assert d.train_labels.dtype is kiln.int64
    assert d.train_images.min().item() == 0
    assert d.train_images.max().item() == 1
    assert sorted(set(d.test_labels.tolist())) == list(range(10))


def test_the_split_never_changes():
    labels = bytes(load_digits().test_labels.tolist())
    assert hashlib.sha256(labels).hexdigest()[:16] == "7cc5880a09b41e99"
