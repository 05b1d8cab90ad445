"""Fits to rows of the results: scores on the test rows with intervals, gains over the reference, validation scores."""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fit, Fold, at_rows, defined, rows_of
from sslcut.metrics.resample import Bootstrap
from sslcut.metrics.score import METRICS, Scorer, values

PIXELS = "pixels"  # the name of the raw pixels where a layer's stands; never a candidate for the answer
Row = dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """One metric of K predictions: its values (K,), and on every resample (K, B); of `rows` labelled rows."""

    values: Tensor
    replicates: Tensor
    rows: int


class Part:
    """The rows that scores are taken on, all folds' test rows or all their validation rows, with their resamples."""

    def __init__(self, folds: Sequence[Fold], part: str, *, group: Tensor | None, count: int, seed: int) -> None:
        self.rows = rows_of(folds, part)
        group = None if group is None else group[self.rows]
        self.bootstrap = Bootstrap(len(self.rows), group=group, count=count, seed=seed)

    def moved(self, rows: Tensor) -> "Part":
        """The same images at other `rows`, one for one, resampled alike."""
        other = copy(self)
        other.rows = rows
        return other

    def labelled(self, task: Task) -> Tensor:
        """Which places among the rows carry a label of the task, (m,)."""
        return defined(task)[self.rows].nonzero().squeeze(1)

    def values(self, task: Task, predictions: Sequence[Tensor], metric: str) -> Tensor:
        """The metric of K predictions, each of all N rows and all with as many seeds: (K,)."""
        scorer, _ = self._scorer(task, predictions, metric)
        return values(scorer, len(self.labelled(task))).reshape(len(predictions), -1).mean(dim=1)

    def scores(self, task: Task, predictions: Sequence[Tensor], metric: str) -> Scores:
        """The same with every resample."""
        scorer, places = self._scorer(task, predictions, metric)
        replicates = self.bootstrap.replicate(scorer, places)
        replicates = replicates.reshape(len(predictions), -1, replicates.shape[1]).mean(dim=1)  # over a fit's seeds
        return Scores(self.values(task, predictions, metric), replicates, len(places))

    def _scorer(self, task: Task, predictions: Sequence[Tensor], metric: str) -> tuple[Scorer, Tensor]:
        """What scores every seed of every prediction, one after the other; and the labelled places."""
        places = self.labelled(task)
        rows = self.rows[places]
        truth = task.values[rows]
        every = torch.cat([at_rows(p, rows, task).reshape(-1, *truth.shape) for p in predictions])
        return METRICS[metric](every, truth), places


def table(
    fits: Sequence[Fit], task: Task, metric: str, test: Part, validation: Part, reference: tuple[str, str]
) -> list[Row]:
    """One row for each fit of one task by one probe at one setting, in the order of the fits.

    `gain` is the paired difference from the reference's fit: 0 with the interval 0 to 0 for the reference itself, null
    for the raw pixels. What is not a number is null.
    """
    scores = test.scores(task, [fit.tested for fit in fits], metric)
    chosen = validation.values(task, [fit.validated for fit in fits], metric)
    low, high = test.bootstrap.interval(scores.replicates)
    base = [fit.layer.key for fit in fits].index(reference)
    gain = scores.values - scores.values[base]
    gain_low, gain_high = test.bootstrap.interval(scores.replicates - scores.replicates[base])
    rows = []
    for i, fit in enumerate(fits):
        compared = fit.layer.name != PIXELS
        rows.append(
            {
                "layer": fit.layer.name,
                "readout": fit.layer.readout,
                "task": fit.task,
                "probe": fit.probe,
                "options": fit.options,
                "metric": metric,
                "value": number(scores.values[i]),
                "low": number(low[i]),
                "high": number(high[i]),
                "gain": number(gain[i]) if compared else None,
                "gain_low": number(gain_low[i]) if compared else None,
                "gain_high": number(gain_high[i]) if compared else None,
                "n": scores.rows,
                "n_train": fit.rows,
                "validation": number(chosen[i]),
                "dim": fit.dim,
                "shift": None,
            }
        )
    return rows


def number(value: Tensor | float) -> float | None:
    """A value for JSON, to seven digits: null where it is not finite."""
    value = float(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None
