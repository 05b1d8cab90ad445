"""Events and faults as lines of JSON, between a cell's process and the one that started it. No torch."""

import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from sslcut.errors import Fault, SslcutError, family
from sslcut.events import Event, Note, Progress, Result, Stage, Warn

KINDS = {kind.__name__: kind for kind in (Event, Note, Progress, Result, Stage, Warn)}
FAULT = "fault"


def packed(event: Event) -> str:
    """An event as one line, as the nearest of the kinds that every process knows."""
    kind = next(each for each in type(event).__mro__ if each.__name__ in KINDS)
    told = {field.name: getattr(event, field.name) for field in fields(kind)}
    return json.dumps({"kind": kind.__name__, **told})


def packed_fault(fault: SslcutError | None, error: BaseException) -> str:
    """What ended a process, as one line; an error that is no `fault` is a bug."""
    if fault is None:
        hint = "this is a bug in sslcut; --debug shows where"
        fault = SslcutError(f"internal error: {type(error).__name__}: {error}", hint=hint)
    trace = "".join(traceback.format_exception(error))
    faults = [asdict(each) for each in fault.faults]
    return json.dumps({"kind": FAULT, "code": fault.exit_code, "faults": faults, "trace": trace})


def unpacked(line: bytes) -> Event | SslcutError:
    """The event or the fault that a line tells."""
    told: dict[str, Any] = json.loads(line)
    kind = told.pop("kind")
    return _fault(told) if kind == FAULT else KINDS[kind](**told)


def _fault(told: Mapping[str, Any]) -> SslcutError:
    faults = tuple(Fault(**each) for each in told["faults"])
    error = family(told["code"])(faults[0].what, hint=faults[0].hint, place=faults[0].place)
    error.faults = faults
    error.add_note(told["trace"])  # for --debug
    return error
