"""What each layer still knows of how a view was made: where it was cut out, how its colours were changed."""

from collections.abc import Iterator

from sslcut.render import words
from sslcut.render.chart import BLUE, MOST_FACETS, Figure, across, facets, hover, layer_of, scaled, up
from sslcut.render.figures import Row
from sslcut.render.results import Document, Score
from sslcut.render.table import Table


def figures(document: Document) -> Iterator[Figure]:
    """Scores by layer, a plot a parameter: R² of numbers, balanced accuracy of what happens or does not."""
    found = dict(list(document.drawn.items())[:MOST_FACETS])
    rows: list[Row] = [
        {
            "parameter": _titled(name, row.metric), "layer": row.layer, "text": words.scored(row),
            "value": scaled(row.value, 100 if words.is_share(row.metric) else 1),
        }
        for name, scores in found.items()
        for row in scores
        if document.is_main(row) and row.layer in document.layers
    ]  # fmt: skip
    if not rows:
        return
    shared = {"x": across(document.layers), "y": up(), "color": {"value": BLUE}}
    told = hover(layer="layer", parameter="", text="score")
    marks = [
        layer_of("line", None, shared, strokeWidth=1.75),
        layer_of("point", None, shared | {"tooltip": told}, filled=True, size=38, opacity=1),
    ]
    yield Figure(
        "view-parameters",
        "What a layer knows of how its view was made",
        "Linear probes from the features of a view to what was drawn for it; no image is on both sides.",
        f"Probes for {words.listed(list(found))} by layer. {' '.join(_told(document))}",
        facets(rows, "parameter", list(dict.fromkeys(row["parameter"] for row in rows)), marks),
    )


def scores(document: Document) -> Table | None:
    """Layer × parameter: the score with its interval."""
    found = document.drawn
    cells = {(document.place_name(row), name): words.scored(row) for name, rows in found.items() for row in rows}
    places = dict.fromkeys(place for place, _ in cells)
    rows = tuple((place, *(cells.get((place, name), words.DASH) for name in found)) for place in places)
    return Table("Every score of a view's parameters", ("layer", *found), rows, open=False) if rows else None


def _titled(name: str, metric: str) -> str:
    return f"{name.replace('_', ' ')} ({words.metric_name(metric)}{', %' if words.is_share(metric) else ''})"


def _told(document: Document) -> Iterator[str]:
    for name, rows in document.drawn.items():
        chosen = max((row for row in rows if row.validation is not None), key=_validated, default=None)
        told = [f"{words.score(rows[-1].value, rows[-1].metric)} at {document.place_name(rows[-1])}"]
        if chosen is not None:
            score = words.score(chosen.value, chosen.metric)
            told.insert(0, f"best by validation at {document.place_name(chosen)} with {score}")
        yield f"{name}: {', '.join(told)}."


def _validated(row: Score) -> float:
    return row.validation or 0.0
