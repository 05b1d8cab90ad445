"""Decoded pictures on disk: a folder for each list of files at each size, filled part by part.

`pixels` holds uint8 (n, 3, S, S), `digests` (n, 32), `origins` 16 bytes for the entry's kind and then for the file of
each row, and `journal` a line of JSON for every part that is done. A line is written once what it speaks of is on the
disk: an entry is true as far as its journal goes, whatever stopped the one who wrote it, and the next one goes on from
there. The journal is unlinked before a row is made anew. One process writes at a time, under a lock that falls with it.
"""

import fcntl
import json
import mmap
import os
import shutil
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from hashlib import blake2b, sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslcut.atomic import cache_folder
from sslcut.data.decode import VERSION, TooLarge, reason
from sslcut.data.memory import available_memory
from sslcut.data.workers import DIGEST, Chunk, Held
from sslcut.errors import MachineError
from sslcut.events import Event, Progress

FLUSH_SECONDS = 5.0  # of decoding are lost at most where a process is killed
WAIT_SECONDS = 0.2  # between two looks at a lock that another process holds
ORIGIN = 16  # bytes that tell a file from all others, and from itself before a change
KEPT_SECONDS = 30 * 24 * 3600.0  # an entry that was not read for so long makes room for new ones

Stamp = tuple[int, int]
Journal = tuple[NDArray[np.bool_], dict[int, str]]


class Mapped(Held):
    """Pictures mapped from a file: resident where they fit into half of the memory, else paged in when read."""

    def __init__(self, pixels: Path, digests: Tensor, count: int, size: int) -> None:
        self._map = _map(pixels)
        super().__init__(_tensor(self._map).view(count, 3, size, size), digests)
        self.resident = len(self._map) <= available_memory() / 2
        if self.resident:
            self._map.madvise(mmap.MADV_WILLNEED)

    def read(self, indices: Tensor) -> Tensor:
        """The images at `indices`; the disk is asked for all of them at once, not for one page after another."""
        if not self.resident:
            each = 3 * self.size * self.size
            for row in indices.tolist():
                start = row * each // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, start, (row + 1) * each - start)
        return super().read(indices)


class Entry:
    """The decoded pictures of `files` (real paths) at `size`; without `pixels`, only their digests and their faults.

    Its name is the sha256 of the files' paths, sizes and times, of the size and of the decoder: what was decoded from
    other files is never read. Methods that write raise OSError where the system refuses.
    """

    def __init__(self, files: Sequence[str], size: int, *, pixels: bool = True) -> None:
        self.files, self.size, self.with_pixels = files, size, pixels
        self.stamps = [_stamp(file) for file in files]
        digest = sha256()
        for part in self._identity():
            digest.update(part)
        self.folder = cache_folder() / "decoded" / digest.hexdigest()[:32]
        self._lock: int | None = None
        self._open: dict[str, BinaryIO] = {}
        self._close = ExitStack()
        self._pending: list[str] = []
        self._flushed = 0.0

    @property
    def lengths(self) -> dict[str, int]:
        """The files of an entry, and how many bytes a row has in each."""
        return {"pixels": 3 * self.size * self.size, "digests": DIGEST} if self.with_pixels else {"digests": DIGEST}

    def read_journal(self) -> Journal:
        """Which rows (n,) are done, and why some of those could not be read."""
        text, count = "", len(self.files)
        with suppress(OSError, UnicodeDecodeError):
            if all(_has(self.folder / name, length * count) for name, length in self.lengths.items()):
                text = (self.folder / "journal").read_text(encoding="utf-8")
        return parsed(text, count)

    def images(self, *, in_memory: bool = False) -> Held:
        """The pictures of an entry that has pixels; marks it as used."""
        with suppress(OSError):
            os.utime(self.folder)
        digests = self.digests()
        if not in_memory:
            return Mapped(self.folder / "pixels", digests, len(self.files), self.size)
        pixels = torch.from_numpy(np.fromfile(self.folder / "pixels", np.uint8))
        return Held(pixels.view(-1, 3, self.size, self.size), digests)

    def digests(self) -> Tensor:
        """The sha256 of each picture's pixels, uint8 (n, 32)."""
        return torch.from_numpy(np.fromfile(self.folder / "digests", np.uint8)).view(-1, DIGEST)

    def begin(self) -> Generator[Event, None, None]:
        """Become the one writer, and make room where nothing is yet; yields progress while another process writes.

        Raises MachineError where the pixels to come would take more than half of the disk's free space.
        """
        while not self._locked():
            done = self.read_journal()[0]
            yield Progress("another process is decoding these images", float(done.sum()), len(done))
            time.sleep(WAIT_SECONDS)
        self._need_space()
        origins = self.folder / "origins"
        if not _has(origins, ORIGIN * (1 + len(self.files))):
            with origins.open("wb") as new:
                new.writelines(blake2b(part, digest_size=ORIGIN).digest() for part in self._identity())
                new.flush()
                os.fsync(new.fileno())
        for name, length in self.lengths.items():
            file, total = self.folder / name, length * len(self.files)
            if not _has(file, total):
                (self.folder / "journal").unlink(missing_ok=True)
                with file.open("wb") as new:
                    new.truncate(total)
            self._open[name] = self._close.enter_context(file.open("r+b"))
        self._open["journal"] = self._close.enter_context((self.folder / "journal").open("ab"))
        self._pending, self._flushed = ["\n"], time.monotonic()  # the last line may have lost its end

    def _need_space(self) -> None:
        missing = int((~self.read_journal()[0]).sum()) * sum(self.lengths.values())
        free = shutil.disk_usage(self.folder).free
        if missing > free / 2:
            with suppress(OSError):
                self.folder.rmdir()  # unless something is in it
            raise MachineError(f"they take {missing / 2**30:.1f} GB, and {free / 2**30:.1f} GB of disk are free")

    def write(self, chunk: Chunk) -> None:
        """Take a chunk in. Of a file that changed, or that the machine refused, the journal says nothing."""
        for name, array in (("pixels", chunk.pixels), ("digests", chunk.digests)):
            if name in self._open:
                for place, start, stop in spans(chunk.rows):
                    self._open[name].seek(start * self.lengths[name])
                    self._open[name].write(array[place : place + stop - start].data)
        certain = [row for row in chunk.rows if not _passing(chunk.faults.get(row)) and self._unchanged(row)]
        faults = {row: reason(chunk.faults[row]) for row in certain if row in chunk.faults}
        line = {"done": [[start, stop] for _, start, stop in spans(certain)], "faults": faults}
        self._pending.append(json.dumps(line) + "\n")
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring to the disk what was written, then the journal's lines that speak of it."""
        for name in (*self.lengths, "journal"):
            if name == "journal":
                self._open[name].write("".join(self._pending).encode())
            self._open[name].flush()
            os.fsync(self._open[name].fileno())
        self._pending, self._flushed = [], time.monotonic()

    def end(self) -> None:
        """Flush as far as the disk allows, and let go of the files and of the lock."""
        with suppress(OSError):
            if self._pending:
                self.flush()
        with suppress(OSError):
            self._close.close()
        if self._lock is not None:
            os.close(self._lock)
        self._open, self._pending, self._lock = {}, [], None

    def remove(self) -> None:
        """Delete the entry; whoever has it mapped keeps it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _identity(self) -> Iterator[bytes]:
        """What its name is the hash of: its kind, which other entries may share, then each file at its time."""
        yield f"{VERSION} {PIL.__version__} {self.size} {self.with_pixels}\n".encode()
        for file, (length, time_ns) in zip(self.files, self.stamps, strict=True):
            yield f"{file}\0{length}\0{time_ns}\n".encode(errors="surrogateescape")

    def _locked(self) -> bool:
        """Whether the lock is this process's now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _take(self.folder)
        return self._lock is not None

    def _unchanged(self, row: int) -> bool:
        return _stamp(self.files[row]) == self.stamps[row]


def parsed(journal: str, count: int) -> Journal:
    """What a journal says of so many rows: which are done (n,), and why some of those could not be read."""
    done, faults = np.zeros(count, np.bool_), dict[int, str]()
    for line in journal.splitlines():
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # the last line may be torn
            part = json.loads(line)
            for start, stop in part["done"]:
                done[start:stop] = True
            faults |= {int(row): why for row, why in part["faults"].items() if int(row) < count}
    return done, faults


def remove_old() -> None:
    """Delete the entries that were not used for 30 days; one that cannot be deleted stays."""
    with suppress(OSError):
        for folder in (cache_folder() / "decoded").iterdir():
            if time.time() - folder.stat().st_mtime > KEPT_SECONDS and (lock := _take(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _take(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None where another process does, or the folder is gone meanwhile."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _stamp(file: str) -> Stamp:
    """A file's size and time of change in nanoseconds; (-1, -1) where it is not there."""
    try:
        found = os.stat(file)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _passing(fault: Exception | None) -> bool:
    """Whether the machine refused, which may be another thing tomorrow, and not the picture."""
    return isinstance(fault, TooLarge) or (isinstance(fault, OSError) and fault.errno is not None)


def spans(rows: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """The runs of consecutive numbers in `rows`: the place of the first, and from where to where."""
    place, begun, start, stop = 0, 0, -1, -1
    for place, row in enumerate(rows):
        if row != stop:
            if stop > start:
                yield begun, start, stop
            begun, start = place, row
        stop = row + 1
    if stop > start:
        yield begun, start, stop


def _has(file: Path, length: int) -> bool:
    """Whether the file is there, in full."""
    return file.exists() and file.stat().st_size == length


def _map(file: Path) -> mmap.mmap:
    with file.open("rb") as open_file:
        return mmap.mmap(open_file.fileno(), 0, access=mmap.ACCESS_READ)


def _tensor(mapped: mmap.mmap) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nobody writes into it
        return torch.from_numpy(np.frombuffer(mapped, np.uint8))
