"""torchvision's colour operators in the drawn order, each with one parameter per image.

`ColorJitter` on float images in [0, 1]: a clamp after every operator, contrast about the mean grey of the image as it
then is, hue in HSV. Agrees with `torchvision.transforms.functional` on one image at a time to float32 rounding.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from sslcut.data.parameters import ORDERS, Drawn, drawers
from sslcut.data.resample import blurred

LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights, which sum to 0.9999
SIXTHS = (5, 3, 1)  # where red, green and blue stand on the hue circle, for `turn`


def recolour(images: Tensor, drawn: Drawn) -> Tensor:
    """Images (B, 3, h, w) in [0, 1] jittered in their drawn order, then greyed; changed in place."""
    orders = _constant(ORDERS, images.device)[drawn["order"]]  # (B, 4)
    for place in range(4):
        for number, (name, operator) in enumerate(OPERATORS.items()):
            identity = 0.0 if name == "hue" else 1.0
            factor = torch.where(orders[:, place] == number, drawn[name], identity)
            part = drawers(factor != identity)
            images[part] = operator(images[part], factor[part, None, None, None])
    part = drawers(drawn["grey"])
    images[part] = torch.where(drawn["grey"][part, None, None, None], grey(images[part]), images[part])
    return images


def blur(images: Tensor, sigma: Tensor, kernel: float) -> Tensor:
    """Images (B, 3, h, h) blurred with sigma (B,), 0 for none, by a kernel of that share of the side."""
    return blurred(blurred(images, sigma, kernel).mT.contiguous(), sigma, kernel).mT


def grey(images: Tensor) -> Tensor:
    """The luma of images, (B, 1, h, w)."""
    red, green, blue = images.unbind(dim=1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def brighten(images: Tensor, factor: Tensor) -> Tensor:
    """Images scaled by a factor (B, 1, 1, 1)."""
    return (images * factor).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Images moved away from their mean grey by a factor (B, 1, 1, 1)."""
    return torch.lerp(grey(images).mean(dim=(2, 3), keepdim=True), images, factor).clamp_(0, 1)


def saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Images moved away from their grey version by a factor (B, 1, 1, 1)."""
    return torch.lerp(grey(images), images, factor).clamp_(0, 1)


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Images whose HSV hue is turned by a part (B, 1, 1, 1) of the circle."""
    red, green, blue = torch.split(images, 1, dim=1)
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    span = torch.where(chroma == 0, 1.0, chroma)  # grey has no hue, and no chroma to show one
    hue = torch.where(value == green, (blue - red) / span + 2, (red - green) / span + 4)
    hue = torch.where(value == red, (green - blue) / span, hue) + 6 * turns  # in sixths of a turn
    sixth = (hue + _constant(SIXTHS, images.device)[:, None, None]) % 6
    return value - chroma * torch.minimum(sixth, 4 - sixth).clamp_(0, 1)


OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brighten,
    "contrast": contrast,
    "saturation": saturate,
    "hue": turn,
}


@cache
def _constant(values: tuple[object, ...], device: torch.device) -> Tensor:
    """Whole numbers as a tensor, sent to a GPU once."""
    return torch.tensor(values, device=device)
