"""A step of each member of `head.update`, beside one of `joint`, on ready tensors."""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sslcut.bench.contest import Contender, Contest
from sslcut.bench.setting import Setting
from sslcut.bench.step import SMALL
from sslcut.data.views import Views
from sslcut.methods.simclr import SimCLR
from sslcut.model.build import build
from sslcut.registry import UPDATES
from sslcut.training.optim import build_optimizer
from sslcut.training.passes import beside_joint, work_of
from sslcut.training.updates import Engine, Update, options_of
from sslcut.training.world import Precision, arrange, synchronise

CASE = SMALL
APART = ("alternating", "unrolled", "implicit")
OTHERS: list[dict[str, Any]] = [
    *({"name": name} for name in ("two_speed", "frozen")),
    *({"name": name, "inner": inner} for name in APART for inner in ("same", "held_out")),
]


def updates(setting: Setting) -> Iterator[Contest]:
    """A SimCLR step with the head moved in each way, in float32: seconds and operations beside a joint one."""
    device = setting.open_device()
    batch = setting.scaled(CASE.batch, least=4)
    torch.manual_seed(0)
    method = SimCLR(build({"backbone": CASE.backbone, **SimCLR.defaults["model"]})).to(device)
    images = torch.randn(2, 2 * batch, 3, CASE.size, CASE.size, device=device)  # a batch, and one to fit the head to
    ours = contender(method, images, {"name": "joint"}, "sslcut")
    yield Contest(
        f"SimCLR step by head.update, {CASE.name}, {CASE.size} px, batch {batch}, float32",
        [ours, *(contender(method, images, update, told(update)) for update in OTHERS)],
        count=batch,
        unit="images",
        settle=partial(synchronise, device),
    )


def told(update: Mapping[str, Any]) -> str:
    """An update in a few words."""
    return " ".join(update.values()).replace(" same", "")


def contender(method: SimCLR, images: Tensor, update: Mapping[str, Any], name: str) -> Contender:
    """Steps by an update on a copy of `method`, both views of two batches (2, 2B, 3, S, S) ready."""
    defaults = {key: option.default for key, option in UPDATES.options(update["name"]).items()}
    chosen = {**defaults, **update}
    own = arrange(copy.deepcopy(method), channels_last=True)
    optimizer = build_optimizer(own.named_parameters(), {"name": "sgd", "lr": 0.01}, 256, "none")
    engine = Engine(own, optimizer, Precision("float32", channels_last=True))
    moved: Update = UPDATES.load(chosen["name"])(engine, **options_of(chosen))
    batch, other = (Views((laid_out(each),), 2, {}) for each in images)
    size = images.shape[-1]
    cost = beside_joint(chosen, work_of(method, [{"count": 2, "size": size}], size, images.shape[1] // 2))
    work = partial(moved.step, batch, None, 0.5, (other, None) if moved.held_out else None)
    note = told(update) if name == "sslcut" else ""
    return Contender(name, work, "sslcut", note, lambda _: {"operations beside joint": cost})


def laid_out(images: Tensor) -> Tensor:
    """Images (2B, 3, S, S) as two views of a batch, (2, B, 3, S, S), in the order in which views are made."""
    return images.contiguous(memory_format=torch.channels_last).view(2, -1, *images.shape[1:])
