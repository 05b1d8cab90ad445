"""Change the width of a checkpoint's last block: draw it anew, or keep what the network computes."""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslcut import header
from sslcut.atomic import make_folder
from sslcut.errors import AbsentError, InputError, UsageError, suggestion
from sslcut.events import Event, Note, Plan, Result, Warn
from sslcut.fingerprint import data_fingerprint
from sslcut.header import Header
from sslcut.inputs import Given
from sslcut.names import can_resize, not_resizable, part_of
from sslcut.provenance import versions
from sslcut.recipe import Recipe
from sslcut.rundir import Step, now, run_of

if TYPE_CHECKING:
    from torch import Tensor

    from sslcut.model.chain import Chain
    from sslcut.model.network import Network

CHOICES = {"init": ("fresh", "preserve"), "shortcut": ("auto", "always", "never")}
NEEDS_TRAINING = "resized, needs training"
IMAGES = 256  # at most, on which channels are chosen, and on others the error measured
PIXELS = 2**22  # of those images together, which go through the network at once
READ = 2048  # of a data set's images, from which those are taken


@dataclass(frozen=True)
class Width:
    """What the last block becomes: its width, whether it is drawn anew and from which seed, its shortcut."""

    width: int
    init: str = "fresh"
    shortcut: str = "auto"
    seed: int = 0

    def of_model(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """A checkpoint's or a recipe's `model` with this last block."""
        return {**model, "last_block": {"width": self.width, "shortcut": self.shortcut}}


@dataclass(frozen=True)
class Options:
    """Where to write, and whether to replace what is there."""

    out: Path | None = None
    force: bool = False
    dry_run: bool = False


def asked(recipe: Recipe, width: int | None = None, init: str | None = None, shortcut: str | None = None) -> Width:
    """The recipe's `resize` with what the command line says over it; raises UsageError where it says no width."""
    written = recipe.dump()["resize"]
    said = {"width": width, "init": init, "shortcut": shortcut}
    how = {**written, **{key: value for key, value in said.items() if value is not None}}
    if how["width"] is None:
        raise UsageError("no width to resize to is given", hint="--width N, or `resize: {width: N}` in the recipe")
    for key, known in CHOICES.items():
        if how[key] not in known:
            raise UsageError(f"unknown --{key} `{how[key]}`", hint=suggestion(how[key], known))
    return Width(**how, seed=recipe.dump()["seed"])


def run(given: Given, width: Width, options: Options, recipe: Recipe | None = None) -> Iterator[Event]:
    """Resize the last block of `given.checkpoint` and yield the new path.

    `recipe` says on which data `preserve` looks at the channels; random images are taken where it is None. Raises
    UsageError (2) for a network that cannot be resized, no change or another file in the way, InputError (3) for a
    checkpoint that does not fit.
    """
    source = header.read_network(given.checkpoint)
    check(source, width)
    target = options.out or given.folder / f"{source.path.stem}-width-{width.width}.safetensors"
    entry = entry_of(source, width, recipe)
    kept = target.exists() and _is_already(target, source, width, entry)
    if target.exists() and not kept and not options.force:
        raise UsageError(f"{target} exists and is something else", hint="--force replaces it, --out writes elsewhere")
    if kept and not options.force:
        yield Note(f"{target} is this network already")
        yield from () if options.dry_run else _enter(source, target, width, None)
        return
    work = _Resizing(source, width, entry, recipe)
    for line in work.plan():
        yield (Plan if options.dry_run else Note)(line)
    if options.dry_run:
        yield Plan(f"would write {target}")
        return
    started = time.monotonic()
    make_folder(target.parent)
    yield from work.write(target)
    yield from _enter(source, target, width, round(time.monotonic() - started, 2))


def check(source: Header, width: Width) -> None:
    """Raise UsageError, from the header alone, where the last block cannot have another width."""
    name = source.document["model"].get("backbone", {}).get("name", "")
    if not can_resize(name):
        raise not_resizable(name, f"{source.path} cannot be made {width.width} wide")


def entry_of(source: Header, width: Width, recipe: Recipe | None = None) -> dict[str, Any]:
    """The entry in the new checkpoint's history; what is preserved depends on the recipe's data, by name and files."""
    note: dict[str, Any] = {"note": NEEDS_TRAINING} if width.init == "fresh" else {"data": None}
    if width.init == "preserve" and recipe is not None:
        data = recipe.stage_sections("pretrain")["data"]
        note["data"] = {**data, "files": data_fingerprint(recipe.dump()["data"])}
    about = {"input": source.identity, "versions": versions()}
    return {"stage": "resize", "options": asdict(width), **note, **about}


def _is_already(target: Path, source: Header, width: Width, entry: Mapping[str, Any]) -> bool:
    """Whether a file is the outcome of these very options on this very checkpoint."""
    try:
        last = header.read_network(target).document["history"][-1]
    except (InputError, IndexError):
        return False
    same = all(last.get(key) == entry[key] for key in ("stage", "options", "input"))
    return same and ("data" not in last or last["data"] == entry["data"])


def _enter(source: Header, target: Path, width: Width, seconds: float | None) -> Iterator[Event]:
    """Enter the step where `target` lies in a run directory, and yield the result; no seconds, and it was kept."""
    made = header.read_network(target)
    chain = made.document["chain"]
    totals = {key: sum(block[key] for block in chain) for key in ("parameters", "flops")}
    run = run_of(target)
    with run.lock(wait=30) if run is not None else nullcontext():
        spent, facts = seconds or 0.0, asdict(width)
        step = Step("resize", target.name, made.identity, made.identity, [source.identity], spent, now(), facts)
        if run is not None:
            (run.keep if seconds is None else run.record)(step)
    yield Result(str(target), {"identity": made.identity, **asdict(width), **totals})


class _Resizing:
    """One resize from an open checkpoint to a written one; torch comes with it."""

    def __init__(self, source: Header, width: Width, entry: dict[str, Any], recipe: Recipe | None) -> None:
        import torch

        from sslcut import checkpoint
        from sslcut.model.build import build
        from sslcut.model.widths import lever, resized

        self.source, self.width, self.entry, self.recipe = source, width, entry, recipe
        self.network: Network = checkpoint.load(source.path)
        self.model = width.of_model(source.document["model"])
        self.old: Chain = self.network.chain
        torch.manual_seed(width.seed)
        self.new: Chain = resized(self.old, build(self.model))
        found = lever(self.new)
        assert found is not None
        self.name = found.name

    def plan(self) -> Iterator[str]:
        """What changes: the block, and the parameters and operations of the backbone and of the whole."""
        from sslcut.model.cost import costs

        before, after = (costs(chain, self.network.input.size) for chain in (self.old, self.new))
        widths = [next(row.width for row in rows if row.name == self.name) for rows in (before, after)]
        yield f"last block `{self.name}`: {widths[0]} → {widths[1]} channels, {self.width.init}"
        inner = self.new.position("backbone") + 1
        parts = [(f"backbone: P({widths[1]}) =", inner), ("with its head:", len(after))]
        for what, upto in parts[: 1 + (inner < len(after))]:
            counts = [f"{sum(row.parameters for row in rows[:upto]):,}" for rows in (before, after)]
            flops = [f"{sum(row.flops for row in rows[:upto]) / 1e6:,.1f}" for rows in (before, after)]
            yield f"{what} {counts[1]} parameters (now {counts[0]}), {flops[1]} million FLOPs an image (now {flops[0]})"

    def write(self, target: Path) -> Iterator[Event]:
        """Fill in what is preserved, and write the checkpoint."""
        from sslcut import checkpoint

        if self.width.init == "preserve":
            yield from self.preserve()
        else:
            yield Note(f"drawn anew from seed {self.width.seed}: {NEEDS_TRAINING}")
        document, recipe = self.source.document, self.source.document.get("recipe")
        if recipe is not None:
            recipe = {**recipe, "model": self.width.of_model(recipe.get("model", {}))}
        history = [*document["history"], self.entry]
        checkpoint.save(target, self.new, {**document, "model": self.model, "recipe": recipe, "history": history})

    def preserve(self) -> Iterator[Event]:
        """Take over what the block computes, and tell how far the output is from what it was."""
        from sslcut.model.widths import difference, preserve

        images, others, which = yield from self.images()
        how = preserve(self.old, self.new, images)
        error = difference(self.old, self.new, how, others)
        self.entry |= {"error": float(f"{error:.3g}"), "seen": which}
        told = "the output differs" if part_of(self.old.names[-1]) != "backbone" else "the representation differs"
        yield Note(f"{told} by {error:.2g} of its deviation, over {len(others)} {which}")

    def images(self) -> "Generator[Event, None, tuple[Tensor, Tensor, str]]":
        """Images to choose by and others to measure on, as the network is fed them; and what they are."""
        import torch

        from sslcut.data.opening import open_data

        size = self.network.input.size
        if self.recipe is not None:
            document = self.recipe.dump()
            try:
                opened = yield from open_data(self.sample(document["data"]), document["seed"], size=size)
                fit = opened.fit[torch.randperm(len(opened.fit), generator=torch.Generator().manual_seed(0))]
                count = min(IMAGES, max(1, PIXELS // size**2), len(fit) // 2)
                parts = (opened.dataset.train.read(rows) for rows in (fit[:count], fit[count : 2 * count]))
                first, second = (self.network.normalised(part) for part in parts)
                if count:
                    return first, second, f"images of `{document['data']['name']}`"
            except AbsentError as error:
                yield Warn(f"the data is not here, so random images are taken: {error}")
        draw = torch.Generator().manual_seed(self.width.seed)
        drawn = torch.rand(2, min(IMAGES, 16), 3, size, size, generator=draw)
        return self.network.normalised(drawn[0]), self.network.normalised(drawn[1]), "random images"

    def sample(self, data: dict[str, Any]) -> dict[str, Any]:
        """The data with no more images than are worth reading here."""
        return {**data, **{key: min(data[key], READ) for key in ("train", "test") if data.get(key)}}
