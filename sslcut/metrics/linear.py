"""The linear probe: logistic regression for classes, ridge for numbers and angles, at an L2 that validation chooses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.design import Affine, Design, Scaler
from sslcut.metrics.layer import Fit, Fold, Layer, Sheet, alike, check_finite, class_count
from sslcut.metrics.logistic import logistic
from sslcut.metrics.ridge import ridge, squeeze
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
    where classes are unbalanced, R²; of equals the largest) is refitted on the fold's final rows. Raises InputError
    where features are not finite.
    """
    metrics = {name: choosing_metric(task, folds) for name, task in tasks.items()}
    return [fit for layer in layers for fit in _fit_layer(layer, tasks, folds, scale, metrics)]


def _fit_layer(
    layer: Layer, tasks: Mapping[str, Task], folds: Sequence[Fold], scale: str, metrics: Mapping[str, str]
) -> list[Fit]:
    check_finite(layer)
    sheets = {name: Sheet(name, task) for name, task in tasks.items()}
    for fold in folds:
        scaler = Scaler(layer.features[fold.train], scale)
        for labelled, names in alike(tasks):
            group = [(sheets[name], tasks[name], metrics[name]) for name in names]
            chosen = _choose_l2(layer, fold, scaler, labelled, group)
            _refit(layer, fold, scaler, labelled, group, chosen)
    return [sheet.fit(layer, "linear", chosen=_shown(sheet.chosen)) for sheet in sheets.values()]


_Group = Sequence[tuple[Sheet, Task, str]]  # tasks with labels on the same rows, and the metric that chooses for each


def _choose_l2(layer: Layer, fold: Fold, scaler: Scaler, labelled: Tensor, group: _Group) -> list[Chosen]:
    train = fold.train[labelled[fold.train]]
    design = Design(scaler(layer.features[train]))
    features = scaler(layer.features[fold.validation])
    chosen = []
    for sheet, task, metric in group:
        judge = _Judge(features, labelled[fold.validation], task.take(fold.validation), metric)
        chosen.append(choose(design, task.take(train), judge))
        sheet.validated[fold.validation] = chosen[-1].predicted
    return chosen


def _refit(layer: Layer, fold: Fold, scaler: Scaler, labelled: Tensor, group: _Group, chosen: Sequence[Chosen]) -> None:
    final = fold.final[labelled[fold.final]]
    design = Design(scaler(layer.features[final]))
    features = scaler(layer.features[fold.test])
    for (sheet, task, _), best in zip(group, chosen, strict=True):
        fitted = solve(design, task.take(final), torch.tensor([best.l2]), start=best.fitted)
        sheet.tested[fold.test] = predict(fitted, features, task.kind)[0]
        sheet.chosen.append(best.l2)
        sheet.rows.append(len(final))


class _Judge:
    """Predicts validation rows and scores the predictions where labels are defined."""

    def __init__(self, features: Tensor, labelled: Tensor, task: Task, metric: str) -> None:
        self.features, self.labelled, self.metric = features, labelled, metric
        self.kind, self.target = task.kind, task.values[labelled]

    def __call__(self, fitted: Affine) -> tuple[list[float], Tensor]:
        predicted = predict(fitted, self.features, self.kind)
        scores = values(METRICS[self.metric](predicted[:, self.labelled], self.target), len(self.target))
        return scores.nan_to_num(nan=-torch.inf).tolist(), predicted


def solve(design: Design, task: Task, l2: Tensor, *, start: Affine | None = None, tolerance: float = 1e-6) -> Affine:
    """The linear maps that fit a task's values, one per L2 value; `start` and `tolerance` save time for classes."""
    if task.kind == "class":
        return logistic(design, task.values, class_count(task), l2, start=start, tolerance=tolerance)
    return ridge(design, task.values.reshape(len(task.values), -1), l2)


def predict(fitted: Affine, features: Tensor, kind: str) -> Tensor:
    """What each map predicts: classes (P, m), numbers (P, m) or angles (P, m, 2)."""
    outputs = fitted(features)
    return outputs.argmax(dim=1) if kind == "class" else squeeze(outputs)


def choose(design: Design, task: Task, judge: Callable[[Affine], tuple[list[float], Tensor]]) -> Chosen:
    """The fit with the best score, of equals the one with the largest L2; `judge` gives scores and predictions.

    The grid grows while its best value stands at its edge, within `BOUNDS`.
    """
    tried: list[Chosen] = []
    new = list(GRID)
    while new:
        fitted = solve(design, task, torch.tensor(new), tolerance=ROUGH)
        scores, predicted = judge(fitted)
        tried += [Chosen(l2, scores[i], predicted[i], fitted.take(i)) for i, l2 in enumerate(new)]
        best = max(tried, key=lambda one: (one.score, one.l2))
        new = _beyond(best.l2, sorted(one.l2 for one in tried))
    return best


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
