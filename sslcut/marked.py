"""Plain data that knows where each of its keys is written, so that a fault can be shown at its line."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sslcut.errors import Fault, RecipeError

Keys = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Place:
    """Where something is written: a file and its line, or the option of the command line that says it (line 0)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """A fault that still knows its place as file and line, by which problems are sorted."""

    place: Place
    what: str
    hint: str = ""


@dataclass(frozen=True)
class Marked:
    """Data, the places of its keys and items, and what was found wrong while reading it."""

    data: Any = None
    places: Mapping[Keys, Place] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def place(self, keys: Keys) -> Place:
        """Where `keys` is written, or the nearest parent that is."""
        for end in range(len(keys), -1, -1):
            if keys[:end] in self.places:
                return self.places[keys[:end]]
        return Place("recipe")

    def get(self, keys: Keys) -> Any:
        """The value at `keys`; None where there is none."""
        value = self.data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def under(self, keys: Sequence[str], place: Place) -> "Marked":
        """The same data nested below `keys`, which are written at `place`."""
        path: Keys = tuple(keys)
        data = self.data
        for key in reversed(path):
            data = {key: data}
        parents = {path[:end]: place for end in range(1, len(path) + 1)}
        return Marked(data, {**parents, **{(*path, *inner): at for inner, at in self.places.items()}}, self.problems)

    def without(self, names: Sequence[str]) -> "Marked":
        """The same mapping less these keys."""
        data = {key: value for key, value in self.data.items() if key not in names}
        places = {keys: place for keys, place in self.places.items() if not keys or keys[0] not in names}
        return Marked(data, places, self.problems)


def spoken(keys: Keys) -> str:
    """Keys as a recipe's reader would write them: `views.crops[0].scale`."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys]
    return "".join(parts).removeprefix(".")


def refusal(problems: Sequence[Problem]) -> RecipeError:
    """The error that tells each of `problems` once, by file and line."""
    told = dict.fromkeys(sorted(problems, key=lambda problem: problem.place))
    return RecipeError([Fault(str(problem.place), problem.what, problem.hint) for problem in told])


def everywhere(data: Any, place: Place) -> Marked:
    """`data` all of whose keys and items are written at one place."""
    return Marked(data, {keys: place for keys in _all_keys(data, ())})


def _all_keys(data: Any, keys: Keys) -> Iterator[Keys]:
    yield keys
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        yield from _all_keys(value, (*keys, key))
