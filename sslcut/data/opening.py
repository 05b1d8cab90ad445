"""From a recipe's `data` and `views` sections to images, their division, and the maker of their views."""

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sslcut.data.images import Dataset, Images, Subset, Task, Triple, labels_of, split_validation, statistics
from sslcut.data.memory import SMALLER
from sslcut.data.partners import Partners
from sslcut.data.views import Crop, ViewMaker
from sslcut.errors import InputError, MachineError, UsageError, suggestion
from sslcut.events import Event
from sslcut.registry import DATASETS

SHARED = ("name", "validation")  # keys of `data` that are not the loader's

_kept: dict[tuple[str, str, int], Dataset] = {}


@dataclass(frozen=True)
class Opened:
    """A data set and its division: rows of the training split that fit, and rows that validate.

    Without a test split nothing validates here: all rows are cross-fitted. `mean` and `std` are of the fitting rows.
    """

    dataset: Dataset
    fit: Tensor
    validation: Tensor
    mean: Triple
    std: Triple

    @property
    def train(self) -> Images:
        """The images that training may see."""
        return Subset(self.dataset.train, self.fit)


def open_data(data: Mapping[str, Any], seed: int, *, size: int | None = None) -> Generator[Event, None, Opened]:
    """Open the data set that a recipe's `data` section describes, at `size` pixels a side where that is given.

    Yields progress while images are decoded. Raises InputError where images are missing or too few.
    """
    options = {key: value for key, value in data.items() if key not in SHARED}
    if size is not None:
        options["size"] = size
    dataset = yield from _dataset(data["name"], options, seed)
    if dataset.test is None:
        fit, validation = torch.arange(len(dataset.train)), torch.empty(0, dtype=torch.int64)
    else:
        fit, validation = split_validation(dataset.train, data["validation"], seed)
    return Opened(dataset, fit, validation, *statistics(Subset(dataset.train, fit)))


def _dataset(name: str, options: Mapping[str, Any], seed: int) -> Generator[Event, None, Dataset]:
    """A data set stays open for the stages of one run, which would else open it anew each; another takes its place."""
    key = name, json.dumps(options), seed
    if key not in _kept:
        _kept.clear()  # before the next is opened: two may not fit into memory
        _kept[key] = yield from open_dataset(name, options, seed=seed)
    return _kept[key]


def open_dataset(name: str, options: Mapping[str, Any], *, seed: int) -> Generator[Event, None, Dataset]:
    """The data set of that name in the registry, loaded, checked, with warnings about pictures that occur twice.

    A loader is a plain function, or a generator that yields its progress and returns the data set.
    Raises InputError where there are no images, UsageError for a size or count below 1, MachineError where memory ran
    out.
    """
    for key in ("size", "train", "test"):
        value = options.get(key)
        if value is not None and value < 1:
            raise UsageError(f"data.{key} is {value}", hint=f"data.{key} takes a whole number from 1")
    try:
        loaded = DATASETS.load(name)(seed=seed, **options)
        dataset: Dataset = (yield from loaded) if isinstance(loaded, Generator) else loaded
    except MemoryError as fault:
        raise MachineError(f"data `{name}` does not fit into memory", hint=SMALLER) from fault
    for split, images in (("training", dataset.train), ("test", dataset.test)):
        if images is not None and len(images) == 0:
            raise InputError(f"data `{name}` has no {split} images")
    return replace(dataset, warnings=(*dataset.warnings, *_repeated(dataset)))


def view_maker(views: Mapping[str, Any], opened: Opened, seed: int) -> ViewMaker:
    """The maker of the views that a recipe's `views` section describes; a crop without a size has the images'."""
    policy = dict(views["policy"])
    size = opened.dataset.train.size
    partners = None
    if views["positives"] == "label":
        partners = Partners(learnt(opened, views["task"], "`views.positives: label`").values, seed)
    crops = [Crop(crop["count"], crop["size"] or size, tuple(crop["scale"])) for crop in views["crops"]]
    return ViewMaker(
        crops,
        policy=policy.pop("name"),
        options=policy,
        strength=views["strength"],
        exact=views["exact"],
        seed=seed,
        mean=opened.mean,
        std=opened.std,
        partners=partners,
    )


def learnt(opened: Opened, task: str | None, who: str) -> Task:
    """The class task that training learns from: the one so named, else the first. `who` asks, for the message.

    Raises InputError where there is none, or where the probe would later test on images whose labels were learnt from.
    """
    if opened.dataset.test is None:
        raise InputError(
            f"{who} learns from labels, and data `{opened.dataset.name}` has no test split",
            hint="hold images out: data.test: 500",
        )
    return class_task(opened.train, task, who)


def class_task(images: Images, task: str | None, who: str) -> Task:
    """The class task of that name, or the first where that is None. Raises InputError where there is none."""
    return images.tasks[class_task_name(images, task, who)]


def class_task_name(images: Images, task: str | None, who: str) -> str:
    """The name of the task that `class_task` gives; raises as it does."""
    classes = {name: each for name, each in images.tasks.items() if each.kind == "class"}
    name = task or next(iter(classes), "")
    if name not in classes:
        raise InputError(
            f"{who} needs a task with classes, the data has no `{name}`" if name else
            f"{who} needs labels, and the data has none",
            hint=suggestion(name, classes, "class tasks") or "one folder a class gives labels",
        )  # fmt: skip
    return name


class Joined(Images):
    """Two splits one after the other, as one; tasks and groups of the first, which the second shares."""

    def __init__(self, first: Images, second: Images) -> None:
        self.first, self.second, self.size = first, second, first.size
        self.resident = first.resident and second.resident
        self.tasks = {
            name: _joined(task, second.tasks[name]) for name, task in first.tasks.items() if name in second.tasks
        }
        both = first.group is not None and second.group is not None
        self.group = torch.cat([first.group, second.group]) if both else None  # type: ignore[list-item]

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def read(self, indices: Tensor) -> Tensor:
        early = indices < len(self.first)
        if early.all():
            return self.first.read(indices)
        pixels = torch.empty(len(indices), 3, self.size, self.size, dtype=torch.uint8)
        pixels[early] = self.first.read(indices[early])
        pixels[~early] = self.second.read(indices[~early] - len(self.first))
        return pixels

    def hashes(self, indices: Tensor) -> Tensor:
        early = indices < len(self.first)
        digests = torch.empty(len(indices), 32, dtype=torch.uint8)
        digests[early] = self.first.hashes(indices[early])
        digests[~early] = self.second.hashes(indices[~early] - len(self.first))
        return digests


def _joined(first: Task, second: Task) -> Task:
    return replace(first, values=torch.cat([first.values, second.values]))


def _repeated(dataset: Dataset) -> list[str]:
    """Sentences about pictures that occur twice: on both sides of the split, in two classes, or in two folds."""
    train, test = dataset.train, dataset.test
    copies: dict[bytes, list[int]] = {}
    for row, digest in enumerate(_digests(train)):
        copies.setdefault(digest, []).append(row)
    several = [rows for rows in copies.values() if len(rows) > 1]
    labels = labels_of(train)
    torn = [rows for rows in several if len(torch.unique(labels[rows])) > 1]
    told = []
    if test is not None and (both := [(copies[d][0], row) for row, d in enumerate(_digests(test)) if d in copies]):
        pair = f"{_called(train, both[0][0], 'training')} and {_called(test, both[0][1], 'test')}"
        told.append(f"{len(both):,} test images are in the training split too, the same pixels (e.g. {pair})")
    if torn:
        first = torn[0][0]
        other = next(row for row in torn[0] if labels[row] != labels[first])
        pair = f"{_called(train, first)} and {_called(train, other)}"
        told.append(f"{len(torn):,} pictures are in more than one class, the same pixels (e.g. {pair})")
    if test is None and several:
        pair = " and ".join(_called(train, row) for row in several[0][:2])
        told.append(f"{len(several):,} pictures occur more than once (e.g. {pair}): copies can be in different folds")
    return told


def _digests(images: Images) -> list[bytes]:
    return [row.tobytes() for row in images.hashes(torch.arange(len(images))).numpy()]


def _called(images: Images, row: int, split: str = "") -> str:
    return images.names[row] if images.names is not None else f"{split} image {row}".strip()
