"""A contest: ways to do the same work, timed in turn, and what the fastest of the others demands of sslcut (no torch).

Contenders take turns (A B C A B C …), so that a busy moment meets each alike, and a ratio is the median over the
rounds of the ratio within a round. The first call of each warms up and is not counted.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sslcut.bench.goals import Fact, Goal
from sslcut.bench.memory import Watch
from sslcut.bench.outcome import Outcome, Row
from sslcut.events import Event, Progress

SHORTEST = 0.05  # seconds: a shorter call is repeated within its turn until the turn lasts as long
REPEATS = 200
LONG = 10.0  # seconds: a first call as long as this counts as a turn
MEGABYTE = 2**20

Role = Literal["sslcut", "reference", "peer", "other"]


@dataclass(frozen=True)
class Spent:
    """What a call says of itself where the caller's clock would not do: its seconds, its peak of memory in bytes.

    So is a whole process timed without the one that watches it. What it `found` is shown as its check's facts are.
    """

    seconds: float
    peak: int | None = None
    found: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    `work` is called once a turn; where it returns `Spent`, that counts and not the clock. `role` says what it is to
    sslcut: `reference` comes with sslcut's own dependencies, `peer` does the same job, `other` is shown without being
    compared. `check` is given what the first call returned and tells what is worth a column (objective, accuracy).
    """

    name: str
    work: Callable[[], Any]
    role: Role = "sslcut"
    note: str = ""
    check: Callable[[Any], Mapping[str, Fact]] | None = None


@dataclass(frozen=True)
class Absent:
    """A contender that cannot be had here, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Contest:
    """Contenders that do the same work; the first is the one that `goals` judge.

    `count` is how much a call does, in `unit`s; `settle` waits until a device has done what it was asked. Turns go on
    for the time that the user grants, at least and at most as often as `rounds` says; with `warm` false there is no
    uncounted call. `memory` is what a row's memory means: what a call `added` to the process, or the `peak` of its own.
    """

    title: str
    contenders: Sequence[Contender | Absent]
    goals: Sequence[Goal] = ()
    count: int = 0
    unit: str = ""
    settle: Callable[[], None] = lambda: None
    rounds: tuple[int, int] = (3, 15)
    warm: bool = True
    memory: Literal["", "added", "peak"] = ""

    def run(self, seconds: float) -> Iterator[Event | Outcome]:
        """Take turns for about `seconds`; yields progress and, last, the outcome."""
        all_turns = [_Turns(each, self) for each in self.contenders if isinstance(each, Contender)]
        least, most = self.rounds
        for turns in all_turns if self.warm else ():
            yield Progress(self.title, 0, least, {"warming up": turns.contender.name})
            turns.warm_up()
        round_trip = sum(turns.lasting for turns in all_turns)
        wanted = min(most, max(least, int(seconds / round_trip))) if round_trip else least
        for done in range(wanted):
            for number, turns in enumerate(all_turns):
                yield Progress(self.title, done + number / len(all_turns), wanted, {"now": turns.contender.name})
                turns.take()
        rows = [turns.row() for turns in all_turns]
        absent = {each.name: each.why for each in self.contenders if isinstance(each, Absent)}
        yield Outcome(self.title, rows, self.goals, absent, self.count, self.unit, self.memory)


class _Turns:
    """The turns of one contender: seconds a call, memory, and how long a turn lasts."""

    def __init__(self, contender: Contender, contest: Contest) -> None:
        self.contender, self.contest = contender, contest
        self.seconds: list[float] = []
        self.memory: list[float] = []
        self.facts: dict[str, Fact] = {}
        self.repeats = 1
        self.lasting = 0.0
        self._in_hand: Spent | None = None

    def warm_up(self) -> None:
        """One call that is not counted, unless it lasted so long that its beginnings are no share of it."""
        spent = self._call()
        self.repeats = min(REPEATS, max(1, round(SHORTEST / max(spent.seconds, 1e-9))))
        self.lasting = self.repeats * spent.seconds
        self._in_hand = spent if spent.seconds >= LONG else None

    def take(self) -> None:
        """One turn."""
        spent, self._in_hand = self._in_hand or self._call(), None
        self.seconds.append(spent.seconds)
        if spent.peak is not None:
            self.memory.append(spent.peak / MEGABYTE)

    def row(self) -> Row:
        """What the turns found."""
        told = self.contender
        return Row(told.name, told.role, told.note, self.seconds, self.memory, self.facts)

    def _call(self) -> Spent:
        with Watch() if self.contest.memory == "added" else nullcontext(Watch()) as watch:
            self.contest.settle()
            started = time.perf_counter()
            for _ in range(self.repeats):
                returned = self.contender.work()
            self.contest.settle()
            seconds = (time.perf_counter() - started) / self.repeats
        spent = returned if isinstance(returned, Spent) else Spent(seconds)
        if not self.facts:
            check = self.contender.check
            self.facts = {**spent.found, **(check(returned) if check is not None else {})}
        return replace(spent, peak=watch.added if spent.peak is None else spent.peak)
