"""The features of every layer and read-out, of several networks and of the pixels, from one pass over the images."""

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslcut.data.ahead import ahead
from sslcut.data.images import Images
from sslcut.events import Event, Progress
from sslcut.metrics.layer import Layer
from sslcut.metrics.store import Shelf, Store
from sslcut.model.fold import folded
from sslcut.model.network import Network
from sslcut.model.readout import fitting

BATCH = 256
SMALL_BATCH = 16
MAP = 2**22  # numbers of a batch's largest map on a processor: larger blocks of memory come anew from the system
PIXEL_SIDE = 16  # raw pixels are averaged down to this side: wider ones cost more than every layer together
ESTIMATION_BATCHES = 16
REPEATS = 3
LONG = 2.0  # seconds of timed passes after which there is no further one

Tap = tuple[str, str]


def taps(network: Network, layers: Sequence[str], readouts: Sequence[str]) -> list[Tap]:
    """Every (layer, read-out) to measure: of `readouts` those that fit a block, `vector` where it gives one."""
    side, classed = network.input.size, network.chain.class_token
    with torch.inference_mode():
        x = torch.zeros(1, 3, side, side, device=next(network.buffers()).device)
        found: list[Tap] = []
        for name, _, block in network.chain.items():
            x = block(x)
            if name in layers:
                norm = network.chain.norm_behind(name) is not None
                found += [(name, readout) for readout in fitting(x.ndim, readouts, class_token=classed, norm=norm)]
    return found


class Source(ABC):
    """Gives vectors of a batch of images: `widths` says how wide they are at each tap, `batch` how many it can take."""

    widths: dict[Tap, int]
    batch: int = BATCH

    @abstractmethod
    def __call__(self, pixels: Tensor) -> dict[Tap, Tensor]:
        """The vectors (B, D), float32, at each tap, of images (B, 3, S, S): uint8, or floats from 0 to 1."""


class Taps(Source):
    """A network at the `wanted` taps, on `device`, its batch norm folded and its channels last in memory.

    `precision` is float32, or bf16 for products in bfloat16; sums over places are float32 in both.
    """

    def __init__(
        self, network: Network, wanted: Sequence[Tap], device: torch.device, precision: str = "float32"
    ) -> None:
        own = Network(folded(network.chain), network.readout, network.input)
        self.network = own.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.wanted, self.device, self.precision = list(wanted), device, precision
        one = torch.zeros(1, 3, own.input.size, own.input.size, dtype=torch.uint8, device=device)
        self.widths = {tap: vectors.shape[1] for tap, vectors in self(one).items()}
        if device.type == "cpu":
            self.batch = min(BATCH, max(SMALL_BATCH, MAP // self._largest(one)))

    def __call__(self, pixels: Tensor) -> dict[Tap, Tensor]:
        half = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            found: dict[Tap, Tensor] = self.network.features(pixels, self.wanted)
            return found

    def _largest(self, image: Tensor) -> int:
        """How many numbers the largest output of any module has, for one image."""
        sizes: list[int] = []
        modules = list(self.network.chain.modules())
        watches = [module.register_forward_hook(lambda _, __, out: sizes.append(out.numel())) for module in modules]
        self(image)
        for watch in watches:
            watch.remove()
        return max(sizes)


class Pixels(Source):
    """The images themselves: each channel averaged down to at most 16 pixels a side, flattened."""

    tap = ("pixels", "vector")

    def __init__(self, size: int) -> None:
        self.side = min(PIXEL_SIDE, size)
        self.widths = {self.tap: 3 * self.side**2}

    def __call__(self, pixels: Tensor) -> dict[Tap, Tensor]:
        unit = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        return {self.tap: F.adaptive_avg_pool2d(unit, self.side).flatten(1)}


def features(
    sources: Sequence[Source], images: Images, store: Store, *, device: torch.device, text: str
) -> Generator[Event, None, list[list[Layer]]]:
    """The layers of each source for all `images`, which are read once; yields progress.

    `store` has room for every source's widths in turn. Raises MachineError where the disk is full.
    """
    shelves = [{tap: store.shelf(width) for tap, width in source.widths.items()} for source in sources]
    rows = len(images)
    size = min(source.batch for source in sources)
    started = time.perf_counter()
    before: list[_Leaving] = []  # of the batch before, whose vectors leave a GPU while it computes this one's
    for indices, pixels in ahead(images, batches(rows, size), device):
        start = int(indices[0])
        found: list[_Leaving] = []
        for source, own in zip(sources, shelves, strict=True):
            leaving = [_Leaving(own[tap], start, vectors) for tap, vectors in source(pixels).items()]
            if device.type == "cpu":
                _arrive(leaving)
            else:
                found += leaving
        _arrive(before)
        before, done = found, start + len(indices)
        yield Progress(text, done, rows, {"images/s": f"{done / (time.perf_counter() - started):,.0f}"})
    _arrive(before)
    return [[Layer(*tap, shelf.numbers, device=device) for tap, shelf in own.items()] for own in shelves]


def _arrive(vectors: "list[_Leaving]") -> None:
    for each in vectors:
        each.arrive()


class _Leaving:
    """Vectors (n, D) on their way to a shelf's rows from `start` on; from a GPU without the host's waiting for it."""

    def __init__(self, shelf: Shelf, start: int, vectors: Tensor) -> None:
        self.shelf, self.start, self.vectors, self.copied = shelf, start, vectors, None
        if vectors.is_cuda:
            self.vectors = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
            self.vectors.copy_(vectors, non_blocking=True)
            self.copied = torch.cuda.current_stream(vectors.device).record_event()

    def arrive(self) -> None:
        """Writes them, once they are there."""
        if self.copied is not None:
            self.copied.synchronize()
        self.shelf.write(self.start, self.vectors)


def batches(rows: int, size: int) -> Iterator[Tensor]:
    """All row indices, ascending, `size` at a time."""
    return (torch.arange(start, min(start + size, rows)) for start in range(0, rows, size))


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
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    with torch.no_grad():
        mixed = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))  # folders come class by class
        for indices in torch.split(mixed[: ESTIMATION_BATCHES * BATCH], BATCH):
            if len(indices) > 1:
                network(images.read(indices).to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def seconds_per_1000(network: Network, device: torch.device) -> list[float]:
    """How long 1,000 images take up to and including each block, in order: the best of at most three passes."""
    side, batch = network.input.size, 64
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    best = [float("inf")] * len(network.names)
    began = time.perf_counter()
    for round in range(REPEATS + 1):
        x = torch.zeros(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
        started = _settled(device)
        with torch.inference_mode():
            for index, block in enumerate(network.chain.blocks):
                x = block(x)
                best[index] = min(best[index], _settled(device) - started)
        if round and time.perf_counter() - began > LONG:  # the first one warms up
            break
    return [seconds * 1000 / batch for seconds in best]


def _settled(device: torch.device) -> float:
    """The time, once the device has done all it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
