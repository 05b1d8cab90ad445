"""Tables and plots of one result or many: `index.html`, `report.md`, CSV tables and figures, in a folder of its own."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sslcut import header
from sslcut.atomic import machine_fault, make_folder
from sslcut.claims import Study, study_of
from sslcut.errors import UsageError
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
    found, target, sweeps = _checked(paths, out)
    told = sections.report(found, title, *_planned(sweeps))
    yield from (Plan(f"read {one.path}") for one in found)
    yield Plan(f"write {target}: {told.title}, {len(told.figures)} figures")


def run(paths: Sequence[Path], out: Path | None = None, title: str | None = None) -> Iterator[Event]:
    """Write the report on the results that `paths` mean into `out`, in place of an earlier report.

    A sweep's directory means the cells of the sweep that was run there last, with its claims, and a condition of it
    that has no result is named. Claims are else those that all results' own recipes carry.

    Raises InputError (3) for results that are missing or broken, UsageError (2) where `out` holds other files, and
    MachineError (5) where it cannot be written; what was there before is then still there.
    """
    found, target, sweeps = _checked(paths, out)
    yield from _strangers(sweeps)
    told = sections.report(found, title, *_planned(sweeps))
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


def _checked(paths: Sequence[Path], out: Path | None) -> tuple[list[Found], Path, list[Swept]]:
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
    sweeps = {path: sweep for path in paths if (sweep := _swept(path)) is not None}
    meant = [part for path in paths for part in (_measured(sweeps[path]) if path in sweeps else [path])]
    return gather.find(meant, identities), target, [*sweeps.values()]


def _swept(path: Path) -> Swept | None:
    """The sweep whose directory a path is, where any of its cells has a result, and the directory has none itself."""
    sweep = recall(path) if not any(path.glob(gather.PATTERN)) else None
    return sweep if sweep is not None and _measured(sweep) else None


def _measured(sweep: Swept) -> list[Path]:
    return [folder for folder in sweep.folders if gather.holds_results(folder)]


def _planned(sweeps: Sequence[Swept]) -> tuple[Study | None, list[Mapping[str, Any]]]:
    """The study that every cell of the sweeps has, and the cells' recipes."""
    recipes = [recipe for sweep in sweeps for recipe in sweep.cells.values()]
    studies = [study_of(recipe) for recipe in recipes]
    return (studies[0] if studies and all(one == studies[0] for one in studies) else None), recipes


def _strangers(sweeps: Sequence[Swept]) -> Iterator[Event]:
    for sweep in sweeps:
        others = sorted({file.parent for file in sweep.folder.glob(f"*/{gather.PATTERN}")} - {*sweep.folders})
        if others:
            named = words.listed([str(folder) for folder in others[:3]] + ["others"] * (len(others) > 3))
            yield Note(f"of no cell of this sweep, so left out: {named}; `sslcut report` takes in what it is given")


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
