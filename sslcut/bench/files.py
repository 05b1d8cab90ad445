"""JPEG files on a disk to a linear probe of every block, beside decoding them and one plain forward pass."""

import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from sslcut.bench.contest import Contender, Contest, Spent
from sslcut.bench.features import MEAN, MEMORY, STD, forward, returned
from sslcut.bench.goals import Bound, Ratio
from sslcut.bench.peers import peer
from sslcut.bench.setting import Setting
from sslcut.data.opening import open_data
from sslcut.data.shapes import Shapes
from sslcut.metrics.division import Rows, rows_of
from sslcut.metrics.extract import Taps, features, taps
from sslcut.metrics.linear import linear
from sslcut.metrics.store import Store
from sslcut.model.build import build
from sslcut.model.network import Input, Network
from sslcut.names import measured
from sslcut.training.world import synchronise

PICTURES, SIDE = 2_000, 500
QUALITY, NOISE = 90, 11.0  # files of 80 to 100 kB, as photographs of this size have
AT_ONCE = 50
TESTED = 5  # every fifth picture is for testing
BACKBONE, SIZE, READOUT = {"name": "vit_s"}, 224, "mean"
WORST, SOLVING = 1.15, 0.05

_seeds = count()


def files(setting: Setting) -> Iterator[Contest]:
    """JPEGs of 500 px to a linear probe of every block of a ViT-S/16, against decoding and one forward pass."""
    device = setting.open_device()
    torch.manual_seed(0)
    network = Network(build({"backbone": BACKBONE}), "vector", Input(SIZE, MEAN, STD)).eval()
    with TemporaryDirectory() as name, own_cache(Path(name) / "cache") as cache:
        folder = Path(name) / "pictures"
        paths = write_pictures(folder, setting.scaled(PICTURES, least=60))
        yield Contest(
            f"{len(paths):,} JPEGs of {SIDE} px, ViT-S/16 at {SIZE} px, a linear probe of every block, float32",
            [
                Contender("sslcut", partial(probe, folder, network, device, cache)),
                peer("torchvision", partial(floor, paths, network, device)),
                Contender("sslcut opening them again", partial(open_rows, folder, SIZE), "other", "decoded before"),
            ],
            goals=[Ratio("at most", WORST, "reference"), Bound("solving", SOLVING)],
            count=len(paths),
            unit="images",
            settle=partial(synchronise, device),
            rounds=(1, 5),
        )


def probe(folder: Path, network: Network, device: torch.device, cache: Path) -> Spent:
    """Open the pictures in `folder`, take the features of every block, solve; tells the share of the time of each.

    What an earlier call left in `cache` is deleted first, outside the time.
    """
    shutil.rmtree(cache, ignore_errors=True)
    times = [time.perf_counter()]
    rows = open_rows(folder, network.input.size)
    times.append(time.perf_counter())
    source = Taps(network, taps(network, measured(network.names), [READOUT]), device)
    with closing(Store(len(rows.images), list(source.widths.values()), MEMORY, folder)) as store:
        [layers] = returned(features([source], rows.images, store, device=device, text="features"))
        times.append(time.perf_counter())
        linear(layers, rows.tasks, rows.folds, scale="standard", memory=store.left)
    times.append(time.perf_counter())
    total = times[-1] - times[0]
    parts = zip(("reading", "features", "solving"), pairwise(times), strict=True)
    return Spent(total, found={name: (end - start) / total for name, (start, end) in parts})


def open_rows(folder: Path, size: int) -> Rows:
    """The pictures as the probe opens and divides them.

    With another seed each time, since a data set stays open for whoever asks for the same one.
    """
    data = {"name": "folder", "root": str(folder), "validation": 0.1}
    opened = returned(open_data(data, next(_seeds), size=size))
    return rows_of(opened, {"train": None, "test": None, "tasks": "all"}, 0)


def floor(paths: Sequence[Path], network: Network, device: torch.device) -> Contender:
    """torchvision's JPEG decoder and resize in as many threads as torch has, then a plain pass in sslcut's batches."""
    from torchvision.io import ImageReadMode, decode_jpeg, read_file  # deprecated, and still the fastest there is

    size = network.input.size
    batch = Taps(network, [(network.names[-1], "vector")], device).batch

    def decode(path: Path) -> Tensor:
        """The largest centred square, resized as sslcut does it."""
        picture = decode_jpeg(read_file(str(path)), ImageReadMode.RGB)
        square = TF.center_crop(picture, [min(picture.shape[1:])])
        return TF.resize(square, [size, size], InterpolationMode.BICUBIC, antialias=True)

    def work() -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            pixels = torch.stack(list(pool.map(decode, paths)))
        return pixels, forward(network, pixels, device, "float32", batch)

    return Contender("decoding and one forward pass", work, "reference")


def write_pictures(folder: Path, number: int) -> list[Path]:
    """So many JPEG files of drawn shapes under a camera's noise, one folder a shape below `train` and `test`."""
    noise = torch.Generator().manual_seed(0)
    paths: list[Path] = []
    for start in range(0, number, AT_ONCE):
        drawn = Shapes(start, "train", min(AT_ONCE, number - start), SIDE)
        shape = drawn.tasks["shape"]
        for pixels, label in zip(drawn.pixels, shape.values.tolist(), strict=True):
            grain = NOISE * torch.randn(pixels.shape, generator=noise)
            picture = (pixels + grain).round_().clamp_(0, 255).to(torch.uint8)
            part = "train" if len(paths) % TESTED else "test"
            paths.append(folder / part / shape.classes[label] / f"{len(paths):05}.jpg")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(paths[-1], quality=QUALITY)
    return paths


@contextmanager
def own_cache(folder: Path) -> Iterator[Path]:
    """A folder for what sslcut keeps decoded, so that the user's own is neither read nor filled."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before
