"""RankMe of a layer's features, and what measures without labels share: which rows they read, products of features."""

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
    return evenly(rows_of(folds, "test") if folds else torch.arange(len(layer.features)), count)


def evenly(rows: Tensor, count: int) -> Tensor:
    """At most `count` of some rows, evenly spaced: (n,)."""
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
    return rank_of(gram(features, rows), max(len(rows), features.shape[1]))


def rank_of(products: Tensor, longer: int) -> float:
    """RankMe of the features whose Gram matrix is given, from the shorter side; `longer` is the other side's length."""
    singular = positive(torch.linalg.eigvalsh(products), longer).sqrt()
    shares = singular / singular.sum() + 1e-7
    return float((-(shares * shares.log()).sum()).exp())


def positive(eigenvalues: Tensor, longer: int) -> Tensor:
    """Eigenvalues of a Gram matrix with those at the level of rounding set to nought."""
    rounding = eigenvalues.max() * longer * torch.finfo(torch.float64).eps
    return torch.where(eigenvalues > rounding, eigenvalues, 0.0).clamp_min(0)


def gram(features: Tensor, rows: Tensor, centre: Tensor | None = None) -> Tensor:
    """The smaller of XᵀX and XXᵀ for the `rows` X of features less `centre` (D,), in float64: (min(n, D), min(n, D)).

    X is read in blocks.
    """
    width = features.shape[1]
    shift: Tensor | float = 0.0 if centre is None else centre
    if width <= len(rows):
        products = features.new_zeros(width, width, dtype=torch.float64)
        for _, block in blocks(features, rows):
            double = block.double() - shift
            products.addmm_(double.T, double)
        return products
    products = features.new_empty(len(rows), len(rows), dtype=torch.float64)
    for here, block in blocks(features, rows):
        double = block.double() - shift
        for there, other in blocks(features, rows):
            products[here, there] = double @ (other.double() - shift).T
    return products


def mean_of(features: Tensor, rows: Tensor) -> Tensor:
    """The mean of features (N, D) over `rows` (n,): (D,), float64."""
    total = features.new_zeros(features.shape[1], dtype=torch.float64)
    for _, block in blocks(features, rows):
        total += block.sum(dim=0, dtype=torch.float64)
    return total / max(1, len(rows))
