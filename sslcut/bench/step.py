"""A SimCLR step on ready tensors, beside the bare forward and backward pass of its own network."""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, get_args

import torch
from torch import Tensor

from sslcut.bench.contest import Contender, Contest
from sslcut.bench.goals import Ratio
from sslcut.bench.setting import Setting
from sslcut.data.views import Views
from sslcut.draft import DEFAULTS
from sslcut.methods.simclr import SimCLR
from sslcut.model.build import build
from sslcut.model.chain import Chain
from sslcut.model.cost import costs
from sslcut.training.optim import build_optimizer
from sslcut.training.updates import Engine, Joint
from sslcut.training.world import Arithmetic, Precision, arrange, choose_precision, reproducible, synchronise

PASSES = 3  # forward, and backward to the activations and to the weights: each about as much work
PRODUCT = 8192  # the side of the matrices whose product tells what the device can do
TIMED = 5


@dataclass(frozen=True)
class Case:
    """A network, the side of its images, how many a step takes, two views of each, and what is asked of it."""

    name: str
    backbone: Mapping[str, Any]
    size: int
    batch: int
    goals: tuple[Ratio, ...] = ()


SMALL = Case("the default network", DEFAULTS.data["model"]["backbone"], 32, 256)
RESNET18 = {"name": "resnet18", "stem": "cifar"}
CASES = {  # a processor takes as many images as keep a round of all contenders within a few seconds
    "cpu": [Case("ResNet-18 with CIFAR's stem", RESNET18, 32, 32, (Ratio("at most", 1.10, "reference"),)), SMALL],
    "cuda": [
        Case("ResNet-18 with CIFAR's stem", RESNET18, 32, 256),
        SMALL,
        Case("ResNet-50", {"name": "resnet50"}, 224, 128),
        Case("ViT-S/16", {"name": "vit_s"}, 224, 256),
    ],
}


def step(setting: Setting) -> Iterator[Contest]:
    """A SimCLR step (two views, NT-Xent, backward, optimiser), against the bare forward and backward pass."""
    device = setting.open_device()
    for case in CASES[device.type]:
        batch = setting.scaled(case.batch, least=4)
        torch.manual_seed(0)
        method = SimCLR(build({"backbone": case.backbone, **SimCLR.defaults["model"]})).to(device)
        images = torch.randn(2 * batch, 3, case.size, case.size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)  # as views are made
        variants = [Precision(name, last) for last, name in product((True, False), get_args(Arithmetic))]
        yield Contest(
            f"SimCLR step, {case.name}, {case.size} px, batch {batch}",
            [
                ours(method, images),
                *([ours(method, images, deterministic=True)] if device.type == "cuda" else ()),
                *(bare(method.chain, images, variant) for variant in variants),
            ],
            goals=case.goals,
            count=batch,
            unit="images",
            settle=partial(synchronise, device),
        )


def ours(method: SimCLR, images: Tensor, *, deterministic: bool = False) -> Contender:
    """sslcut's step on a copy of `method`, both views (2B, 3, S, S) ready, in the precision that it chooses itself.

    With `deterministic` it is shown beside the other: what the same bits every time cost. On a GPU the row tells the
    share of the device's rate of products that the step reaches.
    """
    method = copy.deepcopy(method)
    views = Views((images.view(2, -1, *images.shape[1:]),), 2, {})
    precision = choose_precision("auto", method, views, None)
    arrange(method, precision.channels_last)
    options, batch = SimCLR.defaults["train"]["optimizer"], len(images) // 2
    optimizer = build_optimizer(method.named_parameters(), options, batch, "linear")
    update = Joint(Engine(method, optimizer, precision))

    def work() -> tuple[Tensor, Tensor]:
        with reproducible(deterministic):
            return update.step(views, None, 0.5)

    def check(_: Any) -> dict[str, float]:
        flops = PASSES * len(images) * sum(block.flops for block in costs(method.chain, images.shape[-1]))
        return {"share of the device's FLOP/s": flops / seconds_of(work) / rate(precision, images.device)}

    name = "sslcut, deterministic" if deterministic else "sslcut"
    return Contender(name, work, note=precision.label, check=check if images.is_cuda else None)


def bare(chain: Chain, images: Tensor, precision: Precision) -> Contender:
    """Forward and backward of a copy of `chain` alone, in one precision and memory format, from a gradient of z."""
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    network = copy.deepcopy(chain).train().to(memory_format=layout)
    x = images.contiguous(memory_format=layout)
    gradient = torch.randn(len(x), chain.width, device=x.device)

    def work() -> Tensor:
        with torch.autocast(x.device.type, dtype=precision.autocast, enabled=precision.autocast is not None):
            z = network(x)
        torch.autograd.backward(z, gradient.to(z.dtype))
        network.zero_grad()
        return z.detach()

    order = "channels last" if precision.channels_last else "channels first"
    return Contender(f"forward and backward, {precision.name}, {order}", work, "reference")


def rate(precision: Precision, device: torch.device) -> float:
    """Floating-point operations a second of a large matrix product in a precision's type."""
    a = torch.randn(PRODUCT, PRODUCT, device=device, dtype=precision.autocast or torch.float32)
    return 2 * PRODUCT**3 / seconds_of(lambda: a @ a)


def seconds_of(work: Callable[[], Any]) -> float:
    """The median time of a few calls on the current CUDA device."""
    found = []
    for _ in range(TIMED + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])
