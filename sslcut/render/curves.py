"""The figures around the scores: cost, label fractions, equal width, training.

Each is a function that gives one Figure, or none where its numbers are missing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sslcut.render import words
from sslcut.render.chart import (
    BLUE,
    GREY,
    ORANGE,
    PALETTE,
    Figure,
    Spec,
    across,
    coloured,
    down,
    facets,
    hover,
    layer_of,
    scaled,
    up,
)
from sslcut.render.figures import Row, shown, units
from sslcut.render.results import Document, Score

COSTS = {
    "flops": ("FLOPs (million)", 1e-6),
    "parameters": ("parameters (thousand)", 1e-3),
    "seconds_per_1000": ("seconds per 1000 images", 1.0),
}
CURVES = {
    "loss": "loss",
    "inner_before": "loss before the head's steps",
    "inner_after": "loss after them",
    "backbone_gradient": "backbone's gradient",
    "rank": "rank",
    "lr": "learning rate",
}
EPOCHS = {
    "field": "epoch", "type": "quantitative", "scale": {"zero": False, "nice": False},
    "axis": {"title": "epoch", "tickMinStep": 1, "grid": False, "tickCount": 5},
}  # fmt: skip


def cost(document: Document) -> Iterator[Figure]:
    """What reading at each layer costs, beside what it scores: a plot a quantity, rows in the network's order."""
    rows = [*_mean_scores(document), *_costs(document)]
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    if not document.cost:
        return
    layers = [one.layer for one in document.cost]
    y = down(layers)
    axis = {"title": None, "tickCount": 4, "domain": False, "ticks": False}
    x = {"field": "value", "type": "quantitative", "axis": axis}
    told = hover(row="layer", quantity="", text="value")
    kept = {"condition": {"test": "datum.reference", "value": ORANGE}, "value": BLUE}
    bars = layer_of("bar", None, {"x": x, "y": y, "color": kept, "tooltip": told}, height={"band": 0.62})
    yield Figure(
        "cost-by-layer",
        "Cost of reading at each layer, and score" if document.metrics else "Cost of reading at each layer",
        "Everything up to and including the layer, for one image (2 FLOPs a multiply-add)."
        + (" The reference is orange." if document.reference else "")
        + (" Scores are means over tasks by the linear probe." if document.metrics else ""),
        _cost_text(document),
        facets(rows, "quantity", quantities, [bars], cell=190, height=18 * len(layers), rows=layers),
    )


def _mean_scores(document: Document) -> Iterator[Row]:
    priced = {one.layer for one in document.cost}
    for metric, tasks in units(document).items():
        found: dict[str, list[Score]] = {}
        for row in (row for task in tasks for row in document.scores(task) if document.is_main(row)):
            found.setdefault(row.layer, []).append(row)
        share = words.is_share(metric)
        many = f"mean of {len(tasks)} tasks" if len(tasks) > 1 else tasks[0]
        for layer, rows in found.items():
            if layer in priced and len(rows) == len(tasks):
                mean = sum(row.value or 0.0 for row in rows) / len(rows)
                name = f"{words.metric_name(metric)}{' (%)' if share else ''}, {many}"
                value = scaled(mean, 100 if share else 1)
                yield _bar(document, layer, name, value, words.score(mean, metric))


def _costs(document: Document) -> Iterator[Row]:
    for key, (name, scale) in COSTS.items():
        for one in document.cost:
            value = getattr(one, key)
            if value is not None:
                yield _bar(document, one.layer, name, scaled(value, scale), f"{value * scale:,.4g}")


def _bar(document: Document, layer: str, quantity: str, value: float | None, text: str) -> Row:
    reference = document.reference is not None and layer == document.reference.layer
    return {"row": layer, "quantity": quantity, "value": value, "text": text, "reference": reference}


def _cost_text(document: Document) -> str:
    told = []
    for key, (name, scale) in COSTS.items():
        values = [(getattr(one, key), one.layer) for one in document.cost if getattr(one, key) is not None]
        if values:
            first, last = values[0], values[-1]
            told.append(f"{name}: {first[0] * scale:,.4g} at {first[1]}, {last[0] * scale:,.4g} at {last[1]}.")
    return " ".join(["Cost of reading at each layer.", *told])


def training(epochs: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """Loss, rank and learning rate by epoch, a plot a quantity."""
    keys = [key for key in CURVES if any(_is_number(epoch.get(key)) for epoch in epochs)]
    rows: list[Row] = [
        {
            "quantity": CURVES.get(key, key.replace("_", " ")),
            "epoch": epoch["epoch"],
            "value": scaled(epoch[key], 1),
            "text": f"{epoch[key]:.5g}",
        }
        for key in keys
        for epoch in epochs
        if _is_number(epoch.get(key))
    ]
    if not rows:
        return
    told = hover(epoch="epoch", quantity="", text="value")
    head = words.listed([CURVES.get(key, key.replace("_", " ")) for key in keys])
    yield Figure(
        "training",
        f"{head[0].upper()}{head[1:]} by epoch",
        "Rank is the effective rank of what the loss saw." if "rank" in keys else "",
        f"{head} by epoch. {_spans(rows, 'quantity', 'epoch')}",
        facets(rows, "quantity", list(dict.fromkeys(row["quantity"] for row in rows)), _line(EPOCHS, told, dots=14)),
    )


def fractions(document: Document) -> Iterator[Figure]:
    """Scores with fewer labels, a plot a task, one line for each place that matters: reference, best and end."""
    for metric, all_tasks in units(document).items():
        tasks, rest = shown(all_tasks)
        rows = [row for task in tasks for row in _fraction_rows(document, task)]
        if not rows:
            continue
        scale = {"type": "log", "nice": False}
        x = {"field": "fraction", "type": "quantitative", "scale": scale}
        x["axis"] = {"title": "share of the labels", "format": "~%", "grid": False, "tickCount": 3}
        places = dict.fromkeys(row["where"] for row in rows)
        colour = coloured(dict(zip(places, PALETTE * len(places), strict=False)), "where")
        told = hover(task="task", where="layer", labels="labels", text="score")
        unit = " (%)" if words.is_share(metric) else ""
        yield Figure(
            f"{words.metric_name(metric).lower()}-by-labels".replace("²", "2").replace(" ", "-"),
            f"{words.metric_name(metric).capitalize()} with fewer labels{unit}",
            f"The linear probe trained on a share of the labels.{rest}",
            f"Scores by share of the labels at {words.listed(list(places))}.",
            facets(rows, "task", tasks, _line(x, told, colour)),
        )


def _fraction_rows(document: Document, task: str) -> Iterator[Row]:
    kept = [p for p in (document.reference, document.recommended, *document.best) if p is not None]
    wanted = {(place.layer, place.readout) for place in kept} | {(document.layers[-1], "vector")}
    rows = [row for row in document.results if row.task == task and row.probe == "linear" and not row.setting]
    rows = [row for row in rows if row.shift is None and row.metric == document.metrics[task] and row.value is not None]
    if all(row.fraction in (None, 1.0) for row in rows):
        return
    for row in rows:
        if (row.layer, row.readout) in wanted:
            share, factor = row.fraction or 1.0, 100 if words.is_share(row.metric) else 1
            yield {
                "task": task, "where": document.place_name(row), "fraction": share, "labels": f"{100 * share:g} %",
                "value": scaled(row.value, factor), "text": words.scored(row),
            }  # fmt: skip


def widths(document: Document) -> Iterator[Figure]:
    """Scores at one width for all layers beside those at their own, so that width alone does not win."""
    for metric, all_tasks in units(document).items():
        tasks, rest = shown(all_tasks)
        tasks = [task for task in tasks if document.projected(task)]
        rows = [row for task in tasks for row in _width_rows(document, task)]
        if not rows:
            continue
        colour = coloured({"own width": GREY, "common width": BLUE})
        told = hover(task="task", layer="layer", series="", text="score", width="width")
        unit = " (%)" if words.is_share(metric) else ""
        yield Figure(
            f"{'accuracy' if unit else 'r2'}-at-one-width",
            f"The same width for every layer{unit}",
            f"Projected to one width (principal directions of the training images), beside their own.{rest}",
            f"Linear probe at a common width for {words.listed(tasks)}. {_spans(rows, 'task', 'layer')}",
            facets(rows, "task", tasks, _line(across(document.layers), told, colour)),
        )


def _width_rows(document: Document, task: str) -> Iterator[Row]:
    own = [row for row in document.scores(task) if document.is_main(row)]
    for series, scores in (("own width", own), ("common width", document.projected(task))):
        factor = 100 if scores and words.is_share(scores[0].metric) else 1
        for row in (row for row in scores if row.layer in document.layers):
            yield {
                "task": task, "layer": row.layer, "series": series, "value": scaled(row.value, factor),
                "text": words.scored(row), "width": row.dim if row.dim is not None else words.DASH,
            }  # fmt: skip


def _line(x: Spec, told: list[Spec], colour: Spec | None = None, *, dots: int = 38) -> list[Spec]:
    """A line with points that tell their values."""
    shade: Spec = {"color": colour if colour else {"value": BLUE}}
    return [
        layer_of("line", None, {"x": x, "y": up(), **shade}, strokeWidth=1.75),
        layer_of("point", None, {"x": x, "y": up(), **shade, "tooltip": told}, filled=True, size=dots, opacity=1),
    ]


def _spans(rows: Sequence[Row], by: str, at: str) -> str:
    """For each group of rows its first and last value, for readers who see no plot."""
    told = []
    for group in dict.fromkeys(row[by] for row in rows):
        mine = [row for row in rows if row[by] == group]
        told.append(f"{group}: {mine[0]['text']} at {at} {mine[0][at]}, {mine[-1]['text']} at {mine[-1][at]}.")
    return " ".join(told)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
