"""How probes that were fitted on the images as they are read shifted ones, without being fitted again."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslcut.data.elsewhere import folder, folder_name
from sslcut.data.images import Images, Task, split_validation
from sslcut.data.opening import Joined
from sslcut.data.shifts import LEVELS, Shifted
from sslcut.errors import UsageError
from sslcut.events import Event, Note
from sslcut.metrics.extract import Source, features
from sslcut.metrics.layer import Beside, Fit, Fold, Layer, defined, rows_of
from sslcut.metrics.store import Store
from sslcut.metrics.table import Part, Row, table
from sslcut.registry import SHIFTS

FOLDER = "folder"
CHOOSING = 0.2  # of a folder's images choose the layer, the others score it


@dataclass(frozen=True)
class Shift:
    """One shift at one strength, as results name it (`noise:2`): its rows among all `Shifts.images`.

    `paired` says that they are the very images that validate and test unshifted, in the same order.
    """

    name: str
    validation: Tensor
    test: Tensor
    paired: bool


@dataclass(frozen=True)
class Shifts:
    """The shifted copies of the images that validate and test, one shift after the other, and other folders' images."""

    images: Images
    each: list[Shift]

    @property
    def tasks(self) -> Mapping[str, Task]:
        """What is known of the images."""
        return self.images.tasks

    @property
    def validation(self) -> Tensor:
        """The rows on which layers are compared, of all shifts."""
        return torch.cat([shift.validation for shift in self.each])

    @property
    def test(self) -> Tensor:
        """The rows that score them."""
        return torch.cat([shift.test for shift in self.each])


def no_test_split() -> UsageError:
    """What is wrong where shifts are asked for and the data is cross-fitted."""
    hint = "give the folder a `test` beside its `train`, or leave `probe.shifts` out"
    return UsageError("`probe.shifts` needs a test split, and the data has none", hint=hint)


def shifts(
    asked: str | Sequence[Mapping[str, Any]], images: Images, folds: Sequence[Fold], numbers: Tensor, seed: int
) -> Generator[Event, None, Shifts]:
    """The shifts that `probe.shifts` asks for, of a measurement's images; `numbers` (N,) are the images' own.

    Raises UsageError where there is no test split, or two folders have one name; InputError as `folder` does.
    """
    if len(folds) != 1:
        raise no_test_split()
    validation, test = (rows_of(folds, part) for part in ("validation", "test"))
    own, at = torch.cat([validation, test]), 0
    parts: list[Images] = []
    each: list[Shift] = []
    every = [{"name": kind} for kind in SHIFTS if kind != FOLDER]
    for choice in every if isinstance(asked, str) else asked:
        if choice["name"] == FOLDER:
            other = yield from folder(images.tasks, images.size, seed=seed, root=choice["root"])
            tested, chosen = split_validation(other, CHOOSING, seed)
            parts.append(other)
            each.append(Shift(folder_name(choice["root"]), at + chosen, at + tested, paired=False))
            at += len(other)
            continue
        for level in LEVELS:
            parts.append(Shifted(images, own, choice["name"], level, numbers[own]))
            rows = torch.arange(at, at + len(own))
            each.append(Shift(f"{choice['name']}:{level}", rows[: len(validation)], rows[len(validation) :], True))
            at += len(own)
    names = [shift.name for shift in each]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"probe.shifts names `{twice.removesuffix(':1')}` twice", hint="leave one of them out")
    return Shifts(reduce(Joined, parts), each)


def read_beside(
    layers: Sequence[Layer], source: Source, shifted: Shifts, *, memory: int, folder: Path, device: torch.device
) -> Generator[Event, None, tuple[list[Layer], int]]:
    """The layers with the features of the shifted images beside them, from one pass; and the memory that is left."""
    store = Store(len(shifted.images), list(source.widths.values()), memory, folder)
    with closing(store):
        (found,) = yield from features([source], shifted.images, store, device=device, text="shifted images")
    yield Note(f"features of {len(shifted.images):,} shifted images ({len(shifted.each)} shifts): {store.place}")
    features_of = {layer.key: layer.features for layer in found}
    told = shifted.validation, shifted.test
    return [replace(layer, beside=Beside(features_of[layer.key], *told)) for layer in layers], store.left


def shifted_rows(
    fits: Sequence[Fit],
    shifted: Shifts,
    metrics: Mapping[str, str],
    *,
    test: Part,
    validation: Part,
    reference: tuple[str, str],
) -> list[Row]:
    """A row for each of `fits` under each shift, in the metric that chooses; of tasks with labels there.

    `validation` of a row is under the same shift: of the fit that has not seen those images as they are either.
    Resamples are those of the unshifted images where they are the same images.
    """
    groups: dict[tuple[str, str, str], list[Fit]] = {}
    for fit in fits:
        groups.setdefault((fit.probe, fit.setting, fit.task), []).append(fit)
    rows: list[Row] = []
    for shift in shifted.each:
        scored, chosen = _part(test, shift, "test"), _part(validation, shift, "validation")
        for (_, _, name), group in groups.items():
            task = shifted.tasks[name]
            if defined(task)[shift.test].any() and defined(task)[shift.validation].any():
                told = [replace(fit, tested=fit.beside, validated=fit.beside) for fit in group]
                found = table(told, task, metrics[name], scored, chosen, reference)
                rows += [row | {"shift": shift.name} for row in found]
    return rows


def _part(own: Part, shift: Shift, part: str) -> Part:
    if shift.paired:
        return own.moved(getattr(shift, part))
    nothing = torch.empty(0, dtype=torch.int64)
    fold, bootstrap = Fold(nothing, shift.validation, shift.test), own.bootstrap
    return Part([fold], part, group=None, count=bootstrap.count, seed=bootstrap.seed)
