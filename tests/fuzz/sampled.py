"""Steps of random programs that call any public op the way one of its samples in the registry does.

Attributes, shapes and the domain of the operands are the sample's; the first operand varies with what the program
has computed, the others are weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import kiln
from kiln.ops import import_all
from kiln.ops.registry import COMPOSITIONS, FUNCTIONS, METHODS, REGISTRY, Sample

from .registered import finite
from .values import Values

import_all()

LEFT_OUT = {"random", "random_parameter", "control"}  # families
RANDOM = {
    "_sample_dirichlet", "_standard_gamma", "bernoulli", "binomial", "nn.functional.gumbel_softmax", "poisson",
}  # fmt: skip
BRANCHES = {"linalg.lstsq"}  # by value, in which a program's notes on its steps would differ
WRONG = {"as_strided_scatter"}  # PyTorch's gradient (docs/coverage.md)
READS = {
    "argwhere", "bincount", "masked_select", "nn.functional.ctc_loss", "nn.functional.one_hot", "nonzero", "repeat_interleave", "tensor_split", "unique",
    "unique_consecutive",
}  # fmt: skip
"""What reads values: a capture refuses it."""
NO_GRADIENT = {"native_group_norm", *(name for name in REGISTRY if "bessel" in name)}
"""What PyTorch has no derivative of, without saying so."""


def _path(o: Any) -> str:
    room = "nn.functional." if o.namespace == "F" else f"{o.namespace}." * bool(o.namespace)
    return room + o.name


ENTRIES: dict[str, Any] = {
    path: o
    for o in (*REGISTRY.values(), *COMPOSITIONS.values())
    if o.samples and o.family not in LEFT_OUT and not getattr(o, "private", False) and (path := _path(o)) in FUNCTIONS and path not in RANDOM | WRONG | BRANCHES
}  # fmt: skip
PATHS = sorted(ENTRIES)


@cache
def _good(path: str) -> list[Sample]:
    return [s for s in ENTRIES[path].samples() if s.error is None]


def sampled(v: Values, x: Any) -> Any:
    """A function, its method, or its forms in place and with `out=`."""
    q = v.q
    path = q.choice(PATHS)
    o, name = ENTRIES[path], path.rsplit(".", 1)[-1]
    v.by_value = path in READS
    good = _good(path)
    k = q.randrange(len(good))
    v.note = f" {path}:{k}"
    operands = _Operands(v, x, path, k)
    args, kwargs = operands.of(good[k].args), operands.of(good[k].kwargs)
    form = q.choice(["function"] * 5 + ["method", "in place", "out"])
    first = args[0] if args and isinstance(args[0], kiln.Tensor) else None
    if form == "method" and first is not None and path == name and hasattr(first, name):
        y = getattr(first, name)(*args[1:], **kwargs)
    elif form == "in place" and first is not None and path + "_" in METHODS:
        y = first.clone()
        getattr(y, name + "_")(*args[1:], **kwargs)
    elif form == "out" and o.out is True and first is not None and not _layer(path):
        y = first.new_empty(0)
        with kiln.no_grad():
            _found(path)(*args, out=y, **kwargs)
    else:
        y = _found(path)(*args, **kwargs)
    tensors = [t.detach() if name in NO_GRADIENT else t for t in _leaves(y)]
    if not tensors:
        raise ValueError("no tensor")
    return finite(v, q.choice(tensors))


def _layer(path: str) -> bool:
    return f"nn.functional.{path}" in FUNCTIONS


def _found(path: str) -> Callable:
    """torch.max_pool1d takes less than its namesake, which the samples are of; `expand` is a method alone."""
    path = f"nn.functional.{path}" if _layer(path) else path
    found: Any = kiln
    for part in path.split("."):
        found = getattr(found, part, None) or getattr(kiln.Tensor, part)
    return found


def _leaves(y: Any) -> Any:
    if isinstance(y, kiln.Tensor):
        yield y
    elif isinstance(y, list | tuple):
        for part in y:
            yield from _leaves(part)


class _Operands:
    """A sample's arguments as values of the program, its floating numbers in a dtype of the seed's choice."""

    def __init__(self, v: Values, x: Any, path: str, k: int):
        self.v, self.x, self.key = v, x, (path, k)
        # of matrices of half floats PyTorch decomposes the empty ones
        halves = (
            [] if f"linalg.{path.removeprefix('linalg.')}" in FUNCTIONS else ["bfloat16", "float16"]
        )
        self.dtype = v.q.choice(["float32"] * 5 + ["float64"] * 2 + halves)
        self.varies = v.q.random() < 0.8
        # what order a capture has an operand in is its own choice; some of PyTorch's take few
        self.ordered = path in ("conv_tbc", "kron") or getattr(ENTRIES[path], "layout", False)

    def of(self, given: Any) -> Any:
        """A part of the arguments."""
        if isinstance(given, np.ndarray | np.generic):
            return self._tensor(np.asarray(given))
        if type(given) in (list, tuple):
            return type(given)(map(self.of, given))
        if type(given) is dict:
            return {k: self.of(a) for k, a in given.items()}
        if isinstance(given, tuple) and not hasattr(given, "_fields"):  # a size
            return tuple(given)
        if type(given).__name__ == "dtype":
            return getattr(kiln, given.name)
        return given

    def _tensor(self, a: np.ndarray) -> Any:
        v, name = self.v, None
        if a.dtype == np.float64:
            name = self.dtype
        elif a.dtype == np.complex128:
            name = "complex128" if self.dtype == "float64" else "complex64"
        swapped = a.ndim > 1 and not self.ordered and v.q.random() < 0.2

        def make(r: np.random.Generator) -> Any:
            t = kiln.tensor(np.ascontiguousarray(a.swapaxes(-1, -2) if swapped else a).reshape(
                (*a.shape[:-2], a.shape[-1], a.shape[-2]) if swapped else a.shape))  # fmt: skip
            t = t if name is None else t.to(getattr(kiln, name))
            return t.transpose(-1, -2) if swapped else t

        t = v._kept(make, "sample", *self.key, name, swapped)
        if self.varies and name is not None:
            # no farther than most domains reach, by one number for all where the op asks for symmetry and the like
            self.varies = False
            shape = a.shape if v.q.random() < 0.5 else ()
            t = t * (1 + 0.03 * v.filled(self.x, shape).nan_to_num().tanh()).to(t.real.dtype)
        return t
