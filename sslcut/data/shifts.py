"""Test images as they may come in use: too bright or too dark, noisy, blurred, partly hidden, turned.

Every shift has three strengths, levels 1 to 3; level 0 leaves the images as they are. It takes and gives uint8 images
(B, 3, H, W), and what it draws for an image depends on the image's number alone: not on its batch, nor on a seed, so
that all networks are tested on the same pixels.
"""

from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor

from sslcut.data.draws import uniform
from sslcut.data.images import Images, Labelled
from sslcut.data.resample import blurred
from sslcut.data.views import WHITE
from sslcut.registry import SHIFTS

LEVELS = (1, 2, 3)
BRIGHTNESS = (0.0, 0.1, 0.2, 0.4)  # of the full range, up or down
NOISE = (0.0, 0.05, 0.1, 0.2)  # its deviation, of the full range
BLUR = (0.0, 0.02, 0.04, 0.08)  # its sigma, of the image's side
OCCLUSION = (0.0, 0.1, 0.2, 0.4)  # of the image's area
ROTATION = (0.0, 15.0, 30.0, 60.0)  # degrees, one way or the other
SIGMAS = 3  # of a Gaussian that are summed, to either side
GREY = 128


def brightness(pixels: Tensor, numbers: Tensor, level: int) -> Tensor:
    """Every image brighter or darker by 10, 20 or 40 % of the full range."""
    return _bytes(pixels + (WHITE * BRIGHTNESS[level] * _signs("brightness", numbers))[:, None, None, None])


def noise(pixels: Tensor, numbers: Tensor, level: int) -> Tensor:
    """Independent normal noise in every pixel and channel, of deviation 5, 10 or 20 % of the full range."""
    seeds = (_drawn("noise", numbers, 1)[:, 0] * 2**32).long().tolist()  # torch reads no more bits of a seed
    drawn = torch.empty(pixels.shape)
    for image, seed in zip(drawn, seeds, strict=True):
        image.normal_(generator=torch.Generator().manual_seed(seed))
    return _bytes(drawn.mul_(WHITE * NOISE[level]).add_(pixels))


def blur(pixels: Tensor, numbers: Tensor, level: int) -> Tensor:
    """A Gaussian blur of sigma 2, 4 or 8 % of the side."""
    sigma = torch.full((len(pixels),), BLUR[level] * pixels.shape[-1])
    span = 2 * SIGMAS * BLUR[level]
    across = blurred(pixels.float().mT.contiguous(), sigma, span)
    return _bytes(blurred(across.mT.contiguous(), sigma, span))


def occlusion(pixels: Tensor, numbers: Tensor, level: int) -> Tensor:
    """A grey square somewhere inside the image, over 10, 20 or 40 % of its area."""
    size = pixels.shape[-1]
    side = round(size * OCCLUSION[level] ** 0.5)
    begin = (_drawn("occlusion", numbers, 2) * (size - side + 1)).long()[..., None]  # (B, 2, 1)
    places = torch.arange(size)
    inside = (places >= begin) & (places < begin + side)  # (B, 2, S)
    return pixels.masked_fill((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], GREY)


def rotation(pixels: Tensor, numbers: Tensor, level: int) -> Tensor:
    """Every image turned by 15, 30 or 60 degrees, one way or the other; what it lacks is mirrored at its borders."""
    angle = torch.deg2rad(ROTATION[level] * _signs("rotation", numbers))
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    grid = F.affine_grid(F.pad(turn, (0, 1)), list(pixels.shape), align_corners=False)
    return _bytes(F.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False))


class Shifted(Labelled):
    """The images of another split at `indices` (n,), shifted: by `kind`, at `level`, each by its own of `numbers`."""

    def __init__(self, whole: Images, indices: Tensor, kind: str, level: int, numbers: Tensor) -> None:
        tasks = {name: task.take(indices) for name, task in whole.tasks.items()}
        super().__init__(whole, indices, tasks)
        self.numbers, self.level, self.shift = numbers, level, SHIFTS.load(kind)
        self.resident = False  # shifting is work that can be done ahead

    def read(self, indices: Tensor) -> Tensor:
        pixels: Tensor = self.shift(super().read(indices), self.numbers[indices], self.level)
        return pixels


def _drawn(kind: str, numbers: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each image, (B, count) float64, of this kind of shift alone."""
    return uniform(crc32(kind.encode()), 0, numbers[:, None], torch.arange(count))


def _signs(kind: str, numbers: Tensor) -> Tensor:
    """1 or -1 for each image, (B,)."""
    return 1.0 - 2.0 * (_drawn(kind, numbers, 1)[:, 0] < 0.5).float()


def _bytes(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, WHITE).to(torch.uint8)
