"""What following a ranking would have cost over several checkpoints, and how well one learns which to follow.

The regret of a strategy in one result, of one checkpoint on one data set, is how many points the labelled choice scores
above the place that it names, the mean over tasks; a checkpoint's is the mean over its results. Strategies are compared
only in results where both name a place. One checkpoint at a time is left out: the strategy that did best on the others'
validation images is followed there.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sslcut.render import words
from sslcut.render.chart import BLUE, GREY, ORANGE, Figure, down, hover, layer_of, scaled, single
from sslcut.render.compare import Spread, spread
from sslcut.render.ranking import RANKINGS, Named, named, points_between, suggested
from sslcut.render.results import Document, Place
from sslcut.render.table import Table

REFERENCE = "always the reference"
SUGGESTED = "the advising rules where they agree"
LEFT_OUT = "the best on the other checkpoints"
DEPTHS = (0.25, 0.5, 0.75)  # of the blocks up to the reference, for networks whose blocks have other names
Strategy = Callable[[Document, Sequence[Named]], Place | None]
Pair = tuple[str, int]  # a checkpoint's identity, and which of the results it is: one for each data set


@dataclass(frozen=True)
class Lost:
    """The points that a strategy loses to the labelled choice: on test images, and on those of validation."""

    test: float
    validation: float | None


Regrets = dict[str, dict[Pair, Lost]]  # by strategy


@dataclass(frozen=True)
class Choice:
    """What was followed at one checkpoint, since it was best on the others' validation, and what that cost on test."""

    checkpoint: str
    strategy: str
    lost: float


# ---- strategies


def strategies(documents: Sequence[Document]) -> dict[str, Strategy]:
    """The reference first, which stands for equals; the suggestion; each ranking; each layer that all have; depths."""
    found: dict[str, Strategy] = {REFERENCE: lambda document, _: document.reference, SUGGESTED: suggested}
    found |= {ranking.name: _following(ranking.name) for ranking in RANKINGS}
    shared = [layer for layer in documents[0].layers if all(layer in one.layers for one in documents)]
    references = {one.reference.layer for one in documents if one.reference is not None}
    shared = [layer for layer in shared if references != {layer}]
    found |= {f"always `{layer}`": _layer(layer) for layer in shared}
    if len({tuple(one.layers) for one in documents}) > 1:
        found |= {f"always at depth {depth:g}": _depth(depth) for depth in DEPTHS}
    return found


def _following(name: str) -> Strategy:
    return lambda _, found: next((one.place for one in found if one.ranking.name == name), None)


def _layer(layer: str) -> Strategy:
    return lambda document, _: _main(document, layer)


def _depth(depth: float) -> Strategy:
    def at(document: Document, _: Sequence[Named]) -> Place | None:
        reference = document.reference
        if reference is None or reference.layer not in document.layers:
            return None
        blocks = document.layers.index(reference.layer) + 1
        return _main(document, document.layers[max(0, round(depth * blocks) - 1)])

    return at


def _main(document: Document, layer: str) -> Place | None:
    if document.reference is not None and document.reference.layer == layer:
        return document.reference
    return Place(layer=layer, readout=document.readouts[layer]) if layer in document.readouts else None


# ---- regrets


def regrets(documents: Sequence[Document]) -> Regrets:
    """What each strategy loses in each result whose reference has labelled scores; a strategy only where it names."""
    labelled = [one for one in documents if points_between(one, one.recommended, one.reference) is not None]
    if not labelled:
        return {}
    rankings = [named(one) for one in labelled]
    found: Regrets = {}
    for name, strategy in strategies(labelled).items():
        for index, (document, ranked) in enumerate(zip(labelled, rankings, strict=True)):
            lost = _lost(document, strategy(document, ranked))
            if lost is not None:
                found.setdefault(name, {})[document.checkpoint.identity, index] = lost
    return found


def _lost(document: Document, place: Place | None) -> Lost | None:
    test = points_between(document, document.recommended, place)
    return None if test is None else Lost(test, points_between(document, document.recommended, place, "validation"))


def by_checkpoint(points: Mapping[Pair, float]) -> dict[str, float]:
    """Each checkpoint's mean over those of its results that are there."""
    found: dict[str, list[float]] = {}
    for (checkpoint, _), value in points.items():
        found.setdefault(checkpoint, []).append(value)
    return {checkpoint: fmean(values) for checkpoint, values in found.items()}


def _tested(lost: Mapping[Pair, Lost]) -> dict[str, float]:
    return by_checkpoint({pair: one.test for pair, one in lost.items()})


def _validated(lost: Mapping[Pair, Lost]) -> dict[str, float]:
    return by_checkpoint({pair: one.validation for pair, one in lost.items() if one.validation is not None})


def left_out(found: Regrets) -> list[Choice]:
    """For each checkpoint the strategy with the least mean regret on all others, of equals the first, and its cost.

    Regret on validation images chooses, the cost is on test images. Only strategies that name a place with both in
    every result are compared. None with fewer than three checkpoints.
    """
    pairs = found.get(REFERENCE, {})
    whole = {name: lost for name, lost in found.items() if lost.keys() == pairs.keys()}
    validated = {
        name: _validated(lost)
        for name, lost in whole.items()
        if all(one.validation is not None for one in lost.values())
    }
    checkpoints = list(_tested(pairs))
    if len(checkpoints) < 3 or not validated:
        return []
    choices = []
    for checkpoint in checkpoints:
        means = {name: fmean(lost[one] for one in checkpoints if one != checkpoint) for name, lost in validated.items()}
        best = min(means, key=lambda name: round(means[name], 9))
        choices.append(Choice(checkpoint, best, _tested(whole[best])[checkpoint]))
    return choices


# ---- in words


def told(documents: Sequence[Document]) -> tuple[tuple[str, ...], tuple[Figure, ...], tuple[Table, ...]]:
    """The prose, the figure and the table on several checkpoints; nothing with fewer than two that have labels."""
    found = regrets(documents)
    if len(_tested(found.get(REFERENCE, {}))) < 2:
        return (), (), ()
    choices = left_out(found)
    spreads = {name: spread(list(_tested(lost).values())) for name, lost in found.items()}
    if choices:
        spreads[LEFT_OUT] = spread([choice.lost for choice in choices])
    return tuple(prose(found, choices)), (figure(spreads),), (table(found, spreads),)


def prose(found: Regrets, choices: Sequence[Choice]) -> Iterator[str]:
    """Which strategy the other checkpoints choose and what it costs on the one left out, beside the reference."""
    kept = spread(list(_tested(found[REFERENCE]).values()))
    reference = f"{REFERENCE} {_points(kept)}"
    if not choices:
        yield f"Points lost to the labelled choice, mean over {len(kept.values)} checkpoints: {reference}."
        return
    counts = Counter(choice.strategy for choice in choices)
    chosen = words.listed([f"{name} ({count} of {len(choices)})" for name, count in counts.most_common()])
    lost = [choice.lost for choice in choices]
    told = "loses", spread(lost), "to"
    if fmean(lost) < 0:
        told = "gains", spread([-value for value in lost]), "on"
    yield (
        f"One checkpoint left out at a time, the least is lost on the others' validation images by {chosen}. Followed "
        f"on the test images of the one left out, that {told[0]} {_points(told[1])} {told[2]} the labelled choice; "
        f"{reference}."
    )


def _points(lost: Spread) -> str:
    bounds = "" if lost.low is None else f" (95 %: {words.number(lost.low, 1)} to {words.number(lost.high, 1)})"
    return f"{words.number(lost.mean, 1)} points{bounds}"


def table(found: Regrets, spreads: Mapping[str, Spread]) -> Table:
    """A row a strategy: its mean regret with a t interval over checkpoints, its worst, its gain on the reference.

    The gain is over the reference in the same results, where the strategy names a place.
    """
    rows = []
    for name, lost in spreads.items():
        pairs = found.get(name, found[REFERENCE])
        base = _tested({pair: found[REFERENCE][pair] for pair in pairs})
        interval = "" if lost.low is None else f" ({words.number(lost.low, 1)} to {words.number(lost.high, 1)})"
        rows.append((
            name.replace("`", ""),
            words.number(lost.mean, 1) + interval,
            words.number(max(lost.values), 1),
            words.number(fmean(base.values()) - lost.mean, 1, sign=True),
            str(len(lost.values)),
            f"{len(pairs)} of {len(found[REFERENCE])}",
        ))  # fmt: skip
    columns = (
        "followed",
        "points lost (95 % over checkpoints)",
        "at worst",
        "better than the reference by",
        "checkpoints",
        "names a place in",
    )
    return Table("What following each would have cost against the labelled choice", columns, tuple(rows))


def figure(spreads: Mapping[str, Spread]) -> Figure:
    """The mean regret of every strategy with its interval, the least on top."""
    order = sorted(spreads, key=lambda name: spreads[name].mean)
    names = {name: name.replace("`", "") for name in order}
    rows = [
        {
            "row": names[name],
            "kind": "learnt" if name == LEFT_OUT else "fixed" if name.startswith("always") else "ranking",
            "value": scaled(spreads[name].mean, 1),
            "low": scaled(spreads[name].low, 1),
            "high": scaled(spreads[name].high, 1),
            "text": _points(spreads[name]),
        }
        for name in order
    ]
    axis = {"title": "points lost to the labelled choice", "domain": False, "ticks": False}
    x, y = {"field": "value", "type": "quantitative", "axis": axis}, down([names[name] for name in order])
    y["axis"]["labelLimit"] = 240
    scale = {"domain": ["ranking", "fixed", "learnt"], "range": [BLUE, GREY, ORANGE]}
    at = {"y": y, "color": {"field": "kind", "type": "nominal", "scale": scale, "legend": None}}
    dot = at | {"x": x, "tooltip": hover(row="followed", text="lost")}
    ends = {"x": {"field": "low", "type": "quantitative", "axis": axis}, "x2": {"field": "high"}}
    return Figure(
        "cost-of-rankings",
        "What following each ranking would have cost",
        "Mean over checkpoints with 95 % t intervals. Blue follows a measure without labels, grey a fixed place, "
        "orange what was best on the other checkpoints. The table says in which results each names a place.",
        " ".join(f"{names[name]}: {_points(spreads[name])}." for name in order),
        single(
            rows,
            [
                layer_of("rule", "datum.low !== null", at | ends, strokeWidth=1.75),
                layer_of("point", None, dot, filled=True, size=60, opacity=1),
            ],
            width=420, height=22 * len(order), least=520,
        ),
    )  # fmt: skip
