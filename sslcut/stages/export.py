"""Export a checkpoint to another library: torchvision, timm or ONNX. What is written is whole or absent."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sslcut import header
from sslcut.atomic import make_folder, replacing, write_folder
from sslcut.errors import UsageError
from sslcut.events import Event, Note, Plan, Result
from sslcut.header import Header
from sslcut.inputs import Given
from sslcut.registry import EXPORTS
from sslcut.rundir import Step, now, run_of

if TYPE_CHECKING:
    from sslcut.foreign.exporting import Content, Export

ELSEWHERE = "--force replaces it, --out writes elsewhere"


@dataclass(frozen=True)
class Options:
    """Which library's form (`to`), and where it is written."""

    to: str
    out: Path | None = None
    force: bool = False
    dry_run: bool = False


def run(given: Given, options: Options) -> Iterator[Event]:
    """Write `given.checkpoint` in the form that `options.to` names, and yield its path; the same is kept.

    Raises UsageError (2) for an unknown form or another file in the way, InputError (3) for a network that the library
    cannot hold, naming the tensor, and where the extra that writes the form is not installed.
    """
    kind = EXPORTS[options.to]  # an unknown name ends here, before torch
    source = header.read_network(given.checkpoint)
    started = time.monotonic()
    export = _prepared(source, options.to)
    yield from (Note(note) for note in export.notes)
    target = options.out or given.folder / (source.path.stem + export.suffix)
    if options.dry_run:
        yield Plan(f"would write {target}" + (", which exists" if target.exists() else ""))
        return
    content = export.make()
    identity = fingerprint(content)
    facts = {"format": options.to, "layer": source.names[-1], "readout": source.document["readout"]}
    key = hashlib.sha256(f"{source.identity} {kind}".encode()).hexdigest()
    make_folder(target.parent)
    run = run_of(target)
    with run.lock(wait=30) if run is not None else nullcontext():
        kept = target.exists() and _is_there(target, content, options.force)
        if kept:
            yield Note(f"{target} is this export already")
        else:
            _write(target, content)
        seconds = round(time.monotonic() - started, 2)
        step = Step("export", target.name, identity, key, [source.identity], seconds, now(), facts)
        if run is not None:
            (run.keep if kept else run.record)(step)
    yield Result(str(target), {**facts, "identity": identity, "bytes": _size(content)})


def _prepared(source: Header, to: str) -> "Export":
    from sslcut import checkpoint  # brings torch, which faults of the command line and of the header do without
    from sslcut.foreign.exporting import Checkpoint

    prepare = EXPORTS.load(to)
    return prepare(Checkpoint(source, checkpoint.load(source.path)))


def fingerprint(content: "Content") -> str:
    """The sha256 of a file's bytes, or of a folder's file names and their bytes."""
    digest = hashlib.sha256()
    for name, data in sorted(_files(content).items()):
        digest.update(name.encode() + b"\n" + data if name else data)
    return digest.hexdigest()


def _is_there(target: Path, content: "Content", force: bool) -> bool:
    """Whether `target` holds this very content; raises UsageError where it is something else, unless forced.

    A folder with files that no export wrote is never replaced.
    """
    files = _files(content)
    folder = "" not in files
    if folder != target.is_dir():
        kind = "a folder" if target.is_dir() else "a file"
        raise UsageError(f"{target} exists and is {kind}", hint="write elsewhere with --out")
    if folder and (foreign := sorted({path.name for path in target.iterdir()} - set(files))):
        raise UsageError(f"{target} exists and holds other files ({foreign[0]})", hint="write elsewhere with --out")
    same = all((path := target / name).is_file() and path.read_bytes() == data for name, data in files.items())
    if not same and not force:
        raise UsageError(f"{target} exists and is something else", hint=ELSEWHERE)
    return same


def _write(target: Path, content: "Content") -> None:
    if isinstance(content, Mapping):
        write_folder(target, content)
        return
    with replacing(target) as file:
        file.write(content)


def _files(content: "Content") -> Mapping[str, bytes]:
    """The files to write, by their names within the target; a single file is the target itself, its name empty."""
    return content if isinstance(content, Mapping) else {"": content}


def _size(content: "Content") -> int:
    return sum(map(len, _files(content).values()))
