"""What a sweep tells of its cells: rows of a table, and how each one ended. No torch."""

from collections.abc import Iterator
from typing import Any, Literal

from sslcut.errors import SslcutError, family
from sslcut.events import Event, Result, Row, Stage, Warn
from sslcut.study.sharing import Work

DOING = {"pretrain": "training", "resize": "resizing", "probe": "probing", "guillotine": "cutting"}


def row(
    work: Work, text: str, state: Literal["waiting", "running", "done", "failed"] = "running", told: str = ""
) -> Row:
    """What a cell is at."""
    return Row(text, work.name, state, told)


def begins(work: Work, stage: Stage) -> Row:
    """The row of a cell that begins a stage."""
    return row(work, DOING.get(stage.text, stage.text))


def ended(work: Work, result: Result) -> Row:
    """The row of a cell that is done, with the layer that it came to."""
    layer = layer_of(result.numbers)
    work.end = f"done, read at {layer}" if layer else "done"
    return row(work, work.end, "done", f"{work.name}: {work.end}")


def layer_of(numbers: dict[str, Any]) -> str | None:
    """The layer that a cut's or a probe's result names."""
    return numbers.get("layer") or (numbers.get("recommended") or {}).get("layer")


def failed(work: Work, error: Exception) -> Iterator[Event]:
    """Enter a cell's failure, and tell it."""
    work.end, work.error = "failed", error
    what = str(error) if isinstance(error, SslcutError) else f"internal error: {type(error).__name__}: {error}"
    yield row(work, f"failed: {what}", "failed")
    yield Warn(f"cell {work.name} failed: {what}")


def followed(work: Work, leader: Work) -> Iterator[Event]:
    """The failure of a cell whose training another should have done."""
    what = f"it shares the training of {leader.name}, which failed"
    kind = family(leader.error.exit_code if isinstance(leader.error, SslcutError) else 1)
    yield from failed(work, kind(what, hint="its fault is told above"))
