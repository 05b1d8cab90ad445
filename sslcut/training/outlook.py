"""What a training will do and take, told before it is begun."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sslcut.data.images import describe
from sslcut.data.opening import open_data, view_maker
from sslcut.data.samplers import Sampler
from sslcut.errors import AbsentError
from sslcut.events import Event, Plan, Warn
from sslcut.methods.making import (
    counts_classes,
    labels_for,
    method_on,
    model_document,
    task_of,
    views_of,
)
from sslcut.model.build import blueprint, build, settled
from sslcut.model.cost import costs
from sslcut.recipe import Recipe
from sslcut.registry import uses_labels
from sslcut.training.estimate import BYTES, memory
from sslcut.training.online import asked_taps
from sslcut.training.passes import beside_joint, far_from_matched, matched, passes_of, work_of
from sslcut.training.prepared import input_of

USUAL = 224  # pixels a side, where neither the recipe nor the data says


@dataclass(frozen=True)
class Scale:
    """How large the images are, how many a training sees an epoch (None where nobody knows), of how many classes."""

    size: int
    images: int | None
    classes: int


def plan(recipe: Recipe, device: torch.device) -> Generator[Event, None, int]:
    """What training by the recipe would do: data, network, steps; data that is not here is a warning.

    Returns about how many bytes its checkpoint will have; 0 where the network is not here.
    """
    document = recipe.dump()
    scale = yield from _data(document)
    model = model_document(document, scale.classes)
    if model["backbone"].get("pretrained"):
        yield Warn(f"the weights of {model['backbone']['name']} are fetched by its library when the training starts")
    try:
        blocks = costs(blueprint(model), scale.size)
    except AbsentError as absent:
        yield Warn(f"the network is not here: {absent}")
        return 0
    train = document["train"]
    if train["online"] is not None:
        taps = asked_taps(train["online"]["layers"], [block.name for block in blocks])
        yield Plan(f"online probes: {', '.join(taps)}")
    parameters, flops = sum(b.parameters for b in blocks), sum(b.flops for b in blocks)
    yield Plan(f"network: {len(blocks)} blocks, {parameters:,} parameters, {flops / 1e6:,.1f} million FLOPs an image")
    yield Plan(f"memory: {memory(document, model, scale.size, scale.classes)} at batch {train['batch_size']}")
    if document["head"]["update"]["name"] != "joint":
        train = yield from _head(document, model, scale)
    sampler = Sampler(scale.images, train["batch_size"], document["seed"]) if scale.images else None
    told = "as many steps as the data gives" if sampler is None else f"{sampler.steps * train['epochs']:,} steps"
    length = f"{train['epochs']} epoch{'s' * (train['epochs'] != 1)}, {told}"
    yield Plan(f"training: {document['method']['name']}, {length}, on {device}")
    return BYTES * parameters


def _data(document: Mapping[str, Any]) -> Generator[Event, None, Scale]:
    """The scale of the data; of data that is not here as far as the recipe tells it."""
    data, method = document["data"], document["method"]
    try:
        opened = yield from open_data(data, document["seed"])
    except AbsentError as absent:
        yield Warn(f"the data is not here: {absent}")
        if counts_classes(method):
            yield Warn("how many classes there are only the data can tell: 2 are counted")
        size = document["views"]["crops"][0]["size"] or data.get("size") or USUAL
        images = round(data["train"] * (1 - data["validation"])) if data.get("train") else None
        return Scale(size, images, 2)
    if uses_labels(method):
        labels_for(method, opened)
    view_maker(views_of(document), opened, document["seed"])
    yield Plan(f"data: {describe(opened.dataset)}")
    classes = len(task_of(method, opened.train).classes) if counts_classes(method) else 2
    return Scale(input_of(document, opened).size, len(opened.train), classes)


def _head(
    document: Mapping[str, Any], model: Mapping[str, Any], scale: Scale
) -> Generator[Event, None, Mapping[str, Any]]:
    """What an update of the head costs beside `joint`; returns the `train` section that is matched to that."""
    update, train = document["head"]["update"], document["train"]
    taken = passes_of(update)
    method = method_on(build(settled(model)), document["method"], scale.classes)
    ratio = beside_joint(update, work_of(method, document["views"]["crops"], scale.size, train["batch_size"]))
    yield Plan(
        f"head: {update['name']}, {taken.backbone} passes of the backbone and {taken.head} of the head, "
        f"{ratio:.2f} × the operations of joint"
    )
    fitted = matched(train, ratio)
    if far := far_from_matched(train, fitted["epochs"], ratio):
        yield Warn(far)
    return fitted
