"""The answer as results show it: for each task the layer to read, and one for all tasks together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslcut import answers
from sslcut.data.images import Task
from sslcut.metrics.answer import SHARED, Verdict, comparable, judge
from sslcut.metrics.layer import Fit
from sslcut.metrics.table import Part, Row, Scores, number

Key = tuple[str, str]  # a layer's name and read-out


@dataclass(frozen=True)
class Candidates:
    """One task's fits of every layer in network order, with their scores on validation and on test."""

    name: str
    metric: str
    keys: list[Key]
    validation: Scores
    test: Scores

    def index(self, key: Key) -> int:
        """The place of a layer and read-out among the candidates."""
        return self.keys.index(key)


def candidates(
    fits: Sequence[Fit],
    tasks: Mapping[str, Task],
    metrics: Mapping[str, str],
    validation: Part,
    test: Part,
    *,
    against: Sequence[Fit] = (),
) -> list[Candidates]:
    """The fits of each task, scored by the metric that chooses; a task whose score is no number is left out.

    With `against`, a fit for each, the scores are the differences from these on the scale that tasks share.
    """
    found = []
    for name, task in tasks.items():
        mine, base = ([fit for fit in some if fit.task == name] for some in (fits, against))
        metric = metrics[name]
        chosen = _scores(validation, task, metric, [f.validated for f in mine], [f.validated for f in base])
        if chosen.values.isfinite().all():
            scored = _scores(test, task, metric, [f.tested for f in mine], [f.tested for f in base])
            keys = [fit.layer.key for fit in mine]
            found.append(Candidates(name, SHARED if base else metric, keys, chosen, scored))
    return found


def _scores(part: Part, task: Task, metric: str, predicted: Sequence[Tensor], less: Sequence[Tensor]) -> Scores:
    scores = part.scores(task, predicted, metric)
    if not less:
        return scores
    both = [_comparable(one, metric) for one in (scores, part.scores(task, less, metric))]
    (values, replicates), (base, base_replicates) = both
    return Scores(values - base, replicates - base_replicates, scores.rows)


def chosen_place(of: Candidates, reference: Key) -> Key:
    """The place that validation recommends for one task."""
    return of.keys[judge(of.validation.values, of.validation.replicates, of.index(reference)).chosen]


def best_row(of: Candidates, reference: Key, end: Key, test: Part) -> Row:
    """The row of `best` for one task: what validation recommends, and how the test rows score it.

    `among` are the places that may be the best, `frequency` is how often each was among validation's resamples.
    `end_value` is null where the network's end is not measured; the gain of the reference over itself is 0.
    """
    base = of.index(reference)
    verdict = judge(of.validation.values, of.validation.replicates, base)
    values, replicates = of.test.values, of.test.replicates
    low, high = test.bootstrap.interval((replicates[verdict.chosen] - replicates[base])[None])
    layer, readout = of.keys[verdict.chosen]
    return {
        "task": of.name,
        "probe": "linear",
        "metric": of.metric,
        "layer": layer,
        "readout": readout,
        "value": number(values[verdict.chosen]),
        "reference_value": number(values[base]),
        "end_value": number(values[of.index(end)]) if end in of.keys else None,
        "gain": number(values[verdict.chosen] - values[base]),
        "gain_low": number(low[0]),
        "gain_high": number(high[0]),
    } | _shares(verdict, of.keys)


def recommendation(all_tasks: Sequence[Candidates], reference: Key, test: Part) -> dict[str, Any]:
    """The one place for all tasks: by the mean over tasks of the validation gain on a common scale (`comparable`).

    `gain` is that mean on the test rows, with its interval; `regret` is how far, on validation and in the task's own
    metric, each task's best place lies above the recommended one.
    """
    keys, base = all_tasks[0].keys, all_tasks[0].index(reference)
    verdict = judge(*_mean([(of.validation, of.metric) for of in all_tasks]), base)
    values, replicates = _mean([(of.test, of.metric) for of in all_tasks])
    low, high = test.bootstrap.interval((replicates[verdict.chosen] - replicates[base])[None])
    regret = {of.name: float(of.validation.values.max() - of.validation.values[verdict.chosen]) for of in all_tasks}
    layer, readout = keys[verdict.chosen]
    place, shares = {"layer": layer, "readout": readout}, _shares(verdict, keys)
    what = f"`{all_tasks[0].name}`" if len(all_tasks) == 1 else f"{len(all_tasks)} tasks together"
    base_place = {"layer": reference[0], "readout": reference[1]}
    return {
        **place,
        "why": answers.reason(base_place, place, shares["among"], what),
        "scale": "log-odds",
        "gain": number(values[verdict.chosen] - values[base]),
        "gain_low": number(low[0]),
        "gain_high": number(high[0]),
        "regret": {name: number(value) for name, value in regret.items()},
    } | shares


def _mean(scores: Sequence[tuple[Scores, str]]) -> tuple[Tensor, Tensor]:
    """The mean over tasks of scores on the common scale: values (K,) and replicates (K, B)."""
    values, replicates = zip(*(_comparable(s, metric) for s, metric in scores), strict=True)
    return torch.stack(values).mean(dim=0), torch.stack(replicates).mean(dim=0)


def _comparable(scores: Scores, metric: str) -> tuple[Tensor, Tensor]:
    """Values (K,) and replicates (K, B) on the scale that tasks share."""
    return comparable(scores.values, metric, scores.rows), comparable(scores.replicates, metric, scores.rows)


def _shares(verdict: Verdict, keys: Sequence[Key]) -> dict[str, Any]:
    labels = [answers.label(*key) for key in keys]
    return {
        "among": [labels[i] for i in verdict.members],
        "frequency": {labels[i]: number(share) for i, share in enumerate(verdict.frequency) if share > 0},
    }
