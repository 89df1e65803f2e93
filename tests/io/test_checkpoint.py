"""Save and load: everything comes back, nothing is half-written, bad files are refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import kiln
from kiln import dtypes as dt
from kiln.errors import KilnError, KilnTypeError, KilnValueError
from kiln.io import safetensors as plain
from kiln.shape import Size
from kiln.tensor import Tensor, wrap


def sample(d: dt.dtype, shape: tuple = (2, 3)) -> np.ndarray:
    a = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    return np.asarray(a + 1j * (a + 1) if d.is_complex else a).astype(d.np)


def tensor(a: np.ndarray) -> Tensor:
    return wrap(np.asarray(a))


def round_trip(obj, tmp_path):
    kiln.save(obj, tmp_path / "x.kiln")
    return kiln.load(tmp_path / "x.kiln")


@pytest.mark.parametrize("d", dt.ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 2)])
def test_every_dtype(d, shape, tmp_path):
    a = sample(d, shape)
    got = round_trip(tensor(a), tmp_path)
    assert got.dtype is d
    assert got.shape == a.shape
    np.testing.assert_array_equal(got.numpy(), a)
    got.numpy()[...] = 0  # the memory is the tensor's own


def test_nested_containers_come_back_equal(tmp_path):
    obj = {
        "a": [1, 2.5, -0.0, float("inf"), True, None, "text", 2**80, 1 + 2j],
        "b": (dt.bfloat16, Size((2, 3)), kiln.device("cpu"), (), [], {}),
        3: OrderedDict([(1.5, "x"), (None, "y"), ((1, 2), "z"), (True, "t")]),
    }
    got = round_trip(obj, tmp_path)
    assert got == obj
    assert type(got[3]) is OrderedDict
    assert type(got["b"][1]) is Size
    assert str(got["a"][2]) == "-0.0"
    assert [type(k) for k in got[3]] == [float, type(None), tuple, bool]


def test_nan_comes_back(tmp_path):
    assert np.isnan(round_trip(float("nan"), tmp_path))


def test_arrays_and_strided_tensors(tmp_path):
    a = np.arange(12.0).reshape(3, 4)
    got = round_trip({"t": tensor(a.T), "n": a[:, ::2]}, tmp_path)
    np.testing.assert_array_equal(got["t"].numpy(), a.T)
    assert isinstance(got["n"], np.ndarray)
    np.testing.assert_array_equal(got["n"], a[:, ::2])


def test_requires_grad_is_kept_for_leaves(tmp_path):
    x = tensor(np.ones(3))
    x.requires_grad = True
    got = round_trip([x, x * 2], tmp_path)
    assert got[0].requires_grad
    assert not got[1].requires_grad


def test_tied_tensors_stay_tied_and_are_stored_once(tmp_path):
    x = tensor(np.zeros(10_000))
    got = round_trip({"a": x, "b": x.detach(), "c": x.clone()}, tmp_path)
    assert (tmp_path / "x.kiln").stat().st_size < 200_000
    got["a"].numpy()[0] = 7
    assert got["b"][0].item() == 7
    assert got["c"][0].item() == 0


def test_names_are_readable_by_any_safetensors_reader(tmp_path):
    kiln.save(
        {"model": {"0.weight": tensor(np.ones((2, 2)))}, "m": [tensor(np.zeros(1))]}, tmp_path / "x"
    )
    assert set(safetensors.numpy.load_file(tmp_path / "x")) == {"model.0.weight", "m.0"}


def test_names_that_collide_are_kept_apart(tmp_path):
    got = round_trip({"a.b": tensor(np.zeros(1)), "a": {"b": tensor(np.ones(1))}}, tmp_path)
    assert got["a.b"].item() == 0
    assert got["a"]["b"].item() == 1


def test_file_objects():
    f = io.BytesIO()
    kiln.save({"x": tensor(np.ones(2))}, f)
    f.seek(0)
    assert kiln.load(f)["x"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        ({"optimizer": {"hook": lambda: 0}}, "obj['optimizer']['hook']"),
        ([1, {2, 3}], "obj[1]"),
        ({"a": (object(),)}, "obj['a'][0]"),
        ({"a": b"bytes"}, "obj['a']"),
        ({frozenset(): 1}, "obj has a key"),
    ],
)
def test_objects_that_cannot_be_saved_are_named(obj, path, tmp_path):
    with pytest.raises(KilnTypeError, match="save") as e:
        kiln.save(obj, tmp_path / "x")
    assert path in str(e.value)
    assert len(str(e.value).splitlines()) == 3
    assert not list(tmp_path.iterdir())


def test_an_object_that_contains_itself_is_refused(tmp_path):
    x: list = []
    x.append(x)
    with pytest.raises(KilnValueError, match="contains itself"):
        kiln.save(x, tmp_path / "x")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    kiln.save({"a": 1}, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KilnError, match="No space left"):
        kiln.save({"a": 2}, path)
    assert kiln.load(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="can't write") as e:
        kiln.save({}, tmp_path / "no" / "x")
    assert isinstance(e.value, KilnError)
    with pytest.raises(FileNotFoundError, match="no such file"):
        kiln.load(tmp_path / "x")
    with pytest.raises(KilnError, match="can't read"):
        kiln.load(tmp_path)
    with pytest.raises(TypeError, match="path"):
        kiln.load(3)


def content(tmp_path) -> bytes:
    kiln.save({"w": tensor(np.arange(100.0)), "n": [1, (2, "three")]}, tmp_path / "good")
    return (tmp_path / "good").read_bytes()


def test_truncated_files_are_refused(tmp_path):
    data = content(tmp_path)
    for n in [0, 1, 7, 8, 9, 50, len(data) // 2, len(data) - 1]:
        (tmp_path / "bad").write_bytes(data[:n])
        with pytest.raises(KilnError, match="truncated or corrupt") as e:
            kiln.load(tmp_path / "bad")
        assert len(str(e.value).splitlines()) == 3


def test_corrupt_bytes_give_an_error_or_a_value_but_never_anything_else(tmp_path):
    data = content(tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(400):
        bad = bytearray(data)
        for i in rng.integers(0, min(len(bad), 400), rng.integers(1, 4)):
            bad[i] = rng.integers(0, 256)
        with contextlib.suppress(KilnError):
            kiln.load(io.BytesIO(bytes(bad)))


@pytest.mark.parametrize(
    "tree",
    [
        {"tensor": {"name": "missing"}}, {"tensor": 3}, {"dict": 3}, {"dict": [[1]]}, {"dtype": "int3"},
        {"spam": 1}, {}, {"complex": []}, {"size": None}, {"dict": [[[1], 2]]}, {"float": "x"},
        {"tensor": {"name": "w", "dtype": "complex128"}},
    ],
)  # fmt: skip
def test_a_corrupt_description_is_refused(tree):
    text = json.dumps({"version": 1, "tree": tree})
    data = safetensors.numpy.save({"w": np.zeros(3)}, {"kiln": text})
    with pytest.raises(KilnError, match="corrupt"):
        kiln.load(io.BytesIO(data))


def test_a_deeply_nested_description_is_refused():
    text = '{"version":1,"tree":' + "[" * 100_000 + "]" * 100_000 + "}"
    with pytest.raises(KilnError, match="corrupt"):
        kiln.load(io.BytesIO(safetensors.numpy.save({}, {"kiln": text})))


def test_newer_and_pickled_files_are_named():
    newer = safetensors.numpy.save({}, {"kiln": json.dumps({"version": 99, "tree": 1})})
    with pytest.raises(KilnError, match="newer version"):
        kiln.load(io.BytesIO(newer))
    with pytest.raises(KilnError, match="pickled"):
        kiln.load(io.BytesIO(pickle.dumps({"a": 1})))
    with pytest.raises(KilnError, match="zip archive"):
        kiln.load(io.BytesIO(b"PK\x03\x04rest"))


def test_plain_safetensors_both_ways(tmp_path):
    a = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.array(True)}
    safetensors.numpy.save_file(a, tmp_path / "theirs")
    got = plain.load_file(tmp_path / "theirs")
    assert got["x"].dtype is dt.float32
    np.testing.assert_array_equal(got["x"].numpy(), a["x"])
    assert kiln.load(tmp_path / "theirs")["y"].item() is True
    half = np.ones(3, ml_dtypes.bfloat16)
    plain.save_file(
        {"h": tensor(half), "t": tensor(a["x"].T)}, tmp_path / "ours", {"note": "hello"}
    )
    back = plain.load_file(tmp_path / "ours")
    assert back["h"].dtype is dt.bfloat16
    np.testing.assert_array_equal(back["t"].numpy(), a["x"].T)
    with safetensors.safe_open(tmp_path / "ours", "np") as f:
        assert f.metadata() == {"note": "hello"}
    with pytest.raises(TypeError, match="by name"):
        plain.save_file({"a": 3}, tmp_path / "no")
    with pytest.raises(TypeError, match="by name"):
        plain.save_file([tensor(half)], tmp_path / "no")
    with pytest.raises(TypeError, match="can't hold"):
        plain.save_file({"c": tensor(np.ones(2, np.complex128))}, tmp_path / "no")
