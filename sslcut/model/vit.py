"""Vision transformers (arXiv 2010.11929) with torchvision's tensor names, for any image size that the patch divides.

The last block can be widened, our own extension of arXiv 2304.05369: only its MLP's last linear, the scale of that
branch, a linear shortcut and the norm behind it change.

The options beyond torchvision's network are what other projects' transformers have: registers, a scale of each branch,
their own epsilon, and their own way from the stored positions to those of another image size: `antialias` (timm's),
`plain` (transformers') or `offset` (DINO's and DINOv2's, which add a tenth of a patch to the size).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslcut.errors import InputError, UsageError
from sslcut.model.chain import Block, Chain, Named
from sslcut.model.shortcut import across_channels, projects


@dataclass(frozen=True)
class Shape:
    """The measures of a transformer: what its blocks are built from.

    `size` is the side in pixels that its positions are made for, `layer_scale` the value that the scale of each branch
    begins with (arXiv 2103.17239; None: no scale), `positions` how other sizes get theirs.
    """

    width: int
    heads: int
    patch: int
    size: int
    registers: int
    layer_scale: float | None
    qkv_bias: bool
    norm_eps: float
    positions: str


class Stem(Block):
    """Patches, class token, R registers and positions: (B, 3, H, W) → tokens (B, 1 + R + H/patch · W/patch, width).

    Registers (arXiv 2309.16588) stand behind the class token and have no positions.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape.width)
        width, patch = shape.width, shape.patch
        self.patch, self.grid, self.way = patch, shape.size // patch, shape.positions
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        if shape.registers:
            self.register_tokens = nn.Parameter(nn.init.normal_(torch.empty(1, shape.registers, width), std=1e-6))
        self.registers = shape.registers
        self.conv_proj = nn.Conv2d(3, width, patch, stride=patch)
        positions = torch.empty(1, 1 + self.grid**2, width)
        self.encoder = nn.ParameterDict({"pos_embedding": nn.init.normal_(positions, std=0.02)})
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (3 * patch**2)))
        nn.init.zeros_(self.conv_proj.bias)  # type: ignore[arg-type]  # typed as if it could be absent

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if height % self.patch or width % self.patch:
            hint = f"use a size that {self.patch} divides, such as {divided(min(height, width), self.patch)}"
            raise InputError(f"images of {height}×{width} pixels do not divide into patches of {self.patch}", hint=hint)
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)  # (B, T, D)
        count = images.shape[0]
        tokens = torch.cat([self.class_token.expand(count, -1, -1), patches], dim=1)
        tokens = tokens + self.positions(height // self.patch, width // self.patch)
        if not self.registers:
            return tokens
        return torch.cat([tokens[:, :1], self.register_tokens.expand(count, -1, -1), tokens[:, 1:]], dim=1)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings (1, 1 + rows · columns, D): the class token's as it is, the patches' interpolated."""
        stored = self.encoder["pos_embedding"]
        if (rows, columns) == (self.grid, self.grid):
            return stored
        grid = stored[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        if self.way == "offset":  # DINO's way round a rounding fault, which shifts the samples and so has to be kept
            factors = ((rows + 0.1) / self.grid, (columns + 0.1) / self.grid)
            grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        else:
            grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=self.way == "antialias")
        return torch.cat([stored[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class Attention(nn.Module):
    """Multi-head self-attention, (B, T, D) → (B, T, D), with the tensors and the draws of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width)) if qkv_bias else None
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        heads = projected.reshape(count, tokens, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D/heads)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class EncoderBlock(Block):
    """Attention, then a four times wider MLP, each on normalised tokens and added to them: (B, T, D) → (B, T, D).

    The MLP of the last block may give `outputs` numbers a token; then, or with `shortcut: always`, a linear shortcut
    turns the tokens that it is added to.
    """

    widened = ("mlp.3", "layer_scale_2", "shortcut")

    def __init__(self, shape: Shape, outputs: int | None = None, shortcut: str = "auto") -> None:
        width, outputs = shape.width, outputs or shape.width
        super().__init__(outputs)
        self.ln_1 = nn.LayerNorm(width, eps=shape.norm_eps)
        self.self_attention = Attention(width, shape.heads, shape.qkv_bias)
        self.ln_2 = nn.LayerNorm(width, eps=shape.norm_eps)
        wide, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, outputs)
        for layer in (wide, narrow):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
        self.mlp = nn.Sequential(wide, nn.GELU(), nn.Identity(), narrow)  # torchvision's dropout is number 2
        self.scaled = shape.layer_scale is not None
        if shape.layer_scale is not None:
            self.layer_scale_1 = nn.Parameter(torch.full((width,), float(shape.layer_scale)))
            self.layer_scale_2 = nn.Parameter(torch.full((outputs,), float(shape.layer_scale)))
        self.shortcut: nn.Linear | None = None
        if projects(width, outputs, shortcut):
            self.shortcut = nn.Linear(width, outputs, bias=False)
            self.shortcut.weight = nn.Parameter(across_channels(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        attended = self.self_attention(self.ln_1(x))
        x = x + (self.layer_scale_1 * attended if self.scaled else attended)
        branch = self.mlp(self.ln_2(x))
        return (x if self.shortcut is None else self.shortcut(x)) + (
            self.layer_scale_2 * branch if self.scaled else branch
        )


class Norm(nn.LayerNorm):
    """The layer normalisation after the last block: (B, T, D) → (B, T, D)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps)
        self.width = width


class TokenPool(Block):
    """The class token (`cls`) or the mean of the patches (`mean`), never of registers: (B, T, D) → (B, D)."""

    def __init__(self, width: int, kind: str, prefix_tokens: int) -> None:
        super().__init__(width)
        self.kind, self.prefix_tokens = kind, prefix_tokens

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] if self.kind == "cls" else x[:, self.prefix_tokens :].mean(dim=1)


def divided(size: int, patch: int) -> int:
    """The multiple of `patch` nearest to `size`, at least one patch."""
    return max(1, round(size / patch)) * patch


def vit_ti(
    *,
    last_block: Mapping[str, Any],
    patch: Annotated[int, Field(gt=0)] = 16,
    size: Annotated[int, Field(gt=0)] = 224,
    depth: Annotated[int, Field(gt=0)] = 12,
    heads: Annotated[int, Field(gt=0)] = 3,
    pool: Literal["cls", "mean"] = "cls",
    registers: Annotated[int, Field(ge=0)] = 0,
    layer_scale: float | None = None,
    qkv_bias: bool = True,
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6,
    positions: Literal["antialias", "plain", "offset"] = "antialias",
) -> Chain:
    """ViT-Ti: 192 wide, 3 heads (arXiv 2012.12877). `size` is what its positions are made for."""
    shape = Shape(192, heads, patch, size, registers, layer_scale, qkv_bias, norm_eps, positions)
    return of_shape(shape, last_block, depth, pool)


def vit_s(
    *,
    last_block: Mapping[str, Any],
    patch: Annotated[int, Field(gt=0)] = 16,
    size: Annotated[int, Field(gt=0)] = 224,
    depth: Annotated[int, Field(gt=0)] = 12,
    heads: Annotated[int, Field(gt=0)] = 6,
    pool: Literal["cls", "mean"] = "cls",
    registers: Annotated[int, Field(ge=0)] = 0,
    layer_scale: float | None = None,
    qkv_bias: bool = True,
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6,
    positions: Literal["antialias", "plain", "offset"] = "antialias",
) -> Chain:
    """ViT-S: 384 wide, 6 heads (arXiv 2012.12877). `size` is what its positions are made for."""
    shape = Shape(384, heads, patch, size, registers, layer_scale, qkv_bias, norm_eps, positions)
    return of_shape(shape, last_block, depth, pool)


def vit_b(
    *,
    last_block: Mapping[str, Any],
    patch: Annotated[int, Field(gt=0)] = 16,
    size: Annotated[int, Field(gt=0)] = 224,
    depth: Annotated[int, Field(gt=0)] = 12,
    heads: Annotated[int, Field(gt=0)] = 12,
    pool: Literal["cls", "mean"] = "cls",
    registers: Annotated[int, Field(ge=0)] = 0,
    layer_scale: float | None = None,
    qkv_bias: bool = True,
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6,
    positions: Literal["antialias", "plain", "offset"] = "antialias",
) -> Chain:
    """ViT-B: 768 wide, 12 heads. `size` is what its positions are made for."""
    shape = Shape(768, heads, patch, size, registers, layer_scale, qkv_bias, norm_eps, positions)
    return of_shape(shape, last_block, depth, pool)


def vit_l(
    *,
    last_block: Mapping[str, Any],
    patch: Annotated[int, Field(gt=0)] = 16,
    size: Annotated[int, Field(gt=0)] = 224,
    depth: Annotated[int, Field(gt=0)] = 24,
    heads: Annotated[int, Field(gt=0)] = 16,
    pool: Literal["cls", "mean"] = "cls",
    registers: Annotated[int, Field(ge=0)] = 0,
    layer_scale: float | None = None,
    qkv_bias: bool = True,
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6,
    positions: Literal["antialias", "plain", "offset"] = "antialias",
) -> Chain:
    """ViT-L: 1024 wide, 16 heads, 24 blocks. `size` is what its positions are made for."""
    shape = Shape(1024, heads, patch, size, registers, layer_scale, qkv_bias, norm_eps, positions)
    return of_shape(shape, last_block, depth, pool)


def of_shape(shape: Shape, last_block: Mapping[str, Any], depth: int, pool: str) -> Chain:
    """A transformer of these measures with `depth` blocks, the last as `last_block` says, read by `pool`."""
    if shape.size % shape.patch:
        hint = f"write a `size` that {shape.patch} divides, such as {divided(shape.size, shape.patch)}"
        raise UsageError(f"`size: {shape.size}` does not divide into patches of {shape.patch}", hint=hint)
    if shape.width % shape.heads:
        raise UsageError(f"`heads: {shape.heads}` does not divide the width {shape.width}", hint="leave it out")
    prefix_tokens = 1 + shape.registers
    blocks: list[Named] = [("stem", "", Stem(shape))]
    width = last_block.get("width") or shape.width
    for index in range(depth):
        asked = (width, last_block.get("shortcut", "auto")) if index == depth - 1 else ()
        blocks.append((f"blocks.{index}", f"encoder.layers.encoder_layer_{index}.", EncoderBlock(shape, *asked)))
    blocks.append(("norm", "encoder.ln.", Norm(width, shape.norm_eps)))
    blocks.append(("pool", "", TokenPool(width, pool, prefix_tokens)))
    return Chain(blocks, prefix_tokens=prefix_tokens)
