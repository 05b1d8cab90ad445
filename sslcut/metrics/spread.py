"""In how many directions images and views differ: ranks of view means and of centred views, and LiDAR."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.geometry import effective_rank, gram, rank_of
from sslcut.metrics.layer import Fold, Layer, Measure
from sslcut.metrics.viewed import Viewed

TINY = 1e-8  # added to each share, as LiDAR's implementations do


def rank_data(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed
) -> Iterator[Measure]:
    """In how many directions images differ: RankMe of each image's mean over its views."""
    for layer in layers:
        yield Measure(layer, "rank_data", effective_rank(image_means(viewed, layer)))


def rank_views(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, viewed: Viewed
) -> Iterator[Measure]:
    """In how many directions an image's views differ: RankMe of the views less their image's mean."""
    for layer in layers:
        features = viewed.of(layer)
        yield Measure(layer, "rank_views", rank_of(scatter_of_views(viewed, layer), max(features.shape)))


def lidar(
    layers: Sequence[Layer],
    tasks: Mapping[str, Task],
    folds: Sequence[Fold],
    *,
    viewed: Viewed,
    ridge: float = 1e-4,
) -> Iterator[Measure]:
    """LiDAR: in how many directions images differ by more than their views do, from 1 to min(D, N − 1).

    The effective rank of linear discriminant analysis with images as classes; `ridge`, as a share of the mean variance,
    is added to the covariance within images. Thilak et al. (arXiv 2312.04000).
    """
    for layer in layers:
        yield Measure(layer, "lidar", discriminants(viewed, layer, ridge))


def discriminants(viewed: Viewed, layer: Layer, ridge: float) -> float:
    """LiDAR of one layer; NaN where views or images do not differ at all."""
    features = viewed.of(layer)
    width, images = features.shape[1], len(viewed.rows)
    within = features.new_zeros(width, width, dtype=torch.float64)
    for block in viewed.images(layer):
        apart = (block - block.mean(dim=1, keepdim=True)).flatten(0, 1)
        within.addmm_(apart.T, apart)
    within /= max(1, images * (viewed.views - 1))
    within.diagonal().add_(ridge * within.trace() / width)
    root, failed = torch.linalg.cholesky_ex(within)
    if failed:
        return float("nan")
    means = image_means(viewed, layer)
    between = torch.linalg.solve_triangular(root, (means - means.mean(dim=0)).T, upper=False)  # (D, N)
    few = between @ between.T if width <= images else between.T @ between  # the other eigenvalues are nought
    values = torch.linalg.eigvalsh(few).clamp_min(0)
    shares = torch.cat([values, values.new_zeros(width - len(values))]) / values.sum() + TINY
    return float((-(shares * shares.log()).sum()).exp())


def image_means(viewed: Viewed, layer: Layer) -> Tensor:
    """Each image's mean over its views, (N, D) float64."""
    return torch.cat([block.mean(dim=1) for block in viewed.images(layer)])


def scatter_of_views(viewed: Viewed, layer: Layer) -> Tensor:
    """The smaller of XᵀX and XXᵀ of all views less their image's mean, X (N·V, D), in float64."""
    features = viewed.of(layer)
    width = features.shape[1]
    if width <= len(features):
        products = features.new_zeros(width, width, dtype=torch.float64)
        for block in viewed.images(layer):
            apart = (block - block.mean(dim=1, keepdim=True)).flatten(0, 1)
            products.addmm_(apart.T, apart)
        return products
    products = gram(features, torch.arange(len(features)))
    products -= _own_means(products, viewed.views)
    return products - _own_means(products.T, viewed.views).T


def _own_means(rows: Tensor, views: int) -> Tensor:
    """For each of rows (N·V, M) the mean over its image's."""
    return rows.reshape(-1, views, rows.shape[1]).mean(dim=1).repeat_interleave(views, dim=0)
