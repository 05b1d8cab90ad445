"""Every fault that a user can cause, one class per exit code.

SslcutError
├── UsageError (2)        the command line: unknown layer, device, recipe; nothing to cut; output exists
│   └── RecipeError (2)   a recipe's text: all its faults at once, each with file:line
├── InputError (3)        an input cannot be read or does not fit
│   └── AbsentError (3)   it is not here; a dry run only warns of it
├── DivergedError (4)     training reached a state that is not finite
├── MachineError (5)      disk full, read-only folder, out of memory
└── ThresholdError (6)    a threshold that the user set was not met

Anything else that reaches the command line is a bug (exit 1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where (`file:line`, may be empty), what, and what to do about it."""

    place: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.what}"


class SslcutError(Exception):
    """A fault with a clear message, a place and a hint; `exit_code` is what the process ends with."""

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "", place: str = "") -> None:
        self.faults: tuple[Fault, ...] = (Fault(place, what, hint),)
        super().__init__(str(self.faults[0]))


class UsageError(SslcutError):
    """The command line, or a name in it, is wrong."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is wrong; carries every fault found, not just the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults[0].what, hint=faults[0].hint, place=faults[0].place)
        self.faults = tuple(faults)


class InputError(SslcutError):
    """An input cannot be read or does not fit: a missing or broken checkpoint, no images, a class with too few."""

    exit_code = 3


class AbsentError(InputError):
    """An input is not here: data that was not fetched or a folder that is elsewhere; `--dry-run` only warns of it."""


class DivergedError(SslcutError):
    """Training reached a loss or a weight that is not finite."""

    exit_code = 4


class MachineError(SslcutError):
    """The machine got in the way: the disk is full, a folder is read-only, memory ran out."""

    exit_code = 5


class ThresholdError(SslcutError):
    """A threshold that the user set was not met."""

    exit_code = 6


def family(exit_code: int) -> type[SslcutError]:
    """The kind of fault that ends a process with this exit code."""
    kinds = (UsageError, InputError, DivergedError, MachineError, ThresholdError)
    return next((kind for kind in kinds if kind.exit_code == exit_code), SslcutError)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name closest to `name`, or an empty string where none is close."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else ""


def suggestion(name: str, known: Iterable[str], what: str = "known") -> str:
    """A hint for a name that is not known: the nearest one, then all of them."""
    names = list(known)
    close = nearest(name, names)
    listed = f"{what}: {', '.join(names)}" if names else ""
    return f"did you mean `{close}`? {listed}".strip() if close else listed
