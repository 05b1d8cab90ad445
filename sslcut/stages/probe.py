"""Measure every layer of a checkpoint in one pass, and say which one to read."""

import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslcut import checkpoint, header
from sslcut.atomic import make_folder, write_text
from sslcut.claims import taught
from sslcut.data.images import Images, describe
from sslcut.data.opening import Opened, open_data
from sslcut.errors import InputError, UsageError
from sslcut.events import Event, Note, Plan, Result, Warn
from sslcut.fingerprint import data_fingerprint
from sslcut.header import Header
from sslcut.inputs import Given, read_results
from sslcut.metrics.assemble import measure
from sslcut.metrics.controls import concatenated, last_blocks
from sslcut.metrics.division import Rows, rows_of
from sslcut.metrics.drawn import view_rows
from sslcut.metrics.extract import Pixels, Source, Tap, Taps, estimate_batchnorm, features, seconds_per_1000, taps
from sslcut.metrics.handed import Handed, Sight, handed
from sslcut.metrics.layer import Layer
from sslcut.metrics.layer import rows_of as part_rows
from sslcut.metrics.shifted import Shifts, read_beside, shifts
from sslcut.metrics.store import Store
from sslcut.metrics.transfer import optuna_itself
from sslcut.metrics.viewed import Viewed, reference_views
from sslcut.model.build import blueprint, build
from sslcut.model.network import Network
from sslcut.names import backbone_end, measured, part_of, resolve
from sslcut.options import Options
from sslcut.provenance import versions
from sslcut.recipe import Recipe
from sslcut.registry import MEASURES
from sslcut.rundir import RunDir, Step, now, run_of
from sslcut.training.world import choose_device, use_threads


def run(given: Given, recipe: Recipe, options: Options) -> Iterator[Event]:
    """Measure `given.checkpoint` by the recipe's `data` and `probe`; yields the results file's path.

    Raises UsageError (2) for an unknown layer or task or another result in the way, InputError (3) for a checkpoint or
    data that does not fit.
    """
    device = choose_device(options.device)
    if any(probe["name"] == "transfer" for probe in recipe.dump()["probe"]["probes"]):
        optuna_itself()  # before the images are read
    reference_views(recipe.dump()["probe"]["viewed"], size=1, seed=0)  # so that its faults are told at once
    source = header.read_network(given.checkpoint)
    layers = asked_layers(recipe.dump()["probe"]["layers"], source.names, imported=is_imported(source))
    key = key_of(source, recipe)
    home = given.folder if options.out is None else options.out.parent
    target = options.out or where(RunDir(home), file_name(source, recipe), key, options.force)
    refuse_name(target)
    if options.dry_run:
        done = not options.force and done_already(target, key)
        yield Plan(f"probe: {', '.join(layers)} of {source.path}, on {device}")
        yield Plan(f"{target} is done already" if done else f"would write {target}")
        return
    make_folder(target.parent)
    directory = run_of(home / target.name)
    with directory.lock() if directory is not None else nullcontext():
        done = not options.force and done_already(target, key)
        if done:
            yield Note(f"{target} is done already")
        else:
            use_threads(options.threads)
            yield from _Probing(source, recipe, layers, device, key, target).run(directory)
        results = read_results(target)
        if directory is not None and done:
            directory.keep(directory.find("probe", key) or step_of(results, target, 0.0))
    yield Result(str(target), results)


def key_of(source: Header, recipe: Recipe) -> str:
    """The hash of what the results depend on."""
    return recipe.stage_hash("probe", source.identity + "".join(map(data_fingerprint, folders(recipe))))


def where(directory: RunDir, name: str, key: str, force: bool) -> Path:
    """Where the results go: into the directory, unless its run shares those of a sibling and is not forced."""
    own, step = directory.path / name, directory.find("probe", key)
    return own if step is None or own.exists() or force else directory.output(step)


def folders(recipe: Recipe) -> list[dict[str, Any]]:
    """What the probe reads of folders: the recipe's data, and the shifts that are other folders."""
    dump = recipe.dump()
    return [dump["data"], *(shift for shift in dump["probe"]["shifts"] if isinstance(shift, dict))]


def step_of(results: dict[str, Any], target: Path, seconds: float) -> Step:
    """The probe that gave these results, as its run directory enters it."""
    key = results["hash"]
    return Step("probe", target.name, key, key, [results["checkpoint"]["identity"]], seconds, now())


def is_imported(source: Header) -> bool:
    """Whether the network came from elsewhere, with a classifier that its authors trained."""
    stages = {entry.get("stage") for entry in source.document["history"]}
    return "import" in stages and "pretrain" not in stages


def asked_layers(asked: str | Sequence[str], names: Sequence[str], *, imported: bool = False) -> list[str]:
    """The blocks to measure, in the network's order, the reference among them; UsageError for one it does not have."""
    if asked == "all":
        return [*measured(names), *(name for name in names if imported and name == "classifier")]
    wanted = {resolve(name, names) for name in asked} | {backbone_end(names)}
    return [name for name in names if name in wanted]


def file_name(source: Header, recipe: Recipe) -> str:
    """`probe-<stem>.json`, with the data's name where it is not the data that the network was trained on."""
    data = recipe.stored()["data"]
    about = "-".join(part for part in (data["name"], Path(data.get("root") or "").name) if part)
    return f"probe-{source.path.stem}{'' if on_own_data(source, recipe) else f'-{about}'}.json"


def on_own_data(source: Header, recipe: Recipe) -> bool:
    """Whether the data is the one that the network was trained on."""
    data, trained_on = recipe.stored()["data"], (source.document.get("recipe") or {}).get("data", {})
    return (data["name"], data.get("root")) == (trained_on.get("name"), trained_on.get("root"))


def refuse_name(target: Path) -> None:
    """Raise UsageError where results cannot be called so, or their predictions would replace a checkpoint."""
    predictions = target.with_suffix(".safetensors")
    if target.suffix != ".json":
        raise UsageError(f"results are JSON, and {target} is no name for it", hint=f"--out {target.stem}.json")
    try:
        free = not predictions.exists() or header.read(predictions).document.get("kind") == "predictions"
    except InputError:
        free = False
    if not free:
        raise UsageError(
            f"the predictions would replace {predictions}, which is something else", hint="choose another --out"
        )


def done_already(target: Path, key: str) -> bool:
    """Whether `target` holds this very measurement; raises UsageError where it is something else."""
    if not target.exists():
        return False
    try:
        same = read_results(target).get("hash") == key
    except InputError:
        same = False
    if not same:
        hint = "--force replaces it, --out writes elsewhere"
        raise UsageError(f"{target} exists and holds results of another checkpoint, data or options", hint=hint)
    return same


def spoken(model: Mapping[str, Any]) -> str:
    """A checkpoint's network in a phrase: `resnet10 (width 16, stem small), projector 256-256-128`."""
    backbone = dict(model["backbone"])
    name = backbone.pop("name")
    options = ", ".join(f"{key} {value}" for key, value in backbone.items() if value not in (None, False))
    parts = [f"{name} ({options})" if options else name]
    if (model.get("last_block") or {}).get("width"):
        parts.append(f"last block {model['last_block']['width']} wide")
    heads = ((part, model.get(part)) for part in ("projector", "predictor"))
    parts += [f"{part} {'-'.join(map(str, head['widths']))}" for part, head in heads if head]
    if model.get("classifier"):
        parts.append(f"classifier of {model['classifier']} classes")
    return ", ".join(parts)


class _Probing:
    """One measurement from an open checkpoint to a written results file."""

    def __init__(
        self, source: Header, recipe: Recipe, layers: list[str], device: torch.device, key: str, target: Path
    ) -> None:
        self.source, self.recipe, self.document = source, recipe, recipe.dump()
        self.layers, self.device, self.key, self.target = layers, device, key, target
        self.probe = self.document["probe"]
        self.memory = recipe.probe_memory

    def run(self, directory: RunDir | None) -> Generator[Event, None, None]:
        """Measure and write the results and the predictions."""
        started = time.monotonic()
        network = checkpoint.load(self.source.path)
        seed = self.document["seed"]
        opened = yield from open_data(self.document["data"], self.division_seed(), size=network.input.size)
        yield Note(f"data: {describe(opened.dataset)}")
        yield from (Warn(text) for text in opened.dataset.warnings)
        rows = rows_of(opened, self.probe, seed)
        shifted = yield from self.shifted(rows)
        wanted = self.wanted(network)
        sources = self.sources(network, opened, rows, wanted)
        widths = [width for source in sources.values() for width in source.widths.values()]
        last = yield from self.last_blocks(wanted)
        together = sum(sources["trained"].widths[tap] for tap in last)
        widths += [together] if last else []
        with closing(Store(len(rows.images), widths, self.memory, self.target.parent)) as store:
            beside = yield from self.handed(network, sources["trained"], rows, store.left)
            found = yield from self.features(sources, rows.images, store)
            kept = [layer for layer in found["trained"] if layer.key in last]
            layers, memory = found["trained"], beside.memory
            if shifted is not None:
                layers, memory = yield from read_beside(
                    layers, sources["trained"], shifted, memory=memory, folder=self.target.parent, device=self.device
                )
            results, predictions = yield from measure(
                layers,
                rows.tasks,
                rows.folds,
                reference=self.reference(network),
                end=self.end(network, wanted),
                trained_on=self.trained_on(opened.dataset.train),
                group=rows.images.group,
                probes=self.probe["probes"],
                measures=self.probe["measures"],
                scale=self.probe["scale"],
                fractions=self.probe["fractions"],
                seed=seed,
                memory=memory,
                bootstrap=self.probe["bootstrap"],
                untrained=found.get("untrained"),
                pixels=found["pixels"][0] if "pixels" in found else None,
                handed=beside,
                controls=self.probe["controls"],
                common_width=self.probe["common_width"],
                concatenated=concatenated(kept, store.shelf(together)) if last else None,
                shifted=shifted,
            )
            results["results"] += yield from self.view_rows(network, beside.viewed, rows, memory)
        layer, readout = self.reference(network)
        about = {**self.about(opened, rows), "reference": {"layer": layer, "readout": readout}, "viewed": beside.under}
        results = {**about, **results, "cost": self.cost(network)}
        self.write({key: results[key] for key in ORDER}, predictions, rows)
        if directory is not None:
            directory.record(step_of(results, self.target, round(time.monotonic() - started, 2)))

    def shifted(self, rows: Rows) -> Generator[Event, None, Shifts | None]:
        """The shifted test images that the recipe asks for, where there is a task to test."""
        if not self.probe["shifts"] or not rows.tasks:
            return None
        return (yield from shifts(self.probe["shifts"], rows.images, rows.folds, rows.numbers, self.document["seed"]))

    def wanted(self, network: Network) -> list[Tap]:
        """Every layer and read-out to measure, the file's own read-out of its last block among them."""
        found = taps(network, self.layers, self.probe["readouts"])
        own = (network.names[-1], network.readout)
        if own[0] in self.layers and own not in found:
            found.append(own)
        return found

    def last_blocks(self, wanted: Sequence[Tap]) -> Generator[Event, None, list[Tap]]:
        """The blocks that the control `concat` reads together; none, with a warning, where too few are measured."""
        if "concat" not in self.probe["controls"]:
            return []
        found = last_blocks(wanted)
        if not found:
            yield Warn("the control concat needs two blocks of the backbone among `probe.layers` and is left out")
        return found

    def reference(self, network: Network) -> Tap:
        """The published read-out: the backbone's end where the file holds it whole, else the file's last block."""
        names = network.names
        if part_of(names[-1]) != "backbone" or names[-1] == blueprint(self.source.document["model"]).backbone:
            return backbone_end(names), "vector"
        return names[-1], network.readout

    def end(self, network: Network, wanted: list[Tap]) -> Tap:
        """The network's end: its last block that can be measured, by the file's own read-out where it is the last."""
        last = measured(network.names)[-1]
        own = (network.names[-1], network.readout)
        return own if last == own[0] else next((tap for tap in wanted if tap[0] == last), (last, "vector"))

    def trained_on(self, images: Images) -> list[str]:
        """The tasks whose labels the network was trained on, where the data is the same."""
        first = next((name for name, task in images.tasks.items() if task.kind == "class"), None)
        own = on_own_data(self.source, self.recipe)
        return taught(self.source.document.get("recipe") or {}, first) if own else []

    def division_seed(self) -> int:
        """The seed that divides the data: the training's on its own data, or this would test on what it trained on."""
        trained = (self.source.document.get("recipe") or {}).get("seed", self.document["seed"])
        return trained if on_own_data(self.source, self.recipe) else self.document["seed"]

    def sources(self, network: Network, opened: Opened, rows: Rows, wanted: list[Tap]) -> dict[str, Source]:
        """All that is read of the images in one pass: the network, its untrained twin, the pixels."""
        precision = self.probe["precision"]
        found: dict[str, Source] = {"trained": Taps(network, wanted, self.device, precision)}
        if self.probe["untrained"] and rows.tasks:
            found["untrained"] = Taps(self.untrained(network, opened), wanted, self.device, precision)
        if self.probe["pixels"] and rows.tasks:
            found["pixels"] = Pixels(rows.images.size)
        return found

    def untrained(self, network: Network, opened: Opened) -> Network:
        """The network as it was drawn, with batch-norm statistics of the training images."""
        recipe = self.source.document.get("recipe") or {}
        torch.manual_seed(recipe.get("seed", self.document["seed"]))
        chain = build(self.source.document["model"]).keep(network.names)
        drawn = Network(chain, network.readout, network.input)
        estimate_batchnorm(drawn, opened.train, self.device)
        return drawn

    def features(
        self, sources: dict[str, Source], images: Images, store: Store
    ) -> Generator[Event, None, dict[str, list[Layer]]]:
        """The layers of every source, by its name; a note says how long it took and where they are."""
        started = time.monotonic()
        found = yield from features(list(sources.values()), images, store, device=self.device, text="features")
        spent, count = time.monotonic() - started, len(sources["trained"].widths)
        what = f"features of {len(images):,} images at {count} layers and read-outs ({', '.join(sources)})"
        yield Note(f"{what} in {spent:.1f} s: {store.place}")
        return dict(zip(sources, found, strict=True))

    def handed(self, network: Network, source: Source, rows: Rows, memory: int) -> Generator[Event, None, Handed]:
        """What the measures want beside the features, read under views of the test images."""
        wants = {name for measure in self.probe["measures"] for name in MEASURES.wants(measure["name"])}
        wants |= {"viewed"} if self.probe["view_parameters"] else set()
        tested = part_rows(rows.folds, "test")
        sight = Sight(network, self.reference(network), rows.images, tested, self.target.parent, self.device)
        asked, seed = self.probe["viewed"], self.document["seed"]
        return (yield from handed(wants, sight, source, asked, seed=seed, memory=memory))

    def view_rows(
        self, network: Network, seen: Viewed | None, rows: Rows, memory: int
    ) -> Generator[Event, None, list[dict[str, Any]]]:
        """What each layer knows of the parameters that made its views, where the recipe asks for it."""
        if seen is None or not self.probe["view_parameters"]:
            return []
        how = {"size": rows.images.size, "group": rows.images.group, "scale": self.probe["scale"], "memory": memory}
        how |= {"count": self.probe["bootstrap"], "seed": self.document["seed"]}
        if not (found := view_rows(seen, self.reference(network), **how)):
            yield Warn("no probe of the views: too few images, or groups of them, to divide, or views that never vary")
        return found

    def cost(self, network: Network) -> list[dict[str, Any]]:
        """Parameters, FLOPs and measured time of reading at each layer: everything up to and including it."""
        seconds = seconds_per_1000(network, self.device)
        rows, parameters, flops = [], 0, 0
        for block, spent in zip(self.source.document["chain"], seconds, strict=True):
            parameters += block["parameters"]
            flops += block["flops"]
            if block["name"] in self.layers:
                row = {"layer": block["name"], "parameters": parameters, "flops": flops}
                rows.append({**row, "seconds_per_1000": float(f"{spent:.4g}")})
        return rows

    def about(self, opened: Opened, rows: Rows) -> dict[str, Any]:
        """What was measured, on what, by which recipe."""
        first = rows.folds[0]
        document = self.source.document
        return {
            "format": 1,
            "hash": self.key,
            "checkpoint": {"identity": self.source.identity, "name": self.source.path.name},
            "data": {
                "name": self.recipe.stored()["data"]["name"],
                "description": describe(opened.dataset),
                "size": rows.images.size,
                "folds": len(rows.folds),
                "train": len(first.train),
                "validation": len(first.validation),
                "test": sum(len(fold.test) for fold in rows.folds),
                "classes": {name: list(task.classes) for name, task in rows.tasks.items() if task.kind == "class"},
            },
            "layers": self.layers,
            "tasks": {name: task.kind for name, task in rows.tasks.items()},
            "recipe": self.recipe.stored(),
            "model": spoken(document["model"]),
            "history": document["history"],
            "versions": {**versions(), "device": self.device.type, "threads": torch.get_num_threads()},
        }

    def write(self, results: dict[str, Any], predictions: dict[str, Tensor], rows: Rows) -> None:
        """The predictions first: results that are there always have theirs."""
        for part, prefix in (("test", ""), ("validation", "validation.")):
            indices = part_rows(rows.folds, part)
            predictions[f"{prefix}image"] = rows.images.hashes(indices)
            if rows.images.group is not None:
                predictions[f"{prefix}group"] = rows.images.group[indices]
        about = {"format": header.FORMAT, "kind": "predictions", "hash": self.key}
        checkpoint.write_tensors(self.target.with_suffix(".safetensors"), predictions, about)
        write_text(self.target, json.dumps(results, allow_nan=False) + "\n")


ORDER = (
    "format", "hash", "checkpoint", "data", "layers", "tasks", "reference", "viewed", "results", "measures", "cost",
    "best", "recommended", "controls", "recipe", "model", "history", "versions",
)  # fmt: skip
