"""Pictures made by as many threads as torch has, a chunk of rows at a time, with their hashes."""

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sslcut.data.decode import Pixels
from sslcut.data.images import Images
from sslcut.data.memory import check_memory
from sslcut.events import Event, Progress

CHUNK_BYTES = 2**24  # two chunks are in memory at a time
CHUNK_ROWS = 256
TELL_SECONDS = 0.5  # between two Progress events
DIGEST = 32  # bytes of a sha256


@dataclass
class Chunk:
    """Some `rows` (n), their `pixels` (n, 3, S, S) and the sha256 of each, `digests` (n, 32); why rows failed.

    A row that failed is black.
    """

    rows: Sequence[int]
    pixels: Pixels
    digests: Pixels
    faults: dict[int, Exception]

    @classmethod
    def black(cls, rows: Sequence[int], size: int) -> "Chunk":
        """A chunk whose pixels and digests are to come."""
        count = len(rows)
        return cls(rows, np.zeros((count, 3, size, size), np.uint8), np.zeros((count, DIGEST), np.uint8), {})


class Sink(Protocol):
    """What keeps chunks."""

    def write(self, chunk: Chunk) -> None:
        """Keep a chunk's pixels and digests; its arrays are the sink's from then on."""


class Held(Images):
    """Pictures in an array, uint8 (N, 3, S, S) in memory or mapped from a file, with their digests (N, 32)."""

    def __init__(self, pixels: Tensor, digests: Tensor) -> None:
        self.pixels, self.digests, self.size, self.tasks = pixels, digests, int(pixels.shape[-1]), {}

    @classmethod
    def empty(cls, count: int, size: int) -> "Held":
        """Room for pictures that are to come, all black. Raises MachineError where it is more than half of memory."""
        check_memory(count, size)
        return cls(*(torch.zeros(count, *shape, dtype=torch.uint8) for shape in ((3, size, size), (DIGEST,))))

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor) -> Tensor:
        return self.pixels.index_select(0, indices)

    def hashes(self, indices: Tensor) -> Tensor:
        return self.digests[indices]

    def write(self, chunk: Chunk) -> None:
        """Take a chunk in."""
        self.pixels.numpy()[chunk.rows] = chunk.pixels
        self.digests.numpy()[chunk.rows] = chunk.digests


def fill(
    sink: Sink, rows: Sequence[int], size: int, one: Callable[[int], Pixels], *, go_on: bool, text: str = "decoding"
) -> Generator[Event, None, dict[int, Exception]]:
    """Bring what `one(row)` gives for each of `rows` into `sink`; yields progress, returns why rows failed.

    After the first chunk with a failure the rest is left undone unless `go_on`.
    """
    faults: dict[int, Exception] = {}
    started = told = time.monotonic()
    with closing(chunks(rows, size, one)) as work:
        done = 0
        for chunk in work:
            sink.write(chunk)
            faults |= chunk.faults
            if faults and not go_on:
                break
            done, now = done + len(chunk.rows), time.monotonic()
            if now - told >= TELL_SECONDS:
                told = now
                yield Progress(text, done, len(rows), {"images/s": f"{done / (now - started):,.0f}"})
    return faults


def chunks(rows: Sequence[int], size: int, one: Callable[[int], Pixels]) -> Generator[Chunk, None, None]:
    """What `one(row)` gives for each of `rows`, in their order; a chunk is made while the caller works on the last.

    MemoryError goes through; any other exception is that row's fault. Closing leaves the rest undone.
    """
    threads = torch.get_num_threads()
    many = max(threads, rows_at_once(size))
    pool = ThreadPoolExecutor(threads)
    under_way: list[tuple[Chunk, list[Future[None]]]] = []
    try:
        for start in range(0, len(rows), many):
            under_way.append(_begin(pool, rows[start : start + many], size, one))
            if len(under_way) > 1:
                yield _finished(*under_way.pop(0))
        if under_way:
            yield _finished(*under_way.pop())
    finally:
        pool.shutdown(cancel_futures=True)


def rows_at_once(size: int) -> int:
    """How many pictures of this size make a chunk."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES // (3 * size * size)))


def _begin(
    pool: ThreadPoolExecutor, rows: Sequence[int], size: int, one: Callable[[int], Pixels]
) -> tuple[Chunk, list[Future[None]]]:
    chunk = Chunk.black(rows, size)

    def make(place: int) -> None:
        try:
            chunk.pixels[place] = one(rows[place])
        except MemoryError:
            raise
        except Exception as fault:  # a broken file makes a decoder raise nearly anything
            chunk.faults[rows[place]] = fault
        chunk.digests[place] = np.frombuffer(sha256(chunk.pixels[place].data).digest(), np.uint8)

    return chunk, [pool.submit(make, place) for place in range(len(rows))]


def _finished(chunk: Chunk, jobs: Sequence[Future[None]]) -> Chunk:
    for job in jobs:
        job.result()
    return chunk
