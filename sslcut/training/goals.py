"""What an online probe learns of one task: its share of the outputs, the loss, and what an output predicts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import class_count, defined


class Goal:
    """A task of the training images, `outputs` numbers wide, on `device`; images without a label cost nothing.

    Numbers are learnt in units of their deviation, so that no task weighs more for its unit.
    """

    def __init__(self, name: str, task: Task, device: torch.device) -> None:
        self.name, self.kind = name, task.kind
        self.metric = "accuracy" if task.kind == "class" else "r2"
        known = defined(task)
        self.outputs = class_count(task) if task.kind == "class" else task.values[:1].numel()
        self.centre, self.unit = 0.0, 1.0
        target = task.values
        if task.kind == "number" and known.any():
            self.centre = float(target[known].mean())
            self.unit = float(target[known].std(correction=0)) or 1.0
        if task.kind != "class":
            target = ((target - self.centre) / self.unit).nan_to_num().reshape(len(target), -1)
        self.target, self.known = target.to(device), known.to(device)

    def loss(self, output: Tensor, images: Tensor) -> Tensor:
        """The sum over taps of the mean loss of output (taps, R, outputs) for the labelled ones of `images` (R,)."""
        images = images.to(self.target.device, non_blocking=True)
        target, known = self.target[images], self.known[images]
        if self.kind == "class":
            every = target.repeat(len(output))
            total = F.cross_entropy(output.flatten(0, 1), every, ignore_index=-1, reduction="sum")
        else:
            total = ((output - target) * known[:, None]).square().sum()
        return total / known.sum().clamp(min=1)

    def predicted(self, output: Tensor) -> Tensor:
        """What output (taps, n, outputs) says: classes or numbers (taps, n), or angles (taps, n, 2)."""
        if self.kind == "class":
            return output.argmax(dim=2)
        return output[..., 0] * self.unit + self.centre if self.kind == "number" else output
