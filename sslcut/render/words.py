"""What the results say, in plain and exact sentences (no torch).

Layer and task names stand in backticks; Markdown shows them as they are, the page as code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sslcut.render.results import Best, Document, Place, Score, Viewed

DASH = "–"
MINUS = "−"
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "r2": "R²", "log_odds": "log-odds"}
PROBES = {
    "linear": "linear probe",
    "knn": "kNN",
    "mlp": "MLP probe",
    "binarised": "the linear probe of which features are above zero",
    "transfer": "the transfer protocol",
}
MEASURES = {
    "rankme": "RankMe",
    "erank_cov": "effective rank of the covariance",
    "participation": "participation ratio",
    "alpha_req": "alpha-ReQ",
    "alpha_req_r2": "R² of alpha-ReQ's fit",
    "cka": "CKA to the layer before",
    "sensitivity_cosine": "sensitivity by cosine",
    "within": "scatter within images",
    "between": "scatter between images",
    "keep_views": "views kept",
    "keep_data": "images kept",
    "rank_data": "RankMe of images",
    "rank_views": "RankMe of views",
    "lidar": "LiDAR",
    "zeros": "fraction of zeros",
    "zeros_exact": "fraction of exact zeros",
    "dead": "dead fraction",
}
EXPLAINED = {
    "rankme": "the effective number of directions in use",
    "erank_cov": "the same of centred features' variances",
    "participation": "the number of directions with equal variances that would spread as much",
    "alpha_req": "how fast variances fall with their rank (1 is balanced; withheld where no power law fits)",
    "cka": "1 where a layer is the one before it but for a rotation and a scale",
    "zeros": "the mean share of an image's features that are zero (rarer the more places are averaged)",
    "zeros_exact": "the same without a tolerance",
    "dead": "the share of features that no image makes positive",
    "uniformity": "lower where images are spread over the whole sphere",
    "alignment": "the squared distance of two views of an image on the sphere, 0 to 4",
    "sensitivity": "the views' share of a layer's scatter (0 is invariant)",
    "sensitivity_cosine": "the distance of two views over that of two images",
    "within": "the scatter of views about their image where a layer's whole scatter is 1",
    "between": "the scatter of images where the whole is 1",
    "rank_data": "the effective number of directions in which images differ",
    "rank_views": "the same for the views of an image",
    "lidar": "the number of directions in which images differ by more than their views do",
    "keep_views": "what the head keeps of the reference's scatter within images",
    "keep_data": "what it keeps of that between images",
    "selectivity": "images kept over views kept (above 1 the head removes views more than images)",
    "tangent": "the share of the plane in which an image's neighbours vary that the head's directions hold",
}
FIDELITY = {
    "exact": "a re-implementation of the paper as published",
    "protocol": "the paper's protocol; sizes and data may differ",
    "inspired": "inspired by the paper; the measures are this program's own",
}


@dataclass(frozen=True)
class Answer:
    """The one sentence that leads the report, the details under it, and what it comes down to."""

    verdict: str  # cut | keep | none
    sentence: str
    details: tuple[str, ...] = ()


def code(name: object) -> str:
    """A name in backticks, on one line."""
    return "`" + " ".join(str(name).replace("`", "'").split()) + "`"


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def counted(count: int, noun: str) -> str:
    """`1 task`, `7 tasks`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def is_share(metric: str) -> bool:
    """Whether a metric is a share of images, told in per cent and its differences in points."""
    return "accuracy" in metric


def metric_name(metric: str) -> str:
    """A metric in words."""
    return METRICS.get(metric, metric.replace("_", " "))


def measure_name(measure: str) -> str:
    """A measure in words."""
    return MEASURES.get(measure, measure.replace("_", " "))


def probe_name(probe: str) -> str:
    """A probe in words."""
    return PROBES.get(probe, probe)


def viewed(views: Viewed) -> str:
    """The reference policy in words: `simclr at strength 0.5`."""
    return f"{views.policy.get('name') or 'a policy'} at strength {views.strength:g}"


def outside_name(layer: str) -> str:
    """A row that is no block of the network, in words: `raw pixels` for the pixels, else as it stands."""
    return {"pixels": "raw pixels", "concat:last4": "last four blocks together"}.get(layer, layer)


def number(value: float | None, digits: int, *, sign: bool = False) -> str:
    """A number with a true minus sign, a dash for none; a rounded zero has no sign."""
    if value is None:
        return DASH
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if not text.strip("+-0."):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def score(value: float | None, metric: str) -> str:
    """A score: `81.3 %` for a share, `0.813` for R²."""
    if value is None:
        return DASH
    return f"{number(100 * value, 1)} %" if is_share(metric) else number(value, 3)


def change(value: float | None, metric: str) -> str:
    """A difference without its unit: points for a share, R² as it is."""
    if value is None:
        return DASH
    return number(100 * value, 1, sign=True) if is_share(metric) else number(value, 3, sign=True)


def interval(low: float | None, high: float | None, metric: str) -> str:
    """` (2.2 to 4.0)`, or nothing where there is no interval."""
    if low is None or high is None:
        return ""
    scale, digits = (100, 1) if is_share(metric) else (1, 3)
    return f" ({number(scale * low, digits)} to {number(scale * high, digits)})"


def scored(row: Score) -> str:
    """A score with its interval: `81.3 % (80.2 to 82.4)`."""
    return score(row.value, row.metric) + interval(row.low, row.high, row.metric)


def gained(row: Score | Best, *, sure: bool = True) -> str:
    """A gain with its unit and, where `sure`, its interval: `+3.1 points (2.2 to 4.0)`, `+0.031 R² (…)`."""
    return gain(row.gain, *((row.gain_low, row.gain_high) if sure else (None, None)), row.metric)


def gain(value: float | None, low: float | None, high: float | None, metric: str) -> str:
    """A difference with its unit and, where there is one, its interval; a dash for none."""
    if value is None:
        return DASH
    unit = "points" if is_share(metric) else metric_name(metric)
    return f"{change(value, metric)} {unit}{interval(low, high, metric)}"


def gain_cell(row: Score | Best) -> str:
    """A gain with its interval for a table whose header tells the unit."""
    return change(row.gain, row.metric) + interval(row.gain_low, row.gain_high, row.metric)


def verdict(row: Score | Best) -> str:
    """`better`, `worse` or `unclear` than the reference, by whether the gain's interval holds 0."""
    if row.gain_low is not None and row.gain_low > 0:
        return "better"
    if row.gain_high is not None and row.gain_high < 0:
        return "worse"
    return "unclear"


def place(document: Document, where: Place) -> str:
    """A place in words: `layer4.0` (read by avg)."""
    readout = where.readout if where.readout not in ("", "vector") else ""
    return code(where.layer) + (f" (read by {readout})" if readout else "")


def answer(document: Document) -> Answer:
    """What one results file says: cut somewhere, keep the reference, or nothing for want of labels."""
    tasks = list(document.metrics)
    if not tasks:
        return Answer(
            "none",
            "No advice on where to cut: there are no labelled results, only measures without labels.",
            ("Such measures describe the layers; they never choose a cut.",),
        )
    if document.recommended is None:
        return Answer("none", f"No recommendation was made; {counted(len(tasks), 'task')} were measured.")
    keeps = document.reference is None or document.is_reference(document.recommended)
    return _keep(document, tasks) if keeps else _cut(document, tasks)


def _cut(document: Document, tasks: Sequence[str]) -> Answer:
    chosen = document.recommended
    assert chosen is not None and document.reference is not None
    where, reference = place(document, chosen), code(document.reference.layer)
    rows = [row for task in tasks if (row := document.score_at(task, chosen)) and row.gain is not None]
    if len(tasks) == 1 and rows:
        text = f"Cut at {where}: {gained(rows[0])} over {reference} on {code(tasks[0])}."
        unclear = verdict(rows[0]) == "unclear"
        return Answer("cut", text, (_unclear_on_test(reference),) if unclear else ())
    sides = {side: [row for row in rows if verdict(row) == side] for side in ("better", "worse", "unclear")}
    parts = [f"better than {reference} on {len(sides['better'])} of {counted(len(tasks), 'task')}"]
    if sides["worse"]:
        parts.append(f"worse on {len(sides['worse'])}")
    if sides["unclear"]:
        parts.append(f"not told apart on {len(sides['unclear'])}")
    text = f"Cut at {where}: {_mean_gain(document, reference)}{listed(parts)}."
    return Answer("cut", text, tuple(_by_side(sides, reference)))


def _mean_gain(document: Document, reference: str) -> str:
    """The gain on the mean of the tasks, where the probe gave one and all tasks have the same unit."""
    chosen, metrics = document.recommended, list(document.metrics.values())
    if chosen is None or chosen.gain is None or len(set(metrics)) > 1:
        return ""
    row = Best(task="", metric=metrics[0], **chosen.model_dump(exclude={"why"}))
    return f"{gained(row)} over {reference} on the mean of {counted(len(metrics), 'task')}; "


def _by_side(sides: dict[str, list[Score]], reference: str) -> list[str]:
    heads = {"better": "Better", "worse": "Worse", "unclear": f"Not told apart from {reference}"}
    return [
        f"{heads[side]}: {', '.join(f'{code(row.task)} {gained(row, sure=False)}' for row in rows)}."
        for side, rows in sides.items()
        if rows
    ]


def _unclear_on_test(reference: str) -> str:
    return f"Validation chose it; on the test images the difference to {reference} is not clear."


def _keep(document: Document, tasks: Sequence[str]) -> Answer:
    where = document.reference or document.recommended
    assert where is not None
    reference, others = code(where.layer), _undecided(document)
    winners = [best for best in document.best if not document.is_reference(best) and verdict(best) == "better"]
    on_tasks = f"on {code(tasks[0])}" if len(tasks) == 1 else f"on any of {len(tasks)} tasks"
    if winners:
        names = listed([code(best.task) for best in winners])
        many = counted(len(tasks), "task")
        text = f"Keep {reference}: the best for {many} together; {names} alone read better elsewhere."
        return Answer("keep", text, (*(_winner(document, best) for best in winners), *others))
    if others and len(tasks) == 1:
        told = listed([code(name) for name in _others(document, document.best[0])])
        return Answer("keep", f"Keep {reference}: {told} could not be told apart from it {on_tasks}.")
    return Answer("keep", f"Do not cut: no layer beats {reference} {on_tasks}.", tuple(others))


def _winner(document: Document, best: Best) -> str:
    return f"{code(best.task)} alone is read better at {place(document, best)}: {gained(best)}."


def _others(document: Document, best: Best) -> list[str]:
    """The layers that validation could not tell apart from the reference on a task, the reference left out."""
    names = [item if isinstance(item, str) else document.place_name(item) for item in best.among]
    reference = document.reference.layer if document.reference else ""
    return [name for name in dict.fromkeys(names) if name != reference]


def _undecided(document: Document) -> list[str]:
    kept = [best for best in document.best if document.is_reference(best)]
    told = {best.task: _others(document, best) for best in kept}
    return [
        f"On {code(task)}, {listed([code(name) for name in names])} could not be told apart from the reference."
        for task, names in told.items()
        if names
    ]


def paper(recipe: dict[str, Any]) -> str:
    """Which paper a recipe follows and how closely, or an empty string."""
    told = recipe.get("paper")
    if not isinstance(told, dict) or not told.get("id"):
        return ""
    fidelity = str(told.get("fidelity") or "unstated")
    meaning = f" ({FIDELITY[fidelity]})" if fidelity in FIDELITY else ""
    return (
        f"Paper: arXiv {code(told['id'])}, fidelity: {fidelity}{meaning}. "
        "These numbers come from this run's data and are not comparable with the paper's."
    )


def protocol(document: Document) -> list[str]:
    """How the numbers were made: which split chose, what an interval means, what the reference is."""
    reference = document.reference
    read = f" The reference is {place(document, reference)}, the published read-out." if reference else ""
    return [
        "Validation chooses, test reports: regularisation, layer and read-out are chosen on validation images, and "
        "every score shown is measured on images that chose nothing." + read,
        "A gain is the layer's score less the reference's on the same images. Intervals are 95 % and paired, from "
        "resampling test images (whole groups where there are groups): they speak of this checkpoint, not of the "
        "recipe.",
        "A recommendation is the reference wherever validation cannot tell it apart from the best; else the earliest "
        "of those that validation cannot tell apart from the best.",
    ]


CROSS_FITTED = (
    "There is no test split: in five folds every image fits, validates and tests in turn. The layer was chosen with "
    "the help of images that its score is then taken from, so the chosen layer's gain leans a little to the good side."
)
RESIZED = (
    "This network is resized, needs training: its last block was drawn anew, and what stands behind it reads that. "
    "The scores there are an untrained block's; `sslcut pretrain` with `from:` goes on."
)
DEMONSTRATION = (
    "The data set `shapes` is a demonstration: its factors are drawn, and its effects are planted. "
    "It shows how the measurement works and says nothing about photographs."
)
