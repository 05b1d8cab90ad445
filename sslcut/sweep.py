"""A sweep is many recipes: the cells of a grid, or of a list, each with a short folder name."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from math import prod
from typing import TYPE_CHECKING, Any

from sslcut.draft import settles
from sslcut.errors import UsageError
from sslcut.marked import Keys, Marked, Place, Problem, everywhere, refusal, spoken
from sslcut.merge import normalise
from sslcut.recipe import check
from sslcut.soundness import faults_of

if TYPE_CHECKING:
    from sslcut.sections import Recipe

MOST_CELLS = 1000
LONGEST_NAME = 80
NOT_SWEPT = ("name", "extends", "sweep", "study", "description")


@dataclass(frozen=True)
class Cell:
    """One point of a sweep: its folder's name, what it sets (dotted key → value), and the recipe that comes of it."""

    name: str
    overrides: dict[str, Any]
    recipe: "Recipe"


@dataclass(frozen=True)
class _Setting:
    key: str
    value: Any
    place: Place

    def layer(self) -> Marked:
        return normalise(everywhere(self.value, self.place).under(self.key.split("."), self.place))


_Point = tuple[_Setting, ...]


def cells(recipe: "Recipe") -> list[Cell]:
    """The cells of a recipe's sweep, a grid's last key varying fastest; none where it has no sweep.

    Raises RecipeError with every fault of the sweep or of any cell.
    """
    text = recipe.draft.merged()
    problems: list[Problem] = []
    points = _points(text, problems)
    if problems:
        raise refusal(problems)
    distinct = {json.dumps(_overrides(point)): point for point in points}
    made = []
    for name, point in zip(folder_names([*map(_overrides, distinct.values())]), distinct.values(), strict=True):
        checked, faults = check(recipe.draft, [setting.layer() for setting in point])
        problems += faults
        if checked is not None:
            made.append(Cell(name, _overrides(point), checked))
    if any(cell.recipe.dump()["train"]["compile"] == "auto" for cell in made):
        what = "`train.compile: auto` decides for each training by itself, and a sweep compares its cells"
        problems.append(Problem(text.place(("train", "compile")), what, "write true or false"))
    if recipe.study is not None and not problems:
        problems += faults_of(text, recipe.study, made, _settled(recipe))
    if problems:
        raise refusal(problems)
    return made


def _settled(recipe: "Recipe") -> list[str]:
    """The keys of the recipe's claims that the command line fixes, or may have taken out of the sweep."""
    assert recipe.study is not None
    keys = dict.fromkeys(key for claim in recipe.study.claims for side in claim.sides for key in side)
    fixed = [layer.data for layer in recipe.draft.fixed]
    return [key for key in keys if any("sweep" in data or settles(data, key) for data in fixed)]


def folder_names(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """A folder's name for each point: `key=value,…` with the last part of each key, or as many as tell keys apart.

    A name that is long, or that two points would share, ends in a hash of what the point sets.
    """
    short = _short(dict.fromkeys(key for point in points for key in point))
    names = [",".join(f"{short[key]}={_word(value)}" for key, value in point.items()) or "base" for point in points]
    return [
        f"{name[:LONGEST_NAME]}-{_hash(point)}" if len(name) > LONGEST_NAME or names.count(name) > 1 else name
        for name, point in zip(names, points, strict=True)
    ]


def refuse_sweep(recipe: "Recipe", command: str) -> None:
    """Raises UsageError where a command that works on one network is given a sweep."""
    if recipe.sweep:
        raise UsageError(
            f"recipe `{recipe.name}` has a sweep, and `{command}` takes one cell of it",
            hint="`sslcut run` goes through the sweep; `--set sweep=null` leaves it out",
        )


def _points(text: Marked, problems: list[Problem]) -> list[_Point]:
    sweep = text.get(("sweep",))
    if sweep is None:
        return []
    if isinstance(sweep, list):
        return [
            tuple(_setting(key, value, text, ("sweep", index, key), problems) for key, value in point.items())
            for index, point in enumerate(sweep)
        ]
    axes = [
        _zipped(axis, text, problems) if key == "zip" else _axis(key, axis, text, ("sweep", key), problems)
        for key, axis in sweep.items()
    ]
    if (count := prod(map(len, axes))) > MOST_CELLS:
        problems.append(Problem(text.place(("sweep",)), f"`sweep` has {count} cells", f"at most {MOST_CELLS}"))
        return []
    return [tuple(chain.from_iterable(point)) for point in product(*axes)]


def _axis(key: str, values: Any, text: Marked, keys: Keys, problems: list[Problem]) -> list[_Point]:
    if not isinstance(values, list) or not values:
        what = f"`{spoken(keys)}` must be a list of at least one value"
        problems.append(Problem(text.place(keys), what, f"write `{key}: [first, second]`"))
        return []
    return [(_setting(key, value, text, keys, problems),) for value in values]


def _zipped(axes: Any, text: Marked, problems: list[Problem]) -> list[_Point]:
    """The points of lists that go side by side: the first of each, the second of each, …"""
    place = text.place(("sweep", "zip"))
    if not isinstance(axes, dict) or not axes:
        problems.append(
            Problem(place, "`sweep.zip` must be a mapping of lists", "write `zip: {seed: [0, 1], …: [2, 3]}`")
        )
        return []
    columns = [_axis(key, values, text, ("sweep", "zip", key), problems) for key, values in axes.items()]
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(f"{key} {len(column)}" for key, column in zip(axes, columns, strict=True))
        problems.append(Problem(place, f"`sweep.zip` pairs lists of different lengths: {lengths}", "make them equal"))
        return []
    return [tuple(chain.from_iterable(row)) for row in zip(*columns, strict=True)]


def _setting(key: str, value: Any, text: Marked, keys: Keys, problems: list[Problem]) -> _Setting:
    place = text.place(keys)
    if key.split(".")[0] in NOT_SWEPT:
        problems.append(Problem(place, f"a sweep cannot vary `{key}`", "sweep what a stage reads"))
    return _Setting(key, value, place)


def _overrides(point: _Point) -> dict[str, Any]:
    return {setting.key: setting.value for setting in point}


def _short(keys: Iterable[str]) -> dict[str, str]:
    """Each key's last part, or as many of its last parts as no other key ends in."""
    known = list(keys)
    return {key: next(end for end in _endings(key) if _alone(end, key, known)) for key in known}


def _endings(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def _alone(ending: str, key: str, known: Sequence[str]) -> bool:
    return ending == key or not any(other != key and f".{other}".endswith(f".{ending}") for other in known)


def _word(value: Any) -> str:
    """A value as part of a folder's name; a hash follows where characters had to be left out."""
    text = _flat(value)
    safe = re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII)
    return safe if safe == text else f"{safe}-{_hash(value)}"


def _flat(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_flat, value))
    if isinstance(value, dict):
        return "-".join(_flat(inner) if key == "name" else f"{key}{_flat(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
