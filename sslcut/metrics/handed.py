"""What measures are handed beside the features of the images: features of views, and the head; made where one wants it.

A measure says what it wants by its keyword-only parameters without a default (`Registry.wants`).
"""

from collections.abc import Collection, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslcut.data.images import Images
from sslcut.events import Event, Note
from sslcut.metrics.extract import Source, Taps
from sslcut.metrics.geometry import evenly
from sslcut.metrics.store import Store
from sslcut.metrics.tangent import SAMPLES, Head, Key, head_behind
from sslcut.metrics.viewed import Viewed, reference_views, resolved, viewed
from sslcut.model.network import Network

NEARBY = 0.1  # strength of the weak views whose plane is compared with that of neighbours


@dataclass(frozen=True)
class Handed:
    """Views of all layers, weak views of the reference, the head behind it: each where a measure wants it.

    `memory` is what is left of the budget, in bytes, `under` the views' description where any were made.
    """

    memory: int
    viewed: Viewed | None = None
    nearby: Viewed | None = None
    head: Head | None = None
    under: dict[str, Any] | None = None


@dataclass(frozen=True)
class Sight:
    """A network, and the images whose views it may be read under: those at `rows` (n,); where its features may lie."""

    network: Network
    reference: Key
    images: Images
    rows: Tensor
    folder: Path
    device: torch.device


def handed(
    wants: Collection[str],
    sight: Sight,
    source: Source,
    asked: Mapping[str, Any],
    *,
    seed: int,
    memory: int,
) -> Generator[Event, None, Handed]:
    """What the measures that are asked for want; nothing is made, and nothing read, where they want nothing.

    `source` is the network at all its layers, `asked` a recipe's `probe.viewed`; `memory` bytes are there for the
    features. Yields progress. Raises UsageError for views that are not valid, MachineError where the disk is full.
    """
    seen = nearby = head = None
    if "viewed" in wants:
        seen, memory = yield from _views(sight, source, asked, asked["images"], seed, memory)
    if "head" in wants:
        head = head_behind(sight.network, sight.reference, sight.device)
        if head is None:
            yield Note(f"no projector stands behind `{sight.reference[0]}`: there is no head to compare with tangents")
    if "nearby" in wants and head is not None:
        alone = Taps(sight.network, [sight.reference], sight.device)
        weak = {**asked, "strength": NEARBY}
        nearby, memory = yield from _views(sight, alone, weak, SAMPLES, seed, memory)
    under = resolved(asked) if seen is not None or nearby is not None else None
    return Handed(memory, seen, nearby, head, under)


def _views(
    sight: Sight,
    source: Source,
    asked: Mapping[str, Any],
    images: int,
    seed: int,
    memory: int,
) -> Generator[Event, None, tuple[Viewed, int]]:
    """What a source makes of the views of so many images, and the memory that is left."""
    rows = evenly(sight.rows, images)
    maker = reference_views(asked, size=sight.images.size, seed=seed)
    with closing(Store(len(rows) * asked["views"], list(source.widths.values()), memory, sight.folder)) as store:
        found = yield from viewed(source, sight.images, rows, maker, store=store, device=sight.device)
    yield Note(
        f"views: {asked['views']} of each of {len(rows):,} images at strength {asked['strength']:g}, {store.place}"
    )
    return found, store.left
