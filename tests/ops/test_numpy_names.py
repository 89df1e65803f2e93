"""`axis` and `keepdims`, by which PyTorch takes `dim` and `keepdim` as well."""

from __future__ import annotations

import inspect

import pytest

import kiln
from kiln.ops.registry import FUNCTIONS, METHODS


def test_functions_take_numpys_names_of_arguments():
    x, at = kiln.arange(12.0).reshape(3, 4), kiln.tensor([[0, 1, 2, 0]])
    for given, plain in (
        (x.unsqueeze(axis=1), x.unsqueeze(1)),
        (kiln.stack([x, x], axis=2), kiln.stack([x, x], 2)),
        (x.cumsum(axis=0), x.cumsum(0)),
        (kiln.gather(x, axis=0, index=at), kiln.gather(x, 0, at)),
        (x.scatter(axis=0, index=at, value=9.0), x.scatter(0, at, 9.0)),
        (x.narrow(axis=1, start=1, length=2), x.narrow(1, 1, 2)),
        (x.median(axis=1, keepdims=True)[0], x.median(1, True)[0]),
        (kiln.fft.fft(x, axis=0), kiln.fft.fft(x, dim=0)),
        (x.sort(axis=0, descending=True)[0], x.sort(0, True)[0]),
        (kiln.index_select(x, axis=1, index=at[0]), kiln.index_select(x, 1, at[0])),
        (kiln.linalg.cross(x[:, :3], x[:, 1:], axis=1), kiln.linalg.cross(x[:, :3], x[:, 1:])),
        (x.clone().index_fill_(axis=0, index=at[0, :2], value=0), x.index_fill(0, at[0, :2], 0)),
    ):
        assert kiln.equal(given, plain)
    with pytest.raises(TypeError, match='missing 1 required positional arguments: "dim"'):
        x.unsqueeze()
    with pytest.raises(TypeError, match='"length"'):
        x.narrow(0, 1)
    with pytest.raises(TypeError, match="two values for dim"):
        kiln.unsqueeze(x, 0, axis=1)
    with pytest.raises(TypeError, match="index"):
        kiln.gather(x, 0)


def test_every_function_with_a_dim_takes_axis():
    for names in (FUNCTIONS, METHODS):
        for name, fn in names.items():
            params = inspect.signature(fn).parameters
            if "dim" in params and not name.startswith("nn.functional."):
                assert {"axis", "names"} & set(params), name
