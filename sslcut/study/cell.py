"""A cell's own process: it does what the first line of stdin says, and tells on stdout what happens.

It ends as if by SIGTERM, with its state saved, when the process that started it is no more.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from sslcut.atomic import as_fault
from sslcut.events import Event, Result
from sslcut.interrupts import Terminated, raise_for
from sslcut.options import Options
from sslcut.recipe import load_stored
from sslcut.rundir import RunDir
from sslcut.study.one import one
from sslcut.study.outcome import layer_of
from sslcut.study.wire import packed, packed_fault
from sslcut.training import prepared


def main() -> None:
    """Do the job; ends the process with the exit code that `sslcut run` would have on this cell alone."""
    signal.signal(signal.SIGTERM, lambda number, _frame: raise_for(number))
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no event
    sys.exit(_code(job, told))


def _code(job: dict[str, Any], told: TextIO) -> int:
    try:
        for event in _events(job):
            _tell(told, packed(event))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Terminated as stop:
        return stop.exit_code
    except Exception as error:
        fault = as_fault(error)
        _tell(told, packed_fault(fault, error))
        return fault.exit_code if fault is not None else 1
    return 0


def _events(job: dict[str, Any]) -> Iterator[Event]:
    recipe, options = load_stored(job["recipe"]), Options(**job["options"])
    if job["follows"] is None:
        precision = yield from prepared.arithmetic(recipe, options)
        yield Result("", asdict(precision))
        return
    for event in one(recipe, options, RunDir(Path(job["directory"])), job["follows"]):
        yield Result(event.text, {"layer": layer_of(event.numbers)}) if isinstance(event, Result) else event


def _tell(told: TextIO, line: str) -> None:
    with suppress(BrokenPipeError):  # nobody listens any more: SIGTERM is on its way
        told.write(f"{line}\n")
        told.flush()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
