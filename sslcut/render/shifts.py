"""How layers read shifted test images: the best one under each shift, chosen on validation images shifted alike."""

from collections.abc import Iterator, Sequence

from sslcut.render import words
from sslcut.render.chart import GREY, PALETTE, Figure, Spec, across, coloured, facets, hover, layer_of, scaled, up
from sslcut.render.figures import Row, shown, units
from sslcut.render.results import Document, Score
from sslcut.render.table import Table

UNSHIFTED = "as they are"
STRENGTHS = {"1": 0.35, "2": 0.6, "3": 1.0}  # how solid the lines of a level are
FEW = 24  # rows of a table that the page shows at once


def sentence(document: Document) -> str:
    """Under how many shifts another layer is the best than without, and how sure that is; empty without shifts."""
    pairs = [
        (chosen, own)
        for task in document.metrics
        if (own := _best(document.scores(task), document))
        for rows in document.shifts(task).values()
        if (chosen := _best(rows, document))
    ]
    if not pairs:
        return ""
    moved = [chosen for chosen, own in pairs if (chosen.layer, chosen.readout) != (own.layer, own.readout)]
    surely = sum(words.verdict(chosen) == "better" for chosen in moved)
    return (
        f"Under {len(moved)} of {words.counted(len(pairs), 'shift')} (every level and task) validation names another "
        f"best layer than on the images as they are; {surely} of those surely beat the reference on test images. The "
        "probes are those of the images as they are, not fitted again. A shift may change what a task asks: a turned "
        "image has another rotation."
    )


def best(document: Document) -> Table | None:
    """Task × shift: the best layer by validation images shifted alike, its score, the reference's, and the gain.

    The last column is what the best layer of the unshifted images scores.
    """
    rows = []
    for task in document.metrics:
        own = _best(document.scores(task), document)
        for name, found in document.shifts(task).items():
            chosen = _best(found, document)
            if chosen is not None and own is not None:
                base = next((row for row in found if document.is_reference(row)), None)
                same = next((row for row in found if (row.layer, row.readout) == (own.layer, own.readout)), None)
                rows.append((
                    task,
                    name,
                    document.place_name(chosen, full=True),
                    words.scored(chosen),
                    words.score(base.value if base else None, chosen.metric),
                    "the reference" if document.is_reference(chosen) else words.gained(chosen),
                    f"{words.score(same.value, own.metric)} at {document.place_name(own)}" if same else words.DASH,
                ))  # fmt: skip
    reference = document.reference.layer if document.reference else "the reference"
    score, gain = "score (95 % interval)", "gain (95 % interval)"
    columns = ("task", "shift", "best at", score, f"at {reference}", gain, "at the best without a shift")
    title = "Best layer under each shift, by the probes of the images as they are"
    return Table(title, columns, tuple(rows), open=len(rows) <= FEW) if rows else None


def _best(rows: Sequence[Score], document: Document) -> Score | None:
    """The layer with the best validation score, of equals the first."""
    scored = [row for row in rows if row.layer in document.layers and row.validation is not None]
    return max(scored, key=lambda row: row.validation or 0.0, default=None)


def figures(document: Document) -> Iterator[Figure]:
    """Scores by layer, a plot a task, a line a shift; each layer by its main read-out."""
    for metric, all_tasks in units(document).items():
        tasks, rest = shown([task for task in all_tasks if document.shifts(task)])
        rows = [row for task in tasks for row in _rows(document, task)]
        if rows:
            unit = " (%)" if words.is_share(metric) else ""
            yield Figure(
                f"{'accuracy' if unit else 'r2'}-under-shifts",
                f"{words.metric_name(metric).capitalize()} by layer under shifts{unit}",
                f"The linear probe of the unshifted images (thick). Stronger levels are drawn more solid.{rest}",
                f"Linear probe of {words.listed(tasks)} on shifted images. {' '.join(_told(document, tasks))}",
                facets(rows, "task", tasks, _lines(document, rows)),
            )


def _rows(document: Document, task: str) -> Iterator[Row]:
    for name, scores in {UNSHIFTED: document.scores(task), **document.shifts(task)}.items():
        kind, _, level = name.partition(":")
        folder = kind == "folder"
        for row in (row for row in scores if document.is_main(row) and row.layer in document.layers):
            yield {
                "task": task, "layer": row.layer, "shift": name, "kind": name if folder else kind,
                "level": level if level in STRENGTHS and not folder else "3", "text": words.scored(row),
                "value": scaled(row.value, 100 if words.is_share(row.metric) else 1),
            }  # fmt: skip


def _lines(document: Document, rows: Sequence[Row]) -> list[Spec]:
    kinds = [kind for kind in dict.fromkeys(row["kind"] for row in rows) if kind != UNSHIFTED]
    colour = coloured({UNSHIFTED: GREY, **dict(zip(kinds, PALETTE * len(kinds), strict=False))}, "kind")
    scale = {"domain": list(STRENGTHS), "range": list(STRENGTHS.values())}
    solid = {"field": "level", "type": "nominal", "scale": scale, "legend": None}
    shared = {"x": across(document.layers), "y": up(), "color": colour, "opacity": solid}
    told = hover(task="task", layer="layer", shift="images", text="score")
    each = {"detail": {"field": "shift", "type": "nominal"}}
    return [
        layer_of("line", f"datum.kind === '{UNSHIFTED}'", shared, strokeWidth=3.5),
        layer_of("line", f"datum.kind !== '{UNSHIFTED}'", shared | each, strokeWidth=1.75),
        layer_of("point", None, shared | each | {"tooltip": told}, filled=True, size=24),
    ]


def _told(document: Document, tasks: Sequence[str]) -> Iterator[str]:
    """For readers who see no plot: the best layer under each shift."""
    for task in tasks:
        named = [(name, _best(rows, document)) for name, rows in document.shifts(task).items()]
        told = [
            f"{name} {document.place_name(row)} ({words.score(row.value, row.metric)})" for name, row in named if row
        ]
        yield f"{task}: {', '.join(told)}."
