"""The features of every layer from one pass, beside a plain forward pass of the same network over the same images."""

import tempfile
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from sslcut.bench.contest import Contender, Contest
from sslcut.bench.goals import Ratio
from sslcut.bench.setting import Setting
from sslcut.data.images import ArrayImages
from sslcut.events import Event
from sslcut.metrics.extract import BATCH, Taps, taps
from sslcut.metrics.extract import features as features_of
from sslcut.metrics.layer import Layer
from sslcut.metrics.store import Store
from sslcut.model.build import build
from sslcut.model.network import Input, Network
from sslcut.training.world import synchronise

T = TypeVar("T")

IMAGES, SIZE = 512, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
READOUTS = ("avg", "grid2")
MEMORY = 4 * 10**9
WORST = {"float32": 1.10, "bf16": 1.15}  # times the plain pass
BLOCKS = [f"layer{stage}.{index}" for stage in (1, 2, 3, 4) for index in (0, 1)]


def features(setting: Setting) -> Iterator[Contest]:
    """The features of every layer of a ResNet-18 at 32 px, two read-outs each, against one plain forward pass."""
    device = setting.open_device()
    count = setting.scaled(IMAGES, least=16)
    torch.manual_seed(0)
    pixels = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8)
    chain = build({"backbone": {"name": "resnet18", "stem": "cifar"}})
    network = Network(chain, "vector", Input(SIZE, MEAN, STD)).eval()
    for precision, worst in WORST.items():
        source = Taps(network, taps(network, network.names, READOUTS), device, precision)
        sizes = sorted({min(size, count) for size in (source.batch, BATCH)})
        plain = partial(forward, network, pixels, device, precision)
        yield Contest(
            f"features of every layer, ResNet-18 with CIFAR's stem, {SIZE} px, {len(source.widths)} taps, {precision}",
            [
                Contender(
                    "sslcut", partial(ours, source, ArrayImages(pixels, {}), device), note=f"batch {source.batch}"
                ),
                *(Contender("forward alone", partial(plain, size), "reference", f"batch {size}") for size in sizes),
                Contender(
                    "torchvision's extractor", extractor(pixels, device, precision), "reference", f"batch {sizes[-1]}"
                ),
            ],
            goals=[Ratio("at most", worst, "reference")],
            count=count,
            unit="images",
            settle=partial(synchronise, device),
        )


def ours(source: Taps, images: ArrayImages, device: torch.device) -> list[Layer]:
    """sslcut's pass: the layers of all images, stored."""
    store = Store(len(images), list(source.widths.values()), MEMORY, Path(tempfile.gettempdir()))
    [found] = returned(features_of([source], images, store, device=device, text="features"))
    return found


@torch.inference_mode()
def forward(network: Network, pixels: Tensor, device: torch.device, precision: str, batch: int) -> Tensor:
    """A plain pass, channels last: the vectors (N, D) at the network's end, on the CPU."""
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return torch.cat([network(part.to(device)).cpu() for part in torch.split(pixels, batch)])


def extractor(pixels: Tensor, device: torch.device, precision: str) -> Callable[[], dict[str, list[Tensor]]]:
    """The same features as one takes them with torchvision's feature extractor from its own ResNet-18."""
    network = resnet18()
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    taken = create_feature_extractor(network.eval(), {"relu": "stem", **{name: name for name in BLOCKS}})
    taken = taken.to(device, memory_format=torch.channels_last)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))

    @torch.inference_mode()
    def work() -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for part in torch.split(pixels, BATCH):
            images = (part.to(device).float().div_(255) - mean).div_(std).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                maps = taken(images)
            for name, x in maps.items():
                pooled = [F.adaptive_avg_pool2d(x.float(), side).flatten(1).cpu() for side in (1, 2)]
                found.setdefault(name, []).append(torch.cat(pooled, dim=1))
        return found

    return work


def returned(work: Generator[Event, Any, T]) -> T:
    """What a stage's work returns, its events unheard."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
