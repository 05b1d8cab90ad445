"""What a layer still knows of how a view was made: probes for the augmentation's own parameters (arXiv 2206.13378)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fold
from sslcut.metrics.linear import linear
from sslcut.metrics.score import choosing_metric
from sslcut.metrics.table import Part, Row, table
from sslcut.metrics.viewed import Viewed

SHIFT, PREFIX = "views", "view."
SHARES = (0.6, 0.2, 0.2)  # of the images whose views are fitted, choose the L2, and score
COLOURS = ("brightness", "contrast", "saturation", "hue")
HAPPENS = ("flip", "grey", "blur", "solarise")


def view_rows(
    seen: Viewed, reference: tuple[str, str], *, size: int, scale: str, memory: int, count: int, seed: int
) -> list[Row]:
    """A row for each layer and parameter: ridge for numbers, logistic regression for what happens or does not.

    Images are split, so that none is on two sides; `size` is their side in pixels, and `count` resamples draw whole
    images. A parameter that does not vary has no row.
    """
    tasks = view_tasks(seen, size)
    fold, group = split(seen, seed)
    test, validation = (Part([fold], part, group=group, count=count, seed=seed) for part in ("test", "validation"))
    fits = [fit for layer in seen.layers for fit in linear([layer], tasks, [fold], scale=scale, memory=memory)]
    rows: list[Row] = []
    for name, task in tasks.items():
        mine = [fit for fit in fits if fit.task == name]
        rows += table(mine, task, choosing_metric(task, [fold]), test, validation, reference)
    return [row | {"shift": SHIFT, "untrained": None, "fraction": 1.0, "seed": seed} for row in rows]


def view_tasks(seen: Viewed, size: int) -> dict[str, Task]:
    """What was drawn for each view as tasks of all N·V rows, those that vary: crops as shares of the image."""
    drawn = {name: values.flatten().float() for name, values in seen.drawn.items()}
    numbers = {
        "crop_x": (drawn["left"] + drawn["width"] / 2) / size,
        "crop_y": (drawn["top"] + drawn["height"] / 2) / size,
        "crop_area": drawn["width"] * drawn["height"] / size**2,
        **{name: drawn[name] for name in COLOURS},
    }
    tasks = {name: Task("number", values) for name, values in numbers.items()}
    tasks |= {name: Task("class", (drawn[name] > 0).long(), ("no", "yes")) for name in HAPPENS}
    return {PREFIX + name: task for name, task in tasks.items() if _varies(task.values)}


def _varies(values: Tensor) -> bool:
    return bool((values != values[0]).any())


def split(seen: Viewed, seed: int) -> tuple[Fold, Tensor]:
    """The views that fit, choose and score, each image's together; and which image each view is of, (N·V,)."""
    images = len(seen.rows)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    ends = [round(images * share) for share in (SHARES[0], SHARES[0] + SHARES[1])]
    parts: Sequence[Tensor] = torch.tensor_split(order, ends)
    views = torch.arange(seen.views)
    train, validation, test = ((part.sort().values[:, None] * seen.views + views).flatten() for part in parts)
    return Fold(train, validation, test), torch.arange(images).repeat_interleave(seen.views)
