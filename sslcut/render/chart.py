"""The vocabulary of the figures: what a figure is, its colours and type, and its files (Vega-Lite, no browser).

A figure is one Vega-Lite specification, a plain dict. Marks carry colours that read on white and on near-black; the
theme adds ink, grid and background. `usermeta` tells the page how a figure takes another width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', 'DejaVu Sans', sans-serif"
FILE_FONT = "Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"  # files are drawn without a browser
BLUE, ORANGE, GREEN, RED, GREY, OCHRE = "#2f78c4", "#cf6a10", "#23935c", "#cc4634", "#868d96", "#a07a1c"
PALETTE = (BLUE, ORANGE, "#8a63c7", GREEN, "#c2478d", "#1e95a6", OCHRE, RED, "#5d6fd0", "#6b8e23")
LAYERS_ACROSS = 10  # more names than these stand upright under a plot
MOST_FACETS = 12
GAP = 24  # pixels between small multiples


@dataclass(frozen=True)
class Figure:
    """One figure: a file name, a title, what to look for, its text alternative and its specification."""

    name: str
    title: str
    caption: str
    alt: str
    spec: Spec


def theme(*, dark: bool = False, font: str = FONT, background: str | None = None) -> Spec:
    """The Vega-Lite `config` that every figure shares, for a light or a dark page."""
    ink, soft, grid = ("#e8eaed", "#a9b1ba", "#30363d") if dark else ("#1d2228", "#555e68", "#e4e7ea")
    return {
        "background": background,
        "aria": False,  # the page gives each figure one text alternative
        "font": font,
        "padding": 2,
        "view": {"stroke": None},
        "axis": {
            "labelColor": soft, "titleColor": soft, "gridColor": grid, "domainColor": grid, "tickColor": grid,
            "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelLimit": 150,
        },
        "header": {
            "labelColor": ink, "labelFontSize": 12.5, "labelFontWeight": "bold", "labelLimit": 260, "title": None,
            "labelAnchor": "start", "labelPadding": 4,
        },
        "legend": {
            "orient": "top", "title": None, "labelColor": soft, "labelFontSize": 11.5, "labelLimit": 520, "columns": 6,
            "columnPadding": 16, "rowPadding": 4,
        },
        "text": {"color": ink},
        "rule": {"color": soft},
    }  # fmt: skip


def files(figure: Figure) -> Iterator[tuple[str, bytes]]:
    """The figure as `<name>.svg`, `.png` (twice the size) and `.pdf`: a light theme on white."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg(figure.spec, config=theme(font=FILE_FONT, background="white"))
    yield f"{figure.name}.svg", svg.encode()
    yield f"{figure.name}.png", vl_convert.svg_to_png(svg, scale=2)
    yield f"{figure.name}.pdf", vl_convert.svg_to_pdf(svg)


def facets(
    values: Sequence[Mapping[str, Any]],
    by: str,
    order: Sequence[str],
    layers: Sequence[Spec],
    *,
    cell: int = 250,
    height: int = 180,
    rows: Sequence[str] = (),
) -> Spec:
    """Small multiples: one plot per value of the field `by`, each with its own scale of values.

    `cell` is the least width of a plot in pixels; plots with named `rows` share those names at the left.
    """
    free = "x" if rows else "y"
    left = round(min(120, 14 + 6.4 * max(map(len, rows)))) if rows else 0
    return {
        "data": {"values": list(values)},
        "facet": {"field": by, "type": "nominal", "sort": list(order), "title": None},
        "columns": min(3, len(order)),
        "spacing": {"row": 26, "column": GAP},
        "spec": {"width": cell, "height": height, "layer": list(layers)},
        "resolve": {"scale": {free: "independent"}, "axis": {"x": "independent"}},
        "usermeta": {"cell": cell, "axis": 14 if rows else 38, "left": left, "gap": GAP, "count": len(order)},
    }


def single(values: Sequence[Mapping[str, Any]], layers: Sequence[Spec], *, width: int, height: int, least: int) -> Spec:
    """One plot as wide as the page, scrolled sideways where the page is narrower than `least` pixels."""
    return {
        "data": {"values": list(values)},
        "width": width,
        "height": height,
        "layer": list(layers),
        "usermeta": {"least": least},
    }


def across(layers: Sequence[str]) -> Spec:
    """The x encoding of the network's blocks, first to last."""
    angle = -90 if len(layers) > LAYERS_ACROSS else -40
    axis = {"title": None, "labelAngle": angle, "labelLimit": 90, "grid": False}
    return {"field": "layer", "type": "ordinal", "sort": list(layers), "axis": axis, "scale": {"type": "point"}}


def apart(layers: Sequence[str], series: Sequence[str]) -> Spec:
    """The x encodings that set several series side by side at each block, so that no interval hides another's."""
    if len(series) < 2:
        return {"x": across(layers)}
    places = {"type": "band", "paddingOuter": len(series) / 4}  # two thirds of a block's room
    offset = {"field": "series", "type": "nominal", "sort": list(series), "scale": places}
    return {"x": across(layers) | {"scale": {"type": "band"}}, "xOffset": offset}


def down(order: Sequence[str]) -> Spec:
    """The y encoding of named rows, first on top."""
    axis = {"title": None, "labelLimit": 118, "grid": False, "ticks": False, "domain": False}
    return {"field": "row", "type": "nominal", "sort": list(order), "axis": axis}


def up(field: str = "value", *, title: str | None = None) -> Spec:
    """The y encoding of a number whose scale need not hold zero."""
    axis = {"title": title, "tickCount": 5, "domain": False, "ticks": False}
    return {"field": field, "type": "quantitative", "axis": axis, "scale": {"zero": False, "nice": True}}


def coloured(colours: Mapping[str, str], field: str = "series") -> Spec:
    """The colour encoding of named series, in their order."""
    scale = {"domain": list(colours), "range": list(colours.values())}
    legend = {"symbolType": "circle"} if len(colours) > 1 else None
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend}


def hover(**fields: str) -> list[Spec]:
    """The tooltip: field → the words beside its value."""
    return [{"field": field, "type": "nominal", "title": title} for field, title in fields.items()]


def layer_of(mark: str, test: str | None, encoding: Spec, **options: Any) -> Spec:
    """One layer of a plot: a mark on the rows for which the Vega expression `test` holds."""
    layer: Spec = {"mark": {"type": mark, **options}, "encoding": encoding}
    return {**layer, "transform": [{"filter": test}]} if test else layer


def scaled(value: float | None, scale: float) -> float | None:
    """A number for a plot: scaled, and short, since a figure's values travel with the page."""
    return None if value is None else float(f"{scale * value:.5g}")


def slug(text: str) -> str:
    """A file name from a metric: letters, digits and dashes."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).strip("-") or "score"
