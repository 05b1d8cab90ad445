"""`sslcut run`: a recipe's stages in order, each on what the one before wrote; of a sweep, cell after cell."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from sslcut import answers
from sslcut.errors import SslcutError
from sslcut.events import Event, Note, Plan, Result, Warn
from sslcut.inputs import UNCUT, Given, read_results
from sslcut.methods.making import model_document
from sslcut.model.build import blueprint
from sslcut.names import resolve
from sslcut.options import Options
from sslcut.recipe import Recipe
from sslcut.rundir import CHECKPOINT_STAGES, RunDir
from sslcut.stages import guillotine, pretrain, probe, report
from sslcut.sweep import Cell, cells


def run(recipe: Recipe, options: Options) -> Iterator[Event]:
    """Do the recipe's stages in order, keeping those that are done; yields the last one's path.

    Raises what the stages raise.
    """
    directory = RunDir(options.out or Path("runs") / recipe.name)
    points = cells(recipe)
    yield from _sweep(points, recipe, options, directory) if points else _one(recipe, options, directory)


def _sweep(points: Sequence[Cell], recipe: Recipe, options: Options, directory: RunDir) -> Iterator[Event]:
    """Run every cell in a directory of its own, then report on all; raises the first failure when all are through."""
    failures: list[SslcutError] = []
    with nullcontext() if options.dry_run else directory.lock():
        for number, cell in enumerate(points, start=1):
            yield Note(f"cell {number} of {len(points)}: {cell.name}")
            try:
                yield from _without_result(_one(cell.recipe, options, RunDir(directory.path / cell.name)))
            except SslcutError as error:
                failures.append(error)
                yield Warn(f"cell {cell.name} failed: {error}")
        if len(failures) < len(points) and "report" in recipe.stages and not options.dry_run:
            title = recipe.dump()["report"]["title"]
            told = report.run([directory.path], directory.path / "report", title)
            yield from _without_result(told) if failures else told  # what is printed would pass for success
    if failures:
        raise failures[0]


def _one(recipe: Recipe, options: Options, directory: RunDir) -> Iterator[Event]:
    if "pretrain" in recipe.stages:
        check_places(recipe)
    with nullcontext() if options.dry_run else directory.lock():
        given: Given | None = None
        result: Result | None = None
        for stage in recipe.stages:
            result, given = yield from _stage(stage, recipe, options, directory, given)
    if result is not None and not options.dry_run:
        yield result


def _stage(
    stage: str, recipe: Recipe, options: Options, directory: RunDir, given: Given | None
) -> Generator[Event, None, tuple[Result | None, Given | None]]:
    """Do one stage; returns its result, and what the next one is given."""
    if options.dry_run and stage != "pretrain":
        yield Plan(f"{stage}: on what the stage before writes")
        return None, None
    if stage == "pretrain":
        result = yield from _events(pretrain.run(recipe, replace(options, out=directory.path)))
        return result, Given(Path(result.text)) if result is not None else None
    if given is None and stage != "report":
        given = Given(directory.newest(UNCUT if stage == "guillotine" else CHECKPOINT_STAGES))
    if stage == "probe":
        assert given is not None
        result = yield from _events(probe.run(given, recipe, replace(options, out=None)))
        return result, Given(given.checkpoint, Path(result.text)) if result is not None else given
    if stage == "guillotine":
        assert given is not None
        how = recipe.dump()["guillotine"]
        place = (str(how["at"]), how["task"], how["within"], how["readout"], how["keep_norm"])
        where = guillotine.Options(*place, None, options.force)
        if (
            where.at in guillotine.ANSWERED
            and given.results is not None
            and not answers.known(read_results(given.results))
        ):
            yield Warn("nothing is cut: without labels there is no answer to where")
            return Result(str(given.checkpoint)), given
        result = yield from _events(guillotine.run(given, where))
        return result, Given(Path(result.text)) if result is not None else given
    title = recipe.dump()["report"]["title"]
    return (yield from _events(report.run([directory.path], directory.path / "report", title))), given


def check_places(recipe: Recipe) -> None:
    """Raise UsageError for a layer or final norm that the network will not have, before it is trained."""
    document = recipe.dump()
    chain = blueprint(model_document(document, 2))
    probe.asked_layers(document["probe"]["layers"], chain.names)
    how = document["guillotine"]
    if "guillotine" in recipe.stages and str(how["at"]) not in guillotine.ANSWERED:
        layer = resolve(how["at"], chain.names)
        if how["keep_norm"] and chain.norm_behind(layer) is None:
            raise guillotine.no_norm(layer)


def _without_result(events: Iterator[Event]) -> Iterator[Event]:
    return (event for event in events if not isinstance(event, Result))


def _events(events: Iterator[Event]) -> Generator[Event, None, Result | None]:
    """Pass a stage's events on, but for its result, which is returned."""
    result = None
    for event in events:
        if isinstance(event, Result):
            result = event
        else:
            yield event
    return result
