"""What the command line says of a stage that computes, beside its recipe (no torch)."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Where to write, and on what to run: none of it changes what the result depends on."""

    out: Path | None = None
    device: str = "auto"
    threads: int | None = None
    force: bool = False
    dry_run: bool = False
