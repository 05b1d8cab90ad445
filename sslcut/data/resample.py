"""Crop, resize, flip and blur as two matrix products: each row and column of a view is a weighted sum of the source's.

The weights are those of torchvision's anti-aliased bilinear resize, written out per image, so that one batched product
serves a batch in which every image is cut out differently. On a CPU that is faster than sampling a grid, which has no
anti-aliasing either.
"""

from functools import cache

import torch
from torch import Tensor

from sslcut.data.parameters import drawers

SHARPEST = 1e-3  # a sigma, in pixels, whose kernel is a single pixel


def weights(start: Tensor, length: Tensor, size: int, source: int, flip: Tensor | None = None) -> Tensor:
    """What `size` output pixels take from each of `source` pixels along one axis: (B, size, source), rows sum to 1.

    The piece begins at `start` and is `length` pixels long, both (B,); `flip` (B,) turns it round. Where the piece
    shrinks, the triangle that weighs the pixels widens with it; pixels outside the piece weigh nothing.
    """
    pixel = torch.arange(source, device=start.device) + 0.5
    output = (torch.arange(size, device=start.device) + 0.5).expand(len(start), size)
    if flip is not None:
        output = torch.where(flip[:, None], size - output, output)
    step = length[:, None] / size  # source pixels in an output pixel
    centre = output * step + start[:, None]
    inside = (pixel > start[:, None]) & (pixel < (start + length)[:, None])  # (B, source)
    reach = step.clamp(min=1)[:, :, None]
    weight = (pixel - centre[:, :, None]).abs_().div_(-reach).add_(1).clamp_(min=0).mul_(inside[:, None])
    return weight.div_(weight.sum(dim=2, keepdim=True))


def resample(source: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images (B, 3, h, w) from a source in lines, (B, S, 3, S), and the weights (B, h, S) and (B, w, S)."""
    count, size = source.shape[:2]
    lines = torch.bmm(rows, source.flatten(2)).view(count, -1, size)  # (B, h·3, S)
    images = torch.bmm(lines, columns.mT).view(count, -1, 3, columns.shape[1])  # (B, h, 3, w)
    return images.transpose(1, 2).contiguous()


def blurred(weight: Tensor, sigma: Tensor, kernel: float) -> Tensor:
    """Resampling weights (B, size, source) that also blur with sigma (B,), 0 for none; may change them in place."""
    part = drawers(sigma > 0)
    weight[part] = torch.bmm(blur_weights(sigma[part], weight.shape[1], kernel), weight[part])
    return weight


def blur_weights(sigma: Tensor, size: int, kernel: float) -> Tensor:
    """A Gaussian blur along one axis with reflected borders, as torchvision's: (B, size, size), rows sum to 1.

    The kernel spans the share `kernel` of the axis, rounded down to an odd number of pixels, and three at least.
    """
    radius = min(max(int(kernel * size) // 2, 1), size - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (offsets / sigma.clamp(min=SHARPEST)[:, None]).square())
    taps = taps / taps.sum(dim=1, keepdim=True)
    return (taps @ _reflections(size, radius, sigma.device)).view(-1, size, size)


@cache
def _reflections(size: int, radius: int, device: torch.device) -> Tensor:
    """For each tap of a kernel, the pixel it reads for each output pixel, one-hot: (taps, size·size)."""
    place = torch.arange(size)[None, :] + torch.arange(-radius, radius + 1)[:, None]
    place = place.abs()
    place = size - 1 - (size - 1 - place).abs()
    return torch.nn.functional.one_hot(place, size).float().flatten(1).to(device)
