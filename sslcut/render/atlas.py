"""The figures of several results: a line a recipe, and the atlas of gains (Vega-Lite, no browser)."""

from collections.abc import Iterator, Sequence

from sslcut.render import words
from sslcut.render.chart import (
    BLUE,
    GREY,
    ORANGE,
    PALETTE,
    Figure,
    Spec,
    apart,
    coloured,
    facets,
    hover,
    layer_of,
    scaled,
    single,
    slug,
    up,
)
from sslcut.render.compare import Cell, Group, over_seeds
from sslcut.render.figures import Row, shown
from sslcut.render.results import Place

NAMES = 240  # pixels that checkpoint names may take


def lines(grouped: Sequence[Group]) -> Iterator[Figure]:
    """Score by layer, a plot a task, a line a recipe; over seeds with t intervals, of one seed without any."""
    metrics = {task: metric for group in grouped for task, metric in group.documents[0].metrics.items()}
    layers = in_order([group.documents[0].layers for group in grouped])
    colours = {group.label: PALETTE[i % len(PALETTE)] for i, group in enumerate(grouped)}
    for metric in dict.fromkeys(metrics.values()):
        tasks, rest = shown([task for task in metrics if metrics[task] == metric])
        rows = [row for task in tasks for group in grouped for row in _line_rows(group, task, metric)]
        if not rows:
            continue
        share = " (%)" if words.is_share(metric) else ""
        seeded = any(group.seeds > 1 for group in grouped)
        told = (
            "Bars are 95 % t intervals over seeds: they speak of the recipe."
            if seeded
            else "One seed each: no intervals."
        )
        name = words.metric_name(metric)
        yield Figure(
            f"{slug(metric)}-by-recipe",
            f"{name[0].upper()}{name[1:]} by layer, a line a recipe{share}",
            f"Linear probe at each layer's main read-out. {told}{rest}",
            f"{name} by layer of {words.counted(len(grouped), 'recipe')} on {words.counted(len(tasks), 'task')}.",
            facets(rows, "task", tasks, _line_layers(layers, colours)),
        )


def in_order(chains: Sequence[Sequence[str]]) -> list[str]:
    """The blocks of several networks, each behind the one that it follows in its own."""
    merged: list[str] = []
    for chain in chains:
        place = 0
        for name in chain:
            if name not in merged:
                merged.insert(place, name)
            place = merged.index(name) + 1
    return merged


def _line_rows(group: Group, task: str, metric: str) -> Iterator[Row]:
    document = group.documents[0]
    scale = 100 if words.is_share(metric) else 1
    if document.metrics.get(task) != metric:
        return
    for (layer, readout), (score, _, _) in over_seeds(group, task).items():
        if layer in document.layers and document.is_main(Place(layer=layer, readout=readout)):
            told = words.score(score.mean, metric) + words.interval(score.low, score.high, metric)
            yield {
                "task": task, "layer": layer, "series": group.label, "value": scaled(score.mean, scale),
                "low": scaled(score.low, scale), "high": scaled(score.high, scale), "text": told,
                "seeds": group.seeds,
            }  # fmt: skip


def _line_layers(layers: Sequence[str], colours: dict[str, str]) -> list[Spec]:
    told = hover(task="task", layer="layer", series="recipe", seeds="seeds", text="score")
    place = {**apart(layers, list(colours)), "color": coloured(colours)}
    at = place | {"y": up()}
    ends = place | {"y": up("low"), "y2": {"field": "high"}}
    return [
        layer_of("line", None, at, strokeWidth=1.75),
        layer_of("rule", "datum.low !== null", ends),
        layer_of("point", None, at | {"tooltip": told}, filled=True, size=38, opacity=1),
    ]


def atlas(made: Sequence[Cell]) -> Iterator[Figure]:
    """Checkpoints × data sets and tasks: the paired gain of the best cut, hatched where it is not clear."""
    rows = [_cell_row(cell) for cell in made if cell.best.gain is not None or cell.keeps]
    if not rows:
        return
    columns = list(dict.fromkeys(row["column"] for row in rows))
    order = list(dict.fromkeys(row["row"] for row in rows))
    clear = [cell for cell in made if cell.clear and not cell.keeps]
    yield Figure(
        "atlas",
        "Gain of the best cut over the reference",
        "Points of accuracy, or R² × 100, with the layer and its depth (1 is the reference, below 1 earlier). Hatched: "
        "the interval for this checkpoint holds zero. Grey: validation keeps the reference.",
        f"{len(order)} checkpoints by {len(columns)} data sets and tasks; {len(clear)} of {len(rows)} cells have a "
        "clear gain or loss.",
        single(
            rows, _atlas_layers(columns, order), width=max(180, 104 * len(columns)), height=50 * len(order),
            least=min(NAMES, 7 * max(map(len, order))) + 92 * len(columns),
        ),
    )  # fmt: skip


def _cell_row(cell: Cell) -> Row:
    best = cell.best
    depth = f" · {cell.depth:.2f}" if cell.depth is not None else ""
    return {
        "row": cell.checkpoint,
        "column": cell.column,
        "gain": 0 if cell.keeps else scaled(best.gain, 100),
        "keeps": cell.keeps,
        "hatched": not cell.keeps and not cell.clear,
        "short": "keep" if cell.keeps else words.number(100 * (best.gain or 0.0), 1, sign=True),
        "where": f"{best.layer}{depth}",
        "text": "the reference is kept" if cell.keeps else words.gained(best),
        "score": words.score(best.value, best.metric),
    }


HATCH = "".join(f"M{x / 10},1L{x / 10 + 2},-1" for x in range(-24, 7, 5))  # diagonals across a cell, ±1 its half height


def _atlas_layers(columns: Sequence[str], order: Sequence[str]) -> list[Spec]:
    gap = {"scale": {"paddingInner": 0.04}}
    x_axis = {"title": None, "labelAngle": 0, "orient": "top", "domain": False, "ticks": False, "labelLimit": 100}
    x_axis["labelExpr"] = "split(datum.label, ': ')"  # data set above task
    x_axis["labelPadding"] = 16 if any(": " in column for column in columns) else 4
    y_axis = {"title": None, "labelLimit": NAMES, "domain": False, "ticks": False}
    x = {"field": "column", "type": "nominal", "sort": list(columns), "axis": x_axis, **gap}
    y = {"field": "row", "type": "nominal", "sort": list(order), "axis": y_axis, **gap}
    at = {"x": x, "y": y}
    scale = {"domain": [-10, 0, 10], "range": [ORANGE, "#f1f2f3", BLUE], "clamp": True, "interpolate": "lab"}
    hue = {"type": "quantitative", "field": "gain", "legend": None, "scale": scale}
    fill = {"condition": {"test": "datum.keeps", "value": "#dfe2e5"}, **hue}
    told = hover(row="checkpoint", column="data and task", where="best at · depth", text="gain", score="score")
    ink = {"condition": {"test": "abs(datum.gain) > 7", "value": "#ffffff"}, "value": "#1d2228"}
    hatch = {"shape": HATCH, "size": 1700, "stroke": GREY, "strokeWidth": 1.2, "opacity": 0.45, "filled": False}
    return [
        layer_of("rect", None, at | {"color": fill, "tooltip": told}, cornerRadius=2),
        layer_of("point", "datum.hatched", at, **hatch),
        layer_of(
            "text", None, at | {"text": {"field": "short"}, "color": ink}, fontSize=12.5, fontWeight="bold", dy=-7
        ),
        layer_of("text", None, at | {"text": {"field": "where"}, "color": ink}, fontSize=9.5, dy=9, limit=92),
    ]
