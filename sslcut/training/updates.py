"""How the network moves at one step: the members of `head.update`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sslcut.data.views import Views
from sslcut.methods.base import Method
from sslcut.training.world import Precision, loss_of


@dataclass(frozen=True)
class Engine:
    """What every update is made of: a loss, and a descent along its gradient.

    `clip` is the largest norm of the whole gradient, None for any.
    """

    method: Method
    optimizer: Optimizer
    precision: Precision
    clip: float | None = None

    def loss(self, views: Views, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of a batch (a scalar) and its z (V, B, D), both with their graph."""
        return loss_of(self.method, views, labels, self.precision)

    def descend(self, loss: Tensor, progress: float) -> None:
        """Move the optimiser's parameters one step down `loss`."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.method.before_step(progress)
        if self.clip is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()


class Joint:
    """Backbone and head move together, one step of one optimiser a batch."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def step(self, views: Views, labels: Tensor | None, progress: float) -> tuple[Tensor, Tensor]:
        """Take the step for one batch; returns its loss (a scalar) and z (V, B, D), detached and not read back."""
        self.engine.method.progress = progress
        loss, z = self.engine.loss(views, labels)
        self.engine.descend(loss, progress)
        z = z.detach()
        with torch.no_grad():
            self.engine.method.after_step(z, labels, progress)
        return loss.detach(), z
