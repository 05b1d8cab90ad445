"""What a training method is: how views become z, and what z costs."""

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sslcut.data.views import Views
from sslcut.errors import UsageError
from sslcut.model.chain import Chain


class Method(nn.Module, ABC):
    """A network (`chain`) and a loss over its last output; a subclass writes `loss` and what it declares.

    A method's options are the keyword-only parameters of its `__init__`. Teachers, queues and centres are modules or
    buffers of the method, so that `state_dict()` carries them and resuming costs no code.
    """

    uses_labels: ClassVar[bool] = False  # else `labels` is None
    needs_classifier: ClassVar[bool] = False  # the chain ends with a block of one output a class
    keeps: ClassVar[str] = "student"  # which network the checkpoint holds
    batchnorm: ClassVar[Literal["per_view", "joint"]] = "joint"  # what the backbone's batch statistics are taken over
    n_views: ClassVar[int | None] = 2  # how many views the loss compares; None: any number
    defaults: ClassVar[dict[str, Any]] = {}  # recipe sections below what the user writes

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, views: Views, labels: Tensor | None = None) -> Tensor:
        """z, (V, B, D): the backbone once for each resolution (or view), then the head once over all of them."""
        count = sum(len(crop) for crop in views.crops)
        if self.n_views is not None and count != self.n_views:
            raise UsageError(
                f"the method {type(self).__name__} compares {self.n_views} views, views.crops gives {count}",
                hint=f"make the counts in `views.crops` add up to {self.n_views}",
            )
        h = torch.cat(self.backbone(views.crops))  # (V·B, H)
        z = self.chain.run(h, after=self.chain.backbone)  # (V·B, D)
        return z.reshape(count, -1, z.shape[-1])

    def backbone(self, crops: tuple[Tensor, ...]) -> list[Tensor]:
        """The backbone's output for each group of crops, its views one after another, (V_i·B, H)."""
        if self.batchnorm == "per_view":
            return [torch.cat([self.chain.run(view, upto=self.chain.backbone) for view in crop]) for crop in crops]
        by_size: dict[torch.Size, list[int]] = defaultdict(list)
        for group, crop in enumerate(crops):
            by_size[crop.shape[-2:]].append(group)
        found: dict[int, Tensor] = {}
        for groups in by_size.values():
            images = [crops[group].flatten(0, 1) for group in groups]
            h = self.chain.run(torch.cat(images), upto=self.chain.backbone)
            found.update(zip(groups, torch.split(h, [len(x) for x in images]), strict=True))
        return [found[group] for group in range(len(crops))]

    @abstractmethod
    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The loss of z (V, B, D), a scalar. Called with autocast off and z in float32."""

    def before_step(self, progress: float) -> None:
        """Called between the backward pass and the optimiser's step; `progress` runs from 0 to 1."""

    def after_step(self, z: Tensor, labels: Tensor | None, progress: float) -> None:
        """Called after the optimiser's step with the detached z: queues, centres, then the teacher."""
