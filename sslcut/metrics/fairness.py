"""The answer under each control: would another layer be recommended at one width, in another scale, from few labels?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sslcut.data.images import Task
from sslcut.metrics.layer import Fit
from sslcut.metrics.recommend import Key, candidates, chosen_place, recommendation
from sslcut.metrics.table import Part, Row

PAIRWISE = "pca=pairwise"  # each layer beside the reference, both at the narrower one's width
Settings = Mapping[tuple[float, str], Sequence[Fit]]  # the linear probe's fits by share of the labels and by setting
PLAIN = (1.0, "")


@dataclass(frozen=True)
class Alternative:
    """Fits of every layer and task under one control.

    Where there are fits `against` them, one for each, a score is the difference of the two.
    """

    control: str
    fits: Sequence[Fit]
    against: Sequence[Fit] = ()


def alternatives(found: Settings, reference: Key, pairs: Mapping[Key, str]) -> Iterator[Alternative]:
    """Every control under which all layers were read: shares of the labels, the other scale, one width, pair by pair.

    `pairs` is the setting under which each layer is as wide as the reference, empty without that control.
    """
    every = _places(found[PLAIN])
    for (fraction, setting), fits in found.items():
        if (fraction, setting) != PLAIN and _places(fits) == every:
            yield Alternative(setting if fraction == 1.0 else f"fraction={fraction:g}", fits)
    if pairs:
        yield _pairwise({key: fits for (fraction, key), fits in found.items() if fraction == 1.0}, reference, pairs)


def _places(fits: Sequence[Fit]) -> set[Key]:
    return {fit.layer.key for fit in fits}


def _pairwise(found: Mapping[str, Sequence[Fit]], reference: Key, pairs: Mapping[Key, str]) -> Alternative:
    at = {(setting, fit.layer.key, fit.task): fit for setting, fits in found.items() for fit in fits}
    asked = [(pairs[fit.layer.key], fit.layer.key, fit.task) for fit in found[""]]
    return Alternative(
        PAIRWISE,
        [at[setting, key, task] for setting, key, task in asked],
        [at[setting, reference, task] for setting, _, task in asked],
    )


def answer_under(
    alternative: Alternative,
    tasks: Mapping[str, Task],
    metrics: Mapping[str, str],
    *,
    validation: Part,
    test: Part,
    reference: Key,
    recommended: Mapping[str, Any],
) -> Row | None:
    """What the probe's own rule recommends under a control, and whether that is another place than `recommended`.

    `best` names each task's own place. None where no task can be scored.
    """
    compared = candidates(alternative.fits, tasks, metrics, validation, test, against=alternative.against)
    if not compared:
        return None
    found = recommendation(compared, reference, test)
    places = [dict(zip(("layer", "readout"), chosen_place(of, reference), strict=True)) for of in compared]
    return {
        "control": alternative.control,
        "recommended": found,
        "changes": (found["layer"], found["readout"]) != (recommended["layer"], recommended["readout"]),
        "best": [{"task": of.name, **place} for of, place in zip(compared, places, strict=True)],
    }
