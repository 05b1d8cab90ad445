"""From a recipe's `data` and `views` sections to images, their division, and the maker of their views."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sslcut.data.images import Dataset, Images, Subset, Task, Triple, open_dataset, split_validation, statistics
from sslcut.data.views import Crop, ViewMaker

SHARED = ("name", "validation")  # keys of `data` that are not the loader's


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


def open_data(data: Mapping[str, Any], seed: int, *, size: int | None = None) -> Opened:
    """Open the data set that a recipe's `data` section describes, at `size` pixels a side where that is given.

    Raises InputError where images are missing or too few.
    """
    options = {key: value for key, value in data.items() if key not in SHARED}
    if size is not None:
        options["size"] = size
    dataset = _dataset(data["name"], json.dumps(options), seed)
    if dataset.test is None:
        fit, validation = torch.arange(len(dataset.train)), torch.empty(0, dtype=torch.int64)
    else:
        fit, validation = split_validation(dataset.train, data["validation"], seed)
    return Opened(dataset, fit, validation, *statistics(Subset(dataset.train, fit)))


@lru_cache(maxsize=1)
def _dataset(name: str, options: str, seed: int) -> Dataset:
    """A data set stays open for the stages of one run, which would else decode it anew each."""
    return open_dataset(name, json.loads(options), seed=seed)


def view_maker(views: Mapping[str, Any], opened: Opened, seed: int) -> ViewMaker:
    """The maker of the views that a recipe's `views` section describes; a crop without a size has the images'."""
    policy = dict(views["policy"])
    size = opened.dataset.train.size
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
    )


class Joined(Images):
    """Two splits one after the other, as one; tasks and groups of the first, which the second shares."""

    def __init__(self, first: Images, second: Images) -> None:
        self.first, self.second, self.size = first, second, first.size
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


def _joined(first: Task, second: Task) -> Task:
    return replace(first, values=torch.cat([first.values, second.values]))
