"""Tables, as Markdown and CSV (no torch): a title, column names, and rows of text.

CSV holds the numbers as the results files do; tables for people are in words (per cent, points, intervals).
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from sslcut.render import compare, words
from sslcut.render.gather import Found
from sslcut.render.results import Best, Cost, Document, Measure, Score

AT_ONCE = 8  # results whose differences are shown without being asked for


@dataclass(frozen=True)
class Table:
    """A table for people; `open` says whether the page shows it at once or folds it away."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    open: bool = True

    def numeric(self, index: int) -> bool:
        """Whether a column holds numbers, which stand to the right."""
        cells = [row[index] for row in self.rows if row[index] not in ("", words.DASH)]
        return bool(cells) and all(cell[0] in f"+{words.MINUS}0123456789" for cell in cells)

    def markdown(self) -> str:
        """The table in GitHub's Markdown, its cells escaped."""
        ruler = ["---:" if self.numeric(index) else "---" for index in range(len(self.columns))]
        lines = [[_escaped(cell) for cell in self.columns], ruler, *([_escaped(c) for c in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    for character in "\\|`*_[]":
        text = text.replace(character, f"\\{character}")
    return text


# ---- one result


def best(document: Document) -> Table | None:
    """Per task: where it is best read, the score there, at the reference and at the network's end, and the gain."""
    rows = [
        (
            one.task,
            words.metric_name(one.metric),
            document.place_name(one, full=True),
            words.score(one.value, one.metric),
            words.score(one.reference_value, one.metric),
            "the reference" if document.is_reference(one) else words.gained(one),
            words.score(one.end_value, one.metric),
            _over_end(one),
        )
        for one in document.best
    ]
    reference = document.reference.layer if document.reference else "the reference"
    columns = (
        "task",
        "metric",
        "best at",
        "score",
        f"at {reference}",
        "gain (95 % interval)",
        "at the end",
        "over the end",
    )
    return Table("Chosen on validation, measured on test", columns, tuple(rows)) if rows else None


def recommended(document: Document) -> Table | None:
    """Per task: the score and gain at the one place that is recommended for all tasks."""
    chosen = document.recommended
    if chosen is None or document.is_reference(chosen) or len(document.metrics) < 2:
        return None
    found = [(task, document.score_at(task, chosen)) for task in document.metrics]
    rows = tuple(
        (task, words.metric_name(row.metric), words.scored(row), words.gained(row), words.verdict(row))
        for task, row in found
        if row is not None
    )
    columns = ("task", "metric", "score (95 % interval)", "gain (95 % interval)", "than the reference")
    return Table(f"All tasks read at {document.place_name(chosen, full=True)}", columns, rows) if rows else None


def _over_end(one: Best) -> str:
    if one.value is None or one.end_value is None:
        return words.DASH
    return words.change(one.value - one.end_value, one.metric) + _unit(one.metric)


def _unit(metric: str) -> str:
    return " points" if words.is_share(metric) else ""


def scores(document: Document, probe: str = "linear") -> Table | None:
    """Layer × task: the score with its interval by one probe."""
    tasks = tuple(task for task in document.metrics if document.scores(task, probe))
    cells: dict[str, dict[str, str]] = {}
    for task in tasks:
        for row in document.scores(task, probe):
            cells.setdefault(document.place_name(row), {})[task] = words.scored(row)
    for row in document.joint(probe):
        cells.setdefault(document.place_name(row), {})[row.task] = words.scored(row)
    tasks += tuple(dict.fromkeys(row.task for row in document.joint(probe)))
    title = f"Every score by {words.probe_name(probe)}"
    return _grid(document, title, cells, tasks)


def gains(document: Document) -> Table | None:
    """Layer × task: the gain over the reference with its interval."""
    tasks = tuple(document.metrics)
    cells: dict[str, dict[str, str]] = {}
    for task in tasks:
        for row in document.scores(task):
            if row.gain is not None and not document.is_reference(row):
                cells.setdefault(document.place_name(row), {})[task] = words.gain_cell(row)
    return _grid(document, "Every gain (points of accuracy, or R²)", cells, tasks)


def _grid(document: Document, title: str, cells: dict[str, dict[str, str]], tasks: tuple[str, ...]) -> Table | None:
    rows = tuple(
        (place, *(cells[place].get(task, words.DASH) for task in tasks)) for place in _in_order(document, cells)
    )
    return Table(title, ("layer", *tasks), rows, open=False) if rows else None


def _in_order(document: Document, places: Iterable[str]) -> list[str]:
    """Names of places in the network's order."""
    order = {layer: index for index, layer in enumerate(document.layers)}
    return sorted(places, key=lambda place: order.get(place.split(" · ")[0], len(order)))


def baselines(document: Document) -> Table | None:
    """Per task: the reference, the same place in the untrained network, and the raw pixels."""
    rows = []
    for task, metric in document.metrics.items():
        at = document.score_at(task, document.reference)
        untrained = [row.untrained for row in document.scores(task) if row.untrained is not None]
        pixels = next((row.value for row in document.scores(task) if row.layer == "pixels"), None)
        if untrained or pixels is not None:
            rows.append((
                task,
                words.score(at.value if at else None, metric),
                words.score(at.untrained if at else None, metric),
                words.score(max(untrained, default=None), metric),
                words.score(pixels, metric),
            ))  # fmt: skip
    columns = ("task", "reference", "reference, untrained", "untrained, the highest on test", "raw pixels")
    return Table("By the linear probe", columns, tuple(rows)) if rows else None


def beyond_linear(document: Document) -> Table | None:
    """Layer × task: what an MLP, or the features' signs alone, score over the linear probe."""
    rows = []
    for probe, told in (("mlp", "MLP − linear"), ("binarised", "binarised − linear")):
        places: dict[str, dict[str, str]] = {}
        for task in document.metrics:
            base = {(row.layer, row.readout): row.value for row in document.scores(task)}
            for row in document.scores(task, probe):
                linear = base.get((row.layer, row.readout))
                if row.value is not None and linear is not None:
                    found = places.setdefault(document.place_name(row), {})
                    found[task] = words.change(row.value - linear, row.metric)
        for place in _in_order(document, places):
            rows.append((place, told, *(places[place].get(task, words.DASH) for task in document.metrics)))
    columns = ("layer", "difference", *document.metrics)
    return Table("Over the linear probe (points of accuracy, or R²)", columns, tuple(rows)) if rows else None


def cost(document: Document) -> Table | None:
    """What reading at each layer costs."""
    rows = tuple(
        (
            one.layer,
            words.DASH if one.parameters is None else f"{one.parameters:,.0f}",
            words.DASH if one.flops is None else f"{one.flops:,.0f}",
            words.DASH if one.seconds_per_1000 is None else f"{one.seconds_per_1000:.3g}",
        )
        for one in document.cost
    )
    columns = ("layer", "parameters", "FLOPs an image", "seconds per 1000")
    return Table("Cost of reading at each layer", columns, rows, open=False) if rows else None


# ---- several results


def differences(documents: Sequence[Document], labels: Sequence[str]) -> Table | None:
    """What differs between the runs' recipes: a row a result, a column a dotted key."""
    differing = compare.differences(documents)
    columns = ("result", "checkpoint", "data", *differing)
    rows = tuple(
        (label, one.checkpoint.name, one.data_label, *(compare.shown_value(values[i]) for values in differing.values()))
        for i, (label, one) in enumerate(zip(labels, documents, strict=True))
    )
    return Table("Recipe keys whose values differ", columns, rows, open=len(rows) <= AT_ONCE)


def seeds(group: compare.Group) -> Table | None:
    """A recipe over its seeds: per task validation's choice, its score and its paired gain with t intervals."""
    rows = []
    document = group.documents[0]
    for task, metric in document.metrics.items():
        found = compare.chosen_over_seeds(group, task)
        if found is None:
            continue
        place, score, gain = found
        told = words.gain(gain.mean, gain.low, gain.high, metric) if gain else words.DASH
        positive = f"{sum(value > 0 for value in gain.values)} of {group.seeds}" if gain else words.DASH
        where = document.place_name(place, full=True)
        kept = document.is_reference(place)
        shown = words.score(score.mean, metric) + words.interval(score.low, score.high, metric)
        rows.append((task, where, shown, *(("the reference", "") if kept else (told, positive))))
    columns = ("task", "read at", "score (95 % over seeds)", "gain (95 % over seeds)", "seeds that gain")
    return Table(f"{group.label}: {group.seeds} seeds", columns, tuple(rows)) if rows else None


def atlas_table(made: Sequence[compare.Cell]) -> Table | None:
    """The atlas in rows: checkpoint, data and task, best place, gain, depth."""
    rows = tuple(
        (
            cell.checkpoint,
            cell.column,
            cell.best.layer + (f" · {cell.best.readout}" if cell.best.readout not in ("", "vector") else ""),
            words.DASH if cell.depth is None else f"{cell.depth:.2f}",
            "keeps the reference" if cell.keeps else words.gained(cell.best),
            "" if cell.keeps else words.verdict(cell.best),
        )
        for cell in made
    )
    columns = ("checkpoint", "data and task", "best at", "depth", "gain (95 %, this checkpoint)", "verdict")
    return Table("Every cell", columns, rows, open=False) if rows else None


# ---- CSV


def csv_files(found: Sequence[Found]) -> Iterator[tuple[str, str]]:
    """`results.csv`, `best.csv` and, where there are any, `measures.csv` and `cost.csv`: one row a number."""
    kinds: dict[str, type[BaseModel]] = {"results": Score, "best": Best, "measures": Measure, "cost": Cost}
    for name, kind in kinds.items():
        rows = [(one, row) for one in found for row in getattr(one.document, name)]
        if rows or name in ("results", "best"):
            yield f"{name}.csv", _csv(list(kind.model_fields), rows)


def csv_records(records: Sequence[Mapping[str, Any]]) -> str:
    """Flat records with the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _csv(fields: list[str], rows: Sequence[tuple[Found, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["checkpoint", "identity", "data", *fields])
    for one, row in rows:
        document = one.document
        writer.writerow([
            document.checkpoint.name, document.checkpoint.identity, document.data_name,
            *(_csv_value(getattr(row, field)) for field in fields),
        ])  # fmt: skip
    return text.getvalue()


def _csv_value(value: Any) -> Any:
    """Lists (the places that could not be told apart) become one field, separated by spaces."""
    if not isinstance(value, list):
        return value
    return " ".join(item if isinstance(item, str) else f"{item.layer}/{item.readout}" for item in value)
