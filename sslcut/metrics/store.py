"""Room for the features of all layers within `probe.memory`.

The budget is divided here: out of it come the features that lie in memory and a probe's own float32 copy of the widest
layer, or half of the budget where that copy takes more (a probe reads such a layer in blocks). So they are kept

- as float32 in memory, where both fit;
- in half precision in memory, where both fit then;
- in half precision in a file otherwise, mapped into memory, and the whole budget is the probes'.

1.28 million images at 20 taps of a ResNet-50 (stem, blocks, `pool` and two blocks of a projector, 21,312 numbers an
image) take 109 GB as float32 and 55 GB in half precision, 109 GB with the untrained network's: a file beside the
results. All 4 GB of the budget are then a probe's, for a widest layer of 10.5 GB as float32, which it reads in blocks.
"""

import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from sslcut.atomic import machine_fault
from sslcut.errors import MachineError

LARGEST = torch.finfo(torch.float16).max
ROWS = 4096  # rewritten at a time where a layer turns out to need bfloat16


class Store:
    """Room for matrices of `rows` rows each, whose widths are known; `folder` is where a file would be.

    A file is unlinked as soon as it is opened, so that no ending leaves anything behind, and its blocks are reserved.
    Raises MachineError where the disk has not enough of them.
    """

    def __init__(self, rows: int, widths: Sequence[int], memory: int, folder: Path) -> None:
        numbers = rows * sum(widths)
        copy = min(4 * rows * max(widths, default=0), memory // 2)
        self.rows, self.memory, self.taken = rows, memory, 0
        self.dtype = torch.float32 if 4 * numbers + copy <= memory else torch.float16
        self.bytes = numbers * self.dtype.itemsize
        self.file = None if self.bytes + copy <= memory else _reserved(self.bytes, folder, memory)
        if self.file is None:
            self.raw = torch.empty(self.bytes, dtype=torch.uint8)
        else:
            self.raw = torch.frombuffer(mmap.mmap(self.file.fileno(), self.bytes), dtype=torch.uint8)

    def shelf(self, width: int) -> "Shelf":
        """Room for the next matrix, (rows, width)."""
        at = self.taken
        self.taken += self.rows * width * self.dtype.itemsize
        return Shelf(self.raw[at : self.taken].view(self.dtype).reshape(self.rows, width), self.file, at)

    @property
    def left(self) -> int:
        """How much of the budget is the probes', in bytes."""
        return self.memory if self.file is not None else self.memory - self.bytes

    @property
    def place(self) -> str:
        """Where the features are, in words."""
        precision = "float32" if self.dtype == torch.float32 else "half precision"
        size = f"{self.bytes / 1e9:,.1f} GB" if self.bytes >= 1e9 else f"{self.bytes / 1e6:,.1f} MB"
        return f"{precision} {'in memory' if self.file is None else 'in a temporary file'}, {size}"

    def close(self) -> None:
        """Nothing can be written any more; what is mapped stays until its last reader is gone."""
        if self.file is not None:
            self.file.close()


class Shelf:
    """One matrix, filled from the first row to the last; `numbers` (rows, width) is float32, float16 or bfloat16.

    Where `file` is given they are its bytes from `at` on, mapped; they are written through the file, since a disk that
    is full after all then raises MachineError, where a store into the mapping would end the process.
    """

    def __init__(self, numbers: Tensor, file: IO[bytes] | None = None, at: int = 0) -> None:
        self.numbers, self.file, self.at = numbers, file, at

    def write(self, start: int, vectors: Tensor) -> None:
        """Fill the rows from `start` on with vectors (n, width), float32 on the CPU.

        The first number beyond float16's range makes the whole matrix bfloat16.
        """
        if self.numbers.dtype == torch.float16 and vectors.abs().max() > LARGEST:
            halves, self.numbers = self.numbers, self.numbers.view(torch.bfloat16)
            for row in range(0, start, ROWS):
                self._put(row, halves[row : min(row + ROWS, start)].bfloat16())
        self._put(start, vectors.to(self.numbers.dtype))

    def _put(self, start: int, vectors: Tensor) -> None:
        if self.file is None:
            self.numbers[start : start + len(vectors)] = vectors
            return
        raw = vectors.contiguous().view(torch.uint8).numpy().data.cast("B")
        at = self.at + start * self.numbers.shape[1] * self.numbers.itemsize
        try:
            while raw:
                written = os.pwrite(self.file.fileno(), raw, at)
                raw, at = raw[written:], at + written
        except OSError as error:
            raise machine_fault(error, "the features' temporary file") from error


def _reserved(size: int, folder: Path, memory: int) -> IO[bytes]:
    """A file of `size` bytes without a name."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise MachineError(
            f"the features take {size / 1e9:,.1f} GB in half precision; probe.memory allows {memory / 1e9:,.1f} GB, "
            f"and {folder} has {free / 1e9:,.1f} GB free",
            hint="free some space or write elsewhere with --out, raise probe.memory, name fewer probe.layers or "
            "probe.readouts, or lower probe.train",
        )
    try:
        with ExitStack() as opened:
            file = opened.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)
            opened.pop_all()
    except OSError as error:
        raise machine_fault(error, folder) from error
    return file
