"""Which cells of a sweep do a stage for others as well, and how its result is entered there. No torch."""

import json
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

from sslcut.errors import InputError, SslcutError
from sslcut.events import Event, Note
from sslcut.recipe import Recipe
from sslcut.rundir import RUN_FILE, RunDir, is_shared, now
from sslcut.sweep import Cell


@dataclass(eq=False)
class Work:
    """A cell that is to be run, and how far it is.

    `trains` is the hash of its training; `leaders` are the cells that do a stage for this one too, `done` the stages
    that are through, `end` a word on how it ended.
    """

    number: int
    cell: Cell
    directory: RunDir
    trains: str | None
    leaders: dict[str, "Work"] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    end: str = ""
    error: Exception | None = None

    @property
    def name(self) -> str:
        """The cell's name."""
        return self.cell.name

    @property
    def ready(self) -> bool:
        """Whether all that a leader does for this cell is there, or will not come."""
        return all(leader.end or stage in leader.done for stage, leader in self.leaders.items())

    @property
    def doomed(self) -> "Work | None":
        """The cell whose training this one would share, where it has ended without one."""
        leader = self.leaders.get("pretrain")
        return leader if leader is not None and leader.end and "pretrain" not in leader.done else None

    @cached_property
    def probed(self) -> str | None:
        """What is measured of which training, as one text; None where nothing is."""
        if self.trains is None or "probe" not in self.cell.recipe.stages:
            return None
        stages = self.cell.recipe.stages
        before = stages[: stages.index("probe")]
        between = [stage for stage in before if stage in ("resize", "guillotine")]  # what is probed is not the same
        sections = [self.cell.recipe.stage_sections(stage) for stage in [*between, "probe"]]
        return json.dumps([self.trains, *sections], sort_keys=True)


def arrange(points: Sequence[Cell], directory: RunDir, key_of: Callable[[Recipe], str]) -> list[Work]:
    """The cells in the order in which they are to be begun: those that lead first.

    Of cells with one training, that one trains which has done it, else one which has begun it, else the first.
    """
    works = [
        Work(number, cell, RunDir(directory.path / cell.name), _trained(cell.recipe, key_of))
        for number, cell in enumerate(points, start=1)
    ]
    by_training = _groups(works, lambda work: work.trains)
    for group in by_training:
        first = min(group, key=progress)
        for work in group:
            if work is not first and progress(work) > 0:
                work.leaders["pretrain"] = first
    order = sorted(works, key=lambda work: bool(work.leaders))
    for group in _groups(order, lambda work: work.probed):
        for work in group[1:]:
            work.leaders["probe"] = group[0]
    return sorted(order, key=lambda work: len(work.leaders))


def _trained(recipe: Recipe, key_of: Callable[[Recipe], str]) -> str | None:
    """The hash of a cell's training; None where it has none, or cannot have any: the cell will say why."""
    try:
        return key_of(recipe) if "pretrain" in recipe.stages else None
    except SslcutError:
        return None


def _groups(works: Sequence[Work], key: Callable[[Work], Hashable]) -> list[list[Work]]:
    """The works with the same key, those without one left out."""
    found: dict[Hashable, list[Work]] = {}
    for work in works:
        if (what := key(work)) is not None:
            found.setdefault(what, []).append(work)
    return list(found.values())


def progress(work: Work) -> int:
    """0 where the cell has trained its network itself, 1 where it has begun to, 2 where it has not."""
    found = work.directory.find("pretrain", work.trains or "")
    if found is not None and not is_shared(found):
        return 0
    return 1 if (work.directory.path / "state" / "last.safetensors").exists() else 2


def take_over(directory: RunDir, stage: str, key: str) -> Iterator[Event]:
    """Enter the step that a sibling's directory has of this stage and hash, by its relative path.

    A directory with a result of its own keeps that.
    """
    own = directory.find(stage, key)
    if own is not None and not is_shared(own):
        return
    for file in sorted(directory.path.parent.glob(f"*/{RUN_FILE}")):
        sibling, step = RunDir(file.parent), None
        with suppress(InputError):  # a damaged one has nothing to share, and its own cell says so
            step = sibling.find(stage, key)
        if step is not None and not is_shared(step) and not file.parent.samefile(directory.path):
            output = os.path.relpath(sibling.output(step), directory.path)
            directory.record(replace(step, output=output, seconds=0.0, finished=now()))
            yield Note(f"{stage} is shared with {sibling.path.name}")
            return
