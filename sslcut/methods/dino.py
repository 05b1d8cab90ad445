"""DINO: every view matches the teacher's sharpened assignment of the global ones (arXiv 2104.14294)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslcut.data.views import Views
from sslcut.methods.base import Features, Method
from sslcut.model.chain import Chain
from sslcut.model.teacher import Teacher, rising


class DINO(Method):
    """Cross-entropy between the teacher's softmax, centred and sharp, and the student's, over `prototypes` directions.

    The teacher's temperature rises linearly from `warmup_teacher_temperature` during the share
    `teacher_temperature_warmup` of the training; `frozen_prototypes` is the share during which the prototypes stand
    still. `momentum` is the teacher's, which rises to 1. The checkpoint holds the teacher.
    """

    keeps = "teacher"
    needs = ("projector", "prototypes")
    defaults = {
        "model": {
            "projector": {"widths": [512, 512, 128], "activation": "gelu"},
            "prototypes": {"count": 1024, "unit": True},
        },
        "views": {"policy": "dino", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}, "clip_gradient": 3.0, "clip_each": True},
    }

    centre: Tensor

    def __init__(
        self,
        chain: Chain,
        *,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_teacher_temperature: float = 0.04,
        teacher_temperature_warmup: float = 0.0,
        momentum: float = 0.99,
        centre_momentum: float = 0.9,
        frozen_prototypes: float = 0.01,
    ) -> None:
        super().__init__(chain)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.warmup_teacher_temperature = warmup_teacher_temperature
        self.teacher_temperature_warmup = teacher_temperature_warmup
        self.momentum, self.centre_momentum, self.frozen_prototypes = momentum, centre_momentum, frozen_prototypes
        self.teacher = Teacher(chain)
        self.register_buffer("centre", torch.zeros(chain.width))

    @property
    def kept(self) -> Chain:
        return self.teacher.chain

    @property
    def targets(self) -> int:
        return self.n_global

    def features(self, views: Views) -> Features:
        """Every view, and the teacher's projections of the global ones as targets."""
        self.check(views)
        student = self.seen(self.chain, views.crops)
        with torch.no_grad():
            teacher = self.outputs(self.teacher.chain, views.crops[:1], upto="projector")
        return student._replace(targets=teacher)

    def head(self, features: Features) -> Tensor:
        """The student's projections of every view, then the teacher's of the global ones: (V + n_global, B, D)."""
        student = self.projected(self.chain, features, upto="projector")
        return student if features.targets is None else torch.cat([student, features.targets])

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The mean over teacher's views u and student's views v ≠ u of the cross-entropy; z (V + n_global, B, D)."""
        student = scores(self.chain, z[: -self.n_global]) / self.temperature
        with torch.no_grad():
            sharp = (scores(self.teacher.chain, z[-self.n_global :]) - self.centre) / self.sharpness()
        assigned, log = sharp.softmax(dim=2), student.log_softmax(dim=2)
        costs = -torch.einsum("ubk,vbk->uv", assigned, log) / z.shape[1]
        other = ~torch.eye(len(assigned), len(log), dtype=torch.bool, device=z.device)
        return (costs * other).sum() / (len(assigned) * (len(log) - 1))

    def sharpness(self) -> float:
        """The teacher's temperature at this point of the training."""
        first, last, share = (
            self.warmup_teacher_temperature, self.teacher_temperature, self.teacher_temperature_warmup,
        )  # fmt: skip
        return last if self.progress >= share else first + (last - first) * self.progress / share

    def held(self, progress: float) -> Sequence[nn.Parameter]:
        return tuple(prototypes(self.chain).parameters()) if progress < self.frozen_prototypes else ()

    def after_step(self, z: Tensor, labels: Tensor | None, progress: float) -> None:
        with torch.no_grad():
            mean = scores(self.teacher.chain, z[-self.n_global :]).mean(dim=(0, 1))
        self.centre.lerp_(mean, 1 - self.centre_momentum)
        self.teacher.follow(self.chain, rising(self.momentum, progress))


def prototypes(chain: Chain) -> nn.Module:
    """The block of prototypes at a chain's end."""
    return chain.block("prototypes")


def scores(chain: Chain, z: Tensor) -> Tensor:
    """What a chain's prototypes give for projections (V, B, D): (V, B, K)."""
    return prototypes(chain)(z)
