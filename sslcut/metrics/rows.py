"""The rows of a fit as its solver reads them: scaled, in blocks, kept where there is room, else made on every pass."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from sslcut.metrics.layer import blocks

FLOOR = 0.01  # of the layer's median deviation: a nearly constant feature is not blown up into noise
CONSTANT = 1e-6  # a deviation below this share of the feature's own size is rounding
BLOCK = 2**20  # numbers in a block (4 MB): its features are still in the cache when they are used the second time
FAR = 2**25  # numbers in a block on a GPU, which has to be kept busy between the host's orders
WORK = 2**25  # bytes that a pass over blocks takes for itself, whatever the fit


class Scaling(Protocol):
    """How features become what a solver reads, `width` numbers a row."""

    width: int

    def blocks(self, features: Tensor, rows: Tensor, step: int) -> Iterator[tuple[slice, Tensor]]:
        """The `rows` (n,) of features (N, D), float32, at most `step` at a time, and the place of each part."""
        ...


class Scaler:
    """Centres features and, for `standard`, divides by the deviation on the rows it was made from; drops constants."""

    def __init__(self, features: Tensor, rows: Tensor, scale: str) -> None:
        """Reads mean and deviation of features (N, D) from `rows` (n,)."""
        deviation, mean = _moments(features, rows)
        self.kept = (deviation > CONSTANT * mean.abs()).nonzero().squeeze(1)
        self.width = len(self.kept)
        self._all = self.width == features.shape[1]
        self.mean, deviation = mean[self.kept].float(), deviation[self.kept].float()
        if scale == "raw" or not self.width:
            self.deviation = torch.ones_like(deviation)
        else:
            self.deviation = deviation.clamp_min(FLOOR * float(deviation.median()))

    def blocks(self, features: Tensor, rows: Tensor, step: int) -> Iterator[tuple[slice, Tensor]]:
        """The `rows` (n,) of features (N, D) scaled, float32, at most `step` at a time, and the place of each part."""
        for part, block in blocks(features, rows, step * features.shape[1]):
            yield part, (block if self._all else block[:, self.kept]).sub_(self.mean).div_(self.deviation)


class Projection:
    """Scaled features along `directions` (D, R) alone."""

    def __init__(self, scaler: Scaler, directions: Tensor) -> None:
        self._scaler, self._directions = scaler, directions
        self.width = directions.shape[1]

    def blocks(self, features: Tensor, rows: Tensor, step: int) -> Iterator[tuple[slice, Tensor]]:
        """The `rows` (n,) of features (N, D) along the directions, in blocks that are small at their own width too."""
        few = min(step, max(1, block_on(features.device) // max(1, features.shape[1])))
        return ((part, block @ self._directions) for part, block in self._scaler.blocks(features, rows, few))


def _moments(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Deviation and mean of each column over `rows`, float64, joined block by block (Chan, Golub & LeVeque, 1979)."""
    mean = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    squares, seen = torch.zeros_like(mean), 0
    for _, block in blocks(features, rows, BLOCK):
        variance, here = (moment.double() for moment in torch.var_mean(block, dim=0, correction=0))
        share, shift = len(block) / (seen + len(block)), here - mean
        squares += len(block) * variance + seen * share * shift.square()
        mean += share * shift
        seen += len(block)
    return (squares / max(1, seen)).sqrt(), mean


class Rows(Protocol):
    """Rows (n, D) that are read in blocks, again on every pass; `device` is where the blocks lie."""

    width: int
    device: torch.device

    def __len__(self) -> int: ...

    def blocks(self, step: int) -> Iterator[tuple[slice, Tensor]]:
        """All rows, float32, at most `step` at a time, and the place of each part."""
        ...


class Kept:
    """Rows that lie in memory: features (n, D), float32."""

    def __init__(self, features: Tensor) -> None:
        self.features, self.width, self.device = features, features.shape[1], features.device

    def __len__(self) -> int:
        return len(self.features)

    def blocks(self, step: int) -> Iterator[tuple[slice, Tensor]]:
        """Views of the rows themselves."""
        for start in range(0, len(self.features), step):
            part = slice(start, min(start + step, len(self.features)))
            yield part, self.features[part]


class Passing:
    """Rows of a layer that are read and scaled again on every pass."""

    def __init__(self, features: Tensor, rows: Tensor, scaler: Scaling) -> None:
        self._features, self._rows, self._scaler = features, rows, scaler
        self.width, self.device = scaler.width, features.device

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self, step: int) -> Iterator[tuple[slice, Tensor]]:
        """Blocks that the reader may write into."""
        return self._scaler.blocks(self._features, self._rows, step)


def scaled(features: Tensor, rows: Tensor, scaler: Scaling, memory: int) -> Rows:
    """The `rows` (n,) of features (N, D) as the scaler gives them: a copy where it takes at most `memory` bytes."""
    passing = Passing(features, rows, scaler)
    if 4 * len(rows) * scaler.width > memory:
        return passing
    copy = torch.empty(len(rows), scaler.width, device=features.device)
    for part, block in passing.blocks(steps(passing)):
        copy[part] = block
    return Kept(copy)


def steps(rows: Rows, beside: int = 0) -> int:
    """How many rows to read at a time where each brings `beside` numbers of its own."""
    return max(1, block_on(rows.device) // max(1, rows.width, beside))


def short_steps(rows: Rows) -> int:
    """How many rows to read at a time where their sums are taken in float32: few everywhere, so that they are exact."""
    return max(1, BLOCK // max(1, rows.width))


def block_on(device: torch.device) -> int:
    """How many numbers a block has there."""
    return BLOCK if device.type == "cpu" else FAR
