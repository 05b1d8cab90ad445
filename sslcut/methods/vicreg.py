"""VICReg: two views agree, every dimension varies, no two dimensions repeat (arXiv 2105.04906)."""

import torch
from torch import Tensor

from sslcut.methods.base import Method, pairs
from sslcut.model.chain import Chain


class VICReg(Method):
    """Two views agree without comparing images: every dimension keeps its spread, no two of them repeat.

    Options weigh the three terms; the defaults are the paper's.
    """

    batchnorm = "per_view"
    defaults = {
        "model": {"projector": {"widths": [512, 512, 512], "last_bias": False}},
        "views": {"policy": "vicreg", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(
        self, chain: Chain, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
    ) -> None:
        super().__init__(chain)
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The weighted sum of the three terms the mean over pairs of views; z (V, B, D), B at least 2."""
        alone = [self.variance * spread(view) + self.covariance * overlap(view) for view in z]
        met = pairs(self.n_global, len(z))
        costs = [self.invariance * (z[a] - z[b]).square().mean() + alone[a] + alone[b] for a, b in met]
        return torch.stack(costs).mean()


def spread(z: Tensor) -> Tensor:
    """How far, on average, a dimension's standard deviation falls short of 1, halved as in the paper's code."""
    return torch.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean() / 2


def overlap(z: Tensor) -> Tensor:
    """Squared covariances between different dimensions of z (B, D), summed, per dimension.

    The covariance and the Gram matrix have the same sum of squares, so the smaller of the two is formed.
    """
    batch, width = z.shape
    centred = z - z.mean(dim=0)
    product = centred.T @ centred if width <= batch else centred @ centred.T
    own = centred.square().sum(dim=0).square().sum()
    return (product.square().sum() - own) / (batch - 1) ** 2 / width
