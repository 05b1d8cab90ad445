"""What a network makes of several views of an image, under one policy that is the same for all networks compared.

The strength at which a network was trained changes what its views look like. So measures of invariance always read it
under a reference policy: else two networks would differ because their views do.
"""

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslcut.data.ahead import ahead
from sslcut.data.images import Images
from sslcut.data.views import Crop, ViewMaker
from sslcut.events import Event, Progress
from sslcut.metrics.extract import Source
from sslcut.metrics.layer import BLOCK, Layer
from sslcut.metrics.store import Store
from sslcut.registry import AUGMENTATIONS

USUAL = "simclr"  # the reference policy where a recipe names none
SCALE = (0.08, 1.0)  # SimCLR's crop at strength 1, whatever the recipe's own crops are
AT_ONCE = 4  # batches of the network's that views are made for together: few images at a time cost twice as much
EPOCH = -1  # no epoch of training draws these views


@dataclass(frozen=True)
class Viewed:
    """Features of several views of each of some images, of every layer, and what was drawn for them.

    Of each of the `layers` the features are (N·V, D), an image's V = `views` views one after the other. `rows` (N,)
    says which of the measurement's rows the images are, `drawn` what each parameter of `data.parameters` was: (N, V).
    """

    layers: list[Layer]
    views: int
    rows: Tensor
    drawn: dict[str, Tensor]

    def of(self, layer: Layer) -> Tensor:
        """The features (N·V, D) that a layer of the clean images has under the views."""
        return next(own.features for own in self.layers if own.key == layer.key)

    def images(self, layer: Layer) -> Iterator[Tensor]:
        """The same as float64 blocks of whole images, (n, V, D)."""
        features = self.of(layer)
        step = self.views * max(1, BLOCK // max(1, self.views * features.shape[1]))
        for start in range(0, len(features), step):
            yield features[start : start + step].double().view(-1, self.views, features.shape[1])


def resolved(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's `probe.viewed` with its policy written out: every option, and `simclr` where it names none.

    The network's own policy never enters.
    """
    policy = asked["policy"] or {"name": USUAL}
    defaults = {name: option.default for name, option in AUGMENTATIONS.options(policy["name"]).items()}
    return {**asked, "policy": {**defaults, **policy}}


def reference_views(asked: Mapping[str, Any], *, size: int, seed: int) -> ViewMaker:
    """The maker of the views that a recipe's `probe.viewed` describes, images from 0 to 1 of `size` pixels a side.

    Raises UsageError for a policy or a strength that is not valid.
    """
    policy = resolved(asked)["policy"]
    return ViewMaker(
        [Crop(asked["views"], size, SCALE)],
        policy=policy.pop("name"),
        options=policy,
        strength=asked["strength"],
        exact=asked["exact"],
        seed=seed,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def viewed(
    source: Source, images: Images, rows: Tensor, views: ViewMaker, *, store: Store, device: torch.device
) -> Generator[Event, None, Viewed]:
    """What `source` makes of the views of the images at `rows` (N,), which are read once; yields progress.

    `store` has N·V rows and room for the source's widths. An image's views depend on its row and the maker's seed.
    Raises MachineError where the disk is full.
    """
    count = sum(crop.count for crop in views.crops)
    shelves = {tap: store.shelf(width) for tap, width in source.widths.items()}
    drawn: list[dict[str, Tensor]] = []
    started, done = time.perf_counter(), 0
    for indices, pixels in ahead(images, torch.split(rows, max(1, AT_ONCE * source.batch // count)), device):
        made = views(pixels, indices, EPOCH)
        found = [source(part) for part in torch.split(made.crops[0].flatten(0, 1), source.batch)]
        for tap, shelf in shelves.items():
            by_view = torch.cat([part[tap] for part in found]).view(count, len(indices), -1)
            shelf.write(done * count, by_view.transpose(0, 1).flatten(0, 1).cpu())
        drawn.append({name: values.T.cpu() for name, values in made.drawn.items()})
        done += len(indices)
        rate = done * count / (time.perf_counter() - started)
        yield Progress("views", done, len(rows), {"views/s": f"{rate:,.0f}"})
    layers = [Layer(*tap, shelf.numbers, device=device) for tap, shelf in shelves.items()]
    names = drawn[0] if drawn else {}
    return Viewed(layers, count, rows, {name: torch.cat([part[name] for part in drawn]) for name in names})
