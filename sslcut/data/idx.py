"""Data sets in the idx format of MNIST, plain or gzipped."""

import gzip
import zlib
from collections.abc import Mapping
from contextlib import redirect_stdout
from math import prod
from pathlib import Path
from sys import stderr
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from sslcut.atomic import cache_folder
from sslcut.data.decode import resized
from sslcut.data.images import ArrayImages, Dataset, Images, Task
from sslcut.data.strata import choose
from sslcut.errors import AbsentError, InputError

DEBIAN = Path("/usr/share/datasets")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
Kinds = Mapping[str, tuple[int, ...]]  # a kind of classes → their numbers; each class is of one kind
KINDS: Kinds = {"upper": (0, 2, 3, 4, 6), "lower": (1,), "shoe": (5, 7, 9), "bag": (8,)}


def load_fashion_mnist(
    *,
    seed: int,
    root: str | None = None,
    size: Annotated[int, Field(ge=1)] = 28,
    train: Annotated[int, Field(ge=1)] | None = None,
    test: Annotated[int, Field(ge=1)] | None = None,
    coarse: bool = False,
    download: bool = False,
) -> Dataset:
    """Fashion-MNIST: 70,000 photographs of clothes, 28 × 28, from Debian's package, a folder, or torchvision.

    `coarse` adds the task `coarse`, whose classes are upper, lower, shoe and bag: what a network that is taught these
    keeps of the ten is transfer.
    """
    hint = "install Debian's package dataset-fashion-mnist, set data.root, or set data.download: true"
    folder = _folder("FashionMNIST", root, DEBIAN / "fashion-mnist", download, hint)
    kinds = KINDS if coarse else {}
    return _load("fashion-mnist", folder, CLOTHES, kinds, seed=seed, size=size, train=train, test=test)


def load_mnist(
    *,
    seed: int,
    root: str | None = None,
    size: Annotated[int, Field(ge=1)] = 28,
    train: Annotated[int, Field(ge=1)] | None = None,
    test: Annotated[int, Field(ge=1)] | None = None,
    download: bool = False,
) -> Dataset:
    """MNIST: 70,000 handwritten digits, 28 × 28, from a folder or torchvision."""
    hint = "set data.root to the folder of its four idx files, or set data.download: true"
    folder = _folder("MNIST", root, DEBIAN / "mnist", download, hint)
    return _load("mnist", folder, tuple("0123456789"), {}, seed=seed, size=size, train=train, test=test)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The bytes of an idx file, in its shape. Raises InputError where it is foreign, broken or cut short.

    The format: two zero bytes, 8 (unsigned bytes), the number of dimensions, each as a big-endian int32, the bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as fault:
        raise InputError(f"cannot read {path}: {fault}", hint="fetch it anew") from fault
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise InputError(f"{path} is not an idx file of bytes: it starts with {raw[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4))
    if len(raw) != start + prod(shape):
        wanted = " × ".join(map(str, shape))
        raise InputError(f"{path} has {len(raw):,} bytes, not {start + prod(shape):,} ({wanted})", hint="fetch it anew")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _folder(name: str, root: str | None, system: Path, download: bool, hint: str) -> Path:
    """The folder that holds the four files: `root` or torchvision's place below it, else the system's."""
    given = Path(root).expanduser() if root is not None else system
    fetched = (cache_folder() if root is None else given) / name / "raw"
    for folder in (given, fetched):
        if _file(folder, "train-images-idx3-ubyte"):
            return folder
    if not download:
        raise AbsentError(f"no files of {name} in {given}", hint=hint)
    from torchvision import datasets  # a second to import

    try:
        with redirect_stdout(stderr):
            getattr(datasets, name)(fetched.parents[1], download=True)
    except (OSError, RuntimeError) as fault:
        raise AbsentError(f"cannot fetch {name}: {fault}", hint=hint) from fault
    return fetched


def _file(folder: Path, name: str) -> Path | None:
    """The file of that name, with or without .gz, or with the dot that some copies have instead of the last dash."""
    dotted = name.replace("-idx", ".idx")
    candidates = (folder / f"{stem}{suffix}" for stem in (name, dotted) for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _load(
    name: str,
    folder: Path,
    classes: tuple[str, ...],
    kinds: Kinds,
    *,
    seed: int,
    size: int,
    train: int | None,
    test: int | None,
) -> Dataset:
    fit, held = (
        _split(folder, side, classes, kinds, size, count, seed) for side, count in (("train", train), ("t10k", test))
    )
    return Dataset(name, fit, held)


def _split(
    folder: Path, prefix: str, classes: tuple[str, ...], kinds: Kinds, size: int, count: int | None, seed: int
) -> Images:
    paths = []
    for file in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
        path = _file(folder, file)
        if path is None:
            raise InputError(f"no {file}(.gz) in {folder}", hint="the four idx files belong together")
        paths.append(path)
    pixels, labels = (read_idx(path) for path in paths)
    if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels) or pixels.shape[1] != pixels.shape[2]:
        raise InputError(f"{paths[0]} {pixels.shape} and {paths[1]} {labels.shape} do not fit together")
    if labels.max(initial=0) >= len(classes):
        raise InputError(f"{paths[1]} has class {labels.max()}, and there are {len(classes)}")
    task = Task("class", torch.from_numpy(labels.astype(np.int64)), classes)
    rows = torch.arange(len(labels)) if count is None or count >= len(labels) else choose(task.values, count, seed)
    chosen = torch.from_numpy(pixels[rows.numpy()]).unsqueeze(1)
    tasks = {"class": task, **({"coarse": _coarse(task.values, kinds)} if kinds else {})}
    return ArrayImages(resized(chosen, size), {name: task.take(rows) for name, task in tasks.items()})


def _coarse(labels: Tensor, kinds: Kinds) -> Task:
    kind_of = {label: number for number, members in enumerate(kinds.values()) for label in members}
    number = torch.tensor([kind_of[label] for label in sorted(kind_of)])
    return Task("class", number[labels], tuple(kinds))
