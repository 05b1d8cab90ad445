"""Features that are drawn with the structure of real ones: classes that overlap, a spectrum that falls."""

import torch
from torch import Tensor

TELLING = 32  # directions in which the classes' means differ
APART = 0.38  # their spread there, in deviations: a linear probe tells ten classes apart about six times in ten
DECAY = 0.5  # the deviation along the i-th direction is i^-DECAY


def draw_features(rows: int, width: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (rows, width) in float32 and their classes (rows,), the same for the same seed.

    Each class is a normal cloud around its own mean, in a random rotation of directions whose deviations fall.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    means = torch.zeros(classes, width)
    means[:, :TELLING] = APART * torch.randn(classes, min(TELLING, width), generator=generator)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    cloud = torch.randn(rows, width, generator=generator).add_(means[labels])
    return cloud.mul_(torch.arange(1, width + 1).pow(-DECAY)) @ rotation, labels
