"""The MLP probe: two layers on the features that the linear probe reads. What it gains is what a linear map misses.

All networks of a fold that learn from the same rows (tasks, weight decays, seeds) are trained side by side, as slices
of the same products.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sslcut.data.images import Task
from sslcut.metrics.layer import Fit, Fold, Layer, Sheet, alike, check_finite, class_count
from sslcut.metrics.rows import Passing, Scaler, steps
from sslcut.metrics.score import METRICS, choosing_metric, values

DECAYS = (1e-2, 1.0)  # weight decays that are tried, decoupled as in AdamW
LEARNING_RATE = 4e-3  # falls to zero along a cosine
BATCH = 256
STEPS = (20, 40)  # at least and at most so many steps are called an epoch, however many rows there are


def mlp(
    read: Sequence[Layer],
    tasks: Mapping[str, Task],
    folds: Sequence[Fold],
    *,
    scale: str,
    seed: int,
    memory: int,
    hidden: Annotated[int, Field(ge=1)] = 128,
    epochs: Annotated[int, Field(ge=1)] = 20,
    seeds: Annotated[int, Field(ge=1)] = 3,
    layers: Literal["all", "reference"] = "all",
) -> list[Fit]:
    """Fits every task on every layer that is `read`; a fit's predictions have the seeds as their first dimension.

    One hidden layer of `hidden` ReLUs, AdamW at batch 256; cross-entropy for classes, squared error for numbers and
    angles. Each seed's epoch and weight decay are those that do best on validation, with which it is trained again on
    the fold's final rows. `layers` is what `read` holds: the reference, or all. Raises InputError where features are
    not finite.
    """
    found = []
    for layer in read:
        check_finite(layer)
        sheets = {name: Sheet(name, task, seeds) for name, task in tasks.items()}
        shown: dict[str, list[Chosen]] = {name: [] for name in tasks}
        for fold in folds:
            scaler = Scaler(layer.features, fold.train, scale)
            room = max(1, memory // (16 * seeds * len(DECAYS) * hidden * (scaler.width + BATCH)))
            for labelled, names in _together(tasks, room):
                group = {name: tasks[name] for name in names}
                metrics = [choosing_metric(task, folds) for task in group.values()]
                training = _Training(layer.features, scaler, group, labelled, hidden, epochs, range(seed, seed + seeds))
                chosen = training.choose(fold, metrics)
                rows = fold.final[labelled[fold.final]]
                tested = training.refit(rows, fold.test, chosen)
                for index, name in enumerate(names):
                    sheets[name].validated[:, fold.validation] = chosen[index].predicted
                    sheets[name].tested[:, fold.test] = tested[index]
                    sheets[name].rows.append(len(rows))
                    shown[name].append(chosen[index])
        setting = f"hidden={hidden}"
        found += [sheet.fit(layer, "mlp", setting=setting, chosen=_told(shown[name])) for name, sheet in sheets.items()]
    return found


def _together(tasks: Mapping[str, Task], room: int) -> Iterator[tuple[Tensor, list[str]]]:
    """Tasks that are trained side by side, at most `room`: classes or not, with labels on the same rows (N,)."""
    for labelled, names in alike(tasks):
        for classes in (True, False):
            same = [name for name in names if (tasks[name].kind == "class") == classes]
            yield from ((labelled, same[start : start + room]) for start in range(0, len(same), room))


@dataclass
class Chosen:
    """What validation chose for one task: each seed's score, epoch and weight decay (S,), and its predictions."""

    score: Tensor
    epoch: Tensor
    decay: Tensor
    predicted: Tensor

    def improve(self, scores: Tensor, predicted: Tensor, epoch: int) -> None:
        """Takes what is better: scores (S, P) and predictions (S, P, n, …) with each weight decay after an epoch."""
        score, best = scores.max(dim=1)
        for index in (score > self.score).nonzero().flatten().tolist():
            self.score[index], self.epoch[index] = score[index], epoch
            self.decay[index] = DECAYS[int(best[index])]
            self.predicted[index] = predicted[index, best[index]]


class _Training:
    """The networks of some tasks on one fold of a layer; `seeds` draw their weights and the order of their rows."""

    def __init__(
        self,
        features: Tensor,
        scaler: Scaler,
        tasks: Mapping[str, Task],
        labelled: Tensor,
        hidden: int,
        epochs: int,
        seeds: Sequence[int],
    ) -> None:
        self.features, self.scaler, self.labelled = features, scaler, labelled
        self.tasks = list(tasks.values())
        self.hidden, self.epochs, self.seeds = hidden, epochs, seeds
        self.aim = _Classes(self.tasks) if self.tasks[0].kind == "class" else _Numbers(self.tasks)

    def choose(self, fold: Fold, metrics: Sequence[str]) -> list[Chosen]:
        """Trains with every weight decay on the fold's labelled train rows; what does best on validation, by task."""
        seen, count = fold.validation, len(self.seeds)
        truths = [task.values[seen[self.labelled[seen]]] for task in self.tasks]
        found = [
            Chosen(
                torch.full((count,), -torch.inf),
                torch.ones(count, dtype=torch.int64),
                torch.full((count,), DECAYS[0]),
                task.values.new_zeros(count, *task.values[seen].shape),
            )
            for task in self.tasks
        ]
        decay = torch.tensor(DECAYS).repeat(count, len(self.tasks))
        for epoch, nets in self._epochs(fold.train[self.labelled[fold.train]], decay):
            every = self._predict(nets, seen)
            for index, (best, metric, truth) in enumerate(zip(found, metrics, truths, strict=True)):
                here = every[index]  # (S, P, n, …)
                judged = here[:, :, self.labelled[seen]].flatten(0, 1)
                scores = values(METRICS[metric](judged, truth), len(truth)).nan_to_num(nan=-torch.inf)
                best.improve(scores.reshape(count, -1), here, epoch)
        return found

    def refit(self, rows: Tensor, test: Tensor, chosen: Sequence[Chosen]) -> list[Tensor]:
        """Trains on `rows` as was chosen; each task's predictions of the `test` rows, (S, n, …)."""
        decay, until = (torch.stack([getattr(one, key) for one in chosen], dim=1) for key in ("decay", "epoch"))
        found = [task.values.new_zeros(len(self.seeds), *task.values[test].shape) for task in self.tasks]
        for epoch, nets in self._epochs(rows, decay):
            if (until == epoch).any():
                for index, predicted in enumerate(self._predict(nets, test)):
                    now = until[:, index] == epoch
                    found[index][now] = predicted[now, 0]
            if epoch == int(until.max()):
                break
        return found

    def _epochs(self, rows: Tensor, decay: Tensor) -> "Iterator[tuple[int, _Nets]]":
        """The networks after each epoch on `rows` (n,), with the weight decays (S, Q) of tasks and tries."""
        draws = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        nets = _Nets(self.scaler.width, self.hidden, self.aim.outputs, decay.shape[1], draws)
        targets = self.aim.targets(rows)
        batch = min(BATCH, len(rows))
        each = min(max(math.ceil(len(rows) / batch), STEPS[0]), STEPS[1])
        total = each * self.epochs
        optimiser = torch.optim.Adam(nets.tensors, lr=LEARNING_RATE, fused=True)
        for epoch in range(1, self.epochs + 1):
            orders = torch.stack([_order(len(rows), each * batch, draw) for draw in draws]).reshape(-1, each, batch)
            for step in range(each):
                rate = LEARNING_RATE * (1 + math.cos(math.pi * ((epoch - 1) * each + step) / total)) / 2
                places = orders[:, step]  # (S, b)
                optimiser.param_groups[0]["lr"] = rate
                nets.shrink(1 - rate * decay)
                optimiser.zero_grad()
                given = self._given(rows[places.flatten()]).reshape(*places.shape, -1)
                loss = self.aim.loss(nets(given), targets, places)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            yield epoch, nets

    def _given(self, rows: Tensor) -> Tensor:
        ((_, block),) = self.scaler.blocks(self.features, rows, len(rows))
        return block

    @torch.no_grad()
    def _predict(self, nets: "_Nets", rows: Tensor) -> list[Tensor]:
        """Each task's predictions of the rows, (S, P, n, …)."""
        passing = Passing(self.features, rows, self.scaler)
        size = steps(passing, len(self.seeds) * nets.count * self.hidden)
        parts = [self.aim.decide(nets(block.expand(len(self.seeds), -1, -1))) for _, block in passing.blocks(size)]
        return [torch.cat(each, dim=2) for each in zip(*parts, strict=True)]


def _order(rows: int, count: int, draw: torch.Generator) -> Tensor:
    """Places of `count` rows: shuffles one after the other."""
    return torch.cat([torch.randperm(rows, generator=draw) for _ in range(math.ceil(count / rows))])[:count]


class _Nets:
    """S · Q networks of two layers, drawn as torch draws a linear layer's; all of a seed begin alike."""

    def __init__(self, inputs: int, hidden: int, outputs: int, count: int, draws: Sequence[torch.Generator]) -> None:
        self.hidden, self.count = hidden, count

        def drawn(*shape: int, fan: int) -> Tensor:
            bound = 1 / math.sqrt(max(1, fan))
            return torch.stack([(torch.rand(*shape, generator=draw) * 2 - 1) * bound for draw in draws])

        self.inner = drawn(inputs, hidden, fan=inputs).repeat(1, 1, count)  # (S, D, Q·H)
        self.inner_bias = drawn(1, hidden, fan=inputs).repeat(1, 1, count)
        self.outer = drawn(1, hidden, outputs, fan=hidden).repeat(1, count, 1, 1)  # (S, Q, H, K)
        self.outer_bias = drawn(1, 1, outputs, fan=hidden).repeat(1, count, 1, 1)
        self.tensors = [self.inner, self.inner_bias, self.outer, self.outer_bias]
        for tensor in self.tensors:
            tensor.requires_grad_()

    def __call__(self, x: Tensor) -> Tensor:
        """(S, b, D) → (S, Q, b, K)."""
        inner = torch.baddbmm(self.inner_bias, x, self.inner).relu()
        split = inner.reshape(*inner.shape[:2], self.count, self.hidden).transpose(1, 2)
        return split @ self.outer + self.outer_bias

    @torch.no_grad()
    def shrink(self, factors: Tensor) -> None:
        """Multiplies the weights of each network by its factor (S, Q)."""
        self.inner *= factors.repeat_interleave(self.hidden, dim=1)[:, None]
        self.outer *= factors[:, :, None, None]


class _Classes:
    """Class tasks: cross-entropy; a task with fewer classes than others has its surplus outputs shut."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        counts = [class_count(task) for task in tasks]
        self.outputs = max(counts)
        self.shut = torch.arange(self.outputs) >= torch.tensor(counts)[:, None]  # (T, K)

    def targets(self, rows: Tensor) -> Tensor:
        """The classes of the rows, (T, n)."""
        return torch.stack([task.values[rows] for task in self.tasks])

    def loss(self, outputs: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """The sum over all networks of their mean loss on a batch: outputs (S, Q, b, K), places (S, b)."""
        outputs = self._open(outputs)
        wanted = targets[:, places].transpose(0, 1)[:, :, None].expand(outputs.shape[:-1])
        return F.cross_entropy(outputs.flatten(0, 3), wanted.reshape(-1), reduction="sum") / places.shape[1]

    def decide(self, outputs: Tensor) -> list[Tensor]:
        """The likeliest class, (S, P, b), of each task."""
        return list(self._open(outputs).argmax(dim=-1).unbind(dim=1))

    def _open(self, outputs: Tensor) -> Tensor:
        return _by_task(outputs, self.tasks).masked_fill(self.shut[:, None, None], -torch.inf)


class _Numbers:
    """Numbers and angles: squared error of standardised values; a number leaves the second output alone."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks, self.outputs = tasks, max(task.values.ndim for task in tasks)
        self.mean, self.deviation = torch.zeros(len(tasks), 1, self.outputs), torch.ones(len(tasks), 1, self.outputs)

    def targets(self, rows: Tensor) -> Tensor:
        """The values of the rows, (T, n, K), standardised by these rows; NaN where there is none."""
        found = torch.full((len(self.tasks), len(rows), self.outputs), torch.nan)
        for index, task in enumerate(self.tasks):
            given = task.values[rows].float().reshape(len(rows), -1)
            found[index, :, : given.shape[1]] = given
        self.mean = found.mean(dim=1, keepdim=True)
        self.deviation = found.std(dim=1, correction=0, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return (found - self.mean) / self.deviation

    def loss(self, outputs: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """The sum over all networks of their mean loss on a batch: outputs (S, Q, b, K), places (S, b)."""
        outputs = _by_task(outputs, self.tasks)
        wanted = targets[:, places].transpose(0, 1)[:, :, None]
        errors = torch.where(wanted.isnan(), 0.0, outputs - wanted.nan_to_num())
        return errors.square().sum() / 2 / places.shape[1]

    def decide(self, outputs: Tensor) -> list[Tensor]:
        """The values, (S, P, b) or (S, P, b, 2), of each task."""
        outputs = _by_task(outputs, self.tasks) * self.deviation[:, None] + self.mean[:, None]
        every = zip(outputs.unbind(dim=1), self.tasks, strict=True)
        return [found if task.values.ndim == 2 else found[..., 0] for found, task in every]


def _by_task(outputs: Tensor, tasks: Sequence[Task]) -> Tensor:
    """(S, Q, b, K) → (S, T, P, b, K)."""
    return outputs.reshape(len(outputs), len(tasks), -1, *outputs.shape[2:])


def _told(chosen: Sequence[Chosen]) -> str:
    """The epochs and weight decays of all folds and seeds."""
    epochs, decays = (torch.cat([getattr(one, key) for one in chosen]).tolist() for key in ("epoch", "decay"))
    return f"epoch={'/'.join(map(str, epochs))} decay={'/'.join(dict.fromkeys(f'{decay:g}' for decay in decays))}"
