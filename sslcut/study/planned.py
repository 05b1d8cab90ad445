"""What a sweep would do, for `--dry-run`: its cells, how many trainings they share, each plan once, the disk."""

import json
from collections.abc import Collection, Generator, Iterator, Sequence

from sslcut.errors import SslcutError
from sslcut.events import Event, Plan, Warn
from sslcut.methods.making import check_fit
from sslcut.options import Options
from sslcut.recipe import Recipe
from sslcut.rundir import RunDir
from sslcut.stages import pretrain
from sslcut.study.one import check_data, check_places
from sslcut.study.sharing import Work
from sslcut.training.estimate import gigabytes
from sslcut.training.outlook import plan as plan_training
from sslcut.training.world import choose_device


def plan(works: Sequence[Work], options: Options, directory: RunDir) -> Iterator[Event]:
    """Check every cell and tell the plan; raises the first fault when all have been checked."""
    works = sorted(works, key=lambda work: work.number)
    every = works[0].cell.recipe.stages
    stages, reported = ", ".join(stage for stage in every if stage != "report"), "report" in every
    yield Plan(f"{len(works)} cells in {directory.path}, {min(options.jobs, len(works))} at a time")
    yield from (Plan(f"  {work.name}") for work in works)
    trainings = {work.trains: work for work in works if work.trains is not None and "pretrain" not in work.leaders}
    done = [work for work in trainings.values() if work.directory.find("pretrain", work.trains or "") is not None]
    yield Plan(f"trainings: {len(trainings)}, of which done already: {len(done)}")
    faults, sizes = yield from _plans(works, trainings.values(), options)
    if sizes:
        states = 2 * pretrain.STATE_COPIES * max(sizes) * min(options.jobs, len(sizes))
        yield Plan(f"disk: {gigabytes(sum(sizes))} of checkpoints, up to {gigabytes(states)} of states; results more")
    parts = [f"each cell: {stages}"] * bool(stages) + ["one report on all"] * reported
    yield Plan("; then ".join(parts))
    if faults:
        raise faults[0]


def _plans(
    works: Sequence[Work], trainings: Collection[Work], options: Options
) -> Generator[Event, None, tuple[list[SslcutError], list[int]]]:
    """Tell each plan once, with the cells that it is of; returns cells' faults, and the bytes of each checkpoint."""
    faults: list[SslcutError] = []
    sizes: list[int] = []
    known: dict[str, _Told] = {}
    told: dict[tuple[Event, ...], list[str]] = {}
    refused: dict[str, list[str]] = {}
    seen: dict[str, tuple[tuple[str, ...], bool]] = {}
    for work in works:
        recipe = work.cell.recipe
        try:
            if "pretrain" in recipe.stages:
                check_places(recipe)
                yield from check_data(recipe, seen)
                if work.trains is None:
                    pretrain.key_of(recipe)  # says why it has none
            if work in trainings:
                alike = json.dumps({**recipe.stage_sections("pretrain"), "seed": None}, sort_keys=True)
                if alike not in known:
                    known[alike] = yield from _training(recipe, options)
                lines, size = known[alike]
                sizes.append(size)
                told.setdefault(lines, []).append(work.name)
        except SslcutError as error:
            faults.append(error)
            refused.setdefault(str(error), []).append(work.name)
    for fault, names in refused.items():
        yield Warn(f"{len(names)} cell{'s' * (len(names) > 1)} cannot run ({', '.join(names)}): {fault}")
    for lines, names in told.items():
        if len(told) > 1:
            yield Plan(f"{', '.join(names)}:")
        yield from lines
    return faults, sizes


def _training(recipe: Recipe, options: Options) -> Generator[Event, None, "_Told"]:
    """The lines of a training's plan, and about how many bytes its checkpoint will have."""
    check_fit(recipe.dump())
    lines: list[Event] = []
    planning = plan_training(recipe, choose_device(options.device))
    while True:
        try:
            event = next(planning)
        except StopIteration as end:
            return tuple(lines), end.value
        if isinstance(event, Plan | Warn):
            lines.append(event)
        else:
            yield event


_Told = tuple[tuple[Event, ...], int]
