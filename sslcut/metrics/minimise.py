"""Penalised linear fits, one for each of many penalties, by L-BFGS along the path from the largest penalty down.

A fit begins at the optimum before it, whose loss and gradient are known, with what was learnt of the Hessian on the way
there; where the optima lie on a line in the penalty's logarithm, it goes along that line first. So one to ten passes
over the rows are enough where zero weights need ten to hundreds. The Hessian is about the loss's curvature times the
features' covariance plus the penalty: its inverse, which L-BFGS refines, makes the first step of all about the
least-squares solution.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sslcut.metrics.design import Affine, Design
from sslcut.metrics.lbfgs import Memory

FEW = 5  # outputs up to which a tall product and its transposition are faster than a flat product
STEPS = 500
CUTS = 12
FLAT = 1e-3  # of the outputs' mean curvature
ROUNDING = 1e-8  # relative; a decrease below it cannot be told from float32's error


class Loss(Protocol):
    """What is minimised on average over the rows, beside the penalty."""

    outputs: int

    def intercepts(self) -> Tensor:
        """The best intercepts (K,) where there are no weights."""
        ...

    def slope(self, outputs: Tensor, part: slice) -> tuple[Tensor, float, Tensor]:
        """The loss's derivative by the outputs (K, m) for `part` of the rows; may overwrite them.

        Beside it the sum of the loss over these rows, and of its second derivative by each output, (K,).
        """
        ...


def path(
    design: Design, loss: Loss, l2: Tensor, *, start: Affine | None = None, tolerance: float = 1e-6
) -> Iterator[tuple[Tensor, Affine]]:
    """Minimises mean loss + l2 / 2 · ‖W‖² at each of `l2` (P,), all different, without a penalty on the intercepts.

    Yields the place in `l2`, (1,), and the map for it, from the largest penalty down. The first begins at `start`, one
    map, or at no weights. A fit ends where gᵀH⁻¹g, twice the decrease that is left to gain, falls under `tolerance`
    times the objective.
    """
    way = _Way(_Objective(design, loss), _coefficients(design, loss, start), tolerance)
    for place in l2.argsort(descending=True):
        found = way.to(float(l2[place]))[None]
        yield place[None], design.affine(found[..., :-1], found[..., -1])


def gather(fits: Iterator[tuple[Tensor, Affine]]) -> Affine:
    """All maps of a path, in the order of its penalties."""
    places, maps = zip(*fits, strict=True)
    order = torch.cat(places).argsort()
    weights, intercepts = torch.cat([m.weights for m in maps]), torch.cat([m.intercepts for m in maps])
    return Affine(weights[order], intercepts[order])


def _coefficients(design: Design, loss: Loss, start: Affine | None) -> Tensor:
    """Coefficients (K, R + 1) to begin at: weights, and the intercept last."""
    if start is None:
        weights, intercepts = torch.zeros(loss.outputs, design.width, device=design.device), loss.intercepts()
    else:
        weights, intercepts = (found[0] for found in design.coordinates(start))
    return torch.cat([weights, intercepts[:, None]], dim=1)


@dataclass(frozen=True)
class _Point:
    """Coefficients (K, R + 1), the objective there, its gradient, and the loss's mean second derivatives (K, 1)."""

    coefficients: Tensor
    objective: float
    gradient: Tensor
    curvature: Tensor


class _Objective:
    """Mean loss plus penalty, evaluated in one pass over the rows."""

    def __init__(self, design: Design, loss: Loss) -> None:
        self.design, self.loss = design, loss
        self.penalised = torch.ones(loss.outputs, design.width + 1, device=design.device)
        self.penalised[:, -1] = 0

    def at(self, coefficients: Tensor, l2: float) -> _Point:
        """The objective of a penalty at coefficients (K, R + 1)."""
        weights, intercepts = coefficients[:, :-1].contiguous(), coefficients[:, -1]
        total, curvature = 0.0, torch.zeros_like(intercepts)
        slopes, shifts = torch.zeros_like(weights), torch.zeros_like(intercepts)
        for part, block in self.design.blocks(len(weights)):
            slope, loss, second = self.loss.slope(_outputs(weights, intercepts, block), part)
            total += loss
            curvature += second
            slopes.addmm_(slope, block)
            shifts += slope.sum(dim=1)
        rows = len(self.design)
        gradient = torch.cat([slopes.div_(rows).add_(weights, alpha=l2), shifts[:, None] / rows], dim=1)
        penalty = l2 / 2 * float(weights.square().sum())
        return _Point(coefficients, total / rows + penalty, gradient, _floored(curvature / rows)[:, None])

    def moved(self, point: _Point, more: float) -> _Point:
        """The same point under a penalty that is larger by `more`."""
        weights = point.coefficients * self.penalised
        objective = point.objective + more / 2 * float(weights.square().sum())
        return replace(point, objective=objective, gradient=point.gradient + more * weights)

    def newton(self, curvature: Tensor, l2: float, gradient: Tensor) -> Tensor:
        """The gradient times about the inverse Hessian."""
        weights = self.design.spectrum.inverse(gradient[:, :-1], curvature, l2)
        return torch.cat([weights, gradient[:, -1:] / curvature], dim=1)


def _outputs(weights: Tensor, intercepts: Tensor, block: Tensor) -> Tensor:
    """Outputs (K, m) of a block (m, R)."""
    if len(weights) <= FEW:
        return torch.addmm(intercepts, block, weights.T).T.contiguous()
    return torch.addmm(intercepts[:, None], weights, block.T)


def _floored(curvature: Tensor) -> Tensor:
    """Curvature (K,) that leaves an output which hardly moves (a class that is never predicted) no endless step."""
    return curvature.clamp_min(FLAT * float(curvature.mean()) + 1e-12)


class _Way:
    """Where the path of optima has come to, and what was learnt on it."""

    def __init__(self, objective: _Objective, start: Tensor, tolerance: float) -> None:
        self.objective, self.start, self.tolerance = objective, start, tolerance
        self.memory = Memory(start)
        self.optima: list[tuple[float, _Point]] = []  # the last two, with their penalties
        self.straight = False  # the line through the two before foretold the last one better than a step from it

    def to(self, l2: float) -> Tensor:
        """The coefficients that minimise the objective of this penalty."""
        here, line = self._begin(l2), self._line(l2)
        step = here.coefficients + self._direction(here, l2)
        if line is not None and self.straight:
            here = self._arrive(here, self.objective.at(line, l2))
        found = self._descend(here, l2)
        if line is not None:
            self.straight = _apart(line, found.coefficients) < _apart(step, found.coefficients)
        self.optima = [*self.optima[-1:], (l2, found)]
        return found.coefficients

    def _begin(self, l2: float) -> _Point:
        if not self.optima:
            return self.objective.at(self.start, l2)
        last, point = self.optima[-1]
        self.memory.stiffen((l2 - last) * self.objective.penalised)
        return self.objective.moved(point, l2 - last)

    def _line(self, l2: float) -> Tensor | None:
        """Where the line through the last two optima leads, in the logarithm of the penalty."""
        if len(self.optima) < 2:
            return None
        (before, one), (last, other) = self.optima
        reach = 1 + math.log(last / l2) / math.log(before / last)
        return torch.lerp(one.coefficients, other.coefficients, reach)

    def _direction(self, here: _Point, l2: float) -> Tensor:
        return self.memory.direction(here.gradient, partial(self.objective.newton, here.curvature, l2))

    def _arrive(self, here: _Point, there: _Point) -> _Point:
        """`there`, with the step to it remembered, or `here` where the objective is no lower."""
        if not there.objective < here.objective:
            return here
        self.memory.remember(there.coefficients - here.coefficients, there.gradient - here.gradient)
        return there

    def _descend(self, here: _Point, l2: float) -> _Point:
        """The optimum, or where the objective no longer falls by more than rounding, with and without a memory."""
        for _ in range(STEPS):
            decrease = float((here.gradient * self.objective.newton(here.curvature, l2, here.gradient)).sum())
            if decrease <= self.tolerance * here.objective:
                break
            before = here.objective
            here = self._arrive(here, _search(self.objective, l2, here, self._direction(here, l2)))
            if before - here.objective <= ROUNDING * before and not self.memory.forget():
                break
        return here


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().sum())


def _search(objective: _Objective, l2: float, here: _Point, direction: Tensor) -> _Point:
    """Goes along `direction`, with shorter steps until the objective falls enough (Armijo).

    The next step is where the parabola through both values and the slope is lowest, within a tenth to a half of the
    last.
    """
    slope, length = float((here.gradient * direction).sum()), 1.0
    for _ in range(CUTS):
        there = objective.at(here.coefficients + length * direction, l2)
        gained = there.objective - here.objective
        if gained <= 1e-4 * length * slope + ROUNDING * here.objective:
            break
        lowest = -slope * length**2 / (2 * (gained - slope * length)) if math.isfinite(gained) else 0.0
        length = min(max(lowest, length / 10), length / 2)
    return there
