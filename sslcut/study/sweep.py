"""A sweep: each cell in a directory of its own, in turn or side by side, then one report on all."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from sslcut.atomic import as_fault
from sslcut.events import Event, Note, Progress, Result, Stage
from sslcut.options import Options
from sslcut.recipe import Recipe
from sslcut.render.gather import PATTERN
from sslcut.rundir import RunDir
from sslcut.stages import pretrain, report
from sslcut.study import planned
from sslcut.study.abreast import side_by_side
from sslcut.study.arithmetic import Decisions
from sslcut.study.one import check_places, one
from sslcut.study.outcome import begins, ended, failed, followed, row
from sslcut.study.sharing import Work, arrange
from sslcut.sweep import Cell
from sslcut.training.world import use_threads


def run(points: Sequence[Cell], recipe: Recipe, options: Options, directory: RunDir) -> Iterator[Event]:
    """Run every cell, then report on all; raises the first failed cell's fault when all are through."""
    works = arrange(points, directory, _key_of)
    if options.dry_run:
        yield from planned.plan(works, options, directory)
        return
    with directory.lock():
        decisions = Decisions(works, directory, options)
        yield from (row(work, "waiting", state="waiting") for work in sorted(works, key=lambda work: work.number))
        yield from (side_by_side if options.jobs > 1 else _in_turn)(works, options, decisions)
        failures = [work.error for work in sorted(works, key=lambda work: work.number) if work.error is not None]
        result = Result(str(directory.path))
        if len(failures) < len(works) and "report" in recipe.stages:
            result = yield from _report(works, recipe, directory)
    if failures:
        if result.text != str(directory.path):
            yield Note(f"the report is on the {len(works) - len(failures)} cells that are done: {result.text}")
        raise failures[0]  # a path on stdout would pass for success
    yield result


def _report(works: Sequence[Work], recipe: Recipe, directory: RunDir) -> Generator[Event, None, Result]:
    """Report on the sweep's own cells; returns the report. A note tells of others in the same directory."""
    told = [work.directory.path for work in works if _measured(work)]
    if strangers := {path.parent for path in directory.path.glob(f"*/{PATTERN}")} - {*told}:
        others = f"{len(strangers)} other{'s' * (len(strangers) > 1)}"
        yield Note(f"the report is on this sweep's cells: `sslcut report {directory.path}` takes in {others}")
    title, planned = recipe.dump()["report"]["title"], [work.cell.recipe.stored() for work in works]
    result = Result(str(directory.path))
    for event in report.run(told or [directory.path], directory.path / "report", title, recipe.study, planned):
        if isinstance(event, Result):
            result = event
        else:
            yield event
    return result


def _measured(work: Work) -> bool:
    return any(work.directory.path.glob(PATTERN))


def _key_of(recipe: Recipe) -> str:
    """The hash of a cell's training; raises what would keep the cell from beginning it, so that none waits for it."""
    check_places(recipe)
    return pretrain.key_of(recipe)


def _in_turn(works: Sequence[Work], options: Options, decisions: Decisions) -> Iterator[Event]:
    threads = use_threads(options.threads)
    for work in works:
        use_threads(threads)  # a cell that is resumed takes those that it began with
        yield Note(f"cell {work.number} of {len(works)}: {work.name}")
        yield from _alone(work, options, decisions)


def _alone(work: Work, options: Options, decisions: Decisions) -> Iterator[Event]:
    """Run one cell in this process; its notes are passed on, and a failure is told rather than raised."""
    if work.doomed is not None:
        yield from followed(work, work.doomed)
        return
    recipe = work.cell.recipe
    try:
        for event in one(recipe, replace(options, precision=decisions.of(recipe)), work.directory, work.leaders):
            if isinstance(event, Result):
                yield ended(work, event)
            elif isinstance(event, Stage):
                yield from _at(work, event, decisions)
            elif isinstance(event, Progress):
                yield row(work, event.line())
            else:
                yield event
    except Exception as error:
        yield from failed(work, as_fault(error) or error)
    work.end = work.end or "done"


def _at(work: Work, stage: Stage, decisions: Decisions) -> Iterator[Event]:
    if not stage.done:
        yield begins(work, stage)
        return
    work.done.add(stage.text)
    if stage.text == "pretrain":
        decisions.learn(work)
