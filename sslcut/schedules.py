"""Numbers that follow the progress of a training (no torch): optimisers, teachers and temperatures share them."""

from math import cos, pi, sqrt
from typing import Literal

LrScaling = Literal["linear", "sqrt", "none"]

REFERENCE_BATCH = 256  # a recipe's learning rate is the value at this batch size


def linear(progress: float, start: float, end: float) -> float:
    """From `start` at progress 0 to `end` at progress 1 in equal steps; held beyond."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def cosine(progress: float, start: float, end: float) -> float:
    """From `start` at progress 0 to `end` at progress 1 along half a cosine, flat at both ends; held beyond."""
    return end + (start - end) * (1 + cos(pi * min(max(progress, 0.0), 1.0))) / 2


def warmup_cosine(
    step: int, steps: int, *, warmup: int, start: float = 0.0, peak: float = 1.0, end: float = 0.0
) -> float:
    """The value at `step` of `steps`, from 0: `start` to `peak` over `warmup` steps, then a cosine to `end`.

    `end` itself would be reached at `step == steps`, one past the last (the form of the DINO, VICReg and MoCo code).
    """
    if step < warmup:
        return linear(step / warmup, start, peak)
    return cosine((step - warmup) / max(steps - warmup, 1), peak, end)


def scaled_lr(lr: float, batch_size: int, scaling: LrScaling) -> float:
    """The learning rate for batches of `batch_size` images, from its value at 256: `linear`, `sqrt` or as it is."""
    ratio = batch_size / REFERENCE_BATCH
    return lr * {"linear": ratio, "sqrt": sqrt(ratio), "none": 1.0}[scaling]
