"""An imported network becomes a checkpoint of sslcut's, entered in the run directory that it lands in."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sslcut import __version__, checkpoint, header
from sslcut.atomic import make_folder
from sslcut.errors import InputError, UsageError
from sslcut.events import Event, Note, Plan, Result
from sslcut.foreign.imported import Imported
from sslcut.rundir import RunDir, Step, now, run_of


def save(
    imported: Imported, target: Path, *, run: RunDir | None = None, force: bool = False, dry_run: bool = False
) -> Iterator[Event]:
    """Write the network to `target` and yield its path; what is there already and the same is kept.

    It is entered in `run`, else in the run directory that `target` lies in, where there is one. Raises UsageError
    (exit 2) where something else is in the way, unless forced.
    """
    for note in imported.notes:
        yield Note(note)
    document = _document(imported)
    kept = target.exists() and _is_already(target, document)
    if target.exists() and not kept and not force:
        raise UsageError(f"{target} exists and is something else", hint="--force replaces it, --out writes elsewhere")
    parameters = sum(parameter.numel() for parameter in imported.chain.parameters())
    told = f"{imported.model['backbone']['name']}, {parameters:,} parameters: {', '.join(imported.chain.names)}"
    if dry_run:
        yield Plan(told)
        yield Plan(f"would {'keep' if kept else 'write'} {target}")
        return
    yield Note(f"{target} is this network already" if kept else told)
    make_folder(target.parent)
    run = run or run_of(target)
    with run.lock(wait=30) if run is not None else nullcontext():
        identity = header.read(target).identity if kept else checkpoint.save(target, imported.chain, document)
        step = Step("import", target.name, identity, identity, [], 0.0, now(), imported.source)
        if run is not None:
            (run.keep if kept else run.record)(step)
    numbers = {"identity": identity, "source": imported.source, "parameters": parameters, "readout": imported.readout}
    yield Result(str(target), numbers)


def _document(imported: Imported) -> dict[str, Any]:
    entry = {"stage": "import", "options": imported.source, "input": None, "versions": {"sslcut": __version__}}
    return {
        "model": imported.model,
        "readout": imported.readout,
        "input": imported.input.document(),
        "recipe": None,
        "history": [entry],
        "metrics": {},
    }


def _is_already(target: Path, document: dict[str, Any]) -> bool:
    """Whether a checkpoint says of itself what this import would say: the source's hash among it."""
    try:
        there = header.read_network(target).document
    except InputError:
        return False
    said: dict[str, Any] = json.loads(json.dumps(document))
    return all(there.get(key) == value for key, value in said.items())
