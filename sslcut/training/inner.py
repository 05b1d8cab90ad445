"""Updates whose head takes steps of its own, on features that the backbone gave once, before the backbone takes one.

The head then is no part of the network but parameters of its loss, fitted to each batch (after arXiv 2212.11491). Its
steps are SGD with momentum and without weight decay, at a learning rate of their own: the schedule, the gradient's
clipping and the optimiser are the backbone's.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from sslcut.data.views import Views
from sslcut.errors import InputError
from sslcut.methods.base import Features, Method
from sslcut.training.hypergradient import Found, Inner, Outer, Rule, Tensors, alternating, implicit, unrolled
from sslcut.training.optim import drop
from sslcut.training.state import HINT
from sslcut.training.updates import Batch, Engine, Update, head_of
from sslcut.training.world import Precision, cost_of

VANISHED = 0.01  # of the first epoch's gradient of the backbone,
FITTED = 0.5  # where the head's steps leave less than that of the loss: together they tell an over-fitted head
MOMENTUM, FIGURE, FIRST = "momentum.", "figure.", "first gradient"


class HeadLoss(nn.Module):
    """The loss of a batch of features, as a function whose parameters are the head's alone."""

    def __init__(self, method: Method, precision: Precision) -> None:
        super().__init__()
        self.method, self.precision = method, precision

    def forward(self, features: Features, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss (a scalar) and z (V, B, D)."""
        with self.precision.autocasting(features.h[0].device):
            z = self.method.head(features)
        return cost_of(self.method, z, labels)


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Passes inside it take batch statistics, and leave the running ones and their count of batches as they are."""
    norms = [each for each in module.modules() if isinstance(each, _NormBase) and each.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class Apart(Update):
    """The head's own steps, then one of the backbone down the gradient that a subclass's `found` gives."""

    def __init__(self, engine: Engine, rule: Rule, *, held_out: bool, reset_inner_state: bool) -> None:
        super().__init__(engine)
        self.rule, self.held_out, self.reset_inner_state = rule, held_out, reset_inner_state
        self.head = head_of(engine.method)
        drop(engine.optimizer, self.head)
        self.loss = HeadLoss(engine.method, engine.precision)
        self.momenta = {name: torch.zeros_like(p) for name, p in self.head.items()}
        self.figures: dict[str, Tensor] = {}
        self.first = torch.zeros((), dtype=torch.float64)  # the first epoch's mean gradient; 0 while there is none
        self.warned = False

    @abstractmethod
    def found(self, inner: Inner, outer: Outer, x: Tensors, values: Tensors, momenta: Tensors) -> Found:
        """The head after its steps, and the gradient by the features `x`."""

    def step(
        self, views: Views, labels: Tensor | None, progress: float, other: Batch | None = None
    ) -> tuple[Tensor, Tensor]:
        method = self.engine.method
        method.progress = progress
        method.begin()
        if self.reset_inner_state:
            self.forget()
        behind = self.features(views)
        fitted, told = (behind, labels) if other is None else (self.elsewhere(other[0]), other[1])
        found = self.descend(behind, labels, fitted, told, progress)
        self.engine.optimizer.zero_grad(set_to_none=True)
        h = behind.h if other is None else (*behind.h, *fitted.h)
        moving = [(t, slope) for t, slope in zip(h, found.slopes, strict=True) if t.requires_grad]
        torch.autograd.backward([t for t, _ in moving], [slope for _, slope in moving])
        self.note(found)
        self.engine.move(progress)
        with torch.no_grad():
            method.after_step(found.z, labels, progress)
        return found.loss, found.z

    def features(self, views: Views) -> Features:
        """A batch behind the backbone."""
        with self.engine.precision.autocasting(views.crops[0].device):
            return self.engine.method.features(views)

    def elsewhere(self, views: Views) -> Features:
        """The batch of `inner: held_out` behind the backbone, without a graph where no gradient goes there."""
        with untouched(self.engine.method), torch.set_grad_enabled(self.second_order):
            return self.features(views)

    def descend(
        self, behind: Features, labels: Tensor | None, fitted: Features, told: Tensor | None, progress: float
    ) -> Found:
        """Fit the head to the features `fitted`, and move it there; the loss of those `behind` is the outer one."""
        still = {id(p) for p in self.engine.method.held(progress)}
        moving = {name: p for name, p in self.head.items() if id(p) not in still}
        outside = leaves(behind)
        inside = outside if fitted is behind else leaves(fitted)

        def cost(features: Features, labels: Tensor | None, values: Tensors) -> tuple[Tensor, Tensor]:
            named = {f"method.{name}": value for name, value in zip(moving, values, strict=True)}
            return functional_call(self.loss, named, (features, labels))

        def inner(values: Tensors) -> Tensor:
            with untouched(self.engine.method):
                return cost(inside, told, values)[0]

        x = outside.h if inside is outside else (*outside.h, *inside.h)
        values, momenta = (tuple(each[name].detach() for name in moving) for each in (self.head, self.momenta))
        found = self.found(inner, lambda values: cost(outside, labels, values), x, values, momenta)
        with torch.no_grad():
            after = found.loss if inside is outside else inner(found.values)
            for name, value, momentum in zip(moving, found.values, found.momenta, strict=True):
                self.head[name].copy_(value)
                self.momenta[name].copy_(momentum)
        self.add(inner_before=found.before, inner_after=after, head_passes=found.passes + (inside is not outside))
        return found

    def note(self, found: Found) -> None:
        """Add to the epoch's figures what the gradient of θ, before any clipping, came out as."""
        slopes = [p.grad for p in self.engine.parameters() if p.grad is not None]
        self.add(steps=1, backbone_gradient=torch.stack(list(torch._foreach_norm(slopes))).norm(), **found.facts)

    def add(self, **figures: Tensor | float) -> None:
        """Add to the sums of the epoch's figures, which stay where they were computed."""
        for name, value in figures.items():
            value = torch.as_tensor(value, dtype=torch.float64)
            self.figures[name] = self.figures[name] + value if name in self.figures else value.detach()

    def close(self) -> tuple[dict[str, float], str]:
        sums = {name: value.item() for name, value in self.figures.items()}
        self.figures = {}
        count = sums.pop("steps")
        told = {name: total / count for name, total in sums.items()}
        gradient, first = told["backbone_gradient"], self.first.item()
        if not first:
            self.first = torch.tensor(gradient, dtype=torch.float64)
        fitted = told["inner_after"] < FITTED * told["inner_before"]
        was, self.warned = self.warned, fitted and gradient < VANISHED * first
        return told, "" if was or not self.warned else (
            f"the gradient of the backbone is {gradient:.2g}, it was {first:.2g} in the first epoch: the head may fit "
            "each batch too well (fewer head.update.steps, a lower head.update.lr or inner: held_out can help)"
        )

    def forget(self) -> None:
        for momentum in self.momenta.values():
            momentum.zero_()

    def tensors(self) -> dict[str, Tensor]:
        momenta = {MOMENTUM + name: momentum for name, momentum in self.momenta.items()}
        return {**momenta, **{FIGURE + name: value for name, value in self.figures.items()}, FIRST: self.first}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, momentum in self.momenta.items():
            given = tensors.get(MOMENTUM + name)
            if given is None or given.shape != momentum.shape:
                raise InputError(f"the state to resume from has no momentum of the head's `{name}`", hint=HINT)
            momentum.copy_(given)
        device = next(self.engine.method.parameters()).device
        figures = {name.removeprefix(FIGURE): t for name, t in tensors.items() if name.startswith(FIGURE)}
        self.figures = {name: t.to(device, copy=True) for name, t in figures.items()}
        self.first = tensors[FIRST].to("cpu", copy=True)


class Alternating(Apart):
    """`steps` steps of the head on a batch's features, then one of the backbone, for which the head is a constant.

    `inner: held_out` fits the head to the batch before, whose images the backbone reads again. The momentum goes on
    from batch to batch, unless `reset_inner_state`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        steps: Annotated[int, Field(ge=1)] = 5,
        lr: Annotated[float, Field(ge=0)] = 0.1,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        inner: Literal["same", "held_out"] = "same",
        reset_inner_state: bool = False,
    ) -> None:
        rule = Rule(steps, lr, momentum)
        super().__init__(engine, rule, held_out=inner == "held_out", reset_inner_state=reset_inner_state)

    def found(self, inner: Inner, outer: Outer, x: Tensors, values: Tensors, momenta: Tensors) -> Found:
        return alternating(inner, outer, x, values, momenta, self.rule)


class Unrolled(Apart):
    """As `alternating`, but the backbone's gradient goes through the head's steps too."""

    second_order = True

    def __init__(
        self,
        engine: Engine,
        *,
        steps: Annotated[int, Field(ge=1)] = 5,
        lr: Annotated[float, Field(ge=0)] = 0.1,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        inner: Literal["same", "held_out"] = "same",
        reset_inner_state: bool = False,
    ) -> None:
        rule = Rule(steps, lr, momentum)
        super().__init__(engine, rule, held_out=inner == "held_out", reset_inner_state=reset_inner_state)

    def found(self, inner: Inner, outer: Outer, x: Tensors, values: Tensors, momenta: Tensors) -> Found:
        return unrolled(inner, outer, x, values, momenta, self.rule)


class Implicit(Apart):
    """As `alternating`, but the backbone's gradient is that of a head which follows its minimum.

    It takes conjugate gradients with the head's Hessian, to which `damping` times its mean eigenvalue is added, and
    more where the head's loss curves downwards.
    """

    second_order = True

    def __init__(
        self,
        engine: Engine,
        *,
        steps: Annotated[int, Field(ge=1)] = 5,
        lr: Annotated[float, Field(ge=0)] = 0.1,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        damping: Annotated[float, Field(ge=0)] = 0.01,
        inner: Literal["same", "held_out"] = "same",
        reset_inner_state: bool = False,
    ) -> None:
        rule = Rule(steps, lr, momentum)
        super().__init__(engine, rule, held_out=inner == "held_out", reset_inner_state=reset_inner_state)
        self.damping = damping

    def found(self, inner: Inner, outer: Outer, x: Tensors, values: Tensors, momenta: Tensors) -> Found:
        drawn = self.engine.method.generator(x[0].device)
        return implicit(inner, outer, x, values, momenta, self.rule, damping=self.damping, generator=drawn)


def leaves(features: Features) -> Features:
    """The same features as leaves of a graph of their own, of which a gradient can be asked."""
    return features._replace(h=tuple(h.detach().requires_grad_() for h in features.h))
