"""Splits of images with their tasks: what every data set gives, and how it is divided.

A split has a length, `tasks` and `read(indices)`. A data set is a training split and, where one exists, a test split;
without one, the probe cross-fits over the training split.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sslcut.data import strata
from sslcut.errors import AbsentError, InputError

TaskKind = Literal["class", "number", "angle"]
Triple = tuple[float, float, float]

PART = 64  # images that are looked at together where all of them are
FOLDS = 5  # of the cross-fitting where there is no test split


@dataclass(frozen=True)
class Task:
    """What is known of each image under one heading.

    `values` is (N,) int64 for a class (-1: unlabelled), (N,) float32 for a number (NaN: undefined), or (N, 2) float32
    for an angle: (sin, cos) of symmetry × angle (NaN rows: undefined).
    """

    kind: TaskKind
    values: Tensor
    classes: tuple[str, ...] = ()

    def take(self, indices: Tensor) -> "Task":
        """The same task for the rows `indices`."""
        return replace(self, values=self.values[indices])

    def without(self, left_out: Collection[str]) -> "Task":
        """The same class task where the classes `left_out` are unlabelled and the others are numbered anew."""
        classes = tuple(name for name in self.classes if name not in left_out)
        number = torch.tensor([classes.index(name) if name in classes else -1 for name in self.classes] + [-1])
        return replace(self, values=number[self.values], classes=classes)  # -1 takes the last, which is -1


class Images(ABC):
    """One split: N images of (3, size, size) with their tasks.

    `group` (N,) int64 says which images must stay on one side of any division; `names` are for messages. `resident`
    images are in memory: `read` is a plain copy, which nothing is gained by doing ahead of time.
    """

    tasks: dict[str, Task]
    group: Tensor | None = None
    names: Sequence[str] | None = None
    size: int
    resident: bool = True

    @abstractmethod
    def __len__(self) -> int:
        """How many images."""

    @abstractmethod
    def read(self, indices: Tensor) -> Tensor:
        """The images at `indices` (n,), as uint8 (n, 3, size, size)."""

    def hashes(self, indices: Tensor) -> Tensor:
        """The sha256 of each image's pixels (3, S, S) at `indices` (n,), as uint8 (n, 32)."""
        rows = [
            hashlib.sha256(image.data).digest()
            for part in torch.split(indices, 1024)
            for image in self.read(part).contiguous().numpy()
        ]
        return torch.from_numpy(np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32).copy())


class ArrayImages(Images):
    """Images in memory: `pixels` is uint8 (N, 3, S, S), or (N, 1, S, S) for grey ones, which are read as three equal
    channels.
    """

    def __init__(
        self, pixels: Tensor, tasks: dict[str, Task], *, group: Tensor | None = None, names: Sequence[str] | None = None
    ) -> None:
        self.pixels, self.tasks, self.group, self.names = pixels, tasks, group, names
        self.size = int(pixels.shape[-1])

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor) -> Tensor:
        return self.pixels.index_select(0, indices).expand(-1, 3, -1, -1)


class Labelled(Images):
    """The images of another split at `indices` (n,), in that order, with tasks, groups and names of their own."""

    def __init__(
        self,
        whole: Images,
        indices: Tensor,
        tasks: dict[str, Task],
        *,
        group: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.whole, self.indices, self.size, self.resident = whole, indices, whole.size, whole.resident
        self.tasks, self.group, self.names = tasks, group, names

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Tensor) -> Tensor:
        return self.whole.read(self.indices[indices])

    def hashes(self, indices: Tensor) -> Tensor:
        return self.whole.hashes(self.indices[indices])


class Subset(Labelled):
    """The images of another split at `indices` (n,), in that order, with what is known of them there."""

    def __init__(self, whole: Images, indices: Tensor) -> None:
        tasks = {name: task.take(indices) for name, task in whole.tasks.items()}
        group = None if whole.group is None else whole.group[indices]
        names = None if whole.names is None else [whole.names[i] for i in indices.tolist()]
        super().__init__(whole, indices, tasks, group=group, names=names)


@dataclass(frozen=True)
class Dataset:
    """A training split and a test split (None: cross-fitting over the training split); `warnings` are for stderr."""

    name: str
    train: Images
    test: Images | None
    warnings: tuple[str, ...] = ()


def describe(dataset: Dataset) -> str:
    """A data set in one phrase: how many images, what is known of them, how it is divided."""
    train, test = dataset.train, dataset.test
    many = f"{len(train):,} images" if test is None else f"{len(train):,} training and {len(test):,} test images"
    tasks = list(train.tasks.items())
    if not tasks:
        known = "no labels"
    elif len(tasks) == 1 and tasks[0][1].kind == "class":
        known = f"{len(tasks[0][1].classes)} classes" + (" (from folders)" if dataset.name == "folder" else "")
    else:
        known = f"{len(tasks)} task{'s' * (len(tasks) > 1)} ({', '.join(name for name, _ in tasks)})"
    return f"{many}, {known}" + ("" if test is not None else f", no test split: {FOLDS}-fold cross-fitting")


def statistics(images: Images, limit: int = 2000) -> tuple[Triple, Triple]:
    """Mean and standard deviation of each channel, in units of the full range (0 to 1), the deviation at least 1e-3.

    Of at most `limit` evenly spaced images, so the same on every call.
    """
    count = min(limit, len(images))
    levels, counts = torch.arange(256, dtype=torch.float64) / 255, torch.zeros(3, 256, dtype=torch.float64)
    for part in torch.split(torch.arange(count) * len(images) // count, PART):
        for channel, values in enumerate(images.read(part).unbind(dim=1)):
            counts[channel] += torch.bincount(values.flatten(), minlength=256)
    shares = counts / counts.sum(dim=1, keepdim=True)
    mean = shares @ levels
    deviation = (shares * (levels - mean[:, None]).square()).sum(dim=1).sqrt()
    return _triple(mean), _triple(deviation.clamp(min=1e-3))


def _triple(values: Tensor) -> Triple:
    red, green, blue = values.tolist()
    return red, green, blue


def subset(images: Images, count: int | None, seed: int) -> Images:
    """`count` of the images, seeded and stratified by the first class task; all of them where count is None or more."""
    if count is None or count >= len(images):
        return images
    return Subset(images, strata.choose(labels_of(images), count, seed))


def split_validation(images: Images, fraction: float, seed: int, task: str | None = None) -> tuple[Tensor, Tensor]:
    """Training and validation indices, ascending: a seeded `fraction` of the images validates, but one at least.

    Stratified by `task`, else by the first class task; no group is on both sides. Raises InputError where there are
    fewer than two images, or groups, to divide.
    """
    labels = labels_of(images, task)
    if images.group is None:
        _enough(len(labels), 2, "images")
        count = min(max(round(fraction * len(labels)), 1), len(labels) - 1)
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        chosen[strata.choose(labels, count, seed)] = True
    else:
        _enough(len(torch.unique(images.group)), 2, "groups")
        chosen = strata.deal_groups(images.group, labels, (1 - fraction, fraction), seed) == 1
    return (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)


def folds(images: Images, count: int, seed: int) -> list[Tensor]:
    """The test indices of each of `count` folds, ascending; together they are every image once.

    Seeded, stratified by the first class task; no group is in two folds. Raises InputError where there are fewer
    images, or groups, than folds.
    """
    labels = labels_of(images)
    if images.group is None:
        _enough(len(labels), count, "images")
        part = strata.deal(labels, count, seed)
    else:
        _enough(len(torch.unique(images.group)), count, "groups")
        part = strata.deal_groups(images.group, labels, [1 / count] * count, seed)
    return [(part == fold).nonzero().squeeze(1) for fold in range(count)]


def hold_out(images: Images, count: int, seed: int) -> tuple[Images, Images]:
    """A training and a test split of about `count` images, stratified, with no group on both sides."""
    if count >= len(images):
        raise InputError(f"data.test is {count}, and there are {len(images)} images in all", hint="set data.test lower")
    train, test = split_validation(images, count / len(images), seed)
    return Subset(images, train), Subset(images, test)


def labels_of(images: Images, task: str | None = None) -> Tensor:
    """The classes (N,) of `task`, or of the first class task; all zero where there is none."""
    if task is not None and images.tasks[task].kind == "class":
        return images.tasks[task].values
    found = (t.values for t in images.tasks.values() if t.kind == "class")
    return next(found, torch.zeros(len(images), dtype=torch.int64))


def small_classes(
    labels: Tensor, classes: Sequence[str], needed: int, *, skip: bool, task: str = "class"
) -> dict[str, int]:
    """The classes with fewer than `needed` of the `labels` (n,), and how many; unless `skip`, InputError names them."""
    counts = torch.bincount(labels[labels >= 0], minlength=len(classes)).tolist()
    small = {name: n for name, n in zip(classes, counts, strict=False) if n < needed}
    if small and not skip:
        (name, count), *others = small.items()
        more = f"; so have {', '.join(f'`{name}` ({n})' for name, n in others[:3])}" if others else ""
        more += f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise InputError(
            f"{task} `{name}` has {count} of the {needed} images that a division needs{more}",
            hint="add images, or leave such classes out with data.skip_small: true",
        )
    return small


def left_out(small: Mapping[str, int], task: str = "class") -> list[str]:
    """A warning that small classes are left out, where there are any."""
    listed = ", ".join(f"{name} ({count})" for name, count in small.items())
    return [f"too few images, left out: {task} {listed}"] if small else []


def existing_root(root: str | None, name: str) -> Path:
    """The folder that `data.root` names. Raises InputError where it is not set, or no folder."""
    if root is None:
        raise AbsentError(f"data `{name}` needs a folder", hint="set data.root, or give --data FOLDER")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise AbsentError(f"no folder {root}", hint="set data.root, or give --data FOLDER")
    return path


def _enough(have: int, needed: int, what: str) -> None:
    if have < needed:
        raise InputError(f"the data has {have} {what}, and a division needs {needed}", hint=f"add {what}")
