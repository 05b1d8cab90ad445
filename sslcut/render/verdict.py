"""Whether an effect over seeds appears: an interval against the smallest effect that counts (no torch).

The interval is Student's t of the paired differences at level 1 − 0.05/m, where m counts the claims that are judged
together, so that at most one study in twenty has any claim that appears without being so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Literal

Word = Literal["appears", "does not appear", "opposite", "undecided", "not measured"]
FAMILY = 0.05  # the chance that any claim of a recipe appears without being so
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Verdict:
    """What the seeds say of one effect: a word, the mean with its interval, and each seed's difference.

    `needed` is the number of seeds that would decide it, were mean and deviation to stay as they are: more than
    MOST_SEEDS where that many would not do, None where it is decided or fewer than two seeds tell no deviation.
    """

    word: Word
    values: tuple[float, ...]
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    needed: int | None = None

    @property
    def positive(self) -> int:
        """How many seeds have a positive difference."""
        return sum(value > 0 for value in self.values)


def judge(values: Sequence[float], smallest: float, claims: int) -> Verdict:
    """The verdict on an effect from its paired differences, one a seed, as one of so many `claims`.

    It appears where the whole interval lies above `smallest`, is opposite where it lies below −`smallest`, does not
    appear where it lies between the two (ends included), and is else undecided. Equal values make an interval of no
    width. One seed decides nothing, and without any it is not measured.
    """
    known = tuple(values)
    if not known:
        return Verdict("not measured", known)
    if len(known) == 1:
        return Verdict("undecided", known, known[0])
    mean, deviation = fmean(known), stdev(known)
    half = half_width(deviation, len(known), claims)
    low, high = mean - half, mean + half
    if low > smallest:
        return Verdict("appears", known, mean, low, high)
    if high < -smallest:
        return Verdict("opposite", known, mean, low, high)
    if low >= -smallest and high <= smallest:
        return Verdict("does not appear", known, mean, low, high)
    return Verdict("undecided", known, mean, low, high, seeds_needed(mean, deviation, smallest, claims))


def level(claims: int) -> float:
    """The level of each claim's interval: 0.95 for a single one, 0.99 for five."""
    return 1 - FAMILY / max(1, claims)


def per_cent(claims: int) -> str:
    """The level in words: `95 %`, `98.33 %`."""
    return f"{100 * level(claims):.2f}".rstrip("0").rstrip(".") + " %"


def half_width(deviation: float, seeds: int, claims: int) -> float:
    """Half the width of the t interval of a mean over so many seeds."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    quantile = float(stdtrit(seeds - 1, (1 + level(claims)) / 2))
    return quantile * deviation / sqrt(seeds)


def seeds_needed(mean: float, deviation: float, smallest: float, claims: int) -> int:
    """The smallest number of seeds whose interval, at this mean and deviation, ends before ±`smallest` is reached.

    What has to be passed is the nearer of the two bounds, at the distance ||mean| − smallest|: from outside for an
    effect that appears or is opposite, from inside for one that does not appear. More than MOST_SEEDS gives the next
    number.
    """
    distance = abs(abs(mean) - smallest)
    low, high = 2, MOST_SEEDS + 1
    while low < high:  # the half-width falls as seeds are added
        middle = (low + high) // 2
        if half_width(deviation, middle, claims) < distance:
            high = middle
        else:
            low = middle + 1
    return low
