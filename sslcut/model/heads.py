"""The head: blocks `projector.0`, …, `predictor.0`, …, then `prototypes` or `classifier`, one block a layer."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sslcut.model.chain import Block, Named

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class Dense(Block):
    """A linear layer, its batch norm and its activation, the latter two optional: (B, inputs) → (B, outputs)."""

    folds = (("linear", "norm"),)

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(outputs)
        self.unit_input = False  # normalise each vector to length 1 first (arXiv 2206.15369)
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.norm: nn.Module = nn.Identity()
        self.activation: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.unit_input:
            x = F.normalize(x, dim=1)
        return self.activation(self.norm(self.linear(x)))


class Classifier(nn.Linear):
    """Class weights: (B, inputs) → logits (B, classes)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.width = classes


class Prototypes(nn.Linear):
    """Directions: vectors (…, inputs), scaled to length 1 → their scores (…, count).

    `unit` scales the directions to length 1 as well, which is DINO's weight norm with its gain fixed at 1.
    """

    def __init__(self, inputs: int, count: int, *, unit: bool) -> None:
        super().__init__(inputs, count, bias=False)
        self.width, self.unit = count, unit

    def forward(self, x: Tensor) -> Tensor:
        weight = F.normalize(self.weight, dim=1) if self.unit else self.weight
        return F.linear(F.normalize(x, dim=-1), weight)


def mlp(
    name: str,
    inputs: int,
    *,
    widths: Sequence[int],
    norm: Literal["batch", "none"] = "batch",
    activation: Literal["relu", "gelu"] = "relu",
    bias: bool | None = None,
    last_norm: bool = False,
    last_affine: bool = True,
    last_activation: bool = False,
    last_bias: bool | None = None,
    input_norm: bool = False,
) -> list[Named]:
    """The blocks `name.0`, … of widths `widths`: linear, norm, activation each, the last one linear alone.

    `bias` and `last_bias` None mean a bias where no norm follows. `last_norm` puts a batch norm after the last linear,
    which `last_affine: false` leaves without scale and shift (SimSiam, MoCo v3). `input_norm` scales the input vectors
    to length 1 (t-ReX). No widths, no blocks.
    """
    blocks: list[Named] = []
    for index, width in enumerate(widths):
        last = index == len(widths) - 1
        normed = last_norm if last else norm == "batch"
        asked = last_bias if last else bias
        block = Dense(inputs, width, bias=not normed if asked is None else asked)
        block.unit_input = input_norm and index == 0
        if normed:
            block.norm = nn.BatchNorm1d(width, affine=last_affine or not last)
        if last_activation or not last:
            block.activation = ACTIVATIONS[activation]()
        blocks.append((f"{name}.{index}", f"{name}.{index}.", block))
        inputs = width
    return blocks


def prototypes(inputs: int, *, count: int, unit: bool = False) -> list[Named]:
    """The block `prototypes`: `count` directions."""
    return [("prototypes", "prototypes.", Prototypes(inputs, count, unit=unit))]


def classifier(inputs: int, classes: int) -> list[Named]:
    """The block `classifier`: one weight vector and one bias a class."""
    return [("classifier", "classifier.", Classifier(inputs, classes))]
