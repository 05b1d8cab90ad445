"""What each view of each image draws under a policy: where it is cut out and how its colours change.

The crop is torchvision's `RandomResizedCrop`: its share of the area is uniform within the scale and its aspect ratio
log-uniform from 3/4 to 4/3; ten tries, the first that fits inside the image is taken, and the whole image where none
does. Colour factors are torchvision's `ColorJitter`'s.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from sslcut.data.draws import uniform
from sslcut.data.policies import Policy

TRIES = 10
WIDEST = math.log(4 / 3)  # an aspect ratio's logarithm lies within this, either way
# What a view draws besides the tries. New names go last: a place in the list is a number's identity.
SINGLES = (
    *("top", "left", "flip", "jitter", "brightness", "contrast", "saturation", "hue"),
    *("order", "grey", "blur", "sigma", "solarise"),
)
JITTER = slice(2 * TRIES + SINGLES.index("brightness"), 2 * TRIES + SINGLES.index("hue") + 1)
PER_VIEW = 64  # counters kept for each view, so that a new name moves no number of the next view
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = tuple(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))

Drawn = dict[str, Tensor]
Range = tuple[float, float]


def draw(policy: Policy, scales: Sequence[Range], size: int, *, seed: int, epoch: int, indices: Tensor) -> Drawn:
    """What every view of every image draws, each value (V, B); `scales` holds the area share of each view's crop.

    `top`, `left`, `height`, `width` in pixels of a source of side `size`; `brightness`, `contrast`, `saturation` as
    factors (1 = as it is); `hue` in turns and `blur` as a sigma in pixels (0 = none for both); `order`, a place in
    ORDERS; `flip`, `grey` and `solarise` true or false. All lie where `indices` (B,) do.
    """
    views, device = len(scales), indices.device
    counters = torch.arange(2 * TRIES + len(SINGLES), device=device)[:, None]
    counters = counters + PER_VIEW * torch.arange(views, device=device)
    numbers = uniform(seed, epoch, indices, counters[:, :, None])  # (draws, V, B)
    areas, ratios = numbers[:TRIES], numbers[TRIES : 2 * TRIES]
    single = dict(zip(SINGLES, numbers[2 * TRIES :], strict=True))
    happens = {
        name: single[name] < _column(policy.probability(name, views), device)
        for name in ("flip", "jitter", "grey", "blur", "solarise")
    }
    height, width = _sides(areas, ratios, scales, size)
    sigma = _between(policy.sigma, single["sigma"])
    return {
        "top": (single["top"] * (size - height + 1)).long(),
        "left": (single["left"] * (size - width + 1)).long(),
        "height": height,
        "width": width,
        **{name: happens[name] for name in ("flip", "grey", "solarise")},
        **_jitter(policy, numbers[JITTER], happens["jitter"]),
        "order": (single["order"] * len(ORDERS)).long(),
        "blur": torch.where(happens["blur"], sigma, 0.0).float(),
    }


def drawers(drew: Tensor) -> Tensor | slice:
    """The part of a batch that drew something, from a mask (B,): all of it on a GPU, where counting would wait."""
    return drew.nonzero().squeeze(1) if drew.device.type == "cpu" else slice(None)


def _sides(areas: Tensor, ratios: Tensor, scales: Sequence[Range], size: int) -> tuple[Tensor, Tensor]:
    """Height and width (V, B) of the first try that fits, from uniform numbers (tries, V, B)."""
    low, high = (_column(ends, areas.device) for ends in zip(*scales, strict=True))
    area = size**2 * (low + (high - low) * areas)
    ratio = _between((-WIDEST, WIDEST), ratios).exp()
    sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()]).round().long()  # (2, tries, V, B)
    fits = ((sides > 0) & (sides <= size)).all(dim=0)
    first = fits.byte().argmax(dim=0)
    chosen = sides.gather(1, first.expand(2, 1, *first.shape)).squeeze(1)
    height, width = torch.where(fits.any(dim=0), chosen, size)
    return height, width


def _jitter(policy: Policy, numbers: Tensor, jittered: Tensor) -> Drawn:
    """Colour factors and a hue from uniform numbers (4, V, B); the identity for those that are not jittered."""
    device = numbers.device
    amplitudes = (policy.brightness, policy.contrast, policy.saturation)
    low = _column((*(max(0.0, 1 - amplitude) for amplitude in amplitudes), -policy.hue), device)
    high = _column((*(1 + amplitude for amplitude in amplitudes), policy.hue), device)
    drawn = torch.lerp(low[:, None], high[:, None], numbers)
    values = torch.where(jittered, drawn, _column((1.0, 1.0, 1.0, 0.0), device)[:, None]).float()
    return dict(zip(("brightness", "contrast", "saturation", "hue"), values, strict=True))


def _between(ends: Range, numbers: Tensor) -> Tensor:
    """Numbers in [0, 1) spread over a range."""
    return ends[0] + (ends[1] - ends[0]) * numbers


@cache
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value for each view, (V, 1); kept, since copying it to a GPU would make the host wait."""
    return torch.tensor(values, dtype=torch.float64, device=device)[:, None]
