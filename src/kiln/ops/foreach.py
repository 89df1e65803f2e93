"""Functions of lists of tensors, `_foreach_add` and its like, which optimizers written for PyTorch call.

Each is the function of one tensor for every tensor of the list: a tuple of results, or in place (`_foreach_add_`)
the list itself. Further operands are a number, a tensor of one number, or a list with one for each tensor.
Loaded when first used. https://docs.pytorch.org/docs/stable/generated/torch._foreach_abs.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import KilnError, KilnTypeError, describe
from ..tensor import Tensor
from .registry import FUNCTIONS

Tensors = Sequence[Tensor]


def _checked(name: str, tensors: Any) -> Tensors:
    if not isinstance(tensors, list | tuple) or not all(isinstance(t, Tensor) for t in tensors):
        raise KilnTypeError(
            name, "takes a list of tensors", describe(tensors), "put the tensors in a list"
        )
    if not tensors:
        raise KilnError(name, "Tensor list must have at least one tensor.", "[]", "leave out the call")  # fmt: skip
    return tensors


def _each(name: str, value: Any, tensors: Tensors) -> Sequence[Any]:
    """One operand for each tensor, of a value for all or of as many values."""
    if isinstance(value, list | tuple):
        if len(value) != len(tensors):
            raise KilnError(
                name, f"Tensor lists must have the same number of tensors, got {len(tensors)} and {len(value)}",
                describe(value), "give one for each tensor",
            )  # fmt: skip
        return value
    if isinstance(value, Tensor) and value.dim():
        raise KilnError(
            name, f"scalar tensor expected to be 0 dim but it has {value.dim()} dimensions and {value.numel()} elements.",
            describe(value), "give a list with one tensor for each",
        )  # fmt: skip
    if not isinstance(value, Tensor | int | float | complex):
        raise KilnTypeError(name, "an operand is a number, a tensor or a list", describe(value), "")
    return [value] * len(tensors)


def _pair(name: str, of: str, count: int) -> tuple[Callable, Callable]:
    """The function of lists of a function of one tensor and `count` operands, and its form in place."""
    function, method = FUNCTIONS[of], getattr(Tensor, of + "_")

    def out_of_place(self: Tensors, *operands: Any, **options: Any) -> tuple[Tensor, ...]:
        return tuple(function(t, *o, **options) for t, o in _rows(name, self, operands, count))

    def in_place(self: Tensors, *operands: Any, **options: Any) -> Tensors:
        for t, o in _rows(name + "_", self, operands, count):
            method(t, *o, **options)
        return self

    out_of_place.__name__, in_place.__name__ = name, name + "_"
    out_of_place.__doc__ = f"`kiln.{of}` of each tensor of a list."
    in_place.__doc__ = f"`Tensor.{of}_` of each tensor of a list: the list."
    return out_of_place, in_place


def _rows(
    name: str, tensors: Any, operands: Sequence[Any], count: int
) -> list[tuple[Tensor, tuple]]:
    if len(operands) != count:
        raise KilnTypeError(name, f"takes a list and {count} operands", f"{len(operands)}", "")
    tensors = _checked(name, tensors)
    columns = [_each(name, o, tensors) for o in operands]
    return [(t, tuple(c[i] for c in columns)) for i, t in enumerate(tensors)]


_UNARY = (
    "abs acos asin atan ceil cos cosh erf erfc exp expm1 floor frac lgamma log log10 log1p log2 neg reciprocal round "
    "rsqrt sigmoid sign sin sinh sqrt tan tanh trunc"
)  # fmt: skip
_FORMS = {
    **{n: (n, 0) for n in _UNARY.split()},
    **{n: (n, 1) for n in ["add", "sub", "mul", "div", "pow", "clamp_max", "clamp_min"]},
    "maximum": ("clamp_min", 1), "minimum": ("clamp_max", 1), "lerp": ("lerp", 2),
}  # fmt: skip
"""Name: the function of one tensor, and how many operands there are beside it."""

for _name, (_of, _count) in _FORMS.items():
    _full = f"_foreach_{_name}"
    globals()[_full], globals()[_full + "_"] = _pair(_full, _of, _count)

_power = globals()["_foreach_pow"]


def _foreach_pow(self: Any, exponent: Any) -> tuple[Tensor, ...]:
    """Each tensor of a list to a power, or a number to the power of each."""
    if isinstance(self, list | tuple):
        return _power(self, exponent)
    return tuple(FUNCTIONS["pow"](self, e) for e in _checked("_foreach_pow", exponent))


def _scaled(name: str, of: str) -> None:
    """`addcmul` and `addcdiv`, whose factor is a number, one for each tensor or a tensor of them."""
    function, method = FUNCTIONS[of], getattr(Tensor, of + "_")

    def rows(self: Any, tensor1: Any, tensor2: Any, value: Any) -> list[tuple[Tensor, tuple]]:
        if isinstance(value, Tensor) and value.dim():
            value = value.tolist()
        return _rows(name, self, (tensor1, tensor2, value), 3)

    def plain(self: Tensors, tensor1: Tensors, tensor2: Tensors, value: Any = 1) -> tuple:
        return tuple(
            function(t, a, b, value=v) for t, (a, b, v) in rows(self, tensor1, tensor2, value)
        )

    def in_place(self: Tensors, tensor1: Tensors, tensor2: Tensors, value: Any = 1) -> Tensors:
        for t, (a, b, v) in rows(self, tensor1, tensor2, value):
            method(t, a, b, value=v)
        return self

    plain.__name__, in_place.__name__ = name, name + "_"
    plain.__doc__ = f"`kiln.{of}` of each tensor of three lists."
    in_place.__doc__ = f"`Tensor.{of}_` of each tensor of three lists: the first list."
    globals()[name], globals()[name + "_"] = plain, in_place


_scaled("_foreach_addcmul", "addcmul")
_scaled("_foreach_addcdiv", "addcdiv")


def _foreach_norm(self: Tensors, ord: Any = 2, dtype: Any = None) -> tuple[Tensor, ...]:
    """The norm of all elements of each tensor."""
    norm = FUNCTIONS["linalg.vector_norm"]
    return tuple(norm(t, ord, dtype=dtype) for t in _checked("_foreach_norm", self))


def _foreach_powsum(self: Tensors, ord: Any = 2, dtype: Any = None) -> tuple[Tensor, ...]:
    """The sum of the magnitudes of each tensor's elements to a power."""
    return tuple(t.abs().pow(ord).sum(dtype=dtype) for t in _checked("_foreach_powsum", self))


def _foreach_max(self: Tensors) -> tuple[Tensor, ...]:
    """The largest element of each tensor."""
    return tuple(t.max() for t in _checked("_foreach_max", self))


def _foreach_mm(self: Tensors, mat2: Tensors) -> tuple[Tensor, ...]:
    """The products of two lists of matrices."""
    rows = _rows("_foreach_mm", self, (_checked("_foreach_mm", mat2),), 1)
    return tuple(FUNCTIONS["mm"](t, m) for t, (m,) in rows)


def _foreach_clone(self: Tensors, *, memory_format: Any = None) -> tuple[Tensor, ...]:
    """A copy of each tensor."""
    options = {} if memory_format is None else {"memory_format": memory_format}
    return tuple(t.clone(**options) for t in _checked("_foreach_clone", self))


def _foreach_copy_(self: Tensors, src: Tensors, non_blocking: bool = False) -> Tensors:
    """Each tensor set to the one at its place in another list: the first list."""
    for t, (s,) in _rows("_foreach_copy_", self, (_checked("_foreach_copy_", src),), 1):
        t.copy_(s)
    return self


def _foreach_zero_(self: Tensors) -> Tensors:
    """Each tensor set to zero: the list."""
    for t in _checked("_foreach_zero_", self):
        t.zero_()
    return self
