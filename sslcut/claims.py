"""What a study claims: sentences about a sweep's cells, each with the numbers that bear it out. No torch.

A claim's effect, seed by seed, is the value in the cells `where` less what it is compared with (`less`), less the same
difference of another number (`than`), less all this in the cells `against`. Scores count in points (metric × 100),
measures as they are.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from sslcut.choices import Section, told, wanted
from sslcut.registry import uses_labels

Figure = Literal["layers", "width", "strength", "head", "transfer"]
ABOUT = ("task", "tasks", "measure")  # what a quantity is about: one of these
OF_SCORES = ("probe", "metric", "control", "untrained")  # how a score was reached, which a measure is not


def _control(name: str) -> str:
    if not re.fullmatch(r"pca=[1-9]\d*|scale=(raw|standard)", name):
        raise wanted("`pca=` and a width, or `scale=raw`")
    return name


class Quantity(Section):
    """A number of each cell: the score of a task, the mean over several, or a label-free measure, at one layer.

    `tasks: transfer` are those that no cell of the sweep was trained on. `layer` is a block's name, `backbone`,
    `projector`, or `best` (the task's best place by validation). `over` divides by the same number at that layer.
    `control` asks for the scores under a control of the probe: `pca=16`, the common width, or `scale=raw`; `untrained`
    for those of the network as it was drawn.
    """

    task: str | None = None
    tasks: Literal["all", "transfer"] | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    measure: str | None = None
    layer: str | None = None
    readout: str | None = None
    probe: str | None = None
    metric: Literal["accuracy", "balanced_accuracy", "r2"] | None = None
    control: Annotated[str, AfterValidator(_control)] | None = None
    over: str | None = None
    untrained: bool | None = None

    @model_validator(mode="after")
    def _about_one_thing(self) -> "Quantity":
        named = [key for key in ABOUT if getattr(self, key) is not None]
        if len(named) > 1:
            raise told(f"a claim's number is about {' and '.join(named)} at once", "leave all but one of them out")
        if self.measure is not None and "best" in (self.layer, self.over):
            raise told(f"no layer is the best by `{self.measure}`", "name a layer: only a task has a best one")
        if self.measure is not None and self.layer == "pixels":
            raise told(f"`{self.measure}` is not taken of the raw pixels", "name a layer: only scores have pixels")
        if self.measure is not None and (key := next((key for key in OF_SCORES if getattr(self, key)), None)):
            raise told(f"`{self.measure}` is no score and has no `{key}`", f"leave `{key}` out")
        return self

    def changed(self, by: "Quantity") -> "Quantity":
        """The same number with what `by` says in its place."""
        ours, theirs = self.model_dump(exclude_none=True), by.model_dump(exclude_none=True)
        if any(key in theirs for key in ABOUT):
            gone = (*ABOUT, *OF_SCORES) if "measure" in theirs else ABOUT
            ours = {key: value for key, value in ours.items() if key not in gone}
        return Quantity(**{**ours, **theirs})

    @property
    def named(self) -> tuple[str, ...]:
        """The tasks that it names, which the data must have."""
        return self.tasks if isinstance(self.tasks, tuple) else (self.task,) if self.task is not None else ()

    @property
    def in_points(self) -> bool:
        """Whether it is a score, told in points, and no measure or ratio."""
        return self.measure is None and self.over is None


class Claim(Section):
    """One sentence, and the numbers that it is about; its direction is a positive effect.

    `smallest` is the smallest effect that counts, in points or, of a measure, in its own unit.
    """

    says: Annotated[str, Field(min_length=1)]
    value: Quantity
    less: Quantity | float | None = None
    than: Quantity | None = None
    where: dict[str, Any] = {}
    against: dict[str, Any] | None = None
    smallest: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        if self.value.layer is None or all(getattr(self.value, key) is None for key in ABOUT):
            raise told(f"a claim's `value` needs a `layer`, and one of {', '.join(ABOUT)}", "write both")
        try:
            self.terms  # noqa: B018  what `less` and `than` change must leave a number that there can be
        except ValidationError as error:
            raise told(**error.errors()[0]["ctx"]) from error
        if self.less is None and self.than is None and not self.against:
            raise told("a claim compares nothing", "write `less` (in the same cells) or `against` (in others)")
        if not self.in_points and self.smallest is None:
            raise told("a claim about a measure or a ratio needs its own `smallest`", "the smallest effect that counts")
        return self

    @property
    def terms(self) -> list[tuple[int, Quantity | float]]:
        """The numbers whose signed sum is the effect in one cell: the value, less `less`, less the same of `than`."""
        pair: list[tuple[int, Quantity | float]] = [(1, self.value)]
        if self.less is not None:
            pair.append((-1, self.value.changed(self.less) if isinstance(self.less, Quantity) else self.less))
        if self.than is None:
            return pair
        other = [(-sign, term.changed(self.than) if isinstance(term, Quantity) else term) for sign, term in pair]
        return [*pair, *other]

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that it reads of each cell."""
        return [term for _, term in self.terms if isinstance(term, Quantity)]

    @property
    def in_points(self) -> bool:
        """Whether the effect is told in points."""
        return all(what.in_points for what in self.quantities)

    @property
    def sides(self) -> list[dict[str, Any]]:
        """What the cells that it compares have in common: those of `where`, then those of `against`."""
        return [self.where, *([self.where | self.against] if self.against else [])]


class Study(Section):
    """What a sweep is to show: the figure that leads its report, its claims, and further numbers for the table.

    `smallest` is the smallest effect that counts, in points, where a claim says no other.
    """

    figure: Figure = "layers"
    smallest: Annotated[float, Field(ge=0)] = 1.0
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]
    table: tuple[Quantity, ...] = ()

    def smallest_of(self, claim: Claim) -> float:
        """The smallest effect of a claim that counts."""
        return self.smallest if claim.smallest is None else claim.smallest


def study_of(recipe: Mapping[str, Any]) -> Study | None:
    """The study of a recipe's plain data; None where it has none, or one that this sslcut cannot read."""
    try:
        return Study.model_validate_json(json.dumps(recipe["study"])) if recipe.get("study") else None
    except ValidationError:
        return None


# ---- cells


def fits(asked: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe has what is asked, dotted key by dotted key; a bare name stands for `{name: …}`."""
    return all(_agrees(value, at(recipe, key)) for key, value in asked.items())


def at(recipe: Mapping[str, Any], key: str) -> Any:
    """A recipe's value at a dotted key; None where there is none."""
    value: Any = recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _agrees(asked: Any, found: Any) -> bool:
    if isinstance(asked, str) and isinstance(found, Mapping):
        return bool(found.get("name") == asked)
    if isinstance(asked, Mapping) and isinstance(found, Mapping):
        return all(key in found and _agrees(value, found[key]) for key, value in asked.items())
    if isinstance(asked, list | tuple) and isinstance(found, list | tuple):
        return len(asked) == len(found) and all(map(_agrees, asked, found))
    return bool(asked == found) and isinstance(asked, bool) == isinstance(found, bool)


def taught(recipe: Mapping[str, Any], first: str | None = None) -> list[str]:
    """The tasks whose labels a recipe trains on: those that it names, else the data's `first` class task."""
    method, views = recipe.get("method") or {}, recipe.get("views") or {}
    task = method.get("task")
    found = [task or first] if uses_labels(method) else []
    found += [views.get("task") or task or first] if views.get("positives") == "label" else []
    return list(dict.fromkeys(task for task in found if task))
