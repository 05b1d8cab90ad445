"""How well predictions hit their targets: each metric takes weights of the rows, so that one product resamples all.

A scorer maps weights (n, B), one column a resample, to values (K, B) of the K predictions that it was made from.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fold, defined, rows_of

Scorer = Callable[[Tensor], Tensor]
UNBALANCED = 2  # the largest class has more than this many times the smallest one's images


def accuracy(predicted: Tensor, target: Tensor) -> Scorer:
    """Share of rows whose class is right; predictions (K, n), target (n,)."""
    right = (predicted == target).float()
    return lambda weights: right @ weights / weights.sum(dim=0)


def balanced_accuracy(predicted: Tensor, target: Tensor) -> Scorer:
    """Mean over classes of the share that is right; a class without a row in a resample is left out of it."""
    right = (predicted == target).float()
    members = [(target == label).nonzero().squeeze(1) for label in torch.unique(target)]

    def score(weights: Tensor) -> Tensor:
        total, present = torch.zeros(len(right), weights.shape[1]), torch.zeros(weights.shape[1])
        for rows in members:  # a product per class costs no more in all than one for accuracy
            weight = weights[rows].sum(dim=0)
            total += right[:, rows] @ weights[rows] / weight.clamp_min(1)
            present += weight > 0
        return total / present

    return score


def r2(predicted: Tensor, target: Tensor) -> Scorer:
    """1 − squared error / variance of the target; (K, n) and (n,), or (K, n, 2) and (n, 2), whose sums are pooled."""
    target = target.reshape(len(target), -1)
    centred = (target - target.mean(dim=0)).double()  # (n, outputs): the variance is taken around a resample's mean
    error = (predicted.reshape(len(predicted), *target.shape) - target).double().square().sum(dim=2)

    def score(weights: Tensor) -> Tensor:
        weights = weights.double()
        count = weights.sum(dim=0)
        means = centred.T @ weights / count
        variance = centred.square().sum(dim=1) @ weights / count - means.square().sum(dim=0)
        ratio = error @ weights / count / variance
        return torch.where(variance > 0, 1 - ratio, torch.nan).float()

    return score


METRICS: dict[str, Callable[[Tensor, Tensor], Scorer]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "r2": r2,
}


def metrics_of(task: Task) -> tuple[str, ...]:
    """The metrics that are reported for a task."""
    return ("accuracy", "balanced_accuracy") if task.kind == "class" else ("r2",)


def choosing_metric(task: Task, folds: Sequence[Fold]) -> str:
    """The metric that chooses the L2 and the layer: balanced accuracy where the labels to learn from are unbalanced."""
    if task.kind != "class":
        return "r2"
    rows = torch.unique(torch.cat([rows_of(folds, "train"), rows_of(folds, "validation")]))
    counts = torch.bincount(task.values[rows[defined(task)[rows]]])
    counts = counts[counts > 0]
    return "balanced_accuracy" if len(counts) and counts.max() > UNBALANCED * counts.min() else "accuracy"


def values(scorer: Scorer, rows: int) -> Tensor:
    """The metric itself, (K,): every row counts once."""
    return scorer(torch.ones(rows, 1))[:, 0]
