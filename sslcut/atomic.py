"""Files that are whole or absent: written beside their target, flushed to the disk, then renamed over it.

And the folder for those that can be made again.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sslcut.errors import MachineError, SslcutError

_REMEDIES = {
    errno.ENOSPC: ("the disk is full", "free some space, or write elsewhere with --out"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or write elsewhere with --out"),
    errno.EROFS: ("the file system is read-only", "write elsewhere with --out"),
    errno.EACCES: ("permission denied", "make the folder writable, or write elsewhere with --out"),
    errno.EPERM: ("operation not permitted", "make the folder writable, or write elsewhere with --out"),
    errno.EIO: ("input/output error", "check the disk"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another path with --out"),
    errno.EFBIG: ("the file is too large for this file system", "write elsewhere with --out"),
}

_SHORT_OF_MEMORY = (  # torch's words where memory runs out outside its own allocator of GPU memory
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)  # what the machine refuses to any part


def machine_fault(error: OSError, path: Path | str) -> MachineError:
    """The MachineError (exit 5) that says what the system refused at `path`, and what to do about it."""
    what, hint = _REMEDIES.get(error.errno or 0, (error.strerror or str(error), "check the path and the disk"))
    return MachineError(f"cannot write {path}: {what}", hint=hint)


def as_fault(error: BaseException) -> SslcutError | None:
    """The user's or the machine's fault behind an exception, or None where it is a bug."""
    if isinstance(error, SslcutError):
        return error
    short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if short or isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT_OF_MEMORY):
        return MachineError(
            f"out of memory: {error}".splitlines()[0],
            hint="a smaller train.batch_size, data.size or data.train needs less",
        )
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        return machine_fault(error, error.filename or "a file")
    return None


def make_folder(path: Path) -> Path:
    """Create `path` and its parents; raises MachineError where the system refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise machine_fault(error, path) from error
    return path


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `target` when the block ends well, and vanishes when it does not.

    Raises MachineError where the system refuses to write; whatever was at `target` before is then still there.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise machine_fault(error, target) from error
    finally:
        with suppress(OSError):
            aside.unlink()


def write_text(target: Path, text: str) -> None:
    """Replace `target` with `text` in UTF-8, whole or not at all."""
    with replacing(target) as file:
        file.write(text.encode())


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Replace the folder `target` with one of these files, by name, whole or not at all."""
    aside, before = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "before"))
    try:
        aside.mkdir()
        for name, content in files.items():
            with replacing(aside / name) as file:
                file.write(content)
        if target.exists():
            os.replace(target, before)
        os.replace(aside, target)
        _sync_folder(target.parent)
    except OSError as error:
        if before.exists() and not target.exists():
            os.replace(before, target)
        raise machine_fault(error, target) from error
    finally:
        for folder in (aside, before):
            shutil.rmtree(folder, ignore_errors=True)


def cache_folder() -> Path:
    """Where sslcut keeps what it can make again: `$XDG_CACHE_HOME/sslcut`, else `~/.cache/sslcut`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sslcut"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
