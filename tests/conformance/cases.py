"""The registry as test cases: every op and composition with its samples."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any

import numpy as np

import kiln
import kiln.masked
import kiln.nn.functional
import kiln.ops.copies
import kiln.ops.fake_quantize
import kiln.ops.likelihood
import kiln.ops.native
import kiln.signal
import kiln.special
from kiln import dtypes as dt
from kiln.ops.registry import COMPOSITIONS, REGISTRY, Op, Sample
from kiln.tensor import CAPTURING, Tensor, wrap


@dataclasses.dataclass(frozen=True)
class Case:
    """An op or a composition, the function that calls it, and its samples."""

    name: str
    fn: Callable
    op: Op | None
    samples: tuple[Sample, ...]
    namespace: str = ""
    torch_name: str | None = None

    @property
    def id(self) -> str:
        """The name; a composition that shares it with the op behind it is told apart."""
        return f"{self.name}-public" if self.op is None and self.name in REGISTRY else self.name

    @property
    def good(self) -> list[tuple[int, Sample]]:
        return [(i, s) for i, s in enumerate(self.samples) if s.error is None]

    @property
    def bad(self) -> list[tuple[int, Sample]]:
        return [(i, s) for i, s in enumerate(self.samples) if s.error is not None]

    @property
    def private(self) -> bool:
        return self.op is not None and self.op.private

    @property
    def random(self) -> bool:
        return self.op is not None and self.op.family == "random"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it; random ops draw the same numbers in every call."""
        if self.random:
            kiln.manual_seed(0)
        with warnings.catch_warnings():  # advice on arguments, which is tested where it belongs
            warnings.simplefilter("ignore", UserWarning)
            return self.fn(*args, **kwargs)


def _samples(maker: Callable[[], Iterator[Sample]] | None) -> tuple[Sample, ...]:
    return tuple(maker()) if maker is not None else ()


# ops with Graphs among their arguments are called by kiln.scan and its like (tests/compile/test_control.py)
OPS = [
    Case(o.name, o.fn, o, _samples(o.samples), o.namespace, o.torch_name)
    for o in REGISTRY.values()
    if o.family != "control"
]
COMPOSED = [
    Case(c.name, c.fn, None, _samples(c.samples), c.namespace, c.torch_name)
    for c in COMPOSITIONS.values()
]
ALL = OPS + COMPOSED


def convert(x: Any, array: Callable[[np.ndarray], Any]) -> Any:
    """`x` with every array in it replaced, in lists, tuples and dicts too."""
    if isinstance(x, np.ndarray | np.generic):
        return array(np.asarray(x))
    if isinstance(x, list | tuple) and not hasattr(x, "_fields") and type(x) in (list, tuple):
        return type(x)(convert(y, array) for y in x)
    if isinstance(x, dict):
        return {k: convert(v, array) for k, v in x.items()}
    return x


def tensors(sample: Sample, array: Callable[[np.ndarray], Any] = lambda a: a) -> tuple[tuple, dict]:
    """The sample's call with tensors on copies of its arrays, strides kept."""

    def one(a: np.ndarray) -> Tensor:
        a = array(a)
        return wrap(a.copy(order="K") if a.flags.c_contiguous else strided_copy(a))

    return convert(sample.args, one), convert(sample.kwargs, one)


def strided_copy(a: np.ndarray) -> np.ndarray:
    """The same values in memory of its own that is not contiguous, where there are any to spread."""
    if a.ndim == 0:
        return a.copy()
    wide = np.empty((*a.shape[:-1], a.shape[-1] * 2 + 1), a.dtype)
    out = wide[..., : a.shape[-1] * 2 : 2]
    out[...] = a
    return out


def leaves(x: Any) -> list[Tensor]:
    """The tensors in nested arguments or results, in order."""
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, list | tuple):
        return [t for y in x for t in leaves(y)]
    if isinstance(x, dict):
        return [t for y in x.values() for t in leaves(y)]
    return []


def cast(a: np.ndarray, d: dt.dtype) -> np.ndarray:
    """A floating array in another dtype; indices, masks and other integers stay as they are."""
    if a.dtype != np.float64:
        return a
    with np.errstate(all="ignore"):
        return (a > 0) if d is dt.bool_ else a.astype(d.np)


class _Bound(BaseException):
    def __init__(self, args: tuple):
        self.bound = args


class _Binder:
    """Stands where a capture would, to see an op's arguments as the shape rule gets them."""

    def call(self, op: Op, args: tuple) -> Any:
        raise _Bound(args)


def bind(op: Op, args: tuple, kwargs: dict) -> tuple:
    """A call's arguments in the order of the op's parameters."""
    CAPTURING[get_ident()] = _Binder()
    try:
        op.fn(*args, **kwargs)
    except _Bound as b:
        return b.bound
    finally:
        del CAPTURING[get_ident()]
    raise AssertionError(f"{op.name} did not reach dispatch")


def describe_sample(s: Sample) -> str:
    """A sample in a line."""

    def short(x: Any) -> str:
        if isinstance(x, np.ndarray | np.generic):
            return f"{x.dtype.name}{list(x.shape)}"
        if isinstance(x, list | tuple):
            return "(" + ", ".join(map(short, x)) + ")"
        return repr(x)

    return ", ".join([*map(short, s.args), *(f"{k}={short(v)}" for k, v in s.kwargs.items())])


class Report:
    """Failures of the samples of one op, told together."""

    def __init__(self, case: Case):
        self.case, self.lines = case, []

    def add(self, i: int, sample: Sample, message: Any) -> None:
        text = str(message).strip() or type(message).__name__
        self.lines.append(f"{self.case.name} sample {i} ({describe_sample(sample)}): {text}")

    def finish(self) -> None:
        if self.lines:
            head = self.lines[:12]
            more = len(self.lines) - len(head)
            raise AssertionError("\n\n".join(head) + (f"\n\n… and {more} more" if more else ""))


def same(got: Any, want: Any, rtol: float = 0.0, atol: float = 0.0) -> str:
    """Empty where two results agree in structure, dtype, shape and values, else what differs."""
    a, b = leaves(got), leaves(want)
    if len(a) != len(b):
        return f"{len(a)} tensors instead of {len(b)}"
    for x, y in zip(a, b, strict=True):
        if x.dtype is not y.dtype or x.shape != y.shape:
            return f"{x.dtype.name}{list(x.shape)} instead of {y.dtype.name}{list(y.shape)}"
        u, v = numbers(x._a), numbers(y._a)
        if not np.allclose(u, v, rtol, atol, equal_nan=True):
            return f"values differ:\n{u}\nnot\n{v}"
    if not a and not isinstance(got, Tensor) and type(got) in (bool, int, float) and got != want:
        return f"{got} instead of {want}"
    return ""


def numbers(a: np.ndarray) -> np.ndarray:
    """An array in a dtype that NumPy compares."""
    return a.astype(np.float64) if a.dtype in (dt.float16.np, dt.bfloat16.np) else a
