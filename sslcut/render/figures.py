"""The figures of one checkpoint on one data set: each a function from a results document to a Figure.

A figure whose numbers are missing is left out (the function gives none), so a report shows what there is.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from sslcut.render import words
from sslcut.render.chart import (
    BLUE,
    GREEN,
    GREY,
    MOST_FACETS,
    OCHRE,
    PALETTE,
    RED,
    Figure,
    Spec,
    across,
    coloured,
    down,
    facets,
    hover,
    layer_of,
    scaled,
    single,
    slug,
    up,
)
from sslcut.render.results import Document, Score

Row = dict[str, Any]
UNTRAINED = "untrained, linear probe"
VERDICTS = {"better": GREEN, "worse": RED, "unclear": GREY}


def units(document: Document) -> dict[str, list[str]]:
    """Metric → its tasks: accuracy and R² are never drawn on one scale."""
    metrics = document.metrics
    return {metric: [task for task in metrics if metrics[task] == metric] for metric in dict.fromkeys(metrics.values())}


def shown(tasks: Sequence[str]) -> tuple[list[str], str]:
    """The tasks that small multiples have room for, and what the caption says of the others."""
    left = len(tasks) - MOST_FACETS
    rest = f" The first {MOST_FACETS} of {len(tasks)} tasks are drawn; the tables hold all." if left > 0 else ""
    return list(tasks[:MOST_FACETS]), rest


# ---- scores by layer


def by_layer(document: Document) -> Iterator[Figure]:
    """Scores by layer, a plot a task: linear probe with intervals, other read-outs and probes, and the baselines."""
    for metric, all_tasks in units(document).items():
        tasks, rest = shown(all_tasks)
        rows = [row for task in tasks for row in _score_rows(document, task)]
        if not rows:
            continue
        name = words.metric_name(metric)
        unit = " (%)" if words.is_share(metric) else ""
        caption = (
            "Bars are 95 % intervals for this checkpoint. The shaded column is the reference; a ring marks what "
            f"validation chose. Each plot has its own scale.{rest}"
        )
        yield Figure(
            f"{slug(metric)}-by-layer",
            f"{name[0].upper()}{name[1:]} by layer{unit}",
            caption,
            f"{name} of each layer for {words.counted(len(tasks), 'task')}. {_ranges(document, tasks)}",
            facets(rows, "task", tasks, _score_layers(document, rows)),
        )


def _score_rows(document: Document, task: str) -> Iterator[Row]:
    chosen = next((best for best in document.best if best.task == task), None)
    for probe in document.probes:
        for row in document.scores(task, probe):
            main, linear = document.is_main(row), probe == "linear"
            if row.layer not in document.layers:
                if linear:
                    yield _score_row(document, row, words.outside_name(row.layer), drawn="level")
            elif main or linear:
                series = words.probe_name(probe) + ("" if main else f", {row.readout}")
                best = linear and chosen and (row.layer, row.readout) == (chosen.layer, chosen.readout)
                yield _score_row(document, row, series, drawn="line" if main else "point") | {"best": bool(best)}
    for row in document.scores(task):
        if row.untrained is not None and row.layer in document.layers and document.is_main(row):
            update = {"value": row.untrained, "low": None, "high": None}
            yield _score_row(document, row.model_copy(update=update), UNTRAINED, drawn="line")


def _score_row(document: Document, row: Score, series: str, *, drawn: str) -> Row:
    """A row of the plot; `drawn` is how: on a `line`, as a lone `point`, or as a `level` across the plot."""
    scale = 100 if words.is_share(row.metric) else 1
    return {
        "task": row.task,
        "layer": row.layer,
        "where": document.place_name(row, full=True),
        "series": series,
        "drawn": drawn,
        "baseline": series == UNTRAINED or drawn == "level",
        "value": scaled(row.value, scale),
        "low": scaled(row.low, scale),
        "high": scaled(row.high, scale),
        "text": words.scored(row),
        "reference": document.is_reference(row),
        "width": row.dim if row.dim is not None else words.DASH,
    }


def _score_layers(document: Document, rows: Sequence[Row]) -> list[Spec]:
    x, y = across(document.layers), up()
    names = [row["series"] for row in sorted(rows, key=lambda row: row["baseline"])]
    colour = coloured(_series_colours(names))
    told = hover(task="task", where="layer", series="measured by", text="score", width="width")
    at, dot = {"x": x, "y": y, "color": colour}, {"opacity": 1, "size": 40}
    ends = {"x": x, "y": up("low"), "y2": {"field": "high"}, "color": colour}
    inside = "datum.drawn !== 'level'"
    return [
        layer_of("rule", "datum.reference", {"x": x}, color=GREY, opacity=0.05, strokeWidth=14),
        layer_of("rule", "datum.drawn === 'level'", {"y": y, "color": colour, "tooltip": told}, strokeDash=[2, 3]),
        layer_of("line", "datum.drawn === 'line'", at, strokeWidth=1.75),
        layer_of("rule", f"{inside} && datum.low !== null", ends),
        layer_of("point", "datum.drawn === 'point'", at | {"tooltip": told}, filled=False, shape="diamond", **dot),
        layer_of("point", "datum.drawn === 'line'", at | {"tooltip": told}, filled=True, **dot),
        layer_of("point", "datum.best", {"x": x, "y": y}, size=170, strokeWidth=2, color=RED, opacity=1),
    ]


def _series_colours(names: Sequence[str]) -> dict[str, str]:
    """Blue for the linear probe, green for kNN, grey and ochre for baselines, the palette's next for the others."""
    fixed = {words.probe_name("linear"): BLUE, words.probe_name("knn"): GREEN, UNTRAINED: GREY, "raw pixels": OCHRE}
    free = cycle(colour for colour in PALETTE if colour not in fixed.values())
    return {name: fixed[name] if name in fixed else next(free) for name in dict.fromkeys(names)}


# ---- gains over the reference


def gains(document: Document) -> Iterator[Figure]:
    """The paired gain of every place over the reference with its interval, a plot a task."""
    if document.reference is None:
        return
    for metric, all_tasks in units(document).items():
        tasks, rest = shown(all_tasks)
        scores = [row for task in tasks for row in document.scores(task) if row.gain is not None]
        scores = [row for row in scores if not document.is_reference(row)]
        if not scores:
            continue
        order = list(dict.fromkeys(document.place_name(row) for row in _in_order(document, scores)))
        share = words.is_share(metric)
        unit = "points of accuracy" if share else words.metric_name(metric)
        reference = document.reference.layer
        yield Figure(
            f"{slug(metric)}-gain",
            f"Gain over {reference} ({unit})",
            f"Right of zero is better than the reference, with 95 % intervals for this checkpoint; hollow where the "
            f"interval holds zero.{rest}",
            f"Gain of each layer over {reference}, in {unit}. {_gain_text(document, tasks)}",
            facets(
                [_gain_row(document, row) for row in scores], "task", tasks, _gain_layers(order),
                cell=210, height=15 * len(order) + 8, rows=order,
            ),
        )  # fmt: skip


def _in_order(document: Document, scores: Sequence[Score]) -> list[Score]:
    order = {layer: index for index, layer in enumerate(document.layers)}
    return sorted(scores, key=lambda row: order.get(row.layer, len(order)))


def _gain_row(document: Document, row: Score) -> Row:
    scale = 100 if words.is_share(row.metric) else 1
    return {
        "task": row.task,
        "row": document.place_name(row),
        "where": document.place_name(row, full=True),
        "value": scaled(row.gain, scale),
        "low": scaled(row.gain_low, scale),
        "high": scaled(row.gain_high, scale),
        "verdict": words.verdict(row),
        "text": words.gained(row),
        "score": words.scored(row),
    }


def _gain_layers(order: Sequence[str]) -> list[Spec]:
    y, colour = down(order), coloured(VERDICTS, "verdict")
    axis = {"title": None, "tickCount": 4, "domain": False, "ticks": False, "grid": True, "labelFlush": False}
    x: Spec = {"field": "value", "type": "quantitative", "axis": axis}
    told = hover(task="task", where="layer", text="gain", score="score", verdict="than the reference")
    ends = {"x": x | {"field": "low"}, "x2": {"field": "high"}}
    shape = {
        "field": "verdict", "type": "nominal",
        "scale": {"domain": list(VERDICTS), "range": ["triangle-right", "triangle-left", "circle"]},
    }  # fmt: skip
    hollow = {"condition": {"test": "datum.verdict === 'unclear'", "value": 0}, "value": 1}
    points: Spec = {"x": x, "y": y, "color": colour, "stroke": colour, "shape": shape}
    points |= {"fillOpacity": hollow, "tooltip": told}
    return [
        {"mark": {"type": "rule", "strokeDash": [3, 3]}, "encoding": {"x": {"datum": 0, "type": "quantitative"}}},
        layer_of("rule", "datum.low !== null", ends | {"y": y, "color": colour}, strokeWidth=1.5),
        layer_of("point", None, points, filled=True, size=52, opacity=1, strokeWidth=1.5),
    ]


# ---- layers and tasks at once


def heat(document: Document) -> Iterator[Figure]:
    """Layers × tasks: the score as a number, and as a colour between the task's worst and best layer."""
    rows = [row for task in document.metrics for row in _heat_rows(document, task)]
    if not rows:
        return
    tasks, order = list(document.metrics), _rows_of(document)
    x_axis = {"title": None, "labelAngle": -40, "orient": "top", "domain": False, "ticks": False, "labelLimit": 110}
    gap: Spec = {"scale": {"paddingInner": 0.04}}
    x = {"field": "task", "type": "nominal", "sort": tasks, "axis": x_axis, **gap}
    y = down(order) | gap
    fill = {
        "field": "share", "type": "quantitative", "legend": None,
        "scale": {"domain": [0, 1], "range": ["#edf3fa", "#1f5fae"]},
    }  # fmt: skip
    told = hover(task="task", where="layer", text="score")
    ink = {"condition": {"test": "datum.share > 0.7", "value": "#ffffff"}, "value": "#1d2228"}
    layers = [
        layer_of("rect", None, {"x": x, "y": y, "color": fill, "tooltip": told}, cornerRadius=2),
        layer_of("text", None, {"x": x, "y": y, "text": {"field": "short"}, "color": ink}, fontSize=11, tooltip=None),
    ]
    yield Figure(
        "layers-by-tasks",
        "Which layer serves which task",
        "Accuracy in per cent, or R². The darkest cell of a column is the task's best on test images, the lightest its "
        "worst.",
        f"Scores of {len(order)} layers on {words.counted(len(tasks), 'task')}. {_ranges(document, tasks)}",
        single(
            rows, layers, width=max(160, min(900, 90 * len(tasks))), height=24 * len(order), least=112 + 34 * len(tasks)
        ),
    )


def _heat_rows(document: Document, task: str) -> Iterator[Row]:
    scores = [row for row in document.scores(task) if row.value is not None]
    values = [row.value or 0.0 for row in scores]
    low, spread = min(values, default=0.0), max(values, default=0.0) - min(values, default=0.0)
    for row, value in zip(scores, values, strict=True):
        digits, scale = (1, 100) if words.is_share(row.metric) else (2, 1)
        yield {
            "task": task,
            "row": document.place_name(row),
            "where": document.place_name(row, full=True),
            "share": round((value - low) / spread, 3) if spread else 1,
            "short": words.number(scale * value, digits),
            "text": words.scored(row),
        }


def _rows_of(document: Document) -> list[str]:
    scores = [row for task in document.metrics for row in document.scores(task)]
    return list(dict.fromkeys(document.place_name(row) for row in _in_order(document, scores)))


def _ranges(document: Document, tasks: Sequence[str]) -> str:
    """For each task its best and worst layer and the reference, for readers who see no plot."""
    return " ".join(filter(None, (_range(document, task) for task in tasks)))


def _range(document: Document, task: str) -> str:
    scores = [row for row in document.scores(task) if row.layer in document.layers]
    if not scores:
        return ""
    ordered = sorted(scores, key=lambda row: row.value or 0.0)
    ends = [f"{words.score(row.value, row.metric)} at {document.place_name(row)}" for row in (ordered[0], ordered[-1])]
    reference = next((row for row in scores if document.is_reference(row)), None)
    told = f"; reference {words.score(reference.value, reference.metric)}" if reference else ""
    return f"{task}: from {ends[0]} to {ends[1]}{told}."


def _gain_text(document: Document, tasks: Sequence[str]) -> str:
    told = []
    for task in tasks:
        rows = [row for row in document.scores(task) if row.gain is not None and not document.is_reference(row)]
        better = [document.place_name(row) for row in rows if words.verdict(row) == "better"]
        told.append(f"{task}: {words.listed(better) + ' better' if better else 'no layer better'}.")
    return " ".join(told)
