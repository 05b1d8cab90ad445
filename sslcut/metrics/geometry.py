"""Measures of a layer's features that need no label."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fold, Layer, Measure, blocks, rows_of


def rankme(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 10_000
) -> list[Measure]:
    """RankMe of each layer on at most `images` evenly spaced test rows (all rows where there is no fold)."""
    return [
        Measure(layer, "rankme", effective_rank(layer.features, held_out(layer, folds, images))) for layer in layers
    ]


def held_out(layer: Layer, folds: Sequence[Fold], count: int) -> Tensor:
    """At most `count` evenly spaced test rows, (n,)."""
    rows = rows_of(folds, "test") if folds else torch.arange(len(layer.features))
    taken = min(count, len(rows))
    return rows[torch.arange(taken) * len(rows) // max(taken, 1)]


def effective_rank(features: Tensor, rows: Tensor | None = None) -> float:
    """How many directions the features use, from 1 (collapsed) to min(n, D): the exponential of their entropy.

    Of the singular values of the uncentred features (N, D) at `rows` (n,), all by default, as shares p of their sum,
    exp(−Σ p log p) with 1e-7 added to each p. RankMe (arXiv 2210.02885). The values are roots of the Gram matrix's
    eigenvalues, which tells them from nought down to 1e-7 of the largest: where directions are missing, four digits.
    NaN where all features are zero.
    """
    rows = torch.arange(len(features), device=features.device) if rows is None else rows
    squares = torch.linalg.eigvalsh(_gram(features, rows))
    rounding = squares.max() * max(len(rows), features.shape[1]) * torch.finfo(torch.float64).eps
    singular = torch.where(squares > rounding, squares, 0.0).clamp_min(0).sqrt()
    shares = singular / singular.sum() + 1e-7
    return float((-(shares * shares.log()).sum()).exp())


def _gram(features: Tensor, rows: Tensor) -> Tensor:
    """The smaller of XᵀX and XXᵀ for the `rows` X of features, in float64 from blocks: (min(n, D), min(n, D))."""
    width = features.shape[1]
    if width <= len(rows):
        gram = features.new_zeros(width, width, dtype=torch.float64)
        for _, block in blocks(features, rows):
            double = block.double()
            gram.addmm_(double.T, double)
        return gram
    gram = features.new_empty(len(rows), len(rows), dtype=torch.float64)
    for here, block in blocks(features, rows):
        double = block.double()
        for there, other in blocks(features, rows):
            gram[here, there] = double @ other.double().T
    return gram
