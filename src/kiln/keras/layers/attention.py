"""Attention, with masks of what is attended to.

https://keras.io/api/layers/attention_layers/
"""

from __future__ import annotations

import math
from typing import Any

from ...errors import KilnValueError, describe
from ...nn import functional as F
from ...ops.creation import ones
from ...tensor import Tensor
from ..layer import Layer
from .core import EinsumDense

NEVER = -1e9


class MultiHeadAttention(Layer):
    """Attention of `query` to `value` by `key` (that of `value` without one), in several heads of `key_dim` features each.

    `attention_mask` (batch, queries, keys) is true where attention may go; masks of the inputs and `use_causal_mask` take more away.
    """

    supports_masking = True

    def __init__(
        self, num_heads: int, key_dim: int, value_dim: int | None = None, dropout: float = 0.0, use_bias: bool = True,
        output_shape: Any = None, attention_axes: Any = None, kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros", kernel_regularizer: Any = None, bias_regularizer: Any = None, kernel_constraint: Any = None,
        bias_constraint: Any = None, seed: int | None = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(**common)
        if attention_axes not in (None, 1, [1], (1,)):
            raise KilnValueError(self.name, "attention goes along axis 1", describe(attention_axes), "fold other axes into the batch")  # fmt: skip
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim or key_dim
        self.dropout, self.use_bias, self.seed = dropout, use_bias, seed
        self._output = output_shape
        self._options = {
            "kernel_initializer": kernel_initializer, "bias_initializer": bias_initializer, "kernel_regularizer": kernel_regularizer,
            "bias_regularizer": bias_regularizer, "kernel_constraint": kernel_constraint, "bias_constraint": bias_constraint,
        }  # fmt: skip

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        def dense(name: str, n: int, shape: Any, key: int = self.num_heads) -> EinsumDense:
            made = EinsumDense("abc,cde->abde", (None, key, n), bias_axes="de" if self.use_bias else None, name=name, dtype=self.dtype, **self._options)  # fmt: skip
            made.build(shape)
            made.__dict__["built"] = True
            return made

        self.query_dense = dense("query", self.key_dim, query_shape)
        self.key_dense = dense("key", self.key_dim, key_shape or value_shape)
        self.value_dense = dense("value", self.value_dim, value_shape)
        out = self._output if self._output is not None else query_shape[-1]
        out = out if isinstance(out, int) else out[-1]
        self.output_dense = EinsumDense(
            "abcd,cde->abe", (None, out), bias_axes="e" if self.use_bias else None, name="attention_output", dtype=self.dtype, **self._options
        )  # fmt: skip
        self.output_dense.build((None, None, self.num_heads, self.value_dim))
        self.output_dense.__dict__["built"] = True

    def call(
        self, query: Tensor, value: Tensor, key: Any = None, query_mask: Any = None, value_mask: Any = None, key_mask: Any = None,
        attention_mask: Any = None, return_attention_scores: bool = False, training: bool = False, use_causal_mask: bool = False,
    ) -> Any:  # fmt: skip
        key = value if key is None else key
        q, k, v = self.query_dense(query), self.key_dense(key), self.value_dense(value)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mask = None if attention_mask is None else attention_mask.bool()
        n, m = query.shape[1], value.shape[1]
        for found in (
            None if query_mask is None else query_mask.unsqueeze(-1),
            None if value_mask is None else value_mask.unsqueeze(-2),
            None if key_mask is None else key_mask.unsqueeze(-2),
            ones(1, n, m).tril().bool() if use_causal_mask else None,
        ):
            if found is not None:
                mask = found if mask is None else mask & found
        mask = mask.unsqueeze(1) if mask is not None and mask.ndim == 3 else mask
        rate = self.dropout if training else 0.0
        # a finite number in place of -inf: a query that may go nowhere attends to all alike, as in Keras
        added = None if mask is None else (~mask).to(q.dtype) * NEVER
        if not return_attention_scores:
            out = F.scaled_dot_product_attention(q, k, v, added, rate)
            return self.output_dense(out.transpose(1, 2))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.key_dim)
        scores = (scores if added is None else scores + added).softmax(-1)
        out = (F.dropout(scores, rate) if rate else scores) @ v
        return self.output_dense(out.transpose(1, 2)), scores

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return previous_mask if not isinstance(previous_mask, list | tuple) else previous_mask[0]

    def get_build_config(self) -> dict[str, Any] | None:
        shape = self.__dict__.get("_build_shapes")
        return {"shapes_dict": {"query_shape": shape, "value_shape": shape}} if self.built else None


class _Scores(Layer):
    """Attention of [query, value] or [query, value, key]."""

    supports_masking = True

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        raise NotImplementedError

    def call(
        self, inputs: Any, mask: Any = None, return_attention_scores: bool = False, training: bool = False, use_causal_mask: bool = False
    ) -> Any:  # fmt: skip
        query, value = inputs[:2]
        key = inputs[2] if len(inputs) > 2 else value
        scores = self.scores(query, key)
        masks = list(mask) if mask is not None else [None, None]
        allowed = None if masks[1] is None else masks[1].unsqueeze(-2)
        if use_causal_mask:
            causal = ones(1, *scores.shape[-2:]).tril().bool()
            allowed = causal if allowed is None else allowed & causal
        if allowed is not None:
            scores = scores - 1e9 * (~allowed).to(scores.dtype)
        weights = scores.softmax(-1)
        if training and self.dropout:
            weights = F.dropout(weights, self.dropout)
        out = weights @ value
        if masks[0] is not None:
            out = out * masks[0].unsqueeze(-1).to(out.dtype)
        return (out, weights) if return_attention_scores else out

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return previous_mask[0] if isinstance(previous_mask, list | tuple) else None


class Attention(_Scores):
    """Scores are products of query and key ("dot"), or v * tanh(query + key) ("concat")."""

    def __init__(
        self, use_scale: bool = False, score_mode: str = "dot", dropout: float = 0.0, seed: int | None = None, **common: Any
    ) -> None:  # fmt: skip
        super().__init__(**common)
        self.use_scale, self.score_mode, self.dropout, self.seed = use_scale, score_mode, dropout, seed  # fmt: skip

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight((), "ones", name="scale") if self.use_scale else None
        self.concat_score_weight = self.add_weight((), "ones", name="concat_score_weight") if self.score_mode == "concat" else None  # fmt: skip

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        if self.score_mode == "dot":
            found = query @ key.transpose(1, 2)
            return found if self.scale is None else found * self.scale
        both = query.unsqueeze(-2) + key.unsqueeze(-3)
        return self.concat_score_weight * (both if self.scale is None else self.scale * both).tanh().sum(-1)  # fmt: skip


class AdditiveAttention(_Scores):
    """Bahdanau's scores: scale * tanh(query + key)."""

    def __init__(self, use_scale: bool = True, dropout: float = 0.0, **common: Any) -> None:
        super().__init__(**common)
        self.use_scale, self.dropout = use_scale, dropout

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight((input_shape[0][-1],), "glorot_uniform", name="scale") if self.use_scale else None  # fmt: skip

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        both = (query.unsqueeze(-2) + key.unsqueeze(-3)).tanh()
        return (both if self.scale is None else self.scale * both).sum(-1)


__all__ = ["AdditiveAttention", "Attention", "MultiHeadAttention"]
