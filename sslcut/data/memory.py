"""How much memory there is, and whether a split of decoded images fits into half of it."""

import os
from contextlib import suppress
from pathlib import Path

from sslcut.errors import MachineError

SMALLER = "set data.size or data.train to less"  # the way out where memory is short


def check_memory(count: int, size: int) -> None:
    """Raise MachineError where `count` images of (3, size, size) bytes take more than half of what is available."""
    needed, there = 3 * count * size * size, available_memory()
    if needed > there / 2:
        images = f"{count:,} images of {size} px take {needed / 2**30:.1f} GB"
        raise MachineError(f"{images}, and {there / 2**30:.1f} GB of memory are free", hint=SMALLER)


def available_memory() -> int:
    """Bytes that can be had without swapping: what the kernel or the control group leaves, whichever is less."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError):  # absent outside a control group; the text `max` where it sets no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return free
