"""What a call adds to the memory in use at its peak, as the kernel and torch count it (no torch of its own)."""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # proc(5): the peak of the resident set becomes what it is now


class Watch:
    """Around a call: `added` is the peak above where it began, in bytes, of the process and of a CUDA device in use.

    None where the system does not tell (it is Linux that does).
    """

    def __init__(self) -> None:
        self.added: int | None = None
        self._before: int | None = None

    def __enter__(self) -> "Watch":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would else serve this one unseen
            _CLEAR.write_text(_FORGET_PEAK)
            self._before = _resident("VmRSS")
            if (cuda := _cuda()) is not None:
                cuda.reset_peak_memory_stats()
                self._before += cuda.memory_allocated()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            cuda = _cuda()
            peak = _resident("VmHWM") + (0 if cuda is None else cuda.max_memory_allocated())
            self.added = max(0, peak - self._before)


def _resident(key: str) -> int:
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


def _cuda() -> Any:
    """torch.cuda where torch is loaded and has begun to use a device, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
