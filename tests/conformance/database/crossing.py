"""From PyTorch to Kiln: arguments, and the Python functions that entries of the database call.

What crosses keeps its strides, and memory that two tensors share is shared on the other side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch.overrides import TorchFunctionMode, resolve_name

RAISED = "raised by the namespace under test"  # not by PyTorch on the way there


class Missing(Exception):
    """A name that the database uses and Kiln has not."""


class Double(torch.Tensor):
    """Stands for a Kiln tensor, its `value`, where PyTorch has to see a tensor."""

    value: Any


class Target:
    """A namespace with PyTorch's names: `kiln`, or what stands for it in a test."""

    def __init__(self, module: Any):
        self.module = module

    def find(self, path: str) -> Any:
        """What a dotted name stands for; `Missing` where nothing does."""
        where = self.module
        for part in path.split("."):
            try:
                where = getattr(where, part)
            except AttributeError:
                raise Missing(path) from None
        return where

    def is_tensor(self, x: Any) -> bool:
        return isinstance(x, self.module.Tensor)

    def function(self, fn: Callable) -> Callable:
        """A Python function that calls PyTorch, as one that calls this namespace.

        PyTorch's own protocol for that: under a mode each of its functions asks first.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            with _Redirected(self):
                return self.bare(fn(*self.doubled(args), **self.doubled(kwargs)))

        return call

    def doubled(self, x: Any) -> Any:
        """`x` as PyTorch may have it: a double for each tensor, PyTorch's dtypes and sizes."""
        if self.is_tensor(x):
            double = torch.Tensor._make_subclass(Double, torch.empty(0))
            double.value = x
            return double
        if type(x) is self.module.Size:
            return torch.Size(x)
        if isinstance(x, self.module.dtype):
            return getattr(torch, x.name)
        if type(x).__name__ in ("str", "memory_format", "layout"):
            known = getattr(torch, str(x).rpartition(".")[2], None)
            return known if isinstance(known, torch.memory_format | torch.layout) else x
        return mapped(self.doubled, x)

    def bare(self, x: Any) -> Any:
        """`x` with tensors again for their doubles."""
        return x.value if isinstance(x, Double) else mapped(self.bare, x)


class _Redirected(TorchFunctionMode):
    """Calls of PyTorch's functions become calls of the target's functions of the same names."""

    def __init__(self, target: Target):
        super().__init__()
        self.target = target

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        target = self.target
        name = resolve_name(func) or str(func)
        if not name.startswith("torch."):
            raise Missing(name)
        path = name.removeprefix("torch.").removeprefix("functional.")
        crossing = Crossing(target)
        args, kwargs = crossing(args), crossing(kwargs or {})
        field = path.removeprefix("Tensor.").removesuffix(".__get__")
        if field != path and path.endswith(".__get__"):
            if not hasattr(args[0], field):
                raise Missing(f"Tensor.{field}")
            return target.doubled(getattr(args[0], field))
        fn = target.find(path)
        try:
            return target.doubled(fn(*args, **kwargs))
        except Exception as e:
            e.add_note(RAISED)
            raise


def mapped(fn: Callable, x: Any) -> Any:
    """`x` with `fn` applied to what its lists, tuples, dicts and slices hold."""
    if isinstance(x, tuple) and type(x) is not tuple and not isinstance(x, torch.Size):
        items = [fn(y) for y in x]  # named results, of which some take a sequence, others fields
        return type(x)(*items) if hasattr(x, "_fields") else tuple(items)
    if isinstance(x, list | tuple) and not isinstance(x, torch.Size):
        return type(x)(fn(y) for y in x)
    if isinstance(x, dict):
        return {k: fn(v) for k, v in x.items()}
    if isinstance(x, slice):
        return slice(fn(x.start), fn(x.stop), fn(x.step))
    return x


class Crossing:
    """The way of one call's arguments; what was taken across once is the same object again."""

    def __init__(self, target: Target):
        self.target = target
        self.tensors: dict[int, tuple[Any, Any]] = {}
        self._memory: dict[tuple, tuple[Any, np.ndarray]] = {}

    def __call__(self, x: Any) -> Any:
        target = self.target
        if isinstance(x, Double):
            return x.value
        if isinstance(x, torch.Tensor):
            if id(x) not in self.tensors:
                self.tensors[id(x)] = (x, self._tensor(x))
            return self.tensors[id(x)][1]
        if isinstance(x, torch.dtype | torch.layout | torch.memory_format):
            return target.find(str(x).removeprefix("torch."))
        if isinstance(x, torch.device):
            return str(x)
        if isinstance(x, torch.Size):
            return target.module.Size(x)
        if isinstance(x, torch.Generator):
            return target.find("Generator")().manual_seed(x.initial_seed())
        if callable(x) and not isinstance(x, type):
            return target.function(x)
        return mapped(self, x)

    def _tensor(self, x: torch.Tensor) -> Any:
        if x.layout is not torch.strided:
            return self._sparse(x)
        if x.device.type != "cpu" or x.ndim > 64:  # which NumPy hasn't got
            return self.target.find("empty")(tuple(x.shape), device=x.device.type)
        plain = x.detach().resolve_conj().resolve_neg()
        t = self.target.find("from_numpy")(self._array(plain))
        return t.requires_grad_() if x.requires_grad else t

    def _sparse(self, x: torch.Tensor) -> Any:
        smooth, x = x.requires_grad, x.detach()
        if x.layout is torch.sparse_coo:
            x = x.coalesce()
            make = self.target.find("sparse_coo_tensor")
            t = make(self(x.indices()), self(x.values()), tuple(x.shape))
        else:
            by_row = x.layout in (torch.sparse_csr, torch.sparse_bsr)
            rows, columns = ("crow_indices", "col_indices"), ("ccol_indices", "row_indices")
            indices = [getattr(x, name)() for name in (rows if by_row else columns)]
            make = self.target.find("sparse_compressed_tensor")
            t = make(*map(self, (*indices, x.values())), tuple(x.shape), layout=self(x.layout))
        return t.requires_grad_() if smooth else t

    def _array(self, x: torch.Tensor) -> np.ndarray:
        """A copy of a tensor's memory and the tensor's view of it."""
        if x.numel() == 0:
            return as_array(x).copy()
        home = x.untyped_storage().data_ptr(), x.dtype
        if home not in self._memory:
            whole = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
            self._memory[home] = (whole, as_array(whole).copy())  # `whole` keeps the address taken
        memory = self._memory[home][1]
        strides = [s * memory.itemsize for s in x.stride()]
        start = x.storage_offset() * memory.itemsize
        try:
            a = np.ndarray(x.shape, memory.dtype, memory, start, strides)
        except ValueError:
            raise Missing("tensors whose memory is too small for them") from None
        if any(n > 1 and s == 0 for n, s in zip(x.shape, strides, strict=True)):
            a.flags.writeable = False  # as what `expand` gives
        return a


def as_array(x: torch.Tensor) -> np.ndarray:
    """A dense tensor's memory as NumPy sees it."""
    if x.dtype is torch.bfloat16:
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()
