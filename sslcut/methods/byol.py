"""BYOL: a network predicts what its slowly moving teacher makes of the other view (arXiv 2006.07733)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.methods.base import crossed
from sslcut.methods.predicting import Predicting
from sslcut.model.chain import Chain


class BYOL(Predicting):
    """The predictor's output for one view agrees with the teacher's projection of the other.

    `momentum` is the teacher's, which rises to 1; the paper's 0.996 is for a thousand epochs.
    """

    needs = ("projector", "predictor")
    batchnorm = "per_view"
    defaults = {
        "model": {"projector": {"widths": [512, 128]}, "predictor": {"widths": [512, 128]}},
        "views": {"policy": "byol", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(self, chain: Chain, *, momentum: float = 0.99) -> None:
        super().__init__(chain, momentum)

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """2 − 2 cos of each prediction with another view's target: twice the mean, the paper's sum for two views."""
        predicted, aims = z[: -self.targets], z[-self.targets :].detach()
        met = crossed(self.n_global, len(predicted))
        costs = [(2 - 2 * F.cosine_similarity(predicted[view], aims[aim], dim=1)).mean() for view, aim in met]
        return 2 * torch.stack(costs).mean()
