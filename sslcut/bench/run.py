"""The default study, `sslcut run`, whole: what a first user waits for, and where it goes."""

import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from sslcut.bench.contest import Contender, Contest, Spent
from sslcut.bench.goals import Bound
from sslcut.bench.processes import SSLCUT, spent
from sslcut.bench.setting import Setting
from sslcut.rundir import RunDir

TRAIN, TEST = 20_000, 5_000  # images of the recipe `default`
OUTPUTS = {"pretrain": "pretrain.safetensors", "probe": "probe-pretrain.json", "cut and report": "report/index.html"}


def run(setting: Setting) -> Iterator[Contest]:
    """The default `sslcut run` as one process, with the seconds until each stage's output; it has no peer."""
    words = [*SSLCUT, "run", "--device", setting.device]
    words += ["--threads", str(setting.threads)] if setting.threads else []
    for key, images in (("train", TRAIN), ("test", TEST)) if setting.scale != 1 else ():
        words += ["--set", f"data.{key}={setting.scaled(images, least=200)}"]
    with TemporaryDirectory() as name:
        yield Contest(
            "the default `sslcut run`, one process",
            [Contender("sslcut run", lambda: _study(words, Path(name)))],
            goals=[Bound("seconds", 120, "s")],
            rounds=(1, 1),
            warm=False,
            memory="peak",
        )


def _study(words: list[str], folder: Path) -> Spent:
    """Spend the study's process in an empty folder; it found the seconds of each stage, imports and data included.

    A stage lasts until its output is there. `training` is the part of `pretrain` that `run.json` times.
    """
    directory = RunDir(folder / "runs" / "default")
    shutil.rmtree(directory.path, ignore_errors=True)
    began = time.time()
    whole = spent(words, folder)
    ends = [began, *((directory.path / output).stat().st_mtime for output in OUTPUTS.values())]
    found = {f"{stage} s": end - start for stage, (start, end) in zip(OUTPUTS, pairwise(ends), strict=True)}
    training = next(step.seconds for step in directory.steps() if step.stage == "pretrain")
    rest = began + whole.seconds - ends[-1]
    return Spent(whole.seconds, whole.peak, {"training s": training, **found, "ending s": rest})
