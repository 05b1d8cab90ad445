"""`sslcut bench`: the parts in order, their outcomes told as they come and written as one JSON file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslcut.atomic import make_folder, write_text
from sslcut.bench.contest import Contest
from sslcut.bench.lines import lines
from sslcut.bench.outcome import Outcome
from sslcut.bench.peers import require_peers
from sslcut.bench.setting import Setting
from sslcut.errors import UsageError
from sslcut.events import Event, Note, Plan, Result
from sslcut.registry import BENCHES

FORMAT = 1
FILE = Path("bench.json")


@dataclass(frozen=True)
class Options:
    """What to measure (None: every part), where to write it, and whether an absent peer is a fault."""

    part: str | None = None
    out: Path = FILE
    require_peers: bool = False
    dry_run: bool = False


def run(options: Options, setting: Setting) -> Iterator[Event]:
    """Run one part, or all in the table's order; yields outcomes as notes and, last, the results' path.

    The results are written anew after each contest, so that an interruption costs one of them. Raises UsageError (2)
    for an unknown part or another file in the way, InputError (3) where peers are required and absent.
    """
    parts = {name: BENCHES.summary(name) for name in ([options.part] if options.part else BENCHES)}
    _refuse_another(options.out)
    if options.require_peers:
        require_peers()
    if setting.device not in ("auto", "cpu"):
        setting.open_device()
    if options.dry_run:
        yield from (Plan(f"{name}: {summary}") for name, summary in parts.items())
        yield Plan(f"would write {options.out}")
        return
    make_folder(options.out.parent)
    judged, contests, document = setting.scale == 1, list[dict[str, Any]](), dict[str, Any]()
    for name, summary in parts.items():
        yield Note(f"{name}: {summary}")
        for event in _contested(name, setting):
            if not isinstance(event, Outcome):
                yield event
                continue
            yield from (Note(line) for line in lines(event, judged))
            contests.append(event.document(name, judged))
            document = {"format": FORMAT, "scale": setting.scale, "machine": setting.machine(), "contests": contests}
            write_text(options.out, json.dumps(document, indent=1, allow_nan=False) + "\n")
    yield Note(machine_line(setting.machine()))
    yield Result(str(options.out), document)


def _contested(part: str, setting: Setting) -> Iterator[Event | Outcome]:
    for item in BENCHES.load(part)(setting):
        if isinstance(item, Contest):
            yield from item.run(setting.seconds)
        else:
            yield item


def _refuse_another(target: Path) -> None:
    """Raise UsageError where `target` is there and no benchmark's results, which alone are replaced."""
    try:
        document = json.loads(target.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict) or "contests" not in document:
        raise UsageError(f"{target} exists and is no result of `sslcut bench`", hint="--out writes elsewhere")


def machine_line(machine: dict[str, Any]) -> str:
    """What was measured on, in one line."""
    told = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    cores = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
    return f"{cores}, device {machine['device']}; {told}"
