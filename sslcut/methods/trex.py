"""t-ReX: supervised training whose class weights are the means of what a teacher remembers (arXiv 2206.15369)."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sslcut.data.views import Views
from sslcut.errors import UsageError
from sslcut.methods.base import Features, Method
from sslcut.model.chain import Chain
from sslcut.model.heads import prototypes
from sslcut.model.queue import Queue
from sslcut.model.teacher import Teacher
from sslcut.names import part_of


class TReX(Method):
    """Each crop is classified on its own by the cosine to class prototypes, over `temperature`.

    Prototypes are the classes' sums over the last `memory_size` outputs of a teacher with `momentum` for the images'
    global crop; `memory_size: 0` learns one weight vector a class instead. The class task is `task`, the first where
    null. The published memory of 8,192 and momentum of 0.999 are for ImageNet.
    """

    uses_labels = True
    needs_classes = True
    min_views = 1
    defaults = {
        "model": {
            "projector": {
                "widths": [256, 256, 256, 64],
                "activation": "gelu",
                "bias": True,
                "last_bias": False,
                "input_norm": True,
            },
        },
        "views": {"policy": "trex", "crops": [{"count": 1, "scale": [0.25, 1.0]}]},
        "train": {"optimizer": {"name": "sgd", "lr": 0.2, "weight_decay": 1e-4}},
    }

    def __init__(
        self,
        chain: Chain,
        *,
        classes: int,
        memory_size: Annotated[int, Field(ge=0)] = 2048,
        temperature: float = 0.1,
        momentum: float = 0.99,
        task: str | None = None,
    ) -> None:
        super().__init__(chain)
        if "prototypes" in chain.names:
            raise UsageError("t-ReX makes its own prototypes", hint="leave `model.prototypes` out")
        draw_head(chain)
        self.classes, self.memory_size, self.temperature = classes, memory_size, temperature
        self.momentum, self.task = momentum, task
        if memory_size:
            self.teacher = Teacher(chain)
            self.bank = Queue(memory_size, chain.width, wrap=False)
            self.bank.rows.normal_()
            self.bank.labels.random_(classes)
        else:
            self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(classes, chain.width), std=0.02))

    @property
    def kept(self) -> Chain:
        """The network with the final prototypes as its last block."""
        blocks = prototypes(self.chain.width, **self.added["prototypes"])
        for parameter in blocks[0][2].parameters():
            parameter.data = self.prototypes().detach()
        return self.chain.followed_by(blocks)

    @property
    def added(self) -> dict[str, Any]:
        return {"prototypes": {"count": self.classes, "unit": True}}

    @property
    def targets(self) -> int:
        return 1 if self.memory_size else 0

    def begin(self) -> None:
        """The teacher moves first: it follows the network as it was before this step's update."""
        if self.memory_size and self.training:
            self.teacher.follow(self.chain, self.momentum)

    def features(self, views: Views) -> Features:
        """Every crop, and with a memory the teacher's outputs for the first one as targets, for `after_step` alone."""
        self.check(views)
        own = self.seen(self.chain, views.crops)
        if not self.memory_size:
            return own
        with torch.no_grad():
            remembered = self.outputs(self.teacher.chain, (views.crops[0][:1],))
        return own._replace(targets=remembered)

    def draw_head(self) -> None:
        super().draw_head()
        draw_head(self.chain)
        if not self.memory_size:
            nn.init.trunc_normal_(self.weight, std=0.02)

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Cross-entropy over every crop of the labelled images; z (V, B, D), with a memory (V + 1, B, D)."""
        assert labels is not None
        crops = z[: len(z) - self.targets]
        logits = F.normalize(crops, dim=2) @ self.prototypes().to(z.dtype).T / self.temperature  # (V, B, C)
        targets = labels.repeat(len(crops))
        total = F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=-1, reduction="sum")
        return total / (targets >= 0).sum().clamp(min=1)

    def prototypes(self) -> Tensor:
        """One direction a class, (C, D): of length 1, or 0 for a class that the memory does not hold."""
        if not self.memory_size:
            return F.normalize(self.weight, dim=1)
        rows, labels = self.bank.rows, self.bank.labels
        place = torch.where(labels < 0, self.classes, labels)  # what has no label is summed apart, and dropped
        sums = rows.new_zeros(self.classes + 1, rows.shape[1]).index_add_(0, place, rows)
        return F.normalize(sums[: self.classes], dim=1)

    def after_step(self, z: Tensor, labels: Tensor | None, progress: float) -> None:
        if self.memory_size:
            self.bank.add(z[-1], labels)


def draw_head(chain: Chain) -> None:
    """Draw the projector's weights as the authors do: a normal of deviation 0.02 cut off at ±2, and biases of 0."""
    for name, _, block in chain.items():
        for layer in block.modules() if part_of(name) == "projector" else ():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
