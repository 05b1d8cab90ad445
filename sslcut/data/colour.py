"""Colour changes as one 3×3 matrix and an offset per image, and the changes of single pixels that follow.

Without torchvision's clamp after each step, brightness, contrast about the mean grey, saturation and greying are affine
in an image's colours, and so is their product in the order that is drawn. The hue turns about the grey axis, which is
HSV's own turn at every third of the circle, and between them within 2 % as near to it, on average over all colours, as
the nearest matrix. What differs from the exact views is the clamps and, between thirds, the hue.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from sslcut.data.parameters import CONTRAST, HUE, ORDERS, SATURATION, Drawn, drawers

LUMA = torch.tensor([0.299, 0.587, 0.114])
LUMAS = LUMA.expand(3, 3)  # every channel becomes the luma
MEANS = torch.full((3, 3), 1 / 3)  # every channel becomes their mean
# A quarter turn about the grey axis, from red towards green as HSV's hue runs.
QUARTER = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5


class _Constants(NamedTuple):
    """What colours are mixed of, on a device.

    `basis` (5, 9) holds the matrices; `greys` (3, 3) gives of a colour its mean, its luma and the luma of its quarter
    turn; `hue_first` (24, 2) tells of each order whether the hue comes before the contrast and before the saturation.
    """

    basis: Tensor
    greys: Tensor
    hue_first: Tensor


def mixing(images: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """The jitter and grey that were drawn for images (B, 3, h, w), as a matrix (B, 3, 3) and a summand (B, 1, 1, 1).

    Each value of `drawn` is (B,); the summand is in the images' unit, and the result may leave their range.
    """
    basis, greys, hue_first = _constants(images.device)
    before_contrast, before_saturation = hue_first[drawn["order"]].unbind(dim=1)
    angle, kept = 2 * torch.pi * drawn["hue"], drawn["saturation"]
    cosine, sine = angle.cos(), angle.sin()

    # Contrast moves away from the mean grey, which a turn of the hue before it has changed, if only in the chroma that
    # a saturation before that has left.
    mean, luma, quarter = (images.flatten(2).mean(dim=2) @ greys).unbind(dim=1)
    turned = mean + cosine * (luma - mean) + sine * quarter
    grey = torch.where(before_contrast, luma.lerp(turned, torch.where(before_saturation, 1.0, kept)), luma)
    lift = drawn["brightness"] * (1 - drawn["contrast"]) * grey

    # An image is so much colour, turned; so much grey of the colours as they are turned; and of those as they were.
    colour = torch.where(drawn["grey"], 0.0, kept)
    grey_then = torch.where(before_saturation, 1 - colour, kept - colour)
    grey_first = 1 - colour - grey_then
    parts = [(1 - grey_first) * (1 - cosine), colour * cosine, colour * sine, grey_first + grey_then * cosine]
    gain = drawn["brightness"] * drawn["contrast"]
    mixed = gain[:, None] * torch.stack([*parts, grey_then * sine], dim=1)  # (B, 5)
    return (mixed @ basis).view(-1, 3, 3), lift[:, None, None, None]


def solarise(images: Tensor, drew: Tensor, middle: Tensor | float) -> Tensor:
    """Images (B, 3, h, w), changed in place: those that drew it have what is brighter than `middle` inverted.

    `middle`, a number or (3, 1, 1), is half way between black and white, so that to invert is to reflect about it.
    """
    part = drawers(drew)
    chosen = images[part]
    images[part] = torch.where(drew[part, None, None, None], middle - (chosen - middle).abs(), chosen)
    return images


@cache
def _constants(device: torch.device) -> _Constants:
    """What `mixing` needs on a device, sent to a GPU once."""
    basis = torch.stack([MEANS, torch.eye(3), QUARTER, LUMAS, LUMAS @ QUARTER]).flatten(1)
    greys = torch.stack([MEANS[0], LUMA, LUMA @ QUARTER], dim=1)
    first = [[order.index(HUE) < order.index(other) for other in (CONTRAST, SATURATION)] for order in ORDERS]
    return _Constants(basis.to(device), greys.to(device), torch.tensor(first, device=device))
