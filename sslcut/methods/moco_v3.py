"""MoCo v3: each view's prediction finds the other view's key among the batch's (arXiv 2104.02057)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.methods.base import crossed
from sslcut.methods.negatives import hide_same_label
from sslcut.methods.predicting import Predicting
from sslcut.model.chain import Chain


class MoCoV3(Predicting):
    """Predictions against the teacher's projections of the other view, all images of the batch being negatives.

    `momentum` is the teacher's, which rises to 1. The paper's temperature is 1 for ResNets and 0.2 for transformers and
    small images.
    """

    needs = ("projector", "predictor")
    batchnorm = "per_view"
    defaults = {
        "model": {
            "projector": {"widths": [512, 128], "bias": False, "last_norm": True, "last_affine": False},
            "predictor": {"widths": [512, 128], "bias": False, "last_bias": False},
        },
        "views": {"policy": "byol", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(
        self,
        chain: Chain,
        *,
        temperature: float = 0.2,
        momentum: float = 0.99,
        negatives: Literal["all", "mask_same_label"] = "all",
        task: str | None = None,
    ) -> None:
        super().__init__(chain, momentum)
        self.temperature, self.negatives, self.task = temperature, negatives, task
        self.uses_labels = negatives == "mask_same_label"

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """2τ times the cross-entropy of each image's own key: twice the mean, the authors' sum for two views."""
        rows = F.normalize(z, dim=2)
        queries, keys = rows[: -self.targets], rows[-self.targets :].detach()
        own = torch.arange(z.shape[1], device=z.device)
        costs = []
        for view, aim in crossed(self.n_global, len(queries)):
            logits = queries[view] @ keys[aim].T / self.temperature  # (B, B)
            if labels is not None:
                hide_same_label(logits, labels, labels, own)
            costs.append(F.cross_entropy(logits, own))
        return 4 * self.temperature * torch.stack(costs).mean()
