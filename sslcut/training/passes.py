"""What a step costs beside one of `joint`, in floating-point operations.

A pass back to the weights costs what a pass forward does, and so does one back to the inputs.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sslcut.data.views import Views
from sslcut.methods.base import Method
from sslcut.model.cost import Counter
from sslcut.training.hypergradient import LARGEST, PROBES

STEP = 3  # passes of a step of the head: forward, back to the weights, back to the inputs
THROUGH = 6  # passes back through such a step: each of its products is one of two factors in two more
FEW = 2  # images whose pass is counted
CLOSE = 0.1  # of the compute asked for


@dataclass(frozen=True)
class Passes:
    """How many forward passes' worth of the backbone and of the head, with the loss, a step takes at most.

    `backbone_runs` and `head_runs` are those that are really forward: as often a teacher's, or a code's, share of the
    pass is computed, which nothing goes back through.
    """

    backbone: int
    head: int
    backbone_runs: int = 1
    head_runs: int = 1


@dataclass(frozen=True)
class Work:
    """Operations of one forward pass of a batch: those that a gradient goes back through, and the `constant` ones."""

    backbone: int
    head: int
    constant_backbone: int
    constant_head: int

    def of(self, taken: Passes) -> int:
        """The operations of a step that takes so many passes."""
        moving = taken.backbone * self.backbone + taken.head * self.head
        return moving + taken.backbone_runs * self.constant_backbone + taken.head_runs * self.constant_head


def passes_of(update: Mapping[str, Any]) -> Passes:
    """What a member of `head.update` takes, conjugate gradients at their largest number."""
    name, steps = update["name"], update.get("steps", 0)
    extra = update.get("inner") == "held_out"  # the other batch's features, and the loss there after the steps
    if name == "reset":
        return passes_of(update["then"])
    if name == "frozen":
        return Passes(3, 2)
    if name == "alternating":
        return Passes(3 + extra, STEP * steps + 2 + extra, 1 + extra, steps + 1 + extra)
    if name == "unrolled":
        return Passes(3 + 3 * extra, (STEP + THROUGH) * steps + 3 + extra, 1 + extra, steps + 1 + extra)
    if name == "implicit":
        products = LARGEST + 1 + (PROBES if update["damping"] else 0)
        head = STEP * steps + 3 + STEP + THROUGH * products + extra
        return Passes(3 + 3 * extra, head, 1 + extra, steps + 2 + extra)
    return Passes(3, 3)


def work_of(method: Method, crops: Sequence[Mapping[str, Any]], size: int, batch: int) -> Work:
    """The work of a pass of `batch` images, counted on a copy of a method on the CPU; the method stays as it is.

    `crops` are the recipe's; `size` is that of a crop for which none is said.
    """
    own = copy.deepcopy(method).cpu().eval()  # nothing is mixed then, and no teacher moves
    sides = [crop["size"] or size for crop in crops]
    images = [torch.zeros(crop["count"], FEW, 3, side, side) for crop, side in zip(crops, sides, strict=True)]
    with Counter() as behind:
        features = own.features(Views(tuple(images), crops[0]["count"], {}))
    times = -(-batch // FEW)
    h = tuple(h.detach().repeat(times, 1) for h in features.h)
    targets = features.targets.repeat(1, times, 1) if features.targets is not None else None
    with Counter() as counter:
        z = own.head(features._replace(h=h, targets=targets))
        own.loss(z, torch.zeros(z.shape[1], dtype=torch.int64))
    constant = (behind.flops - behind.recorded) * times, counter.flops - counter.recorded
    return Work(behind.recorded * times, counter.recorded, *constant)


def beside_joint(update: Mapping[str, Any], work: Work) -> float:
    """The operations of a step, as a multiple of one of `joint`."""
    return work.of(passes_of(update)) / work.of(Passes(3, 3))


def far_from_matched(train: Mapping[str, Any], epochs: int, ratio: float) -> str:
    """How near so many epochs come to the compute of the recipe's own under `joint`; empty within a tenth of it."""
    share = epochs * ratio / train["epochs"] if train["epochs"] else 1.0
    if train["match"] == "steps" or abs(share - 1) <= CLOSE:
        return ""
    return (
        f"{epochs} epochs are {share:.2f} × the compute of {train['epochs']} under joint: whole epochs come no nearer"
    )


def matched(train: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    """A recipe's `train` with as many epochs as cost what its own would under `joint`, to the nearest whole one.

    `ratio` is a step's cost beside one of `joint`. The warm-up keeps its share of the training.
    """
    if train["match"] == "steps" or not train["epochs"]:
        return dict(train)
    epochs = max(1, round(train["epochs"] / ratio))
    return {**train, "epochs": epochs, "warmup_epochs": train["warmup_epochs"] * epochs / train["epochs"]}
