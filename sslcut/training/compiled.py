"""Whether a training is worth compiling: measured, where it is long enough to earn back what that costs."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from sslcut.data.views import Views
from sslcut.methods.base import Method
from sslcut.training.world import Precision, arrange, first_of, time_steps, timed_step

LONG = 1800.0  # seconds: a shorter training is not kept waiting for a compiler
GAIN = 0.05  # of a training's time that compiling has to save, its own time paid
ROUNDS = 5  # of timed steps, of which the fastest counts


def worth_compiling(
    found: Precision, method: Method, sample: Views, labels: Tensor | None, steps: int, *, budget: float = 2.0
) -> Precision:
    """The precision, `compiled` where torch.compile ends a training of so many steps at least 5 % sooner.

    Nothing is compiled for a training of less than half an hour, as steps of a second or two foretell it. `sample` is
    one batch of views, `labels` its (B,) labels or None. The steps are taken on a copy; the method and the random state
    are as before. Where there is no compiler, or it cannot take the network, the training is left as it is.
    """
    device = sample.crops[0].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        own = arrange(copy.deepcopy(method), found.channels_last)
        timings, images = time_steps([found], own, sample, labels, budget)
        whole = timings[found.name] * sample.crops[0].shape[1] / images * steps
        if whole < LONG:
            return found
        views, targets = first_of(sample, labels, images)
        quick = arrange(copy.deepcopy(method), found.channels_last)
        quick.compile(dynamic=False)
        try:
            cost = timed_step(quick, found, views, targets)
            rounds = [[timed_step(each, found, views, targets) for each in (own, quick)] for _ in range(ROUNDS)]
        except Exception:  # whatever a compiler may raise: the training can do without it
            return found
        finally:
            torch.compiler.reset()  # what was compiled for these images, perhaps fewer, is not what the training needs
    before, after = (min(times) for times in zip(*rounds, strict=True))
    saved = whole * (1 - after / before) - cost
    return replace(found, timings={**found.timings, "compiled": after}, compiled=saved > GAIN * whole)
