"""A linear classifier trained by SGD on l2-normalised features, where a set is too large for L-BFGS."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslcut.data.images import Task
from sslcut.metrics.layer import blocks, class_count
from sslcut.schedules import cosine

if TYPE_CHECKING:
    from optuna import Trial

EPOCHS = 100
BATCH = 1024
MOMENTUM = 0.9
LR = (1e-1, 1e2)  # the bounds of the search, as are those of the weight decay
WEIGHT_DECAY = (1e-12, 1e-4)


class Descent:
    """SGD on some `rows` at any learning rate and weight decay, as t-ReX treats large sets (arXiv 2206.15369)."""

    multivariate = True

    def __init__(self, features: Tensor, task: Task, rows: Tensor, *, memory: int, seed: int) -> None:
        """`features` (N, D) and the task's values are of all rows; a copy of `rows` is kept where `memory` allows."""
        self.features, self.labels, self.rows, self.seed = features, task.values, rows, seed
        self.classes = class_count(task)
        self.copy = self._normalised() if 4 * len(rows) * features.shape[1] <= memory else None

    @staticmethod
    def draw(trial: "Trial") -> dict[str, float]:
        """What a trial tries."""
        return {
            "lr": trial.suggest_float("lr", *LR, log=True),
            "weight_decay": trial.suggest_float("weight_decay", *WEIGHT_DECAY, log=True),
        }

    def fit(self, settings: dict[str, float]) -> Callable[[Tensor], Tensor]:
        """Trains from no weights for 100 epochs, the learning rate along a cosine to 0; gives what predicts rows."""
        model = nn.Linear(self.features.shape[1], self.classes)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        lr, decay = settings["lr"], settings["weight_decay"]
        optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=decay)
        generator = torch.Generator().manual_seed(self.seed)
        steps, step = EPOCHS * -(-len(self.rows) // BATCH), 0
        for _ in range(EPOCHS):
            for places in torch.split(torch.randperm(len(self.rows), generator=generator), BATCH):
                optimiser.param_groups[0]["lr"] = cosine(step / steps, lr, 0.0)
                loss = F.cross_entropy(model(self._batch(places)), self.labels[self.rows[places]])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                step += 1
        return lambda rows: self._predict(model, rows)

    def _normalised(self) -> Tensor:
        copy = torch.empty(len(self.rows), self.features.shape[1])
        for part, block in blocks(self.features, self.rows):
            copy[part] = F.normalize(block)
        return copy

    def _batch(self, places: Tensor) -> Tensor:
        if self.copy is not None:
            return self.copy[places]
        return F.normalize(self.features[self.rows[places]].float())

    @torch.inference_mode()
    def _predict(self, model: nn.Module, rows: Tensor) -> Tensor:
        parts = [model(F.normalize(block)).argmax(dim=1) for _, block in blocks(self.features, rows)]
        return torch.cat(parts).clone()
