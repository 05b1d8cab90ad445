"""Whether a head keeps the plane in which images vary: its principal directions against the data's tangent plane.

Our own measure, made for "inspired by" arXiv 2205.06926; it is described, nothing is claimed of it. The head is the
projector behind the reference h. Its principal directions span the space that E[JᵀJ] lives in, J = dz/dh. The plane at
an image is what its nearest neighbours' h vary in, and in contrast what its own views' h do.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from sslcut.data.images import Task
from sslcut.metrics.geometry import evenly, held_out
from sslcut.metrics.layer import BLOCK, Fold, Layer, Measure
from sslcut.metrics.viewed import Viewed
from sslcut.model.network import Network
from sslcut.names import backbone_end, part_of

SAMPLES = 256  # images at which the head is differentiated and a plane is taken
ROUNDING = 1e-5  # what a cloud varies by along a direction, of the most it varies by
KEPT = 0.95  # of the trace of E[JᵀJ] lies in the principal directions
Key = tuple[str, str]


@dataclass(frozen=True)
class Head:
    """The blocks from the reference's vectors (B, D) to the projector's output (B, K), in evaluation mode."""

    blocks: nn.Module
    device: torch.device

    def gauss_newton(self, vectors: Tensor) -> Tensor:
        """The mean of JᵀJ over vectors (n, D), J (K, D) the head's derivative at each: (D, D) float64, on the CPU."""
        width = vectors.shape[1]
        tallest = max([width, *(part.out_features for part in self.blocks.modules() if isinstance(part, nn.Linear))])
        derivative = vmap(jacrev(lambda vector: self.blocks(vector[None])[0]))
        total = torch.zeros(width, width, dtype=torch.float64)
        for part in torch.split(vectors, max(1, BLOCK // tallest**2)):
            rows = derivative(part.to(self.device, torch.float32)).detach().flatten(0, 1).double()  # (n·K, D)
            total += (rows.T @ rows).cpu()
        return total / len(vectors)


def head_behind(network: Network, reference: Key, device: torch.device) -> Head | None:
    """The head, a copy of the network's own; None where the reference is not the end of a backbone with a projector."""
    blocks = [block for name, _, block in network.chain.items() if part_of(name) == "projector"]
    if not blocks or reference != (backbone_end(network.names), "vector"):
        return None
    return Head(copy.deepcopy(nn.Sequential(*blocks)).eval().requires_grad_(False).to(device), device)


def tangent(
    layers: Sequence[Layer],
    tasks: Mapping[str, Task],
    folds: Sequence[Fold],
    *,
    reference: Key,
    head: Head | None,
    nearby: Viewed | None,
    images: int = 10_000,
    neighbours: int = 32,
    dimensions: int = 8,
) -> Iterator[Measure]:
    """How much of the tangent plane at an image lies in the head's principal directions: the mean cos² between them.

    Beside `tangent`, of the plane of the nearest `neighbours`: `tangent_random`, what as many random directions would
    hold (m / D), and its deviation `tangent_random_sd`; `tangent_pca`, what the principal directions of all images
    hold; `tangent_views`, the head's with the plane of an image's weak views; and `directions`, the m of the head.
    All at the reference alone, and none where no projector stands behind it.
    """
    if head is None or nearby is None:
        return
    layer = next(layer for layer in layers if layer.key == reference)
    rows = held_out(layer, folds, images)
    at = evenly(torch.arange(len(rows)), SAMPLES)
    vectors = layer.features.index_select(0, rows).double()
    kept = principal(head.gauss_newton(vectors[at]))
    count, width = kept.shape[1], kept.shape[0]
    plane = mean_plane(neighbourhoods(vectors, at, neighbours), dimensions)
    views = mean_plane(nearby.images(layer), dimensions)
    apart = vectors - vectors.mean(dim=0)
    common = torch.linalg.eigh(apart.T @ apart).eigenvectors[:, -count:]
    yield Measure(layer, "tangent", agreement(kept, plane))
    yield Measure(layer, "tangent_random", count / width)
    yield Measure(layer, "tangent_random_sd", random_deviation(plane, count))
    yield Measure(layer, "tangent_pca", agreement(common, plane))
    yield Measure(layer, "tangent_views", agreement(kept, views))
    yield Measure(layer, "directions", float(count))


def principal(matrix: Tensor, share: float = KEPT) -> Tensor:
    """The fewest eigenvectors (D, m) of a positive matrix (D, D) that hold this share of its trace, one at least."""
    values, vectors = torch.linalg.eigh(matrix)
    held = values.clamp_min(0).flip(0).cumsum(0)
    count = int((held < share * held[-1]).sum()) + 1
    return vectors[:, -count:]


def neighbourhoods(vectors: Tensor, at: Tensor, count: int) -> Iterator[Tensor]:
    """The `count` nearest neighbours of each vector `at` (m,) among vectors (N, D), itself left out: (n, count, D)."""
    count = min(count, len(vectors) - 1)
    for part in torch.split(at, max(1, BLOCK // max(len(vectors), count * vectors.shape[1]))):
        distances = torch.cdist(vectors[part], vectors)
        distances.scatter_(1, part[:, None], math.inf)
        yield vectors[distances.topk(count, largest=False).indices]


def mean_plane(clouds: Iterator[Tensor], dimensions: int) -> Tensor:
    """The mean projection onto the planes that clouds of points (n, k, D) vary most in, each over its dimensions.

    A plane has at most so many `dimensions`, and fewer where a cloud has fewer; the trace is 1. NaN without any plane.
    """
    total, count = torch.zeros(()), 0
    for cloud in clouds:
        apart = cloud - cloud.mean(dim=1, keepdim=True)
        _, values, turns = torch.linalg.svd(apart, full_matrices=False)
        there = (values > ROUNDING * values[:, :1])[:, :dimensions]  # (n, t)
        sizes = there.sum(dim=1, keepdim=True)
        planes = (turns[:, :dimensions] * (there / sizes.clamp_min(1).sqrt())[:, :, None]).flatten(0, 1)  # (n·t, D)
        total = total + planes.T @ planes
        count += int((sizes > 0).sum())
    return total / count if count else total * math.nan


def agreement(directions: Tensor, plane: Tensor) -> float:
    """The mean over images of ‖PᵀT_i‖² / t, orthonormal directions P (D, m), from the mean of T_i T_iᵀ / t (D, D)."""
    return float((directions * (plane @ directions)).sum())


def random_deviation(plane: Tensor, count: int) -> float:
    """The standard deviation of `agreement` over uniformly random subspaces of `count` dimensions.

    Exact: of a random projection P of rank m, Var tr AP = 2 m (D − m) (tr A² − (tr A)² / D) / (D (D + 2) (D − 1)).
    """
    width = len(plane)
    uneven = float(plane.square().sum() - plane.trace().square() / width)
    room = width * (width + 2) * (width - 1)
    return math.sqrt(max(0.0, 2 * count * (width - count) * uneven / room)) if room else 0.0
