"""A recipe's stages in order, each on what the one before wrote; those of a sweep's cell, with what siblings did."""

import json
from collections.abc import Collection, Generator, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from sslcut import answers, header
from sslcut.data.opening import open_data
from sslcut.errors import AbsentError, UsageError, suggestion
from sslcut.events import Event, Plan, Result, Stage, Warn
from sslcut.inputs import UNCUT, Given, read_results
from sslcut.methods.making import model_document
from sslcut.metrics.shifted import no_test_split
from sslcut.model.build import blueprint
from sslcut.model.widths import resized
from sslcut.names import resolve
from sslcut.options import Options
from sslcut.recipe import Recipe
from sslcut.rundir import CHECKPOINT_STAGES, RunDir
from sslcut.soundness import check_layers, tasks_asked
from sslcut.stages import guillotine, pretrain, probe, report, resize
from sslcut.study.sharing import take_over
from sslcut.training.online import asked_taps


def one(recipe: Recipe, options: Options, directory: RunDir, follows: Collection[str] | None = None) -> Iterator[Event]:
    """Do the recipe's stages in order, keeping those that are done; yields Stage events, and the last one's path.

    As a sweep's cell (`follows` is not None) the run makes no report of its own, and enters what a sibling has done
    instead of doing it again; stages in `follows` a sibling does for it, so that no force repeats them here. Raises
    what the stages raise.
    """
    stages = [stage for stage in recipe.stages if follows is None or stage != "report"]
    if "pretrain" in stages:
        check_places(recipe)
        if "pretrain" not in (follows or ()) and not _trained(recipe, options, directory):
            yield from check_data(recipe)
    with nullcontext() if options.dry_run else directory.lock():
        given: Given | None = None
        result: Result | None = None
        for stage in stages:
            yield Stage(stage)
            how = options if follows is None or stage not in follows else replace(options, force=False)
            if follows is not None and not how.force:
                yield from _taken_over(stage, recipe, directory, given)
            result, given = yield from _stage(stage, recipe, how, directory, given)
            yield Stage(stage, done=True)
    if result is not None and not options.dry_run:
        yield result


def _trained(recipe: Recipe, options: Options, directory: RunDir) -> bool:
    return not options.force and directory.find("pretrain", pretrain.key_of(recipe)) is not None


def check_data(recipe: Recipe, seen: dict[str, tuple[tuple[str, ...], bool]] | None = None) -> Iterator[Event]:
    """Raise UsageError, before the network is trained, for tasks and shifts that the data does not have.

    `seen` keeps each data set's tasks and whether it has a test split, for recipes that differ in other things.
    """
    document, seen = recipe.dump(), {} if seen is None else seen
    named, shifts = [*tasks_asked(document)], document["probe"]["shifts"]
    if "probe" not in recipe.stages or not (named or shifts):
        return
    key = json.dumps(document["data"], sort_keys=True)
    if key not in seen:
        with suppress(AbsentError):  # which the training tells, and a plan lists
            opened = yield from open_data(document["data"], document["seed"])  # it stays open for the training
            seen[key] = tuple(opened.dataset.train.tasks), opened.dataset.test is not None
    tasks, tested = seen.get(key, (tuple(task for _, task in named), True))
    if shifts and not tested:
        raise no_test_split()
    for what, task in named:
        if task not in tasks:
            hint = suggestion(task, tasks, "tasks") if tasks else "it has no labels"
            raise UsageError(f"{what} names `{task}`, and the data has no such task", hint=hint)


def _taken_over(stage: str, recipe: Recipe, directory: RunDir, given: Given | None) -> Iterator[Event]:
    """Enter a sibling's result of this stage, where one has done it: the stage then finds it done."""
    if stage == "pretrain" and not (directory.path / pretrain.FILE).exists():
        yield from take_over(directory, stage, pretrain.key_of(recipe))
    elif stage == "probe" and given is not None:
        yield from take_over(directory, stage, probe.key_of(header.read_network(given.checkpoint), recipe))


def _stage(
    stage: str, recipe: Recipe, options: Options, directory: RunDir, given: Given | None
) -> Generator[Event, None, tuple[Result | None, Given | None]]:
    """Do one stage; returns its result, and what the next one is given."""
    if options.dry_run and stage != "pretrain":
        yield Plan(f"{stage}: on what the stage before writes")
        return None, None
    if stage == "pretrain":
        result = yield from passed(pretrain.run(recipe, replace(options, out=directory.path)))
        return result, Given(Path(result.text), directory=directory.path) if result is not None else None
    if given is None and stage != "report":
        newest = directory.newest(UNCUT if stage in ("guillotine", "resize") else CHECKPOINT_STAGES)
        given = Given(newest, directory=directory.path)
    if stage == "resize":
        assert given is not None
        made = resize.run(given, resize.asked(recipe), resize.Options(None, options.force), recipe)
        result = yield from passed(made)
        return result, Given(Path(result.text), directory=directory.path) if result is not None else given
    if stage == "probe":
        assert given is not None
        result = yield from passed(probe.run(given, recipe, replace(options, out=None)))
        return result, replace(given, results=Path(result.text)) if result is not None else given
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
        result = yield from passed(guillotine.run(given, where))
        return result, Given(Path(result.text), directory=directory.path) if result is not None else given
    title = recipe.dump()["report"]["title"]
    return (yield from passed(report.run([directory.path], directory.path / "report", title))), given


def check_places(recipe: Recipe) -> None:
    """Raise UsageError for a layer or final norm that the network will not have, before it is trained."""
    document = recipe.dump()
    model = model_document(document, 2)
    chain = blueprint(model)
    if "resize" in recipe.stages:
        chain = resized(chain, blueprint(resize.asked(recipe).of_model(model)))
    measured = probe.asked_layers(document["probe"]["layers"], chain.names)
    check_layers(document, chain.names, measured)
    if document["train"]["online"] is not None:
        asked_taps(document["train"]["online"]["layers"], chain.names)
    how = document["guillotine"]
    if "guillotine" in recipe.stages and str(how["at"]) not in guillotine.ANSWERED:
        layer = resolve(how["at"], chain.names)
        if how["keep_norm"] and chain.norm_behind(layer) is None:
            raise guillotine.no_norm(layer)


def passed(events: Iterator[Event]) -> Generator[Event, None, Result | None]:
    """Pass a stage's events on, but for its result, which is returned."""
    result = None
    for event in events:
        if isinstance(event, Result):
            result = event
        else:
            yield event
    return result
