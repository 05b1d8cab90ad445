"""What INPUT means: a checkpoint, a run directory, a results file, the line of the command before, or the newest.

No torch.
"""

import json
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslcut.errors import InputError
from sslcut.rundir import CHECKPOINT_STAGES, RunDir, is_shared

UNCUT = ("pretrain", "resize", "import")  # the stages whose newest checkpoint is the one to cut
PATIENCE = 2.0  # seconds of silence on stdin before stderr says what is awaited


@dataclass(frozen=True)
class Given:
    """A checkpoint to work on, the results file it came with (where one was named), and how it was chosen.

    `directory` is the run directory in which it was looked up; a sweep's cell may mean a sibling's checkpoint.
    """

    checkpoint: Path
    results: Path | None = None
    note: str = ""
    directory: Path | None = None

    @property
    def folder(self) -> Path:
        """Where goes what is made of the checkpoint: the run directory that was asked for it, else beside it."""
        return self.checkpoint.parent if self.directory is None else self.directory


def from_stdin(source: str | None, tell: Callable[[str], None]) -> str | None:
    """INPUT, or where it is `-`, or absent while another command feeds stdin, the path in stdin's first line."""
    if source == "-" or (source is None and stdin_is_fed()):
        return path_of(next(stdin_lines("a checkpoint's path", tell)))
    return source


def find_checkpoint(source: str | None, default: Path, stages: Sequence[str] = CHECKPOINT_STAGES) -> Given:
    """The checkpoint that INPUT means; without one, the newest in the run directory `default`.

    Raises InputError (exit 3) where nothing is there.
    """
    if source is not None:
        return _given(Path(source), stages)
    checkpoint = RunDir(default).newest(stages)
    return Given(checkpoint, note=f"using {checkpoint}, the newest checkpoint in {default}", directory=default)


def _given(path: Path, stages: Sequence[str]) -> Given:
    if path.is_dir():
        checkpoint = RunDir(path).newest(stages)
        return Given(checkpoint, note=f"using {checkpoint}, the newest checkpoint in {path}", directory=path)
    if path.suffix == ".json":
        results = read_results(path)
        return Given(_checkpoint_of(path, results), results=path, directory=path.parent)
    if not path.exists():
        named = "a network by name begins with torchvision:, timm: or hf-hub:" if ":" in str(path) else ""
        raise InputError(f"no checkpoint at {path}", hint=named or "`sslcut pretrain` makes one")
    return Given(path)


def read_results(path: Path) -> dict[str, Any]:
    """A results file's document; raises InputError (exit 3) where the file is missing, damaged or something else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != 1 or not isinstance(document["checkpoint"]["identity"], str):
            raise ValueError("not format 1")
    except FileNotFoundError as error:
        raise InputError(f"no results file at {path}", hint="`sslcut probe` makes one") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no results file of `sslcut probe` ({error})", hint="probe again") from error
    return document


def _checkpoint_of(path: Path, results: dict[str, Any]) -> Path:
    name, identity = results["checkpoint"].get("name", ""), results["checkpoint"]["identity"]
    checkpoint, run = path.parent / name, RunDir(path.parent)
    if name and not checkpoint.is_file():
        elsewhere = [run.output(step) for step in run.steps() if step.identity == identity and is_shared(step)]
        checkpoint = next(iter(elsewhere), checkpoint)
    if not name or not checkpoint.is_file():
        raise InputError(f"{path} is of the checkpoint `{name}`, which is not beside it", hint="name the checkpoint")
    return checkpoint


def stdin_is_fed() -> bool:
    """Whether another command feeds stdin: a FIFO or socket that the parent process does not itself have as its own."""
    with suppress(OSError, ValueError):
        mine = os.fstat(0)
        if not (stat.S_ISFIFO(mine.st_mode) or stat.S_ISSOCK(mine.st_mode)):
            return False
        with suppress(OSError):
            parents = os.stat(f"/proc/{os.getppid()}/fd/0")
            return (parents.st_dev, parents.st_ino) != (mine.st_dev, mine.st_ino)
        return True
    return False


def stdin_lines(awaited: str, tell: Callable[[str], None]) -> Iterator[str]:
    """The lines of stdin, each stripped, empty ones left out; after two seconds of silence tells what is awaited.

    Raises InputError (exit 3) at an end of file without a line: the command before failed, and old files are not used.
    """
    if sys.stdin is None:  # a caller has closed it
        raise InputError("stdin is closed", hint=f"name {awaited}")
    with suppress(OSError, ValueError):
        if not select.select([sys.stdin], [], [], PATIENCE)[0]:
            tell(f"waiting for {awaited} on stdin")
    found = False
    for line in sys.stdin:
        if line.strip():
            found = True
            yield line.strip()
    if not found:
        raise InputError("the command before wrote no path", hint="see its message above")


def path_of(line: str) -> str:
    """The path in a line of stdin: the line itself, or the `path` of a `--json` object."""
    if not line.startswith("{"):
        return line
    try:
        return str(json.loads(line)["path"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"stdin holds no path: {line[:80]}", hint="pipe a command of sslcut's into it") from error
