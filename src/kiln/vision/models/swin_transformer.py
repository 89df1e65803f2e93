"""Swin transformers: attention within windows that are shifted from block to block (Liu et al. 2021, 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import kiln
import kiln.nn.functional as F

from ... import nn
from ...tensor import Tensor
from ..ops import MLP, Permute, StochasticDepth
from .registry import model, weights

__all__ = [
    "SwinTransformer", "Swin_B_Weights", "Swin_S_Weights", "Swin_T_Weights", "Swin_V2_B_Weights", "Swin_V2_S_Weights",
    "Swin_V2_T_Weights", "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s", "swin_v2_t",
]  # fmt: skip


class PatchMerging(nn.Module):
    """Four neighbouring places [..., H, W, C] as one of twice the channels."""

    def __init__(
        self, dim: int, norm_layer: Callable[..., nn.Module] = nn.LayerNorm, _normed: int = 4
    ) -> None:
        super().__init__()
        self.dim = dim
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(_normed * dim)

    def merged(self, x: Tensor) -> Tensor:
        """The channels of each four places, behind one another."""
        h, w = x.shape[-3:-1]
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        corners = (x[..., i::2, j::2, :] for j in (0, 1) for i in (0, 1))
        return kiln.cat(list(corners), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(self.merged(x)))


class PatchMergingV2(PatchMerging):
    """`PatchMerging` that norms what it gives."""

    def __init__(self, dim: int, norm_layer: Callable[..., nn.Module] = nn.LayerNorm) -> None:
        super().__init__(dim, norm_layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(self.merged(x)))


class ShiftedWindowAttention(nn.Module):
    """Attention among the places of each window, with a bias for how they lie to each other."""

    def __init__(
        self, dim: int, window_size: Sequence[int], shift_size: Sequence[int], num_heads: int, qkv_bias: bool = True,
        proj_bias: bool = True, attention_dropout: float = 0.0, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.window_size, self.shift_size, self.num_heads = (
            list(window_size),
            list(shift_size),
            num_heads,
        )
        self.attention_dropout, self.dropout = attention_dropout, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self._define_biases()
        h, w = window_size
        y, x = kiln.meshgrid(kiln.arange(h), kiln.arange(w), indexing="ij")
        y, x = y.flatten(), x.flatten()
        way = (y[:, None] - y + h - 1) * (2 * w - 1) + (x[:, None] - x + w - 1)
        self.register_buffer("relative_position_index", way.flatten())

    def _define_biases(self) -> None:
        h, w = self.window_size
        self.relative_position_bias_table = nn.Parameter(
            kiln.zeros((2 * h - 1) * (2 * w - 1), self.num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def _table(self) -> Tensor:
        return self.relative_position_bias_table

    def get_relative_position_bias(self) -> Tensor:
        """What is added to attention [1, heads, places, places]."""
        n = math.prod(self.window_size)
        picked = self._table()[self.relative_position_index]
        return picked.view(n, n, -1).permute(2, 0, 1).unsqueeze(0)

    def _parts(self, x: Tensor) -> Tensor:
        return self.qkv(x)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)

    def _windows(self, x: Tensor) -> Tensor:
        """[N, H, W, C] as [N * windows, places, C]."""
        n, height, width, c = x.shape
        h, w = self.window_size
        x = x.view(n, height // h, h, width // w, w, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, h * w, c)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, c = x.shape
        h, w = self.window_size
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % h))
        _, tall, wide, _ = x.shape
        shift = [
            0 if k >= size else s
            for k, size, s in zip((h, w), (tall, wide), self.shift_size, strict=True)
        ]
        if any(shift):
            x = kiln.roll(x, (-shift[0], -shift[1]), (1, 2))
        rows = self._windows(x)
        qkv = self._parts(rows).reshape(len(rows), h * w, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = self._scores(q, k) + self.get_relative_position_bias()
        if any(
            shift
        ):  # places of other parts of the picture, which the shift brought along, are left out
            part = kiln.zeros(tall, wide)
            ends = [((0, -k), (-k, -s), (-s, None)) for k, s in zip((h, w), shift, strict=True)]
            for i, (top, bottom) in enumerate(ends[0]):
                for j, (left, right) in enumerate(ends[1]):
                    part[top:bottom, left:right] = 3 * i + j
            part = self._windows(part[None, :, :, None]).squeeze(-1)
            mask = kiln.where(part[:, None, :] != part[:, :, None], -100.0, 0.0)
            windows = len(mask)
            scores = scores.view(n, windows, *scores.shape[1:]) + mask[:, None]
            scores = scores.view(-1, *scores.shape[2:])
        share = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        out = self.proj((share @ v).transpose(1, 2).reshape(len(rows), h * w, c))
        out = F.dropout(out, self.dropout, self.training)
        out = out.view(n, tall // h, wide // w, h, w, c).permute(0, 1, 3, 2, 4, 5)
        out = out.reshape(n, tall, wide, c)
        if any(shift):
            out = kiln.roll(out, (shift[0], shift[1]), (1, 2))
        return out[:, :height, :width].contiguous()


class ShiftedWindowAttentionV2(ShiftedWindowAttention):
    """Attention by cosines, with a bias that a small network tells."""

    def _define_biases(self) -> None:
        self.logit_scale = nn.Parameter(kiln.log(10 * kiln.ones(self.num_heads, 1, 1)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, self.num_heads, bias=False)
        )
        if self.qkv.bias is not None:
            n = self.qkv.bias.numel() // 3
            self.qkv.bias.data[n : 2 * n].zero_()
        h, w = self.window_size
        y, x = (kiln.arange(1 - k, k, dtype=kiln.float32) / (k - 1) * 8 for k in (h, w))
        table = kiln.stack(kiln.meshgrid(y, x, indexing="ij"), -1)[None]
        table = table.sign() * kiln.log2(table.abs() + 1.0) / 3.0
        self.register_buffer("relative_coords_table", table)

    def _table(self) -> Tensor:
        return self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)

    def get_relative_position_bias(self) -> Tensor:
        return 16 * kiln.sigmoid(super().get_relative_position_bias())

    def _parts(self, x: Tensor) -> Tensor:
        bias = self.qkv.bias
        if bias is not None:  # keys have none
            q, k, v = bias.chunk(3)
            bias = kiln.cat([q, kiln.zeros_like(k), v])
        return F.linear(x, self.qkv.weight, bias)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale


class SwinTransformerBlock(nn.Module):
    """Attention and a layer that is wide within, each beside a shortcut."""

    _attention: type[ShiftedWindowAttention] = ShiftedWindowAttention

    def __init__(
        self, dim: int, num_heads: int, window_size: Sequence[int], shift_size: Sequence[int], mlp_ratio: float = 4.0,
        dropout: float = 0.0, attention_dropout: float = 0.0, stochastic_depth_prob: float = 0.0,
        norm_layer: Callable[..., nn.Module] = nn.LayerNorm, attn_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        attention = attn_layer or self._attention
        self.norm1 = norm_layer(dim)
        self.attn = attention(
            dim, window_size, shift_size, num_heads, attention_dropout=attention_dropout, dropout=dropout
        )  # fmt: skip
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob, "row")
        self.norm2 = norm_layer(dim)
        self.mlp = MLP(dim, [int(dim * mlp_ratio), dim], activation_layer=nn.GELU, dropout=dropout)
        for m in self.mlp.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.normal_(m.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.stochastic_depth(self.attn(self.norm1(x)))
        return x + self.stochastic_depth(self.mlp(self.norm2(x)))


class SwinTransformerBlockV2(SwinTransformerBlock):
    """`SwinTransformerBlock` that norms what its parts give."""

    _attention = ShiftedWindowAttentionV2

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.stochastic_depth(self.norm1(self.attn(x)))
        return x + self.stochastic_depth(self.norm2(self.mlp(x)))


class SwinTransformer(nn.Module):
    """Stages of blocks whose windows are shifted in every other one, with merged places between them."""

    def __init__(
        self, patch_size: Sequence[int], embed_dim: int, depths: Sequence[int], num_heads: Sequence[int],
        window_size: Sequence[int], mlp_ratio: float = 4.0, dropout: float = 0.0, attention_dropout: float = 0.0,
        stochastic_depth_prob: float = 0.1, num_classes: int = 1000,
        norm_layer: Callable[..., nn.Module] | None = None, block: Callable[..., nn.Module] | None = None,
        downsample_layer: Callable[..., nn.Module] = PatchMerging,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_classes = num_classes
        block, norm = block or SwinTransformerBlock, norm_layer or partial(nn.LayerNorm, eps=1e-5)
        size = (patch_size[0], patch_size[1])
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, embed_dim, size, size), Permute([0, 2, 3, 1]), norm(embed_dim))
        ]  # fmt: skip
        total, done = sum(depths), 0
        for i, depth in enumerate(depths):
            dim, stage = embed_dim * 2**i, []
            for j in range(depth):
                shift = [0 if j % 2 == 0 else w // 2 for w in window_size]
                stage.append(block(
                    dim, num_heads[i], window_size, shift, mlp_ratio, dropout, attention_dropout,
                    stochastic_depth_prob * done / (total - 1), norm,
                ))  # fmt: skip
                done += 1
            layers.append(nn.Sequential(*stage))
            if i < len(depths) - 1:
                layers.append(downsample_layer(dim, norm))
        self.features = nn.Sequential(*layers)
        last = embed_dim * 2 ** (len(depths) - 1)
        self.norm, self.permute = norm(last), Permute([0, 3, 1, 2])
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten(1)
        self.head = nn.Linear(last, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.permute(self.norm(self.features(x)))
        return self.head(self.flatten(self.avgpool(x)))


def _swin(width: int, deep: int, drop: float, v2: bool, options: dict[str, Any]) -> SwinTransformer:
    heads = [width // 32 << i for i in range(4)]
    second = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if v2 else {}
    more = {"stochastic_depth_prob": drop, **second, **options}
    window = more.pop("window_size", [8, 8] if v2 else [7, 7])
    return SwinTransformer([4, 4], width, [2, 2, deep, 2], heads, window, **more)


Swin_T_Weights = weights("Swin_T_Weights", "swin_t-704ceda3.pth")
Swin_S_Weights = weights("Swin_S_Weights", "swin_s-5e29d889.pth")
Swin_B_Weights = weights("Swin_B_Weights", "swin_b-68c6b09e.pth")
Swin_V2_T_Weights = weights("Swin_V2_T_Weights", "swin_v2_t-b137f0e2.pth")
Swin_V2_S_Weights = weights("Swin_V2_S_Weights", "swin_v2_s-637d8ceb.pth")
Swin_V2_B_Weights = weights("Swin_V2_B_Weights", "swin_v2_b-781e5279.pth")


@model(Swin_T_Weights)
def swin_t(**kwargs: Any) -> SwinTransformer:
    """Swin, tiny."""
    return _swin(96, 6, 0.2, False, kwargs)


@model(Swin_S_Weights)
def swin_s(**kwargs: Any) -> SwinTransformer:
    """Swin, small."""
    return _swin(96, 18, 0.3, False, kwargs)


@model(Swin_B_Weights)
def swin_b(**kwargs: Any) -> SwinTransformer:
    """Swin, base."""
    return _swin(128, 18, 0.5, False, kwargs)


@model(Swin_V2_T_Weights)
def swin_v2_t(**kwargs: Any) -> SwinTransformer:
    """Swin V2, tiny."""
    return _swin(96, 6, 0.2, True, kwargs)


@model(Swin_V2_S_Weights)
def swin_v2_s(**kwargs: Any) -> SwinTransformer:
    """Swin V2, small."""
    return _swin(96, 18, 0.3, True, kwargs)


@model(Swin_V2_B_Weights)
def swin_v2_b(**kwargs: Any) -> SwinTransformer:
    """Swin V2, base."""
    return _swin(128, 18, 0.5, True, kwargs)
