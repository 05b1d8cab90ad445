"""Tables and plots of one result or many: `index.html`, `report.md`, CSV tables and figures, in a folder of its own."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslcut import header
from sslcut.atomic import machine_fault, make_folder
from sslcut.claims import Study, study_of
from sslcut.errors import InputError, UsageError
from sslcut.events import Event, Note, Plan, Progress, Result
from sslcut.render import chart, gather, page, sections, table, words
from sslcut.render.gather import Found
from sslcut.render.sections import Report
from sslcut.swept import Swept, recall

WRITTEN = ("index.html", "report.md", "results.csv", "best.csv", "measures.csv", "cost.csv", "claims.csv", "figures")


def default_folder(paths: Sequence[Path]) -> Path:
    """Where a report goes by default: `report` in the one directory that all paths share, else `./report`."""
    folders = {path if path.is_dir() else path.parent for path in paths}
    return folders.pop() / "report" if len(folders) == 1 else Path("report")


def plan(paths: Sequence[Path], out: Path | None = None, title: str | None = None) -> Iterator[Event]:
    """Check everything and say what `run` would read and write. Raises what `run` would raise before its work."""
    asked = _asked(paths)
    found, target = _checked(paths, asked, out)
    told = sections.report(found, title, asked.study, asked.planned)
    yield from (Plan(f"read {one.path}") for one in found)
    yield Plan(f"write {target}: {told.title}, {len(told.figures)} figures")


def run(
    paths: Sequence[Path], out: Path | None = None, title: str | None = None, sweep: Swept | None = None
) -> Iterator[Event]:
    """Write the report on the results that `paths` mean into `out`, in place of an earlier report.

    A sweep's directory (that of `sweep`, else one whose `sweep.json` tells) means the cells of the sweep that was run
    there last; notes name its cells without a result, and results of other cells. Where the paths are sweeps alone
    their study is judged, else the one that all results' own recipes carry.

    Raises InputError (3) for results that are missing or broken, UsageError (2) where `out` holds other files, and
    MachineError (5) where it cannot be written; what was there before is then still there.
    """
    asked = _asked(paths, sweep)
    found, target = _checked(paths, asked, out)
    told = sections.report(found, title, asked.study, asked.planned)
    for each in asked.sweeps.values():
        yield from _differing(each, found)
    yield Note(f"reporting on {found[0].path}" if len(found) == 1 else f"reporting on {len(found)} results")
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    make_folder(target.parent)
    try:
        yield from _write(aside, told, found)
        _swap(aside, target)
    except OSError as error:
        raise machine_fault(error, target) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    numbers = {
        "answer": told.answer.sentence,
        "verdict": told.answer.verdict,
        "markdown": str(target / "report.md"),
        "results": [str(one.path) for one in found],
        "figures": [figure.name for figure in told.figures],
        **({"claims": list(told.claims)} if told.claims else {}),
    }
    yield Result(str(target / "index.html"), numbers)


def identities(path: Path) -> set[str]:
    """A checkpoint's identity and those of the checkpoints that it was made from."""
    source = header.read(path)
    history = source.document.get("history") or []
    known = [source.identity, *(entry.get(key) for entry in history for key in ("identity", "input"))]
    return {identity for identity in known if isinstance(identity, str)}


@dataclass(frozen=True)
class _Asked:
    """The files, checkpoints and folders that paths stand for, and the sweeps whose directories they are."""

    parts: list[Path]
    sweeps: dict[Path, Swept]
    alone: bool

    @property
    def planned(self) -> list[Mapping[str, Any]]:
        """The recipes of the sweeps' cells, where nothing else is reported on."""
        return [recipe for sweep in self.sweeps.values() for recipe in sweep.cells.values()] if self.alone else []

    @property
    def study(self) -> Study | None:
        """The study that every one of these recipes has."""
        studies = [study_of(recipe) for recipe in self.planned]
        return studies[0] if studies and all(one == studies[0] for one in studies) else None


def _asked(paths: Sequence[Path], sweep: Swept | None = None) -> _Asked:
    own = {sweep.folder: sweep} if sweep is not None else {}
    sweeps = own or {path: found for path in paths if (found := _swept(path)) is not None}
    parts = [part for path in paths for part in (_measured(sweeps[path]) if path in sweeps else [path])]
    return _Asked(parts, sweeps, alone=all(path in sweeps for path in paths))


def _swept(path: Path) -> Swept | None:
    """The sweep whose directory a path is, where no other run has its results in it too."""
    return recall(path) if not any(path.glob(gather.PATTERN)) else None


def _measured(sweep: Swept) -> list[Path]:
    """The folders of the cells that have results; raises InputError where none has."""
    measured = [folder for folder in sweep.folders if gather.holds_results(folder)]
    if not measured:
        hint = "`sslcut run` goes on with it; `sslcut report` takes folders of other cells by name"
        raise InputError(f"no cell of the sweep in {sweep.folder} has a result", hint=hint)
    return measured


def _differing(sweep: Swept, found: Sequence[Found]) -> Iterator[Event]:
    """Tell which cells have no result, and which results in the sweep's directory are of no cell."""
    lacking = [folder.name for folder in sweep.folders if not gather.holds_results(folder)]
    if lacking:
        yield Note(f"{len(lacking)} of {len(sweep.cells)} cells without a result: {_few(lacking)}")
    read = {one.path.parent.resolve() for one in found}
    there = {file.parent for file in sweep.folder.glob(f"*/{gather.PATTERN}")}
    others = sorted(str(folder) for folder in there if folder.resolve() not in read)
    if others:
        yield Note(f"of no cell of this sweep, so left out: {_few(others)}; `sslcut report` takes in what it is given")


def _few(names: Sequence[str]) -> str:
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return words.listed([*names[:3], *more])


def _checked(paths: Sequence[Path], asked: _Asked, out: Path | None) -> tuple[list[Found], Path]:
    target = out or default_folder(paths)
    if target.is_symlink() or target.name in ("", ".."):
        target = target.resolve()  # a folder is replaced by its name, which a link or `.` does not tell
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file, not a folder", hint="name a folder with --out")
    try:
        others = sorted(file.name for file in target.iterdir() if file.name not in WRITTEN) if target.is_dir() else []
    except OSError as error:
        raise machine_fault(error, target) from error
    if others:
        raise UsageError(
            f"{target} holds files that no report wrote, such as `{others[0]}`",
            hint="name another folder with --out: a report replaces its folder",
        )
    return gather.find(asked.parts, identities), target


def _write(folder: Path, report: Report, found: Sequence[Found]) -> Iterator[Event]:
    (folder / "figures").mkdir(parents=True)
    drawings: dict[str, str] = {}
    for index, figure in enumerate(report.figures):
        yield Progress("drawing", index, len(report.figures))
        for name, content in chart.files(figure):
            (folder / "figures" / name).write_bytes(content)
            if name.endswith(".svg"):
                drawings[figure.name] = content.decode()
    for name, text in table.csv_files(found):
        (folder / name).write_text(text, encoding="utf-8")
    if report.claims:
        (folder / "claims.csv").write_text(table.csv_records(report.claims), encoding="utf-8")
    (folder / "report.md").write_text(page.markdown(report), encoding="utf-8")
    (folder / "index.html").write_text(page.html(report, drawings), encoding="utf-8")


def _swap(aside: Path, target: Path) -> None:
    """Put the finished folder in the old one's place; where that fails, the old one is put back."""
    old = aside.with_suffix(".old")
    if target.exists():
        target.rename(old)
    try:
        aside.rename(target)
    except OSError:
        with suppress(OSError):
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
