"""How many of a layer's features are zero (arXiv 2304.05369): a share of each image's, and those that never fire.

Averages over a map's places are rarely exactly zero, and the rarer the larger the map: both depend on the image size.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.geometry import held_out
from sslcut.metrics.layer import Fold, Layer, Measure, blocks

TOLERANCE = 1e-6  # of the largest |h| of an image: what is below counts as zero


def zeros(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 10_000
) -> list[Measure]:
    """The mean share of an image's features that are zero, on at most `images` evenly spaced test rows."""
    return [Measure(each, "zeros", share_of_zeros(each.features, held_out(each, folds, images))) for each in layers]


def zeros_exact(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 10_000
) -> list[Measure]:
    """The mean share of an image's features that are exactly zero, on at most `images` evenly spaced test rows.

    Features that the disk holds as float16 count what rounds to zero, below 3e-8.
    """
    return [
        Measure(each, "zeros_exact", share_of_zeros(each.features, held_out(each, folds, images), tolerance=0.0))
        for each in layers
    ]


def dead(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 10_000
) -> list[Measure]:
    """The share of features that are above zero for none of at most `images` evenly spaced test rows."""
    return [Measure(each, "dead", share_of_dead(each.features, held_out(each, folds, images))) for each in layers]


def share_of_zeros(features: Tensor, rows: Tensor, tolerance: float = TOLERANCE) -> float:
    """The mean over `rows` (n,) of features (N, D) of the share with |h| ≤ tolerance · max |h|; of zeros alone 1."""
    count = 0
    for _, block in blocks(features, rows):
        size = block.abs()
        count += int((size <= tolerance * size.amax(dim=1, keepdim=True)).sum())
    return count / max(1, len(rows) * features.shape[1])


def share_of_dead(features: Tensor, rows: Tensor) -> float:
    """The share of the columns of features (N, D) that are positive at none of `rows` (n,)."""
    alive = torch.zeros(features.shape[1], dtype=torch.bool)
    for _, block in blocks(features, rows):
        alive |= (block > 0).any(dim=0)
    return float(1 - alive.double().mean())
