"""What a study claims: sentences about a sweep's cells, each with the numbers that bear it out. No torch.

A claim's effect, seed by seed, is the value in the cells `where` less what it is compared with (`less`), less the same
difference of another number (`than`), less all this in the cells `against`. Scores count in points (metric × 100),
measures as they are.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, ValidationError, model_validator

from sslcut.choices import Section, told
from sslcut.errors import UsageError, suggestion
from sslcut.marked import Marked, Problem
from sslcut.names import resolve
from sslcut.registry import MEASURES

Figure = Literal["layers", "width", "strength", "head", "transfer"]
ABOUT = ("task", "tasks", "measure")  # what a quantity is about: one of these


class Quantity(Section):
    """A number of each cell: the score of a task, the mean over several, or a label-free measure, at one layer.

    `tasks: transfer` are those that no cell of the sweep was trained on. `layer` is a block's name, `backbone`,
    `projector`, or `best` (the task's best place by validation). `over` divides by the same number at that layer.
    `control` asks for the scores under a control of the probe, such as `pca=16`; `untrained` for those of the network
    as it was drawn.
    """

    task: str | None = None
    tasks: Literal["all", "transfer"] | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    measure: str | None = None
    layer: str | None = None
    readout: str | None = None
    probe: str | None = None
    metric: str | None = None
    control: str | None = None
    over: str | None = None
    untrained: bool | None = None

    @model_validator(mode="after")
    def _about_one_thing(self) -> "Quantity":
        named = [key for key in ABOUT if getattr(self, key) is not None]
        if len(named) > 1:
            raise told(f"a claim's number is about {' and '.join(named)} at once", "leave all but one of them out")
        if self.measure is not None and self.layer == "best":
            raise told(f"no layer is the best by `{self.measure}`", "name a layer: only a task has a best one")
        return self

    def changed(self, by: "Quantity") -> "Quantity":
        """The same number with what `by` says in its place."""
        ours, theirs = self.model_dump(exclude_none=True), by.model_dump(exclude_none=True)
        if any(key in theirs for key in ABOUT):
            ours = {key: value for key, value in ours.items() if key not in ABOUT}
        return Quantity(**{**ours, **theirs})

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


# ---- faults


class Cell(Protocol):
    """What the claims need to know of a sweep's cell."""

    @property
    def overrides(self) -> Mapping[str, Any]:
        """What the sweep sets in it."""
        ...

    @property
    def recipe(self) -> Any:
        """Its recipe."""
        ...


def faults(text: Marked, study: Study, cells: Sequence[Cell], settled: Iterable[str] = ()) -> Iterator[Problem]:
    """What is wrong with claims, told from the recipe's text: keys, values and probes that no cell has.

    A value that no cell has is no fault where the command line has `settled` its key: the claim is then undecided. A
    recipe without cells is one of a sweep's, and its claims are the sweep's.
    """
    recipes = [cell.recipe.dump() for cell in cells]
    swept = list(dict.fromkeys(key for cell in cells for key in cell.overrides))
    closed = set(settled)
    for index, claim in enumerate(study.claims if cells else ()):
        yield from _cell_faults(text, index, claim, recipes, swept, closed)
        yield from _probe_faults(text, index, claim, recipes)


def _cell_faults(
    text: Marked, index: int, claim: Claim, recipes: Sequence[Mapping[str, Any]], swept: Sequence[str], closed: set[str]
) -> Iterator[Problem]:
    for name, asked in (("where", claim.where), ("against", claim.against or {})):
        for key in asked:
            if all(at(recipe, key) is None for recipe in recipes):
                place = text.place(("study", "claims", index, name, key))
                yield Problem(place, f"a claim speaks of `{key}`, which no cell has", suggestion(key, swept, "swept"))
                return
    found = [[recipe for recipe in recipes if fits(side, recipe)] for side in claim.sides]
    place = text.place(("study", "claims", index))
    if any(not side for side in found) and closed.isdisjoint(claim.sides[-1]):
        asked = next(side for side, cells in zip(claim.sides, found, strict=True) if not cells)
        told_of = ", ".join(f"{key}: {value}" for key, value in asked.items())
        yield Problem(place, f"no cell of the sweep has {{{told_of}}}", "a claim speaks of cells that the sweep makes")
    elif claim.against and any(recipe in found[1] for recipe in found[0]):
        yield Problem(place, "a claim compares cells with themselves", "name in `where` what `against` changes")


def _probe_faults(text: Marked, index: int, claim: Claim, recipes: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    probe = recipes[0]["probe"]
    place = text.place(("study", "claims", index))
    for each in claim.quantities:
        named = [each.task] if each.task else each.tasks if isinstance(each.tasks, tuple) else ()
        if probe["tasks"] != "all" and (missing := next((task for task in named if task not in probe["tasks"]), None)):
            hint = suggestion(missing, probe["tasks"], "`probe.tasks`")
            yield Problem(place, f"a claim speaks of the task `{missing}`, which is not probed", hint)
        measures = [choice["name"] for choice in probe["measures"]]
        if each.measure in MEASURES and each.measure not in measures:
            hint = suggestion(str(each.measure), measures, "`probe.measures`")
            yield Problem(place, f"a claim speaks of the measure `{each.measure}`, which is not taken", hint)
        if each.untrained and not probe["untrained"]:
            yield Problem(
                place, "a claim speaks of the untrained network, which is not probed", "`probe.untrained: true`"
            )
        probes = [choice["name"] for choice in probe["probes"]]
        if each.measure is None and (each.probe or "linear") not in probes:
            hint = suggestion(each.probe or "linear", probes, "`probe.probes`")
            yield Problem(place, f"a claim speaks of the probe `{each.probe or 'linear'}`, which does not run", hint)


def check_layers(recipe: Mapping[str, Any], names: Sequence[str], measured: Sequence[str]) -> None:
    """Raise UsageError for a layer of a claim that a cell's network, of blocks `names`, lacks or does not measure."""
    study = study_of(recipe)
    for claim in study.claims if study is not None else ():
        if not any(fits(side, recipe) for side in claim.sides):
            continue
        layers = [
            layer for each in claim.quantities for layer in (each.layer, each.over) if layer not in (None, "best")
        ]
        for layer in layers:
            if (block := resolve(str(layer), names)) not in measured:
                what = f"the claim “{claim.says}” reads `{block}`, which is not measured"
                raise UsageError(what, hint=f"add it to `probe.layers`: {', '.join(measured)}")
