"""A network of tiny blocks as wide as a ResNet-50's, and how much memory a probe's features take of the process.

`python wide.py ROWS BUDGET FOLDER` prints the growth of the process's own memory over the pass and over one reading of
every layer, and how far the features are from those of an unlimited pass; bytes, and shares of a layer's largest value.
"""

import gc
import json
import sys
import threading
import time
from pathlib import Path

import torch
from torch import nn
from work import done

from sslcut.data.images import ArrayImages
from sslcut.metrics.extract import Taps, features
from sslcut.metrics.layer import blocks
from sslcut.metrics.store import Store
from sslcut.model.chain import Block, Chain
from sslcut.model.network import Input, Network

WIDTHS = [64] + 3 * [256] + 4 * [512] + 6 * [1024] + 6 * [2048]  # a ResNet-50's blocks and pool, two of a projector's
CPU = torch.device("cpu")


class Fan(Block):
    """Any output's first eight numbers, spread over `width` by a random matrix: (B, ...) → (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.linear = nn.Linear(8, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)[:, :8]).relu()


def network() -> Network:
    torch.manual_seed(0)
    blocks = [(f"layer{i}", f"layer{i}.", Fan(width)) for i, width in enumerate(WIDTHS)]
    return Network(Chain(blocks), "vector", Input(4, (0.5,) * 3, (0.2,) * 3))


def passed(rows: int, memory: int, folder: Path):
    """The layers of `rows` random images, and the store that holds them."""
    net = network()
    source = Taps(net, [(name, "vector") for name in net.names], CPU)
    pixels = torch.randint(0, 256, (rows, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    store = Store(rows, list(source.widths.values()), memory, folder)
    return done(features([source], ArrayImages(pixels, {}), store, device=CPU, text=""))[0], store


def own_memory() -> int:
    """Bytes of the process's own memory: what is not mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])


class Watch(threading.Thread):
    """Samples the process's own memory; `peak` is the most that was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self.over = own_memory(), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.002):
            self.peak = max(self.peak, own_memory())


def parts(layer):
    """A layer's features as a probe reads them."""
    return (part for _, part in blocks(layer.features, torch.arange(len(layer.features)), 2**18))


def read_all(layers) -> None:
    for layer in layers:
        for part in parts(layer):
            part.sum()


def apart(layer, other) -> float:
    """The largest difference between two passes' features, as a share of the largest value."""
    largest = max(part.max().item() for part in parts(other))
    return max((a - b).abs().max().item() for a, b in zip(parts(layer), parts(other), strict=True)) / largest


if __name__ == "__main__":
    rows, budget, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    read_all(passed(256, 10**9, folder)[0])
    gc.collect()
    before, watch, started = own_memory(), Watch(), time.monotonic()
    watch.start()
    layers, store = passed(rows, budget, folder)
    read_all(layers)
    watch.over.set()
    watch.join()
    seconds = time.monotonic() - started
    names = [path.name for path in folder.iterdir()]
    unlimited, _ = passed(rows, 10**12, folder)
    store.close()
    found = {"grown": watch.peak - before, "place": store.place, "names": names, "seconds": seconds}
    print(json.dumps(found | {"apart": max(map(apart, layers, unlimited))}))
