"""Nested tensors: sequences of different lengths, one after the other in one dense tensor.

A batch of B sequences (L_i, *rest) is a dense (sum of L_i, *rest) and the lengths. See Note [Composed
tensors]: what works on elements, or on the dimensions after the ragged one, works on the dense tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .. import formats
from ..composed import Composed, ComposedTensor, composed
from ..errors import KilnError, KilnNotImplementedError, describe
from ..ops.dispatch import apply
from ..ops.registry import FUNCTIONS, Op
from ..shape import Dim, Size, norm_dim, numel
from ..tensor import Tensor, wrap

_RAGGED: dict[tuple[int, ...], Dim] = {}
"""The symbolic size of a ragged dimension, one for each tuple of lengths."""


class NestedArray(Composed):
    """The payload of a nested tensor: `at` is the ragged dimension, 1, or 2 where it was transposed."""

    __slots__ = ("at", "lengths")
    lengths: tuple[int, ...]
    at: int

    def __init__(self, layout: formats.layout, values: Tensor, lengths: Sequence[int], at: int = 1):
        self.layout, self.parts, self.lengths, self.at = layout, (values,), tuple(lengths), at

    @property
    def shape(self) -> tuple:
        rest = list(self.parts[0].shape[1:])
        rest.insert(self.at - 1, ragged(self.lengths))
        return (len(self.lengths), *rest)

    @property
    def size(self) -> Any:
        return numel(self.parts[0].shape)

    @property
    def offsets(self) -> list[int]:
        return [0, *accumulate(self.lengths)]

    def tensor(self) -> NestedTensor:
        """A tensor with this payload."""
        return composed(NestedTensor, self)


def ragged(lengths: tuple[int, ...]) -> Any:
    """The symbolic size of a dimension with these lengths: equal lengths have equal sizes."""
    found = _RAGGED.get(lengths)
    if found is None:
        if len(_RAGGED) > 4096:
            _RAGGED.clear()
        found = _RAGGED[lengths] = Dim(f"j{len(_RAGGED) + 1}")
    return found


class NestedTensor(ComposedTensor):
    """A batch of tensors (L_i, *rest) of different lengths."""

    __slots__ = ()
    _a: NestedArray

    is_nested = property(lambda self: True, doc="Whether this is a nested tensor.")

    @property
    def _calls(self) -> Any:
        """What ops on it are called by."""
        import sys

        return sys.modules[__name__]

    def _with(self, values: Tensor) -> NestedTensor:
        a = self._a
        return NestedArray(a.layout, values, a.lengths, a.at).tensor()

    def size(self, dim: int | None = None) -> Any:
        if dim is None:
            return Size(self._a.shape)
        d = norm_dim(dim, self.ndim, "size")
        if d == self._a.at and self.layout is formats.strided:
            raise KilnError(
                "size", f"the given dimension {d} is irregular and does not have a size",
                f"lengths {list(self._a.lengths)}", "unbind() the tensor, or to_padded_tensor(0.0)",
            )  # fmt: skip
        return self._a.shape[d]

    def numel(self) -> int:
        return self._a.parts[0].numel()

    def values(self) -> Tensor:
        """The sequences, one after the other, with their history."""
        return self._a.parts[0]

    def offsets(self) -> Tensor:
        """Where each sequence begins, and where the last ends."""
        return wrap(np.array(self._a.offsets, np.int64))

    def lengths(self) -> Tensor:
        """The length of each sequence."""
        return wrap(np.array(self._a.lengths, np.int64))

    def is_contiguous(self, memory_format: Any = None) -> bool:
        return self._a.at == 1

    def contiguous(self, memory_format: Any = None) -> NestedTensor:
        """The tensor itself, as its sequences are contiguous in the dense tensor."""
        return self

    def unbind(self, dim: int = 0) -> tuple[Tensor, ...]:
        """The sequences, as views of the dense tensor."""
        if dim != 0:
            raise KilnError("unbind", "only the batch of a nested tensor is unbound", dim, "dim=0")
        a, v = self._a, self._a.parts[0]
        parts = v.split(list(a.lengths)) if a.lengths else ()
        return tuple(p if a.at == 1 else p.transpose(0, 1) for p in parts)

    def __iter__(self) -> Any:
        return iter(self.unbind())

    def __len__(self) -> int:
        return len(self._a.lengths)

    def __getitem__(self, i: Any) -> Tensor:
        if not isinstance(i, int):
            raise KilnNotImplementedError(
                "index", "a nested tensor takes the number of a sequence", describe(i), "x.unbind()"
            )
        return self.unbind()[i]

    def to_padded_tensor(self, padding: float, output_size: Any = None) -> Tensor:
        """A dense (B, longest, *rest) tensor with `padding` behind each sequence."""
        a, v = self._a, self._a.parts[0]
        if a.at != 1:
            return self.transpose(1, 2).to_padded_tensor(padding).transpose(1, 2)
        rest = v.shape[1:]
        longest = max(a.lengths, default=0)
        sizes = tuple(output_size) if output_size is not None else (len(a.lengths), longest, *rest)
        inner = (len(a.lengths), sizes[1])
        if (
            len(sizes) != self.ndim
            or sizes[0] != inner[0]
            or sizes[1] < longest
            or sizes[2:] != rest
        ):
            raise KilnError("to_padded_tensor", "output_size is smaller than the sequences, or of other dimensions",
                            f"{sizes} for {len(a.lengths)} sequences up to {longest}", "")  # fmt: skip
        place = np.full(inner, v.shape[0], np.int64)
        for i, (start, n) in enumerate(zip(a.offsets, a.lengths, strict=False)):
            place[i, :n] = np.arange(start, start + n)
        rows = FUNCTIONS["cat"]([v, v.detach().new_full((1, *rest), padding)])
        return rows.index_select(0, wrap(place.reshape(-1))).reshape(sizes)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        if self.layout is formats.jagged:
            return (
                f"NestedTensor(size={tuple(self.shape)}, offsets={self.offsets()}, contiguous={self._a.at == 1}"
                + (", requires_grad=True" if self.requires_grad else "") + ")"
            )  # fmt: skip
        inner = ",\n".join(
            "  " + repr(t.detach()).replace("\n", "\n  ") for t in self.detach().unbind()
        )
        return f"nested_tensor([\n{inner}\n])"

    def __reduce_ex__(self, protocol: Any) -> Any:
        a = self._a
        return _unpickled, (a.layout, a.parts[0], a.lengths, a.at)


def _unpickled(layout: Any, values: Tensor, lengths: tuple, at: int) -> NestedTensor:
    return NestedArray(layout, values, lengths, at).tensor()


# ---------------------------------------------------------------- ops


def call(op: Op, args: tuple) -> Any:
    """The result of an op of which an argument is nested."""
    nested = [x for x in op.flat_tensors(args) if isinstance(x, NestedTensor)]
    first = nested[0]._a
    if any(x._a.lengths != first.lengths or x._a.at != first.at for x in nested):
        raise KilnError(
            op.name, "nested tensors of different lengths don't meet",
            ", ".join(str(list(x._a.lengths)) for x in nested), "pad them, or loop over unbind()",
        )  # fmt: skip
    fn = FORMS.get(op.name)
    if fn is not None:
        r = fn(op, *args)
    elif op.family in ("elementwise", "cast", "select"):
        r = _elementwise(op, nested[0], args)
    else:
        r = NotImplemented
    if r is NotImplemented:
        raise KilnNotImplementedError(
            op.name, "not implemented for nested tensors", ", ".join(f"{list(x.shape)}" for x in nested),
            "x.to_padded_tensor(0.0), or loop over x.unbind()",
        )  # fmt: skip
    return r


def inplace(op: Op, args: tuple) -> Tensor:
    """An op whose result is stored in its first argument."""
    x = args[0]
    r = call(op, args)
    if not isinstance(x, NestedTensor):
        raise KilnError(op.name + "_", "the result is nested", describe(x), "")
    x._a = r._a
    return x


def _elementwise(op: Op, x: NestedTensor, args: tuple) -> Any:
    rest = x._a.parts[0].ndim - 1
    dense = []
    for a in args:
        if isinstance(a, NestedTensor):
            a = a._a.parts[0]
        elif isinstance(a, Tensor) and a.ndim > rest:
            return NotImplemented
        dense.append(a)
    if x._a.at != 1 and any(isinstance(a, Tensor) and a.ndim > 1 for a in args if not isinstance(a, NestedTensor)):  # fmt: skip
        return NotImplemented
    return x._with(apply(op, tuple(dense)))


def _rows(op: Op, x: Any, *rest: Any) -> Any:
    """Ops of the last dimension: each row of the dense tensor by itself."""
    if not isinstance(x, NestedTensor) or any(isinstance(r, NestedTensor) for r in rest):
        return NotImplemented
    if x._a.at != 1:
        return NotImplemented
    return x._with(apply(op, (x._a.parts[0], *rest)))


def _along(op: Op, x: NestedTensor, dim: int, dtype: Any = None) -> Any:
    d = norm_dim(dim, x.ndim, op.name)
    if d < 2 or x._a.at != 1:
        return NotImplemented
    return x._with(apply(op, (x._a.parts[0], d - 1, dtype)))


def _matmul(op: Op, x: Any, y: Any) -> Any:
    if not isinstance(x, NestedTensor) or isinstance(y, NestedTensor) or y.ndim != 2:
        return NotImplemented
    return _rows(op, x, y)


def _embedding(op: Op, index: Any, weight: Any, *rest: Any) -> Any:
    if not isinstance(index, NestedTensor) or isinstance(weight, NestedTensor):
        return NotImplemented
    return index._with(apply(op, (index._a.parts[0], weight, *rest)))


def _permute(op: Op, x: NestedTensor, dims: Any) -> Any:
    order = [d % x.ndim for d in dims]
    if order == list(range(x.ndim)):
        return x
    if x.ndim < 3 or order != [0, 2, 1, *range(3, x.ndim)]:
        return NotImplemented
    a = x._a
    return NestedArray(a.layout, a.parts[0], a.lengths, 3 - a.at).tensor()


def _reshape(op: Op, x: NestedTensor, shape: Any) -> Any:
    a = x._a
    j = ragged(a.lengths)
    if (
        a.at != 1
        or len(shape) < 2
        or shape[0] not in (len(a.lengths), -1)
        or shape[1] not in (j, -1)
    ):
        return NotImplemented
    rest = numel(a.parts[0].shape[1:])
    sizes = list(shape[2:])
    if -1 in sizes:
        i = sizes.index(-1)
        sizes[i] = rest // max(numel(s for k, s in enumerate(sizes) if k != i), 1)
    if numel(sizes) != rest:
        return NotImplemented
    return x._with(a.parts[0].reshape(a.parts[0].shape[0], *sizes))


def attention(query: Any, key: Any, value: Any, attn_mask: Any, **options: Any) -> NestedTensor:
    """Attention of each sequence by itself: (B, heads, ragged, E) tensors, as `transpose(1, 2)` makes them."""
    parts = (query, key, value)
    if (
        not all(isinstance(x, NestedTensor) and x._a.at == 2 for x in parts)
        or attn_mask is not None
    ):
        raise KilnNotImplementedError(
            "scaled_dot_product_attention", "nested queries, keys and values are (B, heads, ragged, E), without a mask",
            ", ".join(map(describe, parts)), "x.unflatten(-1, [heads, E]).transpose(1, 2)",
        )  # fmt: skip
    attend = FUNCTIONS["nn.functional.scaled_dot_product_attention"]
    out = [
        attend(*(x.unsqueeze(0) for x in one), **options)[0].transpose(0, 1)
        for one in zip(*(x.unbind() for x in parts), strict=True)
    ]
    a = query._a
    return NestedArray(a.layout, FUNCTIONS["cat"](out), a.lengths, 2).tensor()


FORMS = {
    "linear": _rows, "layer_norm": _rows, "rms_norm": _rows, "softmax": _along, "log_softmax": _along, "matmul": _matmul,
    "embedding": _embedding, "permute": _permute, "reshape": _reshape,
}  # fmt: skip
