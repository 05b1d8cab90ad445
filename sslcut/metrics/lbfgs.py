"""Limited-memory BFGS directions for many problems side by side (Nocedal & Wright, algorithm 7.4)."""

from collections.abc import Callable

import torch
from torch import Tensor

Scaling = Callable[[Tensor], Tensor]
"""Applies an approximate inverse Hessian to a stack of gradients (P, …)."""


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each problem's pair in two stacks (P, …): (P, 1, 1)."""
    return (a * b).sum(dim=(1, 2), keepdim=True)


class Memory:
    """The last few steps and gradient changes of a stack of problems, each (P, C, R)."""

    def __init__(self, size: int = 10) -> None:
        self._size = size
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # step, gradient change, 1 / their product

    def remember(self, step: Tensor, change: Tensor) -> None:
        """Adds a pair; a problem whose pair shows no curvature (rounding) has it count for nothing."""
        product = inner(step, change)
        weight = torch.where(product > 1e-12, product.clamp_min(1e-12).reciprocal(), 0.0)
        self._pairs = [*self._pairs, (step, change, weight)][-self._size :]

    def keep(self, problems: Tensor) -> None:
        """Forgets the problems that are not in the mask (P,)."""
        self._pairs = [(s[problems], c[problems], w[problems]) for s, c, w in self._pairs]

    def direction(self, gradient: Tensor, scaling: Scaling) -> Tensor:
        """The descent direction of each problem; `scaling` is the inverse Hessian that the pairs refine."""
        rest, shares = gradient, []
        for step, change, weight in reversed(self._pairs):
            shares.append(weight * inner(step, rest))
            rest = rest - shares[-1] * change
        rest = scaling(rest)
        for (step, change, weight), share in zip(self._pairs, reversed(shares), strict=True):
            rest = rest + (share - weight * inner(change, rest)) * step
        return -rest
