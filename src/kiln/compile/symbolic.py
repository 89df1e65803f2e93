"""Symbolic memory: what tensors hold in place of arrays while a function is captured."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dtypes as dt
from ..errors import CaptureError
from ..formats import images_order, order, preserve_format, result_order
from ..graph.node import Node, make
from ..shape import contiguous_strides, dummy_array, numel
from ..sharing import root_of
from .inputs import Input

if TYPE_CHECKING:
    from .capture import Capture


class Storage:
    """One piece of memory: the node of its value now, and the input that it came from, if any."""

    __slots__ = ("cache", "origin", "readonly", "value", "written")

    def __init__(self, value: Node, origin: Input | None = None, readonly: bool = False):
        self.value, self.origin = value, origin
        self.written, self.readonly = False, readonly
        self.cache: dict[Any, Node] = {}


class SymArray:
    """A symbolic payload: what a Tensor holds in place of an array while a function is captured."""

    __slots__ = ("capture", "chain", "dtype", "layout", "shape", "storage")
    tensor = None  # that this stands for: none, other than under vmap

    def __init__(
        self,
        capture: Capture,
        storage: Storage,
        chain: tuple,
        shape: tuple,
        dtype: Any,
        layout: Any = None,
    ):
        self.capture, self.storage, self.chain = capture, storage, chain
        self.shape, self.dtype = tuple(shape), dtype
        self.layout = (
            layout  # a dummy array of one-byte elements with this view's strides; None: contiguous
        )

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Any:
        return numel(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def node(self) -> Node:
        """The node of this view's present value."""
        s = self.storage
        if not self.chain:
            return s.value
        found = s.cache.get(self.chain)
        if found is None:
            found = s.value
            for name, rest in self.chain:
                found = make(name, (found, *rest), self.capture.where())
            s.cache[self.chain] = found
        return found

    def copy(self) -> SymArray:
        """The present value in memory of its own."""
        return self.capture._fresh(self.node())

    def strided(self) -> np.ndarray:
        """The layout as a dummy array; its strides count elements."""
        if self.layout is None:
            self.layout = dummy_array(self.shape, contiguous_strides(self.shape))
        return self.layout

    def __array__(self, *_: Any, **__: Any) -> Any:
        """NumPy asks for the value, in eager code that was handed a captured tensor."""
        self.refuse("use")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and self.capture.done:
            self.refuse("use")
        raise AttributeError(name)

    def text(self, prefix: str) -> str:
        """How a tensor that holds this prints."""
        return (
            f"{prefix}<captured {dt.OF_NUMPY[self.dtype].abbr}[{', '.join(map(str, self.shape))}]>)"
        )

    def host(self, why: str) -> Any:
        """The value for Python: there is none."""
        self.refuse(why)

    def refuse(self, why: str) -> None:
        """Raise for a read that needs the value now."""
        if self.capture.done:
            raise CaptureError(
                "compile", "this tensor was made inside a compiled function and has no value outside it",
                f"{dt.OF_NUMPY[self.dtype].abbr}{list(self.shape)}", "return it from the function instead of storing it",
            )  # fmt: skip
        self.capture.refuse(why)


def layout_of(a: np.ndarray) -> Any:
    """The dummy array with the strides of an array; None where it is contiguous."""
    if a.flags.c_contiguous or any(s % a.itemsize for s in a.strides):
        return None
    return dummy_array(a.shape, [s // a.itemsize for s in a.strides])


def result_layout(lies: str, shape: tuple, operands: list[SymArray], format: Any = None) -> Any:
    """The layout in which eager mode gives a result: that of a format, or what its operands say."""
    if format is None and (lies == "rows" or all(x.layout is None for x in operands)):
        return None
    dummies = [x.strided() for x in operands]
    if format is not None:
        dims = order("clone", format, shape, dummies[0].strides)
    elif lies == "operands":
        dims = result_order(shape, dummies)
    else:
        dims = images_order(lies, len(shape), dummies if lies == "joined" else dummies[:2])
    if dims is None:
        return None
    steps = contiguous_strides([shape[d] for d in dims])
    found = [steps[dims.index(i)] for i in range(len(shape))]
    layout = dummy_array(shape, found)
    return None if layout.flags.c_contiguous else layout


def dense_order(a: SymArray) -> tuple[int, ...] | None:
    """The dimensions from outermost to innermost of a payload that is dense, but not row-major."""
    if a.layout is None or a.layout.flags.c_contiguous:
        return None
    dims = order("compile", preserve_format, a.shape, a.layout.strides)
    return dims if dims is not None and a.layout.transpose(dims).flags.c_contiguous else None


def may_overlap(views: list[SymArray]) -> bool:
    """Whether views of one storage may have elements in common: those of layouts unknown may."""
    for a, b in combinations([v.layout for v in views], 2):
        if a is None or b is None or root_of(a) is not root_of(b) or np.may_share_memory(a, b):
            return True
    return False
