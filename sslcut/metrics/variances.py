"""How a layer's variance is spread over its principal directions: measures of the centred covariance's eigenvalues."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.geometry import gram, held_out, mean_of, positive
from sslcut.metrics.layer import Fold, Layer, Measure

FITTED = (11, 100)  # ranks that a power law is fitted to, where there are enough directions
ENOUGH = 128  # directions; with fewer the fit begins at rank 3 and ends at half of them
FEWEST = 3  # points that a line is fitted to
TRUSTED = 0.95  # R² of the fit below which the exponent says nothing


def erank_cov(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 10_000
) -> Iterator[Measure]:
    """The effective rank of the covariance: exp(−Σ p log p) of its eigenvalues as shares p of their sum.

    RankMe takes roots of them and does not centre, and so counts faint directions for more.
    """
    for layer in layers:
        shares = _shares(layer, folds, images)
        yield Measure(layer, "erank_cov", float((-torch.xlogy(shares, shares).sum()).exp()))


def participation(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 10_000
) -> Iterator[Measure]:
    """The participation ratio (Σ λ)² / Σ λ² of the covariance's eigenvalues: from 1 to the number of directions."""
    for layer in layers:
        yield Measure(layer, "participation", float(1 / _shares(layer, folds, images).square().sum()))


def alpha_req(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 10_000
) -> Iterator[Measure]:
    """How fast the covariance's eigenvalues fall: α of λ_j ∝ j^−α, and `alpha_req_r2`, how well a power law fits.

    The exponent is withheld (NaN) where R² is below 0.95. α-ReQ (Agrawal et al., NeurIPS 2022).
    """
    for layer in layers:
        alpha, fit = power_law(_shares(layer, folds, images))
        yield Measure(layer, "alpha_req", alpha if fit >= TRUSTED else math.nan)
        yield Measure(layer, "alpha_req_r2", fit)


def power_law(eigenvalues: Tensor) -> tuple[float, float]:
    """α and R² of log λ_j = c − α log j by least squares with weights 1/j; NaN with too few eigenvalues above nought.

    Over the ranks 11 to 100, or from 3 to half of them where fewer than 128 are above nought.
    """
    falling = eigenvalues[eigenvalues > 0].sort(descending=True).values.double()
    count = len(falling)
    first, last = FITTED if count >= ENOUGH else (3, count // 2)
    if last - first + 1 < FEWEST:
        return math.nan, math.nan
    ranks = torch.arange(first, last + 1, dtype=torch.float64)
    weights = (1 / ranks) / (1 / ranks).sum()
    x, y = ranks.log(), falling[first - 1 : last].log()
    x, y = x - weights @ x, y - weights @ y
    across, along = weights @ (x * y), weights @ x.square()
    if not (whole := weights @ y.square()):
        return 0.0, 1.0
    return float(-across / along), float(across.square() / (along * whole))


def _shares(layer: Layer, folds: Sequence[Fold], images: int) -> Tensor:
    """The eigenvalues of the covariance over at most `images` test rows, as shares of their sum; NaN without any."""
    rows = held_out(layer, folds, images)
    products = gram(layer.features, rows, mean_of(layer.features, rows))
    variances = positive(torch.linalg.eigvalsh(products), max(len(rows), layer.features.shape[1]))
    return variances / variances.sum()
