"""SwAV: the code that one view is assigned is predicted from every other view (arXiv 2006.09882)."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslcut.methods.base import Features, Method
from sslcut.model.chain import Chain
from sslcut.model.heads import Prototypes
from sslcut.model.queue import Queue


class SwAV(Method):
    """Codes share the batch evenly among the prototypes (Sinkhorn), and each is predicted from the other views.

    `epsilon` is the codes' temperature and `iterations` the Sinkhorn rounds: the published 0.05 lets a small network
    collapse in a short training, where all codes are equal. A `queue` of earlier outputs evens out the codes of small
    batches, from the share `queue_from` of the training on. `frozen_prototypes` is the share during which the
    prototypes stand still.
    """

    needs = ("projector", "prototypes")
    stops_gradient = True
    defaults = {
        "model": {"projector": {"widths": [512, 128]}, "prototypes": {"count": 300}},
        "views": {"policy": "simclr", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(
        self,
        chain: Chain,
        *,
        temperature: float = 0.1,
        epsilon: float = 0.03,
        iterations: int = 3,
        queue: int = 0,
        queue_from: float = 0.1,
        frozen_prototypes: float = 0.01,
    ) -> None:
        super().__init__(chain)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_from, self.frozen_prototypes = queue_from, frozen_prototypes
        self.queue = queue
        width = chain.cut("projector").width
        self.banks = torch.nn.ModuleList(Queue(queue, width) for _ in range(2 if queue else 0))

    @property
    def prototypes(self) -> Prototypes:
        """The chain's last block."""
        return cast(Prototypes, self.chain.block("prototypes"))

    def head(self, features: Features) -> Tensor:
        """The projections of every view, (V, B, D); the prototypes are brought to length 1 first."""
        weight = self.prototypes.weight
        with torch.no_grad():
            weight.copy_(F.normalize(weight, dim=1))
        return self.projected(self.chain, features, upto="projector")

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The mean over global views i and views v ≠ i of the cross-entropy of i's code given v; z (V, B, D)."""
        scores = self.prototypes(z)  # (V, B, K), of z scaled to length 1
        log = (scores / self.temperature).log_softmax(dim=2)
        total = z.new_zeros(())
        for view in range(self.n_global):
            code = self.code(scores[view].detach(), view)
            apart = -(code * log).sum(dim=2).mean(dim=1)  # (V,)
            total = total + (apart.sum() - apart[view]) / (len(z) - 1)
        return total / self.n_global

    @torch.no_grad()
    def code(self, scores: Tensor, view: int) -> Tensor:
        """The code (B, K) of one view's scores, together with the queue's where that is in use."""
        if view < len(self.banks) and self.progress >= self.queue_from:
            earlier = self.prototypes(self.banks[view].rows)
            return sinkhorn(torch.cat([earlier, scores]), self.epsilon, self.iterations)[-len(scores) :]
        return sinkhorn(scores, self.epsilon, self.iterations)

    def held(self, progress: float) -> Sequence[nn.Parameter]:
        return (cast(nn.Parameter, self.prototypes.weight),) if progress < self.frozen_prototypes else ()

    def after_step(self, z: Tensor, labels: Tensor | None, progress: float) -> None:
        for view, bank in enumerate(self.banks):
            cast(Queue, bank).add(F.normalize(z[view], dim=1))


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes (B, K), rows of sum 1, that share the batch about evenly among the K prototypes.

    Prototypes are brought to a sum of 1/K, then images to 1/B, `iterations` times.
    """
    shares = ((scores - scores.amax()) / epsilon).exp()
    for _ in range(iterations):
        shares = shares / shares.sum(dim=0, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
    return shares
