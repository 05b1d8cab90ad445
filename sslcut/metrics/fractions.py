"""Few labels: the same folds with only a share of their labels to learn from."""

from dataclasses import replace

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fold, defined


def with_labels(fold: Fold, task: Task, fraction: float, seed: int) -> Fold:
    """The fold with a seeded share of its labelled train rows, and for the final fit of its validation rows too.

    Stratified by class, with at least one image of each. All validation rows still choose the L2 and are scored, as
    published few-label protocols have it.
    """
    train = _share(fold.train, task, fraction, seed)
    return replace(fold, train=train, refit=torch.cat([train, _share(fold.validation, task, fraction, seed)]))


def _share(rows: Tensor, task: Task, fraction: float, seed: int) -> Tensor:
    """A share of the labelled ones among `rows`, ascending."""
    rows = rows[defined(task)[rows]]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    labels = task.values[rows] if task.kind == "class" else torch.zeros(len(rows), dtype=torch.int64)
    parts = [rows[labels == label] for label in torch.unique(labels)]
    return torch.cat([part[: max(1, round(fraction * len(part)))] for part in parts] or [rows]).sort().values
