"""What a layer still knows of how a view was made: probes for the augmentation's own parameters (arXiv 2206.13378)."""

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.data.strata import deal_groups
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
    seen: Viewed,
    reference: tuple[str, str],
    *,
    size: int,
    group: Tensor | None,
    scale: str,
    memory: int,
    count: int,
    seed: int,
) -> list[Row]:
    """A row for each layer and parameter: ridge for numbers, logistic regression for what happens or does not.

    Images are split, by their `group` of all the measurement's rows (M,) where there is one, so that none is on two
    sides; `size` is their side in pixels, and `count` resamples draw whole groups. A parameter that does not vary has
    no row, and where there are fewer than three groups none has.
    """
    divided = split(seen, group, seed)
    if divided is None:
        return []
    tasks = view_tasks(seen, size)
    fold, together = divided
    test, validation = (Part([fold], part, group=together, count=count, seed=seed) for part in ("test", "validation"))
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


def split(seen: Viewed, group: Tensor | None, seed: int) -> tuple[Fold, Tensor] | None:
    """The views that fit, choose and score, those of a group together; and which group each view is of, (N·V,).

    `group` is that of each of the measurement's rows (M,); without it each image is one. None where there are fewer
    than three groups.
    """
    groups = torch.arange(len(seen.rows)) if group is None else group[seen.rows]
    if len(torch.unique(groups)) < len(SHARES):
        return None
    of_image = deal_groups(groups, torch.zeros_like(groups), SHARES, seed)
    train, validation, test = (
        (of_image == part).repeat_interleave(seen.views).nonzero().squeeze(1) for part in range(len(SHARES))
    )
    return Fold(train, validation, test), groups.repeat_interleave(seen.views)
