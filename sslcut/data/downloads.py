"""Any classification set of torchvision, in memory."""

from collections.abc import Generator, Mapping
from contextlib import redirect_stdout
from inspect import isclass, signature
from pathlib import Path
from sys import stderr
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torchvision import datasets

from sslcut.data.decode import Pixels, reason, square
from sslcut.data.images import Dataset, Images, Labelled, Task, hold_out, subset
from sslcut.data.workers import Held, fill
from sslcut.errors import AbsentError, InputError, UsageError, suggestion
from sslcut.events import Event

TRAIN_NAMES = ("train", "train-standard")  # what sets call their splits, the first that fits
TEST_NAMES = ("test", "val", "valid")


def load(
    *,
    seed: int,
    root: str | None = None,
    dataset: str = "CIFAR10",
    arguments: dict[str, str | int] | None = None,
    size: Annotated[int, Field(ge=1)] = 32,
    train: Annotated[int, Field(ge=1)] | None = None,
    test: Annotated[int, Field(ge=1)] | None = None,
    download: bool = False,
) -> Generator[Event, None, Dataset]:
    """Any classification set of torchvision; `arguments` are those of its class that only it has.

    One without a test split has `test` images held out where that is set, and is cross-fitted otherwise. Raises
    UsageError for a name that torchvision does not have, InputError where its files are not there.
    """
    fit, held = _sources(dataset, root, download, arguments or {})
    if held is None and test is not None:
        whole = yield from _images(fit, size, None, seed)
        rest, apart = hold_out(whole, test, seed)
        return Dataset("torchvision", subset(rest, train, seed), apart)
    images = yield from _images(fit, size, train, seed)
    tested = None if held is None else (yield from _images(held, size, test, seed))
    return Dataset("torchvision", images, tested)


def _sources(name: str, root: str | None, download: bool, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Torchvision's objects for training and for testing (None: it has no such split)."""
    kinds = [key for key, v in vars(datasets).items() if isclass(v) and issubclass(v, datasets.VisionDataset)]
    name = next((key for key in kinds if key.lower() == name.lower()), name)
    if name not in kinds:
        raise UsageError(f"torchvision has no data set `{name}`", hint=suggestion(name, sorted(kinds), "data sets"))
    kind = getattr(datasets, name)
    known = set(signature(kind).parameters)
    if issubclass(kind, datasets.MNIST):
        known |= {"train", "download"}  # which EMNIST and QMNIST pass on unnamed
    if "root" in known and root is None:
        raise AbsentError(f"torchvision's {name} needs a folder", hint="set data.root, or give --data FOLDER")
    given = {"root": str(Path(root or "").expanduser()), "download": download}
    options = {key: value for key, value in given.items() if key in known} | dict(arguments)
    if "train" in known:
        return _opened(kind, options, "train", (True,)), _opened(kind, options, "train", (False,))
    if "split" in known and "split" not in arguments:
        return _opened(kind, options, "split", TRAIN_NAMES), _opened(kind, options, "split", TEST_NAMES)
    return _opened(kind, options), None


def _opened(kind: Any, options: dict[str, Any], argument: str = "", values: tuple[Any, ...] = ()) -> Any:
    """The set, with the first of the argument's values that it accepts."""
    hint = "set data.root to its folder, or data.download: true; data.arguments go to its class"
    refusal: Exception | None = None
    for chosen in [{argument: value} for value in values] or [{}]:
        try:
            with redirect_stdout(stderr):  # stdout is for results
                return kind(**options, **chosen)
        except ValueError as fault:  # a split that the set does not have
            refusal = refusal or fault
        except (OSError, RuntimeError, TypeError, ImportError) as fault:
            raise AbsentError(f"cannot open torchvision's {kind.__name__}: {_line(fault)}", hint=hint) from fault
    raise AbsentError(f"cannot open torchvision's {kind.__name__}: {_line(refusal)}", hint=hint) from refusal


def _images(source: Any, size: int, count: int | None, seed: int) -> Generator[Event, None, Images]:
    """`count` pictures of a set, drawn before any is decoded: labels are only known with their pictures."""
    rows = list(range(len(source)))
    if count is not None and count < len(rows):
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
        rows = chosen.sort().values.tolist()
    labels = torch.full((len(rows),), -1)

    def read(row: int) -> Pixels:
        picture, label = source[rows[row]]
        if not isinstance(picture, Image.Image) or not isinstance(label, int | np.integer):
            raise TypeError("torchvision gives it without a picture or a class: not a classification set")
        labels[row] = int(label)
        return square(picture, size)

    held = Held.empty(len(rows), size)
    faults = yield from fill(held, range(len(rows)), size, read, go_on=False)
    if faults:
        row = min(faults)
        what = f"cannot read image {rows[row]} of torchvision's {type(source).__name__}: {reason(faults[row])}"
        raise InputError(what)
    return Labelled(held, torch.arange(len(rows)), {"class": Task("class", labels, _classes(source, labels))})


def _classes(source: Any, labels: Tensor) -> tuple[str, ...]:
    """The set's names of its classes, else their numbers."""
    names = getattr(source, "classes", None) or getattr(source, "categories", None) or ()
    count = int(labels.max()) + 1
    return tuple(map(str, names)) if len(names) >= count else tuple(map(str, range(count)))


def _line(fault: Exception | None) -> str:
    """The first line of a fault, less torchvision's advice, which is for its own callers."""
    return (str(fault).splitlines() or [type(fault).__name__])[0].partition(". You can use download=")[0]
