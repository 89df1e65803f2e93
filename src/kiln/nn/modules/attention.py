"""Multi-head attention as a layer."""

from __future__ import annotations

from typing import Any

from ...errors import KilnValueError
from ...ops.creation import empty
from ...ops.multi_head import attend, check_inputs
from ...tensor import Tensor
from .. import init
from ..module import Module
from ..parameter import Parameter
from .linear import Linear


class MultiheadAttention(Module):
    """Attention of several heads between projections: (L, N, E), (N, L, E) if batch_first, or (L, E).

    Gives the result and the attention weights, averaged over the heads unless told otherwise, or None
    where they are not needed: then the scores are never laid out. https://arxiv.org/abs/1706.03762
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
        add_bias_kv: bool = False, add_zero_attn: bool = False, kdim: int | None = None,
        vdim: int | None = None, batch_first: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0:
            raise KilnValueError(
                "MultiheadAttention", "embed_dim and num_heads must be greater than 0",
                f"embed_dim={embed_dim}, num_heads={num_heads}", "",
            )  # fmt: skip
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise KilnValueError(
                "MultiheadAttention", "embed_dim must be divisible by num_heads",
                f"embed_dim={embed_dim}, num_heads={num_heads}", "",
            )  # fmt: skip

        def parameter(*shape: int) -> Parameter:
            return Parameter(empty(*shape, device=device, dtype=dtype))

        same = self.kdim == embed_dim and self.vdim == embed_dim
        sizes = {"q": embed_dim, "k": self.kdim, "v": self.vdim}
        for name, size in sizes.items():
            weight = None if same else parameter(embed_dim, size)
            self.register_parameter(f"{name}_proj_weight", weight)
        self.register_parameter("in_proj_weight", parameter(3 * embed_dim, embed_dim) if same else None)  # fmt: skip
        self.register_parameter("in_proj_bias", parameter(3 * embed_dim) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, parameter(1, 1, embed_dim) if add_bias_kv else None)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Xavier-uniform projections, biases of zero, Xavier-normal `bias_k` and `bias_v`."""
        for weight in (self.in_proj_weight, *self._separate()):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def _separate(self) -> tuple[Parameter | None, ...]:
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None,
        average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """`key_padding_mask` (N, S) and `attn_mask` (L, S) or (N * num_heads, L, S): bool (True takes
        no part) or added to the scores. `is_causal` says that `attn_mask` is the causal one.
        """
        separate = None if self.in_proj_weight is not None else self._separate()
        check_inputs(query, key, value, self.embed_dim, self.num_heads, separate is not None)
        return attend(
            query, key, value, self.num_heads, self.in_proj_weight, self.in_proj_bias,
            self.out_proj.weight, self.out_proj.bias, bias_k=self.bias_k, bias_v=self.bias_v,
            add_zero_attn=self.add_zero_attn, dropout_p=self.dropout if self.training else 0.0,
            key_padding_mask=key_padding_mask, need_weights=need_weights, attn_mask=attn_mask,
            separate=separate, average_attn_weights=average_attn_weights, is_causal=is_causal,
            batch_first=self.batch_first,
        )  # fmt: skip
