"""A batch of images → its augmented views, made for the whole batch at once on the device where the images lie.

A view is cut out, resized, flipped, recoloured, greyed, blurred, solarised and normalised, in this order. Exact views
do it operator by operator as torchvision does. Fast ones blur while they resample and put the colours and the
normalisation into one matrix, which is the same but for the clamps between the steps and for the hue.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslcut.data import colour, exact
from sslcut.data.parameters import Drawn, draw
from sslcut.data.partners import Partners
from sslcut.data.resample import Taps, resample, taps
from sslcut.errors import UsageError
from sslcut.registry import AUGMENTATIONS

WHITE = 255
ROOM = 3 << 20  # bytes that a CPU fills with float32 images before it goes on to the next: its caches hold a few such


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

    Views depend on the seed, the epoch and the images' indices alone, at any batch size and order. With `partners`
    every second view shows the image's partner. Raises UsageError for a policy, an option or a strength that is not
    valid.
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
        partners: Partners | None = None,
    ) -> None:
        self.crops, self.exact, self.seed, self.partners = tuple(crops), exact, seed, partners
        self.policy = AUGMENTATIONS.load(policy)(**options).at(strength)
        self.mean, self.std = tuple(mean), tuple(std)
        views = sum(crop.count for crop in crops)
        self.blurs, self.solarises = (any(self.policy.probability(name, views)) for name in ("blur", "solarise"))

    def shown(self, indices: Tensor, epoch: int) -> Tensor:
        """The images that the views of a batch (B,) show: itself, and behind it its partners where there are any."""
        return indices if self.partners is None else torch.cat([indices, self.partners(indices, epoch)])

    @torch.no_grad()
    def __call__(self, pixels: Tensor, indices: Tensor, epoch: int) -> Views:
        """The views of the images with the indices (B,) in one epoch, from the uint8 pixels of those `shown`, on it."""
        device, count = pixels.device, len(indices)
        sources = (pixels[:count], pixels[-count:])
        scales = [self.policy.crop_scale(crop.scale) for crop in self.crops for _ in range(crop.count)]
        drawn = draw(self.policy, scales, pixels.shape[3], seed=self.seed, epoch=epoch, indices=indices.to(device))
        groups = tuple(_empty(crop, count, device) for crop in self.crops)
        with torch.autocast(device.type, enabled=False):  # whose half precision would round the pixels
            for view, target in enumerate(image for group in groups for image in group):
                self._fill(target, sources[view % 2], {name: values[view] for name, values in drawn.items()})
        return Views(groups, self.crops[0].count, drawn)

    def _fill(self, target: Tensor, pixels: Tensor, drawn: Drawn) -> None:
        """Make one view (B, 3, h, h) of each image by what was drawn for it, each value (B,)."""
        size, source = target.shape[3], pixels.shape[3]
        rows = taps(drawn["top"], drawn["height"], size, source)
        columns = taps(drawn["left"], drawn["width"], size, source, drawn["flip"])
        make = self._exact if self.exact else self._fast
        for part in _chunks(len(target), max(size, source), target.device):
            own = {name: values[part] for name, values in drawn.items()}
            images = make(pixels[part].float(), rows.of(part), columns.of(part), own)
            for channel in range(3):  # three copies of planes are faster than one that reorders the channels too
                target[part, channel] = images[:, channel].mT

    def _fast(self, source: Tensor, rows: Taps, columns: Taps, drawn: Drawn) -> Tensor:
        """Normalised views lying on their side, (B, 3, w, h), of sources (B, 3, S, S) from 0 to 255."""
        scale, shift = _normaliser(self.mean, self.std, source.device)
        images = resample(source, rows, columns, drawn["blur"] if self.blurs else None, self.policy.kernel)
        if self.policy.colours:
            matrix, lift = colour.mixing(images, drawn)
            images = torch.bmm(scale[:, 0] * matrix, images.flatten(2)).view_as(images)
            images += torch.addcmul(shift, lift, scale)
            for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
                images[:, channel].clamp_(-mean / std, (1 - mean) / std)  # black and white
        else:
            images.mul_(scale).add_(shift)
        return colour.solarise(images, drawn["solarise"], WHITE / 2 * scale + shift) if self.solarises else images

    def _exact(self, source: Tensor, rows: Taps, columns: Taps, drawn: Drawn) -> Tensor:
        """The same as `_fast`, operator by operator."""
        scale, shift = _normaliser(self.mean, self.std, source.device)
        images = exact.recolour(resample(source, rows, columns).div_(WHITE), drawn)
        if self.blurs:
            images = exact.blur(images, drawn["blur"], self.policy.kernel)
        images = images.clamp_(0, 1).mul_(WHITE)
        images = colour.solarise(images, drawn["solarise"], WHITE / 2) if self.solarises else images
        return images.mul_(scale).add_(shift)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 images (B, 3, S, S) as a network is fed for evaluation: float32, less the mean, over the deviation.

    `mean` and `std` hold a value for each channel, for pixels in [0, 1].
    """
    scale, shift = _normaliser(tuple(mean), tuple(std), pixels.device)
    return pixels.float().mul_(scale).add_(shift)


@cache
def _normaliser(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and summand (3, 1, 1) that normalise pixels from 0 to 255; kept, so that a GPU gets them once."""
    centre, spread = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
    return (1 / (WHITE * spread)).float().to(device), (-centre / spread).float().to(device)


def _empty(crop: Crop, count: int, device: torch.device) -> Tensor:
    """Room for a group's views (V_i, B, 3, h, w), channels-last, which is what convolutions are fastest on."""
    shape = (3, crop.size, crop.size)
    images = torch.empty((crop.count * count, *shape), device=device, memory_format=torch.channels_last)
    return images.view(crop.count, count, *shape)


def _chunks(count: int, side: int, device: torch.device) -> Iterator[slice]:
    """The parts of a batch that are worked on together: few enough images for a CPU's caches, all of them on a GPU."""
    size = max(1, ROOM // (3 * side**2 * 4)) if device.type == "cpu" else max(count, 1)
    return (slice(start, start + size) for start in range(0, count, size))
