"""What BYOL and MoCo v3 share: predictions of every view, aimed at a slowly moving teacher's projections."""

import torch
from torch import Tensor

from sslcut.data.views import Views
from sslcut.methods.base import Features, Method
from sslcut.model.chain import Chain
from sslcut.model.teacher import Teacher, rising


class Predicting(Method):
    """A predictor after the projector; the teacher, which has none, follows with a `momentum` that rises to 1."""

    def __init__(self, chain: Chain, momentum: float) -> None:
        super().__init__(chain)
        self.momentum = momentum
        self.teacher = Teacher(chain.cut("projector"))

    @property
    def targets(self) -> int:
        return self.n_global

    def features(self, views: Views) -> Features:
        """Every view, and the teacher's projections of the global ones as targets."""
        self.check(views)
        own = self.seen(self.chain, views.crops)
        with torch.no_grad():
            aims = self.outputs(self.teacher.chain, views.crops[:1])
        return own._replace(targets=aims)

    def after_step(self, z: Tensor, labels: Tensor | None, progress: float) -> None:
        self.teacher.follow(self.chain, rising(self.momentum, progress))
