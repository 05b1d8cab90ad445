"""What a training resumes from: the method's tensors, the optimiser's by parameter name, and the position.

Random numbers are derived from (seed, epoch, image) or (seed, step), so none of their state is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sslcut.errors import InputError
from sslcut.methods.base import Method

METHOD, OPTIMIZER, UPDATE, LOSS = "method.", "optimizer.", "update.", "position.loss"
HINT = "start anew with --force, or go back to the recipe that this run began with"


@dataclass
class Position:
    """Where a training stands: `step` batches of `epoch` (both from 0) are done, `loss` is the sum of theirs.

    `loss` is a float64 scalar on the training's device; None before the first step of an epoch.
    """

    epoch: int = 0
    step: int = 0
    loss: Tensor | None = None


def capture(
    method: Method,
    optimizer: Optimizer,
    position: Position,
    course: Mapping[str, Any],
    update: Mapping[str, Tensor] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as tensors and a JSON document; `course` is what must be the same when it is restored.

    `update` is what the head's update keeps from step to step.

    The tensors are the live ones: write them, or clone them, before the next step.
    """
    tensors = {METHOD + name: tensor.detach() for name, tensor in method.state_dict().items()}
    tensors |= {OPTIMIZER + name: tensor for name, tensor in moments(optimizer).items()}
    tensors |= {UPDATE + name: tensor.detach() for name, tensor in update.items()}
    if position.loss is not None:
        tensors[LOSS] = position.loss
    return tensors, {"epoch": position.epoch, "step": position.step, "course": dict(course)}


def kept_by_update(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the head's update kept, of a captured state."""
    return {name.removeprefix(UPDATE): tensor for name, tensor in tensors.items() if name.startswith(UPDATE)}


def restore(
    method: Method,
    optimizer: Optimizer,
    tensors: Mapping[str, Tensor],
    document: Mapping[str, Any],
    course: Mapping[str, Any],
) -> Position:
    """Put a captured state back into a method and an optimiser built by the same recipe; returns where it stood.

    Raises InputError naming the first thing that does not fit.
    """
    for key, value in course.items():
        found = document.get("course", {}).get(key)
        if found != value:
            raise InputError(f"the state to resume from has {key} {found}, this training has {value}", hint=HINT)
    _restore_method(method, {k.removeprefix(METHOD): t for k, t in tensors.items() if k.startswith(METHOD)})
    restore_moments(optimizer, {k.removeprefix(OPTIMIZER): t for k, t in tensors.items() if k.startswith(OPTIMIZER)})
    loss = tensors.get(LOSS)
    device = next(method.parameters()).device
    return Position(document["epoch"], document["step"], loss.to(device, copy=True) if loss is not None else None)


def named(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's parameters by name."""
    return {name: p for g in optimizer.param_groups for name, p in zip(g["param_names"], g["params"], strict=True)}


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers of each parameter: `<parameter>:<its name>`, the live tensors."""
    return {
        f"{name}:{key}": tensor.detach()
        for name, parameter in named(optimizer).items()
        for key, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, Tensor)
    }


def _restore_method(method: Method, given: Mapping[str, Tensor]) -> None:
    own = method.state_dict()
    for name in [*own, *given]:
        if name not in given or name not in own or given[name].shape != own[name].shape:
            raise InputError(f"tensor `{name}` of the state to resume from does not fit the network", hint=HINT)
    method.load_state_dict(given)


def restore_moments(optimizer: Optimizer, given: Mapping[str, Tensor]) -> None:
    """Put back what `moments` gave; raises InputError for a parameter that the optimiser does not move."""
    parameters = named(optimizer)
    for full, tensor in given.items():
        name, _, key = full.rpartition(":")
        if name not in parameters:
            raise InputError(f"the state to resume from moves `{name}`, which this training does not", hint=HINT)
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            # in the parameter's memory order: fused kernels need it, and sums in another order differ in the last bits
            optimizer.state[parameter][key] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        else:
            optimizer.state[parameter][key] = tensor.to(parameter.device, copy=True)
