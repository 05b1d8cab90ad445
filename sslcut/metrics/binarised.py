"""The linear probe on which features are above zero, b = 1[h > 0] (arXiv 2304.05369): what their sizes add to that."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fit, Fold, Layer, blocks, check_finite
from sslcut.metrics.linear import linear


def binarised(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, scale: str, memory: int
) -> list[Fit]:
    """Fits every task on every layer as `linear` does, on the features' signs: one where above zero, else zero.

    Raises InputError where features are not finite.
    """
    fits = []
    for layer in layers:
        check_finite(layer)
        for fit in linear([signs(layer)], tasks, folds, scale=scale, memory=memory):
            fits.append(replace(fit, layer=layer, probe="binarised"))
    return fits


def signs(layer: Layer) -> Layer:
    """The layer, and what lies beside it, with features of bool: whether each is above zero."""
    beside = layer.beside
    if beside is not None:
        beside = replace(beside, features=_above_zero(beside.features))
    return replace(layer, features=_above_zero(layer.features), beside=beside)


def _above_zero(features: Tensor) -> Tensor:
    found = torch.empty(features.shape, dtype=torch.bool)
    for part, block in blocks(features, torch.arange(len(found))):
        found[part] = block > 0
    return found
