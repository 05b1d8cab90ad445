"""What a results file of the probe holds, and the questions that a report asks of it (no torch).

One document is one checkpoint on one data set: rows of scores, label-free measures and costs, each a flat record.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import PurePath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sslcut.answers import controlled

NAMED_BY_FOLDER = ("folder", "table")  # data sets that are told apart by where they lie

Number = float | None
PLAIN, BALANCED = "accuracy", "balanced_accuracy"
VIEWS = "views"  # the shift of rows that say what a layer still knows of how a view was made


class _Part(BaseModel):
    """Unknown keys are passed over, so that a later sslcut may add some; numbers are finite or null."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Place(_Part):
    """Where a network is read: a block and its read-out."""

    layer: str
    readout: str = ""


class Score(Place):
    """One number of one probe on the test images: a fraction (accuracy) or R², with its interval and paired gain."""

    task: str
    probe: str
    options: str | None = None
    metric: str
    value: Number = None
    low: Number = None
    high: Number = None
    gain: Number = None
    gain_low: Number = None
    gain_high: Number = None
    n: int | None = None
    n_train: int | None = None
    validation: Number = None
    untrained: Number = None
    dim: int | None = None
    fraction: Number = None
    shift: str | None = None
    seed: int | None = None

    @property
    def plain(self) -> bool:
        """Whether the probe saw every label, the test set as it is and the features as the probe reads them."""
        return self.whole and not self.setting and not self.projected

    @property
    def whole(self) -> bool:
        """Whether the probe saw every label and the test set as it is."""
        return self.fraction in (None, 1.0) and self.shift is None

    @property
    def setting(self) -> str:
        """The control under which the features were read, such as `pca=16`; empty without one."""
        return (self.options or "").split()[0] if controlled(self.options) else ""

    @property
    def joint(self) -> bool:
        """Whether the number is of several tasks together, the mean of their log-odds."""
        return self.metric == "log_odds"

    @property
    def projected(self) -> bool:
        """Whether the features were first projected to the width that all layers share."""
        return "pca" in f"{self.readout} {self.probe} {self.options}".lower()


class Measure(Place):
    """One number that needs no label."""

    measure: str
    value: Number = None


class Cost(_Part):
    """What it takes to read at a block: everything up to it, for one image; seconds for 1000 images."""

    layer: str
    parameters: Number = None
    flops: Number = None
    seconds_per_1000: Number = None


class Best(Place):
    """What validation chose for one task, with the test score there, at the reference and at the network's end."""

    task: str
    probe: str = "linear"
    metric: str
    value: Number = None
    reference_value: Number = None
    end_value: Number = None
    gain: Number = None
    gain_low: Number = None
    gain_high: Number = None
    among: list[str | Place] = Field(default_factory=list)


class Recommended(Place):
    """The one place for all tasks together; the paired gain on their mean where the probe gave one."""

    why: str = ""
    gain: Number = None
    gain_low: Number = None
    gain_high: Number = None


class OfTask(Place):
    """The place that one task is best read at."""

    task: str


class Answered(_Part):
    """What would be recommended under a control, and whether that is another place than without it."""

    control: str
    recommended: Recommended
    changes: bool
    best: list[OfTask] = Field(default_factory=list)


class Viewed(_Part):
    """The views under which measures read the network: the policy with its options, and how strong it was."""

    policy: dict[str, Any]
    strength: float
    images: int | None = None
    views: int | None = None
    exact: bool | None = None


class Checkpoint(_Part):
    """Whose layers were measured."""

    identity: str
    name: str = ""


class Document(_Part):
    """A results file of format 1."""

    format: Literal[1]
    checkpoint: Checkpoint
    data: dict[str, Any] = Field(default_factory=dict)
    layers: list[str]
    tasks: dict[str, str] = Field(default_factory=dict)
    reference: Place | None = None
    viewed: Viewed | None = None
    results: list[Score] = Field(default_factory=list)
    measures: list[Measure] = Field(default_factory=list)
    cost: list[Cost] = Field(default_factory=list)
    best: list[Best] = Field(default_factory=list)
    recommended: Recommended | None = None
    controls: list[Answered] = Field(default_factory=list)
    recipe: dict[str, Any] = Field(default_factory=dict)
    history: list[dict[str, Any]] = Field(default_factory=list)
    model: Any = None
    versions: dict[str, Any] = Field(default_factory=dict)
    told_in: dict[str, str] = Field(default_factory=dict)  # task → metric, where a report tells several results alike

    @property
    def data_name(self) -> str:
        """The data set's name, or an empty string."""
        return str(self.data.get("name") or "")

    @property
    def data_label(self) -> str:
        """The data set as a reader would call it: its name, with which folder, table or set of a library it is."""
        given = self.recipe.get("data") or {}
        which = given.get("dataset") or (given.get("root") if self.data_name in NAMED_BY_FOLDER else None)
        return f"{self.data_name} {PurePath(str(which)).name}".strip() if which else self.data_name

    @property
    def how(self) -> str:
        """How it was probed, as one text: the recipe's `probe`, less what changes no number."""
        probe = self.recipe.get("probe")
        return json.dumps({**probe, "memory": None} if isinstance(probe, dict) else probe, sort_keys=True)

    @cached_property
    def metrics(self) -> dict[str, str]:
        """The metric by which each scored task is told, in the order of `tasks`."""
        chosen = {
            row.task: row.metric for row in reversed(self.results) if not row.joint and row.shift is None
        }  # the first row of a task wins
        chosen |= {best.task: best.metric for best in self.best}
        chosen |= {task: metric for task, metric in self.told_in.items() if task in chosen}
        order = [*self.tasks, *chosen]
        return {task: chosen[task] for task in dict.fromkeys(order) if task in chosen}

    @cached_property
    def readouts(self) -> dict[str, str]:
        """Each layer's main read-out: the first that the probe lists."""
        rows: Iterable[Place] = [row for row in [*self.results, *self.measures] if not _projected(row)]
        first: dict[str, str] = {}
        for row in rows:
            first.setdefault(row.layer, row.readout)
        return first

    @property
    def probes(self) -> list[str]:
        """The probes with plain scores, `linear` first."""
        named = dict.fromkeys(row.probe for row in self.results if row.plain)
        return sorted(named, key=lambda name: name != "linear")

    def is_main(self, place: Place) -> bool:
        """Whether a place is its layer's main read-out."""
        return self.readouts.get(place.layer) == place.readout

    def is_reference(self, place: Place) -> bool:
        """Whether a place is the published read-out that gains are measured from."""
        return (
            self.reference is not None
            and place.layer == self.reference.layer
            and place.readout in (self.reference.readout, "")
        )

    def scores(self, task: str, probe: str = "linear") -> list[Score]:
        """A task's plain scores by one probe in the task's metric, one a place, in the network's order."""
        return self._chosen(task, probe, lambda row: row.plain)

    def joint(self, probe: str) -> list[Score]:
        """The numbers that a probe gives for several tasks together, one a place."""
        return [row for row in self.results if row.joint and row.probe == probe and row.value is not None]

    def projected(self, task: str) -> list[Score]:
        """A task's linear scores at the width that most places share, in the network's order."""
        settings = [row.setting for row in self._by_task.get(task, ()) if row.projected and row.whole]
        common = max(dict.fromkeys(settings), key=settings.count, default="")
        return self._chosen(task, None, lambda row: row.projected and row.setting == common and row.whole)

    def linear(self, task: str, wanted: Callable[[Score], bool]) -> list[Score]:
        """A task's `wanted` linear scores on the test set as it is, in the task's metric and the network's order."""
        return self._chosen(task, "linear", lambda row: row.shift is None and wanted(row))

    def shifts(self, task: str, probe: str = "linear") -> dict[str, list[Score]]:
        """A task's scores on shifted test images by one probe, in the network's order, by the name of the shift."""
        mine = [row for row in self._by_task.get(task, ()) if row.shift not in (None, VIEWS)]
        names = dict.fromkeys(str(row.shift) for row in mine)
        return {name: self._chosen(task, probe, partial(_shifted_by, name)) for name in names}

    @cached_property
    def drawn(self) -> dict[str, list[Score]]:
        """What each place knows of a parameter by which its view was made, by the parameter's name."""
        found: dict[str, list[Score]] = {}
        for row in self.results:
            if row.shift == VIEWS and row.value is not None:
                found.setdefault(row.task.removeprefix("view."), []).append(row)
        return found

    @cached_property
    def _by_task(self) -> dict[str, list[Score]]:
        rows: dict[str, list[Score]] = {}
        for row in self.results:
            rows.setdefault(row.task, []).append(row)
        return rows

    def _chosen(self, task: str, probe: str | None, wanted: Callable[[Score], bool]) -> list[Score]:
        found: dict[tuple[str, str], Score] = {}
        for row in self._by_task.get(task, ()):
            fits = row.metric == self.metrics[task] and probe in (None, row.probe)
            if fits and row.value is not None and wanted(row):
                found.setdefault((row.layer, row.readout), row)
        order = {layer: index for index, layer in enumerate(self.layers)}
        return sorted(found.values(), key=lambda row: order.get(row.layer, len(order)))

    def score_at(self, task: str, place: Place | None) -> Score | None:
        """The linear score of a task at a place, where there is one."""
        found = [r for r in self.scores(task) if place and (r.layer, r.readout) == (place.layer, place.readout)]
        return found[0] if found else None

    def place_name(self, place: Place, *, full: bool = False) -> str:
        """`layer4.0`, with the read-out behind it where it is not the layer's main one, or where `full`."""
        told = place.readout and (full or not self.is_main(place)) and place.readout != "vector"
        return f"{place.layer} · {place.readout}" if told else place.layer


def _shifted_by(name: str, row: Score) -> bool:
    return row.shift == name


def _projected(row: Place) -> bool:
    return isinstance(row, Score) and row.projected


def told_alike(documents: Sequence[Document]) -> list[Document]:
    """The documents with one metric for each task: balanced accuracy where any of them chose that.

    Each result's own labels choose between the two, so that seeds of one recipe may differ, and their mean would be of
    neither.
    """
    chosen: dict[str, set[str]] = {}
    for document in documents:
        for task, metric in document.metrics.items():
            chosen.setdefault(task, set()).add(metric)
    mixed = {task: BALANCED for task, metrics in chosen.items() if metrics == {PLAIN, BALANCED}}
    if not mixed:
        return list(documents)
    return [Document.model_validate({**document.model_dump(), "told_in": mixed}) for document in documents]
