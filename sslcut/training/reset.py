"""A head that is drawn anew again and again."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sslcut.data.views import Views
from sslcut.registry import UPDATES
from sslcut.training.updates import Batch, Engine, Update, head_of, options_of

Mode = str | Mapping[str, Any]
"""The name of an update, or a mapping with its options; a recipe's is checked as that update's own choice."""


class Reset(Update):
    """The head is drawn anew `every` so many steps or epochs, and moves as `then` says in between.

    What the optimiser remembers of the head goes with it. A teacher and its head go on as they were.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        every: Annotated[int, Field(ge=1)] = 1,
        unit: Literal["steps", "epochs"] = "epochs",
        then: Mode = "joint",
    ) -> None:
        super().__init__(engine)
        self.head = head_of(engine.method)
        self.period = every * (engine.epoch_steps if unit == "epochs" else 1)
        chosen = {"name": then} if isinstance(then, str) else then
        self.then: Update = UPDATES.load(chosen["name"])(engine, **options_of(chosen))
        self.held_out = self.then.held_out

    def step(
        self, views: Views, labels: Tensor | None, progress: float, other: Batch | None = None
    ) -> tuple[Tensor, Tensor]:
        done = round(progress * self.engine.steps)
        if done and done % self.period == 0:
            self.draw(progress)
        return self.then.step(views, labels, progress, other)

    def draw(self, progress: float) -> None:
        """Draw the head from the seed and the progress, and forget how it moved."""
        method = self.engine.method
        method.progress = progress
        device = next(method.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(method.generator(torch.device("cpu")).initial_seed())
            method.draw_head()
        for parameter in self.head.values():
            for tensor in self.engine.optimizer.state.get(parameter, {}).values():
                tensor.zero_()  # an absent one would be foreign to fused kernels that hold the others'
        self.then.forget()

    def forget(self) -> None:
        self.then.forget()

    def tensors(self) -> dict[str, Tensor]:
        return self.then.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.then.load(tensors)

    def close(self) -> tuple[dict[str, float], str]:
        return self.then.close()
