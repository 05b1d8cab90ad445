"""What a contest asks of sslcut: a ratio to the fastest of the others, or a bound on something measured (no torch)."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sslcut.bench.outcome import Row

Fact = float | str | tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """A median with its first and third quartile."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one number."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclass(frozen=True)
class Verdict:
    """A goal in words, what was measured for it, and whether that is enough; None where there was nothing to judge by.

    `against` is the contender of which `measured` is a multiple, empty where it is none.
    """

    goal: str
    measured: Spread | None = None
    against: str = ""
    reached: bool | None = None


@dataclass(frozen=True)
class Ratio:
    """`at least` N times as fast as, or `at most` N times the seconds of, the fastest of `against`.

    `against` is a role (`reference`, `peer`) or a contender's name. `less` names a contender whose seconds are taken
    off first: the start of a process, say.
    """

    sense: Literal["at least", "at most"]
    factor: float
    against: str
    less: str = ""

    def judge(self, rows: Sequence["Row"]) -> Verdict:
        """Compare the first row with the fastest of the others, round by round."""
        whom = f"the fastest {self.against}" if self.against in ("peer", "reference") else self.against
        goal = f"{self.sense} {self.factor:g} × {whom}" + (f" plus {self.less}" if self.less else "")
        rivals = [row for row in rows[1:] if self.against in (row.role, row.name)]
        if not rivals:
            return Verdict(goal)
        rival = min(rivals, key=lambda row: row.time.value)
        start = next((row.time.value for row in rows if row.name == self.less), 0.0)
        times = [(own - start) / other for own, other in zip(rows[0].seconds, rival.seconds, strict=True)]
        if self.sense == "at most":
            measured = Spread.of(times)
            return Verdict(goal, measured, rival.name, measured.value <= self.factor)
        measured = Spread.of([1 / time for time in times])
        return Verdict(goal, measured, rival.name, measured.value >= self.factor)


@dataclass(frozen=True)
class Bound:
    """A fact of the first row that may be at most `most`: `seconds`, `memory` (MB), or one that its `check` tells."""

    fact: str
    most: float
    unit: str = ""

    def judge(self, rows: Sequence["Row"]) -> Verdict:
        """Compare the first row's fact with the bound."""
        goal = f"{self.fact} at most {self.most:g} {self.unit}".rstrip()
        own = rows[0].facts.get(self.fact)
        known = {"seconds": rows[0].time, "memory": rows[0].space}
        measured = Spread.of([own]) if isinstance(own, float) else known.get(self.fact)
        return Verdict(goal, measured, reached=None if measured is None else measured.value <= self.most)


@dataclass(frozen=True)
class Same:
    """The first row's `fact`, one number or several that should be small, is as good as the best of the others'.

    It may lie above by `within`, as a share, in each of its numbers.
    """

    fact: str
    within: float

    def judge(self, rows: Sequence["Row"]) -> Verdict:
        """Compare the first row's numbers with the others', place by place."""
        goal = f"{self.fact} above the best other's by at most {self.within:g} of it"
        told = [_numbers(row.facts[self.fact]) for row in rows if self.fact in row.facts]
        if len(told) < 2:
            return Verdict(goal)
        gap = max(own / min(others) - 1 for own, *others in zip(*told, strict=True))
        return Verdict(goal, Spread.of([gap]), reached=gap <= self.within)


def _numbers(fact: Fact) -> tuple[float, ...]:
    if isinstance(fact, str):
        raise TypeError(f"a text cannot be compared: {fact}")
    return fact if isinstance(fact, tuple) else (fact,)


Goal = Ratio | Bound | Same
