"""What a probe reads (the features of one block, split into folds) and what it gives back (predictions)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.errors import InputError

BLOCK = 2**22  # numbers that are turned to float32 at a time (16 MB)
WORTH = 2**23  # numbers: with fewer a processor is done before a GPU has been told what to do
SHARE, ASIDE = 0.8, 2**30  # of what is free on a GPU a layer and fits on it may take this share, less what blocks take
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Beside:
    """Features (M, D) of further images, which probes predict and never learn from.

    The fits on train rows alone predict those at the rows `validation`, the final fits those at `test`.
    """

    features: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class Layer:
    """The features of one block by one read-out: (N, D), all rows, in the same order for every layer.

    They are float32 in memory where there is room, else half precision, and beyond that mapped from a file: what
    reads them takes `blocks`. `device` is where fits on them are computed, if they have room there.
    """

    name: str
    readout: str
    features: Tensor
    beside: Beside | None = None
    device: torch.device = CPU

    @property
    def alone(self) -> "Layer":
        """The layer without what lies beside it."""
        return replace(self, beside=None)

    @property
    def key(self) -> tuple[str, str]:
        """What tells one layer from another: its block and its read-out."""
        return self.name, self.readout

    def near(self, memory: int) -> tuple["Layer", int]:
        """The layer where fits on it are computed, and the bytes that a fit may take there: `memory` on the CPU.

        On a GPU they are what it has free. A small layer, and one that does not fit beside a scaled copy of itself,
        stay where they are.
        """
        if self.device.type == "cpu" or self.features.numel() < WORTH:
            return self, memory
        held = [self.features] if self.beside is None else [self.features, self.beside.features]
        size = sum(numbers.numel() * numbers.element_size() for numbers in held)
        spare = int(SHARE * free_memory(self.device)) - size - ASIDE
        if spare < 4 * self.features.numel():
            return self, memory
        features, *further = (numbers.to(self.device) for numbers in held)
        beside = replace(self.beside, features=further[0]) if self.beside is not None else None
        return replace(self, features=features, beside=beside), spare


@dataclass(frozen=True)
class Fold:
    """Row indices of one split; cross-fitting has several, whose test parts tile all rows, as do the validation parts.

    `refit` are the rows of the final fit, which predicts `test`; those of train and validation where it is None.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    refit: Tensor | None = None

    @property
    def final(self) -> Tensor:
        """The rows of the final fit."""
        return torch.cat([self.train, self.validation]) if self.refit is None else self.refit


@dataclass(frozen=True)
class Fit:
    """What one probe predicts for one task from one layer.

    `setting` tells apart the settings of one probe that are all reported (kNN's k and T), `chosen` is what validation
    chose (the L2), `rows` the labelled images of the final fit (their mean over folds). `tested` (N,) or (N, 2) holds
    the final fit's predictions at the folds' test rows, `validated` those of the fit on train alone at their
    validation rows; both are meaningless elsewhere. A probe of several seeds puts these in front, (S, N) or (S, N, 2),
    and its scores are their means. `width` is how many numbers an image the probe read, the layer's where None.
    `beside` holds what is predicted of the images beside the layer, (M,) or (M, 2), and none where there are none.
    """

    layer: Layer
    task: str
    probe: str
    setting: str
    chosen: str
    rows: int
    tested: Tensor
    validated: Tensor
    width: int | None = None
    beside: Tensor = torch.empty(0)

    @property
    def dim(self) -> int:
        """How many numbers an image the probe read."""
        return self.layer.features.shape[1] if self.width is None else self.width

    @property
    def options(self) -> str:
        """Everything that one would need to repeat the fit, as results show it."""
        return " ".join(part for part in (self.setting, self.chosen) if part)


class Sheet:
    """The predictions of one fit while they are filled in, fold by fold; with a first dimension where it has seeds."""

    def __init__(self, name: str, task: Task, seeds: int | None = None, further: Beside | None = None) -> None:
        self.name = name
        shape = task.values.shape if seeds is None else (seeds, *task.values.shape)
        self.tested = task.values.new_zeros(shape)
        self.validated = task.values.new_zeros(shape)
        self.beside = task.values.new_zeros((len(further.features) if further else 0, *task.values.shape[1:]))
        self.rows: list[int] = []
        self.chosen: list[float] = []

    def fit(self, layer: Layer, probe: str, *, setting: str = "", chosen: str = "") -> Fit:
        """The filled sheet."""
        rows = round(sum(self.rows) / len(self.rows))
        return Fit(layer, self.name, probe, setting, chosen, rows, self.tested, self.validated, beside=self.beside)


@dataclass(frozen=True)
class Measure:
    """One number of a layer that needs no label."""

    layer: Layer
    measure: str
    value: float


def fit_near(layer: Layer, memory: int, fit: Callable[[Layer, int], list[Fit]]) -> list[Fit]:
    """What `fit` gives for a layer where fits on it are computed; on the CPU after all where a GPU's memory runs out.

    The fits are of the layer as it was given.
    """
    try:
        found = fit(*layer.near(memory))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        found = fit(layer, memory)
    return [replace(one, layer=layer) for one in found]


def free_memory(device: torch.device) -> int:
    """The bytes that are free on a GPU, those that torch holds for later among them."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def rows_of(folds: Sequence[Fold], part: str) -> Tensor:
    """All rows that are `train`, `validation`, `test` or `final` in some fold, each once, in row order."""
    return (
        torch.unique(torch.cat([getattr(fold, part) for fold in folds])) if folds else torch.empty(0, dtype=torch.int64)
    )


def at_rows(predictions: Tensor, rows: Tensor, task: Task) -> Tensor:
    """A task's predictions at `rows` (n,): (n,) or (n, 2), with the seeds in front where there are several."""
    return predictions.index_select(predictions.ndim - task.values.ndim, rows)


def defined(task: Task) -> Tensor:
    """Which rows carry a label: (N,) bool. A class of -1 and a number or angle of NaN do not."""
    if task.kind == "class":
        return task.values >= 0
    return ~task.values.isnan().reshape(len(task.values), -1).any(dim=1)


def blocks(features: Tensor, rows: Tensor, numbers: int = BLOCK) -> Iterator[tuple[slice, Tensor]]:
    """The `rows` (n,) of features (N, D) as float32, at most `numbers` numbers at a time, each with its place."""
    step = max(1, numbers // max(1, features.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        yield part, features.index_select(0, rows[part].to(features.device)).float()


def alike(tasks: Mapping[str, Task]) -> list[tuple[Tensor, list[str]]]:
    """The tasks grouped by the rows on which they are defined, (N,) bool: each group can share its products."""
    groups: list[tuple[Tensor, list[str]]] = []
    for name, task in tasks.items():
        mask = defined(task)
        for other, names in groups:
            if torch.equal(mask, other):
                names.append(name)
                break
        else:
            groups.append((mask, [name]))
    return groups


def class_count(task: Task) -> int:
    """How many classes a class task has."""
    return len(task.classes) or int(task.values.max()) + 1


def check_finite(layer: Layer) -> None:
    """Raises InputError where a layer's features are not all finite numbers."""
    broken = _broken(layer.features) + (_broken(layer.beside.features) if layer.beside is not None else 0)
    if broken:
        raise InputError(
            f"layer `{layer.name}` ({layer.readout}) gives values that are not finite for {broken} images",
            hint="the network overflows: probe it in float32, or leave the layer out with `probe.layers`",
        )


def _broken(features: Tensor) -> int:
    """How many rows hold a number that is not finite."""
    parts = blocks(features, torch.arange(len(features)), BLOCK // 4)  # smaller, since the check makes its own copies
    return sum(int((~part.isfinite().all(dim=1)).sum()) for _, part in parts)
