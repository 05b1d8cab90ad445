"""What a stage tells while it works: stages yield events, and only the command line prints them (no torch)."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """Something worth a line on stderr."""

    text: str

    def line(self) -> str:
        """The event as one plain line."""
        return self.text


@dataclass(frozen=True)
class Note(Event):
    """A decision or a fact that the user should see: which input was chosen, what was kept."""


@dataclass(frozen=True)
class Warn(Event):
    """Something that is probably not what the user wants, yet no reason to stop."""

    def line(self) -> str:
        """The event as one plain line."""
        return f"warning: {self.text}"


@dataclass(frozen=True)
class Progress(Event):
    """How far a long piece of work is: a bar on a terminal, a plain line every few seconds elsewhere.

    `done` of `total` units; `text` says what is being done; `facts` are shown beside it (loss, images/s).
    """

    done: float = 0.0
    total: float = 1.0
    facts: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """The event as one plain line."""
        share = f"{100 * self.done / self.total:3.0f} %" if self.total else ""
        return "  ".join([f"{self.text} {share}", *(f"{k} {v}" for k, v in self.facts.items())])


@dataclass(frozen=True)
class Aside(Note):
    """A note on one of several pieces of work side by side: shown where every line is wanted."""


@dataclass(frozen=True)
class Stage(Event):
    """A stage of a run, by its name in `text`, that begins or with `done` is through; not for the eye."""

    done: bool = False


@dataclass(frozen=True)
class Row(Event):
    """What one piece of work is at, of several: a line of a table on a terminal, where `text` stands behind `of`.

    Elsewhere `told` is its plain line; without one it is progress, of which a line is told every few seconds.
    """

    of: str = ""
    state: Literal["waiting", "running", "done", "failed"] = "running"
    told: str = ""

    def line(self) -> str:
        """The event as one plain line."""
        return self.told or f"{self.of}: {self.text}"


@dataclass(frozen=True)
class Plan(Event):
    """One line of what a stage would do, for `--dry-run`."""


@dataclass(frozen=True)
class Result(Event):
    """The last event of a stage: `text` is the path on stdout, `numbers` what `--json` adds to it."""

    numbers: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The result as a JSON object whose first key is `path`."""
        return {"path": self.text, **self.numbers}
