"""Batches of sequences of different lengths: PyTorch's `torch.nested`, ragged in the first dimension.

Elementwise ops, linear layers, normalization and softmax over later dimensions, embeddings and attention
work on them without padding, with gradients; everything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from .. import formats
from ..device import as_device
from ..errors import KilnError, KilnNotImplementedError, KilnTypeError, describe
from ..ops.creation import as_tensor
from ..ops.registry import FUNCTIONS
from ..tensor import Tensor
from .tensor import NestedArray, NestedTensor


def _sequences(name: str, tensor_list: Any, dtype: Any) -> list[Tensor]:
    if not isinstance(tensor_list, list | tuple):
        raise KilnTypeError(name, "expected a list of tensors", describe(tensor_list), "")
    d = None if dtype is None else dt.as_dtype(dtype)
    out = [as_tensor(t) for t in tensor_list]
    out = [t if d is None else t.to(d) for t in out]
    if (
        any(t.ndim == 0 for t in out)
        or len({t.dtype for t in out}) > 1
        or len({t.ndim for t in out}) > 1
    ):
        raise KilnError(
            name, "the tensors must have one dtype and one number of dimensions, at least one",
            ", ".join(map(describe, out)), "",
        )  # fmt: skip
    if len({t.shape[1:] for t in out}) > 1:
        raise KilnNotImplementedError(
            name, "the tensors may differ in their first dimension only", ", ".join(map(describe, out)),
            "pad the others, or keep a list",
        )  # fmt: skip
    return out


def _packed(name: str, ts: list[Tensor], layout: Any, dtype: Any) -> NestedTensor:
    layout = layout or formats.strided
    if layout not in (formats.strided, formats.jagged):
        raise KilnError(name, "the layout must be strided or jagged", describe(layout), "")
    values = FUNCTIONS["cat"](ts) if ts else FUNCTIONS["empty"](0, dtype=dtype)
    return NestedArray(layout, values, [t.shape[0] for t in ts]).tensor()


def nested_tensor(
    tensor_list: Sequence[Any], *, dtype: Any = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False, pin_memory: bool = False,
) -> NestedTensor:  # fmt: skip
    """A nested tensor with copies of tensors (L_i, *rest): a leaf."""
    as_device(device)
    ts = [t.detach() for t in _sequences("nested_tensor", tensor_list, dtype)]
    out = _packed("nested_tensor", ts, layout, dtype)
    return out.requires_grad_() if requires_grad else out


def as_nested_tensor(
    ts: Any, dtype: Any = None, device: Any = None, layout: Any = None
) -> NestedTensor:
    """A nested tensor of tensors (L_i, *rest) through which gradients flow to them."""
    as_device(device)
    if isinstance(ts, NestedTensor):
        return ts
    parts = list(ts.unbind()) if isinstance(ts, Tensor) else ts
    return _packed("as_nested_tensor", _sequences("as_nested_tensor", parts, dtype), layout, dtype)


def nested_tensor_from_jagged(
    values: Tensor, offsets: Tensor | None = None, lengths: Tensor | None = None, jagged_dim: int | None = None,
    min_seqlen: int | None = None, max_seqlen: int | None = None,
) -> NestedTensor:  # fmt: skip
    """A nested tensor of sequences that lie one after the other in `values`, from `offsets` or `lengths`."""
    name = "nested_tensor_from_jagged"
    if jagged_dim not in (None, 1):
        raise KilnNotImplementedError(
            name, "the ragged dimension is 1", f"jagged_dim={jagged_dim}", ""
        )
    if offsets is not None and lengths is not None:
        raise KilnNotImplementedError(name, "offsets with lengths leave gaps", "both", "pass one")
    if offsets is None and lengths is None:
        raise KilnError(name, "at least one of offsets or lengths is required", "neither", "")
    n = np.diff(offsets._host(name)) if offsets is not None else lengths._host(name)  # type: ignore[union-attr]
    start = int(offsets._host(name)[0]) if offsets is not None else 0
    if start or (n < 0).any() or int(n.sum()) != values.shape[0]:
        raise KilnError(name, "offsets must go from 0 to the number of rows", describe(values), "")
    return NestedArray(formats.jagged, values, [int(i) for i in n]).tensor()


def to_padded_tensor(
    input: NestedTensor, padding: float, output_size: Any = None, out: Tensor | None = None
) -> Tensor:
    """A dense (B, longest, *rest) tensor with `padding` behind each sequence."""
    r = input.to_padded_tensor(padding, output_size)
    return r if out is None else out.copy_(r)


__all__ = [
    "NestedTensor", "as_nested_tensor", "nested_tensor", "nested_tensor_from_jagged", "to_padded_tensor",
]  # fmt: skip
