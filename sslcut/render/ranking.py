"""Where to cut without labels: the layer that each ranking by a label-free measure names, and what it would cost.

It reads the results alone, advises and never cuts. Three rules advise: LiDAR's maximum, the end of sensitivity's
plateau and the last layer before CKA's largest fall. The other rankings stand beside them to be judged: most measures
were made to compare networks, not layers of different width, and RankMe calls noise good. A layer is never ranked by
its invariance, of which the network's end has most by construction.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from statistics import StatisticsError, correlation, fmean
from typing import Literal

from sslcut.render import words
from sslcut.render.results import Document, Place
from sslcut.render.table import Table

DEAD = 2.0  # a layer whose RankMe or LiDAR is below this has collapsed
PLATEAU = 0.95  # of the highest sensitivity before it: less has begun to fall
Key = tuple[str, str]  # a layer and its read-out
Part = Literal["test", "validation"]  # the images that a score is of
Values = Mapping[Key, float]  # in the network's order
ADVICE = (
    "Measures without labels advise, they never cut: a factor that training's views destroy is read best far before "
    "the reference, which no such measure can know. Where the three rules that advise do not name one layer, the "
    "reference is suggested."
)


@dataclass(frozen=True)
class Ranking:
    """A rule that names a layer: the measure that it reads, and which layers (of equals all) it names.

    `score` turns the measure, given the layer's width, into what should grow with the layer's worth; None withholds it.
    """

    name: str
    measure: str
    names: Callable[[Values], list[Key]]
    score: Callable[[float, int | None], float | None] = lambda value, _: value
    advises: bool = False


@dataclass(frozen=True)
class Named:
    """What one ranking names in one result.

    `lost` is how far the place scores below the labelled choice, `gain` how far above the reference: the mean over
    tasks in points (R² × 100 for numbers and angles). `agreement` is Spearman's correlation, over layers, of the
    ranking's score with the labelled probe's. None without labels.
    """

    ranking: Ranking
    place: Place
    lost: float | None
    gain: float | None
    agreement: float | None


# ---- the rules


def highest(values: Values) -> list[Key]:
    """The layers with the largest value, to a millionth: a pool's features are the mean of the block before."""
    top = max(values.values())
    return [key for key, value in values.items() if isclose(value, top, rel_tol=1e-6)]


def plateau(values: Values) -> list[Key]:
    """The last layer whose value is at least 95 % of the largest before it."""
    keys, told = list(values), list(values.values())
    return [keys[max(i for i, value in enumerate(told) if not i or value >= PLATEAU * max(told[:i]))]]


def before_fall(values: Values) -> list[Key]:
    """The layer after which the value falls most; none where it never falls."""
    keys, told = list(values), list(values.values())
    falls = [a - b for a, b in zip(told, told[1:], strict=False)]
    most = max(falls, default=0.0)
    return [keys[falls.index(most)]] if most > 0 else []


RANKINGS = (
    Ranking("LiDAR", "lidar", highest, advises=True),
    Ranking("sensitivity's plateau", "sensitivity", plateau, advises=True),
    Ranking("before CKA's largest fall", "cka", before_fall, advises=True),
    Ranking("alpha-ReQ nearest to 1", "alpha_req", highest, lambda value, _: -abs(value - 1)),
    Ranking("RankMe", "rankme", highest),
    Ranking("RankMe ÷ width", "rankme", highest, lambda value, width: value / width if width else None),
    Ranking("effective rank of the covariance", "erank_cov", highest),
    Ranking("participation ratio", "participation", highest),
    Ranking("uniformity", "uniformity", highest, lambda value, _: -value),  # lower is better
)


MEASURES = words.listed([words.code(ranking.measure) for ranking in RANKINGS if ranking.advises])


def scores(document: Document, ranking: Ranking) -> dict[Key, float]:
    """A ranking's score of each layer at its main read-out, in the network's order; without dead ones and withheld."""
    widths = {_key(row): row.dim for row in document.results if row.plain}
    dead = {
        _key(one)
        for one in document.measures
        if one.measure in ("rankme", "lidar") and one.value is not None and one.value < DEAD
    }
    found: dict[Key, float] = {}
    for one in document.measures:
        counts = one.measure == ranking.measure and one.value is not None and _key(one) not in dead
        if counts and document.is_main(one) and one.layer in document.layers:
            value = ranking.score(one.value or 0.0, widths.get(_key(one)))
            found |= {_key(one): value} if value is not None else {}
    return dict(sorted(found.items(), key=lambda item: document.layers.index(item[0][0])))


def named(document: Document) -> list[Named]:
    """What every ranking names whose measure is there, with its cost where there are labels."""
    found = []
    for ranking in RANKINGS:
        values = scores(document, ranking)
        places = ranking.names(values) if values else []
        if places:
            place = _one_of(places, document)
            lost, gain = (points_between(document, base, place) for base in (document.recommended, document.reference))
            found.append(Named(ranking, place, lost, None if gain is None else -gain, _agreement(document, values)))
    return found


def suggested(document: Document, found: Sequence[Named]) -> Place | None:
    """The layer that all advising rules name, where there are several; else the reference."""
    places = [one.place for one in found if one.ranking.advises]
    agreed = len(places) > 1 and len({_key(place) for place in places}) == 1
    return places[0] if agreed else document.reference


def _one_of(places: Sequence[Key], document: Document) -> Place:
    """Of equals the reference, else the earliest."""
    mine = [Place(layer=layer, readout=readout) for layer, readout in places]
    return next((place for place in mine if document.is_reference(place)), mine[0])


def _key(place: Place) -> Key:
    return place.layer, place.readout


# ---- what following a ranking would have cost


def mean_points(document: Document, place: Place | None, part: Part = "test") -> float | None:
    """The mean over tasks of the linear probe's score at a place, in points; None where some task has none."""
    found = [row for task in document.metrics if (row := document.score_at(task, place)) is not None]
    told = [row.value if part == "test" else row.validation for row in found]
    values = [value for value in told if value is not None]
    return 100 * fmean(values) if values and len(values) == len(document.metrics) else None


def points_between(document: Document, one: Place | None, other: Place | None, part: Part = "test") -> float | None:
    """How many points `one` scores above `other`; None where either has no score."""
    mine, theirs = mean_points(document, one, part), mean_points(document, other, part)
    return None if mine is None or theirs is None else mine - theirs


def _agreement(document: Document, values: Values) -> float | None:
    labelled = {key: mean_points(document, Place(layer=key[0], readout=key[1])) for key in values}
    both = [(value, told) for key, value in values.items() if (told := labelled[key]) is not None]
    return spearman([a for a, _ in both], [b for _, b in both])


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equals sharing their mean rank; None where one of the two never varies."""
    try:
        return correlation(_ranks(one), _ranks(other))
    except StatisticsError:
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values]


# ---- in words


def prose(document: Document) -> Iterator[str]:
    """What the advising rules name, what is suggested and what that would have cost."""
    found = named(document)
    if not found:
        return
    advising = [one for one in found if one.ranking.advises]
    told = [f"{one.ranking.name} names {words.place(document, one.place)}" for one in advising]
    yield f"{words.listed(told)}." if told else f"None of the measures that advise was taken: {MEASURES}."
    places = sorted({document.layers.index(one.place.layer) for one in found})
    if len(places) > 1:
        first, last = (words.code(document.layers[places[end]]) for end in (0, -1))
        yield f"All rankings together name {len(places)} layers, from {first} to {last}."
    suggestion = suggested(document, found)
    if suggestion is not None:
        kept = "the reference " if document.is_reference(suggestion) else ""
        yield f"Suggested is {kept}{words.place(document, suggestion)}{_cost(document, suggestion)}."
    yield ADVICE


def _cost(document: Document, place: Place) -> str:
    lost = points_between(document, document.recommended, place)
    if lost is None:
        return ""
    if lost == 0:
        return ", which the labels choose too"
    return (
        f", which scores {words.number(abs(lost), 1)} points {'less' if lost > 0 else 'more'} than the labelled choice"
    )


def table(document: Document) -> Table | None:
    """A row a ranking: the layer that it names, what following it would have cost, its agreement with the labels."""
    found = named(document)
    rows = tuple(
        (
            one.ranking.name,
            "yes" if one.ranking.advises else "",
            document.place_name(one.place, full=True),
            *(words.number(value, 1, sign=True) for value in (_negative(one.lost), one.gain)),
            words.number(one.agreement, 2, sign=True),
        )
        for one in found
    )
    labelled = any(one.lost is not None for one in found)
    columns = ("ranking", "advises", "names", "against the labelled choice", "against the reference", "Spearman")
    kept = len(columns) if labelled else 3
    title = "Rankings of the layers without labels" + (": points that following each would gain" if labelled else "")
    return Table(title, columns[:kept], tuple(row[:kept] for row in rows)) if rows else None


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
