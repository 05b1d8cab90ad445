"""MoCo v2: a view finds its partner among a queue of other images' (arXiv 1911.05722, 2003.04297)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.data.views import Views
from sslcut.methods.base import Features, Method
from sslcut.methods.negatives import hide_same_label
from sslcut.model.chain import Chain
from sslcut.model.queue import Queue
from sslcut.model.teacher import Teacher


class MoCoV2(Method):
    """Every view against the teacher's last global one and the `queue` of what the teacher made of earlier images.

    `momentum` is the teacher's. The published queue of 65,536 is for ImageNet: a queue longer than the data set holds
    every image's own earlier view among its negatives. The authors shuffle images between devices, so that query and
    key do not share their batch statistics; on one device they do.
    """

    needs = ("projector",)
    batchnorm = "per_view"
    caution = (
        "on one device `moco_v2` cannot shuffle its batch norm: query and key share their images' statistics, "
        "which may let the loss fall without learning (`moco_v3` needs no shuffling)"
    )
    unseen = 1
    defaults = {
        "model": {"projector": {"widths": [256, 128], "norm": "none"}},
        "views": {"policy": "moco_v2", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(
        self,
        chain: Chain,
        *,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue: int = 4096,
        negatives: Literal["all", "mask_same_label"] = "all",
        task: str | None = None,
    ) -> None:
        super().__init__(chain)
        self.temperature, self.momentum, self.queue = temperature, momentum, queue
        self.negatives, self.task = negatives, task
        self.uses_labels = negatives == "mask_same_label"
        self.teacher = Teacher(chain)
        self.bank = Queue(queue, chain.width)

    @property
    def targets(self) -> int:
        return 1

    def features(self, views: Views) -> Features:
        """Every view but the last global one, and the teacher's outputs for that as the target."""
        self.check(views)
        queries = self.seen(self.chain, (views.crops[0][:-1], *views.crops[1:]))
        with torch.no_grad():
            key = self.outputs(self.teacher.chain, (views.crops[0][-1:],))
        return queries._replace(targets=key)

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Cross-entropy of each image's key among its own and the queue's, by cosine over temperature; z (V, B, D)."""
        queries, key = F.normalize(z[:-1], dim=2).flatten(0, 1), F.normalize(z[-1].detach(), dim=1)
        own = (queries * key.repeat(len(z) - 1, 1)).sum(dim=1, keepdim=True)
        logits = torch.cat([own, queries @ self.bank.rows.to(z.dtype).T], dim=1) / self.temperature
        first = torch.zeros(len(logits), dtype=torch.int64, device=z.device)
        if labels is not None:
            known = torch.cat([torch.full_like(labels[:1], -1), self.bank.labels])
            hide_same_label(logits, labels.repeat(len(z) - 1), known, first)
        return F.cross_entropy(logits, first)

    def after_step(self, z: Tensor, labels: Tensor | None, progress: float) -> None:
        self.bank.add(F.normalize(z[-1], dim=1), labels)
        self.teacher.follow(self.chain, self.momentum)
