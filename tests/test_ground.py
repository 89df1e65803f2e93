"""Shapes, devices, flags and errors."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kiln
from kiln import errors
from kiln.config import config, context
from kiln.shape import Dim, Size, broadcast_shapes, norm_dims, resolve_reshape

SIDES = st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=4)


def test_size():
    s = Size((2, 3, 4))
    assert s.numel() == 24
    assert isinstance(s[1:], Size)
    assert isinstance(Size.__add__(s, [1]), Size)
    assert repr(s) == "kiln.Size([2, 3, 4])"
    assert s == (2, 3, 4)


@given(st.lists(SIDES, min_size=1, max_size=3))
def test_broadcasting_is_numpys(shapes):
    try:
        expected = np.broadcast_shapes(*map(tuple, shapes))
    except ValueError:
        with pytest.raises(RuntimeError, match="neither is 1"):
            broadcast_shapes(*shapes)
    else:
        assert broadcast_shapes(*shapes) == expected


@given(SIDES, st.lists(st.sampled_from([-1, 0, 1, 2, 3, 4, 6]), max_size=3))
def test_reshape_is_numpys(old, new):
    a = np.zeros(old)
    try:
        expected = a.reshape(new).shape
    except ValueError:
        with pytest.raises(RuntimeError, match="invalid for input of size"):
            resolve_reshape(new, a.size)
    else:
        if a.size or -1 not in new:
            assert resolve_reshape(new, a.size) == expected


def test_dims_are_checked():
    assert norm_dims((-1, 0), 3) == (2, 0)
    assert norm_dims(None, 2) == (0, 1)
    with pytest.raises(IndexError, match=r"expected to be in \[-3, 2\]"):
        norm_dims(3, 3)
    with pytest.raises(RuntimeError, match="twice"):
        norm_dims((0, -3), 3)
    with pytest.raises(TypeError, match="integer"):
        norm_dims(1.5, 3)


def test_symbolic_sizes():
    n, m = Dim("n"), Dim("m")
    assert n + n == 2 * n
    assert (n * m + 3 - 3) // m == n
    assert (4 * n + 2).bind(n=5) == 22
    assert hash(n * m) == hash(m * n)
    assert n - n == 0
    with pytest.raises(RuntimeError, match="evenly"):
        (n + 1) // 2


def test_devices():
    assert kiln.device("cuda:1") == kiln.device("cuda", 1)
    assert str(kiln.device("cuda", 1)) == "cuda:1"
    with pytest.raises(RuntimeError, match="unknown device"):
        kiln.device("gpu")
    with pytest.raises(RuntimeError, match="no cuda device here"):
        kiln.zeros(2, device="cuda")


def test_flags():
    before = config.debug
    with context(debug=3, explain=True):
        assert config.debug == 3
    assert config.debug == before
    with pytest.raises(ValueError, match="no such flag"), context(spam=1):
        pass
    with pytest.raises(ValueError, match="wrong type"), context(debug="much"):
        pass


def test_flags_from_the_environment():
    code = "from kiln.config import config; print(config.debug, config.explain)"
    run = subprocess.run(
        [sys.executable, "-c", code], env={"KILN_DEBUG": "2", "KILN_EXPLAIN": "on", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.split() == ["2", "True"]
    bad = subprocess.run(
        [sys.executable, "-c", code], env={"KILN_DEBUG": "lots", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "KILN_DEBUG takes a value of type int" in bad.stderr


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (errors.KilnTypeError, TypeError), (errors.KilnValueError, ValueError), (errors.KilnIndexError, IndexError),
        (errors.KilnNotImplementedError, NotImplementedError),
    ],
)  # fmt: skip
def test_errors_have_three_lines_and_two_classes(error, also):
    e = error("matmul", "inner sizes differ", "a=f32[2, 3]", "transpose b")
    assert isinstance(e, also)
    assert isinstance(e, errors.KilnError)
    assert str(e) == "[matmul] inner sizes differ\nreceived: a=f32[2, 3]\nhelp: transpose b"


def test_errors_are_raised_again_with_more_to_say():
    e = errors.KilnValueError("matmul", "inner sizes differ", "a=f32[2, 3]", "transpose b")
    assert e.args == (str(e),)
    assert str(type(e)("in step 3: sizes")) == "in step 3: sizes"
    again = pickle.loads(pickle.dumps(e))
    assert (type(again), str(again), again.what) == (type(e), str(e), e.what)


def test_importing_kiln_imports_the_core_only():
    code = (
        "import sys, kiln; "
        "print([m for m in ('torch', 'scipy', 'sklearn', 'matplotlib', 'tensorboard', 'rich', 'llvmlite',"
        " 'safetensors') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
