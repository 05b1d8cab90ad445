"""Which images of a data set a measurement takes, and which of them fit, validate and test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslcut.data.images import FOLDS, Images, Subset, Task, folds, labels_of
from sslcut.data.opening import Joined, Opened
from sslcut.data.strata import choose
from sslcut.errors import UsageError, suggestion
from sslcut.metrics.layer import Fold


@dataclass(frozen=True)
class Rows:
    """All images of a measurement, one after the other, and which of them fit, validate and test.

    `numbers` (N,) tell an image from every other of the data set, however many are measured.
    """

    images: Images
    folds: list[Fold]
    tasks: dict[str, Task]
    numbers: Tensor


def rows_of(opened: Opened, probe: dict[str, Any], seed: int) -> Rows:
    """The images that fit (at most `probe.train`), those that validate, then those that test (`probe.test`).

    Without a test split every image does all three in turn, in five folds. Raises UsageError for an unknown task.
    """
    train, test = opened.dataset.train, opened.dataset.test
    if test is None:
        fit = capped(train, opened.fit, probe["train"], seed)
        images = Subset(train, fit)
        parts = folds(images, FOLDS, seed)
        split = [_fold(parts, k) for k in range(FOLDS)]
        return Rows(images, split, asked_tasks(images, probe["tasks"]), fit)
    fit = capped(train, opened.fit, probe["train"], seed)
    share = len(fit) / len(opened.fit)  # a cap shrinks validation alike
    validation = capped(train, opened.validation, max(1, round(share * len(opened.validation))), seed)
    tested = capped(test, torch.arange(len(test)), probe["test"], seed)
    joined = Joined(Subset(train, torch.cat([fit, validation])), Subset(test, tested))
    at = torch.arange(len(joined))
    middle = len(fit) + len(validation)
    fold, numbers = (
        Fold(at[: len(fit)], at[len(fit) : middle], at[middle:]),
        torch.cat([fit, validation, tested + len(train)]),
    )
    return Rows(joined, [fold], asked_tasks(joined, probe["tasks"]), numbers)


def _fold(parts: list[Tensor], k: int) -> Fold:
    """Fold k tests on its own part and validates on the next one."""
    following = (k + 1) % len(parts)
    train = torch.cat([part for i, part in enumerate(parts) if i not in (k, following)]).sort().values
    return Fold(train, parts[following], parts[k])


def capped(images: Images, rows: Tensor, count: int | None, seed: int) -> Tensor:
    """`rows`, or a seeded stratified choice of `count` of them."""
    if count is None or count >= len(rows):
        return rows
    return rows[choose(labels_of(images)[rows], count, seed)]


def asked_tasks(images: Images, asked: str | Sequence[str]) -> dict[str, Task]:
    """The tasks to measure; raises UsageError for one that the data does not have."""
    if asked == "all":
        return images.tasks
    for name in asked:
        if name not in images.tasks:
            raise UsageError(f"the data has no task `{name}`", hint=suggestion(name, images.tasks, "tasks"))
    return {name: images.tasks[name] for name in asked}
