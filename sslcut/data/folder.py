"""A folder of pictures: one folder a class (nested below it as it may be), or flat without labels."""

import os
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sslcut.data.decode import SUFFIXES
from sslcut.data.images import (
    FOLDS,
    Dataset,
    Images,
    Labelled,
    Task,
    existing_root,
    hold_out,
    labels_of,
    left_out,
    small_classes,
    subset,
)
from sslcut.data.residence import open_files
from sslcut.errors import InputError
from sslcut.events import Event

SPLITS = {"train", "test", "val"}


class Picture(NamedTuple):
    """A file, and the class that its folder says it is of; None in a flat folder."""

    path: Path
    label: str | None


def load(
    *,
    seed: int,
    root: str | None = None,
    size: Annotated[int, Field(ge=1)] = 32,
    train: Annotated[int, Field(ge=1)] | None = None,
    test: Annotated[int, Field(ge=1)] | None = None,
    skip_bad: bool = False,
    skip_small: bool = False,
    cache: bool = True,
) -> Generator[Event, None, Dataset]:
    """One folder a class, or flat without labels.

    Folders `train` and `test` (or `val`; beside `test`, `val` counts as training) are the splits. Without them all is
    one split, from which `test` images are held out where that is set, and cross-fitted otherwise. `cache` keeps the
    decoded images for the next run. Raises InputError where there are no images, one cannot be read, or a class has
    too few.
    """
    folder = existing_root(root, "folder")
    fit, held, told = _splits(folder)
    classes = sorted(_classes(fit))
    if len(classes) == 1:
        told.append(f"{folder} has one class folder only (`{classes[0]}`): its images are used without labels")
        classes = []
    needed = FOLDS if held is None and test is None else 2
    small_classes(_labels(fit, classes), classes, needed, skip=skip_small)  # before the decoding, which may be long
    images, bad = yield from _opened(fit, classes, folder, size, skip_bad, cache)
    small = small_classes(labels_of(images), classes, needed, skip=skip_small)
    images = _without(images, small)
    told += bad + left_out(small)
    if held is not None:
        tested, bad = yield from _opened(held, classes, folder, size, skip_bad, cache)
        return Dataset(
            "folder", subset(images, train, seed), subset(_without(tested, small), test, seed), (*told, *bad)
        )
    rest, apart = (images, None) if test is None else hold_out(images, test, seed)
    return Dataset("folder", subset(rest, train, seed), apart, tuple(told))


def _splits(folder: Path) -> tuple[list[Picture], list[Picture] | None, list[str]]:
    """Training pictures, test pictures where folders say so, and warnings."""
    inside = {path.name for path in _folders(folder)}
    fit, told = _pictures(folder, ["train", "val"] if inside == SPLITS else ["train"] if _are_splits(inside) else [""])
    if not fit:
        raise InputError(f"no images in {folder}", hint=f"sslcut reads {', '.join(sorted(SUFFIXES))}")
    if not _are_splits(inside) or inside == {"train"}:
        return fit, None, told
    held, more = _pictures(folder, ["test" if "test" in inside else "val"])
    if _classes(fit) and not _classes(held):
        return fit, None, [*told, f"the test images in {folder} have no class folders and are not used"]
    if strange := sorted(_classes(held) - _classes(fit)):
        raise InputError(f"class `{strange[0]}` of {folder} has test images only", hint="give it training images too")
    return fit, held, told + more


def _are_splits(names: Collection[str]) -> bool:
    """Whether these folders are splits: `train`, say, is a class too where it stands among others."""
    return "train" in names and SPLITS.issuperset(names)


def _pictures(folder: Path, parts: Sequence[str]) -> tuple[list[Picture], list[str]]:
    """All pictures below the `parts` of a folder, in order, and a warning where some stand beside the class folders."""
    above = frozenset({os.path.realpath(folder)})
    labelled, loose = [], []
    for part in parts:
        for inner in _folders(folder / part):
            labelled += [Picture(path, inner.name) for path in _below(inner, above)]
        loose += [Picture(path, None) for path in _files(folder / part)]
    if labelled and loose:
        example = loose[0].path.relative_to(folder)
        return labelled, [f"{len(loose):,} images beside the class folders are left out (e.g. {example})"]
    return labelled or loose, []


def _below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Picture files at any depth; links are followed but into a folder that they are in."""
    real = os.path.realpath(folder)
    if real in above:
        return
    yield from _files(folder)
    for inner in _folders(folder):
        yield from _below(inner, above | {real})


def _folders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(folder) if _is_folder(entry)]


def _files(folder: Path) -> list[Path]:
    """Picture files by their suffix, links to nowhere among them: reading names those."""
    named = [entry for entry in _entries(folder) if os.path.splitext(entry.name)[1].lower() in SUFFIXES]
    return [Path(entry.path) for entry in named if not _is_folder(entry)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds by name, less what is hidden."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as fault:
        raise InputError(f"cannot read folder {folder}: {fault.strerror}") from fault


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link to itself is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _classes(pictures: Sequence[Picture]) -> set[str]:
    return {picture.label for picture in pictures if picture.label is not None}


def _labels(pictures: Sequence[Picture], classes: Sequence[str]) -> Tensor:
    """The class numbers (N,); -1 for a class that is not among `classes`."""
    number = {name: index for index, name in enumerate(classes)}
    return torch.tensor([number.get(picture.label or "", -1) for picture in pictures], dtype=torch.int64)


def _opened(
    pictures: list[Picture], classes: Sequence[str], folder: Path, size: int, skip_bad: bool, cache: bool
) -> Generator[Event, None, tuple[Images, list[str]]]:
    """The pictures that can be read, labelled where there are classes, and a warning if others cannot."""
    files = yield from open_files([each.path for each in pictures], size, skip_bad=skip_bad, cache=cache)
    pictures = [pictures[row] for row in files.kept.tolist()]
    tasks = {"class": Task("class", _labels(pictures, classes), tuple(classes))} if classes else {}
    names = [str(each.path.relative_to(folder)) for each in pictures]
    return Labelled(files.images, files.rows, tasks, names=names), files.warnings


def _without(images: Images, small: Collection[str]) -> Images:
    """The images of all classes but the `small` ones."""
    if not small:
        return images
    task = images.tasks["class"].without(small)
    rows = (task.values >= 0).nonzero().squeeze(1)
    names = None if images.names is None else [images.names[row] for row in rows.tolist()]
    return Labelled(images, rows, {"class": task.take(rows)}, names=names)
