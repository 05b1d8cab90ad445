"""Weighted nearest neighbours: cosine similarity, votes of weight exp(similarity / T) (Wu et al., arXiv 1805.01978)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fit, Fold, Layer, Sheet, alike, check_finite, class_count, fit_near
from sslcut.metrics.neighbours import neighbours

SETTINGS = ((200, 0.1), (20, 0.07))  # k, T: of lightly and InstDisc, and of DINO
SHARE = 10  # k is at most the fit's rows over this, else every vote reaches every query on small data


def knn(layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold]) -> list[Fit]:
    """Votes of the k most similar fit rows, for k = 200, T = 0.1 and k = 20, T = 0.07; class tasks only.

    Reads the features as they are, for cosine similarity. k is capped at a tenth of the fit's rows. Raises InputError
    where features are not finite.
    """
    tasks = {name: task for name, task in tasks.items() if task.kind == "class"}
    found = (fit_near(layer, 0, lambda here, _: _fit_layer(here, tasks, folds)) for layer in layers if tasks)
    return [fit for fits in found for fit in fits]


def _fit_layer(layer: Layer, tasks: Mapping[str, Task], folds: Sequence[Fold]) -> list[Fit]:
    check_finite(layer)
    further = layer.beside
    sheets = {(name, each): Sheet(name, task, further=further) for name, task in tasks.items() for each in SETTINGS}
    for fold in folds:
        for labelled, names in alike(tasks):
            train, final = fold.train[labelled[fold.train]], fold.final[labelled[fold.final]]
            same = {name: tasks[name] for name in names}
            for name, setting, some, classes in _votes(layer.features, train, fold.validation, same):
                sheets[name, setting].validated[some] = classes
            for name, setting, some, classes in _votes(layer.features, final, fold.test, same):
                sheets[name, setting].tested[some] = classes
            if further is not None:
                for bank, queries in ((train, further.validation), (final, further.test)):
                    for name, setting, some, classes in _votes(layer.features, bank, queries, same, further.features):
                        sheets[name, setting].beside[some] = classes
            for name, (k, temperature) in product(names, SETTINGS):
                sheets[name, (k, temperature)].rows.append(len(final))
                sheets[name, (k, temperature)].chosen.append(_capped(k, final))
    return [
        sheet.fit(
            layer,
            "knn",
            setting=f"k={k} T={t}",
            chosen=f"capped={min(sheet.chosen):g}" if min(sheet.chosen) < k else "",
        )
        for (_, (k, t)), sheet in sheets.items()
    ]


def _capped(k: int, rows: Tensor) -> int:
    return min(k, max(1, len(rows) // SHARE))


def _votes(
    features: Tensor, bank: Tensor, queries: Tensor, tasks: Mapping[str, Task], asking: Tensor | None = None
) -> Iterator[tuple[str, tuple[int, float], Tensor, Tensor]]:
    """A task, a setting, some of the queries (q,) and what the bank says they are (q,), until all are told."""
    for some, similarities, rows in neighbours(features, bank, queries, _capped(SETTINGS[0][0], bank), asking):
        for (name, task), (k, temperature) in product(tasks.items(), SETTINGS):
            yield name, (k, temperature), some, vote(similarities, rows, task, _capped(k, bank), temperature)


def vote(similarities: Tensor, rows: Tensor, task: Task, k: int, temperature: float) -> Tensor:
    """The class with the largest sum of exp(similarity / T) over the first k neighbours, (Q, k) each: (Q,)."""
    weights = (similarities[:, :k] / temperature).exp()
    votes = torch.zeros(len(rows), class_count(task))
    return votes.scatter_add_(1, task.values.take(rows[:, :k]), weights).argmax(dim=1)
