"""The conditions that a study compares: groups of seeds, names that tell them apart, and their numbers (no torch)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from sslcut.claims import Quantity, Study, at, fits, taught
from sslcut.errors import UsageError
from sslcut.names import resolve
from sslcut.render import compare, words
from sslcut.render.compare import Group, Spread
from sslcut.render.results import Document, Place, Score

ABSENT = object()
Data = tuple[str, Any]  # a data set's name and folder


@dataclass(frozen=True)
class Absent:
    """A condition that was planned and of which no seed has a result."""

    label: str
    recipe: Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What every number of a study needs to know.

    The conditions, each read on the data that it was trained on; the tasks that some cell was trained on, by data set;
    the same networks read on other data; and the planned conditions that are not there.
    """

    groups: tuple[Group, ...]
    learned: tuple[tuple[Data, str], ...] = ()
    elsewhere: tuple[Group, ...] = ()
    absent: tuple[Absent, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the tasks that some cell was trained on."""
        return tuple(dict.fromkeys(task for _, task in self.learned))

    @cached_property
    def seeds(self) -> frozenset[Any]:
        """The seeds that any condition has."""
        return frozenset(seed for group in self.groups for seed in by_seed(group))

    def lacking(self, asked: Mapping[str, Any]) -> list[str]:
        """The planned conditions that have what is asked, and no result."""
        return [one.label for one in self.absent if fits(asked, one.recipe)]

    def where(self, asked: Mapping[str, Any]) -> list[Group]:
        """The conditions whose recipe has what is asked."""
        return [group for group in self.groups if fits(asked, recipe_of(group))]

    def spread(self, group: Group, what: Quantity) -> Spread | None:
        """A number of a condition over its seeds, with its 95 % t interval; None where no seed has it."""
        values = [value for one in group.documents if (value := self.value(one, what)) is not None]
        return compare.spread(values) if values else None

    def value(self, document: Document, what: Quantity) -> float | None:
        """The number of one result, scores in points; None where it was not measured."""
        known = [task for data, task in self.learned if data == data_of(document)]
        found = _value(document, what, known)
        if found is None or what.over is None:
            return found
        base = _value(document, what.model_copy(update={"layer": what.over}), known)
        return found / base if base else None


def setting(groups: Sequence[Group], study: Study, planned: Sequence[Mapping[str, Any]] = ()) -> Setting:
    """The groups as a study's conditions, named by the keys that it speaks of and as many more as tell them apart.

    Networks that were read on other data too stand aside with it, unless all were. `planned` are the recipes of the
    study's cells.
    """
    own = [group for group in groups if on_own_data(group.documents[0])] or list(groups)
    lost = _lost(planned, [recipe_of(group) for group in own])
    spoken = dict.fromkeys(key for claim in study.claims for side in claim.sides for key in side)
    recipes = [*map(recipe_of, own), *lost]
    keys = telling(recipes, list(spoken))
    told = names(recipes, keys)
    rank = _ranks(recipes, keys)
    order = sorted(range(len(own)), key=lambda index: [rank[key, _shown(recipes[index], key)] for key in keys])
    absent = map(Absent, told[len(own) :], lost)
    learned = dict.fromkeys((data_of(one.documents[0]), task) for one in own for task in trained_on(one.documents[0]))
    elsewhere = tuple(group for group in groups if group not in own)
    return Setting(
        tuple(replace(own[index], label=told[index]) for index in order), tuple(learned), elsewhere, tuple(absent)
    )


def _lost(planned: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One planned recipe for each condition that is not `there`, told by the keys in which the planned ones differ."""
    flat = [compare.flatten(recipe) for recipe in planned]
    keys = _differing(flat)
    known = _kinds([compare.flatten(recipe) for recipe in there], keys)
    lost = {next(iter(_kinds([one], keys))): recipe for one, recipe in zip(flat, planned, strict=True)}
    return [recipe for kind, recipe in lost.items() if kind not in known]


def data_of(document: Document) -> Data:
    """The data set that a result is on."""
    data = document.recipe.get("data") or {}
    return str(data.get("name") or document.data_name), data.get("root")


def on_own_data(document: Document) -> bool:
    """Whether a result is on the data that its network was trained on."""
    trained = [entry.get("options") or {} for entry in document.history if entry.get("stage") == "pretrain"]
    return bool(trained) and (trained[-1].get("data"), trained[-1].get("root")) == data_of(document)


def by_seed(group: Group) -> dict[Any, Document]:
    """A condition's results by the seed of their recipe."""
    return {document.recipe.get("seed"): document for document in group.documents}


def recipe_of(group: Group) -> dict[str, Any]:
    """The recipe that a condition's seeds share."""
    return group.documents[0].recipe


def trained_on(document: Document) -> list[str]:
    """The tasks whose labels the network of a result was trained on; on other data none."""
    first = next((name for name, kind in document.tasks.items() if kind == "class"), None)
    return taught(document.recipe, first) if on_own_data(document) else []


# ---- names


def telling(recipes: Sequence[Mapping[str, Any]], first: Sequence[str]) -> list[str]:
    """The few dotted keys whose values tell all recipes apart, those of `first` before others."""
    flat = [compare.flatten(recipe) for recipe in recipes]
    differing = _differing(flat)
    spoken = [key for ask in first for key in differing if key == ask or key.startswith(f"{ask}.")]
    chosen: list[str] = []
    for key in dict.fromkeys([*spoken, *sorted(differing, key=_common_first)]):
        if len(_kinds(flat, chosen)) == len(recipes):
            break
        if len(_kinds(flat, [*chosen, key])) > len(_kinds(flat, chosen)):
            chosen.append(key)
    return chosen


def names(recipes: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """A short name for each recipe by its values at `keys`; one that all but one share is told of that one alone."""
    flat = [compare.flatten(recipe) for recipe in recipes]
    keys = sorted(keys, key=lambda key: not key.endswith(".name"))  # what it is, then how
    return [_name(one, flat, keys) or f"condition {number}" for number, one in enumerate(flat, start=1)]


def _ranks(recipes: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[tuple[str, str], tuple[float, int]]:
    """Where each value of each key stands: numbers by their size, others as they come."""
    ranks: dict[tuple[str, str], tuple[float, int]] = {}
    for key in keys:
        for place, recipe in enumerate(recipes):
            value = at(recipe, key)
            size = float(value) if isinstance(value, int | float) else 0.0
            ranks.setdefault((key, _shown(recipe, key)), (size, place))
    return ranks


def _shown(recipe: Mapping[str, Any], key: str) -> str:
    return compare.shown_value(at(recipe, key))


def _common_first(key: str) -> tuple[bool, int]:
    """The order in which keys are tried: names of choices before their options, short keys before long ones."""
    return not key.endswith(".name"), key.count(".")


def _differing(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [key for key in dict.fromkeys(key for one in flat for key in one) if _differs(flat, key)]
    return [key for key in found if key.split(".")[0] not in compare.ASIDE]


def _differs(flat: Sequence[Mapping[str, Any]], key: str) -> bool:
    return len({compare.shown_value(one.get(key, "")) for one in flat}) > 1


def _kinds(flat: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(compare.shown_value(one.get(key, "")) for key in keys) for one in flat}


def _name(one: Mapping[str, Any], flat: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    parts = []
    for key in keys:
        value = one.get(key, ABSENT)
        shared = Counter(compare.shown_value(other.get(key, "")) for other in flat)
        usual = len(flat) > 2 and shared[compare.shown_value(value)] == len(flat) - 1
        if value is not ABSENT and value is not None and not (usual and len(keys) > 1):
            parts.append(shown(value) if key.endswith("name") else f"{key.split('.')[-1]} {shown(value)}")
    return ", ".join(parts)


def shown(value: Any) -> str:
    """A recipe's value in few characters: widths as `256-128`, crops as `2 of 32 px`."""
    if isinstance(value, list) and all(isinstance(item, Mapping) and "count" in item for item in value):
        return " + ".join(f"{item['count']} of {item['size']} px" for item in value)
    if isinstance(value, list):
        return "-".join(map(compare.shown_value, value))
    return compare.shown_value(value)


# ---- numbers


def _value(document: Document, what: Quantity, sources: Sequence[str]) -> float | None:
    if what.measure is not None:
        return _measured(document, what)
    tasks = [what.task] if what.task else tasks_of(document, what.tasks or "all", sources)
    values = [_score(document, task, what) for task in tasks]
    known = [value for value in values if value is not None]
    return 100 * fmean(known) if known and len(known) == len(values) else None


def tasks_of(document: Document, asked: str | Sequence[str], sources: Sequence[str]) -> list[str]:
    """The tasks that `all`, `transfer` or a list mean."""
    if not isinstance(asked, str):
        return list(asked)
    return [task for task in document.metrics if asked == "all" or task not in sources]


def _measured(document: Document, what: Quantity) -> float | None:
    block = _block(document, what.layer)
    rows = [row for row in document.measures if (row.layer, row.measure) == (block, what.measure)]
    fitting = [row for row in rows if (row.readout == what.readout if what.readout else document.is_main(row))]
    return next((row.value for row in (fitting or rows[:1])), None)


def _score(document: Document, task: str, what: Quantity) -> float | None:
    place = _place(document, task, what)
    if place is None:
        return None
    rows = [row for row in _rows(document, task, what) if (row.layer, row.readout) == (place.layer, place.readout)]
    return (rows[0].untrained if what.untrained else rows[0].value) if rows else None


def _rows(document: Document, task: str, what: Quantity) -> list[Score]:
    metric, probe = what.metric or document.metrics.get(task), what.probe or "linear"
    rows = [row for row in document.results if (row.task, row.probe, row.metric) == (task, probe, metric)]
    if what.control is None:
        return [row for row in rows if row.plain and not (row.options or "").startswith("scale=")]
    return [row for row in rows if f"{row.options} ".startswith(f"{what.control} ") and row.shift is None]


def _place(document: Document, task: str, what: Quantity) -> Place | None:
    if what.layer == "best":
        return next((best for best in document.best if best.task == task), None)
    block = _block(document, what.layer)
    if block is None:
        return None
    return Place(layer=block, readout=what.readout or document.readouts.get(block, ""))


def _block(document: Document, layer: str | None) -> str | None:
    try:
        return resolve(layer, document.layers) if layer is not None else None
    except (UsageError, IndexError):
        return layer if layer == "pixels" else None


def named(what: Quantity) -> str:
    """A number in words: `hue at backbone`, `RankMe at projector`, `mean of the transfer tasks at backbone`."""
    if what.measure is not None:
        about = words.measure_name(what.measure)
    elif what.task is not None:
        about = what.task
    elif isinstance(what.tasks, tuple):
        about = f"mean of {words.listed(what.tasks)}"
    else:
        about = "mean of all tasks" if what.tasks == "all" else "mean of the transfer tasks"
    over = f" ÷ at {what.over}" if what.over else ""
    probe = f", {words.probe_name(what.probe)}" if what.probe not in (None, "linear") else ""
    control = f", {what.control}" if what.control else ""
    readout = f" ({what.readout})" if what.readout else ""
    drawn = ", untrained" if what.untrained else ""
    return f"{about} at {what.layer}{readout}{over}{probe}{control}{drawn}"
