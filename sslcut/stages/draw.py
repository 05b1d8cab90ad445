"""Draw what a recipe's network sees: images, and the views that training makes of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from sslcut.atomic import replacing
from sslcut.data.images import Task, describe
from sslcut.data.opening import open_data, view_maker
from sslcut.events import Event, Note, Result, Warn
from sslcut.methods.making import views_of
from sslcut.recipe import Recipe
from sslcut.render.sheet import contact_sheet

IMAGES = 12


def run(recipe: Recipe, out: Path) -> Iterator[Event]:
    """Draw training images from all over the data, and their views of the first epoch, into `out`; yields its path."""
    document = recipe.dump()
    opened = yield from open_data(document["data"], document["seed"])
    yield Note(f"data: {describe(opened.dataset)}")
    yield from (Warn(text) for text in opened.dataset.warnings)
    images = opened.train
    shown = min(IMAGES, len(images))
    indices = torch.arange(shown) * len(images) // shown  # a folder's first images would all be of its first class
    maker = view_maker(views_of(document), opened, document["seed"])
    pixels = images.read(maker.shown(indices, 0))
    views = maker(pixels, indices, 0)
    captions = [_caption(images.tasks, row) for row in indices.tolist()]
    sheet = contact_sheet(pixels[:shown], views, opened.mean, opened.std, captions)
    with replacing(out) as file:
        sheet.save(file, format="PNG")
    yield Result(str(out), {"images": len(indices), "views": sum(len(crop) for crop in views.crops)})


def _caption(tasks: Mapping[str, Task], row: int) -> str:
    classes = [
        task.classes[int(task.values[row])] for task in tasks.values() if task.kind == "class" and task.values[row] >= 0
    ]
    return ", ".join(classes)
