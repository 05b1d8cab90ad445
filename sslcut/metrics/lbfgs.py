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
        self._steps = torch.zeros(size, like.numel())
        self._changes = torch.zeros(size, like.numel())
        self._order: list[int] = []  # places of the pairs, oldest first

    def remember(self, step: Tensor, change: Tensor) -> None:
        """Adds a pair in the place of the oldest, but for one that shows no curvature (rounding)."""
        if torch.vdot(step.flatten(), change.flatten()) > 1e-12:
            full = len(self._order) == len(self._steps)
            place = self._order.pop(0) if full else len(self._order)
            self._order.append(place)
            self._steps[place], self._changes[place] = step.flatten(), change.flatten()

    def stiffen(self, more: Tensor) -> None:
        """Makes the pairs those of a Hessian that has `more` on its diagonal; negative to take away."""
        self._changes.addcmul_(self._steps, more.flatten())

    def direction(self, gradient: Tensor, scaling: Scaling) -> Tensor:
        """The descent direction; `scaling` is the inverse Hessian that the pairs refine.

        Where the last pair shows more curvature than `scaling` knows, that is scaled down to it: longer steps are
        refused more often than they pay.
        """
        if not self._order:
            return -scaling(gradient)
        steps, changes, flat = self._steps[: len(self._order)], self._changes[: len(self._order)], gradient.flatten()
        order = torch.tensor(self._order)
        place = order.argsort()
        products = (steps @ changes.T)[order][:, order]
        upper, diagonal = products.triu(), products.diagonal()
        shares = _solve(upper, (steps @ flat)[order], upper=True)
        rest = scaling((flat - shares[place] @ changes).view_as(gradient)).flatten()
        last = changes[self._order[-1]]
        known = torch.vdot(last, scaling(last.view_as(gradient)).flatten())
        rest *= (diagonal[-1] / known).clamp_max(1)
        more = _solve(upper.T, diagonal * shares - (changes @ rest)[order], upper=False)
        return -(rest + more[place] @ steps).view_as(gradient)


def _solve(triangle: Tensor, wanted: Tensor, upper: bool) -> Tensor:
    return torch.linalg.solve_triangular(triangle, wanted[:, None], upper=upper).squeeze(1)
