"""Whether a sweep's cells could bear a study's claims out, told before any of them is trained. No torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from sslcut.claims import Claim, Quantity, Study, at, fits, study_of, taught
from sslcut.errors import UsageError, suggestion
from sslcut.marked import Marked, Problem
from sslcut.names import resolve
from sslcut.registry import MEASURES

PIXELS = "pixels"  # what stands for a layer's name where the raw images are read
USUAL = ("avg", "cls", "mean", "vector")  # the read-outs that some block has whatever is asked
OTHER_SCALE = {"standard": "raw", "raw": "standard"}


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


def faults_of(text: Marked, study: Study, cells: Sequence[Cell], settled: Iterable[str] = ()) -> Iterator[Problem]:
    """What is wrong with claims, told from the recipe's text: keys, values and probes that no cell has.

    A value that no cell has is no fault where the command line has `settled` its key: the claim is then not measured. A
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
    """What a claim reads and no cell's `probe` measures."""
    learned = {task for recipe in recipes for task in taught(recipe)}
    for each in claim.quantities:
        found = [dict(_unmeasured(each, recipe["probe"], learned)) for recipe in recipes]
        for what, hint in found[0].items():
            if all(what in other for other in found):
                yield Problem(text.place(("study", "claims", index)), what, hint)


def _unmeasured(each: Quantity, probe: Mapping[str, Any], learned: set[str]) -> Iterator[tuple[str, str]]:
    """What a number needs and a recipe's `probe` does not have, and what to write."""
    if each.measure is not None:
        measures = [choice["name"] for choice in probe["measures"]]
        if each.measure in MEASURES and each.measure not in measures:
            hint = suggestion(each.measure, measures, "`probe.measures`")
            yield f"a claim speaks of the measure `{each.measure}`, which is not taken", hint
    else:
        yield from _unscored(each, probe, learned)
    readouts = list(dict.fromkeys([*probe["readouts"], *USUAL]))
    if each.readout is not None and each.readout not in readouts:
        hint = suggestion(each.readout, readouts, "`probe.readouts`")
        yield f"a claim speaks of the read-out `{each.readout}`, which is not taken", hint
    if PIXELS in (each.layer, each.over) and not probe["pixels"]:
        yield "a claim speaks of the raw pixels, which are not probed", "`probe.pixels: true`"


def _unscored(each: Quantity, probe: Mapping[str, Any], learned: set[str]) -> Iterator[tuple[str, str]]:
    missing = next((task for task in each.named if probe["tasks"] != "all" and task not in probe["tasks"]), None)
    if missing is not None:
        hint = suggestion(missing, probe["tasks"], "`probe.tasks`")
        yield f"a claim speaks of the task `{missing}`, which is not probed", hint
    if each.tasks == "transfer" and probe["tasks"] != "all" and learned.issuperset(probe["tasks"]):
        yield "a claim speaks of transfer, and every task that is probed is trained on", "probe another: `probe.tasks`"
    probes = [choice["name"] for choice in probe["probes"]]
    if (each.probe or "linear") not in probes:
        hint = suggestion(each.probe or "linear", probes, "`probe.probes`")
        yield f"a claim speaks of the probe `{each.probe or 'linear'}`, which does not run", hint
    if each.untrained and not probe["untrained"]:
        yield "a claim speaks of the untrained network, which is not probed", "`probe.untrained: true`"
    if each.control is not None:
        yield from _uncontrolled(each.control, probe)


def _uncontrolled(control: str, probe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind, _, value = control.partition("=")
    what = f"a claim speaks of the control `{control}`, "
    if kind == "pca":
        if "pca" not in probe["controls"]:
            yield f"{what}which does not run", "add pca to `probe.controls`"
        elif probe["common_width"] is not None and value != str(probe["common_width"]):
            yield f"{what}and all layers are read at {probe['common_width']}", f"`probe.common_width: {value}`"
    elif "raw" not in probe["controls"]:
        yield f"{what}which does not run", "add raw to `probe.controls`"
    elif value != OTHER_SCALE[probe["scale"]]:
        yield f"{what}which is the probe's own scale", f"write scale={OTHER_SCALE[probe['scale']]}"


def tasks_asked(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The tasks that a cell's recipe names for what comes after its training, each behind what names it."""
    asked, cut = recipe["probe"]["tasks"], recipe["guillotine"]["task"]
    yield from (("`probe.tasks`", task) for task in (() if asked == "all" else asked))
    if "guillotine" in recipe["stages"] and cut is not None:
        yield "`guillotine.task`", cut
    study = study_of(recipe)
    for claim in study.claims if study is not None else ():
        if any(fits(side, recipe) for side in claim.sides):
            yield from ((f"the claim “{claim.says}”", task) for each in claim.quantities for task in each.named)
    for each in study.table if study is not None else ():
        yield from (("`study.table`", task) for task in each.named)


def check_layers(recipe: Mapping[str, Any], names: Sequence[str], measured: Sequence[str]) -> None:
    """Raise UsageError for a layer of a claim that a cell's network, of blocks `names`, lacks or does not measure."""
    study = study_of(recipe)
    for claim in study.claims if study is not None else ():
        if not any(fits(side, recipe) for side in claim.sides):
            continue
        read = [layer for each in claim.quantities for layer in (each.layer, each.over)]
        for layer in (layer for layer in read if layer not in (None, "best", PIXELS)):
            try:
                block = resolve(str(layer), names)
            except UsageError as error:
                fault = error.faults[0]
                raise UsageError(f"the claim “{claim.says}” reads {fault.what}", hint=fault.hint) from error
            if block not in measured:
                what = f"the claim “{claim.says}” reads `{block}`, which is not measured"
                raise UsageError(what, hint=f"add it to `probe.layers`: {', '.join(measured)}")
