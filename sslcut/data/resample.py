"""Crop, resize, flip and blur as sums of rows: a row of a view is a weighted sum of a few rows of its source.

The weights are those of torchvision's anti-aliased bilinear resize, written out for each image, so that one operator
serves a batch in which every image is cut out differently: torch's `embedding_bag`, with the images' rows as its table.
Columns are the rows of the image laid on its side. A product with the same weights as a matrix, nearly all of them
zero, takes 6 to 15 times as long, and sampling a grid has no anti-aliasing.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslcut.data.parameters import drawers

EVERY = slice(None)
SHARPEST = 1e-3  # a sigma, in pixels, whose kernel is a single pixel


class Taps(NamedTuple):
    """Which rows of its source each row of an image is summed from.

    `places` (..., size, K) int32 and their `weights`, float32, which sum to 1 over the K; a tap that is not needed
    weighs 0.
    """

    places: Tensor
    weights: Tensor

    def of(self, part: slice) -> "Taps":
        """The taps of a part of the images."""
        return Taps(self.places[part], self.weights[part])


def taps(start: Tensor, length: Tensor, size: int, source: int, flip: Tensor | None = None) -> Taps:
    """What `size` output pixels are summed from along one axis of `source` pixels.

    The piece begins at `start` and is `length` pixels long, both of any one shape; `flip` turns it round. Where the
    piece shrinks, the triangle that weighs the pixels widens with it; pixels outside the piece weigh nothing.
    """
    output = torch.arange(size, device=start.device) + 0.5
    if flip is not None:
        output = torch.where(flip[..., None], size - output, output)
    step = length[..., None] / size  # source pixels in an output pixel
    start = start[..., None]
    centre, reach = output * step + start, step.clamp(min=1)
    count = math.ceil(2 * max(source / size, 1))  # as many as the widest triangle covers
    first = (centre - reach + 0.5).floor()[..., None]
    places = first + torch.arange(count, device=start.device)
    weights = ((places + (0.5 - centre[..., None])).abs_() / -reach[..., None]).add_(1).clamp_(min=0)
    weights *= (places >= start[..., None]) & (places < (start + length[..., None])[..., None])
    weights /= weights.sum(dim=-1, keepdim=True)
    return Taps(places.clamp_(0, source - 1).int(), weights)


def weighed(images: Tensor, taps: Taps, part: Tensor | slice = EVERY) -> Tensor:
    """Sums of rows: those of `part` of the images (B, C, S, L), N of them, by the taps of each: (N, C, size, L)."""
    count, channels, height, width = images.shape
    first = torch.arange(0, count * channels * height, height, dtype=torch.int32, device=images.device)
    places = first.view(count, channels)[part, :, None, None] + taps.places[:, None]  # (N, C, size, K)
    weights = taps.weights[:, None].expand_as(places)
    bags, size = places.shape[-1], places.shape[2]
    table = images.view(-1, width)  # a row of an image a row
    sums = F.embedding_bag(places.view(-1, bags), table, mode="sum", per_sample_weights=weights.reshape(-1, bags))
    return sums.view(-1, channels, size, width)


def resample(source: Tensor, rows: Taps, columns: Taps, sigma: Tensor | None = None, kernel: float = 1.0) -> Tensor:
    """Images cut out of sources (B, C, S, S) by the taps of each, lying on their side: (B, C, w, h).

    `sigma` (B,) blurs them too, as `blurred` does.
    """
    images = weighed(source, rows)  # (B, C, h, S)
    if sigma is not None:
        images = blurred(images, sigma, kernel)
    images = weighed(images.mT.contiguous(), columns)
    return images if sigma is None else blurred(images, sigma, kernel)


def blurred(images: Tensor, sigma: Tensor, kernel: float) -> Tensor:
    """Images (B, C, size, L) whose rows are mixed by a Gaussian of sigma (B,), 0 for none; changed in place.

    As torchvision's blur along one axis: reflected borders, and a kernel that spans the share `kernel` of the axis,
    rounded down to an odd number of pixels, and three at least.
    """
    size, part = images.shape[2], drawers(sigma > 0)
    radius = min(max(int(kernel * size) // 2, 1), size - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offsets / sigma[part].clamp(min=SHARPEST)[:, None]).square())
    weights /= weights.sum(dim=1, keepdim=True)
    places = _reflections(size, radius, sigma.device)[None]
    images[part] = weighed(images, Taps(places, weights[:, None]), part)
    return images


@cache
def _reflections(size: int, radius: int, device: torch.device) -> Tensor:
    """For each pixel of an axis the pixels that a kernel reads around it, (size, taps) int32."""
    place = (torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)).abs()
    return (size - 1 - (size - 1 - place).abs()).int().to(device)
