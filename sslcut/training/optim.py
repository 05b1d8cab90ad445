"""Optimisers: a factory each, from named parameters to a torch optimiser whose state is known by parameter name."""

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sslcut.registry import OPTIMISERS
from sslcut.schedules import LrScaling, scaled_lr

Named = Iterable[tuple[str, nn.Parameter]]


def sgd(
    parameters: Named,
    *,
    lr: float = 0.4,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    nesterov: bool = False,
    exclude_norm_bias: bool = True,
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    `exclude_norm_bias` keeps weight decay off biases and normalisation weights (every parameter below two dimensions).
    """
    groups = decay_groups(parameters, weight_decay, exclude_norm_bias)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused(groups))


def adamw(
    parameters: Named,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.999),
    exclude_norm_bias: bool = True,
) -> Optimizer:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""
    groups = decay_groups(parameters, weight_decay, exclude_norm_bias)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused(groups))


def lars(
    parameters: Named,
    *,
    lr: float = 0.3,
    momentum: float = 0.9,
    weight_decay: float = 1e-6,
    eta: float = 0.001,
    clip: bool = False,
    bias_lr: float | None = None,
) -> Optimizer:
    """SGD whose step for each weight is proportional to the weight's norm (arXiv 1708.03888).

    The form of the VICReg and Barlow Twins code. `clip` takes the form that small data sets are trained with (LARC,
    eta 0.02): the norms of gradient and decay are added, and no weight moves faster than plain SGD would move it.
    `bias_lr` is the learning rate of every parameter below two dimensions, where it has one of its own.
    """
    groups = decay_groups(parameters, weight_decay, exclude=True)
    for group in groups:
        if bias_lr is not None and group["params"][0][1].ndim <= 1:
            group["lr"] = bias_lr
    return LARS(groups, lr=lr, momentum=momentum, eta=eta, clip=clip)


def decay_groups(parameters: Named, weight_decay: float, exclude: bool) -> list[dict[str, Any]]:
    """Two parameter groups, with and without weight decay; `exclude` puts parameters below two dimensions in the last.

    Parameters that need no gradient are left out, an empty group too.
    """
    named = [(name, p) for name, p in parameters if p.requires_grad]
    decayed = [pair for pair in named if pair[1].ndim > 1 or not exclude]
    plain = [pair for pair in named if pair[1].ndim <= 1 and exclude]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def fused(groups: list[dict[str, Any]]) -> bool:
    """Whether torch's fused kernels can be used: three times as fast on a CPU, and one launch on a GPU."""
    return all(p.device.type in ("cpu", "cuda") for group in groups for _, p in group["params"])


class LARS(Optimizer):
    """Layer-wise adaptive SGD: u = grad + decay·p, scaled by eta·‖p‖/‖u‖; then momentum, then p -= lr·momentum.

    Parameters below two dimensions take the plain gradient. `lars` says what `clip` does.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, momentum: float = 0.9, eta: float = 0.001, clip: bool = False
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "eta": eta, "clip": clip, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient; reads nothing back from the device."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step_group(parameters, group)
        return loss

    def _step_group(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        updates = [p.grad for p in parameters if p.grad is not None]
        adapted = [i for i, p in enumerate(parameters) if p.ndim > 1]
        if adapted:
            weights, gradients = [parameters[i] for i in adapted], [updates[i] for i in adapted]
            for i, update in zip(adapted, adapt(weights, gradients, group), strict=True):
                updates[i] = update
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(parameters, buffers, alpha=-group["lr"])


def adapt(weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Each gradient with its decay added, scaled to eta times its weight's norm; unscaled where a norm is 0."""
    decay, lr = group["weight_decay"], group["lr"]
    updates = list(torch._foreach_add(gradients, weights, alpha=decay))
    size = torch.stack(list(torch._foreach_norm(weights)))  # (number of weights,)
    if group["clip"]:
        pull = torch.stack(list(torch._foreach_norm(gradients)))
        moves, pull = (size > 0) & (pull > 0), pull + decay * size
        scale = (group["eta"] * size / pull / lr).clamp(max=1.0)  # lr 0, the first step of a warm-up, gives 1
    else:
        pull = torch.stack(list(torch._foreach_norm(updates)))
        moves = (size > 0) & (pull > 0)
        scale = group["eta"] * size / pull
    torch._foreach_mul_(updates, list(torch.where(moves, scale, 1.0).unbind()))
    return updates


def build_optimizer(
    parameters: Named,
    options: Mapping[str, Any],
    batch_size: int,
    scaling: LrScaling,
    constant: Callable[[str], bool] = lambda name: False,
) -> Optimizer:
    """The optimiser that `{"name": …, **options}` describes, its learning rate scaled from batch 256 to `batch_size`.

    Each group's `initial_lr` holds that peak, below which `set_lr` moves it; but parameters by whose name `constant` is
    true stay there.
    """
    chosen = {key: value for key, value in options.items() if key != "name"}
    make, named = OPTIMISERS.load(options["name"]), list(parameters)
    optimizer: Optimizer = make([(name, p) for name, p in named if not constant(name)], **chosen)
    if held := [(name, p) for name, p in named if constant(name)]:
        for group in make(held, **chosen).param_groups:
            pairs = list(zip(group.pop("param_names"), group["params"], strict=True))
            optimizer.add_param_group({**group, "params": pairs, "constant": True})
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = scaled_lr(group["lr"], batch_size, scaling)
    return optimizer


def split(optimizer: Optimizer, apart: Container[str], factor: float) -> None:
    """Give the parameters whose names are in `apart` groups of their own, at `factor` times the learning rate."""
    for group in list(optimizer.param_groups):
        pairs = list(zip(group["param_names"], group["params"], strict=True))
        named = [pair for pair in pairs if pair[0] in apart]
        if named:
            faster = {key: group[key] * factor for key in ("lr", "initial_lr")}
            _hold_only(group, [pair for pair in pairs if pair[0] not in apart])
            optimizer.add_param_group({**_less_parameters(group), **faster, "params": named})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def drop(optimizer: Optimizer, apart: Container[str]) -> None:
    """Take the parameters whose names are in `apart` out of an optimiser that has not moved them yet."""
    for group in optimizer.param_groups:
        pairs = zip(group["param_names"], group["params"], strict=True)
        _hold_only(group, [pair for pair in pairs if pair[0] not in apart])
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def _hold_only(group: dict[str, Any], pairs: list[tuple[str, Tensor]]) -> None:
    group["param_names"], group["params"] = [name for name, _ in pairs], [p for _, p in pairs]


def _less_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def set_lr(optimizer: Optimizer, share: float) -> None:
    """Set every group's learning rate to `share` of its peak, the constant ones' aside."""
    for group in optimizer.param_groups:
        if not group.get("constant", False):
            group["lr"] = group["initial_lr"] * share
