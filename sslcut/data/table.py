"""Pictures with a table: one row a picture, one column a task, and perhaps a group and a split."""

import csv as text
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sslcut.data.images import (
    FOLDS,
    Dataset,
    Images,
    Labelled,
    Subset,
    Task,
    TaskKind,
    existing_root,
    hold_out,
    left_out,
    small_classes,
    subset,
)
from sslcut.data.residence import open_files
from sslcut.errors import InputError, suggestion
from sslcut.events import Event

MANY = 20  # a column of numbers with more different values than this is a number, else a class
SPLITS = {"train": True, "val": True, "validation": True, "test": False}  # whether a row is for training


def load(
    *,
    seed: int,
    root: str | None = None,
    csv: str = "labels.csv",
    image: str | None = None,
    tasks: list[str] | None = None,
    kinds: dict[str, Literal["class", "number", "angle"]] | None = None,
    group: str | None = None,
    split: str | None = None,
    size: Annotated[int, Field(ge=1)] = 32,
    train: Annotated[int, Field(ge=1)] | None = None,
    test: Annotated[int, Field(ge=1)] | None = None,
    skip_bad: bool = False,
    skip_small: bool = False,
    cache: bool = True,
) -> Generator[Event, None, Dataset]:
    """Images plus a CSV: one column a task, optionally a group and a split.

    `image` is the column of paths below `root`, else the first. A column of numbers with more than 20 different values
    is a number, any other a class, unless `kinds` says; an angle is in degrees. An empty cell is unlabelled. `split`
    holds train and test (val counts as training). `cache` keeps the decoded images for the next run. Raises
    InputError, naming the line where there is one.
    """
    folder = existing_root(root, "table")
    table = Table(folder / csv)
    image = image or next(iter(table.columns))
    apart = {image, group, split}
    names = table.column(image)
    described = {
        name: _task(table, name, (kinds or {}).get(name))
        for name in (tasks if tasks is not None else [name for name in table.columns if name not in apart])
    }
    for name in kinds or {}:
        table.column(name)  # a kind for a column that is not there is a slip of the pen
    groups = None if group is None else _groups(table, group)
    training = None if split is None else _training(table, split)
    if group is not None and split is not None:
        _on_one_side(table, group, split)
    if not skip_bad:
        _present(table, folder, names)
    files = yield from open_files([folder / name for name in names], size, skip_bad=skip_bad, cache=cache)
    kept = files.kept
    images = Labelled(
        files.images,
        files.rows,
        {name: task.take(kept) for name, task in described.items()},
        group=None if groups is None else groups[kept],
        names=[names[row] for row in kept.tolist()],
    )
    fit, tested, more = _divided(images, None if training is None else training[kept], test, seed, skip_small)
    return Dataset("table", subset(fit, train, seed), tested, (*files.warnings, *more))


class Table:
    """A CSV file: its columns by name, each a list of stripped cells. Raises InputError where it is not a table."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = text.reader(file)
                rows = [(reader.line_num, [c.strip() for c in row]) for row in reader if any(c.strip() for c in row)]
        except (OSError, UnicodeDecodeError, text.Error) as fault:
            raise InputError(
                f"cannot read {path}: {fault}", hint="data.csv names the table inside data.root"
            ) from fault
        if len(rows) < 2:
            raise InputError(
                f"{path} has no rows", hint="its first line names the columns, each other line is an image"
            )
        (_, header), *rows = rows
        for name in header:
            if header.count(name) > 1:
                raise InputError(f"two columns are called `{name}`", place=f"{path}:1", hint="give each its own name")
        for line, row in rows:
            if len(row) != len(header):
                raise InputError(f"{len(row)} cells under {len(header)} columns", place=f"{path}:{line}")
        self.lines = [line for line, _ in rows]
        self.columns = {name: [row[at] for _, row in rows] for at, name in enumerate(header)}

    def column(self, name: str) -> list[str]:
        """The cells of a column. Raises InputError with the nearest name."""
        if name not in self.columns:
            raise InputError(f"{self.path} has no column `{name}`", hint=suggestion(name, self.columns, "columns"))
        return self.columns[name]

    def place(self, row: int) -> str:
        """The `file:line` of a row."""
        return f"{self.path}:{self.lines[row]}"


def _task(table: Table, name: str, kind: TaskKind | None) -> Task:
    """A column as a task; its kind from its cells where none is given."""
    cells = table.column(name)
    filled = {cell for cell in cells if cell}
    numeric = all(_is_number(cell) for cell in filled)
    if kind is None:
        kind = "number" if numeric and len(filled) > MANY else "class"
    if kind == "class":
        classes = tuple(sorted(filled, key=lambda cell: (float(cell) if numeric else 0.0, cell)))
        number = {cell: index for index, cell in enumerate(classes)}
        return Task("class", torch.tensor([number.get(cell, -1) for cell in cells]), classes)
    for row, cell in enumerate(cells):
        if cell and not _is_number(cell):
            hint = f"data.kinds: {{{name}: class}} makes it a class"
            raise InputError(f"`{cell}` in column `{name}` is not a number", place=table.place(row), hint=hint)
    values = torch.tensor([float(cell or "nan") for cell in cells], dtype=torch.float64)
    if kind == "number":
        return Task("number", values.float())
    return Task("angle", torch.stack([values.deg2rad().sin(), values.deg2rad().cos()], dim=1).float())


def _is_number(cell: str) -> bool:
    try:
        return abs(float(cell)) != float("inf")
    except ValueError:
        return False


def _groups(table: Table, name: str) -> Tensor:
    """The groups (N,) as whole numbers. Raises InputError for a row without one: it could be on the wrong side."""
    cells = table.column(name)
    if "" in cells:
        raise InputError(f"no `{name}`", place=table.place(cells.index("")), hint="every row needs its group")
    number = {cell: index for index, cell in enumerate(sorted(set(cells)))}
    return torch.tensor([number[cell] for cell in cells])


def _training(table: Table, name: str) -> Tensor:
    """Whether each row (N,) is for training."""
    cells = [cell.lower() for cell in table.column(name)]
    for row, cell in enumerate(cells):
        if cell not in SPLITS:
            raise InputError(f"`{cell}` in column `{name}`", place=table.place(row), hint=f"write {', '.join(SPLITS)}")
    return torch.tensor([SPLITS[cell] for cell in cells])


def _on_one_side(table: Table, group: str, split: str) -> None:
    training = _training(table, split).tolist()
    side: dict[str, bool] = {}
    for row, (cell, fits) in enumerate(zip(table.column(group), training, strict=True)):
        if side.setdefault(cell, fits) != fits:
            what = f"{group} `{cell}` is on both sides of `{split}`"
            raise InputError(what, place=table.place(row), hint="leave data.split out, and sslcut divides by group")


def _present(table: Table, folder: Path, names: list[str]) -> None:
    missing = [row for row, name in enumerate(names) if not (folder / name).is_file()]
    if missing:
        more = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        hint = "paths are relative to data.root; data.skip_bad: true leaves such rows out"
        raise InputError(f"no image {names[missing[0]]}{more}", place=table.place(missing[0]), hint=hint)


def _divided(
    images: Images, training: Tensor | None, test: int | None, seed: int, skip_small: bool
) -> tuple[Images, Images | None, list[str]]:
    """Training and test split, with the labels of small classes taken off, and warnings about those."""
    fit = torch.ones(len(images), dtype=torch.bool) if training is None else training
    told = []
    for name, task in images.tasks.items():
        if task.kind == "class":
            needed = FOLDS if training is None and test is None else 2
            small = small_classes(task.values[fit], task.classes, needed, skip=skip_small, task=name)
            images.tasks[name] = task.without(small)
            told += left_out(small, name)
    if training is not None:
        sides = (Subset(images, side.nonzero().squeeze(1)) for side in (fit, ~fit))
        return next(sides), subset(next(sides), test, seed), told
    return (images, None, told) if test is None else (*hold_out(images, test, seed), told)
