"""A cell's process as the one that started it sees it: what it says, how it ended. No torch."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from tempfile import TemporaryFile

from sslcut.errors import MachineError, SslcutError
from sslcut.events import Event
from sslcut.interrupts import SIGNALS
from sslcut.options import Options
from sslcut.study.sharing import Work
from sslcut.study.wire import unpacked

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from sslcut.study.cell import main; main()"
PATIENCE = 10.0  # seconds that a process has to end when it is told to


class Process:
    """A process of its own group, so that Ctrl-C reaches it through its parent alone, and once.

    It does the cell's stages; where `follows` is None it measures the precision of the cell's training.
    """

    def __init__(self, work: Work, options: Options, threads: int, follows: Collection[str] | None) -> None:
        self.fault: SslcutError | None = None
        self.over = False  # it has ended, and all that it said has been read
        self._said = TemporaryFile()  # noqa: SIM115 -- closed by `close`
        self._rest = b""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            process_group=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self.pipe = self._process.stdout.fileno()
        os.set_blocking(self.pipe, False)
        job = {
            "recipe": work.cell.recipe.dump(),
            "directory": str(work.directory.path),
            "options": asdict(replace(options, out=None, jobs=1)),
            "follows": None if follows is None else list(follows),
        }
        with suppress(BrokenPipeError):  # how it ended is told as of every other
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()  # it stays open: its end is that of this process

    def events(self) -> Iterator[Event]:
        """What it has said since the last call; a fault is kept for the end."""
        ended = self._process.poll() is not None  # asked first: what it said before is then there to be read
        with suppress(BlockingIOError):
            while block := os.read(self.pipe, 1 << 16):
                self._rest += block
        *lines, self._rest = self._rest.split(b"\n")
        for told in map(unpacked, lines):
            if isinstance(told, SslcutError):
                self.fault = told
            else:
                yield told
        self.over = ended

    def outcome(self) -> SslcutError | None:
        """What went wrong, of a process that has ended; None where all went well."""
        code = self._process.wait()
        if self.fault is not None or code == 0:
            return self.fault
        number = -code if code < 0 else code - 128
        if code < 0 or number in SIGNALS:
            name = signal.Signals(number).name
            hint = "out of memory, perhaps: fewer --jobs, or a smaller train.batch_size; the same command goes on"
            return MachineError(f"its process was ended by {name}", hint=hint)
        self._said.seek(0)
        last = self._said.read().decode(errors="replace").strip().splitlines()[-1:]
        return SslcutError(f"its process ended with {code}: {''.join(last)}", hint="this is a bug in sslcut")

    def send(self, number: signal.Signals) -> None:
        """Ask it to save its state and end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def close(self) -> None:
        """End it, by force where it takes too long."""
        if self._process.poll() is None:
            self.send(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
