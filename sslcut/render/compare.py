"""What several results say together: how the runs differ, recipes over seeds, the cells of the atlas (no torch).

Two kinds of interval are kept apart: a single result's, from resampling test images, speaks of its checkpoint; one
over seeds, from Student's t, speaks of the recipe.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from sslcut.render import words
from sslcut.render.gather import Found, checkpoint_labels, in_several_ways
from sslcut.render.results import Best, Document, Place, Score

ASIDE = (
    "seed",
    "name",
    "stages",
    "sweep",
    "study",
    "extends",
    "from",
    "report",
    "guillotine",
    "description",
)  # what makes no other recipe
OF_THE_DATA = ("name", "size", "folds", "classes")  # what makes other data; how many images fall where, a seed may draw


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, the half-width of its 95 % t interval (none below two seeds), and the values."""

    mean: float
    half: float | None
    values: tuple[float, ...]

    @property
    def low(self) -> float | None:
        """Where the interval begins."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Where the interval ends."""
        return None if self.half is None else self.mean + self.half


@dataclass(frozen=True)
class Group:
    """Results whose recipes are equal but for the seed, measured in the same way on the same data."""

    label: str
    documents: tuple[Document, ...]

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(self.documents)


@dataclass(frozen=True)
class Cell:
    """One cell of the atlas: a checkpoint's best place for a task, against its reference."""

    checkpoint: str
    column: str
    best: Best
    keeps: bool
    depth: float | None  # blocks up to the best place ÷ blocks up to the reference; 1 at the reference

    @property
    def clear(self) -> bool:
        """Whether the gain's interval leaves 0 out."""
        return words.verdict(self.best) != "unclear"


def spread(values: Sequence[float]) -> Spread:
    """The mean of `values` with its t interval."""
    if len(values) < 2:
        return Spread(fmean(values), None, tuple(values))
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    quantile = float(stdtrit(len(values) - 1, 0.975))
    return Spread(fmean(values), quantile * stdev(values) / sqrt(len(values)), tuple(values))


def flatten(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe as dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def differences(documents: Sequence[Document]) -> dict[str, list[Any]]:
    """Dotted recipe key → its value in each document, for the keys whose values are not all the same."""
    flat = [flatten(document.recipe) for document in documents]
    keys = dict.fromkeys(
        key for recipe in flat for key in recipe if key.split(".")[0] not in ("report", "sweep", "study")
    )
    columns = {key: [recipe.get(key) for recipe in flat] for key in keys}
    return {key: values for key, values in columns.items() if len({shown_value(value) for value in values}) > 1}


def groups(found: Sequence[Found], labels: Sequence[str]) -> list[Group]:
    """The results by recipe, seeds together; a group is labelled by what sets its recipe apart."""
    by_recipe: dict[str, dict[Any, tuple[str, Document]]] = {}
    for one, label in zip(found, labels, strict=True):
        seed = one.document.recipe.get("seed")
        by_recipe.setdefault(_recipe_key(one.document), {}).setdefault(seed, (label, one.document))
    telling = [key for key in differences([one.document for one in found]) if key.split(".")[0] not in ASIDE]
    many_sets = len({one.document.data_label for one in found}) > 1
    made = []
    for members in by_recipe.values():
        documents = tuple(document for _, document in members.values())
        recipe = flatten(documents[0].recipe)
        parts = [f"{_short(key)}={shown_value(recipe.get(key))}" for key in telling]
        parts += [documents[0].data_label] if many_sets else []
        made.append((", ".join(parts), next(iter(members.values()))[0], documents))
    names = [label for label, _, _ in made]
    return [Group(label if label and names.count(label) == 1 else first, documents) for label, first, documents in made]


def _short(key: str) -> str:
    """A dotted key's last part; of `method.name` the method."""
    parts = key.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def _recipe_key(document: Document) -> str:
    """What two results must share to be seeds of one recipe: recipe, history, data, layers and reference."""
    flat = {key: value for key, value in flatten(document.recipe).items() if key.split(".")[0] not in ASIDE}
    stages = [[entry.get("stage"), _but_seed(entry.get("options"))] for entry in document.history]
    if not document.recipe:
        stages.append([document.checkpoint.identity, None])
    reference = document.reference.model_dump() if document.reference else None
    data = {key: document.data.get(key) for key in OF_THE_DATA}
    return json.dumps([flat, data, document.layers, reference, stages], sort_keys=True, default=str)


def _but_seed(options: Any) -> Any:
    return {key: value for key, value in options.items() if key != "seed"} if isinstance(options, Mapping) else options


def shown_value(value: Any) -> str:
    """A recipe's value as text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


# ---- seeds


def over_seeds(group: Group, task: str) -> dict[tuple[str, str], tuple[Spread, Spread | None, Spread | None]]:
    """Place → (score, gain over the reference, validation score) over a group's seeds, for places that all have."""
    found: dict[tuple[str, str], list[Score]] = {}
    for document in group.documents:
        if task in document.metrics:
            for row in document.scores(task):
                found.setdefault((row.layer, row.readout), []).append(row)
    whole = {place: rows for place, rows in found.items() if len(rows) == group.seeds}
    return {
        place: (
            spread([row.value or 0.0 for row in rows]),
            _spread_of([row.gain for row in rows]),
            _spread_of([row.validation for row in rows]),
        )
        for place, rows in whole.items()
    }


def _spread_of(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return spread(known) if known and len(known) == len(values) else None


def chosen_over_seeds(group: Group, task: str) -> tuple[Place, Spread, Spread | None] | None:
    """The place with the highest mean validation score over the seeds: it, its test score and its gain.

    Where several share it (a map's average is what the pool gives), the reference stands for them.
    """
    told = {place: entry for place, entry in over_seeds(group, task).items() if entry[2] is not None}
    told = {place: entry for place, entry in told.items() if place[0] in group.documents[0].layers}
    if not told:
        return None
    reference = group.documents[0].reference
    own = (reference.layer, reference.readout) if reference is not None else None

    def rank(place: tuple[str, str]) -> tuple[float, bool]:
        validated = told[place][2]
        return round(validated.mean if validated else 0.0, 6), place == own

    layer, readout = max(told, key=rank)
    score, gain, _ = told[layer, readout]
    return Place(layer=layer, readout=readout), score, gain


def seed_sentence(group: Group) -> str:
    """How many tasks gain at validation's choice over a group's seeds, by the t interval of the paired gain."""
    tasks = list(group.documents[0].metrics)
    chosen = [chosen_over_seeds(group, task) for task in tasks]
    better = [task for task, found in zip(tasks, chosen, strict=True) if found and _above(found[2])]
    told = f": {words.listed([words.code(task) for task in better])}" if better else ""
    return (
        f"Recipe {words.code(group.label)}, {group.seeds} seeds: the layer that validation chooses beats the "
        f"reference on {len(better)} of {words.counted(len(tasks), 'task')}{told}."
    )


def _above(gain: Spread | None) -> bool:
    return gain is not None and gain.low is not None and gain.low > 0


# ---- the atlas


def cells(found: Sequence[Found], called: Mapping[str, str] | None = None) -> list[Cell]:
    """Every checkpoint's best place for every task of every data set; `called` gives names by identity."""
    many_sets = len({one.document.data_label for one in found}) > 1
    names: dict[tuple[str, str], str] = {}
    several = in_several_ways([one.document.checkpoint.identity for one in found], found)
    made = []
    for one, label in zip(found, checkpoint_labels(found), strict=True):
        document = one.document
        identity = document.checkpoint.identity
        row = identity, document.how if identity in several else ""
        checkpoint = names.setdefault(row, (called or {}).get(identity, label))
        for best in document.best:
            column = f"{document.data_label}: {best.task}" if many_sets else best.task
            keeps = document.is_reference(best)
            made.append(Cell(checkpoint, column, best, keeps, _depth(document, best)))
    return made


def _depth(document: Document, best: Best) -> float | None:
    if document.reference is None or not {document.reference.layer, best.layer} <= set(document.layers):
        return None
    return (document.layers.index(best.layer) + 1) / (document.layers.index(document.reference.layer) + 1)


def summary(made: Sequence[Cell], found: Sequence[Found], grouped: Sequence[Group]) -> words.Answer:
    """The leading sentence for several results, and what each recipe with several seeds says."""
    checkpoints = len({one.document.checkpoint.identity for one in found})
    sets = len({one.document.data_label for one in found})
    what = f"{words.counted(checkpoints, 'checkpoint')} on {words.counted(sets, 'data set')}"
    if not made:
        return words.Answer("none", f"{what[0].upper()}{what[1:]}: no labelled results to compare.")
    cuts = [words.verdict(cell.best) for cell in made if not cell.keeps]
    better, kept = cuts.count("better"), len(made) - len(cuts)
    counts = {"gain by a cut": better, "are not clear": cuts.count("unclear"), "lose by it": cuts.count("worse")}
    parts = [f"{count} {told}" for told, count in {**counts, "keep the reference": kept}.items() if count]
    text = f"{what}: of {words.counted(len(made), 'pair')} of checkpoint and task, {words.listed(parts)}."
    spoken = tuple(seed_sentence(group) for group in grouped if group.seeds > 1)
    return words.Answer("cut" if better else "keep", text, spoken)
