"""Ridge regression of every output at every penalty, in closed form from one spectrum."""

import torch
from torch import Tensor

from sslcut.metrics.design import Affine, Design


def ridge(design: Design, targets: Tensor, l2: Tensor) -> Affine:
    """Minimises mean squared error / 2 + l2 / 2 · ‖w‖² for targets (n, K) at each of `l2` (P,); no penalty on the bias.

    The same optimum as scikit-learn's `Ridge(alpha=n · l2)`.
    """
    centre = targets.mean(dim=0)
    centred = design.features - design.mean
    along = design.directions.T @ (centred.T @ (targets - centre)) / len(design)  # (R, K)
    shrunk = along / (design.variances[:, None] + l2[:, None, None])  # (P, R, K)
    weights = (design.directions @ shrunk).transpose(1, 2)
    return Affine(weights.contiguous(), centre - weights @ design.mean)


def squeeze(values: Tensor) -> Tensor:
    """Predictions (P, K, m) as a task holds its values: (P, m) for one output, (P, m, K) for more."""
    return values[:, 0] if values.shape[1] == 1 else torch.movedim(values, 1, 2)
