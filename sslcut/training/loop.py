"""The training loop: batches in the seed's order, events by the clock, a state that any step can be resumed from."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from math import isfinite, isnan
from typing import Any

import torch
from torch import Tensor

from sslcut.data.ahead import ahead
from sslcut.data.images import Images
from sslcut.data.samplers import Sampler
from sslcut.data.views import ViewMaker
from sslcut.errors import DivergedError, InputError
from sslcut.events import Event, Progress, Warn
from sslcut.interrupts import Interrupts, deferred
from sslcut.methods.base import Method
from sslcut.metrics.geometry import effective_rank
from sslcut.names import part_of
from sslcut.registry import UPDATES
from sslcut.schedules import LrScaling, warmup_cosine
from sslcut.training.online import Online, Scores
from sslcut.training.optim import build_optimizer, set_lr
from sslcut.training.state import Position, capture, kept_by_update, restore
from sslcut.training.updates import Batch as Seen
from sslcut.training.updates import Engine, Update, options_of
from sslcut.training.world import Precision, all_finite, arrange, compiling, drawing, reproducible

State = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors and a JSON document, as `state.capture` gives them and `checkpoint.load_state` reads them."""

Batch = tuple[Tensor, Tensor]
"""The images that a batch's views show, the batch itself first, and their pixels, as `ahead` gives them."""

Save = Callable[[dict[str, Tensor], dict[str, Any]], object]
"""Writes a state before it returns: the tensors are the live ones."""

PROGRESS_SECONDS = 0.5
WORTH_TELLING = 0.05  # of an epoch's time, spent waiting for images
COLLAPSED = 0.05  # of the rank that a batch of z could have


@dataclass(frozen=True)
class Plan:
    """How to train, everything decided: `optimizer` is `{"name": …, **options}` with its lr at batch 256.

    `update` is `{"name": …, **options}`, a member of `head.update`. `clip` is the largest norm of the gradient, or
    with `clip_each` of each parameter's. The learning rate comes from `start_lr` and goes to `end_lr`, but for the
    head's parts in `constant_lr`.
    A `precision` that is compiled costs a minute before the first step. `deterministic` takes operators that give the
    same bits every time, on a GPU too.
    """

    epochs: int
    batch_size: int
    optimizer: Mapping[str, Any]
    seed: int
    device: torch.device
    precision: Precision
    update: Mapping[str, Any] = field(default_factory=lambda: {"name": "joint"})
    lr_scaling: LrScaling = "linear"
    warmup_epochs: float = 0.0
    start_lr: float = 0.0
    end_lr: float = 0.0
    constant_lr: Collection[str] = ()
    clip: float | None = None
    clip_each: bool = False
    deterministic: bool = False
    state_every_seconds: float = 60.0


@dataclass(frozen=True)
class Epoch(Event):
    """An epoch that is done, counted from 1: one line of `metrics.jsonl`.

    `loss` is the mean over its batches, `lr` the last step's, `rank` the effective rank of the last batch's z (1 to
    its width); `images_per_second` counts images, not views. `waiting` is the share of the time spent waiting for a
    batch to be read, 0 to 1; a GPU may still have had steps to do. `online` is what the online probes score by now, by
    layer and task, in each task's metric of `online_metrics`. `head` are the figures of a head with steps of its
    own, means over the epoch's: the inner loss before and after them, passes of the head a step, and the norm of the
    backbone's gradient.
    """

    epoch: int
    loss: float
    lr: float
    images_per_second: float
    rank: float
    seconds: float
    waiting: float
    head: Mapping[str, float] = field(default_factory=dict)
    online: Scores | None = None
    online_metrics: dict[str, str] | None = None

    def numbers(self) -> dict[str, Any]:
        """The record without its text, and without what was not measured."""
        told = {key: value for key, value in asdict(self).items() if key not in ("text", "head") and value is not None}
        return {**told, **self.head}


def train(
    method: Method,
    images: Images,
    labels: Tensor | None,
    views: ViewMaker,
    plan: Plan,
    *,
    online: Online | None = None,
    state: State | None = None,
    save: Save | None = None,
) -> Iterator[Event]:
    """Train `method` in place, from `state` where one is given; yields Progress, Epoch and Warn events.

    `labels` (N,) int64, -1 where there is none, reach only a method that uses labels. The probes `online` learn beside
    the network and leave it as it would be without them. `save` is called with a state
    every `state_every_seconds`, and before an interruption (SIGINT, SIGTERM) is let through at the end of a step; a
    state that is not finite is never handed to it. Raises DivergedError, InputError for a state that does not fit
    or fewer than two images, and UsageError where an operator has no deterministic form and the plan asks for one.
    """
    run = _Run(method, images, labels, views, plan, save, online)
    if state is not None:
        run.position = restore(method, run.optimizer, *state, run.course)
        if online is not None:
            online.restore(state[0])
        run.update.load(kept_by_update(state[0]))
    batches = ahead(images, run.order(), plan.device)
    with (
        reproducible(plan.deterministic),
        compiling(plan.precision.compiled),
        deferred() as interrupts,
        closing(batches),
    ):
        while run.position.epoch < plan.epochs:
            yield from run.epoch(batches, interrupts)


def check_enough(images: Images) -> None:
    """Raise InputError where there are too few images to train on."""
    if len(images) < 2:
        raise InputError(f"training needs at least 2 images, there is {len(images)}", hint="see `data.train`")


class _Run:
    """The parts of one training and where it stands."""

    def __init__(
        self,
        method: Method,
        images: Images,
        labels: Tensor | None,
        views: ViewMaker,
        plan: Plan,
        save: Save | None,
        online: Online | None = None,
    ) -> None:
        check_enough(images)
        self.plan, self.images, self.views, self.online, self.save = plan, images, views, online, save
        self.method = arrange(method.to(plan.device), plan.precision.channels_last)
        if plan.precision.compiled:
            self.method.compile(dynamic=False)
        self.labels = labels.to(plan.device) if labels is not None and method.uses_labels else None
        self.method.seed = plan.seed
        self.sampler = Sampler(len(images), plan.batch_size, plan.seed)
        held = [name for name in method.chain.names if part_of(name) in plan.constant_lr]
        constant = tuple(f"chain.blocks.{method.chain.position(name)}." for name in held)
        self.optimizer = build_optimizer(
            method.named_parameters(),
            plan.optimizer,
            self.sampler.batch,
            plan.lr_scaling,
            constant=lambda name: name.startswith(constant),
        )
        per_epoch = self.sampler.steps
        engine = Engine(
            method, self.optimizer, plan.precision, plan.clip, plan.clip_each, plan.epochs * per_epoch, per_epoch
        )
        self.update: Update = UPDATES.load(plan.update["name"])(engine, **options_of(plan.update))
        if self.update.held_out and per_epoch < 2:
            raise InputError(
                f"an inner loop on a held-out batch needs two batches an epoch, {len(images)} images are one",
                hint=f"lower train.batch_size to {len(images) // 2} or less, or write head.update.inner: same",
            )
        self.position = Position()
        self.saved = self.told = time.monotonic()
        self.collapsed = False
        self.waited = 0.0  # seconds of the epoch, for batches to be read

    @property
    def course(self) -> dict[str, Any]:
        """What a state to resume from must share with this training."""
        plan, batch = self.plan, self.sampler.batch
        return {"images": len(self.images), "batch size": batch, "epochs": plan.epochs, "seed": plan.seed}

    def order(self) -> Iterator[Tensor]:
        """The images to read for every batch that is still to come, from where the position stands when asked."""
        done = self.position
        for epoch in range(done.epoch, self.plan.epochs):
            start = done.step if epoch == done.epoch else 0
            shown = (self.views.shown(batch, epoch) for batch in self.sampler.epoch(epoch, start))
            if not self.update.held_out:
                yield from shown
                continue
            before = (self.views.shown(batch, epoch) for batch in self.sampler.before(epoch, start))
            yield from (torch.cat(both) for both in zip(shown, before, strict=True))

    def epoch(self, batches: Iterator[Batch], interrupts: Interrupts) -> Iterator[Event]:
        """The rest of the epoch that the position stands in; its end moves the position to the next."""
        start, first, position = time.monotonic(), self.position.step, self.position
        z, self.waited = torch.empty(0), 0.0
        for indices, pixels in self.arriving(batches, self.sampler.steps - first):
            if position.step > first:
                self.keep(interrupts)
                yield from self.progress(start, first)
            loss, z = self.step(indices, pixels)
            position.loss = loss.double() if position.loss is None else position.loss + loss
            position.step += 1
        yield from self.close(z, start, first)
        self.position = Position(position.epoch + 1)
        self.keep(interrupts)

    def arriving(self, batches: Iterator[Batch], count: int) -> Iterator[Batch]:
        """The next `count` batches; adds to `waited` the time until each has been read."""
        asked = time.monotonic()
        for batch in islice(batches, count):
            self.waited += time.monotonic() - asked
            yield batch
            asked = time.monotonic()

    def step(self, indices: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on the images that were read; returns loss and z without waiting for the device."""
        plan, position, shown = self.plan, self.position, indices
        done, steps = position.epoch * self.sampler.steps + position.step, plan.epochs * self.sampler.steps
        set_lr(self.optimizer, self.share(done, steps))
        other = None
        if self.update.held_out:
            (indices, earlier), (pixels, old) = indices.chunk(2), pixels.chunk(2)
            other = self.batch(earlier, old)
        views, labels = self.batch(indices, pixels)
        watched = nullcontext() if self.online is None else self.online.watch(self.method, views, shown)
        with drawing(plan.device, plan.seed, done), watched:
            return self.update.step(views, labels, done / steps, other)

    def batch(self, indices: Tensor, pixels: Tensor) -> Seen:
        """The views of the images that were read, and their labels."""
        indices = indices[: self.sampler.batch]
        if pixels.is_cuda:
            indices = indices.pin_memory().to(pixels.device, non_blocking=True)
        labels = self.labels[indices] if self.labels is not None else None
        return self.views(pixels, indices, self.position.epoch), labels

    def share(self, done: int, steps: int) -> float:
        """The learning rate after `done` of `steps` steps, as a share of its peak."""
        plan, peak = self.plan, self.optimizer.param_groups[0]["initial_lr"]
        warmup = round(plan.warmup_epochs * self.sampler.steps)
        start, end = plan.start_lr / (peak or 1.0), plan.end_lr / (peak or 1.0)
        return warmup_cosine(done, steps, warmup=warmup, start=start, end=end)

    def keep(self, interrupts: Interrupts) -> None:
        """Hand the state to `save` if its time has come or a signal wants the process to end; then let that through."""
        due = time.monotonic() - self.saved >= self.plan.state_every_seconds
        if self.save is not None and (due or interrupts.pending is not None):
            self.check_finite()
            tensors, document = capture(self.method, self.optimizer, self.position, self.course, self.update.tensors())
            self.save(tensors | (self.online.tensors() if self.online is not None else {}), document)
            self.saved = time.monotonic()
        interrupts.check("the state is saved, and the same command goes on from it" if self.save is not None else "")

    def check_finite(self) -> None:
        """Raise DivergedError where the loss so far or any weight is infinite or NaN; waits for the device."""
        tensors = list(self.method.state_dict().values())
        if self.position.loss is not None:
            tensors.append(self.position.loss)
        if not all_finite(tensors, self.plan.device):
            raise DivergedError(
                f"training diverged in epoch {self.position.epoch + 1}: the loss or a weight is not finite",
                hint=f"lower train.optimizer.lr (its peak was {self.optimizer.param_groups[0]['initial_lr']:.3g}), "
                "lengthen train.warmup_epochs, or set train.precision: float32",
            )

    def progress(self, start: float, first: int) -> Iterator[Event]:
        """A Progress event where the last one is half a second old; reading the loss waits for the device."""
        now, position, steps = time.monotonic(), self.position, self.sampler.steps
        if now - self.told < PROGRESS_SECONDS or position.loss is None:
            return
        self.told = now
        loss = position.loss.item() / position.step
        if not isfinite(loss):
            self.check_finite()
        done, total = position.epoch * steps + position.step, self.plan.epochs * steps
        pace = (position.step - first) / (now - start)
        facts = {
            "loss": f"{loss:.4g}",
            "img/s": f"{pace * self.sampler.batch:,.0f}",
            "left": duration((total - done) / pace),
        }
        yield Progress(f"epoch {position.epoch + 1}/{self.plan.epochs}", done, total, facts)

    def close(self, z: Tensor, start: float, first: int) -> Iterator[Event]:
        """The record of an epoch that is done, and a warning where z begins to collapse."""
        self.check_finite()
        plan, position, steps = self.plan, self.position, self.sampler.steps
        assert position.loss is not None
        own = z[: len(z) - self.method.targets]  # what the network itself gave
        loss, rank = position.loss.item() / steps, rank_of(own.flatten(0, -2))
        seconds = time.monotonic() - start
        pace = (steps - first) * self.sampler.batch / seconds
        number = position.epoch + 1
        head, warning = self.update.close()
        fitted = f"  inner {head['inner_before']:.4g} to {head['inner_after']:.4g}" if head else ""
        waiting = round(self.waited / seconds, 4)
        idle = f"  waiting {100 * waiting:.0f} % for images" if waiting > WORTH_TELLING else ""
        text = f"epoch {number}/{plan.epochs}  loss {loss:.4g}{fitted}  rank {rank:.1f}  {pace:,.0f} img/s{idle}"
        lr = self.optimizer.param_groups[0]["lr"]
        scored = (self.online.scores(plan.precision, plan.batch_size), self.online.metrics) if self.online else ()
        yield Epoch(text, number, loss, lr, pace, rank, seconds, waiting, head, *scored)
        if warning:
            yield Warn(f"after epoch {number} {warning}")
        possible = min(z.shape[-2:])
        was, self.collapsed = self.collapsed, rank < COLLAPSED * possible
        if self.collapsed and not was:
            yield Warn(
                f"after epoch {number} the outputs z use {rank:.1f} of {possible} directions: training may be "
                "collapsing (a lower train.optimizer.lr, more views or a larger train.batch_size can help)"
            )


def rank_of(z: Tensor) -> float:
    """RankMe of the rows of z (N, D), as the probe measures it; 1 where all of them are zero, wholly collapsed."""
    rank = effective_rank(z)
    return 1.0 if isnan(rank) else rank


def duration(seconds: float) -> str:
    """A time to wait, as one would say it: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
