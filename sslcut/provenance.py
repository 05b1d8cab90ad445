"""What made a result: the versions of sslcut and of the libraries that compute, and the processor (no torch)."""

import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sslcut import __version__

LIBRARIES = ("torch", "torchvision", "numpy")


def versions() -> dict[str, str]:
    """Versions by name, read from the packages' metadata without importing them."""
    found = {"sslcut": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


@cache
def processor() -> str:
    """The processor's name as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
