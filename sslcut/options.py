"""What the command line says of a stage that computes, beside its recipe (no torch)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """Where to write, and on what to run: none of it changes what the result depends on.

    `jobs` cells of a sweep run side by side, `threads` is what they have together; `precision` is the arithmetic of
    `train.precision: auto` where one was decided for several trainings, as `run.json` writes it.
    """

    out: Path | None = None
    device: str = "auto"
    threads: int | None = None
    force: bool = False
    dry_run: bool = False
    jobs: int = 1
    precision: dict[str, Any] | None = None
