"""A study's claims against its results: each one's paired differences, its verdict, and both in words (no torch)."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sslcut.claims import Claim, Quantity, Study
from sslcut.render import words
from sslcut.render.compare import Group
from sslcut.render.conditions import Setting, by_seed
from sslcut.render.results import Document
from sslcut.render.verdict import FAMILY, MOST_SEEDS, Verdict, Word, judge, per_cent

SHOWN: dict[Word, tuple[str, str]] = {
    "appears": ("appears", "appear"),
    "does not appear": ("does not appear", "do not appear"),
    "opposite": ("shows the opposite", "show the opposite"),
    "undecided": ("is undecided", "are undecided"),
    "not measured": ("was not measured", "were not measured"),
}


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict, the seeds of the study that could not speak of it, and the conditions it lacks."""

    claim: Claim
    verdict: Verdict
    smallest: float
    missing: tuple[Any, ...] = ()
    lacking: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What the effect is counted in: ` points`, or nothing for a measure."""
        return " points" if self.claim.in_points else ""


def judged(study: Study, setting: Setting) -> list[Judged]:
    """Every claim of a study, judged by the results of its conditions."""
    return [_judged(claim, study, setting) for claim in study.claims]


def _judged(claim: Claim, study: Study, setting: Setting) -> Judged:
    found = differences(claim, setting)
    verdict = judge([*found.values()], study.smallest_of(claim), len(study.claims))
    missing = sorted(setting.seeds - found.keys(), key=str)
    lacking = dict.fromkeys(label for asked in claim.sides for label in setting.lacking(asked))
    return Judged(claim, verdict, study.smallest_of(claim), tuple(missing), tuple(lacking))


def differences(claim: Claim, setting: Setting) -> dict[Any, float]:
    """Seed → the claim's effect, for the seeds that every condition it speaks of has.

    In each of `where`'s conditions the value less what it is compared with, their mean; less the same of `against`'s.
    None where a planned condition that it speaks of has no result: the mean over the others is of another thing.
    """
    sides = [setting.where(asked) for asked in claim.sides]
    if not all(sides) or any(setting.lacking(asked) for asked in claim.sides):
        return {}
    effects = [_by_seed(claim, groups, setting) for groups in sides]
    if len(effects) == 1:
        return effects[0]
    return {seed: value - effects[1][seed] for seed, value in effects[0].items() if seed in effects[1]}


def _by_seed(claim: Claim, groups: Sequence[Group], setting: Setting) -> dict[Any, float]:
    found: dict[Any, list[float]] = {}
    for group in groups:
        for seed, document in by_seed(group).items():
            if (effect := _effect(claim, document, setting)) is not None:
                found.setdefault(seed, []).append(effect)
    return {seed: fmean(effects) for seed, effects in found.items() if len(effects) == len(groups)}


def _effect(claim: Claim, document: Document, setting: Setting) -> float | None:
    terms = [
        (sign, setting.value(document, term) if isinstance(term, Quantity) else term) for sign, term in claim.terms
    ]
    known = [sign * value for sign, value in terms if value is not None]
    return sum(known) if len(known) == len(terms) else None


def record(one: Judged) -> dict[str, Any]:
    """A claim as one flat record, for programs: scores in points, measures as they are."""
    verdict = one.verdict
    return {
        "claim": one.claim.says,
        "verdict": verdict.word,
        "effect": verdict.mean,
        "low": verdict.low,
        "high": verdict.high,
        "smallest": one.smallest,
        "unit": one.unit.strip() or None,
        "seeds": len(verdict.values),
        "positive": verdict.positive,
        "needed": verdict.needed,
    }


# ---- in words


def number(value: float | None, *, points: bool, sign: bool = True) -> str:
    """An effect: `+2.5` points, or a measure's difference with three decimals."""
    return words.number(value, 1 if points else 3, sign=sign)


def interval(one: Judged) -> str:
    """` (1.2 to 3.8)`, or nothing where there is none."""
    verdict, points = one.verdict, one.claim.in_points
    if verdict.low is None or verdict.high is None:
        return ""
    ends = [number(end, points=points, sign=False) for end in (verdict.low, verdict.high)]
    return f" ({ends[0]} to {ends[1]})"


def sentence(one: Judged) -> str:
    """A claim with its verdict, effect, interval, seeds and signs."""
    verdict = one.verdict
    head = f"“{one.claim.says}” {SHOWN[verdict.word][0]}"
    if one.lacking:
        return f"{head}: no result of {words.listed([*map(words.code, one.lacking)])}."
    if verdict.mean is None:
        return f"{head}: no seed has the numbers that it is about."
    told = f"{number(verdict.mean, points=one.claim.in_points)}{one.unit}{interval(one)}"
    signs = f"positive in {verdict.positive} of {words.counted(len(verdict.values), 'seed')}"
    return f"{head}: {told}, {signs}{_absent(one)}{decided_by(verdict)}."


def _absent(one: Judged) -> str:
    if not one.missing:
        return ""
    return f"; without {'seed' if len(one.missing) == 1 else 'seeds'} {words.listed([*map(str, one.missing)])}"


def decided_by(verdict: Verdict) -> str:
    """`; about 12 seeds would decide it`, or nothing where it is decided."""
    if verdict.word != "undecided":
        return ""
    return f"; {needed(verdict)} would decide it"


def needed(verdict: Verdict) -> str:
    """How many seeds would decide it, in words."""
    if verdict.needed is None:
        return "two seeds at least"
    return f"more than {MOST_SEEDS:,} seeds" if verdict.needed > MOST_SEEDS else f"about {verdict.needed} seeds"


def summary(found: Sequence[Judged]) -> str:
    """The leading sentence: how many claims have which verdict."""
    counts = {word: sum(one.verdict.word == word for one in found) for word in SHOWN}
    parts = [f"{count} {SHOWN[word][count > 1]}" for word, count in counts.items() if count]
    return f"Of {words.counted(len(found), 'claim')}, {words.listed(parts)}."


def rule(study: Study) -> str:
    """How the verdicts were reached."""
    claims = len(study.claims)
    joint = f" (1 − {FAMILY}/{claims}, since {claims} claims are judged together)" if claims > 1 else ""
    return (
        f"A claim's effect is a difference paired by seed; its interval is Student's t at {per_cent(claims)}{joint}. "
        "It appears where the whole interval lies beyond the smallest effect that counts, does not appear where it "
        "lies within, shows the opposite where it lies beyond on the other side, and is else undecided; without any "
        "result it was not measured. The number of seeds that would decide it supposes that mean and deviation stay as "
        "they are."
    )
