"""A run's directory: what has been done in it, who is writing, and which file a stage means. No torch.

`run.json` lists the stages in the order in which they were done (a kept step moves to the end); the lock is held by
one process at a time and falls with it.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sslcut.atomic import machine_fault, make_folder, write_text
from sslcut.errors import InputError, MachineError, UsageError

RUN_FILE = "run.json"
CHECKPOINT_STAGES = ("pretrain", "guillotine", "resize", "import")


@dataclass(frozen=True)
class Step:
    """One stage that was done: `output` is relative to the directory, `hash` covers what the result depends on.

    A stage that a sweep's other cell has done is entered with its file there: `../seed=0/pretrain.safetensors`.
    """

    stage: str
    output: str
    identity: str
    hash: str
    inputs: list[str] = field(default_factory=list)
    seconds: float = 0.0
    finished: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class RunDir:
    """A run's directory and its `run.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether a stage has ever written here."""
        return (self.path / RUN_FILE).is_file()

    def document(self) -> dict[str, Any]:
        """`run.json` as it stands; an empty one where nothing has been done. Raises InputError where it is damaged."""
        file = self.path / RUN_FILE
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            return {**document, "stages": [asdict(Step(**step)) for step in document["stages"]]}
        except FileNotFoundError:
            return {"format": 1, "stages": []}
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "restore it, or run into a new directory with --out"
            raise InputError(f"{file} cannot be read ({error})", hint=hint) from error

    def steps(self) -> list[Step]:
        """What was done here, oldest first."""
        return [Step(**step) for step in self.document()["stages"]]

    def output(self, step: Step) -> Path:
        """Where a step's result lies: here, or in the sibling's directory that its relative path names."""
        path = self.path / step.output
        return Path(os.path.normpath(path)) if is_shared(step) else path

    def newest(self, stages: Sequence[str] = CHECKPOINT_STAGES) -> Path:
        """The output of the last step among `stages` whose file is still there; raises InputError where none is."""
        for step in reversed(self.steps()):
            output = self.output(step)
            if step.stage in stages and output.exists():
                return output
        cell = next(iter(sorted(self.path.glob(f"*/{RUN_FILE}"))), None)
        swept = f"it holds the cells of a sweep: name one, such as {cell.parent}" if cell is not None else ""
        hint = swept or "run `sslcut pretrain` first, or name a checkpoint"
        raise InputError(f"no checkpoint in {self.path}", hint=hint)

    def find(self, stage: str, key: str) -> Step | None:
        """The step of `stage` with this hash whose output is still there."""
        found = [s for s in self.steps() if s.stage == stage and s.hash == key and self.output(s).exists()]
        return found[-1] if found else None

    def record(self, step: Step) -> None:
        """Enter a step at the end, in place of an earlier one with the same output. Takes the lock for a moment."""
        with self.lock(wait=30):
            document = self.document()
            kept = [old for old in document["stages"] if old["output"] != step.output]
            self._write({**document, "stages": [*kept, asdict(step)]})

    def keep(self, step: Step) -> None:
        """Enter a step that was kept at the end; a directory that cannot be written stays as it is."""
        with suppress(MachineError):
            self.record(step)

    def remember(self, **facts: Any) -> None:
        """Store facts about the run beside its stages: the precision chosen, the threads."""
        with self.lock(wait=30):
            self._write({**self.document(), **facts})

    def _write(self, document: dict[str, Any]) -> None:
        write_text(self.path / RUN_FILE, json.dumps(document, indent=1) + "\n")

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Be the one writer here; a process that holds the lock may take it again.

        Raises UsageError (exit 2) with the holder's pid and host where another still holds it after `wait` seconds.
        """
        make_folder(self.path)
        file = str((self.path / ".lock").resolve())
        if file in _HELD or not os.access(self.path, os.W_OK):  # where nobody can write, nobody can be in the way
            yield
            return
        descriptor = _acquire(file, wait)
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)
            os.close(descriptor)  # the kernel drops the lock, as it does when a process dies


def is_shared(step: Step) -> bool:
    """Whether a step is entered here and its result lies in a sibling's directory."""
    return step.output.startswith(os.pardir + os.sep)


_HELD: set[str] = set()


def _acquire(file: str, wait: float) -> int:
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise machine_fault(error, file) from error
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= until:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise UsageError(
                    f"{Path(file).parent} is in use by {holder or 'another process'}",
                    hint="wait for it to end, or write elsewhere with --out",
                ) from None
            time.sleep(0.05)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise machine_fault(error, file) from error
    return descriptor


def now() -> str:
    """The time as run.json writes it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_of(path: Path) -> RunDir | None:
    """The run directory that a file lies in, where it lies in one."""
    run = RunDir(path.parent)
    return run if run.exists() else None
