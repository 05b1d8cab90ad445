"""Where the decoded pictures of a folder or a table live: in a cache on disk, in memory, or nowhere.

The cache is mapped, so that the next run, and others beside it, read what one has decoded; of a list that has changed
since, only what is new is decoded. Where there is no room for the cache they are decoded into memory; where that is too
small as well, anew at each reading, by as many threads as torch has.
"""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslcut.data.cache import Entry, remove_old
from sslcut.data.decode import Pixels, decode, reason
from sslcut.data.earlier import take
from sslcut.data.images import Images
from sslcut.data.workers import DIGEST, Chunk, Held, Sink, chunks, fill
from sslcut.errors import InputError, MachineError
from sslcut.events import Event, Note, Warn

BLINK = 1.0  # seconds: pictures that are decoded sooner are not worth a cache
REMEDY = "set XDG_CACHE_HOME to a folder with room, or data.cache: false"


class Files(NamedTuple):
    """Picture files that can be read: `images` without tasks, the row of each in `images`, and which files they are.

    `rows` and `kept` are (n,), of n files that can be read; several of them may share a row. `warnings` name the rest.
    """

    images: Images
    rows: Tensor
    kept: Tensor
    warnings: list[str]


class AtEachReading(Images):
    """Pictures that are decoded whenever they are read; their digests (n, 32) are known."""

    resident = False

    def __init__(self, files: Sequence[Path], size: int, digests: Tensor) -> None:
        self.files, self.size, self.digests, self.tasks = files, size, digests, {}

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Tensor) -> Tensor:
        """The images at `indices`. Raises InputError where a file can no longer be read."""
        parts = [torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)]
        for chunk in chunks(indices.tolist(), self.size, _decoder(self.files, self.size)):
            refuse(self.files, {row: reason(fault) for row, fault in chunk.faults.items()})
            parts.append(torch.from_numpy(chunk.pixels))
        return torch.cat(parts)

    def hashes(self, indices: Tensor) -> Tensor:
        return self.digests[indices]

    def write(self, chunk: Chunk) -> None:
        """Keep a chunk's digests alone."""
        self.digests[torch.tensor(chunk.rows)] = torch.from_numpy(chunk.digests)


def open_files(paths: Sequence[Path], size: int, *, skip_bad: bool, cache: bool) -> Generator[Event, None, Files]:
    """Make the pictures at `paths` readable at `size`; yields progress, and says where they live if that is unusual.

    A file that several links lead to is decoded once. One that cannot be read raises InputError naming it, unless
    `skip_bad`. `cache` keeps the pixels for the next run where decoding took longer than a second, or did so for a list
    that shares files with this one.
    """
    files, row_of = _different(paths)
    images, faults = yield from _resident(files, size, skip_bad, cache)
    kept = torch.tensor([place for place, row in enumerate(row_of) if row not in faults], dtype=torch.int64)
    rows = torch.tensor(row_of, dtype=torch.int64)[kept]
    told = []
    if bad := [place for place, row in enumerate(row_of) if row in faults]:
        told = [f"{len(bad):,} unreadable images are left out (e.g. {paths[bad[0]]}: {faults[row_of[bad[0]]]})"]
    return Files(images, rows, kept, told)


def refuse(files: Sequence[Path | str], faults: Mapping[int, str]) -> None:
    """Raise InputError naming the first of the `files` that could not be read, if any."""
    if faults:
        what = f"cannot read {files[min(faults)]}: {faults[min(faults)]}"
        raise InputError(what, hint="data.skip_bad: true leaves such images out")


class _Listed(NamedTuple):
    """Different files: as they were listed, for messages, and by their real paths."""

    paths: list[Path]
    real: list[str]


def _different(paths: Sequence[Path]) -> tuple[_Listed, list[int]]:
    """The different files that `paths` lead to, and which of those each is."""
    real_folders: dict[str, str] = {}
    number: dict[str, int] = {}
    listed, row_of = _Listed([], []), []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in real_folders:  # most files are in few folders, and links are rare
            real_folders[folder] = os.path.realpath(folder)
        real = os.path.join(real_folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        row_of.append(number.setdefault(real, len(number)))
        if len(number) > len(listed.real):
            listed.paths.append(path)
            listed.real.append(real)
    return listed, row_of


Resident = Generator[Event, None, tuple[Images, dict[int, str]]]
"""Yields progress; returns the images, one a file, and why files could not be read."""


def _resident(files: _Listed, size: int, skip_bad: bool, cache: bool) -> Resident:
    """The files in the first place that has room for them."""
    started, trouble = time.monotonic(), ""
    if cache:
        try:
            return (yield from _in_cache(files, size, skip_bad))
        except (OSError, MachineError) as fault:
            trouble = f"the decoded images are not kept for the next run ({_line(fault)}); {REMEDY}"
    try:
        found = yield from _in_memory(files, size, skip_bad)
    except MachineError as fault:
        yield Warn(f"{_line(fault)}: they are decoded anew at each reading")
        found = yield from _nowhere(files, size, skip_bad, cache)
    if trouble and time.monotonic() - started > BLINK:
        yield Warn(trouble)
    return found


def _in_cache(files: _Listed, size: int, skip_bad: bool, *, pixels: bool = True) -> Resident:
    """Mapped from the cache, once what it lacks is there; in memory where all of it took but a blink.

    What shares rows with an earlier entry is kept in any case, as that one was worth it. Without `pixels` the cache
    holds what is known of the files, and they are decoded at each reading.
    """
    entry, started, fresh, taken = Entry(files.real, size, pixels=pixels), time.monotonic(), False, 0
    try:
        done, faults = entry.read_journal()
        if not done.all():
            yield from entry.begin()
            done, faults = entry.read_journal()
            fresh = not done.any()
            refuse(files.paths, {} if skip_bad else faults)
            taken, found = yield from _written(entry, files, skip_bad)
            faults |= found
        refuse(files.paths, {} if skip_bad else faults)
        if not pixels:
            return AtEachReading(files.paths, size, entry.digests()), faults
        passing = fresh and not taken and time.monotonic() - started <= BLINK
        if fresh and not passing:
            remove_old()
            part = f"; {taken:,} of {len(done):,} are taken from earlier entries" if taken else ""
            yield Note(f"the decoded images are kept in {entry.folder}{part}")
        return entry.images(in_memory=passing), faults
    finally:
        if fresh and not taken and time.monotonic() - started <= BLINK:
            entry.remove()
        entry.end()


def _written(entry: Entry, files: _Listed, skip_bad: bool) -> Generator[Event, None, tuple[int, dict[int, str]]]:
    """Bring into the entry what it lacks; it goes where the disk does not take it whole.

    Returns how many rows earlier entries had, and why some of those that were decoded could not be read.
    """
    try:
        taken = yield from take(entry)
        rows = np.flatnonzero(~entry.read_journal()[0]).tolist()
        faults = yield from _decoded(files, entry.size, entry, rows, skip_bad)
        entry.flush()
    except OSError:
        entry.remove()
        raise
    return taken, faults


def _in_memory(files: _Listed, size: int, skip_bad: bool) -> Resident:
    held = Held.empty(len(files.real), size)
    return held, (yield from _decoded(files, size, held, range(len(files.real)), skip_bad))


def _nowhere(files: _Listed, size: int, skip_bad: bool, cache: bool) -> Resident:
    """Decoded at each reading; once now, to know which files can be read and which are the same picture."""
    if cache:
        with suppress(OSError, MachineError):
            return (yield from _in_cache(files, size, skip_bad, pixels=False))
    count = len(files.real)
    images = AtEachReading(files.paths, size, torch.zeros(count, DIGEST, dtype=torch.uint8))
    return images, (yield from _decoded(files, size, images, range(count), skip_bad))


def _decoded(
    files: _Listed, size: int, sink: Sink, rows: Sequence[int], skip_bad: bool
) -> Generator[Event, None, dict[int, str]]:
    """Decode `rows` of the files into `sink`; why some could not be read. Raises InputError there unless `skip_bad`."""
    faults = yield from fill(sink, rows, size, _decoder(files.paths, size), go_on=skip_bad)
    found = {row: reason(fault) for row, fault in faults.items()}
    refuse(files.paths, {} if skip_bad else found)
    return found


def _decoder(paths: Sequence[Path], size: int) -> Callable[[int], Pixels]:
    return lambda row: decode(paths[row], size)


def _line(fault: Exception) -> str:
    """What the machine refused, in a line."""
    if isinstance(fault, OSError) and fault.strerror:
        return f"{fault.filename}: {fault.strerror}" if fault.filename else fault.strerror
    return str(fault)
