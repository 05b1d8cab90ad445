"""SimSiam: one view predicts the other, which passes no gradient back (arXiv 2011.10566)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.methods.base import Features, Method, crossed
from sslcut.model.chain import Chain


class SimSiam(Method):
    """The predictor's output for one view agrees with the projection of the other: no teacher, no negatives."""

    needs = ("projector", "predictor")
    batchnorm = "per_view"
    stops_gradient = True
    defaults = {
        "model": {
            "projector": {"widths": [512, 512, 512], "last_norm": True, "last_affine": False},
            "predictor": {"widths": [128, 512]},
        },
        "views": {"policy": "moco_v2", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 1e-4}},
    }

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain)
        self.last = chain.names[chain.position("projector")]

    @property
    def targets(self) -> int:
        return self.n_global

    def head(self, features: Features) -> Tensor:
        """The predictions of every view, then the projections of the global ones: (V + n_global, B, D)."""
        projected = self.projected(self.chain, features, upto=self.last)
        predicted = torch.stack([self.chain.run(view, after=self.last) for view in projected])
        return torch.cat([predicted, projected[: self.n_global].detach()])

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The mean negative cosine of each prediction with another global view's projection."""
        predicted, aims = z[: -self.targets], z[-self.targets :].detach()
        met = crossed(self.n_global, len(predicted))
        return -torch.stack([F.cosine_similarity(predicted[view], aims[aim], dim=1).mean() for view, aim in met]).mean()
