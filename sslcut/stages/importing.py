"""Bring in a network from elsewhere: a file of another project, or a model that a library knows by its name."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sslcut import header
from sslcut.errors import InputError, UsageError
from sslcut.events import Event
from sslcut.libraries import check_named
from sslcut.names import is_named
from sslcut.registry import BACKBONES
from sslcut.rundir import RunDir

SUFFIXES = r"(?:\.(?:pth|pt|ckpt|tar|bin|safetensors))+$"
BRANCHES = ("student", "teacher")

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Fed:
    """What the network is fed, as far as the command line says it: pixels a side, and the statistics of [0, 1]."""

    size: int | None = None
    mean: Colour | None = None
    std: Colour | None = None


@dataclass(frozen=True)
class Options:
    """What the command line says of the source: the architecture and branch that are meant, and the input.

    `directory` is where a named model goes.
    """

    arch: str | None = None
    branch: str | None = None
    fed: Fed = Fed()
    out: Path | None = None
    directory: Path = Path("runs/default")
    force: bool = False
    dry_run: bool = False


def run(source: str, options: Options) -> Iterator[Event]:
    """Turn `source` into a checkpoint of sslcut's and yield its path.

    Raises UsageError (2) for an unknown architecture or something else in the way, InputError (3) for a file that is
    damaged, refused or no network that sslcut knows.
    """
    check(source, options)
    from sslcut.foreign.saving import save

    if is_named(source):
        from sslcut.foreign.named import bring

        target = options.out or named_file(source, options.directory)
        run = None if options.out else RunDir(options.directory)
        yield from bring(source, target, run=run, force=options.force, dry_run=options.dry_run)
        return
    from sslcut.foreign.files import Wish, convert

    fed = options.fed
    imported = convert(Path(source), Wish(options.arch, options.branch, fed.size, fed.mean, fed.std))
    target = options.out or beside(source, options.branch)
    yield from save(imported, target, force=options.force, dry_run=options.dry_run)


def named_file(name: str, directory: Path) -> Path:
    """Where a named model goes: `timm:resnet18` is `timm-resnet18.safetensors` in the run directory."""
    stem = re.sub(r"[^\w.-]+", "-", name)
    return directory / f"{stem}.safetensors"


def check(source: str, options: Options) -> None:
    """Raise the faults that the command line alone shows, before torch is imported."""
    if options.arch is not None:
        BACKBONES[options.arch]
    if options.branch not in (None, *BRANCHES):
        raise UsageError(f"unknown branch `{options.branch}`", hint=f"branches: {', '.join(BRANCHES)}")
    if is_named(source):
        if options.arch or options.branch or options.fed != Fed():
            what = f"--arch, --branch, --size, --mean and --std are for files; {source} says it itself"
            raise UsageError(what, hint="leave them out")
        check_named(source)
        return
    path = Path(source)
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no file at {path}"
        inside = sorted(path.glob("*.safetensors"))[:1]
        hint = "name a .pth, .pt, .ckpt, .tar or .safetensors file, or timm:NAME, torchvision:NAME"
        raise InputError(what, hint=f"name the file in it: {inside[0]}" if inside else hint)
    if not path.stat().st_size:
        raise InputError(f"{path} is empty", hint="fetch it again")
    if not header.is_foreign(path):
        raise UsageError(f"{path} is a checkpoint of sslcut's already", hint=f"sslcut inspect {path}")


def beside(source: str, branch: str | None) -> Path:
    """Where a file's checkpoint goes: the same name in the same folder, `-imported` where that is the file itself."""
    path = Path(source)
    stem = re.sub(SUFFIXES, "", path.name) or path.name
    target = path.with_name(f"{stem}{f'-{branch}' if branch else ''}.safetensors")
    return target if target != path else path.with_name(f"{stem}-imported.safetensors")


def colour(option: str, text: str | None) -> Colour | None:
    """The three positive numbers that an option holds, such as `0.5,0.5,0.5`; raises UsageError."""
    if text is None:
        return None
    try:
        red, green, blue = (float(word) for word in text.split(","))
        if not all(0 < value < math.inf for value in (red, green, blue)):
            raise ValueError("not positive")
    except ValueError as error:
        raise UsageError(f"`{option} {text}` is not three numbers", hint=f"{option} 0.485,0.456,0.406") from error
    return red, green, blue
