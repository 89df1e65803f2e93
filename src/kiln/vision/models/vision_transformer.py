"""Vision transformers (Dosovitskiy et al. 2021)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import kiln

from ... import nn
from ...errors import KilnValueError
from ...tensor import Tensor
from ..ops import MLP
from .registry import model, weights

__all__ = [
    "Encoder",
    "EncoderBlock",
    "MLPBlock",
    "ViT_B_16_Weights",
    "ViT_B_32_Weights",
    "ViT_L_16_Weights",
    "ViT_L_32_Weights",
    "VisionTransformer",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
]


_NORM = partial(nn.LayerNorm, eps=1e-6)


class MLPBlock(MLP):
    """Two linear layers with a GELU between them."""

    def __init__(self, in_dim: int, mlp_dim: int, dropout: float) -> None:
        super().__init__(in_dim, [mlp_dim, in_dim], activation_layer=nn.GELU, dropout=dropout)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.normal_(m.bias, std=1e-6)


class EncoderBlock(nn.Module):
    """Attention and an MLP, each after a norm and beside a shortcut."""

    def __init__(
        self, num_heads: int, hidden_dim: int, mlp_dim: int, dropout: float, attention_dropout: float,
        norm_layer: Callable[..., nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_heads = num_heads
        self.ln_1 = norm_layer(hidden_dim)
        self.self_attention = nn.MultiheadAttention(
            hidden_dim, num_heads, dropout=attention_dropout, batch_first=True
        )
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = norm_layer(hidden_dim)
        self.mlp = MLPBlock(hidden_dim, mlp_dim, dropout)

    def forward(self, input: Tensor) -> Tensor:
        x = self.ln_1(input)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        x = self.dropout(x) + input
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Blocks after a sum with places' embeddings."""

    def __init__(
        self, seq_length: int, num_layers: int, num_heads: int, hidden_dim: int, mlp_dim: int, dropout: float,
        attention_dropout: float, norm_layer: Callable[..., nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        self.pos_embedding = nn.Parameter(kiln.empty(1, seq_length, hidden_dim).normal_(std=0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(OrderedDict(
            (f"encoder_layer_{i}",
             EncoderBlock(num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, norm_layer))
            for i in range(num_layers)
        ))  # fmt: skip
        self.ln = norm_layer(hidden_dim)

    def forward(self, input: Tensor) -> Tensor:
        return self.ln(self.layers(self.dropout(input + self.pos_embedding)))


class VisionTransformer(nn.Module):
    """A transformer over a picture's patches and a token for its class."""

    def __init__(
        self, image_size: int, patch_size: int, num_layers: int, num_heads: int, hidden_dim: int, mlp_dim: int,
        dropout: float = 0.0, attention_dropout: float = 0.0, num_classes: int = 1000,
        representation_size: int | None = None,
        norm_layer: Callable[..., nn.Module] = _NORM,
    ) -> None:  # fmt: skip
        super().__init__()
        if image_size % patch_size:
            raise KilnValueError(
                "VisionTransformer", "Input shape indivisible by patch size!", image_size, ""
            )
        self.image_size, self.patch_size, self.hidden_dim = image_size, patch_size, hidden_dim
        self.mlp_dim, self.num_classes, self.representation_size = (
            mlp_dim,
            num_classes,
            representation_size,
        )
        self.attention_dropout, self.dropout, self.norm_layer = (
            attention_dropout,
            dropout,
            norm_layer,
        )
        self.conv_proj = nn.Conv2d(3, hidden_dim, patch_size, patch_size)
        self.seq_length = (image_size // patch_size) ** 2 + 1
        self.class_token = nn.Parameter(kiln.zeros(1, 1, hidden_dim))
        self.encoder = Encoder(
            self.seq_length, num_layers, num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, norm_layer
        )  # fmt: skip
        heads: OrderedDict[str, nn.Module] = OrderedDict()
        if representation_size is not None:
            heads["pre_logits"] = nn.Linear(hidden_dim, representation_size)
            heads["act"] = nn.Tanh()
        heads["head"] = nn.Linear(representation_size or hidden_dim, num_classes)
        self.heads = nn.Sequential(heads)
        fan_in = 3 * patch_size**2
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / fan_in))
        nn.init.zeros_(self.conv_proj.get_parameter("bias"))
        if representation_size is not None:
            first = heads["pre_logits"]
            nn.init.trunc_normal_(first.weight, std=math.sqrt(1 / hidden_dim))
            nn.init.zeros_(first.bias)
        nn.init.zeros_(heads["head"].weight)
        nn.init.zeros_(heads["head"].bias)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != (self.image_size, self.image_size):
            raise KilnValueError(
                "VisionTransformer", f"Wrong image size! Expected {self.image_size} but got {tuple(x.shape[-2:])}!",
                list(x.shape), "resize the pictures",
            )  # fmt: skip
        n = x.shape[0]
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = self.encoder(kiln.cat([self.class_token.expand(n, -1, -1), x], 1))
        return self.heads(x[:, 0])


ViT_B_16_Weights = weights("ViT_B_16_Weights", "vit_b_16-c867db91.pth")
ViT_B_32_Weights = weights("ViT_B_32_Weights", "vit_b_32-d86f8d99.pth")
ViT_L_16_Weights = weights("ViT_L_16_Weights", "vit_l_16-852ce7e3.pth")
ViT_L_32_Weights = weights("ViT_L_32_Weights", "vit_l_32-c7638314.pth")


@model(ViT_B_16_Weights)
def vit_b_16(image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """The base size, with patches of 16 x 16."""
    return VisionTransformer(image_size, 16, 12, 12, 768, 3072, **kwargs)


@model(ViT_B_32_Weights)
def vit_b_32(image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """The base size, with patches of 32 x 32."""
    return VisionTransformer(image_size, 32, 12, 12, 768, 3072, **kwargs)


@model(ViT_L_16_Weights)
def vit_l_16(image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """The large size, with patches of 16 x 16."""
    return VisionTransformer(image_size, 16, 24, 16, 1024, 4096, **kwargs)


@model(ViT_L_32_Weights)
def vit_l_32(image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """The large size, with patches of 32 x 32."""
    return VisionTransformer(image_size, 32, 24, 16, 1024, 4096, **kwargs)


@model()
def vit_h_14(image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """The huge size, with patches of 14 x 14."""
    return VisionTransformer(image_size, 14, 32, 16, 1280, 5120, **kwargs)
