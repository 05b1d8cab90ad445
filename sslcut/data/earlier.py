"""What other entries of the cache have of an entry's files: those that did not change are copied, not decoded anew.

A row of one is a row of the other where their `origins` are the same. No lock is taken. An entry lets go of its journal
before any of its rows is made anew, so what was read while the journal stood is what the journal says.
"""

import os
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, suppress
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sslcut.data.cache import ORIGIN, Entry, parsed, spans
from sslcut.data.decode import Pixels
from sslcut.data.workers import TELL_SECONDS, Chunk, rows_at_once
from sslcut.events import Event, Progress

Rows = NDArray[np.intp]
Origins = NDArray[np.uint64]
"""(n, 2): the sixteen bytes of each row as two numbers."""


def take(entry: Entry) -> Generator[Event, None, int]:
    """Copy what other entries have of the rows that `entry`, which is begun, lacks; yields progress, returns how many.

    Those that were used last come first. One that vanishes or cannot be read gives what was read until then. Raises
    OSError where the disk does not take what is written.
    """
    lacking = ~entry.read_journal()[0]
    count, told = int(lacking.sum()), time.monotonic()
    for folder in _others(entry):
        if not lacking.any():
            break
        with closing(_copies(folder, entry, np.flatnonzero(lacking))) as copies:
            for chunk in copies:
                entry.write(chunk)
                lacking[chunk.rows] = False
                if time.monotonic() - told >= TELL_SECONDS:
                    told = time.monotonic()
                    yield Progress("copying what was decoded before", count - float(lacking.sum()), count)
    taken = count - int(lacking.sum())
    if taken:
        entry.flush()
    return taken


def same(ours: Origins, theirs: Origins) -> tuple[Rows, Rows]:
    """Where equal rows of two lists without repetitions are in each, in the order of `ours`.

    They are found by their first number, of which two rows of a million share one in ten million cases; then one of
    the two is not found.
    """
    _, here, there = np.intersect1d(ours[:, 0], theirs[:, 0], return_indices=True)
    equal = ours[here, 1] == theirs[there, 1]
    here, there = here[equal], there[equal]
    order = np.argsort(here)
    return here[order], there[order]


def _others(entry: Entry) -> list[Path]:
    """The folders of the other entries of the same decoder, size and kind, the last used first."""
    kind, found = _kind(entry.folder), list[tuple[int, Path]]()
    with suppress(OSError):
        for folder in entry.folder.parent.iterdir():
            with suppress(OSError):  # it has no origins, or is gone meanwhile
                if folder != entry.folder and _kind(folder) == kind:
                    found.append((folder.stat().st_mtime_ns, folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def _kind(folder: Path) -> bytes:
    with (folder / "origins").open("rb") as file:
        return file.read(ORIGIN)


def _origins(folder: Path) -> Origins:
    return np.fromfile(folder / "origins", np.uint64).reshape(-1, 2)[1:]


def _copies(folder: Path, entry: Entry, lacking: Rows) -> Generator[Chunk, None, None]:
    """What the entry at `folder` has of the `lacking` rows, as long as it is there."""
    with suppress(OSError, ValueError), ExitStack() as close:
        # the journal first: whoever put another file into the place of one that is opened after it has unlinked it
        opened = {
            name: close.enter_context((folder / name).open("rb", buffering=0)) for name in ("journal", *entry.lengths)
        }
        theirs = _origins(folder)
        if any(os.fstat(opened[name].fileno()).st_size != each * len(theirs) for name, each in entry.lengths.items()):
            return
        rows, places = _held(lacking, _origins(entry.folder), theirs, opened["journal"].read().decode())
        many = rows_at_once(entry.size)
        for start in range(0, len(rows), many):
            chunk = Chunk.black(rows[start : start + many].tolist(), entry.size)
            for name, array in (("pixels", chunk.pixels), ("digests", chunk.digests)):
                if name in opened and not _read(opened[name], array, places[start : start + many].tolist()):
                    return
            if not os.fstat(opened["journal"].fileno()).st_nlink:
                return
            yield chunk


def _held(lacking: Rows, ours: Origins, theirs: Origins, journal: str) -> tuple[Rows, Rows]:
    """Which of the rows that ours is `lacking` are done in theirs and no fault, and where they are there."""
    done, faults = parsed(journal, len(theirs))
    done[list(faults)] = False
    here, there = same(ours[lacking], theirs)
    return lacking[here[done[there]]], there[done[there]]


def _read(file: FileIO, array: Pixels, rows: Sequence[int]) -> bool:
    """Fill `array` (n, …) with these rows of the file; whether it was long enough."""
    each = array[:1].nbytes
    for place, start, stop in spans(rows):
        file.seek(start * each)
        if file.readinto(array[place : place + stop - start].data) < (stop - start) * each:
            return False
    return True
