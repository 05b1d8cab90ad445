"""Ctrl-C and SIGTERM wait for a moment at which nothing is half done (no torch)."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(BaseException):
    """The process was asked to end by SIGTERM; like KeyboardInterrupt, no `except Exception` catches it."""

    exit_code = 128 + signal.SIGTERM


class Interrupts:
    """What has been asked for while signals are deferred."""

    def __init__(self) -> None:
        self.pending: signal.Signals | None = None

    def check(self, told: str = "") -> None:
        """Raise what the pending signal means; nothing where none came. Call it once the work is safe.

        `told` is what the exception says: what was saved, and how to go on.
        """
        if self.pending is not None:
            raise_for(self.pending, told)


def raise_for(received: int, told: str = "") -> None:
    """Raise KeyboardInterrupt for SIGINT and Terminated for SIGTERM."""
    raise (KeyboardInterrupt if received == signal.SIGINT else Terminated)(told)


@contextmanager
def deferred() -> Iterator[Interrupts]:
    """Within the block SIGINT and SIGTERM only set `pending`; a second one acts at once.

    The handlers of before are back when the block ends, and a signal that nothing has acted on is let through then,
    unless the block ends by an exception of its own. Python delivers signals to the main thread alone: elsewhere
    the block changes nothing and `pending` stays None.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def receive(received: int, _frame: FrameType | None) -> None:
        if interrupts.pending is not None:
            raise_for(received)
        interrupts.pending = signal.Signals(received)

    before: dict[signal.Signals, Any] = {s: signal.signal(s, receive) for s in SIGNALS}
    try:
        yield interrupts
    finally:
        for which, handler in before.items():
            signal.signal(which, handler if handler is not None else signal.SIG_DFL)
    interrupts.check()
