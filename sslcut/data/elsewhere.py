"""Another folder's images as test images of classes that are known already."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import PurePath

import torch
from torch import Tensor

from sslcut.data.images import Images, Labelled, Task
from sslcut.data.opening import open_dataset
from sslcut.errors import AbsentError, InputError
from sslcut.events import Event, Warn


def folder(
    tasks: Mapping[str, Task], size: int, *, seed: int, root: str | None = None
) -> Generator[Event, None, Images]:
    """The images in the folder `root`, `size` pixels a side, of classes of the first class task among `tasks`.

    Classes are matched by their names; the images of others are left out, with a warning, and a warning names the
    classes that have none. Of a folder with splits they are the test images. Other tasks are unlabelled. Raises
    InputError where the folder has none of the classes.
    """
    if root is None:
        raise AbsentError("the shift `folder` needs a folder", hint="{name: folder, root: PATH}")
    options = {"root": root, "size": size, "skip_small": True}
    dataset = yield from open_dataset("folder", options, seed=seed)
    images = dataset.train if dataset.test is None else dataset.test
    name, known = next(((name, task) for name, task in tasks.items() if task.kind == "class"), ("", None))
    given = images.tasks.get("class")
    if known is None or given is None or not set(given.classes) & set(known.classes):
        listed = ", ".join(f"`{each}`" for each in known.classes[:5]) if known else "there are none"
        raise InputError(f"{root} has no images of the classes that are probed", hint=f"class folders: {listed}")
    yield from (Warn(text) for text in _differences(known, given, root))
    number = torch.tensor([known.classes.index(each) if each in known.classes else -1 for each in given.classes] + [-1])
    label = number[given.values]
    rows = (label >= 0).nonzero().squeeze(1)
    values = {each: _unlabelled(task, len(rows)) for each, task in tasks.items()}
    return Labelled(images, rows, {**values, name: replace(known, values=label[rows])})


def folder_name(root: str) -> str:
    """What results call a folder: `folder:` and its last name."""
    return f"folder:{PurePath(root).name}"


def _differences(known: Task, given: Task, root: str) -> list[str]:
    """Sentences about classes of one side alone."""
    told = []
    for there, here, what in ((known, given, "has no images of"), (given, known, "has images of unknown")):
        if alone := [each for each in there.classes if each not in here.classes]:
            more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
            told.append(f"{root} {what} {', '.join(f'`{each}`' for each in alone[:5])}{more}")
    return told


def _unlabelled(task: Task, count: int) -> Task:
    """The task of images of which nothing is known of it."""
    nothing: Tensor = task.values.new_full((count, *task.values.shape[1:]), -1 if task.kind == "class" else torch.nan)
    return replace(task, values=nothing)
