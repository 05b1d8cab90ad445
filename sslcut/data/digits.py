"""1,797 real scans of handwritten digits, 8 × 8 pixels: scikit-learn's copy of a UCI test set."""

from typing import Annotated

import torch
from pydantic import Field
from sklearn.datasets import load_digits

from sslcut.data.decode import resized
from sslcut.data.images import ArrayImages, Dataset, Task, hold_out, subset

HELD_OUT = 1 / 5  # of the scans are the test split, where no number is given


def load(
    *,
    seed: int,
    size: Annotated[int, Field(ge=1)] = 8,
    train: Annotated[int, Field(ge=1)] | None = None,
    test: Annotated[int, Field(ge=1)] | None = None,
) -> Dataset:
    """Scikit-learn's 1,797 scans of digits; a seeded, stratified fifth is the test split."""
    scans, labels = load_digits(return_X_y=True)
    pixels = (torch.from_numpy(scans) * 255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)  # their greys are 0 to 16
    task = Task("class", torch.from_numpy(labels).long(), tuple("0123456789"))
    images = ArrayImages(resized(pixels, size), {"class": task})
    rest, held = hold_out(images, round(len(images) * HELD_OUT) if test is None else test, seed)
    return Dataset("digits", subset(rest, train, seed), held)
