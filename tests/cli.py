"""Running the real command line in a subprocess, and a recipe that takes a second."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

TINY = [
    "data.size=16", "data.train=300", "data.test=120",
    "model.backbone={name: resnet10, width: 4, stem: small}", "model.projector.widths=[16, 8]",
    "train.epochs=1", "train.batch_size=64", "train.precision=float32",
    "probe.bootstrap=100", "probe.untrained=false", "probe.pixels=false",
]  # fmt: skip


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a command in `folder`: a cache of its own, and no GPU, where not every bit is the same."""
    return {**os.environ, "XDG_CACHE_HOME": str(folder / ".cache"), "CUDA_VISIBLE_DEVICES": ""}


def sslcut(*arguments: str, cwd: Path, stdin: int | None = subprocess.DEVNULL, **more) -> subprocess.CompletedProcess:
    """Run `sslcut` with these arguments, as a user would, and return what it printed and its exit code.

    `env` adds to its surroundings: a test of a GPU makes `CUDA_VISIBLE_DEVICES` what it is.
    """
    env = {**surroundings(cwd), **more.pop("env", {})}
    command = [sys.executable, "-m", "sslcut", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, stdin=stdin, capture_output=True, text=True, env=env, check=False, **more)


def tiny(*sets: str) -> list[str]:
    """The options that make the default recipe tiny, and more of the kind."""
    return [word for each in [*TINY, *sets] for word in ("--set", each)]


def shell(line: str, cwd: Path, pipefail: bool = True) -> subprocess.CompletedProcess:
    """Run a line in bash with the installed `sslcut` on its path; `$TINY` holds the options of a tiny recipe."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**surroundings(cwd), "PATH": path, "TINY": shlex.join(tiny())}
    script = f"set -o pipefail; {line}" if pipefail else line
    return subprocess.run(
        ["bash", "-c", script], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, check=False
    )
