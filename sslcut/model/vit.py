"""Vision transformers (arXiv 2010.11929) with torchvision's tensor names, for any image size that the patch divides."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslcut.errors import InputError, UsageError
from sslcut.model.chain import Block, Chain, Named

PREFIX_TOKENS = 1  # the class token stands before the patches


class Stem(Block):
    """Patches, class token and positions: images (B, 3, H, W) → tokens (B, 1 + H/patch · W/patch, width).

    Positions are made for squares of `size` pixels and interpolated for other images.
    """

    def __init__(self, width: int, patch: int, size: int) -> None:
        super().__init__(width)
        self.patch = patch
        self.grid = size // patch
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(3, width, patch, stride=patch)
        positions = torch.empty(1, PREFIX_TOKENS + self.grid**2, width)
        self.encoder = nn.ParameterDict({"pos_embedding": nn.init.normal_(positions, std=0.02)})
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (3 * patch**2)))
        nn.init.zeros_(self.conv_proj.bias)  # type: ignore[arg-type]  # typed as if it could be absent

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if height % self.patch or width % self.patch:
            hint = f"use a size that {self.patch} divides, such as {divided(min(height, width), self.patch)}"
            raise InputError(f"images of {height}×{width} pixels do not divide into patches of {self.patch}", hint=hint)
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)  # (B, T, D)
        tokens = torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches], dim=1)
        return tokens + self.positions(height // self.patch, width // self.patch)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings (1, 1 + rows · columns, D): the class token's as it is, the patches' interpolated."""
        stored = self.encoder["pos_embedding"]
        if (rows, columns) == (self.grid, self.grid):
            return stored
        grid = stored[:, PREFIX_TOKENS:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True)
        return torch.cat([stored[:, :PREFIX_TOKENS], grid.flatten(2).transpose(1, 2)], dim=1)


class Attention(nn.Module):
    """Multi-head self-attention, (B, T, D) → (B, T, D), with the tensors and the draws of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        heads = projected.reshape(count, tokens, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D/heads)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class EncoderBlock(Block):
    """Attention, then a four times wider MLP, each on normalised tokens and added to them: (B, T, D) → (B, T, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width)
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        wide, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (wide, narrow):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
        self.mlp = nn.Sequential(wide, nn.GELU(), nn.Identity(), narrow)  # torchvision's dropout is number 2

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Norm(nn.LayerNorm):
    """The layer normalisation after the last block: (B, T, D) → (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)
        self.width = width


class TokenPool(Block):
    """The class token (`cls`) or the mean of the patches (`mean`): (B, T, D) → (B, D)."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__(width)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] if self.kind == "cls" else x[:, PREFIX_TOKENS:].mean(dim=1)


def divided(size: int, patch: int) -> int:
    """The multiple of `patch` nearest to `size`, at least one patch."""
    return max(1, round(size / patch)) * patch


def vit_ti(
    *,
    last_block: Mapping[str, Any],
    patch: Annotated[int, Field(gt=0)] = 16,
    size: Annotated[int, Field(gt=0)] = 224,
    depth: Annotated[int, Field(gt=0)] = 12,
    pool: Literal["cls", "mean"] = "cls",
) -> Chain:
    """ViT-Ti: 192 wide, 3 heads (arXiv 2012.12877). `size` is what its positions are made for."""
    return _vit(192, 3, last_block, patch, size, depth, pool)


def vit_s(
    *,
    last_block: Mapping[str, Any],
    patch: Annotated[int, Field(gt=0)] = 16,
    size: Annotated[int, Field(gt=0)] = 224,
    depth: Annotated[int, Field(gt=0)] = 12,
    pool: Literal["cls", "mean"] = "cls",
) -> Chain:
    """ViT-S: 384 wide, 6 heads (arXiv 2012.12877). `size` is what its positions are made for."""
    return _vit(384, 6, last_block, patch, size, depth, pool)


def vit_b(
    *,
    last_block: Mapping[str, Any],
    patch: Annotated[int, Field(gt=0)] = 16,
    size: Annotated[int, Field(gt=0)] = 224,
    depth: Annotated[int, Field(gt=0)] = 12,
    pool: Literal["cls", "mean"] = "cls",
) -> Chain:
    """ViT-B: 768 wide, 12 heads. `size` is what its positions are made for."""
    return _vit(768, 12, last_block, patch, size, depth, pool)


def _vit(width: int, heads: int, last_block: Mapping[str, Any], patch: int, size: int, depth: int, pool: str) -> Chain:
    for key, stock in (("width", None), ("shortcut", "auto")):
        if last_block.get(key, stock) != stock:
            what = f"`last_block.{key}: {last_block[key]}` changes a ResNet's last block; a ViT has none like it"
            raise UsageError(what, hint="leave `last_block` out, or take a ResNet")
    if size % patch:
        hint = f"write a `size` that {patch} divides, such as {divided(size, patch)}"
        raise UsageError(f"`size: {size}` does not divide into patches of {patch}", hint=hint)
    blocks: list[Named] = [("stem", "", Stem(width, patch, size))]
    for index in range(depth):
        blocks.append((f"blocks.{index}", f"encoder.layers.encoder_layer_{index}.", EncoderBlock(width, heads)))
    blocks += [("norm", "encoder.ln.", Norm(width)), ("pool", "", TokenPool(width, pool))]
    return Chain(blocks, prefix_tokens=PREFIX_TOKENS)
