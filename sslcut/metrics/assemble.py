"""Measures layers by all probes and gives the results: rows of scores, label-free measures, and the answer."""

import inspect
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sslcut import answers
from sslcut.data.images import Task
from sslcut.errors import UsageError
from sslcut.events import Event, Progress, Warn
from sslcut.metrics.controls import CONCATENATED, pairs, projected, rescaled, widths
from sslcut.metrics.fairness import alternatives, answer_under
from sslcut.metrics.fractions import with_labels
from sslcut.metrics.handed import Handed
from sslcut.metrics.layer import Fit, Fold, Layer, Measure, at_rows, defined
from sslcut.metrics.logodds import mean_rows
from sslcut.metrics.recommend import Key, best_row, candidates, recommendation
from sslcut.metrics.score import choosing_metric, metrics_of
from sslcut.metrics.shifted import Shifts, shifted_rows
from sslcut.metrics.table import PIXELS, Part, Row, number, table
from sslcut.registry import MEASURES, PROBES, Registry

Choice = str | Mapping[str, Any]  # a member of a registry as a recipe names it: its name, or a mapping with `name`
Found = tuple[dict[str, Any], dict[str, Tensor]]
ANSWERING = "linear"  # the probe whose validation scores give the answer
CONTROLS = ("pca", "raw")  # that read every layer once more
AVERAGED = "transfer"  # the probe whose scores have a mean over tasks


@dataclass(frozen=True)
class Study:
    """What every step of a measurement shares."""

    tasks: Mapping[str, Task]
    folds: Sequence[Fold]
    metrics: Mapping[str, str]  # of each task, the metric that chooses
    reference: Key
    end: Key
    test: Part
    validation: Part
    scale: str
    seed: int
    memory: int
    group: Tensor | None = None
    trained_on: Sequence[str] = ()
    handed: Handed | None = None
    widths: Mapping[Key, Sequence[int]] = field(default_factory=dict)  # those of the control `pca` at each layer

    def call(
        self,
        registry: Registry,
        choice: Choice,
        layers: Sequence[Layer],
        tasks: Mapping[str, Task],
        folds: Sequence[Fold],
    ) -> Any:
        """What a registered probe or measure gives for some layers, with the options that the recipe chose.

        Its keyword-only parameters without a default are filled in: what is shared here, and what is `handed` to
        measures.
        """
        options = {} if isinstance(choice, str) else {key: value for key, value in choice.items() if key != "name"}
        member = registry.load(_name(choice))
        wanted = [
            p.name
            for p in inspect.signature(member).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.default is p.empty
        ]
        given = {name: getattr(self if hasattr(self, name) else self.handed, name) for name in wanted}
        return member(layers, tasks, folds, **given, **options)


@dataclass(frozen=True)
class _Job:
    """One call of a probe: on one layer, with a share of the labels, under a control, of the untrained twin."""

    probe: Choice
    layer: Layer
    fraction: float = 1.0
    untrained: bool = False
    control: str = ""


def measure(
    layers: Sequence[Layer],
    tasks: Mapping[str, Task],
    folds: Sequence[Fold],
    *,
    reference: Key,
    end: Key,
    trained_on: Sequence[str] = (),
    group: Tensor | None = None,
    probes: Sequence[Choice] = ("linear", "knn"),
    measures: Sequence[Choice] = ("rankme",),
    scale: str = "standard",
    seed: int = 0,
    memory: int = 4 * 10**9,
    bootstrap: int = 1000,
    fractions: Sequence[float] = (),
    untrained: Sequence[Layer] | None = None,
    pixels: Layer | None = None,
    handed: Handed | None = None,
    controls: Sequence[str] = (),
    common_width: int | None = None,
    concatenated: Layer | None = None,
    shifted: Shifts | None = None,
) -> Generator[Event, None, Found]:
    """Measures `layers` (in network order) on all tasks; yields events, returns the results and their predictions.

    The results have the keys `results`, `measures`, `best`, `recommended` (null without an answer) and `controls`, what
    would be recommended under each control (`controls.py`) and from each share of the labels; predictions are
    `row.<i>`, `validation.row.<i>`, `target.<task>` and `validation.target.<task>`, of the test and the validation
    rows in row order (`layer.rows_of`). `end` is the network's end, whose score stands beside the answer; `untrained`
    are the same layers of an untrained network and `pixels` the raw images, both for the linear probe alone; `handed`
    is what measures want beside the features. A probe may work in `memory` bytes beside the features. A task that has
    no label in some part is left out with a warning. The tasks that the network was `trained_on` do not count where
    transfer to many is one number. Raises UsageError where the reference is not measured, InputError where features
    are not finite. `concatenated` is the layer of the control `concat`, `common_width` that of `pca`: by default the
    narrowest layer's. `shifted` are the images beside the layers; their rows come last, without predictions.
    """
    if reference not in [layer.key for layer in layers]:
        raise UsageError(
            f"the reference `{answers.label(*reference)}` is not among the measured layers",
            hint="add it to probe.layers and probe.readouts",
        )
    usable = {name: task for name, task in tasks.items() if _labelled(task, folds)}
    for name in tasks.keys() - usable.keys():
        yield Warn(f"task `{name}` has too few labels to be probed and is left out")
    study = Study(
        tasks=usable,
        folds=folds,
        metrics={name: choosing_metric(task, folds) for name, task in usable.items()},
        reference=reference,
        end=end,
        test=Part(folds, "test", group=group, count=bootstrap, seed=seed),
        validation=Part(folds, "validation", group=group, count=bootstrap, seed=seed + 1),
        scale=scale,
        seed=seed,
        memory=memory,
        group=group,
        trained_on=trained_on,
        handed=handed,
        widths=widths(layers, reference, common_width or min(layer.features.shape[1] for layer in layers)),
    )
    if controls and ANSWERING not in map(_name, probes):
        yield Warn(f"the controls {', '.join(controls)} need the linear probe and are left out")
    outside = [layer for layer in (pixels, concatenated) if layer is not None]
    jobs = _jobs(layers, reference, probes, fractions, untrained or (), outside, controls) if usable else []
    steps = len(jobs) + len(measures) * len(layers)
    fits: list[tuple[_Job, list[Fit]]] = []
    for done, job in enumerate(jobs):
        yield Progress("probing", done, steps, {"layer": job.layer.name, "probe": _name(job.probe)})
        fits.append((job, _fit(study, job, fits)))
    measured = yield from _take(measures, study, layers, len(jobs), steps)
    yield Progress("comparing layers", steps, steps)
    rows, tensors = _rows(study, fits)
    if shifted is not None:
        rows += _under_shifts(study, fits, shifted)
    results = {"results": rows, "measures": _measures(measured)} | _answer(study, fits)
    return results | {"controls": _under_controls(study, fits, layers, results["recommended"])}, tensors


def _take(
    measures: Sequence[Choice], study: Study, layers: Sequence[Layer], begun: int, steps: int
) -> Generator[Event, None, list[Measure]]:
    """Take every measure of all layers; progress goes on from `begun` of so many steps."""
    taken: list[Measure] = []
    places = {layer.key: place for place, layer in enumerate(layers)}
    for index, choice in enumerate(measures):
        done = begun + index * len(layers)
        yield Progress("measuring", done, steps, {"measure": _name(choice)})
        for found in study.call(MEASURES, choice, layers, study.tasks, study.folds):
            taken.append(found)
            at = done + places[found.layer.key] + 1
            yield Progress("measuring", at, steps, {"layer": found.layer.name, "measure": found.measure})
    return taken


def _name(choice: Choice) -> str:
    return choice if isinstance(choice, str) else choice["name"]


def _labelled(task: Task, folds: Sequence[Fold]) -> bool:
    """Whether every part of every fold has labels of a task, and its train rows more than one value of it."""
    there = defined(task)
    parts = [there[part].any() for fold in folds for part in (fold.validation, fold.test)]
    values = [task.values[fold.train[there[fold.train]]] for fold in folds]
    return bool(folds) and all(parts) and all(len(torch.unique(value, dim=0)) > 1 for value in values)


def _jobs(
    layers: Sequence[Layer],
    reference: Key,
    probes: Sequence[Choice],
    fractions: Sequence[float],
    untrained: Sequence[Layer],
    outside: Sequence[Layer],
    controls: Sequence[str],
) -> list[_Job]:
    """All calls of probes; what is not the network (untrained, pixels) and the controls have the answering one alone.

    A control of a layer comes after the layer itself.
    """
    jobs = [
        _Job(probe, layer, share)
        for share in (1.0, *fractions)
        for probe in probes
        for layer in _read_by(probe, layers, reference)
    ]
    for probe in probes:
        if _name(probe) == ANSWERING:
            jobs += [_Job(probe, layer, untrained=True) for layer in untrained]
            jobs += [_Job(probe, layer) for layer in outside]
            jobs += [_Job(probe, layer, control=name) for name in CONTROLS if name in controls for layer in layers]
    return jobs


def _read_by(probe: Choice, layers: Sequence[Layer], reference: Key) -> list[Layer]:
    """The layers that a probe is for: one with the option `layers` may want the reference alone."""
    option = PROBES.options(_name(probe)).get("layers")
    asked = "all" if option is None else option.default
    asked = asked if isinstance(probe, str) else probe.get("layers", asked)
    return [layer for layer in layers if asked == "all" or layer.key == reference]


def _fit(study: Study, job: _Job, before: Sequence[tuple[_Job, list[Fit]]]) -> list[Fit]:
    if job.control == "pca":
        own = next(fits for other, fits in before if _answers(other) and other.layer is job.layer)
        asked = study.widths[job.layer.key]
        return projected(
            job.layer.alone, study.tasks, study.folds, asked, own=own, scale=study.scale, memory=study.memory
        )
    if job.control == "raw":
        return rescaled(job.layer.alone, study.tasks, study.folds, scale=study.scale, memory=study.memory)
    if job.fraction == 1.0:
        return study.call(PROBES, job.probe, [job.layer], study.tasks, study.folds)
    fits = []
    for name, task in study.tasks.items():  # each task has its own labels, so its own few rows
        folds = [with_labels(fold, task, job.fraction, study.seed) for fold in study.folds]
        fits += study.call(PROBES, job.probe, [job.layer.alone], {name: task}, folds)
    return fits


def _rows(study: Study, fits: Sequence[tuple[_Job, Sequence[Fit]]]) -> tuple[list[Row], dict[str, Tensor]]:
    """The rows of all fits but the untrained network's; the predictions and targets by the names they are stored."""
    groups: dict[tuple[Any, ...], list[Fit]] = {}
    bases: dict[str, list[Fit]] = {}
    for job, found in fits:
        for fit in found:
            if job.untrained:
                bases.setdefault(fit.task, []).append(fit)
            else:
                groups.setdefault((job.fraction, fit.probe, fit.setting, fit.task), []).append(fit)
    rows: list[Row] = []
    tensors: dict[str, Tensor] = {}
    for (fraction, probe, _, name), group in groups.items():
        task = study.tasks[name]
        twin = bases.get(name, []) if probe == ANSWERING and fraction == 1.0 else []
        for metric in metrics_of(task):
            untrained = dict(zip([fit.layer.key for fit in twin], _test_values(study, task, twin, metric), strict=True))
            for fit, row in zip(
                group, table(group, task, metric, study.test, study.validation, study.reference), strict=True
            ):
                tensors[f"row.{len(rows)}"] = _stored(at_rows(fit.tested, study.test.rows, task))
                tensors[f"validation.row.{len(rows)}"] = _stored(at_rows(fit.validated, study.validation.rows, task))
                rows.append(row | {"untrained": untrained.get(fit.layer.key), "fraction": fraction, "seed": study.seed})
    averaged = [fit for job, found in fits if job.fraction == 1.0 and _name(job.probe) == AVERAGED for fit in found]
    means = mean_rows(
        averaged, study.tasks, study.test, study.validation, reference=study.reference, trained_on=study.trained_on
    )
    rows += [row | {"untrained": None, "fraction": 1.0, "seed": study.seed} for row in means]
    for name, task in study.tasks.items():
        tensors[f"target.{name}"] = _stored(task.values[study.test.rows])
        tensors[f"validation.target.{name}"] = _stored(task.values[study.validation.rows])
    return rows, tensors


def _under_shifts(study: Study, fits: Sequence[tuple[_Job, Sequence[Fit]]], shifted: Shifts) -> list[Row]:
    """The rows of shifted images, of every fit that has predicted them."""
    mine = [fit for _, found in fits for fit in found if len(fit.beside)]
    rows = shifted_rows(
        mine, shifted, study.metrics, test=study.test, validation=study.validation, reference=study.reference
    )
    return [row | {"untrained": None, "fraction": 1.0, "seed": study.seed} for row in rows]


def _test_values(study: Study, task: Task, fits: Sequence[Fit], metric: str) -> list[float | None]:
    if not fits:
        return []
    return [number(value) for value in study.test.values(task, [fit.tested for fit in fits], metric)]


def _stored(values: Tensor) -> Tensor:
    """Predictions or targets as the file holds them: int32 classes, float32 numbers and angles."""
    return values.int() if values.dtype == torch.int64 else values.float()


def _measures(measured: Sequence[Measure]) -> list[Row]:
    return [
        {"layer": m.layer.name, "readout": m.layer.readout, "measure": m.measure, "value": number(m.value)}
        for m in measured
    ]


def _answer(study: Study, fits: Sequence[tuple[_Job, Sequence[Fit]]]) -> dict[str, Any]:
    """`best` and `recommended` from the answering probe with all labels; none and null where it was not asked for."""
    mine = [fit for job, found in fits if _answers(job) for fit in found]
    compared = candidates(mine, study.tasks, study.metrics, study.validation, study.test) if mine else []
    best = [best_row(of, study.reference, study.end, study.test) for of in compared]
    recommended = recommendation(compared, study.reference, study.test) if compared else None
    return {"best": best, "recommended": recommended}


def _under_controls(
    study: Study, fits: Sequence[tuple[_Job, Sequence[Fit]]], layers: Sequence[Layer], recommended: Row | None
) -> list[Row]:
    """What would be recommended under each control; none without a recommendation."""
    if recommended is None:
        return []
    found: dict[tuple[float, str], list[Fit]] = {}
    for job, mine in fits:
        if _compares(job):
            for fit in mine:
                found.setdefault((job.fraction, fit.setting), []).append(fit)
    paired = pairs(layers, study.reference) if any(job.control == "pca" for job, _ in fits) else {}
    answers = [
        answer_under(
            alternative, study.tasks, study.metrics, validation=study.validation, test=study.test,
            reference=study.reference, recommended=recommended,
        )
        for alternative in alternatives(found, study.reference, paired)
    ]  # fmt: skip
    return [answer for answer in answers if answer is not None]


def _compares(job: _Job) -> bool:
    """Whether a job reads the trained network's layers by the probe that answers."""
    return _name(job.probe) == ANSWERING and not job.untrained and job.layer.name not in (PIXELS, CONCATENATED)


def _answers(job: _Job) -> bool:
    return _compares(job) and job.fraction == 1.0 and not job.control
