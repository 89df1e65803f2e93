"""Causal masks of attention for queries and keys of unequal number."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from ...errors import KilnValueError
from ...ops.creation import ones
from ...tensor import Tensor, _disabled_torch_function_impl


class CausalVariant(IntEnum):
    """The corner from which the diagonal starts."""

    UPPER_LEFT = 1
    LOWER_RIGHT = 2


class CausalBias(Tensor):
    """A causal mask (queries, keys), True where a key takes part: an `attn_mask` of scaled_dot_product_attention."""

    __torch_function__ = _disabled_torch_function_impl  # type: ignore[assignment]

    variant: CausalVariant
    seq_len_q: int
    seq_len_kv: int

    def __new__(cls, variant: CausalVariant, seq_len_q: int, seq_len_kv: int) -> Any:
        shift = seq_len_kv - seq_len_q if variant is CausalVariant.LOWER_RIGHT else 0
        out: Any = ones(seq_len_q, seq_len_kv).bool().tril(shift)
        out.__class__ = cls
        out.variant, out.seq_len_q, out.seq_len_kv = variant, seq_len_q, seq_len_kv
        return out


def _bias(variant: CausalVariant, size: tuple[int, ...]) -> CausalBias:
    if len(size) != 2:
        raise KilnValueError(
            "causal_bias", "a causal bias has two sizes, of queries and of keys", size, ""
        )
    return CausalBias(variant, *size)


def causal_upper_left(*size: int) -> CausalBias:
    """A causal mask whose diagonal starts in the upper left corner: query i sees keys 0 to i."""
    return _bias(CausalVariant.UPPER_LEFT, size)


def causal_lower_right(*size: int) -> CausalBias:
    """A causal mask whose diagonal ends in the lower right corner: the last query sees all keys."""
    return _bias(CausalVariant.LOWER_RIGHT, size)


__all__ = ["CausalBias", "CausalVariant", "causal_lower_right", "causal_upper_left"]
