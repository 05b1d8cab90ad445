"""How a command speaks: the result on stdout, all else on stderr, and an exit code for every ending.

A part of the command line's room: it and `cli` are the only ones that print.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslcut.atomic import as_fault
from sslcut.errors import MachineError, SslcutError
from sslcut.events import Aside, Event, Progress, Result, Row, Warn
from sslcut.interrupts import Terminated, raise_for

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from sslcut.rows import Table

PLAIN_SECONDS = 5.0  # between two lines of progress where stderr is no terminal


@dataclass(frozen=True)
class Screen:
    """What the user wants to see; `show` prints a stage's events accordingly."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False

    @staticmethod
    def options(
        as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every line of progress on stderr.")] = False,
        debug: Annotated[bool, typer.Option("--debug", help="A traceback where something fails.")] = False,
    ) -> "Screen":
        """The screen that a command's options describe."""
        return Screen(as_json, quiet, verbose, debug)

    def show(self, events: Iterator[Event]) -> None:
        """Print events as they come; a Result goes to stdout, alone."""
        with _Progress(bar=not self.quiet and sys.stderr is not None and sys.stderr.isatty()) as progress:
            for event in events:
                if isinstance(event, Result):
                    progress.clear()
                    _out(json.dumps(event.document(), allow_nan=False) if self.as_json else event.text)
                elif isinstance(event, Progress | Row):
                    if not self.quiet:
                        progress.step(event, always=self.verbose)
                elif isinstance(event, Aside) and not self.verbose:
                    continue
                elif not self.quiet or isinstance(event, Warn):
                    progress.line(event.line())


class _Progress:
    """A bar or a table on a terminal; a plain line every few seconds elsewhere."""

    def __init__(self, bar: bool) -> None:
        self._wanted = bar
        self._bar: Bar | None = None
        self._table: Table | None = None
        self._task: Any = None
        self._text = ""
        self._last = 0.0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def step(self, event: Progress | Row, always: bool) -> None:
        if self._wanted and isinstance(event, Row):
            self._tabulate(event)
        elif self._wanted and isinstance(event, Progress):
            if self._table is not None:
                self.clear()  # one thing at a time redraws itself
            self._draw(event)
        elif isinstance(event, Row) and (event.told or event.state != "running"):
            if event.told:
                _err(event.told)
        elif always or time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            _err(event.line())

    def line(self, text: str) -> None:
        live = self._bar or self._table
        if live is not None:
            live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            _err(text)

    def clear(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._table is not None:
            self._table.stop()
            self._table = None

    def _tabulate(self, event: Row) -> None:
        if self._table is None:
            from sslcut.rows import Table

            self._table = Table()
        self._table.update(event)

    def _draw(self, event: Progress) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[facts]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(event.text, total=event.total, facts="")
        facts = "  ".join(f"{key} {value}" for key, value in event.facts.items())
        self._bar.update(self._task, description=event.text, completed=event.done, total=event.total, facts=facts)


def ending(work: Callable[[], None], *, debug: bool) -> int:
    """Do the work and return the process's exit code, having said on stderr what went wrong."""
    previous = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, lambda number, _frame: raise_for(number))
        work()
        return 0
    except BrokenPipeError:
        _abandon_stdout()
        return 0
    except KeyboardInterrupt as stop:
        _err(f"interrupted{_told(stop)}")
        return 130
    except Terminated as stop:
        _err(f"terminated{_told(stop)}")
        return stop.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        return fail(as_fault(error), error)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _told(stop: BaseException) -> str:
    return f": {stop}" if str(stop) else ""


def fail(fault: SslcutError | None, error: BaseException) -> int:
    """Say what went wrong and how to mend it; returns the exit code."""
    if fault is None:
        _err(f"internal error: {type(error).__name__}: {error}")
        _err("  hint: this is a bug in sslcut; --debug shows where")
        return 1
    for each in fault.faults:
        _err(f"error: {each}")
        if each.hint:
            _err(f"  hint: {each.hint}")
    return fault.exit_code


def _out(text: str) -> None:
    if sys.stdout is None:  # a caller may have closed it
        return
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _abandon_stdout()
        raise MachineError(f"cannot write to stdout: {error.strerror}", hint=f"the result is {text[:200]}") from error


def _err(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _abandon_stdout() -> None:
    """Point stdout at nothing, so that Python's own flush at exit does not complain of the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
