"""Whether another layer would be recommended where all are as wide, scaled otherwise or read from few labels."""

from collections.abc import Iterator

from sslcut.render import words
from sslcut.render.chart import (
    GREY,
    PALETTE,
    Figure,
    across,
    coloured,
    facets,
    hover,
    layer_of,
    scaled,
    slug,
    up,
)
from sslcut.render.figures import Row, shown, units
from sslcut.render.results import Answered, Document, Score
from sslcut.render.table import Table

PAIRWISE = "pca=pairwise"
CONCATENATED = "concat:last4"
AS_MEASURED = "as measured"


def control_name(control: str) -> str:
    """A control in words that follow `with`: `16 dimensions each`, `raw features`, `1 % of the labels`."""
    kind, _, value = control.partition("=")
    if control == PAIRWISE:
        return "the reference's width or less"
    if kind == "pca":
        return f"{value} dimensions each"
    if kind == "scale":
        return f"{'standardised' if value == 'standard' else value} features"
    return f"{100 * float(value):g} % of the labels"


def prose(document: Document) -> Iterator[str]:
    """Whether the recommendation changes under any control, and what the last blocks together would give."""
    chosen = document.recommended
    if chosen is not None and document.controls:
        where = words.place(document, chosen)
        changed = [one for one in document.controls if one.changes]
        stays = [control_name(one.control) for one in document.controls if not one.changes]
        kept = f"stays {where} with {words.listed(stays)}" if stays else ""
        moves = f"would be {words.listed([_change(document, one) for one in changed])}" if changed else ""
        yield f"The recommendation {', and '.join(filter(None, [kept, moves]))}."
    together = [row for task in document.metrics for row in document.scores(task) if row.layer == CONCATENATED]
    if together and document.reference is not None:
        better = [words.code(row.task) for row in together if words.verdict(row) == "better"]
        against = words.code(document.reference.layer)
        told = f"on {words.listed(better)}" if better else "on no task"
        yield f"The last four blocks together read better than {against} {told}; no cut gives them."


def _change(document: Document, one: Answered) -> str:
    return f"{words.place(document, one.recommended)} with {control_name(one.control)}"


def table(document: Document) -> Table | None:
    """A row a control: the place that would be recommended, its gain there, and the tasks whose best place changes."""
    if document.recommended is None or not document.controls:
        return None
    rows = [
        (
            control_name(one.control),
            document.place_name(one.recommended, full=True),
            "changes" if one.changes else "stays",
            words.number(one.recommended.gain, 3, sign=True)
            + words.interval(one.recommended.gain_low, one.recommended.gain_high, "log_odds"),
            ", ".join(_moved(document, one)) or words.DASH,
        )
        for one in document.controls
    ]
    columns = ("with", "recommended", "", "gain (mean log-odds, 95 %)", "tasks whose best place changes")
    return Table("The recommendation under each control", columns, tuple(rows))


def _moved(document: Document, one: Answered) -> Iterator[str]:
    usual = {best.task: (best.layer, best.readout) for best in document.best}
    for best in one.best:
        if usual.get(best.task) != (best.layer, best.readout):
            yield f"{best.task} → {document.place_name(best)}"


def gains(document: Document) -> Iterator[Figure]:
    """The gain of each layer over the reference under each control, a plot a task."""
    controls = [AS_MEASURED, *(one.control for one in document.controls)]
    for metric, all_tasks in units(document).items() if document.controls else ():
        tasks, rest = shown(all_tasks)
        rows = [row for task in tasks for control in controls for row in _gain_rows(document, task, control)]
        if not rows:
            continue
        names = list(dict.fromkeys(row["series"] for row in rows))
        colour = coloured(dict(zip(names, (GREY, *PALETTE * len(names)), strict=False)))
        told = hover(task="task", layer="layer", series="with", text="gain", width="width")
        x = across(document.layers)
        at = {"x": x, "y": up(), "color": colour}
        unit = "points" if words.is_share(metric) else words.metric_name(metric)
        yield Figure(
            f"{slug(metric)}-gain-under-controls",
            f"Gain over the reference under each control ({unit})",
            f"The linear probe at each layer's main read-out, against the reference under the same control.{rest}",
            f"Gains by layer for {words.listed(tasks)}, as measured and with {words.listed(names[1:])}.",
            facets(
                rows, "task", tasks,
                [
                    layer_of("line", None, at, strokeWidth=1.5),
                    layer_of("point", None, at | {"tooltip": told}, filled=True, size=34, opacity=1),
                ],
            ),
        )  # fmt: skip


def _gain_rows(document: Document, task: str, control: str) -> Iterator[Row]:
    for row in under(document, task, control):
        if row.gain is not None and document.is_main(row) and row.layer in document.layers:
            yield {
                "task": task, "layer": row.layer,
                "series": AS_MEASURED if control == AS_MEASURED else control_name(control),
                "value": scaled(row.gain, 100 if words.is_share(row.metric) else 1), "text": words.gained(row),
                "width": row.dim if row.dim is not None else words.DASH,
            }  # fmt: skip


def under(document: Document, task: str, control: str) -> list[Score]:
    """A task's linear scores under a control, or as they are measured, in the network's order."""
    if control == AS_MEASURED:
        return document.scores(task)
    if control.startswith("fraction="):
        share = float(control.partition("=")[2])
        return document.linear(task, lambda row: row.fraction == share and not row.setting)
    if control != PAIRWISE:
        return document.linear(task, lambda row: row.whole and row.setting == control)
    widths = {(row.layer, row.readout): row.dim for row in document.scores(task)}
    base = next((width for row, width in widths.items() if row == _reference(document)), None)
    pair = {key: _paired(width, base) for key, width in widths.items()}
    return document.linear(task, lambda row: row.whole and row.setting == pair.get((row.layer, row.readout)))


def _reference(document: Document) -> tuple[str, str]:
    place = document.reference
    return (place.layer, place.readout) if place is not None else ("", "")


def _paired(width: int | None, base: int | None) -> str:
    """The setting under which a layer and the reference have one width."""
    return "" if width is None or base is None or width == base else f"pca={min(width, base)}"
