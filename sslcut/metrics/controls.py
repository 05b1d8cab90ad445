"""Controls: does a layer win by what it holds, or by its width and by how its features are scaled?

`pca` reads all layers at one width, and each of them beside the reference at the narrower one's width; `concat` reads
the last four blocks of the backbone together, as DINO does; `raw` takes the other scale than the probe's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from sslcut.data.images import Task
from sslcut.metrics.layer import BLOCK, Fit, Fold, Layer, fit_near
from sslcut.metrics.linear import fit_scaled, linear
from sslcut.metrics.rows import Passing, Projection, Scaler
from sslcut.metrics.spectrum import principal
from sslcut.metrics.store import Shelf
from sslcut.names import NORM, part_of

CONCATENATED = "concat:last4"  # the name of several blocks together where a layer's stands; never a candidate
LAST = 4
OTHER = {"standard": "raw", "raw": "standard"}
Key = tuple[str, str]  # a layer's name and read-out


# ---- width


def widths(layers: Sequence[Layer], reference: Key, common: int) -> dict[Key, list[int]]:
    """The widths at which each layer is read: the `common` one, and that of its pair with the reference.

    Both of a pair are read at the narrower one's width. Two of one width are compared by the plain probe already.
    """
    own = {layer.key: layer.features.shape[1] for layer in layers}
    found = {key: [common] for key in own}
    for key, width in own.items():
        if width != own[reference]:
            pair = min(width, own[reference])
            found[key].append(pair)
            found[reference].append(pair)
    return {key: list(dict.fromkeys(asked)) for key, asked in found.items()}


def pairs(layers: Sequence[Layer], reference: Key) -> dict[Key, str]:
    """The setting under which each layer and the reference have one width; the plain one where both have it anyway."""
    own = {layer.key: layer.features.shape[1] for layer in layers}
    base = own[reference]
    return {key: "" if width == base else at_width(min(width, base)) for key, width in own.items()}


def at_width(width: int) -> str:
    """The setting of a probe of features projected to a width."""
    return f"pca={width}"


def projected(
    layer: Layer,
    tasks: Mapping[str, Task],
    folds: Sequence[Fold],
    asked: Sequence[int],
    *,
    own: Sequence[Fit],
    scale: str,
    memory: int,
) -> list[Fit]:
    """The linear probe of a layer's largest principal directions, at each of the `asked` widths.

    The directions are those of each fold's train rows, scaled as the probe scales them. As many as the layer is wide
    are a rotation, which leaves the fit as it is: `own`, the fits of the layer itself, stand there.
    """
    full = layer.features.shape[1]
    alone = [replace(fit, beside=torch.empty(0)) for fit in own]  # as the projected ones have it
    found = [replace(fit, setting=at_width(width)) for width in asked if width >= full for fit in alone]
    narrow = [width for width in asked if width < full]
    if not narrow:
        return found
    return found + fit_near(layer, memory, partial(_narrow, tasks=tasks, folds=folds, narrow=narrow, scale=scale))


def _narrow(
    here: Layer, room: int, *, tasks: Mapping[str, Task], folds: Sequence[Fold], narrow: Sequence[int], scale: str
) -> list[Fit]:
    """The linear probe of a layer's largest principal directions at each of the `narrow` widths."""
    spare, found = room - 4 * here.features.shape[1] * max(narrow) * len(folds), list[Fit]()
    scalers = [Scaler(here.features, fold.train, scale) for fold in folds]
    along = [
        principal(Passing(here.features, fold.train.sort().values, scaler), max(narrow), spare)
        for fold, scaler in zip(folds, scalers, strict=True)
    ]
    for width in narrow:
        scalings = [Projection(*pair) for pair in zip(scalers, (kept[:, :width] for kept in along), strict=True)]
        fits = fit_scaled(here, tasks, folds, scalings, spare)
        found += [replace(fit, setting=at_width(width), width=width) for fit in fits]
    return found


# ---- scale


def rescaled(layer: Layer, tasks: Mapping[str, Task], folds: Sequence[Fold], *, scale: str, memory: int) -> list[Fit]:
    """The linear probe of a layer in the other scale than `scale`, the probe's own."""
    other = OTHER[scale]
    fits = linear([layer], tasks, folds, scale=other, memory=memory)
    return [replace(fit, setting=f"scale={other}") for fit in fits]


# ---- several blocks together


def last_blocks(taps: Sequence[Key]) -> list[Key]:
    """The backbone's last four blocks among the measured `taps`, each by its class token or else its first read-out.

    What only reads the last block again, the pool and the final norm, is none of them. At least two, or none.
    """
    blocks: dict[str, list[str]] = {}
    for name, readout in taps:
        if part_of(name) == "backbone" and readout != "vector" and name != NORM:
            blocks.setdefault(name, []).append(readout)
    found = [(name, "cls" if "cls" in readouts else readouts[0]) for name, readouts in blocks.items()][-LAST:]
    return found if len(found) > 1 else []


def concatenated(layers: Sequence[Layer], shelf: Shelf) -> Layer:
    """The features of several layers side by side as one more layer, which lies in `shelf`."""
    rows, width = shelf.numbers.shape
    step = max(1, BLOCK // width)
    for start in range(0, rows, step):
        shelf.write(start, torch.cat([layer.features[start : start + step].float() for layer in layers], dim=1))
    return Layer(CONCATENATED, layers[-1].readout, shelf.numbers, device=layers[-1].device)
