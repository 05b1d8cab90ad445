"""Weighted nearest neighbours: cosine similarity, votes of weight exp(similarity / T) (Wu et al., arXiv 1805.01978)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fit, Fold, Layer, Sheet, alike, check_finite, class_count

SETTINGS = ((200, 0.1), (20, 0.07))  # k, T: of lightly and InstDisc, and of DINO
SHARE = 10  # k is at most the fit's rows over this, else every vote reaches every query on small data
TILE = 2**23  # similarities held at a time (32 MB)


def knn(layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold]) -> list[Fit]:
    """Votes of the k most similar fit rows, for k = 200, T = 0.1 and k = 20, T = 0.07; class tasks only.

    Reads the features as they are, for cosine similarity. k is capped at a tenth of the fit's rows. Raises InputError
    where features are not finite.
    """
    tasks = {name: task for name, task in tasks.items() if task.kind == "class"}
    return [fit for layer in layers for fit in _fit_layer(layer, tasks, folds)] if tasks else []


def _fit_layer(layer: Layer, tasks: Mapping[str, Task], folds: Sequence[Fold]) -> list[Fit]:
    check_finite(layer)
    sheets = {(name, setting): Sheet(name, task) for name, task in tasks.items() for setting in SETTINGS}
    for fold in folds:
        for labelled, names in alike(tasks):
            train, final = fold.train[labelled[fold.train]], fold.final[labelled[fold.final]]
            near = neighbours(layer.features, train, fold.validation, _capped(SETTINGS[0][0], train))
            far = neighbours(layer.features, final, fold.test, _capped(SETTINGS[0][0], final))
            for name in names:
                for k, temperature in SETTINGS:
                    sheet, task = sheets[name, (k, temperature)], tasks[name]
                    sheet.validated[fold.validation] = vote(*near, task, _capped(k, train), temperature)
                    sheet.tested[fold.test] = vote(*far, task, _capped(k, final), temperature)
                    sheet.rows.append(len(final))
                    sheet.chosen.append(_capped(k, final))
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


def neighbours(features: Tensor, bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities and rows of the k rows of `bank` most similar to each of `queries`, best first: (Q, k) each.

    `features` (N, D) are neither copied nor normalised in place: the bank is the stretch of rows that spans it, with
    the rows that do not belong masked.
    """
    low, high = int(bank.min()), int(bank.max()) + 1
    shelf = features[low:high].float()
    scale = torch.linalg.vector_norm(shelf, dim=1).clamp_min(1e-12).reciprocal()
    outside = torch.ones(len(shelf), dtype=torch.bool)
    outside[bank - low] = False
    parts = max(1, int((len(shelf) / k) ** 0.5))
    width = -(-len(shelf) // parts) * parts
    size = max(16, min(256, TILE // width))
    table = torch.full((size, width), -torch.inf)
    similarities, rows = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.int64)
    for places in torch.split(torch.arange(len(queries)), size):
        asked = torch.nn.functional.normalize(features[queries[places]].float(), dim=1)
        tile = table[: len(places), : len(shelf)]
        torch.mm(asked, shelf.T, out=tile).mul_(scale)
        if len(bank) < len(shelf):
            tile.masked_fill_(outside, -torch.inf)
        similarities[places], rows[places] = largest(table[: len(places)], k, parts)
    return similarities, rows.add_(low)


def largest(table: Tensor, k: int, parts: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (Q, W) and their columns, largest first; `parts` divides W and W / parts is k or more.

    Exact, and faster than sorting whole rows: columns that lie W / parts apart form a group, and the k groups with the
    largest maxima hold the k largest values.
    """
    grouped = table.view(len(table), parts, -1)
    groups = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    columns = (groups[:, None] + torch.arange(parts)[:, None] * grouped.shape[2]).flatten(1)
    best = table.gather(1, columns).topk(k, dim=1)
    return best.values, columns.gather(1, best.indices)


def vote(similarities: Tensor, rows: Tensor, task: Task, k: int, temperature: float) -> Tensor:
    """The class with the largest sum of exp(similarity / T) over the first k neighbours: (Q,)."""
    weights = (similarities[:, :k] / temperature).exp()
    votes = torch.zeros(len(rows), class_count(task))
    return votes.scatter_add_(1, task.values[rows[:, :k]], weights).argmax(dim=1)
