"""What a results file says about where to read: its recommendation, and the earliest layer that is good enough.

Reads the JSON document alone: no torch.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sslcut.errors import UsageError, suggestion

Results = Mapping[str, Any]
CONTROLS = ("pca=", "scale=")  # how the options of a row begin whose features were projected or scaled otherwise
UNNAMED = ("avg", "cls", "vector")  # the read-outs that go without saying: no layer has two of them


def controlled(options: str | None) -> bool:
    """Whether a row's options say that its features were not read as the probe reads them."""
    return (options or "").startswith(CONTROLS)


def label(layer: str, readout: str) -> str:
    """A layer and its read-out in words: `layer4.0`, or `layer4.0 grid2`."""
    return layer if readout in UNNAMED else f"{layer} {readout}"


def best(results: Results, task: str | None = None) -> tuple[str, str, str]:
    """The layer and read-out that the results recommend, for all tasks together or for one, and why.

    Raises UsageError where the results hold no answer, or do not know the task.
    """
    _need_answer(results)
    if task is None:
        found = results["recommended"]
        return found["layer"], found["readout"], found["why"]
    found = _best_row(results, task)
    return found["layer"], found["readout"], reason(results["reference"], found, found["among"], f"`{task}`")


def reason(reference: Mapping[str, str], found: Mapping[str, Any], among: list[str], what: str) -> str:
    """Why a layer is recommended, in a sentence; `among` are the labels of those that may be the best for `what`."""
    ours, base = label(found["layer"], found["readout"]), label(reference["layer"], reference["readout"])
    if ours == base:
        return f"no layer is surely better than the reference `{base}` for {what}"
    if len(among) == 1:
        return f"`{ours}` is better than the reference `{base}` and every other layer for {what}"
    rest = f"{len(among)} places that may be the best for {what}"
    return f"`{ours}` is the earliest of the {rest}, and the reference `{base}` is not among them"


def smallest(results: Results, within: float, task: str | None = None) -> tuple[str, str]:
    """The earliest layer at most `within` points (metric × 100) worse than the reference, and its read-out.

    By the linear probe's validation score of `task`, or the mean over all tasks; of several read-outs of a layer that
    will do, the best. Raises UsageError where the results hold no labelled rows, or do not know the task.
    """
    _need_answer(results)
    if not within >= 0:
        raise UsageError(f"--within {within} is not a number of points", hint="write 0 or more, e.g. --within 0.5")
    chosen = [_best_row(results, task)] if task else results["best"]
    scores = _validation(results, {row["task"]: row["metric"] for row in chosen})
    base = scores[results["reference"]["layer"], results["reference"]["readout"]]
    enough = {place: value for place, value in scores.items() if 100 * (base - value) <= within + 1e-9}
    order = {layer: i for i, layer in enumerate(results["layers"])}
    return min(enough, key=lambda place: (order[place[0]], -enough[place]))


def _validation(results: Results, metrics: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """The mean validation score over the tasks of `metrics`, of each layer and read-out of the network."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in results["results"]:
        counts = row["probe"] == "linear" and row["fraction"] == 1.0 and metrics.get(row["task"]) == row["metric"]
        counts = counts and row.get("shift") is None and not controlled(row.get("options"))
        if counts and row["layer"] in results["layers"] and row["validation"] is not None:
            found.setdefault((row["layer"], row["readout"]), {})[row["task"]] = row["validation"]
    return {place: _mean(values.values()) for place, values in found.items() if len(values) == len(metrics)}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def known(results: Results) -> bool:
    """Whether the results say where to read: they do not without a linear probe of a labelled task."""
    return bool(results.get("best") and results.get("recommended"))


def _need_answer(results: Results) -> None:
    if not known(results):
        raise UsageError(
            "these results hold no linear probe of a labelled task: label-free rankings advise, they do not cut",
            hint="probe data with labels, or name the layer: --at LAYER",
        )


def _best_row(results: Results, task: str) -> Mapping[str, Any]:
    for row in results["best"]:
        if row["task"] == task:
            return row
    raise UsageError(f"unknown task `{task}`", hint=suggestion(task, [row["task"] for row in results["best"]], "tasks"))
