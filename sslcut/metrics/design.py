"""The features that a linear fit sees: standardised, with the spectrum that its solvers share, and the map it gives."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FLOOR = 0.01  # of the layer's median deviation: a nearly constant feature is not blown up into noise
CONSTANT = 1e-6  # a deviation below this share of the feature's own size is rounding
RANK = 1e-7  # directions with less than this share of the largest variance are rounding in float32


class Scaler:
    """Centres features and, for `standard`, divides by the deviation on the rows it was made from; drops constants."""

    def __init__(self, features: Tensor, scale: str) -> None:
        """Reads mean and deviation from `features` (n, D)."""
        features = features.float()
        deviation, mean = torch.std_mean(features, dim=0, correction=0)
        self.kept = (deviation > CONSTANT * mean.abs()).nonzero().squeeze(1)
        self.mean, deviation = mean[self.kept], deviation[self.kept]
        if scale == "raw" or not len(deviation):
            self.deviation = torch.ones_like(deviation)
        else:
            self.deviation = deviation.clamp_min(FLOOR * float(deviation.median()))

    def __call__(self, features: Tensor) -> Tensor:
        """(m, D) → (m, features that vary), float32."""
        if len(self.kept) < features.shape[1]:
            features = features[:, self.kept]
        return (features.float() - self.mean).div_(self.deviation)


class Design:
    """The features (n, D) of the rows of a fit, and the principal directions that its solvers work in."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.mean = features.mean(dim=0)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        rows, width = self.features.shape
        centred = self.features - self.mean
        if width <= rows:
            variances, directions = torch.linalg.eigh((centred.T @ centred).double() / rows)
            return directions.float(), variances.clamp_min(0).float()
        variances, shares = torch.linalg.eigh((centred @ centred.T).double() / rows)
        kept = variances > RANK * variances[-1:]
        lengths = (rows * variances[kept]).sqrt()
        return centred.T @ (shares[:, kept] / lengths).float(), variances[kept].float()

    @property
    def directions(self) -> Tensor:
        """Principal directions (D, R), orthonormal; with fewer rows than features only those that the rows span.

        A penalised fit has no weight outside that span, so nothing is lost.
        """
        return self._eigen[0]

    @property
    def variances(self) -> Tensor:
        """Variance of the features along each direction: (R,)."""
        return self._eigen[1]


@dataclass(frozen=True)
class Affine:
    """Fitted maps from features to outputs, one per penalty: weights (P, K, D) and intercepts (P, K)."""

    weights: Tensor
    intercepts: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def __call__(self, features: Tensor) -> Tensor:
        """(m, D) → (P, K, m): the rows last, so that a product's output is used as it lies."""
        flat = self.weights.flatten(0, 1) @ features.T
        return flat.view(*self.intercepts.shape, -1) + self.intercepts[..., None]

    def take(self, index: int) -> "Affine":
        """The map of one penalty alone."""
        return Affine(self.weights[index : index + 1], self.intercepts[index : index + 1])
