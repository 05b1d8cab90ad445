"""How alike two layers are (CKA), and how evenly one spreads images over the sphere (uniformity)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.geometry import held_out, mean_of
from sslcut.metrics.layer import BLOCK, Fold, Layer, Measure, blocks

FEWEST = 4  # images that the debiased estimate needs


def uniformity(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 2048, t: float = 2.0
) -> Iterator[Measure]:
    """How evenly images lie on the sphere: log mean exp(−t ‖u_i − u_j‖²) over pairs of features of length 1.

    0 where all are one point, just above −2t where they point everywhere. Wang & Isola (arXiv 2005.10242).
    """
    for layer in layers:
        rows = held_out(layer, folds, images)
        unit = F.normalize(layer.features.index_select(0, rows).double(), dim=1)
        potentials = torch.zeros((), dtype=torch.float64)
        for here in torch.split(unit, max(1, BLOCK // max(1, len(unit)))):
            squares = here.square().sum(dim=1)[:, None] + unit.square().sum(dim=1) - 2 * here @ unit.T
            potentials += (-t * squares.clamp_min(0)).exp().sum()
        pairs = len(rows) * (len(rows) - 1)
        yield Measure(layer, "uniformity", float(((potentials - len(rows)) / pairs).log()) if pairs else math.nan)


def cka(
    layers: Sequence[Layer], tasks: Mapping[str, Task], folds: Sequence[Fold], *, images: int = 10_000
) -> Iterator[Measure]:
    """Linear CKA, debiased, of each layer with the block before it: by the same read-out where that has it.

    1 where the two are one representation up to a rotation and a scale; the first block has none. Kornblith et al.
    (arXiv 1905.00414) with the unbiased HSIC of Song et al. (2012), which few images of many dimensions do not inflate.
    """
    kernels = {layer.key: Kernel(layer.features, held_out(layer, folds, images)) for layer in layers}
    for layer, before in zip(layers, _before(layers), strict=True):
        if before is not None:
            yield Measure(layer, "cka", alike(kernels[layer.key], kernels[before.key]))


def _before(layers: Sequence[Layer]) -> Iterator[Layer | None]:
    """For each layer the one to compare it with: of the block before it, by the same read-out or its first one."""
    names = list(dict.fromkeys(layer.name for layer in layers))
    for layer in layers:
        at = names.index(layer.name)
        near = [other for other in layers if at and other.name == names[at - 1]]
        yield next((other for other in near if other.readout == layer.readout), near[0] if near else None)


@dataclass(frozen=True)
class Kernel:
    """The linear kernel of features (N, D) at `rows` (n,), centred, without its diagonal; never made as a matrix."""

    features: Tensor
    rows: Tensor

    @cached_property
    def mean(self) -> Tensor:
        """The features' mean, (D,)."""
        return mean_of(self.features, self.rows)

    @cached_property
    def diagonal(self) -> Tensor:
        """The squared length of each centred row, (n,)."""
        return torch.cat([block.square().sum(dim=1) for _, block in self.blocks(BLOCK)])

    @cached_property
    def sums(self) -> Tensor:
        """The sum of each row of the kernel, (n,): of centred features that is what the missing diagonal took."""
        return -self.diagonal

    @cached_property
    def spread(self) -> float:
        """The unbiased HSIC of the kernel with itself."""
        return hsic(self, self)

    def blocks(self, numbers: int) -> Iterator[tuple[slice, Tensor]]:
        """The centred rows in float64, at most `numbers` numbers at a time, each with its place."""
        for part, block in blocks(self.features, self.rows, numbers):
            yield part, block.double() - self.mean


def alike(one: Kernel, other: Kernel) -> float:
    """Debiased CKA of two kernels of the same images; NaN where one does not vary or there are too few images."""
    if len(one.rows) < FEWEST or not (scale := one.spread * other.spread) > 0:
        return math.nan
    return hsic(one, other) / scale**0.5


def hsic(one: Kernel, other: Kernel) -> float:
    """The unbiased Hilbert-Schmidt independence criterion of two kernels K and L without diagonals.

    [tr KL + 1ᵀK1 · 1ᵀL1 / ((n − 1)(n − 2)) − 2 · 1ᵀKL1 / (n − 2)] / (n (n − 3)).
    """
    n = len(one.rows)
    trace = _overlap(one, other) - one.diagonal @ other.diagonal
    totals = one.sums.sum() * other.sums.sum() / ((n - 1) * (n - 2))
    return float((trace + totals - 2 * (one.sums @ other.sums) / (n - 2)) / (n * (n - 3)))


def _overlap(one: Kernel, other: Kernel) -> Tensor:
    """tr KL with the diagonals: ‖FᵀG‖² from products over images, or over pairs of images where that is less work."""
    n, width, wide = len(one.rows), one.features.shape[1], other.features.shape[1]
    widest = max(width, wide)
    step = max(1, BLOCK // widest)
    pairs = zip(one.blocks(step * width), other.blocks(step * wide), strict=True)
    if width * wide <= n * (width + wide):
        across = torch.zeros(width, wide, dtype=torch.float64)
        for (_, f), (_, g) in pairs:
            across.addmm_(f.T, g)
        return across.square().sum()
    total = torch.zeros((), dtype=torch.float64)
    for (_, f), (_, g) in pairs:
        again = zip(one.blocks(step * width), other.blocks(step * wide), strict=True)
        total += sum(((f @ p.T) * (g @ q.T)).sum() for (_, p), (_, q) in again)
    return total
