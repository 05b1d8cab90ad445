"""Folders of pictures for tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def photographs(folder: Path, classes: int, each: int) -> Path:
    """PNGs of noise, a little brighter in each class: `c0`, `c1`, …, or flat where there is one class."""
    drawn = np.random.default_rng(0)
    for label in range(classes):
        inner = folder / f"c{label}" if classes > 1 else folder
        inner.mkdir(parents=True)
        for index in range(each):
            pixels = drawn.integers(0, 200, (16, 16, 3), dtype=np.uint8) + np.uint8(20 * label)
            Image.fromarray(pixels).save(inner / f"{index}.png")
    return folder
