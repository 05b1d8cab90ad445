"""Images mixed with others of their batch: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899)."""

from dataclasses import dataclass
from math import sqrt
from random import Random

import torch
from torch import Tensor

Box = tuple[float, float, float, float]
"""Top, left, bottom and right, as shares of an image's side."""


@dataclass(frozen=True)
class Mixing:
    """What a batch is mixed with: each image with the one at its place in `order` (B,), `share` of itself being left.

    With a `box` the other image fills that, else it shines through everywhere.
    """

    order: Tensor
    share: float
    box: Box | None = None

    def __call__(self, crop: Tensor) -> Tensor:
        """A group of views (V, B, 3, h, w), mixed."""
        others = crop[:, self.order]
        if self.box is None:
            return torch.lerp(others, crop, self.share)
        side = crop.shape[-1]
        top, left, bottom, right = (round(edge * side) for edge in self.box)
        mixed = crop.clone(memory_format=torch.preserve_format)
        mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        return mixed


def draw(chance: Random, batch: int, mixup: float, cutmix: float, device: torch.device) -> Mixing:
    """How a batch is mixed: by one of those whose Beta parameter is not 0, either as often as the other."""
    order = torch.tensor(chance.sample(range(batch), batch)).to(device, non_blocking=True)
    cut = bool(cutmix) and (not mixup or chance.random() < 0.5)
    share = chance.betavariate(*([cutmix if cut else mixup] * 2))
    if not cut:
        return Mixing(order, share)
    half, centre = sqrt(1 - share) / 2, (chance.random(), chance.random())
    top, left = (max(0.0, place - half) for place in centre)
    bottom, right = (min(1.0, place + half) for place in centre)
    return Mixing(order, 1 - (bottom - top) * (right - left), (top, left, bottom, right))
