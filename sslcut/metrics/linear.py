"""The linear probe: logistic regression for classes, ridge for numbers and angles, at an L2 that validation chooses."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.design import Affine, Design, beside
from sslcut.metrics.layer import Fit, Fold, Layer, Sheet, alike, check_finite, class_count, fit_near
from sslcut.metrics.logistic import CrossEntropy
from sslcut.metrics.minimise import path
from sslcut.metrics.ridge import ridge_path, squeeze
from sslcut.metrics.rows import Passing, Rows, Scaler, Scaling, scaled, steps
from sslcut.metrics.score import METRICS, choosing_metric, values

GRID = tuple(10 ** (step / 2) for step in range(-10, 3))  # 1e-5 … 10 by half powers of ten
FURTHER = 4  # values that the grid gains at a time, where its best is at its edge
BOUNDS = (1e-9, 1e4)
ROUGH = 1e-4  # tolerance while L2 is chosen: the objective is within 2e-4 of its optimum


@dataclass(frozen=True)
class Chosen:
    """One L2, its score on validation, its predictions there and its map."""

    l2: float
    score: float
    predicted: Tensor
    fitted: Affine


def linear(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, scale: str, memory: int
) -> list[Fit]:
    """Fits every task on every layer: multinomial logistic regression, or ridge for numbers and angles.

    Features are scaled by each fold's train rows. The L2 that does best on validation (accuracy, balanced accuracy
    where classes are unbalanced, R²; of equals the largest) is refitted on the fold's final rows. In `memory` bytes
    beside the features a scaled copy of a fit's rows is kept where it fits; else they are read and scaled in blocks
    on every pass, with the same result to rounding. Raises InputError where features are not finite.
    """
    found = []

    def fit(here: Layer, room: int) -> list[Fit]:
        check_finite(here)
        return fit_scaled(here, tasks, folds, (Scaler(here.features, f.train, scale) for f in folds), room)

    for layer in layers:
        found += fit_near(layer, memory, fit)
    return found


def fit_scaled(
    layer: Layer, tasks: Mapping[str, Task], folds: Sequence[Fold], scalings: Iterable[Scaling], memory: int
) -> list[Fit]:
    """Fits every task on one layer as `linear` does, its features as each fold's scaling gives them."""
    sheets = {name: Sheet(name, task, further=layer.beside) for name, task in tasks.items()}
    metrics = {name: choosing_metric(task, folds) for name, task in tasks.items()}
    for fold, scaler in zip(folds, scalings, strict=True):
        for labelled, names in alike(tasks):
            fitting = _Fitting(layer, fold, scaler, labelled, memory)
            group = [(sheets[name], tasks[name], metrics[name]) for name in names]
            fitting.refit(group, fitting.choose_l2(group))
    return [sheet.fit(layer, "linear", chosen=_shown(sheet.chosen)) for sheet in sheets.values()]


_Group = Sequence[tuple[Sheet, Task, str]]  # tasks with labels on the same rows, and the metric that chooses for each


class _Fitting:
    """The fits of one fold on one layer for tasks that are `labelled` (N,) on the same rows."""

    def __init__(self, layer: Layer, fold: Fold, scaler: Scaling, labelled: Tensor, memory: int) -> None:
        self.layer, self.fold, self.scaler, self.labelled, self.memory = layer, fold, scaler, labelled, memory

    def choose_l2(self, group: _Group) -> list[Chosen]:
        """The best L2 of each task, fitted on train rows; fills in predictions of the validation rows."""
        rows, validation = self._rows(self.fold.train), self.fold.validation
        design, seen, chosen = self._design(rows, group), self._passing(validation), []
        for sheet, task, metric in group:
            judge = _Judge(seen, self.labelled[validation], task.take(validation), metric)
            chosen.append(choose(design, task.take(rows), judge))
            sheet.validated[validation] = chosen[-1].predicted
            self._read_beside(sheet, task, "validation", chosen[-1].fitted)
        return chosen

    def refit(self, group: _Group, chosen: Sequence[Chosen]) -> None:
        """Fits the final rows at the chosen L2; fills in predictions of the test rows."""
        rows, test = self._rows(self.fold.final), self.fold.test
        design, unseen = self._design(rows, group), self._passing(test)
        for (sheet, task, _), best in zip(group, chosen, strict=True):
            ((_, fitted),) = solve(design, task.take(rows), torch.tensor([best.l2]), start=best.fitted)
            sheet.tested[test] = predict(fitted, unseen, task.kind)[0]
            self._read_beside(sheet, task, "test", fitted)
            sheet.chosen.append(best.l2)
            sheet.rows.append(len(rows))

    def _read_beside(self, sheet: Sheet, task: Task, part: str, fitted: Affine) -> None:
        """Fills in what a map says of the images beside the layer."""
        further = self.layer.beside
        if further is not None:
            rows: Tensor = getattr(further, part)
            sheet.beside[rows] = predict(fitted, Passing(further.features, rows, self.scaler), task.kind)[0]

    def _rows(self, part: Tensor) -> Tensor:
        return part[self.labelled[part]].sort().values  # a file is read in its order

    def _passing(self, rows: Tensor) -> Rows:
        return Passing(self.layer.features, rows, self.scaler)

    def _design(self, rows: Tensor, group: _Group) -> Design:
        outputs = max(class_count(task) if task.kind == "class" else 2 for _, task, _ in group)
        spare = self.memory - beside(len(rows), self.scaler.width, outputs)
        return Design(scaled(self.layer.features, rows, self.scaler, spare))


class _Judge:
    """Predicts validation rows and scores the predictions where labels are defined."""

    def __init__(self, rows: Rows, labelled: Tensor, task: Task, metric: str) -> None:
        self.rows, self.labelled, self.metric = rows, labelled, metric
        self.kind, self.target = task.kind, task.values[labelled]

    def __call__(self, fitted: Affine) -> tuple[list[float], Tensor]:
        predicted = predict(fitted, self.rows, self.kind)
        scores = values(METRICS[self.metric](predicted[:, self.labelled], self.target), len(self.target))
        return scores.nan_to_num(nan=-torch.inf).tolist(), predicted


def solve(
    design: Design, task: Task, l2: Tensor, *, start: Affine | None = None, tolerance: float = 1e-6
) -> Iterator[tuple[Tensor, Affine]]:
    """The linear maps that fit a task's values: places in `l2` (P,) and their maps, as they are found."""
    targets = task.values.to(design.device)
    if task.kind == "class":
        yield from path(design, CrossEntropy(targets, class_count(task)), l2, start=start, tolerance=tolerance)
    else:
        yield from ridge_path(design, targets.reshape(len(targets), -1), l2, start=start)


def predict(fitted: Affine, rows: Rows, kind: str) -> Tensor:
    """What each map predicts for the rows, on the CPU: classes (P, n), numbers (P, n) or angles (P, n, 2)."""
    decide = squeeze if kind != "class" else partial(torch.argmax, dim=1)
    parts = [decide(fitted(block)) for _, block in rows.blocks(steps(rows, fitted.intercepts.numel()))]
    return torch.cat(parts, dim=1).cpu()


_Judging = Callable[[Affine], tuple[list[float], Tensor]]


def choose(design: Design, task: Task, judge: _Judging) -> Chosen:
    """The fit with the best score, of equals the one with the largest L2; `judge` gives scores and predictions.

    The grid grows while its best value stands at its edge, within `BOUNDS`.
    """
    tried, best = list(GRID), _better(_tries(design, task, GRID, None, judge))
    while further := _beyond(best.l2, sorted(tried)):
        best = _better(chain([best], _tries(design, task, further, best.fitted, judge)))
        tried += further
    return best


def _tries(design: Design, task: Task, l2: Sequence[float], start: Affine | None, judge: _Judging) -> Iterator[Chosen]:
    """A fit at each of `l2`, judged; one at a time, since a thousand classes' maps are large."""
    for places, fitted in solve(design, task, torch.tensor(l2), start=start, tolerance=ROUGH):
        for index, (place, score, predicted) in enumerate(zip(places.tolist(), *judge(fitted), strict=True)):
            yield Chosen(l2[place], score, predicted, fitted.take(index))


def _better(fits: Iterable[Chosen]) -> Chosen:
    return max(fits, key=lambda one: (one.score, one.l2))


def _beyond(best: float, tried: Sequence[float]) -> list[float]:
    """The next values outward where the best of those tried is the first or the last."""
    if best == tried[-1]:
        further = [best * 10 ** (step / 2) for step in range(1, FURTHER + 1)]
    elif best == tried[0]:
        further = [best / 10 ** (step / 2) for step in range(1, FURTHER + 1)]
    else:
        further = []
    return [l2 for l2 in further if BOUNDS[0] <= l2 <= BOUNDS[1]]


def _shown(chosen: Sequence[float]) -> str:
    return "l2=" + "/".join(dict.fromkeys(f"{l2:.2g}" for l2 in chosen))
