"""From a recipe to a method on its network, with the labels that it learns from, and what fits together."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sslcut.data.images import Images, Task
from sslcut.data.opening import Opened, class_task, class_task_name, learnt
from sslcut.errors import UsageError
from sslcut.methods.base import Method, enough
from sslcut.model.build import build
from sslcut.model.chain import Chain
from sslcut.names import HEAD_PARTS
from sslcut.registry import METHODS, UPDATES, uses_labels


def check_fit(document: Mapping[str, Any]) -> None:
    """Raise UsageError, before any work, where a method has too few views to compare or a head that it cannot use."""
    name, model = document["method"]["name"], document["model"]
    views = sum(crop["count"] for crop in document["views"]["crops"])
    enough(f"`{name}`", views, METHODS.literal(name, "min_views", 2))
    shown = document["views"]["task"] if document["views"]["positives"] == "label" else None
    if shown is not None and uses_labels(document["method"]) and shown != document["method"].get("task"):
        what = f"`views.task: {shown}` pairs other images than `{name}` learns the labels of"
        raise UsageError(what, hint=f"write `method.task: {shown}` too, or leave `views.task` out")
    needs = METHODS.literal(name, "needs", ())
    for part in needs:
        if not (given := model.get(part)) or given.get("widths") == []:
            raise UsageError(f"the method `{name}` needs a `model.{part}`", hint="leave it to the method's defaults")
    if "predictor" in needs and model["predictor"]["widths"][-1] != model["projector"]["widths"][-1]:
        aim, widths = model["projector"]["widths"][-1], model["predictor"]["widths"]
        raise UsageError(
            f"`{name}` compares the predictor's {widths[-1]} numbers with the projector's {aim}",
            hint=f"model.predictor.widths: {[*widths[:-1], aim]}",
        )
    check_update(document)


def check_update(document: Mapping[str, Any]) -> None:
    """Raise UsageError where the head cannot be moved as `head.update` says: there is none, or the loss forbids it."""
    method, model, train = document["method"]["name"], document["model"], document["train"]
    if document["head"]["update"]["name"] == "joint":
        return
    update, outer = plain_update(document), document["head"]["update"]["name"]
    name = update["name"]
    if name == "reset":
        raise UsageError("`head.update.then` is `reset` again", hint="write joint, or what else moves a head")
    parts = [part for part in HEAD_PARTS if (given := model.get(part)) and given.get("widths") != []]
    if not parts and not METHODS.literal(method, "needs_classifier", False):
        what = f"`head.update: {outer}` moves the head by itself, and the network has none"
        raise UsageError(what, hint="give it a `model.projector`, or write head.update: joint")
    if apart(update) and train["compile"] is True:
        what = f"`head.update: {name}` runs the head by itself, which `train.compile` does not reach"
        raise UsageError(what, hint="train.compile: false")
    if not second_order(update):
        return
    if METHODS.literal(method, "stops_gradient", False):
        raise UsageError(
            f"`head.update: {name}` differentiates the head's own steps, and `{method}` stops the gradient inside them",
            hint="head.update: alternating, or a method whose targets are a teacher's",
        )
    if train["precision"] == "bf16":
        raise UsageError(
            f"`head.update: {name}` takes second derivatives, for which bf16 is too coarse",
            hint="train.precision: float32, or auto",
        )


def plain_update(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe's `head.update`; of one that draws the head anew, how it moves in between."""
    update: Mapping[str, Any] = document["head"]["update"]
    return update["then"] if update["name"] == "reset" else update


def apart(update: Mapping[str, Any]) -> bool:
    """Whether an update runs the head by itself, on features that the backbone gave once."""
    return "inner" in update


def second_order(update: Mapping[str, Any]) -> bool:
    """Whether an update differentiates the head's own steps, which takes float32."""
    return bool(UPDATES.literal(update["name"], "second_order", False))


def make_method(document: Mapping[str, Any], opened: Opened) -> tuple[Method, Tensor | None]:
    """The method on a network with weights drawn from the recipe's seed, and its labels (N,) where it uses them.

    Raises InputError where a method that learns from labels would see what the probe later tests on.
    """
    torch.manual_seed(document["seed"])
    chain = build(model_document(document, class_count(document["method"], opened.train)))
    counted = counts_classes(document["method"])
    classes = len(task_of(document["method"], opened.train).classes) if counted else None
    method = method_on(chain, document["method"], classes)
    return method, labels_for(document["method"], opened) if method.uses_labels else None


def method_on(chain: Chain, chosen: Mapping[str, Any], classes: int | None) -> Method:
    """The method that a recipe's `method` section describes, on a network; `classes` only where it asks for them."""
    options = {key: value for key, value in chosen.items() if key != "name"}
    kind = METHODS.load(chosen["name"])
    if kind.needs_classes:
        options["classes"] = classes
    method: Method = kind(chain, **options)
    return method


def views_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's `views`, whose positives share the label that the method learns where they name none."""
    return {**document["views"], "task": document["views"]["task"] or document["method"].get("task")}


def labels_told(document: Mapping[str, Any], opened: Opened) -> str:
    """Which labels a training reads, as one would say it; empty where it reads none."""
    method, asked = document["method"], []
    if uses_labels(method):
        asked.append((method.get("task"), f"`{method['name']}`"))
    if document["views"]["positives"] == "label":
        asked.append((views_of(document)["task"], "`views.positives: label`"))
    names = dict.fromkeys(class_task_name(opened.train, task, who) for task, who in asked)
    return f"labels: {', '.join(f'`{name}`' for name in names)}" if names else ""


def labels_for(method: Mapping[str, Any], opened: Opened) -> Tensor:
    """The labels (N,) that a method which uses labels learns from; raises InputError as `learnt` does."""
    return learnt(opened, method.get("task"), f"`{method['name']}`").values


def task_of(method: Mapping[str, Any], images: Images) -> Task:
    """The class task that a method learns: its option `task`, else the first one. Raises InputError."""
    return class_task(images, method.get("task"), f"method `{method['name']}`")


def class_count(method: Mapping[str, Any], images: Images) -> int | None:
    """How many classes the network's classifier needs; None where the method has none."""
    return len(task_of(method, images).classes) if METHODS.literal(method["name"], "needs_classifier", False) else None


def counts_classes(method: Mapping[str, Any]) -> bool:
    """Whether how large a method or its network is depends on the number of classes."""
    return any(METHODS.literal(method["name"], needs, False) for needs in ("needs_classifier", "needs_classes"))


def model_document(document: Mapping[str, Any], classes: int | None) -> dict[str, Any]:
    """The recipe's `model` with the classifier that the method asks for: what `build` takes and a checkpoint stores."""
    needs = METHODS.literal(document["method"]["name"], "needs_classifier", False)
    return {**document["model"], "classifier": classes if needs else None}
