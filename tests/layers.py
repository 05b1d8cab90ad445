"""Features and tasks made for tests of the probes: a few latent factors, read through random maps."""

import torch

from sslcut.data.images import Task
from sslcut.metrics.layer import Fold, Layer


def generator(seed):
    return torch.Generator().manual_seed(seed)


def factors(rows=600, seed=0):
    """Independent normal factors (rows, 6)."""
    return torch.randn(rows, 6, generator=generator(seed))


def tasks_of(hidden):
    """A class task with three classes, one with two, a number with gaps, an angle; of the factors."""
    number = hidden[:, 3].clone()
    number[::10] = torch.nan
    angle = torch.nn.functional.normalize(hidden[:, 4:6], dim=1)
    return {
        "kind": Task("class", hidden[:, :3].argmax(dim=1), ("a", "b", "c")),
        "side": Task("class", (hidden[:, 0] > 0).long(), ("left", "right")),
        "size": Task("number", number),
        "turn": Task("angle", angle),
    }


def layer(hidden, name, noise, *, width=12, readout="avg", seed=0):
    """A layer that shows the factors through a random map, under noise."""
    draw = generator(seed)
    shown = hidden @ torch.randn(hidden.shape[1], width, generator=draw)
    return Layer(name, readout, shown + noise * torch.randn(len(hidden), width, generator=draw))


def one_fold(rows, test=0.3, validation=0.2, seed=0):
    order = torch.randperm(rows, generator=generator(seed))
    a, b = int(rows * test), int(rows * (test + validation))
    return Fold(train=order[b:], validation=order[a:b], test=order[:a])


def cross_folds(rows, count=5):
    parts = [torch.arange(k, rows, count) for k in range(count)]
    everything = range(count)
    return [
        Fold(
            train=torch.cat([parts[i] for i in everything if i not in (k, (k + 1) % count)]),
            validation=parts[(k + 1) % count],
            test=parts[k],
        )
        for k in everything
    ]
