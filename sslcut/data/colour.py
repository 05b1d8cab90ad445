"""Colour changes as one 3×3 matrix and an offset per image, and the changes of single pixels that follow.

Without torchvision's clamp after each step, brightness, contrast about the mean grey, saturation and a turn of the hue
in the YIQ plane all commute, so the order in which they are drawn does not matter here: luma and chroma are scaled
apart, and the chroma turned. What differs from the exact views is that clamp, and a hue that keeps an image's luma
where HSV keeps its brightest channel.
"""

from functools import cache

import torch
from torch import Tensor

from sslcut.data.parameters import Drawn, drawers

YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
LUMA = YIQ[0] / YIQ[0].sum()
GREY = LUMA.expand(3, 3)  # every channel becomes the luma
CHROMA = torch.eye(3) - GREY
# A quarter turn of the chroma, from red towards green as HSV's hue runs: I becomes Q, Q becomes -I.
QUARTER = torch.linalg.inv(YIQ) @ torch.stack([torch.zeros(3), YIQ[2], -YIQ[1]]) @ CHROMA


def mixing(images: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """The jitter and grey that were drawn for images (B, 3, h, w), as a matrix (B, 3, 3) and a summand (B, 1, 1, 1).

    Each value of `drawn` is (B,); the summand is in the images' unit, and the result may leave their range.
    """
    weights, basis = _constants(images.device)
    luma = images.flatten(2).mean(dim=2) @ weights  # (B,)
    gain = drawn["brightness"] * drawn["contrast"]
    lift = drawn["brightness"] * (1 - drawn["contrast"]) * luma
    chroma = torch.where(drawn["grey"], 0.0, drawn["saturation"])
    angle = 2 * torch.pi * drawn["hue"]
    parts = torch.stack([gain, gain * chroma * angle.cos(), gain * chroma * angle.sin()], dim=1)  # (B, 3)
    return (parts @ basis).view(-1, 3, 3), lift[:, None, None, None]


def solarise(images: Tensor, drew: Tensor, middle: Tensor | float) -> Tensor:
    """Images (B, 3, h, w), changed in place: those that drew it have what is brighter than `middle` inverted.

    `middle`, a number or (3, 1, 1), is half way between black and white, so that to invert is to reflect about it.
    """
    part = drawers(drew)
    chosen = images[part]
    images[part] = torch.where(drew[part, None, None, None], middle - (chosen - middle).abs(), chosen)
    return images


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """The luma's weights (3,) and the three matrices that colours are made of (3, 9), sent to a GPU once."""
    return LUMA.to(device), torch.stack([GREY, CHROMA, QUARTER]).flatten(1).to(device)
