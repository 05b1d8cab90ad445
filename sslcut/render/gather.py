"""Find the results files that a report is about, and read them strictly (no torch).

A results file is itself; a directory all results below it; a checkpoint those beside it that carry its identity, or
that of one in its history.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sslcut.errors import InputError
from sslcut.render.results import Document, told_alike
from sslcut.rundir import RUN_FILE, RunDir, is_shared

PATTERN = "probe-*.json"
Kin = Callable[[Path], set[str]]  # a checkpoint's path → its identity and those in its history


@dataclass(frozen=True)
class Found:
    """One results file: its path, what it says, and what training left beside it."""

    path: Path
    document: Document
    epochs: list[dict[str, Any]] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)


def find(paths: Sequence[Path], kin: Kin) -> list[Found]:
    """Every results file that `paths` mean, in order, each once: one for a checkpoint, a data set and a way to probe.

    Raises InputError (exit 3) where a path is missing, a file is broken or foreign, or nothing was found.
    """
    found: dict[tuple[str, str, str], Found] = {}
    for file, document in (pair for path in paths for pair in _meant(path, kin)):
        key = (document.checkpoint.identity, json.dumps(document.data, sort_keys=True), document.how)
        if key not in found:
            epochs = _epochs(trained_in(file.parent) / "metrics.jsonl")
            found[key] = Found(file, document, epochs, _run(file.parent / "run.json"))
    if not found:
        named = ", ".join(map(str, paths)) or "nothing"
        raise InputError(f"no results in {named}", hint="`sslcut probe CHECKPOINT` makes them")
    alike = told_alike([one.document for one in found.values()])
    return [replace(one, document=document) for one, document in zip(found.values(), alike, strict=True)]


def holds_results(folder: Path) -> bool:
    """Whether a run has results, in its own folder or in that of a sibling with which it shares them."""
    return any(folder.glob(PATTERN)) or any(file.is_file() for file in _shared(folder))


def trained_in(folder: Path) -> Path:
    """The folder in which a run's network was trained: its own, or that of the sibling with which it shares it."""
    with suppress(InputError):
        run = RunDir(folder)
        trained = [run.output(step) for step in run.steps() if step.stage == "pretrain"]
        return trained[-1].parent if trained else folder
    return folder


def read(path: Path) -> Document:
    """A results file's document. Raises InputError naming the file and what is wrong in it."""
    document = _json(path)
    if not _is_results(document):
        raise InputError(f"{path} is not a results file of sslcut's", hint="give a probe-….json")
    if document["format"] != 1:
        raise InputError(f"{path} has format {document['format']!r}, this sslcut reads 1", hint="upgrade sslcut")
    try:
        return Document.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_fault(error)}", hint="probe the checkpoint again") from error


def _meant(path: Path, kin: Kin) -> Iterator[tuple[Path, Document]]:
    if not path.exists():
        raise InputError(f"no such file or directory: {path}", hint="give a results file, a checkpoint or a directory")
    if path.is_dir():
        below = [*sorted(path.rglob(PATTERN)), *_shared(path)]
        files = [file for file in below if file.is_file() and _is_results(_json(file))]
        if not files:
            raise InputError(f"no {PATTERN} below {path}", hint="`sslcut probe CHECKPOINT` makes one")
        yield from ((file, read(file)) for file in files)
    elif path.suffix == ".json":
        yield path, read(path)
    else:
        yield from _beside(path, kin(path))


def _shared(folder: Path) -> Iterator[Path]:
    """Results that runs in a folder share with a sibling: their `run.json` names them."""
    for file in sorted(folder.rglob(RUN_FILE)):
        with suppress(InputError):
            run = RunDir(file.parent)
            yield from (run.output(step) for step in run.steps() if step.stage == "probe" and is_shared(step))


def _beside(path: Path, identities: set[str]) -> Iterator[tuple[Path, Document]]:
    mine = [
        (file, read(file))
        for file in sorted(path.parent.glob(PATTERN))
        if _is_results(document := _json(file)) and document["checkpoint"].get("identity") in identities
    ]
    if not mine:
        raise InputError(
            f"no results beside {path} are of this checkpoint or of one in its history", hint=f"`sslcut probe {path}`"
        )
    yield from mine


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not whole JSON ({error})", hint="probe the checkpoint again") from error


def _is_results(document: Any) -> bool:
    return isinstance(document, dict) and "format" in document and isinstance(document.get("checkpoint"), dict)


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    more = f", and {error.error_count() - 1} more faults" if error.error_count() > 1 else ""
    return f"`{place}` is {fault['input']!r:.80} ({fault['msg']}){more}"


def _epochs(path: Path) -> list[dict[str, Any]]:
    """Training's lines; one that is not whole is passed over, since training may still be writing."""
    epochs: dict[float, dict[str, Any]] = {}  # a resumed run may tell an epoch twice: its last word counts
    for line in _text(path).splitlines():
        with suppress(ValueError):
            epoch = json.loads(line)
            if isinstance(epoch, dict) and isinstance(epoch.get("epoch"), int | float):
                epochs[epoch["epoch"]] = epoch
    return list(epochs.values())


def _run(path: Path) -> dict[str, Any]:
    """What `run.json` says, where it can be read: it only adds to the provenance."""
    with suppress(ValueError, RecursionError):
        document = json.loads(_text(path))
        return document if isinstance(document, dict) else {}
    return {}


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def labels(found: Sequence[Found]) -> list[str]:
    """A short name for each results file that no other has: its path below their common folder."""
    return [
        (f / one.path.stem.removeprefix("probe-")).as_posix() for f, one in zip(_folders(found), found, strict=True)
    ]


def checkpoint_labels(found: Sequence[Found]) -> list[str]:
    """A short name for each result's checkpoint: its folder below the common one, and its stem where those differ.

    Where a checkpoint was probed in several ways on one data set, the results' own names tell them apart.
    """
    folders, stems = _folders(found), [Path(one.document.checkpoint.name or one.path.stem).stem for one in found]
    alike = len(set(stems)) == 1 and len(set(folders)) > 1
    names = [(f if alike else f / stem).as_posix() for f, stem in zip(folders, stems, strict=True)]
    several = in_several_ways(names, found)
    return [full if name in several else name for name, full in zip(names, labels(found), strict=True)]


def in_several_ways(names: Sequence[str], found: Sequence[Found]) -> set[str]:
    """Those of the names, one for each result, under which one data set was probed in more than one way.

    On several data sets a checkpoint may be probed for other tasks on each, and is one checkpoint still.
    """
    ways: dict[tuple[str, str], set[str]] = {}
    for name, document in zip(names, (one.document for one in found), strict=True):
        ways.setdefault((name, document.data_label), set()).add(document.how)
    return {name for (name, _), each in ways.items() if len(each) > 1}


def _folders(found: Sequence[Found]) -> list[Path]:
    folders = [one.path.absolute().parent for one in found]
    common = os.path.commonpath(folders)
    return [folder.relative_to(common) for folder in folders]
