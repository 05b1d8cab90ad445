"""Measures without labels: figures by layer and tables, a group of measures that are read together in each.

What a network does to views of an image is one group, what its head keeps of its reference another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sslcut.render import words
from sslcut.render.chart import (
    BLUE,
    ORANGE,
    Figure,
    Spec,
    across,
    coloured,
    facets,
    hover,
    layer_of,
    scaled,
    single,
    up,
)
from sslcut.render.figures import Row
from sslcut.render.results import Document, Measure, Viewed
from sslcut.render.table import Table

SENSITIVITY = {"sensitivity": "of its scatter", "sensitivity_cosine": "of distances by cosine"}
TANGENT = ("tangent", "tangent_random", "tangent_random_sd", "tangent_pca", "tangent_views", "directions")


@dataclass(frozen=True)
class Group:
    """Measures that stand in one figure and one table; `named` empty are all that no other group has."""

    figure: str
    title: str
    named: tuple[str, ...] = ()
    undrawn: tuple[str, ...] = ()


GROUPS = (
    Group("measures-by-layer", "Measures without labels", undrawn=("alpha_req_r2",)),
    Group(
        "views-by-layer",
        "Images and their views",
        (*SENSITIVITY, "within", "between", "alignment", "rank_data", "rank_views", "lidar"),
        (*SENSITIVITY, "within", "between"),
    ),
    Group("head-by-layer", "What the head keeps of the reference", ("keep_views", "keep_data", "selectivity")),
)
_APART = {name for group in GROUPS for name in group.named} | set(TANGENT)


def figures(document: Document) -> Iterator[Figure]:
    """Sensitivity by layer, then each group of measures, a plot a measure; each layer by its main read-out."""
    shown = [
        one
        for one in document.measures
        if one.value is not None and document.is_main(one) and one.layer in document.layers
    ]
    yield from _sensitivity(document, [one for one in shown if one.measure in SENSITIVITY])
    for group in GROUPS:
        yield from _by_layer(document, group, [one for one in _of(group, shown) if one.measure not in group.undrawn])


def tables(document: Document) -> Iterator[Table]:
    """Each group as place × measure, and what was found of the head's directions, a row a space.

    RankMe stands as a share of the layer's width too, since layers differ in it.
    """
    widths = {(row.layer, row.readout): row.dim for row in document.results if row.dim and not row.projected}
    for group in GROUPS:
        found = _of(group, document.measures)
        names = list(dict.fromkeys(one.measure for one in found))
        cells: dict[tuple[str, str], dict[str, float | None]] = {}
        for one in found:
            cells.setdefault((one.layer, one.readout), {})[one.measure] = one.value
        ranked = "rankme" in names and bool(widths)
        rows = []
        for place, values in cells.items():
            rank, width = values.get("rankme"), widths.get(place)
            share = f"{rank / width:.2f}" if rank is not None and width else words.DASH
            rows.append((*place, *(_told(values.get(name)) for name in names), *([share] if ranked else [])))
        columns = ("layer", "read-out", *map(words.measure_name, names), *(["RankMe ÷ width"] if ranked else []))
        if rows:
            yield Table(group.title, columns, tuple(rows), open=False)
    yield from _directions(document)


def explained(document: Document) -> tuple[str, ...]:
    """What each measure says, a clause each, in one paragraph; none where only RankMe was measured."""
    names = dict.fromkeys(one.measure for one in document.measures if one.measure in words.EXPLAINED)
    if names.keys() <= {"rankme"}:
        return ()
    clauses = "; ".join(f"{words.measure_name(name)} is {words.EXPLAINED[name]}" for name in names)
    return (f"{clauses[0].upper()}{clauses[1:]}.",)


def incomparable(documents: Sequence[Document]) -> tuple[str, ...]:
    """A warning where networks were read under views that differ, so that measures of views cannot be compared."""
    seen = list(dict.fromkeys(one.viewed.model_dump_json() for one in documents if one.viewed is not None))
    if len(seen) < 2:
        return ()
    told = list(dict.fromkeys(words.viewed(Viewed.model_validate_json(one)) for one in seen))
    which = words.listed(told) if len(told) > 1 else f"{told[0]}, of which some option or number differs"
    return (
        f"These networks were read under different views ({which}): what depends on views, such as sensitivity, LiDAR "
        "and alignment, cannot be compared between them. One `probe.viewed` for all makes it so.",
    )


def _of(group: Group, measures: Sequence[Measure]) -> list[Measure]:
    return [one for one in measures if (one.measure in group.named if group.named else one.measure not in _APART)]


def _by_layer(document: Document, group: Group, measures: Sequence[Measure]) -> Iterator[Figure]:
    rows = [_row(document, one) | {"measure": words.measure_name(one.measure)} for one in measures]
    names = list(dict.fromkeys(row["measure"] for row in rows))
    if not rows:
        return
    told = hover(where="layer", measure="", text="value")
    yield Figure(
        group.figure,
        f"{group.title}, by layer",
        ("RankMe is the effective number of directions in use. " if "RankMe" in names else "")
        + "Such measures describe a layer; they never choose a cut.",
        f"{words.listed(names)} of each layer. {_ends(rows, 'measure')}",
        facets(rows, "measure", names, _line(document.layers, told, {"value": BLUE})),
    )


def _sensitivity(document: Document, measures: Sequence[Measure]) -> Iterator[Figure]:
    """How much of each layer is the view: one plot, a line for each way to take it."""
    rows = [_row(document, one) | {"series": SENSITIVITY[one.measure]} for one in measures]
    if not rows:
        return
    series = list(dict.fromkeys(row["series"] for row in rows))
    colour = coloured(
        dict(zip(SENSITIVITY.values(), (BLUE, ORANGE), strict=True)) if len(series) > 1 else {series[0]: BLUE}
    )
    policy = "one reference policy" if document.viewed is None else words.viewed(document.viewed)
    yield Figure(
        "sensitivity-by-layer",
        "Sensitivity to views, by layer",
        f"The views' share {words.listed(series)}: 0 is invariant, 1 sees nothing but the view. Views are of "
        f"{policy}, whatever the network was trained with.",
        f"Sensitivity to views of each layer. {_ends(rows, 'series')}{_reference(document, rows)}",
        single(
            rows,
            _line(document.layers, hover(where="layer", series="share", text="value"), colour),
            width=640,
            height=240,
            least=360,
        ),
    )


def _reference(document: Document, rows: Sequence[Row]) -> str:
    at = next((row for row in rows if row["reference"]), None)
    return "" if at is None else f" At the reference {at['layer']} it is {at['text']}."


def _directions(document: Document) -> Iterator[Table]:
    """The head's principal directions against the tangent plane: what each space holds of the plane's directions."""
    found = {one.measure: one.value for one in document.measures if one.measure in TANGENT}
    if found.get("tangent") is None:
        return
    deviation = found.get("tangent_random_sd")
    chance = _told(found.get("tangent_random")) + (f" ± {deviation:.2g}" if deviation is not None else "")
    count = f"{found.get('directions') or 0:g}"
    yield Table(
        "The head's directions and tangent planes",
        ("space", "directions", "holds of", "mean cos²"),
        (
            ("the head's principal directions", count, "the data's tangent planes", _told(found["tangent"])),
            ("as many random directions", count, "the data's tangent planes", chance),
            ("principal directions of all images", count, "the data's tangent planes", _told(found.get("tangent_pca"))),
            ("the head's principal directions", count, "the planes of weak views", _told(found.get("tangent_views"))),
        ),
        open=False,
    )


def _row(document: Document, one: Measure) -> Row:
    return {
        "layer": one.layer,
        "where": document.place_name(one, full=True),
        "value": scaled(one.value, 1),
        "text": _told(one.value),
        "reference": document.is_reference(one),
    }


def _told(value: float | None) -> str:
    return words.DASH if value is None else f"{value:.4g}"


def _ends(rows: Sequence[Row], by: str) -> str:
    """For each line its first and last value, for readers who see no plot."""
    lines = {name: [row for row in rows if row[by] == name] for name in dict.fromkeys(row[by] for row in rows)}
    return " ".join(
        f"{name}: {mine[0]['text']} at layer {mine[0]['layer']}, {mine[-1]['text']} at layer {mine[-1]['layer']}."
        for name, mine in lines.items()
    )


def _line(layers: Sequence[str], told: list[Spec], colour: Spec) -> list[Spec]:
    encoding: Spec = {"x": across(layers), "y": up(), "color": colour}
    return [
        layer_of("line", None, encoding, strokeWidth=1.75),
        layer_of("point", None, {**encoding, "tooltip": told}, filled=True, size=38, opacity=1),
    ]
