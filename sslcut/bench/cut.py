"""Cutting a checkpoint of a gigabyte, whole processes: `sslcut guillotine` beside `cp` and `sync` of the kept bytes."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from sslcut import header
from sslcut.bench.contest import Contender, Contest, Spent
from sslcut.bench.goals import Bound, Ratio
from sslcut.bench.processes import SSLCUT, spent
from sslcut.bench.setting import Setting
from sslcut.events import Event, Progress

DEPTH = 36  # blocks of a ViT-B's width: 255 million parameters, a gigabyte
NAIVE = """
import os
from safetensors.torch import load_file, save_file
kept = [f"encoder.layers.encoder_layer_{i}." for i in range(LAST + 1)]
tensors = {n: t for n, t in load_file("whole.safetensors").items() if "encoder." not in n or n.startswith(tuple(kept))}
save_file(tensors, "target")
os.fsync(os.open("target", os.O_RDONLY))
"""


def cut(setting: Setting) -> Iterator[Event | Contest]:
    """`sslcut guillotine` that keeps two thirds of 1 GB, against `cp` and `sync` of the kept bytes."""
    with TemporaryDirectory() as name:
        folder, depth = Path(name), setting.scaled(DEPTH, least=3)
        yield Progress("making the checkpoint to cut", 0, 1)
        _make(folder / "whole.safetensors", depth)
        last = 2 * depth // 3 - 1
        guillotine = [*SSLCUT, "guillotine", "whole.safetensors", "--at", f"blocks.{last}", "--out"]
        spent([*guillotine, "kept"], folder)
        whole, kept = ((folder / file).stat().st_size for file in ("whole.safetensors", "kept"))
        naive = NAIVE.replace("LAST", str(last))

        def fresh(*command: str) -> Callable[[], Spent]:
            return lambda: _fresh(folder, command)

        yield Contest(
            f"cut of {whole / 1e6:,.0f} MB, {kept / 1e6:,.0f} MB kept, whole processes",
            [
                Contender("sslcut guillotine", fresh(*guillotine, "target")),
                Contender("cp and sync", fresh("sh", "-c", "cp kept target && sync target"), "reference"),
                Contender("start-up", fresh(*SSLCUT, "guillotine", "--help"), "other", "guillotine --help"),
                Contender("safetensors", fresh(sys.executable, "-c", naive), "reference", "load, filter, save, sync"),
            ],
            goals=[Ratio("at most", 1.2, "cp and sync", less="start-up"), Bound("memory", 80, "MB")],
            count=kept // 10**6,
            unit="MB",
            memory="peak",
        )


def _fresh(folder: Path, command: tuple[str, ...]) -> Spent:
    """Spend a process on a disk that has nothing left to write, with no target in the way."""
    (folder / "target").unlink(missing_ok=True)
    os.sync()
    return spent(command, folder)


def _make(path: Path, depth: int) -> None:
    """Write an untrained ViT of `depth` blocks as pretrain would."""
    from sslcut import checkpoint
    from sslcut.model.build import build

    model = {"backbone": {"name": "vit_b", "depth": depth, "size": 32}, "last_block": {}}
    document = {
        "model": model,
        "readout": "cls",
        "input": {"size": 32, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3},
        "recipe": {"name": "bench"},
        "history": [],
    }
    checkpoint.save(path, build(model), {**document, "format": header.FORMAT})
