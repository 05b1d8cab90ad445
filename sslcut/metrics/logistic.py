"""Multinomial logistic regression at many penalties at once, by L-BFGS along the features' principal directions.

All penalties share one product with the features per step. Along the principal directions the Hessian is nearly
diagonal, a class's mean p(1 − p) times the variance: scaling by it makes the first step about the least-squares
solution, and leaves ten to thirty steps where unscaled features need hundreds. The logits are linear in the step, so a
line search costs no product.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sslcut.metrics.design import Affine, Design
from sslcut.metrics.lbfgs import Memory, inner

LOGITS = 2**24  # how many logits one stack of problems may hold (64 MB): more penalties are solved in turns
STEPS = 500
HALVINGS = 12
ROUNDING = 3e-7  # relative; a decrease below it cannot be told from float32's error


def logistic(
    design: Design, labels: Tensor, classes: int, l2: Tensor, *, start: Affine | None = None, tolerance: float = 1e-6
) -> Affine:
    """Minimises mean cross-entropy + l2 / 2 · ‖W‖² for labels (n,) at each of `l2` (P,); no penalty on the bias.

    The same optimum as scikit-learn's `LogisticRegression(C=1 / (n · l2))`, from wherever it starts: one map for all
    penalties, or none. Stops where gᵀH⁻¹g, twice the decrease that is left to gain, falls under `tolerance` times the
    objective.
    """
    objective, together = _Objective(design, labels, classes), max(1, LOGITS // max(1, classes * len(design)))
    parts = [
        _minimise(objective, part, objective.start(len(part), start), tolerance) for part in torch.split(l2, together)
    ]
    return Affine(torch.cat([p.weights for p in parts]), torch.cat([p.intercepts for p in parts]))


class _Objective:
    """Loss, gradient and curvature of coefficients (P, C, R + 1) along the principal directions, bias last."""

    def __init__(self, design: Design, labels: Tensor, classes: int) -> None:
        self.design, self.labels = design, labels
        counts = torch.bincount(labels, minlength=classes).float()
        self.prior = ((counts + 0.5) / (counts + 0.5).sum()).log()
        self.variances = torch.cat([design.variances, torch.ones(1)])  # the bias is a feature that is always 1
        self.one_hot = torch.nn.functional.one_hot(labels, classes).T.float()  # (C, n)

    def penalties(self, l2: Tensor) -> Tensor:
        """Each coefficient's penalty: (P, 1, R + 1), none on the bias."""
        rows = l2[:, None, None].repeat(1, 1, len(self.variances))
        rows[..., -1] = 0
        return rows

    def start(self, count: int, fitted: Affine | None) -> Tensor:
        """Coefficients to begin at, `count` times: those of a map, else no weights and the classes' frequencies."""
        if fitted is None:
            fitted = Affine(torch.zeros(1, len(self.prior), self.design.features.shape[1]), self.prior[None])
        coefficients = torch.cat([fitted.weights @ self.design.directions, fitted.intercepts[..., None]], dim=2)
        return coefficients.repeat(count, 1, 1)

    def affine(self, coefficients: Tensor) -> Affine:
        """The map that coefficients stand for, on the features themselves."""
        return Affine(coefficients[..., :-1] @ self.design.directions.T, coefficients[..., -1])

    def logits(self, coefficients: Tensor) -> Tensor:
        """(P, C, n)."""
        return self.affine(coefficients)(self.design.features)

    def loss(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (P,), and the probabilities (P, C, n)."""
        top = logits.amax(dim=1, keepdim=True)
        chances = (logits - top).exp_()
        total = chances.sum(dim=1, keepdim=True)
        own = logits.gather(1, self.labels.expand(len(logits), 1, -1))
        return (total.log() + top - own).mean(dim=(1, 2)), chances.div_(total)

    def slopes(self, chances: Tensor) -> tuple[Tensor, Tensor]:
        """The loss's gradient (P, C, R + 1), and the mean p(1 − p) of each class (P, C, 1). Overwrites `chances`."""
        share = chances.mean(dim=2, keepdim=True)
        spread = share - chances.square().mean(dim=2, keepdim=True)
        spread = spread.clamp_min(1e-3 * spread.mean(dim=1, keepdim=True))
        residual = chances.sub_(self.one_hot)
        products = (residual.flatten(0, 1) @ self.design.features).view(*residual.shape[:2], -1)
        along = products @ self.design.directions
        return torch.cat([along / len(self.design), residual.mean(dim=2, keepdim=True)], dim=2), spread


@dataclass
class _State:
    """Where each problem of a stack is: every tensor has the problems first."""

    problem: Tensor  # (P,) its place among the penalties
    penalty: Tensor  # (P, 1, R + 1)
    coefficients: Tensor  # (P, C, R + 1)
    logits: Tensor  # (P, C, n)
    objective: Tensor  # (P,)
    gradient: Tensor  # (P, C, R + 1)
    hessian: Tensor  # (P, C, R + 1), its diagonal
    stuck: Tensor  # (P,) no decrease was found

    def keep(self, problems: Tensor) -> "_State":
        return _State(**{field.name: getattr(self, field.name)[problems] for field in fields(self)})

    def scaled(self, gradient: Tensor) -> Tensor:
        """The gradient over the Hessian's diagonal."""
        return gradient / self.hessian

    def finished(self, tolerance: float) -> Tensor:
        """The problems that have no more than `tolerance` of their objective to gain, or cannot gain it."""
        decrement = inner(self.gradient, self.scaled(self.gradient)).flatten()
        return (decrement <= tolerance * self.objective) | self.stuck


def _minimise(objective: _Objective, l2: Tensor, start: Tensor, tolerance: float) -> Affine:
    logits = objective.logits(start)
    state = _arrive(objective, torch.arange(len(l2)), objective.penalties(l2), start, logits, *objective.loss(logits))
    found, memory = torch.empty_like(start), Memory()
    for _ in range(STEPS):
        done = state.finished(tolerance)
        if done.any():
            found[state.problem[done]] = state.coefficients[done]
            state = state.keep(~done)
            memory.keep(~done)
        if not len(state.problem):
            break
        state = _step(objective, state, memory)
    found[state.problem] = state.coefficients
    return objective.affine(found)


def _step(objective: _Objective, state: _State, memory: Memory) -> _State:
    """One L-BFGS step; a problem whose objective no longer falls by more than rounding is stuck."""
    direction = memory.direction(state.gradient, state.scaled)
    arrived = _search(objective, state, direction)
    memory.remember(arrived.coefficients - state.coefficients, arrived.gradient - state.gradient)
    arrived.stuck = state.objective - arrived.objective <= ROUNDING * state.objective
    return arrived


def _search(objective: _Objective, state: _State, direction: Tensor) -> _State:
    """Goes along `direction`, halving a problem's step until its objective falls enough (Armijo)."""
    change, descent = objective.logits(direction), inner(state.gradient, direction).flatten()
    length = torch.ones(len(direction), 1, 1)
    for _ in range(HALVINGS):
        coefficients, logits = state.coefficients + length * direction, state.logits + length * change
        loss, chances = objective.loss(logits)
        value = loss + inner(state.penalty, coefficients.square()).flatten() / 2
        enough = value <= state.objective + 1e-4 * length.flatten() * descent + ROUNDING * state.objective
        if enough.all():
            break
        length = torch.where(enough[:, None, None], length, length / 2)
    return _arrive(objective, state.problem, state.penalty, coefficients, logits, loss, chances)


def _arrive(
    objective: _Objective,
    problem: Tensor,
    penalty: Tensor,
    coefficients: Tensor,
    logits: Tensor,
    loss: Tensor,
    chances: Tensor,
) -> _State:
    """The state at coefficients whose loss is known. Overwrites `chances`."""
    gradient, spread = objective.slopes(chances)
    return _State(
        problem=problem,
        penalty=penalty,
        coefficients=coefficients,
        logits=logits,
        objective=loss + inner(penalty, coefficients.square()).flatten() / 2,
        gradient=gradient + penalty * coefficients,
        hessian=spread * objective.variances + penalty + 1e-12,
        stuck=torch.zeros_like(problem, dtype=torch.bool),
    )
