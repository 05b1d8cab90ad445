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
MIDDLE = 0.5  # a solarised image inverts what is at least this bright


def recolour(images: Tensor, drawn: Drawn) -> Tensor:
    """Images (B, 3, h, w) in [0, 1] jittered and greyed as drawn, each value (B,); the result may leave [0, 1]."""
    weights, basis = _constants(images.device)
    luma = images.mean(dim=(2, 3)) @ weights  # (B,)
    gain = drawn["brightness"] * drawn["contrast"]
    lift = drawn["brightness"] * (1 - drawn["contrast"]) * luma
    chroma = torch.where(drawn["grey"], 0.0, drawn["saturation"])
    angle = 2 * torch.pi * drawn["hue"]
    parts = torch.stack([gain, gain * chroma * angle.cos(), gain * chroma * angle.sin()], dim=1)  # (B, 3)
    matrix = (parts @ basis).view(-1, 3, 3)
    return torch.baddbmm(lift[:, None, None], matrix, images.flatten(2)).view_as(images)


def solarise(images: Tensor, drew: Tensor) -> Tensor:
    """Images (B, 3, h, w) in [0, 1], changed in place: those that drew it have their bright pixels inverted."""
    part = drawers(drew)
    chosen = images[part]
    images[part] = torch.where((chosen >= MIDDLE) & drew[part, None, None, None], 1 - chosen, chosen)
    return images


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """The luma's weights (3,) and the three matrices that colours are made of (3, 9), sent to a GPU once."""
    return LUMA.to(device), torch.stack([GREY, CHROMA, QUARTER]).flatten(1).to(device)
