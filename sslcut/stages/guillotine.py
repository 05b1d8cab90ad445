"""Cut a checkpoint at a named block: keep everything up to and including it. Works from the header; no torch."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslcut import __version__, answers, header
from sslcut.atomic import make_folder
from sslcut.errors import InputError, UsageError
from sslcut.events import Event, Note, Plan, Result
from sslcut.header import Header
from sslcut.inputs import Given, read_results
from sslcut.names import NORM, bare, check_readout, fitting_readouts, is_normed, normed, resolve
from sslcut.rundir import RunDir, Step, now, run_of

ANSWERED = ("best", "smallest")  # what `--at` takes beside layers: results say which layer is meant


@dataclass(frozen=True)
class Options:
    """Where to cut: a block's name, `best` or `smallest`; `task` and `within` (points) say what those mean.

    `keep_norm` keeps the network's final norm behind the block.
    """

    at: str = "best"
    task: str | None = None
    within: float | None = None
    readout: str | None = None
    keep_norm: bool = False
    out: Path | None = None
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Place:
    """The block to keep up to, its read-out, and the sentence that says why it was chosen.

    With a normed read-out the network's final norm is kept behind the block, and the file reads what that gives.
    """

    layer: str
    readout: str
    why: str = ""

    def kept(self, names: Sequence[str]) -> list[str]:
        """The blocks that stay, of those of the checkpoint."""
        upto = list(names[: names.index(self.layer) + 1])
        return [*upto, NORM] if is_normed(self.readout) else upto


def run(given: Given, options: Options) -> Iterator[Event]:
    """Cut `given.checkpoint` and yield its new path; where the answer is the last block, the old path.

    Raises UsageError (2) for an unknown layer, nothing to cut or another file in the way, InputError (3) for a
    checkpoint or results that do not fit.
    """
    source = header.read_network(given.checkpoint)
    place = choose(source, given, options)
    if place.why:
        yield Note(place.why)
    names, kept = source.names, place.kept(source.names)
    answered = options.at in ANSWERED
    asked = answered or options.readout is not None  # a read-out of its own is worth a file
    if kept == names and not (asked and bare(place.readout) != source.document["readout"]):
        if not answered:
            raise UsageError(f"nothing to cut: `{names[-1]}` is the last block of {source.path}", hint=_last(names))
        yield Note(f"`{names[-1]}` is the last block: nothing is cut")
        yield Result(str(source.path), _numbers(source, source.document, place, source.path.stat().st_size))
        return
    document = cut_document(source, place)
    cut = header.plan_cut(source, kept, document)
    target = options.out or given.folder / _file_name(source, place)
    dropped = len(source.entries) - sum(len(source.owners[name]) for name in kept)
    size = source.path.stat().st_size
    gone = [name for name in names if name not in kept]
    told = f"keeps {', '.join(kept)}; drops {', '.join(gone) or 'nothing'} ({dropped} tensors)"
    yield (Plan if options.dry_run else Note)(f"{told}: {size / 1e6:.1f} MB → {cut.size / 1e6:.1f} MB")
    if options.dry_run:
        _refuse_another(target, cut, options.force)
        yield Plan(f"would write {target}")
        return
    yield from _write(source, cut, target, place, options.force)
    yield Result(str(target), _numbers(source, document, place, cut.size, header.identity_of(cut.raw)))


def _last(names: list[str]) -> str:
    return f"layers: {', '.join(names[:-1])}" if len(names) > 1 else "this checkpoint has one block"


def _write(source: Header, cut: header.Cut, target: Path, place: Place, force: bool) -> Iterator[Event]:
    identity = header.identity_of(cut.raw)
    make_folder(target.parent)
    run = run_of(target)
    with run.lock(wait=30) if run is not None else nullcontext():
        facts = {"layer": place.layer, "readout": place.readout}
        step = Step("guillotine", target.name, identity, identity, [source.identity], 0.0, now(), facts)
        if _refuse_another(target, cut, force):
            yield Note(f"{target} is this cut already")
            enter = run.keep if run is not None else None
        else:
            header.write_cut(source, cut, target)
            enter = run.record if run is not None else None
        if enter is not None:
            enter(step)


def _refuse_another(target: Path, cut: header.Cut, force: bool) -> bool:
    """Whether `target` is this very cut already; raises UsageError where it is something else, unless forced."""
    if not target.exists():
        return False
    try:
        same = header.read(target).identity == header.identity_of(cut.raw)
    except InputError:
        same = False
    if not same and not force:
        raise UsageError(f"{target} exists and is something else", hint="--force replaces it, --out writes elsewhere")
    return same


def choose(source: Header, given: Given, options: Options) -> Place:
    """The block and read-out that the options mean for this checkpoint."""
    if options.at not in ANSWERED:
        if options.within is not None or options.task is not None:
            raise UsageError(
                "--task and --within go with `--at best` or `--at smallest`", hint="drop them, or --at best"
            )
        layer = resolve(options.at, source.names)
        return Place(layer, _readout(source, layer, options))
    if options.at == "best" and options.within is not None:
        raise UsageError("--within goes with `--at smallest`", hint="drop it, or --at smallest")
    results = _results_for(source, given)
    if options.at == "smallest":
        if options.within is None:
            raise UsageError("`--at smallest` needs --within POINTS", hint="--within 0.5")
        layer, readout = answers.smallest(results, options.within, options.task)
        why = f"`{answers.label(layer, readout)}` is the earliest within {options.within:g} points of the reference"
    else:
        layer, readout, why = answers.best(results, options.task)
    layer = resolve(layer, source.names)
    return Place(layer, _readout(source, layer, options, readout), why)


def _readout(source: Header, layer: str, options: Options, answered: str | None = None) -> str:
    """The read-out that the options ask for, else the one that the results `answered`, else the block's usual one."""
    sides = len(source.document["chain"][source.names.index(layer)]["spatial"])
    fits = {"norm": source.norm_behind(layer), "class_token": source.class_token}
    readout = options.readout or answered or fitting_readouts(sides, **fits)[0]
    if options.keep_norm:
        if sides != 1 or not fits["norm"]:
            raise no_norm(layer)
        return check_readout(normed(readout), sides, layer, **fits)
    check_readout(readout, sides, layer, **fits)
    if options.readout is not None and is_normed(readout):
        raise UsageError(f"read-out `{readout}` needs the network's final norm, which a cut drops", hint="--keep-norm")
    return readout


def no_norm(layer: str) -> UsageError:
    """The fault of a norm that is to be kept behind a block and is not there."""
    return UsageError(f"no `{NORM}` that fits stands behind `{layer}`", hint="leave `--keep-norm` (`keep_norm`) out")


def _results_for(source: Header, given: Given) -> dict[str, Any]:
    """The results that carry this checkpoint's identity: those named, else the newest in its run or beside it."""
    if given.results is not None:
        results = read_results(given.results)
        if results["checkpoint"]["identity"] != source.identity:
            raise InputError(f"{given.results} was measured on another checkpoint than {source.path}", hint=_PROBE)
        return results
    for file in _results_in(given.folder):
        with suppress(InputError):  # of another checkpoint, perhaps, and damaged
            results = read_results(file)
            if results["checkpoint"]["identity"] == source.identity:
                return results
    raise InputError(f"no results for {source.path} beside it", hint=_PROBE)


def _results_in(folder: Path) -> list[Path]:
    """Results files of a folder, the newest first: by its run's order where it has one, then by time.

    Those that the run shares with a sibling are among them.
    """
    run = RunDir(folder)
    entered = [run.output(step) for step in run.steps() if step.stage == "probe"]
    found = sorted(folder.glob("probe-*.json"), key=lambda file: file.stat().st_mtime)
    there = [file for file in entered if file in found or file.parent != folder]
    return [*reversed(there), *(file for file in reversed(found) if file not in entered)]


_PROBE = "`sslcut probe` measures its layers"


def cut_document(source: Header, place: Place) -> dict[str, Any]:
    """The document of the cut: the chain that is kept, its read-out, and one more entry of history."""
    document, kept = source.document, place.kept(source.names)
    entry = {
        "stage": "guillotine",
        "options": {"at": place.layer, "readout": place.readout},
        "input": source.identity,
        "versions": {"sslcut": __version__},
    }
    return {
        **document,
        "chain": [block for block in document["chain"] if block["name"] in kept],
        "readout": bare(place.readout),
        "history": [*document["history"], entry],
    }


def _file_name(source: Header, place: Place) -> str:
    suffix = "" if place.readout in ("avg", "vector") else f"-{place.readout}"
    return f"{source.path.stem}-cut-{place.layer}{suffix}.safetensors"


def _numbers(
    source: Header, document: dict[str, Any], place: Place, size: int, identity: str | None = None
) -> dict[str, Any]:
    chain = document["chain"]
    return {
        "layer": place.layer,
        "readout": place.readout,
        "identity": identity or source.identity,
        "parameters": sum(block["parameters"] for block in chain),
        "flops": sum(block["flops"] for block in chain),
        "bytes": size,
    }
