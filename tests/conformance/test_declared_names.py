"""The names of PyTorch's namespaces, and `out=` wherever PyTorch takes it."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers

LEFT_OUT = {"Tensor", "MaskedTensor", "as_masked_tensor", "is_masked_tensor", "masked_tensor"}


@pytest.mark.parametrize("room", ["special", "fft", "masked", "signal.windows"])
def test_every_name_of_a_namespace_is_there(room):
    theirs = set(importlib.import_module(f"torch.{room}").__all__) - LEFT_OUT
    ours = importlib.import_module(f"kiln.{room}")
    assert sorted(n for n in theirs if not hasattr(ours, n)) == []


def takes_out(fn: Any) -> bool:
    fn = getattr(fn, "plain", fn)
    return hasattr(fn, "__wrapped__") or "out" in inspect.signature(fn).parameters


def test_out_is_taken_where_pytorch_takes_it():
    stub = Path(torch.__path__[0], "_C", "_VariableFunctions.pyi").read_text()
    names = set(re.findall(r"^def ([a-z]\w*)\((?:[^)]|\n)*?\bout: ", stub, re.M))
    assert len(names) > 200
    assert sorted(n for n in names if hasattr(kiln, n) and not takes_out(getattr(kiln, n))) == []


def test_out_is_where_the_result_goes():
    x = kiln.tensor([[3.0, 1.0], [2.0, 4.0]])
    out = kiln.empty(2, 2)
    assert kiln.hstack([x[:, :1], x[:, 1:]], out=out) is out
    assert kiln.equal(out, x)
    values, indices = kiln.empty(2), kiln.empty(2, dtype=kiln.int64)
    assert kiln.nanmedian(x, 1, out=(values, indices)) == (values, indices)
    assert values.tolist() == [1.0, 2.0]
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        kiln.clamp_min(x.requires_grad_(), 2.0, out=out)
