"""What a head's own steps mean for the backbone: the gradient of the loss after them, by features x.

Throughout, `inner` is the loss that the head φ descends and `outer` the one that the backbone is moved by, both as
functions of φ; both may also depend on x, which are leaves of the graph. With the same loss on the same batch, and φ at
its minimum, ∂outer/∂φ is 0 and all three functions agree (the envelope theorem): only another batch, another loss or
an inner loop that has not converged makes them differ.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd import grad

Tensors = tuple[Tensor, ...]
Inner = Callable[[Tensors], Tensor]
Outer = Callable[[Tensors], tuple[Tensor, Tensor]]  # its loss, and whatever else the caller wants of that pass

PROBES = 8  # of Hutchinson's estimate of a trace
LARGEST = 10  # steps of the conjugate gradients
CLOSE = 1e-5  # of the right-hand side's norm: the solution's residual
FLOOR = 1e-4  # of the damping: the head's Hessian is singular where z is normalised


@dataclass(frozen=True)
class Rule:
    """How φ descends: so many `steps` of SGD with momentum."""

    steps: int
    lr: float
    momentum: float


@dataclass(frozen=True)
class Found:
    """φ and its momenta after the steps, detached; the inner loss `before` them and the outer one after, with its z.

    `slopes` are the gradient by x. `passes` counts the head's passes, a product with its Hessian as one; `facts` are
    more figures worth logging.
    """

    values: Tensors
    momenta: Tensors
    before: Tensor
    loss: Tensor
    z: Tensor
    slopes: Tensors
    passes: int
    facts: Mapping[str, float] = field(default_factory=dict)


def alternating(
    inner: Inner, outer: Outer, x: Sequence[Tensor], values: Tensors, momenta: Tensors, rule: Rule
) -> Found:
    """∂outer/∂x at φ after its steps, which counts as a constant."""
    values, momenta, before = descent(inner, values, momenta, rule)
    loss, z = outer(values)
    slopes = grad(loss, x, materialize_grads=True)
    return Found(values, momenta, before, loss.detach(), z.detach(), slopes, rule.steps + 1)


def unrolled(inner: Inner, outer: Outer, x: Sequence[Tensor], values: Tensors, momenta: Tensors, rule: Rule) -> Found:
    """The gradient through the steps themselves, by x, of the loss after them."""
    values, momenta, before = descent(inner, values, momenta, rule, graph=True)
    loss, z = outer(values)
    slopes = grad(loss, x, materialize_grads=True)
    values, momenta = (tuple(t.detach() for t in each) for each in (values, momenta))
    return Found(values, momenta, before, loss.detach(), z.detach(), slopes, rule.steps + 1)


def implicit(
    inner: Inner,
    outer: Outer,
    x: Sequence[Tensor],
    values: Tensors,
    momenta: Tensors,
    rule: Rule,
    *,
    damping: float,
    floor: float = FLOOR,
    generator: torch.Generator | None = None,
) -> Found:
    """∂outer/∂x − ∂²inner/∂x∂φ (H + λ)⁻¹ ∂outer/∂φ at φ after its steps, H = ∂²inner/∂φ².

    λ is `damping` times the mean eigenvalue of H, at least `floor`, and more where H is met to be negative: `conjugate`
    solves the system, and the facts tell the λ it came to and whether that is the one it began with.
    """
    values, momenta, before = descent(inner, values, momenta, rule)
    opened = tuple(value.requires_grad_() for value in values)
    loss, z = outer(opened)
    found = grad(loss, (*x, *opened), materialize_grads=True)
    direct, aim = found[: len(x)], found[len(x) :]
    slopes = grad(inner(opened), opened, create_graph=True, materialize_grads=True)

    def curved(direction: Tensors) -> Tensors:
        return grad(slopes, opened, direction, retain_graph=True, materialize_grads=True)

    shift = max(floor, damping * mean_eigenvalue(curved, opened, generator)) if damping else floor
    solution, steps, damped = conjugate(curved, aim, shift)
    mixed = grad(slopes, x, solution, materialize_grads=True)
    passes = rule.steps + 2 + (PROBES if damping else 0) + steps
    corrected = tuple(a - b for a, b in zip(direct, mixed, strict=True))
    values = tuple(value.detach() for value in opened)
    facts = {"damping": damped, "positive_curvature": float(damped == shift)}
    return Found(values, momenta, before, loss.detach(), z.detach(), corrected, passes, facts)


def descent(
    inner: Inner, values: Tensors, momenta: Tensors, rule: Rule, graph: bool = False
) -> tuple[Tensors, Tensors, Tensor]:
    """φ and its momenta after the steps, and the loss before them; `graph` keeps what leads there."""
    values = tuple(value.detach().requires_grad_() for value in values)
    before = torch.empty(())
    for step in range(rule.steps):
        cost = inner(values)
        before = cost.detach() if step == 0 else before
        slopes = grad(cost, values, create_graph=graph, materialize_grads=True)
        momenta = tuple(rule.momentum * m + slope for m, slope in zip(momenta, slopes, strict=True))
        values = tuple(value - rule.lr * m for value, m in zip(values, momenta, strict=True))
        if not graph:
            last = step == rule.steps - 1
            values = tuple(value.detach().requires_grad_(not last) for value in values)
    return values, momenta, before


def mean_eigenvalue(
    product: Callable[[Tensors], Tensors], like: Tensors, generator: torch.Generator | None = None
) -> float:
    """The trace of a symmetric matrix over its size, by Hutchinson's random signs; `product` multiplies with it."""
    total, size = 0.0, sum(t.numel() for t in like)
    for _ in range(PROBES):
        signs = tuple(
            torch.randint(0, 2, t.shape, generator=generator, device=t.device).to(t.dtype) * 2 - 1 for t in like
        )
        total += float(dot(signs, product(signs)))
    return total / PROBES / size


def conjugate(product: Callable[[Tensors], Tensors], aim: Tensors, shift: float) -> tuple[Tensors, int, float]:
    """v of (H + shift) v = `aim`, how many products with H it took, and the shift that it came to.

    Away from its minimum a loss also curves downwards, and v would aim at a maximum there. Where a direction does, the
    shift becomes twice its curvature's size, and v is begun anew.
    """
    start = float(dot(aim, aim))
    solution, residual, direction, left = plus(aim, aim, -1.0), aim, aim, start
    for step in range(LARGEST):
        if left <= CLOSE**2 * start:
            return solution, step, shift
        image = product(direction)
        curvature, size = float(dot(direction, image)), float(dot(direction, direction))
        if curvature + shift * size <= 0:
            shift = max(2 * shift, -2 * curvature / size)
            solution, residual, direction, left = plus(aim, aim, -1.0), aim, aim, start
            continue
        length = left / (curvature + shift * size)
        solution = plus(solution, direction, length)
        residual = plus(residual, plus(image, direction, shift), -length)
        before, left = left, float(dot(residual, residual))
        direction = plus(residual, direction, left / before)
    begun = residual is not aim
    return solution if begun else plus(aim, aim, 1 / shift - 1), LARGEST, shift


def dot(a: Tensors, b: Tensors) -> Tensor:
    """The inner product of two lists of tensors, a scalar."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def plus(a: Tensors, b: Tensors, factor: float) -> Tensors:
    """a + factor · b."""
    return tuple(x + factor * y for x, y in zip(a, b, strict=True))
