"""What a linear fit works on: rows in the coordinates that are cheapest to solve in, and the map that comes out."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sslcut.metrics.rows import WORK, Kept, Rows, steps
from sslcut.metrics.spectrum import Spectrum, spectrum, spectrum_bytes, turned

TURNED = 4096  # with at most so many rows it is cheaper to turn them once than every gradient and step
VECTORS = 40  # as long as the coefficients, of a fit at a time: L-BFGS's pairs and what a step works with


@dataclass(frozen=True)
class Affine:
    """Fitted maps from features to outputs, one per penalty: weights (P, K, D) and intercepts (P, K)."""

    weights: Tensor
    intercepts: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def __call__(self, features: Tensor) -> Tensor:
        """(m, D) → (P, K, m): the rows last, so that a product's output is used as it lies."""
        flat = torch.addmm(self.intercepts.reshape(-1, 1), self.weights.flatten(0, 1), features.T)
        return flat.view(*self.intercepts.shape, -1)

    def take(self, index: int) -> "Affine":
        """The map of one penalty alone."""
        return Affine(self.weights[index : index + 1], self.intercepts[index : index + 1])


def beside(rows: int, width: int, outputs: int) -> int:
    """The bytes that fits of so many outputs take beside their rows (n, D)."""
    scores = rows * min(rows, width) if rows <= TURNED else 0
    return WORK + spectrum_bytes(rows, width) + 4 * (scores + VECTORS * outputs * (width + 1))


class Design:
    """The rows of a fit, (n, R) in the coordinates that solvers work in, and their spectrum.

    Few rows are turned to their principal directions, which also leaves no more coordinates than rows; many are left
    as they are.
    """

    def __init__(self, features: Tensor | Rows) -> None:
        """`features` (n, D) are scaled; a tensor of them is float32."""
        self.rows = Kept(features) if isinstance(features, Tensor) else features
        self.spectrum = spectrum(self.rows)
        self._turn: Tensor | None = None
        if len(self.rows) <= TURNED and self.spectrum.rest is None and self.spectrum.directions is not None:
            self._turn, self._mean = self.spectrum.directions, self.spectrum.mean
            self.rows = turned(self.rows, self._turn)
            self.spectrum = Spectrum(torch.zeros(self.rows.width, device=self.device), self.spectrum.variances)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """How many coordinates a row has."""
        return self.rows.width

    @property
    def device(self) -> torch.device:
        """Where the rows are read, and so where maps are."""
        return self.rows.device

    def blocks(self, beside: int) -> Iterator[tuple[slice, Tensor]]:
        """All rows in blocks that leave room in the cache for `beside` numbers a row."""
        return self.rows.blocks(steps(self.rows, beside))

    def affine(self, weights: Tensor, intercepts: Tensor) -> Affine:
        """The map of features that weights (P, K, R) on the coordinates stand for."""
        if self._turn is None:
            return Affine(weights, intercepts)
        weights = weights @ self._turn.T
        return Affine(weights, intercepts - weights @ self._mean)

    def coordinates(self, fitted: Affine) -> tuple[Tensor, Tensor]:
        """Weights (P, K, R) and intercepts (P, K) of a map, on the coordinates."""
        if self._turn is None:
            return fitted.weights, fitted.intercepts
        return fitted.weights @ self._turn, fitted.intercepts + fitted.weights @ self._mean
