"""Where a training runs and in which arithmetic: device, threads, precision measured rather than assumed."""

import copy
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf, isfinite
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from sslcut.data.views import Views
from sslcut.errors import MachineError, UsageError
from sslcut.methods.base import Method

Arithmetic = Literal["float32", "bf16"]
PrecisionName = Literal["auto", "float32", "bf16"]

WORTH = 1.15  # how many times as fast as float32 bf16 must be to be taken
ROUNDS = 3, 10  # of timed steps, at least and at most; the fastest counts, since a busy machine only ever adds time
CUBLAS = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"  # memory of a size with which products are the same to the bit
GAUGE = 8  # images in the steps that tell how many images the others can have


def choose_device(asked: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means. Raises UsageError naming what there is.

    A GPU becomes the current one: memory is pinned for that, and a stream or an event that names none is its.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    keep_float32()
    name = {"auto": there[min(1, len(there) - 1)], "cuda": "cuda:0"}.get(asked, asked)
    if name not in there:
        raise UsageError(f"no device `{asked}` here", hint=f"known: auto, {', '.join(there)}")
    device = torch.device(name)
    if device.type == "cuda":
        os.environ.setdefault(*CUBLAS)  # before the first product on it, or `reproducible` comes too late
        # the first one is current from the start, and to say so would take memory on it
        if device.index or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.set_device(device)
    return device


def keep_float32() -> None:
    """Let float32 be float32 on a GPU too: torch rounds what convolutions read to TF32 unless it is told not to."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def use_threads(count: int | None) -> int:
    """Let torch use `count` threads on the processor, all cores that it sees where null; returns how many it uses."""
    if count is not None:
        if count < 1:
            raise UsageError(f"threads must be at least 1, not {count}")
        torch.set_num_threads(count)
    return torch.get_num_threads()


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was asked; a processor always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def reproducible(asked: bool) -> Iterator[None]:
    """Inside, where `asked`, every operator gives the same bits for the same input; a processor's does so anyway.

    Raises UsageError where one has no such form on the device.
    """
    if not asked:
        yield
        return
    cudnn, memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    memory.fill_uninitialized_memory = False  # nothing reads what was not written
    try:
        yield
    except RuntimeError as error:
        if "torch.use_deterministic_algorithms" not in str(error):
            raise
        what = str(error).partition(", but you set")[0].partition("\n")[0]
        hint = "leave `train.deterministic` out, or train another network or with other views"
        if "CuBLAS" in what:
            hint = f"unset {CUBLAS[0]}, which is not `{CUBLAS[1]}`"
        raise UsageError(f"`train.deterministic: true` cannot be kept: {what}", hint=hint) from error
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = flags


@contextmanager
def compiling(asked: bool) -> Iterator[None]:
    """Inside, where `asked`, what torch.compile cannot do is raised as a UsageError."""
    if not asked:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        what = f"torch.compile cannot take this training: {error}".splitlines()[0]
        raise UsageError(what, hint="train.compile: false") from error


@contextmanager
def drawing(device: torch.device, *key: int) -> Iterator[None]:
    """Inside, what torch draws of itself (dropout, stochastic depth) depends on `key` alone.

    Behind it, torch's random state is what it was.
    """
    seed = int.from_bytes(blake2b(repr(key).encode(), digest_size=7).digest(), "little")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def all_finite(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """Whether no element is infinite or NaN: a bool scalar on `device`, not read back."""
    floating = [t.detach() for t in tensors if t.is_floating_point()]
    if not floating:
        return torch.ones((), dtype=torch.bool, device=device)
    return torch.stack([norm.to(device) for norm in torch._foreach_norm(floating, torch.inf)]).isfinite().all()


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a training: `float32`, or `bf16` by autocast; and whether channels lie last in memory.

    `timings` are the measured seconds of a step in each, empty where nothing was measured. `compiled` says whether
    the method is handed to torch.compile.
    """

    name: Arithmetic
    channels_last: bool
    timings: Mapping[str, float] = field(default_factory=dict)
    compiled: bool = False

    @property
    def label(self) -> str:
        """The choice in words."""
        told = f"{self.name}, channels last" if self.channels_last else self.name
        return f"{told}, compiled" if self.compiled else told

    @property
    def autocast(self) -> torch.dtype | None:
        """The type of the products inside autocast; None where autocast is off."""
        return torch.bfloat16 if self.name == "bf16" else None

    def autocasting(self, device: torch.device) -> AbstractContextManager[None]:
        """Autocast to that type on a device, or off."""
        return torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None)


def choose_precision(
    asked: PrecisionName, method: Method, sample: Views, labels: Tensor | None, *, budget: float = 3.0
) -> Precision:
    """The arithmetic to train in: the one asked for, or for `auto` bf16 where its steps are at least 15 % faster.

    `sample` is one batch of views, `labels` its (B,) labels or None, all on the method's device. The steps are taken
    on a copy, on a processor with as many images as fit into about `budget` seconds (a GPU is not busy with fewer than
    a batch); the method and the random state are as before.
    Convolutions have their channels last, which was 1.1 to 1.5 times as fast in both on every processor measured.
    """
    channels_last = any(isinstance(module, nn.Conv2d) for module in method.modules())
    if asked != "auto":
        return Precision(asked, channels_last)
    candidates = [Precision(name, channels_last) for name in get_args(Arithmetic)]
    device = sample.crops[0].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        timings, _ = time_steps(candidates, arrange(copy.deepcopy(method), channels_last), sample, labels, budget)
    name: Arithmetic = "bf16" if timings["float32"] >= WORTH * timings["bf16"] else "float32"
    return Precision(name, channels_last, {key: seconds for key, seconds in timings.items() if isfinite(seconds)})


def time_steps(
    candidates: list[Precision], method: Method, sample: Views, labels: Tensor | None, budget: float
) -> tuple[dict[str, float], int]:
    """Seconds a step by name, and of how many images; rounds go over the candidates in turn.

    So a busy moment meets each alike.
    """

    def one_round(images: int) -> dict[str, float]:
        views, targets = first_of(sample, labels, images)
        return {c.name: affordable_step(method, c, views, targets) for c in candidates}

    images = batch = sample.crops[0].shape[1]
    if sample.crops[0].device.type == "cpu":
        few = min(GAUGE, batch)
        one_round(few)  # the first steps of a process also set up the kernels
        affordable = few * budget / sum(one_round(few).values()) / (ROUNDS[0] + 1)
        images = max(few, min(batch, int(affordable)))
    one_round(images)  # kernels are set up for each batch size anew
    started, rounds = time.monotonic(), [one_round(images) for _ in range(ROUNDS[0])]
    while len(rounds) < ROUNDS[1] and time.monotonic() - started < budget:
        rounds.append(one_round(images))
    fastest: dict[str, float] = {c.name: min(found[c.name] for found in rounds) for c in candidates}
    if not any(map(isfinite, fastest.values())):
        raise MachineError(f"a step of {images} images does not fit into memory", hint="lower train.batch_size")
    return fastest, images


def first_of(sample: Views, labels: Tensor | None, images: int) -> tuple[Views, Tensor | None]:
    """The views and labels of a batch's first images."""
    views = Views(tuple(crop[:, :images] for crop in sample.crops), sample.n_global, {})
    return views, labels[:images] if labels is not None else None


def arrange(method: Method, channels_last: bool) -> Method:
    """The method itself, in training mode, its weights laid out with channels last, or first."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return method.to(memory_format=layout).train()


def affordable_step(method: Method, precision: Precision, views: Views, labels: Tensor | None) -> float:
    """Seconds of one forward and backward pass; infinite where a GPU's memory does not hold it."""
    try:
        return timed_step(method, precision, views, labels)
    except torch.OutOfMemoryError:
        method.zero_grad()
        torch.cuda.empty_cache()
        return inf


def timed_step(method: Method, precision: Precision, views: Views, labels: Tensor | None) -> float:
    """Seconds of one forward and backward pass."""
    device = views.crops[0].device
    synchronise(device)
    start = time.perf_counter()
    torch.autograd.backward(loss_of(method, views, labels, precision)[0])
    synchronise(device)
    method.zero_grad()
    return time.perf_counter() - start


def loss_of(method: Method, views: Views, labels: Tensor | None, precision: Precision) -> tuple[Tensor, Tensor]:
    """The loss (a scalar) and z (V, B, D): the network under the chosen autocast, the loss in float32 without it."""
    with precision.autocasting(views.crops[0].device):
        z = method(views, labels)
    return cost_of(method, z, labels)


def cost_of(method: Method, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """What z (V, B, D) costs, without autocast, and z itself: in float32, or in float64 where it is."""
    with torch.autocast(z.device.type, enabled=False):
        z = z if z.dtype == torch.float64 else z.float()
        return method.loss(z, labels), z
