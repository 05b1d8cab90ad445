"""What a contest found: its rows, and the verdicts on its goals (no torch)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from sslcut.bench.goals import Fact, Goal, Spread, Verdict


@dataclass(frozen=True)
class Row:
    """One contender's turns: seconds a call, memory in MB (empty where not told), and what its check found."""

    name: str
    role: str
    note: str
    seconds: Sequence[float]
    memory: Sequence[float] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @cached_property
    def time(self) -> Spread:
        """Seconds a call."""
        return Spread.of(self.seconds)

    @cached_property
    def space(self) -> Spread | None:
        """Memory in MB."""
        return Spread.of(self.memory) if self.memory else None


@dataclass(frozen=True)
class Outcome:
    """The rows of a contest, the first of which is judged by its goals; the other fields are the contest's own."""

    title: str
    rows: Sequence[Row]
    goals: Sequence[Goal]
    absent: Mapping[str, str]
    count: int = 0
    unit: str = ""
    memory: str = ""

    @property
    def rounds(self) -> int:
        """How many turns each contender had."""
        return len(self.rows[0].seconds)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """What became of each goal."""
        return [goal.judge(self.rows) for goal in self.goals]

    def rate(self, row: Row) -> float | None:
        """Units of work a second, of the rows that do the contest's work."""
        return self.count / row.time.value if self.count and row.role != "other" else None

    def document(self, part: str, judged: bool = True) -> dict[str, Any]:
        """The outcome as JSON; `judged` is false where the problem is smaller than the goals mean."""
        return {
            "part": part,
            "contest": self.title,
            "rounds": self.rounds,
            "count": self.count or None,
            "unit": self.unit or None,
            "memory": self.memory or None,
            "rows": [self._row(row) for row in self.rows],
            "absent": dict(self.absent),
            "goals": [_goal(verdict, judged) for verdict in self.verdicts],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "name": row.name,
            "role": row.role,
            "note": row.note or None,
            "seconds": row.time.value,
            "seconds_low": row.time.low,
            "seconds_high": row.time.high,
            "per_second": self.rate(row),
            "memory_mb": row.space.value if row.space else None,
            "facts": dict(row.facts),
            "turns": list(row.seconds),
        }


def _goal(verdict: Verdict, judged: bool) -> dict[str, Any]:
    spread = asdict(verdict.measured) if verdict.measured else {"value": None, "low": None, "high": None}
    reached = verdict.reached if judged else None
    return {"goal": verdict.goal, **spread, "against": verdict.against or None, "reached": reached}
