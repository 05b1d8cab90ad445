"""What a training starts from: how images are fed to the network, and in which precision it computes."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sslcut.data.images import Images
from sslcut.data.opening import Opened, open_data, view_maker
from sslcut.data.samplers import Sampler
from sslcut.data.views import ViewMaker, Views
from sslcut.events import Event
from sslcut.methods.base import Method
from sslcut.methods.making import (
    apart,
    check_fit,
    make_method,
    plain_update,
    second_order,
    views_of,
)
from sslcut.model.network import Input
from sslcut.model.published import about
from sslcut.options import Options
from sslcut.recipe import Recipe
from sslcut.training.compiled import worth_compiling
from sslcut.training.remember import remembered
from sslcut.training.world import Precision, choose_device, choose_precision, use_threads


def as_published(opened: Opened, backbone: Mapping[str, Any]) -> Opened:
    """The data, normalised as a pretrained backbone was when its library trained it."""
    if not backbone.get("pretrained"):
        return opened
    told = about(backbone["name"])
    return replace(opened, mean=told.mean, std=told.std)


def input_of(document: Mapping[str, Any], opened: Opened) -> Input:
    """What the network will expect: the global crops' size, and the training images' statistics."""
    size = document["views"]["crops"][0]["size"] or opened.dataset.train.size
    return Input(size, opened.mean, opened.std)


def arithmetic(recipe: Recipe, options: Options) -> Generator[Event, None, Precision]:
    """The precision that the recipe's training would choose here; nothing is trained."""
    device, document = choose_device(options.device), recipe.dump()
    check_fit(document)
    use_threads(options.threads)
    opened = yield from open_data(document["data"], document["seed"])
    opened = as_published(opened, document["model"]["backbone"])
    method, labels = make_method(document, opened)
    views = view_maker(views_of(document), opened, document["seed"])
    return decided(document, method.to(device), opened.train, labels, views)


def compilable(document: Mapping[str, Any]) -> bool:
    """Whether torch.compile reaches all that a recipe's training does."""
    return document["train"]["online"] is None and not apart(plain_update(document))


def decided(
    document: Mapping[str, Any], method: Method, images: Images, labels: Tensor | None, views: ViewMaker
) -> Precision:
    """The recipe's precision; for `auto` the one found earlier on this machine, else measured on the first batch.

    So it is with `compile: auto`. What takes second derivatives takes float32, without being measured.
    """
    train = document["train"]
    asked, batch = train["precision"], train["batch_size"]
    if second_order(plain_update(document)):
        asked = "float32"
    device, first = next(method.parameters()).device, torch.arange(min(batch, len(images)))

    def sample() -> tuple[Views, Tensor | None]:
        shown = views(images.read(views.shown(first, 0)).to(device), first.to(device), 0)
        return shown, labels[first].to(device) if labels is not None else None

    task = {key: document[key] for key in ("model", "method", "views")}
    task |= {"batch": len(first), "size": images.size}
    if asked == "auto":
        found = remembered(task, device, lambda: choose_precision(asked, method, *sample()))
    else:
        found = choose_precision(asked, method, *sample())
    steps = train["epochs"] * Sampler(len(images), batch, document["seed"]).steps
    if train["compile"] != "auto" or not compilable(document) or not steps:
        return found
    longer = {**task, "precision": found.name, "steps": steps}
    return remembered(longer, device, lambda: worth_compiling(found, method, *sample(), steps))
