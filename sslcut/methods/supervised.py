"""Supervised learning: the classifier at the chain's end names the class of every view."""

from random import Random
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from sslcut.data.views import Views
from sslcut.methods.base import Features, Method
from sslcut.methods.mixing import draw
from sslcut.model.chain import Chain


class Supervised(Method):
    """Cross-entropy on the labels of `task` (the first class task where null), over every view.

    `label_smoothing` is the share of the target spread over all classes. `mixup` and `cutmix` are the parameters of the
    Beta distributions that they draw from, 0 for none; with both, each batch takes one of the two.
    """

    uses_labels = True
    needs_classifier = True
    min_views = 1
    defaults = {
        "model": {"projector": None},
        "views": {"policy": "supervised", "crops": [{"count": 1, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "sgd", "lr": 0.2, "weight_decay": 5e-4}},
    }

    def __init__(
        self,
        chain: Chain,
        *,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        mixup: Annotated[float, Field(ge=0)] = 0.0,
        cutmix: Annotated[float, Field(ge=0)] = 0.0,
        task: str | None = None,
    ) -> None:
        super().__init__(chain)
        self.label_smoothing, self.mixup, self.cutmix, self.task = label_smoothing, mixup, cutmix, task

    def features(self, views: Views) -> Features:
        """Every view, of mixed images while training where that is asked for; every batch of a step is mixed alike."""
        self.check(views)
        self.mixing = None
        if self.training and (self.mixup or self.cutmix):
            chance, batch = Random(f"{self.seed} {self.progress!r}"), views.crops[0].shape[1]
            self.mixing = draw(chance, batch, self.mixup, self.cutmix, views.crops[0].device)
            views = views._replace(crops=tuple(self.mixing(crop) for crop in views.crops))
        return self.seen(self.chain, views.crops)

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The mean over views and labelled images; z (V, B, C) logits, labels (B,), -1 where there is none."""
        assert labels is not None
        if self.mixing is None:
            return self.cost(z, labels)
        share, order = self.mixing.share, self.mixing.order
        return share * self.cost(z, labels) + (1 - share) * self.cost(z, labels[order])

    def cost(self, z: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of z (V, B, C) with one label an image."""
        targets = labels.repeat(z.shape[0])  # (V·B,)
        total = F.cross_entropy(
            z.flatten(0, 1), targets, ignore_index=-1, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / (targets >= 0).sum().clamp(min=1)  # a batch without labels costs nothing, rather than NaN
