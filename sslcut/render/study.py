"""What the report of a sweep with a `study` leads with: its claims, the paper's figure, and a table of conditions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sslcut.claims import Quantity, Study, study_of
from sslcut.render import claimed, compare, words
from sslcut.render.chart import Figure
from sslcut.render.claimed import Judged
from sslcut.render.compare import Group
from sslcut.render.conditions import Setting, by_seed, named, setting
from sslcut.render.gather import Found
from sslcut.render.study_figures import drawn
from sslcut.render.table import Table
from sslcut.render.verdict import per_cent
from sslcut.render.words import Answer


@dataclass(frozen=True)
class Told:
    """A study and what came of it."""

    study: Study
    setting: Setting
    claims: tuple[Judged, ...]

    @property
    def of_paper(self) -> bool:
        """Whether the recipes follow a paper, whose figure is then drawn."""
        return any(one.documents[0].recipe.get("paper") for one in self.setting.groups)

    @property
    def names(self) -> dict[str, str]:
        """Checkpoints by identity, called by condition and seed; none where a checkpoint was read in several ways."""
        groups = self.setting.groups
        named = [
            (document.checkpoint.identity, f"{group.label}, seed {seed}" if len(groups) > 1 else f"seed {seed}")
            for group in groups
            for seed, document in by_seed(group).items()
        ]
        names = dict(named)
        return names if len(names) == len(set(names.values())) == len(named) else {}

    @property
    def answer(self) -> Answer:
        """The verdicts counted, then each claim in a sentence."""
        return Answer("study", claimed.summary(self.claims), tuple(map(claimed.sentence, self.claims)))

    @property
    def prose(self) -> tuple[str, ...]:
        """How the verdicts are reached, and which conditions lack results or seeds."""
        lacking = [f"{words.code(one.label)} has {one.seeds}" for one in self.setting.groups if self._lacks(one)]
        seeds = words.counted(len(self.setting.seeds), "seed")
        short = [f"Of {seeds}, {words.listed(lacking)}: what a seed lacks is left out of its pairs."] if lacking else []
        gone = words.listed([words.code(one.label) for one in self.setting.absent])
        lost = [f"Planned, and without any result: {gone}. Claims that speak of it are not measured."] if gone else []
        return (claimed.rule(self.study), *lost, *short)

    def _lacks(self, group: Group) -> bool:
        return group.seeds < len(self.setting.seeds)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The paper's figure."""
        return tuple(drawn(self.study, self.setting))

    @property
    def tables(self) -> tuple[Table, ...]:
        """The claims, then condition × number."""
        return tuple(_tables(self))


def told(
    found: Sequence[Found],
    grouped: Sequence[Group],
    study: Study | None = None,
    planned: Sequence[Mapping[str, Any]] = (),
) -> Told | None:
    """What a study says of these results: the one given, else the one that all their recipes carry.

    `planned` are the recipes of its cells, where they are known: a condition of which none came to a result is then
    named. None where there is no such study, or where no result has the numbers that a carried one is about.
    """
    carried = [study_of(one.document.recipe) for one in found]
    own = study or (carried[0] if all(each == carried[0] for each in carried) else None)
    if own is None:
        return None
    shared = setting(grouped, own, planned)
    claims = tuple(claimed.judged(own, shared))
    return Told(own, shared, claims) if study or any(one.verdict.values for one in claims) else None


def _tables(told: Told) -> Iterator[Table]:
    rows = tuple(_claim_row(one) for one in told.claims)
    columns = (
        "claim",
        "verdict",
        f"effect ({per_cent(len(told.claims))} interval)",
        "smallest that counts",
        "positive",
        "to decide",
    )
    yield Table("Claim by claim", columns, rows)
    quantities = _quantities(told.study)
    shown = [(group, [told.setting.spread(group, what) for what in quantities]) for group in told.setting.groups]
    cells = tuple(
        (
            group.label,
            str(group.seeds),
            *(_cell(spread, what) for spread, what in zip(spreads, quantities, strict=True)),
        )
        for group, spreads in shown
    )
    title = "Conditions: means with 95 % t intervals over seeds (scores × 100)"
    yield Table(title, ("condition", "seeds", *map(named, quantities)), cells)


def _claim_row(one: Judged) -> tuple[str, ...]:
    verdict, points = one.verdict, one.claim.in_points
    effect = f"{claimed.number(verdict.mean, points=points)}{claimed.interval(one)}"
    seeds = f"{verdict.positive} of {len(verdict.values)}"
    smallest = claimed.number(one.smallest, points=points, sign=False) + one.unit
    open_ = claimed.needed(verdict) if verdict.word == "undecided" else ""
    return one.claim.says, verdict.word, effect, smallest, seeds, open_


def _quantities(study: Study) -> list[Quantity]:
    """The numbers that the claims are about, each once, then those of `table`."""
    every = [*(what for claim in study.claims for what in claim.quantities), *study.table]
    return list({what.model_dump_json(): what for what in every}.values())


def _cell(spread: compare.Spread | None, what: Quantity) -> str:
    if spread is None:
        return words.DASH
    digits = 1 if what.in_points else 3
    told_of = words.number(spread.mean, digits)
    if spread.low is None or spread.high is None:
        return told_of
    return f"{told_of} ({words.number(spread.low, digits)} to {words.number(spread.high, digits)})"
