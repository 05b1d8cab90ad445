"""Recipes laid over one another: mappings merge key by key, anything else is replaced."""

from collections.abc import Iterable
from functools import reduce
from typing import Any

from sslcut.marked import Keys, Marked

SECTIONS = ("data", "model", "method", "head", "views", "train", "resize", "probe", "guillotine", "report")
CHOICES: tuple[Keys, ...] = (  # where a recipe names one member of a registry
    ("data",),
    ("model", "backbone"),
    ("method",),
    ("head", "update"),
    ("head", "update", "then"),
    ("views", "policy"),
    ("train", "optimizer"),
    ("probe", "viewed", "policy"),
)


def normalise(text: Marked) -> Marked:
    """The same recipe with a bare `simclr` written out as `{name: simclr}`, and an empty section as `{}`."""
    data = {key: {} if value is None and key in SECTIONS else value for key, value in text.data.items()}
    places = dict(text.places)
    for keys in CHOICES:
        if isinstance(name := text.get(keys), str):
            data = put(data, keys, {"name": name})
            places[*keys, "name"] = text.place(keys)
    return Marked(data, places, text.problems)


def stack(layers: Iterable[Marked]) -> Marked:
    """All layers in one, each over those before it."""
    return reduce(overlay, layers)


def overlay(base: Marked, top: Marked) -> Marked:
    """`top` laid over `base`: where a choice's `name` changes, its mapping is replaced as a whole."""
    replaced: set[Keys] = set()
    data = _merge(base.data, top.data, (), replaced)
    kept = {
        keys: place
        for keys, place in base.places.items()
        if not any(keys[:end] in replaced for end in range(1, len(keys) + 1))
    }
    return Marked(data, {**kept, **top.places}, base.problems + top.problems)


def _merge(base: Any, top: Any, keys: Keys, replaced: set[Keys]) -> Any:
    if not (isinstance(base, dict) and isinstance(top, dict)) or _another(base, top, keys):
        replaced.add(keys)
        return top
    merged = {
        key: _merge(base[key], value, (*keys, key), replaced) if key in base else value for key, value in top.items()
    }
    return {**base, **merged}


def _another(base: dict[str, Any], top: dict[str, Any], keys: Keys) -> bool:
    return keys in CHOICES and "name" in top and top["name"] != base.get("name")


def put(data: dict[str, Any], keys: Keys, value: Any) -> dict[str, Any]:
    """`data` with another value at `keys`, whose parents are there."""
    key, *rest = keys
    return {**data, str(key): put(data[str(key)], tuple(rest), value) if rest else value}
