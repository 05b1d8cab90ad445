"""One score of a read-out over many tasks: the mean of their log-odds (t-ReX, arXiv 2206.15369)."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.answer import comparable
from sslcut.metrics.layer import Fit
from sslcut.metrics.table import Part, Row, number

TASK = "mean log-odds"  # what stands where a row names its task
METRIC = "log_odds"


def mean_rows(
    fits: Sequence[Fit],
    tasks: Mapping[str, Task],
    test: Part,
    validation: Part,
    *,
    reference: tuple[str, str],
    trained_on: Collection[str],
) -> list[Row]:
    """A row for each layer: the mean over class tasks of log(p / (1 − p)), and its gain over the reference.

    p is a task's accuracy, averaged over seeds before anything else and clipped to half an image from 0 and 1. Tasks
    that the network was `trained_on` do not count; no rows where no other is left.
    """
    counted = [name for name, task in tasks.items() if task.kind == "class" and name not in trained_on]
    groups: dict[tuple[str, tuple[str, str]], list[Fit]] = {}
    for fit in fits:
        if fit.task in counted:
            groups.setdefault((fit.setting, fit.layer.key), []).append(fit)
    means = {key: _mean(tasks, test, {fit.task: fit.tested for fit in mine}) for key, mine in groups.items()}
    rows = []
    for (setting, layer), mine in groups.items():
        chosen, _ = _mean(tasks, validation, {fit.task: fit.validated for fit in mine})
        about = {"layer": layer[0], "readout": layer[1], "task": TASK, "probe": mine[0].probe}
        about["options"] = " ".join(filter(None, [setting, f"tasks={','.join(counted)}"]))
        told = _scores(*means[setting, layer], *means[setting, reference], test)
        size = {"n": len(test.rows), "n_train": max(fit.rows for fit in mine), "validation": number(chosen)}
        rows.append(about | {"metric": METRIC} | told | size | {"dim": mine[0].layer.features.shape[1], "shift": None})
    return rows


def _mean(tasks: Mapping[str, Task], part: Part, predictions: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mean over tasks of log-odds: a number (), and its values (B,) on the resamples."""
    found = [part.scores(tasks[name], [predicted], "accuracy") for name, predicted in predictions.items()]
    values = torch.stack([comparable(scores.values[0], "accuracy", scores.rows) for scores in found])
    replicates = torch.stack([comparable(scores.replicates[0], "accuracy", scores.rows) for scores in found])
    return values.mean(), replicates.mean(dim=0)


def _scores(value: Tensor, replicates: Tensor, base: Tensor, base_replicates: Tensor, test: Part) -> Row:
    low, high = test.bootstrap.interval(torch.stack([replicates, replicates - base_replicates]))
    return {
        "value": number(value),
        "low": number(low[0]),
        "high": number(high[0]),
        "gain": number(value - base),
        "gain_low": number(low[1]),
        "gain_high": number(high[1]),
    }
