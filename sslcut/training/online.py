"""Linear probes of every tap while the network trains (arXiv 2206.13378): how well each layer could be read so far.

What they read are the vectors of the passes that the loss makes anyway, detached. So they cost no pass of their own, no
gradient of theirs reaches the network, and nothing is drawn for them: a training with probes gives, to the bit, the
network of the same training without.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslcut.data.images import Images, Subset, Task, split_validation
from sslcut.data.opening import Opened
from sslcut.data.views import Views, normalise
from sslcut.errors import InputError, UsageError
from sslcut.methods.base import Method
from sslcut.methods.making import plain_update
from sslcut.metrics.division import asked_tasks
from sslcut.metrics.layer import defined
from sslcut.metrics.score import METRICS, values
from sslcut.model.chain import Block, Chain
from sslcut.model.network import Input
from sslcut.model.readout import fitting, read
from sslcut.names import measured, resolve
from sslcut.training.goals import Goal
from sslcut.training.optim import adamw
from sslcut.training.state import HINT, moments, restore_moments
from sslcut.training.world import Precision

JUDGED = 1000  # validation images at most: an epoch's end must stay cheap
PREFIX = "online."
Found = dict[str, list[Tensor]]
Scores = dict[str, dict[str, float | None]]
"""Of each layer the score of each task."""


class Online(nn.Module):
    """One linear map a tap, from its vectors to all tasks: classes by cross-entropy, numbers and angles by squares.

    The vectors are divided by their running deviation, so that no tap is slow for its scale alone, and one AdamW moves
    all maps. `held` are images whose labels are learnt from nowhere; they are scored in evaluation mode.
    """

    def __init__(
        self, chain: Chain, taps: Sequence[str], tasks: Mapping[str, Task], held: Images, input: Input, *, lr: float
    ) -> None:
        super().__init__()
        self._chain = [chain]  # in a list: a module's own modules are its tensors too
        self.taps, self.held, self.input = list(taps), held, input
        device = next(chain.parameters()).device
        self.goals = [Goal(name, task, device) for name, task in tasks.items()]
        outputs = sum(goal.outputs for goal in self.goals)
        widths = [cast(Block, chain.block(tap)).width for tap in taps]
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(outputs, width)) for width in widths)
        self.biases = nn.Parameter(torch.zeros(len(widths), outputs))
        self.scales = nn.ModuleList(nn.BatchNorm1d(width, affine=False) for width in widths)
        self.to(device)
        self.optimizer = adamw(self.named_parameters(), lr=lr, weight_decay=0.0)

    @property
    def told(self) -> str:
        """What learns what, in words."""
        tasks = ", ".join(f"`{goal.name}`" for goal in self.goals)
        return f"online probes at {len(self.taps)} layers learn {tasks}: the network sees none of it"

    @property
    def metrics(self) -> dict[str, str]:
        """The metric by which each task is scored."""
        return {goal.name: goal.metric for goal in self.goals}

    @contextmanager
    def watch(self, method: Method, views: Views, shown: Tensor) -> Iterator[None]:
        """Learn from what the network makes of a batch's global views while this is open.

        `shown` are the images that the views show, as `ViewMaker.shown` gives them.
        """
        batch = views.crops[0].shape[1]
        count = max(1, views.n_global - method.unseen)
        images = [shown[:batch] if view % 2 == 0 else shown[-batch:] for view in range(count)]
        with self._watching(count * batch) as found:
            yield
        mixed, parts = method.mixing, [(1.0, torch.cat(images))]
        if mixed is not None:
            order = mixed.order.cpu()
            parts = [(mixed.share, parts[0][1]), (1 - mixed.share, torch.cat([one[order] for one in images]))]
        self.learn({tap: torch.cat(vectors) for tap, vectors in found.items()}, parts)

    def learn(self, found: Mapping[str, Tensor], parts: Sequence[tuple[float, Tensor]]) -> None:
        """One step on the vectors (R, D) of each tap, of the images (R,) in `parts`, each with its share."""
        self.train()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.loss(found, parts))
        self.optimizer.step()

    def loss(self, found: Mapping[str, Tensor], parts: Sequence[tuple[float, Tensor]]) -> Tensor:
        """The sum over taps and tasks of the mean loss of the labelled images."""
        each = list(self._by_goal(self.outputs(found)))
        return torch.stack([share * goal.loss(one, images) for share, images in parts for goal, one in each]).sum()

    def outputs(self, found: Mapping[str, Tensor]) -> Tensor:
        """What the probes say of vectors (R, D) of each tap: (taps, R, outputs)."""
        with torch.autocast(self.biases.device.type, enabled=False):
            each = zip(self.taps, self.scales, self.weights, self.biases, strict=True)
            return torch.stack([F.linear(scale(found[tap]), weight, bias) for tap, scale, weight, bias in each])

    def _by_goal(self, outputs: Tensor) -> Iterator[tuple[Goal, Tensor]]:
        return zip(self.goals, torch.split(outputs, [goal.outputs for goal in self.goals], dim=2), strict=True)

    @torch.no_grad()
    def scores(self, precision: Precision, batch: int) -> Scores:
        """Accuracy, or R², of every tap and task on the held images, read in evaluation mode, `batch` at a time."""
        self.eval()
        rows = torch.arange(len(self.held))
        said = torch.cat([self._judged(part, precision) for part in torch.split(rows, batch)], dim=1).cpu()
        found: Scores = {tap: {} for tap in self.taps}
        for goal, output in self._by_goal(said):
            task = self.held.tasks[goal.name]
            known = defined(task)
            scorer = METRICS[goal.metric](goal.predicted(output)[:, known], task.values[known])
            for tap, value in zip(self.taps, values(scorer, int(known.sum())).tolist(), strict=True):
                found[tap][goal.name] = float(f"{value:.5g}") if math.isfinite(value) else None
        return found

    def _judged(self, rows: Tensor, precision: Precision) -> Tensor:
        """What the probes say of held images (n,): (taps, n, outputs)."""
        (chain,), device, size = self._chain, self.biases.device, self.input.size
        pixels = normalise(self.held.read(rows).to(device), self.input.mean, self.input.std)
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        layout = torch.channels_last if precision.channels_last else torch.contiguous_format
        half = torch.autocast(device.type, dtype=precision.autocast, enabled=precision.autocast is not None)
        with evaluating(chain), half, self._watching(len(rows)) as found:
            chain.run(pixels.contiguous(memory_format=layout), upto=self.taps[-1])
        return self.outputs({tap: torch.cat(vectors) for tap, vectors in found.items()})

    @contextmanager
    def _watching(self, rows: int) -> Iterator[Found]:
        """Collects the first `rows` vectors that every tap gives.

        Global views come first in every method's pass; a head that runs again on the same batch is not read again.
        """
        (chain,) = self._chain
        found: Found = {tap: [] for tap in self.taps}

        @torch.no_grad()
        def take(block: nn.Module, output: Tensor, into: list[Tensor]) -> None:
            left = rows - sum(map(len, into))
            if left > 0:
                readout = fitting(output.ndim, (), class_token=chain.class_token)[0]
                vectors = read(output[:left].detach(), readout, chain.prefix_tokens, class_token=chain.class_token)
                into.append(vectors)

        hooks = [
            chain.block(tap).register_forward_hook(lambda block, _, output, into=into: take(block, output, into))
            for tap, into in found.items()
        ]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()

    def tensors(self) -> dict[str, Tensor]:
        """What a training resumes its probes from, by name; the live tensors."""
        own = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        return {PREFIX + name: tensor for name, tensor in (own | moments(self.optimizer)).items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave, found among others; raises InputError where it does not fit."""
        given = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        own = self.state_dict()
        for name, tensor in own.items():
            if name not in given or given[name].shape != tensor.shape:
                raise InputError(f"tensor `{PREFIX}{name}` of the state to resume from does not fit", hint=HINT)
        self.load_state_dict({name: given[name] for name in own})
        restore_moments(self.optimizer, {name: tensor for name, tensor in given.items() if name not in own})


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; then each of its modules in the mode that it was in."""
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        yield
    finally:
        for each in training:
            each.training = True


def online_of(document: Mapping[str, Any], opened: Opened, method: Method, input: Input) -> Online | None:
    """The probes that a recipe's `train.online` asks for, where it does; where nothing validates, labels are held out.

    Raises UsageError for a layer or a task that is not there, or a head that sees other images than the backbone;
    InputError where the data has no labels.
    """
    asked, train = document["train"]["online"], opened.train
    if asked is None:
        return None
    if plain_update(document).get("inner") == "held_out":
        what = "`train.online` reads the head on the batch before where `head.update` has `inner: held_out`"
        raise UsageError(what, hint="leave one of the two out")
    if not train.tasks:
        raise InputError("`train.online` learns from labels, and the data has none", hint="leave `train.online` out")
    tasks = asked_tasks(train, asked["tasks"])
    if len(opened.validation):
        held: Images = Subset(opened.dataset.train, opened.validation)
    else:
        _, apart = split_validation(train, document["data"]["validation"], document["seed"])
        held, tasks = Subset(train, apart), {name: _unknown(task, apart) for name, task in tasks.items()}
    judged = torch.arange(min(JUDGED, len(held))) * len(held) // min(JUDGED, len(held))
    taps = asked_taps(asked["layers"], method.chain.names)
    return Online(method.chain, taps, tasks, Subset(held, judged), input, lr=asked["lr"])


def asked_taps(asked: str | Sequence[str], names: Sequence[str]) -> list[str]:
    """The blocks that `train.online.layers` means, in the network's order. Raises UsageError."""
    there = measured(names)
    wanted = there if asked == "all" else {resolve(name, there) for name in asked}
    return [name for name in there if name in wanted]


def _unknown(task: Task, rows: Tensor) -> Task:
    """The task without the labels of `rows`."""
    changed = task.values.clone()
    changed[rows] = -1 if task.kind == "class" else torch.nan
    return Task(task.kind, changed, task.classes)
