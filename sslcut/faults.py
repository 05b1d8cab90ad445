"""What pydantic finds wrong with a recipe, in plain words, each with its line and what to write."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import ValidationError

from sslcut.choices import Chosen, OptionsOf, Section
from sslcut.errors import nearest
from sslcut.marked import Keys, Marked, Problem, spoken
from sslcut.sections import Recipe
from sslcut.yamltext import scalar

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "none_required": "null",
    "wanted": "{wanted}",
}
_LONGEST_QUOTE = 60


def explain(error: ValidationError, text: Marked) -> list[Problem]:
    """Every fault of a recipe once. Where a value could be one of several kinds, they share one sentence."""
    found: dict[Keys, list[Any]] = {}
    for each in error.errors(include_url=False):
        keys = _written(each["loc"], text.data, missing=each["type"] == "missing")
        found.setdefault(keys, []).append(each)
    # where a list has a faulty item, that the whole could also be something else helps nobody
    parents = {keys[:end] for keys in found for end in range(len(keys))}
    return [_problem(keys, faults, text) for keys, faults in found.items() if keys not in parents]


def _written(location: Keys, data: Any, *, missing: bool) -> Keys:
    """A location as keys of the data: less the kinds of a union, which pydantic puts between them."""
    keys: list[str | int] = []
    for part in location:
        within: Any = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
        if part in within:
            data = data[part]
            keys.append(part)
    return (*keys, location[-1]) if missing else tuple(keys)


def _problem(keys: Keys, faults: list[Any], text: Marked) -> Problem:
    first, place = faults[0], text.place(keys)
    context = first.get("ctx", {})
    if first["type"] == "told":
        return Problem(place, context["what"], context["hint"])
    if first["type"] == "extra_forbidden":
        return Problem(place, f"unknown key `{spoken(keys)}`", _hint_for_key(keys, text.data))
    if first["type"] == "missing":
        return Problem(place, f"`{spoken(keys)}` is missing", _takes(keys[:-1], text.data))
    wanted = " or ".join(dict.fromkeys(_wanted(each) for each in faults))
    hint = (_hint_for_value(first) if len(faults) == 1 else "") or _options(keys[:-1], text.data)
    return Problem(place, f"`{spoken(keys)}` must be {wanted}, not {_quoted(first['input'])}", hint)


def _wanted(fault: Any) -> str:
    context = {key: f"{value:g}" if isinstance(value, float) else value for key, value in fault.get("ctx", {}).items()}
    if fault["type"] == "literal_error":
        return str(context["expected"]).replace("'", "`")
    return _WANTED[fault["type"]].format(**context) if fault["type"] in _WANTED else fault["msg"]


def _quoted(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, str):
        shown = value if len(value) <= _LONGEST_QUOTE else f"{value[:_LONGEST_QUOTE]}…"
        return f"the text `{shown}`" if not isinstance(scalar(value), str) else f"`{shown}`"
    return "`null`" if value is None else f"`{str(value).lower()}`"


def _hint_for_value(fault: Any) -> str:
    value = fault["input"]
    if fault["type"] == "literal_error" and isinstance(value, str):
        close = nearest(value, str(fault["ctx"]["expected"]).split("'")[1::2])
        return f"did you mean `{close}`?" if close else ""
    if fault["type"] in ("int_type", "float_type") and isinstance(value, str) and not isinstance(scalar(value), str):
        return "write it without quotes"
    return "write it in quotes" if fault["type"] == "string_type" and value is not None else ""


def _hint_for_key(keys: Keys, data: Any) -> str:
    *parents, key = keys
    for other, names in _holders(Recipe, (), data):
        if key in names:
            return f"`{key}` belongs into `{spoken(other)}`" if other else f"`{key}` stands outside the sections"
    close = nearest(str(key), _names(_model(*_kind_at(tuple(parents), data))))
    takes = _takes(tuple(parents), data)
    return f"did you mean `{close}`? {takes}" if close else takes


def _options(keys: Keys, data: Any) -> str:
    """What a choice's member takes; a section of every recipe needs no listing."""
    return _takes(keys, data) if isinstance(_kind_at(keys, data)[0], Chosen | OptionsOf) else ""


def _takes(keys: Keys, data: Any) -> str:
    names = _names(_model(*_kind_at(keys, data)))
    holder = f"`{spoken(keys)}`" if keys else "a recipe"
    return f"{holder} takes {', '.join(names)}" if names else ""


def _names(model: type[Section] | None) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _kind_at(keys: Keys, data: Any) -> tuple[Any, Any]:
    """What checks the mapping at `keys` (a section, the mark of a choice, or None), and that mapping."""
    kind: Any = Recipe
    for key in keys:
        if isinstance(key, str):
            model = _model(kind, data)
            kind = _kinds(model).get(key) if model else None
        data = data[key]
    return kind, data


def _model(kind: Any, data: Any) -> type[Section] | None:
    return kind.model(data) if isinstance(kind, Chosen | OptionsOf) else kind


def _kinds(model: type[Section]) -> dict[str, Any]:
    """What checks each field that holds a mapping, or a list of mappings: a section, or the mark of a choice."""
    kinds = {}
    for name, field in model.model_fields.items():
        for each in (*field.metadata, *_parts(field.annotation)):
            if isinstance(each, Chosen | OptionsOf) or (isinstance(each, type) and issubclass(each, Section)):
                kinds[field.alias or name] = each
                break
    return kinds


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _holders(model: type[Section], keys: Keys, data: Any) -> Iterator[tuple[Keys, list[str]]]:
    """Every mapping of the recipe, and the keys that it takes."""
    yield keys, _names(model)
    for key, kind in _kinds(model).items():
        inner = data.get(key) if isinstance(data, dict) else None
        found = _model(kind, inner)
        if isinstance(inner, dict) and found is not None:
            yield from _holders(found, (*keys, key), inner)
