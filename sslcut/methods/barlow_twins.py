"""Barlow Twins: each dimension agrees across two views, and no two dimensions repeat (arXiv 2103.03230)."""

import torch
from torch import Tensor

from sslcut.methods.base import Method, pairs
from sslcut.model.chain import Chain

EPSILON = 1e-5  # of the batch norm that standardises the outputs in the authors' code


class BarlowTwins(Method):
    """The correlation between two views' dimensions is the identity; `redundancy` weighs what is off the diagonal."""

    needs = ("projector",)
    batchnorm = "per_view"
    defaults = {
        "model": {"projector": {"widths": [512, 512, 512], "bias": False, "last_bias": False}},
        "views": {"policy": "byol", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(self, chain: Chain, *, redundancy: float = 0.0051) -> None:
        super().__init__(chain)
        self.redundancy = redundancy

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Σ (1 − c_jj)² + redundancy · Σ c_jk² over j ≠ k, the mean over pairs of views; z (V, B, D)."""
        views = [standardised(view) for view in z]
        return torch.stack([self.cost(views[a], views[b]) for a, b in pairs(self.n_global, len(z))]).mean()

    def cost(self, a: Tensor, b: Tensor) -> Tensor:
        """The loss of two standardised views (B, D)."""
        c = a.T @ b / len(a)  # (D, D)
        diagonal = c.diagonal()
        apart = c.square().sum() - diagonal.square().sum()
        return (1 - diagonal).square().sum() + self.redundancy * apart


def standardised(z: Tensor) -> Tensor:
    """z (B, D) with mean 0 and variance 1 in each dimension over the batch."""
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (z - mean) * (variance + EPSILON).rsqrt()
