"""The libraries of the extra `bench` that do what sslcut does: which are here, and what is said of the others."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from sslcut.bench.contest import Absent, Contender
from sslcut.errors import InputError

PEERS = ("lightly", "kornia", "stable-pretraining", "faiss-cpu", "scikit-learn")
INSTALL = "pip install 'sslcut[bench]'"


def installed(library: str) -> str | None:
    """The version of a distribution, read from its metadata without importing it; None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def peer(library: str, build: Callable[[], Contender], name: str = "") -> Contender | Absent:
    """The contender that `build` makes, where `library` is installed and can be imported; else that it is absent."""
    if installed(library) is None:
        return Absent(name or library, f"not installed ({INSTALL})")
    try:
        return build()
    except ImportError as error:
        return Absent(name or library, f"cannot be imported ({error})")


def require_peers() -> None:
    """Raise InputError (exit 3) naming the peers of the extra that are not installed."""
    missing = [library for library in PEERS if installed(library) is None]
    if missing:
        raise InputError(f"peers that are not installed: {', '.join(missing)}", hint=INSTALL)
