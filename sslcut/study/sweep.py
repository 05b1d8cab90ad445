"""A sweep: each cell in a directory of its own, in turn or side by side, then one report on all."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sslcut.atomic import as_fault
from sslcut.events import Event, Note, Progress, Result, Stage
from sslcut.options import Options
from sslcut.recipe import Recipe
from sslcut.rundir import RunDir
from sslcut.stages import pretrain, report
from sslcut.study import planned
from sslcut.study.abreast import side_by_side
from sslcut.study.arithmetic import Decisions
from sslcut.study.one import check_places, one, passed
from sslcut.study.outcome import begins, ended, failed, followed, row
from sslcut.study.sharing import Work, arrange
from sslcut.sweep import Cell
from sslcut.swept import remember, swept
from sslcut.training.world import use_threads


def run(points: Sequence[Cell], recipe: Recipe, options: Options, directory: RunDir) -> Iterator[Event]:
    """Run every cell, then report on all; raises the first failed cell's fault when all are through."""
    works = arrange(points, directory, _key_of)
    if options.dry_run:
        yield from planned.plan(works, options, directory)
        return
    with directory.lock():
        remember(directory.path, points)
        decisions = Decisions(works, directory, options)
        yield from (row(work, "waiting", state="waiting") for work in sorted(works, key=lambda work: work.number))
        yield from (side_by_side if options.jobs > 1 else _in_turn)(works, options, decisions)
        failures = [work.error for work in sorted(works, key=lambda work: work.number) if work.error is not None]
        result = Result(str(directory.path))
        if len(failures) < len(works) and "report" in recipe.stages:
            title, own = recipe.dump()["report"]["title"], swept(directory.path, points)
            told = report.run([directory.path], directory.path / "report", title, own)
            result = (yield from passed(told)) or result
    if failures:
        if result.text != str(directory.path):
            yield Note(f"the report is on the {len(works) - len(failures)} cells that are done: {result.text}")
        raise failures[0]  # a path on stdout would pass for success
    yield result


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
