"""The features of every layer and read-out, from one pass over the images."""

import time
from collections.abc import Generator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslcut.data.images import Images
from sslcut.errors import MachineError
from sslcut.events import Event, Progress
from sslcut.metrics.layer import Layer
from sslcut.model.network import Network
from sslcut.model.readout import fitting

BATCH = 256
PIXEL_SIDE = 16  # raw pixels are averaged down to this side: wider ones cost more than every layer together
ESTIMATION_BATCHES = 16
REPEATS = 3

Tap = tuple[str, str]


def taps(network: Network, layers: Sequence[str], readouts: Sequence[str]) -> list[Tap]:
    """Every (layer, read-out) to measure: of `readouts` those that fit a block, `vector` where it gives one."""
    side = network.input.size
    with torch.inference_mode():
        x = torch.zeros(1, 3, side, side)
        found: list[Tap] = []
        for name, _, block in network.chain.items():
            x = block(x)
            if name in layers:
                found += [(name, readout) for readout in fitting(x.ndim, readouts)]
    return found


def features(
    network: Network, images: Images, wanted: Sequence[Tap], *, device: torch.device, memory: int, text: str
) -> Generator[Event, None, tuple[list[Layer], float]]:
    """The features of all `images` at `wanted`, as float32 on the CPU, and the seconds the pass took; yields progress.

    Raises MachineError where they would take more than `memory` bytes.
    """
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    rows = len(images)
    kept: dict[Tap, Tensor] = {}
    started = time.perf_counter()
    for indices in batches(rows):
        with torch.inference_mode():
            found = network.features(images.read(indices).to(device), wanted)
        if not kept:
            kept = _room(found, rows, memory)
        for tap, vectors in found.items():
            kept[tap][indices] = vectors.cpu()
        done = int(indices[-1]) + 1
        yield Progress(text, done, rows, {"images/s": f"{done / (time.perf_counter() - started):,.0f}"})
    return [Layer(name, readout, kept[name, readout]) for name, readout in wanted], time.perf_counter() - started


def batches(rows: int) -> list[Tensor]:
    """All row indices, ascending, a batch at a time."""
    return [torch.arange(start, min(start + BATCH, rows)) for start in range(0, rows, BATCH)]


def _room(found: dict[Tap, Tensor], rows: int, memory: int) -> dict[Tap, Tensor]:
    width = sum(vectors.shape[1] for vectors in found.values())
    if rows * width * 4 > memory:
        raise MachineError(
            f"the features of {rows:,} images at {len(found)} layers and read-outs take {rows * width * 4e-9:.1f} GB"
            f", probe.memory allows {memory / 1e9:.1f}",
            hint="raise probe.memory, name fewer probe.layers or probe.readouts, or lower probe.train",
        )
    return {tap: torch.empty(rows, vectors.shape[1]) for tap, vectors in found.items()}


def pixels(images: Images) -> Layer:
    """The images themselves as a layer: each channel averaged down to at most 16 pixels a side, flattened."""
    side = min(PIXEL_SIDE, images.size)
    parts = [
        F.adaptive_avg_pool2d(images.read(indices).float() / 255, side).flatten(1) for indices in batches(len(images))
    ]
    return Layer("pixels", "vector", torch.cat(parts))


def estimate_batchnorm(network: Network, images: Images, device: torch.device) -> None:
    """Give an untrained network the batch-norm statistics of training images, which it has never seen.

    The plain average over up to 16 batches; without it an untrained network would be read through statistics that
    belong to no data.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.to(device).train()
    with torch.no_grad():
        mixed = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))  # folders come class by class
        for indices in torch.split(mixed[: ESTIMATION_BATCHES * BATCH], BATCH):
            if len(indices) > 1:
                network(images.read(indices).to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def seconds_per_1000(network: Network, device: torch.device) -> list[float]:
    """How long 1,000 images take up to and including each block, in order, the best of three passes."""
    side, batch = network.input.size, 64
    network.to(device).eval()
    best = [float("inf")] * len(network.names)
    for _ in range(REPEATS + 1):  # the first one warms up
        x = torch.zeros(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
        started = time.perf_counter()
        with torch.inference_mode():
            for index, block in enumerate(network.chain.blocks):
                x = block(x)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                best[index] = min(best[index], time.perf_counter() - started)
    return [seconds * 1000 / batch for seconds in best]
