"""The shortcut of a residual block whose output may be of another width than its input."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sslcut.errors import UsageError


def projects(inputs: int, outputs: int, shortcut: str, stride: int = 1) -> bool:
    """Whether the shortcut is a projection: with `auto` where the shapes differ, with `always` everywhere.

    Raises UsageError where `never` cannot be had.
    """
    differ = stride != 1 or inputs != outputs
    if differ and shortcut == "never":
        given = f"the last block turns {inputs} channels into {outputs} at stride {stride}"
        hint = "write `auto` or `always`" if stride != 1 else f"write `auto` or `always`, or `width: {inputs}`"
        raise UsageError(f"`last_block.shortcut: never` needs equal shapes, but {given}", hint=hint)
    return differ or shortcut == "always"


def across_channels(inputs: int, outputs: int) -> torch.Tensor:
    """Weights (outputs, inputs) of a projection that no norm follows: what it gives is as large as what it is given."""
    return nn.init.normal_(torch.empty(outputs, inputs), std=1 / math.sqrt(inputs))


def changed(last_block: Mapping[str, Any]) -> bool:
    """Whether a recipe's `model.last_block` asks for another last block than the architecture's own."""
    return bool(last_block.get("width")) or last_block.get("shortcut", "auto") != "auto"
