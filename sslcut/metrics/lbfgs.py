"""Limited-memory BFGS directions, in compact form (Byrd, Nocedal & Schnabel, 1994)."""

from collections.abc import Callable

import torch
from torch import Tensor

Scaling = Callable[[Tensor], Tensor]
"""Applies an approximate inverse Hessian to a gradient."""


class Memory:
    """The last few steps, and the changes of the gradient over them.

    With S and Y their matrices, a row a pair, and U the upper triangle of SYᵀ, the two loops over pairs (Nocedal &
    Wright, algorithm 7.4) are two solves with U: four products in place of forty passes over long vectors.
    """

    def __init__(self, like: Tensor, size: int = 10) -> None:
        self._steps = torch.zeros(size, like.numel(), device=like.device)
        self._changes = torch.zeros(size, like.numel(), device=like.device)
        self._seen = 0  # pairs in all; the next one replaces the oldest, at this number modulo the size

    def remember(self, step: Tensor, change: Tensor) -> None:
        """Adds a pair in the place of the oldest, but for one that shows no curvature (rounding)."""
        if torch.vdot(step.flatten(), change.flatten()) > 1e-12:
            place = self._seen % len(self._steps)
            self._steps[place], self._changes[place] = step.flatten(), change.flatten()
            self._seen += 1

    def stiffen(self, more: Tensor) -> None:
        """Makes the pairs those of a Hessian that has `more` on its diagonal; negative to take away.

        Where rounding leaves a pair without curvature, all are forgotten.
        """
        self._changes.addcmul_(self._steps, more.flatten())
        if not bool((torch.linalg.vecdot(self._steps, self._changes)[: self._seen] > 0).all()):
            self.forget()

    def forget(self) -> bool:
        """Drops all pairs, and says whether there were any."""
        had, self._seen = self._seen > 0, 0
        return had

    def direction(self, gradient: Tensor, scaling: Scaling) -> Tensor:
        """The descent direction; `scaling` is the inverse Hessian that the pairs refine.

        Where the last pair shows more curvature than `scaling` knows, that is scaled down to it: longer steps are
        refused more often than they pay.
        """
        if not self._seen:
            return -scaling(gradient)
        count, flat = min(self._seen, len(self._steps)), gradient.flatten()
        oldest = self._seen % count
        steps, changes, last = self._steps[:count], self._changes[:count], self._changes[oldest - 1]
        products = (steps @ changes.T).roll((-oldest, -oldest), (0, 1))  # from here on the oldest pair is the first
        upper, diagonal = products.triu(), products.diagonal()
        shares = _solve(upper, (steps @ flat).roll(-oldest), upper=True)
        rest = scaling((flat - shares.roll(oldest) @ changes).view_as(gradient)).flatten()
        known = torch.vdot(last, scaling(last.view_as(gradient)).flatten())
        rest *= (diagonal[-1] / known).clamp_max(1)
        more = _solve(upper.T, diagonal * shares - (changes @ rest).roll(-oldest), upper=False)
        return -(rest + more.roll(oldest) @ steps).view_as(gradient)


def _solve(triangle: Tensor, wanted: Tensor, upper: bool) -> Tensor:
    return torch.linalg.solve_triangular(triangle, wanted[:, None], upper=upper).squeeze(1)
