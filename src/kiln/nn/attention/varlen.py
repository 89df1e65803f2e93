"""Attention within sequences of several lengths that lie one after the other."""

from __future__ import annotations

from typing import NamedTuple

from ...ops.creation import arange
from ...ops.sorting import searchsorted
from ...tensor import Tensor
from .. import functional as F


class AuxRequest(NamedTuple):
    """What to return besides the result."""

    lse: bool = False


def _places(starts: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each token its sequence, its place in it, and the sequence's length."""
    tokens = arange(count)
    starts = starts.long()
    which = searchsorted(starts, tokens, right=True) - 1
    return which, tokens - starts[which], starts[which + 1] - starts[which]


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor | None, max_q: int,
    max_k: int, *, return_aux: AuxRequest | None = None, scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """Attention of (tokens, heads, size) within sequences that start where `cu_seq_q` and `cu_seq_k` say.

    `window_size` is how many keys to the left and to the right of a query take part, -1 for all; the last
    query of a sequence stands with its last key. With `return_aux` also the log-sum-exp (heads, tokens).
    One masked attention over all tokens, so its cost is the square of their number.
    """
    q_of, q_at, q_len = _places(cu_seq_q, query.shape[0])
    k_of, k_at, k_len = _places(cu_seq_q if cu_seq_k is None else cu_seq_k, key.shape[0])
    ahead = k_at - k_len - (q_at - q_len).unsqueeze(1)
    mask = q_of.unsqueeze(1) == k_of
    left, right = window_size
    if left >= 0:
        mask = mask & (ahead >= -left)
    if right >= 0:
        mask = mask & (ahead <= right)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=enable_gqa)
    out = out.squeeze(0).transpose(0, 1)
    if return_aux is None or not return_aux.lse:
        return out
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = (q * factor @ k.transpose(-1, -2)).masked_fill(~mask, float("-inf"))
    return out, scores.logsumexp(-1).squeeze(0)


__all__ = ["AuxRequest", "varlen_attn"]
