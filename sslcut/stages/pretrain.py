"""Train a network by a recipe, and write it as a checkpoint."""

import json
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslcut import checkpoint, header
from sslcut.atomic import write_text
from sslcut.data.images import Images, describe
from sslcut.data.opening import open_data, view_maker
from sslcut.data.samplers import Sampler
from sslcut.data.views import ViewMaker
from sslcut.errors import InputError, MachineError, UsageError
from sslcut.events import Event, Note, Plan, Result, Warn
from sslcut.fingerprint import data_fingerprint
from sslcut.methods.base import Method
from sslcut.methods.making import (
    check_fit,
    class_count,
    labels_told,
    make_method,
    model_document,
    plain_update,
    second_order,
    views_of,
)
from sslcut.model.build import blueprint, settled
from sslcut.model.chain import Chain
from sslcut.model.cost import costs
from sslcut.model.shortcut import changed
from sslcut.model.teacher import Teacher
from sslcut.names import READOUTS, is_named, part_of
from sslcut.options import Options
from sslcut.provenance import versions
from sslcut.recipe import Recipe
from sslcut.rundir import RunDir, Step, now
from sslcut.training import loop
from sslcut.training.online import Online, online_of
from sslcut.training.outlook import plan
from sslcut.training.passes import beside_joint, far_from_matched, matched, work_of
from sslcut.training.prepared import as_published, compilable, decided, input_of
from sslcut.training.world import Precision, choose_device, use_threads

FILE = "pretrain.safetensors"
STATE_COPIES = 3  # of the weights, in a state: themselves and up to two moments
TIMES = ("seconds", "images_per_second", "waiting")  # run.json alone has them: the same work gives the same bytes


def run(recipe: Recipe, options: Options) -> Iterator[Event]:
    """Train by `recipe`, or keep what is there, and yield the checkpoint's path.

    Raises UsageError (2) where another recipe's result is in the way, InputError (3) for data that does not fit,
    DivergedError (4), MachineError (5).
    """
    device = choose_device(options.device)
    check_fit(recipe.dump())
    directory = RunDir(options.out or Path("runs") / recipe.name)
    key = key_of(recipe)
    target = directory.path / FILE
    if options.dry_run:
        step = None if options.force else done_already(directory, key)
        yield from plan(recipe, device) if step is None else ()
        yield Plan(f"would write {target}" if step is None else f"{directory.output(step)} is done already")
        return
    with directory.lock():
        step = None if options.force else done_already(directory, key)
        if step is not None:
            yield Note(f"{directory.output(step)} is done already")
            directory.keep(step)
        else:
            step = yield from _Training(recipe, directory, device, options, key).run()
            directory.record(step)
        forget_state(directory)  # only now is the network itself safe
    yield Result(str(directory.output(step)), {"identity": step.identity, **step.facts})


def key_of(recipe: Recipe) -> str:
    """The hash of what the trained network depends on. Raises InputError where the checkpoint to start from is none."""
    start, data = recipe.dump()["from"], recipe.dump()["data"]
    return recipe.stage_hash("pretrain", (header.read(start).identity if start else "") + data_fingerprint(data))


def forget_state(directory: RunDir) -> None:
    """Drop the state to resume from."""
    for file in (directory.path / "state").glob("*.safetensors"):
        file.unlink(missing_ok=True)


def done_already(directory: RunDir, key: str) -> Step | None:
    """The step that made the network of this run; None where there is none yet, or its training is half way.

    Raises UsageError where the directory holds another recipe's network or half of its training, or a file that is not
    the one that was written.
    """
    hint = "--force replaces it, --out writes elsewhere"
    step = directory.find("pretrain", key)
    if step is not None and header.read(directory.output(step)).identity == step.identity:
        return step
    state = checkpoint.load_state(directory.path / "state")
    if state is not None and state[1]["hash"] == key:
        return None  # begun here, with --force where another network stands beside it
    if (directory.path / FILE).exists():
        other = "another recipe's, from other data, or of an sslcut whose recipes had other keys"
        whose = other if step is None else "not the file that was written"
        raise UsageError(f"{directory.path / FILE} exists and is {whose}", hint=hint)
    if state is not None:
        raise UsageError(f"{directory.path / 'state'} holds the interrupted training of another recipe", hint=hint)
    return None


class _Training:
    """One training from an open recipe to a written checkpoint."""

    def __init__(self, recipe: Recipe, directory: RunDir, device: torch.device, options: Options, key: str) -> None:
        self.recipe, self.document = recipe, recipe.dump()
        self.directory, self.device, self.key = directory, device, key
        self.state = None if options.force else checkpoint.load_state(directory.path / "state")
        stored = directory.document() if self.state is not None else {}
        self.threads = use_threads(options.threads or stored.get("threads"))
        self.given_precision = stored.get("precision") or options.precision
        self.started = time.monotonic()
        self.cost: float | None = None  # of a step beside one of `joint`, where that is another

    def run(self) -> Generator[Event, None, Step]:
        """Train and write; yields what happens and returns the step that was done."""
        document = self.document
        if is_named(document["model"]["backbone"]["name"]):
            blueprint(model_document(document, 2))  # one that cannot be divided is told before the images are read
        opened = yield from open_data(document["data"], document["seed"])
        yield Note(f"data: {describe(opened.dataset)}")
        yield from (Warn(text) for text in opened.dataset.warnings)
        opened = as_published(opened, document["model"]["backbone"])
        method, labels = make_method(document, opened)
        need_space(self.directory.path, method)
        yield from self.weigh(method, input_of(document, opened).size)
        if told := labels_told(document, opened):
            yield Note(told)
        if method.caution:
            yield Warn(method.caution)
        history = yield from start_from(method.chain, document["from"])
        for each in method.modules():
            if isinstance(each, Teacher):
                each.begin(method.chain)
        views = view_maker(views_of(document), opened, document["seed"])
        if views.partners is not None and views.partners.alone:
            yield Warn(f"{views.partners.alone:,} images have no partner: no label, or the only one with it")
        loop.check_enough(opened.train)
        precision = self.precision(method.to(self.device), opened.train, labels, views)
        self.directory.remember(precision=asdict(precision), threads=self.threads)
        write_text(self.directory.path / "recipe.yaml", self.recipe.text())
        yield Note(f"training on {self.device}, {self.threads} threads, {precision.label}")
        online = online_of(document, opened, method, input_of(document, opened))
        if online is not None:
            yield Note(online.told)
        metrics = yield from self.epochs(method, opened.train, labels, views, precision, online)
        chain = method.kept.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        input = input_of(document, opened)
        identity = checkpoint.save(
            self.directory.path / FILE,
            chain,
            {
                "model": {
                    **settled(model_document(document, class_count(document["method"], opened.train))),
                    **method.added,
                },
                "readout": READOUTS[len(costs(chain, input.size)[-1].spatial)][0],
                "input": input.document(),
                "recipe": self.recipe.stored(),
                "history": [*history, self.entry(history, precision)],
                "metrics": {name: value for name, value in metrics.items() if name not in TIMES},
            },
        )
        seconds = round(time.monotonic() - self.started, 2)
        return Step("pretrain", FILE, identity, self.key, [], seconds, now(), metrics)

    def weigh(self, method: Method, size: int) -> Iterator[Event]:
        """Note what the head's update costs beside `joint`, and give it as many epochs as the recipe's `match` asks."""
        document, update = self.document, self.document["head"]["update"]
        if update["name"] == "joint":
            return
        work = work_of(method, document["views"]["crops"], size, document["train"]["batch_size"])
        self.cost = beside_joint(update, work)
        train = matched(document["train"], self.cost)
        self.document = {**document, "train": train}
        fewer = f", so {train['epochs']} epochs" if train["epochs"] != document["train"]["epochs"] else ""
        yield Note(f"a step of `{update['name']}` takes {self.cost:.2f} × the operations of one of joint{fewer}")
        if far := far_from_matched(document["train"], train["epochs"], self.cost):
            yield Warn(far)

    def precision(self, method: Method, images: Images, labels: Tensor | None, views: ViewMaker) -> Precision:
        """The run's stored precision where it is resumed, or the one decided for its sweep, else the recipe's."""
        if self.given_precision is not None and not second_order(plain_update(self.document)):
            found = Precision(**self.given_precision)
        else:
            found = decided(self.document, method, images, labels, views)
        asked = self.document["train"]["compile"]
        return replace(
            found, compiled=asked is True or (asked == "auto" and found.compiled and compilable(self.document))
        )

    def epochs(
        self,
        method: Method,
        images: Images,
        labels: Tensor | None,
        views: ViewMaker,
        precision: Precision,
        online: Online | None,
    ) -> Generator[Event, None, dict[str, Any]]:
        """Train through the epochs, writing metrics and states; returns the last epoch's numbers."""
        records = metrics_until(self.directory.path, self.state[1]["epoch"] if self.state is not None else 0)
        write_metrics(self.directory.path, records)  # an earlier training's lines are not this one's
        if self.state is None:
            forget_state(self.directory)
        else:
            yield Note(f"resuming in epoch {min(self.state[1]['epoch'] + 1, self.document['train']['epochs'])}")

        def save(tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
            checkpoint.save_state(self.directory.path / "state", tensors, {**document, "hash": self.key})

        how = plan_of(self.document, self.device, precision)
        for event in loop.train(method, images, labels, views, how, online=online, state=self.state, save=save):
            if isinstance(event, loop.Epoch):
                records.append(event.numbers())
                write_metrics(self.directory.path, records)
            yield event
        last = records[-1] if records else {}
        seen = Sampler(len(images), how.batch_size, how.seed)  # what an epoch's last batch leaves over is not seen
        cost = {} if self.cost is None else {"cost_beside_joint": round(self.cost, 4)}
        return {**last, **cost, "epochs": how.epochs, "images": how.epochs * seen.steps * seen.batch}

    def entry(self, history: list[dict[str, Any]], precision: Precision) -> dict[str, Any]:
        """This training's entry in the checkpoint's history."""
        document = self.document
        root = self.recipe.stored()["data"].get("root")
        return {
            "stage": "pretrain",
            "options": {
                "method": document["method"]["name"],
                "data": document["data"]["name"],
                **({"root": root} if root is not None else {}),
                "update": document["head"]["update"]["name"],
                "epochs": document["train"]["epochs"],
                "seed": document["seed"],
            },
            "input": header.read(document["from"]).identity if document["from"] else None,
            "versions": versions(),
            "device": self.device.type,
            "threads": self.threads,
            "precision": precision.name,
            **({"compiled": True} if precision.compiled else {}),
        }


def need_space(folder: Path, method: Method) -> None:
    """Raise MachineError, before any work, where the disk has no room for the checkpoint and two states."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in method.state_dict().values())
    needed, free = (1 + 2 * STATE_COPIES) * weights, shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder} has {free / 1e6:,.1f} MB free, checkpoint and state to resume from take {needed / 1e6:,.1f}",
            hint="free some space, or write elsewhere with --out",
        )


def start_from(chain: Chain, path: str | None) -> Generator[Event, None, list[dict[str, Any]]]:
    """Take over the backbone, and the head where it fits whole, from a checkpoint; returns its history.

    Raises InputError naming the first backbone tensor that does not fit.
    """
    if path is None:
        return []
    given = checkpoint.load(path).chain
    if "prototypes" not in chain.names:  # t-ReX writes its class means behind the head that it trains
        given = given.keep([name for name in given.names if name != "prototypes"])
    own, theirs = chain.tensors(), given.tensors()
    head, own_head = head_of(given), head_of(chain)
    if all(name in own and own[name].shape == theirs[name].shape for name in head):
        kept = theirs
        fresh = own_head - head
    else:
        kept = {name: tensor for name, tensor in theirs.items() if name not in head}
        fresh = own_head
    document = header.read(path).document
    try:
        chain.load_tensors({**kept, **{name: own[name].detach().clone() for name in fresh}}, path)
    except InputError as error:
        last = document["model"].get("last_block") or {}
        if not changed(last):
            raise
        block = f"{{width: {json.dumps(last['width'])}, shortcut: {last['shortcut']}}}"
        hint = f"its last block is another: write `model.last_block: {block}`"
        raise InputError(error.faults[0].what, place=path, hint=hint) from error
    yield Note(f"starting from {path}" + (f", {len(fresh)} tensors of the head drawn anew" if fresh else ""))
    return list(document["history"])


def head_of(chain: Chain) -> set[str]:
    """The names of the tensors of a chain's head: a library's classifier has names of its own."""
    blocks = (item for item in chain.items() if part_of(item[0]) != "backbone")
    return {prefix + key for _, prefix, block in blocks for key in block.state_dict()}


def plan_of(document: Mapping[str, Any], device: torch.device, precision: Precision) -> loop.Plan:
    """The recipe's training with everything decided."""
    train = document["train"]
    return loop.Plan(
        epochs=train["epochs"],
        batch_size=train["batch_size"],
        optimizer=train["optimizer"],
        seed=document["seed"],
        device=device,
        precision=precision,
        update=document["head"]["update"],
        lr_scaling=train["lr_scaling"],
        warmup_epochs=train["warmup_epochs"],
        start_lr=train["start_lr"],
        end_lr=train["end_lr"],
        constant_lr=train["constant_lr"],
        clip=train["clip_gradient"],
        clip_each=train["clip_each"],
        deterministic=train["deterministic"],
        state_every_seconds=train["state_every"],
    )


def metrics_until(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` for the first `epochs` epochs, as far as they are there."""
    file = folder / "metrics.jsonl"
    if not epochs or not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][:epochs]


def write_metrics(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write `metrics.jsonl`: one line an epoch."""
    write_text(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
