"""How much of a layer is the view and how much the image: scatter within and between images, and what a head keeps.

Sensitivity is our own measure, made for "inspired by" arXiv 2205.06926. Traces alone are needed, so that no covariance
is ever made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fold, Layer, Measure
from sslcut.metrics.viewed import Viewed
from sslcut.names import part_of

Key = tuple[str, str]


@dataclass(frozen=True)
class Scatter:
    """The traces of the covariances of views about their image (S_w) and of images (S_b), which is not below nought.

    S_b is the covariance of the images' means less S_w / V, which few views would add to it.
    """

    within: float
    between: float

    @property
    def sensitivity(self) -> float:
        """The views' share of the whole scatter, from 0 (invariant) to 1; NaN where nothing varies."""
        return _share(self.within, self.within + self.between)


def scatter(blocks: Iterator[Tensor]) -> Scatter:
    """The scatter of features that come in blocks of whole images, (n, V, D) float64; NaN with one image or view."""
    within = squares = 0.0
    mean, seen, views = torch.zeros(()), 0, 1
    for block in blocks:
        means, views = block.mean(dim=1), block.shape[1]  # (n, D)
        within += float((block - means[:, None]).square().sum())
        here, count = means.mean(dim=0), len(means)
        apart, share = here - mean, count / (seen + count)
        squares += float((means - here).square().sum() + seen * share * apart.square().sum())
        mean = mean + share * apart
        seen += count
    within = _share(within, seen * (views - 1))
    return Scatter(within, max(_share(squares, seen - 1) - within / views, 0.0))  # in this order NaN stays NaN


@dataclass(frozen=True)
class Cosines:
    """The mean cosine of two views of one image, and of views of two images."""

    same: float
    different: float


def cosines(blocks: Iterator[Tensor]) -> Cosines:
    """The mean cosines of features that come in blocks of whole images, (n, V, D); NaN with one image or view."""
    images, views, lengths, of_images, total = 0, 1, 0.0, 0.0, torch.zeros(())
    for block in blocks:
        unit = F.normalize(block, dim=2)
        sums = unit.sum(dim=1)  # (n, D)
        lengths += float(unit.square().sum())
        of_images += float(sums.square().sum())
        total = total + sums.sum(dim=0)
        images, views = images + len(block), block.shape[1]
    same = _share(of_images - lengths, images * views * (views - 1))
    return Cosines(same, _share(float(total.square().sum()) - of_images, images * (images - 1) * views**2))


def sensitivity(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed
) -> Iterator[Measure]:
    """The views' share r of a layer's scatter, tr S_w / (tr S_w + tr S_b): 0 is invariant, 1 sees the view alone."""
    return _each(layers, viewed, "sensitivity", lambda found: found.sensitivity)


def within(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed
) -> Iterator[Measure]:
    """The scatter of views about their image, tr S_w, where the layer's whole scatter is 1: its sensitivity."""
    return _each(layers, viewed, "within", lambda found: found.sensitivity)


def between(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed
) -> Iterator[Measure]:
    """The scatter of images, tr S_b, where the layer's whole scatter is 1."""
    return _each(layers, viewed, "between", lambda found: 1 - found.sensitivity)


def sensitivity_cosine(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed
) -> Iterator[Measure]:
    """How far apart two views of an image are, by 1 − cosine, as a share of how far apart two images are."""
    for layer in layers:
        found = cosines(viewed.images(layer))
        yield Measure(layer, "sensitivity_cosine", _share(1 - found.same, 1 - found.different))


def alignment(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed
) -> Iterator[Measure]:
    """The mean squared distance of two views of an image, features of length 1: 0 to 4 (arXiv 2005.10242)."""
    for layer in layers:
        yield Measure(layer, "alignment", 2 - 2 * cosines(viewed.images(layer)).same)


def keep_views(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed, reference: Key
) -> Iterator[Measure]:
    """How much of the reference's scatter within images a layer of the head keeps, each layer's whole scatter 1."""
    for layer, here, base in _behind(layers, viewed, reference):
        yield Measure(layer, "keep_views", _share(here.sensitivity, base.sensitivity))


def keep_data(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed, reference: Key
) -> Iterator[Measure]:
    """How much of the reference's scatter between images a layer of the head keeps, each layer's whole scatter 1."""
    for layer, here, base in _behind(layers, viewed, reference):
        yield Measure(layer, "keep_data", _share(1 - here.sensitivity, 1 - base.sensitivity))


def selectivity(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed, reference: Key
) -> Iterator[Measure]:
    """What a layer of the head keeps of the images over what it keeps of the views: above 1, it removes views more."""
    for layer, here, base in _behind(layers, viewed, reference):
        data, views = (1 - here.sensitivity) * base.sensitivity, here.sensitivity * (1 - base.sensitivity)
        yield Measure(layer, "selectivity", _share(data, views))


def _each(layers: Sequence[Layer], viewed: Viewed, name: str, value: Callable[[Scatter], float]) -> Iterator[Measure]:
    for layer in layers:
        yield Measure(layer, name, value(scatter(viewed.images(layer))))


def _behind(layers: Sequence[Layer], viewed: Viewed, reference: Key) -> Iterator[tuple[Layer, Scatter, Scatter]]:
    """Each layer of the head behind the reference, with its scatter and the reference's."""
    at = [layer.key for layer in layers].index(reference)
    head = [layer for layer in layers[at + 1 :] if part_of(layer.name) != "backbone" and layer.name != reference[0]]
    base = scatter(viewed.images(layers[at])) if head else Scatter(0, 0)
    for layer in head:
        yield layer, scatter(viewed.images(layer)), base


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
