"""Whole processes as contenders: started, waited for, and timed with the peak of their memory (no torch)."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sslcut.bench import timekeeper
from sslcut.bench.contest import Spent
from sslcut.errors import SslcutError

SSLCUT = (sys.executable, "-m", "sslcut")


def spent(command: Sequence[str | Path], folder: Path) -> Spent:
    """Run a command in `folder` and return its wall seconds and peak memory, those of its start included.

    Raises SslcutError with what it said on stderr where it fails.
    """
    with TemporaryDirectory() as aside:
        found = Path(aside) / "spent.json"
        watch = [sys.executable, "-I", timekeeper.__file__, found, *command]
        done = subprocess.run(
            [str(word) for word in watch], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        told = json.loads(found.read_text(encoding="ascii")) if done.returncode == 0 else {"code": done.returncode}
    if told["code"]:
        words = " ".join(map(str, command))
        raise SslcutError(f"`{words}` ended with {told['code']}: {done.stderr.strip()[-500:]}")
    return Spent(told["seconds"], told["peak"])
