"""The last block of torchvision's ConvNeXts (arXiv 2201.03545) at any width.

As in arXiv 2304.05369 only the block's last linear, that branch's scale, its shortcut and what reads its output change;
for a ConvNeXt that is an extension of our own.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from sslcut.model.shortcut import across_channels, projects

DEVIATION = 0.02  # of the weights that torchvision draws
LAST = 5  # where the last linear stands in torchvision's row of a block's modules


class LastBlock(nn.Module):
    """torchvision's CNBlock with an output of its own width: (B, inputs, H, W) → (B, outputs, H, W).

    Of the architecture's own width it is that block: the same modules, tensors and numbers.
    """

    widened = ("block.5", "layer_scale", "shortcut")

    def __init__(self, stock: Any, outputs: int, shortcut: str) -> None:
        super().__init__()
        self.block, self.layer_scale, self.stochastic_depth = stock.block, stock.layer_scale, stock.stochastic_depth
        inputs = self.block[LAST].out_features
        if outputs != inputs:
            self.block[LAST] = linear(self.block[LAST].in_features, outputs)
            begin = float(stock.layer_scale.detach().flatten()[0]) if not stock.layer_scale.is_meta else 0.0
            self.layer_scale = nn.Parameter(torch.full((outputs, 1, 1), begin))
        self.shortcut: nn.Conv2d | None = None
        if projects(inputs, outputs, shortcut):
            self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.shortcut.weight = nn.Parameter(across_channels(inputs, outputs)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        branch = self.stochastic_depth(self.layer_scale * self.block(x))
        branch += x if self.shortcut is None else self.shortcut(x)
        return branch


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer, drawn as torchvision draws a ConvNeXt's."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=DEVIATION)
    nn.init.zeros_(layer.bias)
    return layer


def with_last_block(network: nn.Module, last_block: Mapping[str, Any]) -> nn.Module:
    """A ConvNeXt of torchvision's with its last block as a recipe's `last_block` says; changes the network itself.

    Raises UsageError where a shortcut cannot be had.
    """
    its = cast(Any, network)
    stage, (norm, _, classes) = its.features[-1], its.classifier
    inputs = stage[-1].block[LAST].out_features
    outputs = last_block.get("width") or inputs
    stage[-1] = LastBlock(stage[-1], outputs, last_block.get("shortcut", "auto"))
    if outputs != inputs:
        its.classifier[0] = type(norm)(outputs, eps=norm.eps)
        its.classifier[2] = linear(outputs, classes.out_features)
    return network
