"""A batch of images → its augmented views, made for the whole batch at once on the device where the images lie.

A view is cut out, resized, flipped, recoloured, greyed, blurred, solarised and normalised, in this order. Exact views
do it operator by operator as torchvision does. Fast ones put the blur into the resampling and the colours into one
matrix, which is the same but for the clamps between the steps and for the hue.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslcut.data import colour, exact
from sslcut.data.parameters import Drawn, draw
from sslcut.data.resample import blurred, resample, weights
from sslcut.errors import UsageError
from sslcut.registry import AUGMENTATIONS

WHITE = 255  # of a uint8 image
CHUNK = 64  # images that a CPU works on together: few enough for its caches


class Views(NamedTuple):
    """The views of a batch: for each crop group (V_i, B, 3, h, w) normalised float32, the first group being global.

    Each group is laid out channels-last once its first two dimensions are flattened. `n_global` is V_0, and `drawn`
    what was drawn for all V views in order, each value (V, B): see `parameters.draw`.
    """

    crops: tuple[Tensor, ...]
    n_global: int
    drawn: Drawn


@dataclass(frozen=True)
class Crop:
    """A group of views of one size: how many, their side in pixels, and the share of the image's area they show."""

    count: int
    size: int
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        if self.count < 1 or self.size < 1:
            raise UsageError(f"{self.count} crops of {self.size} pixels", hint="write at least one of one pixel")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(f"crop scale {list(self.scale)}", hint="write two rising shares of the area, up to 1")


class ViewMaker:
    """Makes the views of a batch under a policy of the registry, moved to `strength`.

    Views depend on the seed, the epoch and the images' indices alone, at any batch size and order. Raises UsageError
    for a policy, an option or a strength that is not valid.
    """

    def __init__(
        self,
        crops: Sequence[Crop],
        *,
        policy: str,
        options: dict[str, Any],
        strength: float,
        exact: bool,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.crops, self.exact, self.seed = tuple(crops), exact, seed
        self.policy = AUGMENTATIONS.load(policy)(**options).at(strength)
        self.mean, self.std = tuple(mean), tuple(std)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, indices: Tensor, epoch: int) -> Views:
        """The views of uint8 images (B, 3, S, S), which have the indices (B,) in their data set, in one epoch."""
        device, count = pixels.device, len(pixels)
        scales = [self.policy.crop_scale(crop.scale) for crop in self.crops for _ in range(crop.count)]
        drawn = draw(self.policy, scales, pixels.shape[3], seed=self.seed, epoch=epoch, indices=indices.to(device))
        groups = tuple(_empty(crop, count, device) for crop in self.crops)
        scale, shift = _normaliser(self.mean, self.std, device)
        step = CHUNK if device.type == "cpu" else max(count, 1)
        with torch.autocast(device.type, enabled=False):  # whose half precision would round the resampled pixels
            for start in range(0, count, step):
                part = slice(start, start + step)
                source = _in_lines(pixels[part])
                for view, target in enumerate(image for group in groups for image in group):
                    own = {name: values[view, part] for name, values in drawn.items()}
                    image = self._image(source, own, target.shape[3])
                    target[part] = image.mul_(scale).add_(shift)  # faster than one step that also changes the layout
        return Views(groups, self.crops[0].count, drawn)

    def _image(self, source: Tensor, drawn: Drawn, size: int) -> Tensor:
        """One view of a source in lines (B, S, 3, S): (B, 3, size, size) in [0, 1]."""
        kernel = self.policy.kernel
        rows = weights(drawn["top"], drawn["height"], size, source.shape[1])
        columns = weights(drawn["left"], drawn["width"], size, source.shape[1], drawn["flip"])
        if self.exact:
            images = exact.recolour(resample(source, rows, columns), drawn)
            images = exact.blur(images, drawn["blur"], kernel)
        else:
            rows, columns = (blurred(weight, drawn["blur"], kernel) for weight in (rows, columns))
            images = resample(source, rows, columns)
            images = colour.recolour(images, drawn) if self.policy.colours else images
        return colour.solarise(images.clamp_(0, 1), drawn["solarise"])


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 images (B, 3, S, S) as a network is fed for evaluation: float32, less the mean, over the deviation.

    `mean` and `std` hold a value for each channel, for pixels in [0, 1].
    """
    scale, shift = _normaliser(tuple(mean), tuple(std), pixels.device)
    return pixels.float().mul_(scale / WHITE).add_(shift)


@cache
def _normaliser(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and summand (3, 1, 1) that normalise pixels in [0, 1]; kept, so that a GPU gets them once."""
    centre, spread = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
    return (1 / spread).float().to(device), (-centre / spread).float().to(device)


def _empty(crop: Crop, count: int, device: torch.device) -> Tensor:
    """Room for a group's views (V_i, B, 3, h, w), channels-last, which is what convolutions are fastest on."""
    shape = (3, crop.size, crop.size)
    images = torch.empty((crop.count * count, *shape), device=device, memory_format=torch.channels_last)
    return images.view(crop.count, count, *shape)


def _in_lines(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) → (B, S, 3, S) in [0, 1]: a line holds its three channels, as `resample` reads it."""
    return pixels.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(WHITE)
