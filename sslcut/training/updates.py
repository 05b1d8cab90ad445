"""How the network moves at one step: what every member of `head.update` is, and those without steps of the head's own.

θ is the backbone, φ the head: every other parameter that the method trains, from the projector to class weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from sslcut.data.views import Views
from sslcut.errors import InputError
from sslcut.methods.base import Method
from sslcut.names import part_of
from sslcut.training.optim import drop, split
from sslcut.training.state import HINT
from sslcut.training.world import Precision, loss_of

Batch = tuple[Views, Tensor | None]
"""The views of a batch, and its labels (B,) where the method learns from them."""


@dataclass(frozen=True)
class Engine:
    """What every update is made of: a loss, and a descent along its gradient.

    `clip` is the largest norm of the whole gradient, or with `clip_each` of each parameter's; None for any. `steps` are
    those of the whole training, and `epoch_steps` of an epoch.
    """

    method: Method
    optimizer: Optimizer
    precision: Precision
    clip: float | None = None
    clip_each: bool = False
    steps: int = 1
    epoch_steps: int = 1

    def loss(self, views: Views, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of a batch (a scalar) and its z (V, B, D), both with their graph."""
        return loss_of(self.method, views, labels, self.precision)

    def descend(self, loss: Tensor, progress: float) -> None:
        """Move the optimiser's parameters one step down `loss`."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.move(progress)

    def move(self, progress: float) -> None:
        """Move the optimiser's parameters one step down the gradients that they hold."""
        self.method.before_step(progress)
        if self.clip is not None:
            (shorten_each if self.clip_each else nn.utils.clip_grad_norm_)(self.parameters(), self.clip)
        self.optimizer.step()

    def parameters(self) -> list[Tensor]:
        """What the optimiser moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class Update(ABC):
    """A way to take a step: a subclass writes `step`, and says what it keeps from one to the next."""

    held_out: bool = False  # `step` is given another batch as well
    second_order: ClassVar[bool] = False  # the gradient goes through the head's own steps: float32 alone

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    def step(
        self, views: Views, labels: Tensor | None, progress: float, other: Batch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take the step for one batch; returns its loss (a scalar) and z (V, B, D), detached and not read back.

        `other` is the batch that the head's own steps take with `inner: held_out`.
        """

    def tensors(self) -> dict[str, Tensor]:
        """What the next step depends on, beside the method's and the optimiser's tensors."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave. Raises InputError where that is another update's."""
        if tensors:
            raise InputError("the state to resume from is that of another `head.update`", hint=HINT)

    def forget(self) -> None:  # noqa: B027, most have nothing to forget
        """Begin anew with a head that has been drawn again."""

    def close(self) -> tuple[dict[str, float], str]:
        """An epoch's figures, read from the device, and a warning, empty where there is none."""
        return {}, ""


class Joint(Update):
    """Backbone and head move together, one step of one optimiser a batch."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)

    def step(
        self, views: Views, labels: Tensor | None, progress: float, other: Batch | None = None
    ) -> tuple[Tensor, Tensor]:
        self.engine.method.progress = progress
        loss, z = self.engine.loss(views, labels)
        self.engine.descend(loss, progress)
        z = z.detach()
        with torch.no_grad():
            self.engine.method.after_step(z, labels, progress)
        return loss.detach(), z


class TwoSpeed(Joint):
    """As `joint`, but the head's learning rate is `ratio` times the backbone's."""

    def __init__(self, engine: Engine, *, ratio: Annotated[float, Field(gt=0)] = 10.0) -> None:
        super().__init__(engine)
        split(engine.optimizer, head_of(engine.method), ratio)


class Frozen(Joint):
    """The head stays as it was drawn; the batch statistics of its norms still follow what it sees."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        still = head_of(engine.method)
        drop(engine.optimizer, still)
        for parameter in still.values():
            parameter.requires_grad_(False)


def shorten_each(parameters: Iterable[Tensor], longest: float) -> None:
    """Scale each parameter's gradient to the norm `longest` where it is longer: all at once, nothing read back."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        norms = torch.stack(torch._foreach_norm(gradients))
        torch._foreach_mul_(gradients, (longest / (norms + 1e-6)).clamp(max=1).unbind())  # as clip_grad_norm_ has it


def head_of(method: Method) -> dict[str, nn.Parameter]:
    """φ: every parameter that the method trains outside the backbone's blocks, by its name in the method."""
    names = [name for name in method.chain.names if part_of(name) == "backbone"]
    backbone = tuple(f"chain.blocks.{method.chain.names.index(name)}." for name in names)
    return {name: p for name, p in method.named_parameters() if p.requires_grad and not name.startswith(backbone)}


def options_of(update: Mapping[str, Any]) -> dict[str, Any]:
    """An update's options, less its name."""
    return {key: value for key, value in update.items() if key != "name"}
