"""The figures of five papers, each over a sweep's conditions with seeds as 95 % t intervals (Vega-Lite, no browser)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sslcut.claims import Quantity, Study, at
from sslcut.render import atlas, compare, conditions, elsewhere, words
from sslcut.render.chart import (
    PALETTE,
    Figure,
    Spec,
    coloured,
    down,
    facets,
    hover,
    layer_of,
    scaled,
    single,
    up,
)
from sslcut.render.compare import Group, Spread
from sslcut.render.conditions import Setting, by_seed, recipe_of
from sslcut.render.figures import Row, shown

H, Z = "backbone (h)", "projector (z)"
ENDS = {H: "backbone", Z: "projector"}
SEEDED = "Bars are 95 % t intervals over seeds: they speak of the recipe."
WIDTH, STRENGTH, UPDATE = "model.last_block.width", "views.strength", "head.update"
MEAN = "mean of all tasks"
SHORT = 20  # characters of a name beside which another fits


def drawn(study: Study, setting: Setting) -> Iterator[Figure]:
    """The figure that a study asks for, where its results have the numbers."""
    kinds: dict[str, Callable[[Study, Setting], Iterator[Figure]]] = {
        "layers": by_layer,
        "width": by_width,
        "strength": by_strength,
        "head": by_update,
        "transfer": by_transfer,
    }
    yield from kinds[study.figure](study, setting)


def by_layer(study: Study, setting: Setting) -> Iterator[Figure]:
    """Accuracy by layer: a plot a task, a line a condition."""
    yield from atlas.lines(setting.groups)


# ---- lines over what the sweep varies


def by_width(study: Study, setting: Setting) -> Iterator[Figure]:
    """The backbone's score against the width of its last block: the source task, and the mean of the others."""
    panels = {f"{task} (source)": Quantity(task=task, layer="backbone") for task in setting.sources}
    panels["mean of the transfer tasks"] = Quantity(tasks="transfer", layer="backbone")
    rows = [
        row | {"series": _without_width(setting, group)}
        for panel, what in panels.items()
        for group in setting.groups
        for row in _point(setting, group, what, panel=panel, x=_width(group))
    ]
    if rows:
        widths = sorted({row["x"] for row in rows})
        scale = {"type": "log", "base": 2, "domain": [widths[0] / 1.25, widths[-1] * 1.25], "nice": False}
        axis = {"values": widths, "title": "width of the last block", "grid": False, "format": "d"}
        yield _lines(
            "score-by-width",
            "Score at the backbone by the width of its last block",
            f"Accuracy in per cent, or R² × 100, by the linear probe at the reference. {SEEDED}",
            rows,
            {"field": "x", "type": "quantitative", "scale": scale, "axis": axis},
        )


def _width(group: Group) -> float | None:
    """How wide the backbone's end is: as the recipe says, else as the probe found it."""
    document = group.documents[0]
    asked = at(document.recipe, WIDTH)
    if asked is not None or document.reference is None:
        return asked
    rows = [row.dim for row in document.results if row.layer == document.reference.layer and row.plain]
    return rows[0] if rows else None


def _without_width(setting: Setting, group: Group) -> str:
    """A line's name: what sets the conditions apart once their width is left out."""
    bare = [_less(recipe_of(one), WIDTH) for one in setting.groups]
    kinds = list({compare.shown_value(one): one for one in bare}.values())
    if len(kinds) == 1:
        return "all conditions"
    named = conditions.names(kinds, conditions.telling(kinds, ["method.name"]))
    return named[kinds.index(bare[setting.groups.index(group)])]


def _less(recipe: dict[str, Any], key: str) -> dict[str, Any]:
    flat = compare.flatten({name: value for name, value in recipe.items() if name not in compare.ASIDE})
    return {name: value for name, value in flat.items() if name != key and not name.startswith(f"{key}.")}


def by_strength(study: Study, setting: Setting) -> Iterator[Figure]:
    """The sensitivity to views, and what other measures the claims are about, against the strength trained with."""
    spoken = [what.measure for claim in study.claims for what in claim.quantities if what.measure]
    measures = [name for name in dict.fromkeys(["sensitivity", *spoken]) if _anywhere(setting, name)]
    rows = [
        row | {"series": series}
        for measure in measures
        for series, layer in ENDS.items()
        for group in setting.groups
        for row in _point(
            setting, group, Quantity(measure=measure, layer=layer),
            panel=words.measure_name(measure), x=at(recipe_of(group), STRENGTH),
        )
    ]  # fmt: skip
    if rows:
        strengths = sorted({row["x"] for row in rows})
        axis = {"title": "strength of the views in training", "grid": False, "values": strengths}
        yield _lines(
            "sensitivity-by-strength",
            "What the views' strength does to the backbone's output and to the projector's",
            f"Sensitivity: the views' share of the scatter, 0 where all views of an image are read alike. {SEEDED}",
            rows,
            {"field": "x", "type": "quantitative", "axis": axis, "scale": {"zero": False, "padding": 8}},
        )


def _anywhere(setting: Setting, measure: str) -> bool:
    return any(row.measure == measure for group in setting.groups for row in group.documents[0].measures)


def _point(setting: Setting, group: Group, what: Quantity, *, panel: str, x: Any) -> Iterator[Row]:
    """One condition's dot in one plot, where it has the number and a place on the x axis."""
    spread = setting.spread(group, what)
    if spread is not None and isinstance(x, int | float):
        text = _told(spread, 1 if what.in_points else 3)
        yield {"panel": panel, "x": x, "condition": group.label, "text": text, "seeds": len(spread.values)} | _ends(
            spread
        )


def _ends(spread: Spread, name: str = "value") -> Row:
    prefix = "" if name == "value" else f"{name}_"
    return {
        name: scaled(spread.mean, 1),
        f"{prefix}low": scaled(spread.low, 1),
        f"{prefix}high": scaled(spread.high, 1),
    }


def _named_once(row: Row) -> str:
    """A row's line and condition, or the condition alone where its name begins with the line's."""
    line, condition = row["series"], row["condition"]
    return condition if condition.startswith(line) else f"{line}, {condition}"


def _told(spread: Spread, digits: int, *, sign: bool = False) -> str:
    told = words.number(spread.mean, digits, sign=sign)
    if spread.low is None or spread.high is None:
        return told
    return f"{told} ({words.number(spread.low, digits)} to {words.number(spread.high, digits)})"


def _lines(name: str, title: str, caption: str, rows: Sequence[Row], x: Spec) -> Figure:
    series = list(dict.fromkeys(row["series"] for row in rows))
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    colour = coloured(dict(zip(series, PALETTE, strict=False)))
    told = hover(panel="what", series="line", condition="condition", text="mean and interval", seeds="seeds")
    layers = [
        layer_of("line", None, {"x": x, "y": up(), "color": colour}, strokeWidth=1.75),
        layer_of(
            "rule", "datum.low !== null", {"x": x, "y": up("low"), "y2": {"field": "high"}, "color": colour},
            strokeWidth=1.5,
        ),
        layer_of("point", None, {"x": x, "y": up(), "color": colour, "tooltip": told}, filled=True, size=46, opacity=1),
    ]  # fmt: skip
    return Figure(name, title, caption, _in_words(rows), facets(rows, "panel", panels, layers))


def _in_words(rows: Sequence[Row]) -> str:
    """Every dot, for readers who see no plot."""
    told = [f"{row['panel']}, {_named_once(row)}: {row['text']}" for row in rows]
    return ". ".join(told) + "."


# ---- differences to the joint update


def by_update(study: Study, setting: Setting) -> Iterator[Figure]:
    """How each way to optimise the head differs from the joint one, paired by seed, at h and at z: a plot a task."""
    pairs = _against_joint(setting)
    if not pairs:
        return
    tasks, rest = shown([MEAN, *pairs[0][1].documents[0].metrics])
    rows = [
        row
        for task in tasks
        for group, base in pairs
        for series, layer in ENDS.items()
        for row in _difference(setting, group, base, task, series, layer)
    ]
    if rows:
        order = [group.label for group, _ in pairs]
        yield Figure(
            "head-update-against-joint",
            "Each head update less the joint one (points)",
            f"Paired by seed: right of zero is better than joint. {SEEDED} Scores × 100.{rest}",
            _in_words(rows),
            facets(rows, "panel", tasks, _difference_layers(order), cell=210, height=34 * len(order) + 8, rows=order),
        )


def _against_joint(setting: Setting) -> list[tuple[Group, Group]]:
    """Each condition whose head moves otherwise, with the joint one whose recipe is the same but for that."""
    joint = {
        compare.shown_value(_less(recipe_of(group), UPDATE)): group
        for group in setting.groups
        if at(recipe_of(group), f"{UPDATE}.name") == "joint"
    }
    found = [(group, joint.get(compare.shown_value(_less(recipe_of(group), UPDATE)))) for group in setting.groups]
    return [(group, base) for group, base in found if base is not None and base is not group]


def _difference(setting: Setting, group: Group, base: Group, task: str, series: str, layer: str) -> Iterator[Row]:
    what = Quantity(tasks="all", layer=layer) if task == MEAN else Quantity(task=task, layer=layer)
    spread = paired(setting, group, base, what)
    if spread is not None:
        text = _told(spread, 1, sign=True)
        about = {"panel": task, "row": group.label, "condition": group.label, "series": series}
        yield {**about, "text": text, "seeds": len(spread.values)} | _ends(spread)


def paired(setting: Setting, group: Group, base: Group, what: Quantity) -> Spread | None:
    """A number of one condition less that of another, over the seeds that both have."""
    ours, theirs = by_seed(group), by_seed(base)
    pairs = [(setting.value(ours[seed], what), setting.value(theirs[seed], what)) for seed in ours if seed in theirs]
    values = [one - other for one, other in pairs if one is not None and other is not None]
    return compare.spread(values) if values else None


def _difference_layers(order: Sequence[str]) -> list[Spec]:
    colour = coloured(dict(zip(ENDS, PALETTE, strict=False)))
    axis = {"title": None, "tickCount": 4, "domain": False, "ticks": False}
    x: Spec = {"field": "value", "type": "quantitative", "axis": axis}
    y = down(order)
    y |= {"axis": {**y["axis"], "labelExpr": "split(datum.label, ', ')"}, "scale": {"paddingInner": 0.25}}
    offset = {"field": "series", "type": "nominal", "sort": list(ENDS)}
    at_row = {"y": y, "yOffset": offset, "color": colour}
    told = hover(panel="task", row="head update", series="read at", text="difference", seeds="seeds")
    return [
        {"mark": {"type": "rule", "strokeDash": [3, 3]}, "encoding": {"x": {"datum": 0, "type": "quantitative"}}},
        layer_of("rule", "datum.low !== null", {**at_row, "x": {**x, "field": "low"}, "x2": {"field": "high"}}),
        layer_of("point", None, {**at_row, "x": x, "tooltip": told}, filled=True, size=46, opacity=1),
    ]


# ---- source against transfer


def by_transfer(study: Study, setting: Setting) -> Iterator[Figure]:
    """The task trained on against transfer, at the backbone: a dot a condition, bars both ways.

    Transfer is the mean log-odds on other data sets where the networks were read there, else the mean of the other
    tasks.
    """
    sets, odds = elsewhere.log_odds(setting)
    rows = [row for group in setting.groups for row in _variant(setting, group, odds if sets else None)]
    if not rows:
        return
    source = words.listed([*setting.sources])
    names = [row["series"] for row in rows]
    colour = coloured(dict(zip(names, PALETTE, strict=False)))
    colour["legend"] = {"symbolType": "circle", "columns": 1 if max(map(len, names)) > SHORT else 2}
    x = up("x", title=f"{source}, trained on (score × 100)")
    others = f"mean log-odds on {words.listed(sets)}" if sets else "mean of the other tasks (score × 100)"
    y = up("y", title=others)
    told = hover(series="condition", source="trained on", transfer="others", seeds="seeds")
    dot = {"x": x, "y": y, "color": colour}
    across = {**dot, "x": {**x, "field": "x_low"}, "x2": {"field": "x_high"}}
    upward = {**dot, "y": {**y, "field": "y_low"}, "y2": {"field": "y_high"}}
    layers = [
        layer_of("rule", "datum.x_low !== null", across, strokeWidth=1.5),
        layer_of("rule", "datum.y_low !== null", upward, strokeWidth=1.5),
        layer_of("point", None, dot | {"tooltip": told}, filled=True, size=90, opacity=1),
    ]
    yield Figure(
        "source-against-transfer",
        "The task trained on against transfer to the others",
        f"Read at the backbone{' by the linear probe' if not sets else ''}; up and right is better. {SEEDED}",
        " ".join(f"{row['series']}: {source} {row['source']}, others {row['transfer']}." for row in rows),
        single(rows, layers, width=560, height=340, least=300),
    )


def _variant(setting: Setting, group: Group, odds: Mapping[str, Spread] | None) -> Iterator[Row]:
    source = setting.spread(group, Quantity(tasks=setting.sources, layer="backbone")) if setting.sources else None
    others = Quantity(tasks="transfer", layer="backbone")
    transfer = setting.spread(group, others) if odds is None else odds.get(group.label)
    if source is not None and transfer is not None:
        about = {
            "series": group.label,
            "source": _told(source, 1),
            "transfer": _told(transfer, 1 if odds is None else 2),
            "seeds": group.seeds,
        }
        yield about | _ends(source, "x") | _ends(transfer, "y")
