"""Where there is no such device, what names one is refused, by every function that makes tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import kiln

X = kiln.zeros(2)
SMALL: dict[str, tuple[Any, ...]] = {
    "arange": (3,), "as_tensor": ([1.0],), "asarray": ([1.0],), "empty_permuted": ((2,), (0,)),
    "empty_strided": ((2,), (1,)), "eye": (2,), "full": ((2,), 1.0), "full_like": (X, 1.0),
    "linspace": (0, 1, 2), "logspace": (0, 1, 2), "normal": (0.0, 1.0, (2,)), "randint": (3, (2,)),
    "randint_like": (X, 3), "randperm": (3,), "scalar_tensor": (1.0,), "tensor": ([1.0],), "tril_indices": (2, 2),
    "triu_indices": (2, 2), "fftfreq": (4,), "rfftfreq": (4,), "empty": (2,), "zeros": (2,), "ones": (2,),
    "rand": (2,), "randn": (2,), "general_cosine": (4,), "range": (0, 3),
}  # fmt: skip
NAMED = {"general_cosine": {"a": [0.5, 0.5]}}
OTHER = {"from_file", "sparse_compressed_tensor", "sparse_coo_tensor"}


def makers() -> list[Any]:
    """Functions of the main namespaces that take a device."""
    found = []
    for space in (kiln, kiln.fft, kiln.signal.windows):
        for name in dir(space):
            fn = getattr(space, name)
            if name[0] == "_" or name in OTHER or not inspect.isfunction(fn):
                continue
            try:
                takes = inspect.signature(fn).parameters
            except ValueError:
                continue
            if "device" in takes and "requires_grad" in takes:
                args = SMALL.get(name, (X,) if name.endswith("_like") else (4,))
                found.append(pytest.param(fn, args, NAMED.get(name, {}), id=name))
    return found


@pytest.mark.filterwarnings("ignore:range is deprecated")
@pytest.mark.parametrize(("make", "args", "named"), makers())
def test_makers_refuse_a_device_that_is_not_there(make: Callable, args: tuple, named: dict):
    for device in ("cuda", "cuda:0", 0):
        with pytest.raises(RuntimeError, match="device"):
            make(*args, **named, device=device)
    make(*args, **named, device="cpu")


def test_a_number_is_that_of_an_accelerator():
    for use in (kiln.device, X.to, kiln.nn.Linear(2, 2).to, lambda d: X.new_zeros(2, device=d)):
        with pytest.raises(RuntimeError, match="a number is that of an accelerator") as failed:
            use(0)
        assert not isinstance(failed.value, TypeError)
