"""How well each layer could be read while the network trained: the online probes' scores over the epochs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sslcut.render import words
from sslcut.render.chart import Figure, Spec, facets, hover, layer_of, scaled, up
from sslcut.render.curves import EPOCHS
from sslcut.render.figures import Row, shown


def online(epochs: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """One figure for accuracies and one for R²: a plot a task, a line a layer, dark to light with depth."""
    told = [epoch for epoch in epochs if isinstance(epoch.get("online"), Mapping)]
    layers = list(dict.fromkeys(layer for epoch in told for layer in epoch["online"]))
    rows = [row for epoch in told for row in _rows(epoch["epoch"], epoch["online"], epoch.get("online_metrics") or {})]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        mine = [row for row in rows if row["metric"] == metric]
        tasks, rest = shown(list(dict.fromkeys(row["task"] for row in mine)))
        mine = [row for row in mine if row["task"] in tasks]
        name, unit = words.metric_name(metric), " (%)" if words.is_share(metric) else ""
        yield Figure(
            f"online-{'accuracy' if unit else 'r2'}",
            f"{name[0].upper()}{name[1:]} of each layer while training{unit}",
            f"Linear probes that learn beside the network, on validation images at the end of each epoch.{rest}",
            f"Online probes of {words.counted(len(layers), 'layer')}. {' '.join(_leaders(mine, tasks))}",
            facets(mine, "task", tasks, _lines(layers)),
        )


def _rows(epoch: int, online: Mapping[str, Any], metrics: Mapping[str, str]) -> Iterator[Row]:
    for layer, scores in online.items():
        for task, value in scores.items():
            if value is not None:
                metric = metrics.get(task, "accuracy")
                about = {"epoch": epoch, "layer": layer, "task": task, "metric": metric}
                shown = scaled(value, 100 if words.is_share(metric) else 1)
                yield {**about, "value": shown, "text": words.score(value, metric)}


def _leaders(rows: Sequence[Row], tasks: Sequence[str]) -> Iterator[str]:
    """For readers who see no plot: which layer leads at the end, and the last one there."""
    for task in tasks:
        mine = [row for row in rows if row["task"] == task]
        ends = [row for row in mine if row["epoch"] == mine[-1]["epoch"]]
        first = max(ends, key=lambda row: row["value"])
        last = ends[-1]
        rest = f" (`{last['layer']}`: {last['text']})" if last is not first else ""
        yield f"{task}: `{first['layer']}` leads after epoch {first['epoch']} with {first['text']}{rest}."


def _lines(layers: Sequence[str]) -> list[Spec]:
    scheme = {"name": "viridis", "extent": [0.05, 0.85]}
    colour = {"field": "layer", "type": "ordinal", "sort": list(layers), "scale": {"scheme": scheme}}
    colour["legend"] = {"symbolType": "circle"}
    encoding = {"x": EPOCHS, "y": up(), "color": colour}
    told = hover(epoch="epoch", layer="layer", task="task", text="score")
    return [
        layer_of("line", None, encoding, strokeWidth=1.5),
        layer_of("point", None, {**encoding, "tooltip": told}, filled=True, size=14, opacity=1),
    ]
