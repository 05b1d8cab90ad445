"""On what and how long the benchmark runs, and what it says of the machine (no torch until a part asks for it)."""

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sslcut.bench.peers import PEERS, installed
from sslcut.provenance import processor, versions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Setting:
    """What the command line says: the device and threads, about how many `seconds` a contest's turns may take.

    `scale` is the share of each problem's full size; the goals are judged at 1 alone.
    """

    device: str = "auto"
    threads: int | None = None
    seconds: float = 20.0
    scale: float = 1.0

    def scaled(self, count: int, least: int = 1) -> int:
        """`count` at full size, and its share of it otherwise."""
        return max(least, round(count * self.scale))

    @property
    def cores(self) -> int:
        """Threads that a process of its own is given: those asked for, else one a core."""
        return self.threads or len(os.sched_getaffinity(0))

    def open_device(self) -> "torch.device":
        """Import torch, let it use the threads, and return the device. Raises UsageError where there is none."""
        from sslcut.training.world import choose_device, use_threads

        use_threads(self.threads)
        return choose_device(self.device)

    def machine(self) -> dict[str, Any]:
        """Processor, cores, threads, device and versions, as the results state them."""
        torch = sys.modules.get("torch")
        threads = torch.get_num_threads() if torch is not None else self.cores
        peers = {library: found for library in PEERS if (found := installed(library)) is not None}
        return {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": threads,
            "device": _device(self.device),
            "versions": {**versions(), **peers},
        }


def _device(asked: str) -> str:
    torch = sys.modules.get("torch")
    if asked == "cpu" or torch is None or not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_name(None if asked in ("auto", "cuda") else asked))
