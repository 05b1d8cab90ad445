"""View policies: what a view may undergo, with the published values as defaults (no torch).

A probability is one number for every view, or a list with one for each, whose last stands for all views that follow:
`blur: [1.0, 0.1, 0.5]` is two global views and any number of local ones. `Policy.at` moves a whole policy between no
augmentation (0), the published one (1) and beyond.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sslcut.errors import UsageError

SMALLEST_CROP = 0.02  # share of the image's area that a strong policy still leaves
WIDEST_HUE = 0.5  # half a turn either way is every hue
PROBABILITIES = ("flip", "jitter", "grey", "blur", "solarise")
AMPLITUDES = {"crop": math.inf, "brightness": math.inf, "contrast": math.inf, "saturation": math.inf, "hue": WIDEST_HUE}

Chance = float | Sequence[float]


@dataclass(frozen=True)
class Policy:
    """Probabilities and amplitudes of what a view undergoes; the defaults are the identity.

    `crop` is how far a crop's scale goes from the whole image (0) to the recipe's (1). Brightness, contrast and
    saturation are factors within 1 ± amplitude, `hue` is a turn within ± amplitude. `sigma` is in pixels, and the
    blur's kernel spans the share `kernel` of the side, three pixels at least. Raises UsageError for a value out of
    range.
    """

    crop: float = 0.0
    flip: Chance = 0.0
    jitter: Chance = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: Chance = 0.0
    blur: Chance = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: float = 0.1
    solarise: Chance = 0.0

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            if not (values := _each(getattr(self, name))) or not all(0 <= value <= 1 for value in values):
                raise UsageError(f"view probability `{name}` is {getattr(self, name)}", hint="write 0 to 1, or a list")
        for name, limit in AMPLITUDES.items():
            if not 0 <= (value := getattr(self, name)) <= limit:
                raise UsageError(f"view amplitude `{name}` is {value}", hint=f"write a number from 0 to {limit}")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise UsageError(f"blur `sigma` is {list(self.sigma)}", hint="write two rising numbers of pixels above 0")
        if not 0 < self.kernel <= 1:
            raise UsageError(f"blur `kernel` is {self.kernel}", hint="write a share of the side, above 0 and up to 1")

    @property
    def colours(self) -> bool:
        """Whether a view may change its colours, solarising aside."""
        return any(_each(self.jitter)) or any(_each(self.grey))

    def probability(self, name: str, views: int) -> tuple[float, ...]:
        """The probability of flip, jitter, grey, blur or solarise in each of so many views."""
        values = _each(getattr(self, name))
        return tuple(values[min(view, len(values) - 1)] for view in range(views))

    def crop_scale(self, published: tuple[float, float]) -> tuple[float, float]:
        """The range of a crop's share of the image's area under this policy, where a recipe says `published`."""
        floor = min(SMALLEST_CROP, published[0])
        low, high = (max(floor, 1 - (1 - end) * self.crop) for end in published)
        return low, high

    def at(self, strength: float) -> "Policy":
        """This policy moved to `strength`: 0 is the identity, 1 what it is now, more is more, within what is valid.

        Amplitudes and probabilities are scaled; but jitter keeps its probability, blur its sigmas, and a flip is never
        likelier than published. Raises UsageError for a negative or infinite strength.
        """
        if not 0 <= strength < math.inf:
            raise UsageError(f"view strength {strength}", hint="write 0 (no augmentation), 1 (as published) or more")
        return replace(
            self,
            crop=self.crop * strength,
            flip=_scaled(self.flip, min(strength, 1.0)),
            brightness=self.brightness * strength,
            contrast=self.contrast * strength,
            saturation=self.saturation * strength,
            hue=min(self.hue * strength, WIDEST_HUE),
            grey=_scaled(self.grey, strength),
            blur=_scaled(self.blur, strength),
            solarise=_scaled(self.solarise, strength),
        )


def simclr(
    *,
    flip: float | tuple[float, ...] = 0.5,
    jitter: float | tuple[float, ...] = 0.8,
    brightness: float = 0.8,
    contrast: float = 0.8,
    saturation: float = 0.8,
    hue: float = 0.2,
    grey: float | tuple[float, ...] = 0.2,
    blur: float | tuple[float, ...] = 0.5,
    sigma: tuple[float, float] = (0.1, 2.0),
    kernel: float = 0.1,
    solarise: float | tuple[float, ...] = 0.0,
) -> Policy:
    """SimCLR's views: strong colour jitter, grey and blur, the same for every view (arXiv 2002.05709, appendix A)."""
    return Policy(1.0, flip, jitter, brightness, contrast, saturation, hue, grey, blur, sigma, kernel, solarise)


def vicreg(
    *,
    flip: float | tuple[float, ...] = 0.5,
    jitter: float | tuple[float, ...] = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
    grey: float | tuple[float, ...] = 0.2,
    blur: float | tuple[float, ...] = 0.5,
    sigma: tuple[float, float] = (0.1, 2.0),
    kernel: float = 0.1,
    solarise: float | tuple[float, ...] = 0.1,
) -> Policy:
    """VICReg's views: BYOL's colours, with blur and solarising shared evenly by the views (arXiv 2105.04906)."""
    return Policy(1.0, flip, jitter, brightness, contrast, saturation, hue, grey, blur, sigma, kernel, solarise)


def byol(
    *,
    flip: float | tuple[float, ...] = 0.5,
    jitter: float | tuple[float, ...] = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
    grey: float | tuple[float, ...] = 0.2,
    blur: float | tuple[float, ...] = (1.0, 0.1),
    sigma: tuple[float, float] = (0.1, 2.0),
    kernel: float = 0.1,
    solarise: float | tuple[float, ...] = (0.0, 0.2),
) -> Policy:
    """BYOL's views: the first is always blurred, the second seldom, and solarised at times (arXiv 2006.07733)."""
    return Policy(1.0, flip, jitter, brightness, contrast, saturation, hue, grey, blur, sigma, kernel, solarise)


def moco_v2(
    *,
    flip: float | tuple[float, ...] = 0.5,
    jitter: float | tuple[float, ...] = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    grey: float | tuple[float, ...] = 0.2,
    blur: float | tuple[float, ...] = 0.5,
    sigma: tuple[float, float] = (0.1, 2.0),
    kernel: float = 0.1,
    solarise: float | tuple[float, ...] = 0.0,
) -> Policy:
    """MoCo v2's and SimSiam's views: SimCLR's with half the colour jitter (arXiv 2003.04297)."""
    return Policy(1.0, flip, jitter, brightness, contrast, saturation, hue, grey, blur, sigma, kernel, solarise)


def dino(
    *,
    flip: float | tuple[float, ...] = 0.5,
    jitter: float | tuple[float, ...] = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
    grey: float | tuple[float, ...] = 0.2,
    blur: float | tuple[float, ...] = (1.0, 0.1, 0.5),
    sigma: tuple[float, float] = (0.1, 2.0),
    kernel: float = 0.1,
    solarise: float | tuple[float, ...] = (0.0, 0.2, 0.0),
) -> Policy:
    """DINO's views: BYOL's for two global ones, local ones blurred half the time (arXiv 2104.14294)."""
    return Policy(1.0, flip, jitter, brightness, contrast, saturation, hue, grey, blur, sigma, kernel, solarise)


def trex(
    *,
    flip: float | tuple[float, ...] = 0.5,
    jitter: float | tuple[float, ...] = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
    grey: float | tuple[float, ...] = 0.2,
    blur: float | tuple[float, ...] = (0.2, 0.5),
    sigma: tuple[float, float] = (0.1, 2.0),
    kernel: float = 0.1,
    solarise: float | tuple[float, ...] = (0.2, 0.0),
) -> Policy:
    """t-ReX's views: the global one is solarised at times, local ones blurred half the time (arXiv 2206.15369)."""
    return Policy(1.0, flip, jitter, brightness, contrast, saturation, hue, grey, blur, sigma, kernel, solarise)


def supervised(*, flip: float | tuple[float, ...] = 0.5) -> Policy:
    """A crop and a flip, as torchvision trains its classifiers."""
    return Policy(crop=1.0, flip=flip)


def none() -> Policy:
    """The whole image, resized and nothing else."""
    return Policy()


def _each(chance: Chance) -> tuple[float, ...]:
    return tuple(chance) if isinstance(chance, Sequence) else (chance,)


def _scaled(chance: Chance, factor: float) -> tuple[float, ...]:
    return tuple(min(p * factor, 1.0) for p in _each(chance))
