"""Measures of a layer's features that need no label."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fold, Layer, Measure, rows_of


def rankme(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 10_000
) -> list[Measure]:
    """RankMe of each layer on at most `images` evenly spaced test rows (all rows where there is no fold)."""
    return [Measure(layer, "rankme", effective_rank(held_out(layer, folds, images))) for layer in layers]


def held_out(layer: Layer, folds: Sequence[Fold], count: int) -> Tensor:
    """The features of at most `count` evenly spaced test rows, (n, D)."""
    rows = rows_of(folds, "test") if folds else torch.arange(len(layer.features))
    taken = min(count, len(rows))
    return layer.features[rows[torch.arange(taken) * len(rows) // max(taken, 1)]]


def effective_rank(features: Tensor) -> float:
    """How many directions the features use, from 1 (collapsed) to min(n, D): the exponential of their entropy.

    Of the singular values of the uncentred features (n, D) as shares p of their sum, exp(−Σ p log p) with 1e-7 added
    to each p. RankMe (arXiv 2210.02885). The values are roots of the Gram matrix's eigenvalues, which tells them from
    nought down to 1e-7 of the largest: where directions are missing, four digits. NaN where all features are zero.
    """
    features = features.double()
    gram = features.T @ features if features.shape[1] <= len(features) else features @ features.T
    squares = torch.linalg.eigvalsh(gram)
    rounding = squares.max() * max(features.shape) * torch.finfo(torch.float64).eps
    singular = torch.where(squares > rounding, squares, 0.0).clamp_min(0).sqrt()
    shares = singular / singular.sum() + 1e-7
    return float((-(shares * shares.log()).sum()).exp())
