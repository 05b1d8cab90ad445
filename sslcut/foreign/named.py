"""A pretrained network that torchvision, timm or a hub knows by its name, fetched by that library."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sslcut import header
from sslcut.errors import InputError
from sslcut.events import Event, Note, Plan, Result
from sslcut.foreign.imported import Imported
from sslcut.foreign.saving import save
from sslcut.libraries import check_named
from sslcut.model.build import blueprint, build
from sslcut.model.chain import Chain
from sslcut.model.cost import costs
from sslcut.model.network import Input
from sslcut.model.published import About, about, fetched, unfetched
from sslcut.names import part_of
from sslcut.rundir import RunDir

CLOSE = 1e-4  # of the largest number: what two orders of the same sums may differ by


def bring(
    name: str, target: Path, *, run: RunDir | None = None, force: bool = False, dry_run: bool = False
) -> Iterator[Event]:
    """Fetch a network and save it at `target`, as `saving.save` does; one that is there already is not fetched again.

    Raises UsageError for a name that is not known, AbsentError where it cannot be fetched.
    """
    check_named(name)
    there = not force and _is_of(target, name)
    if dry_run:
        yield Plan(f"would {'keep' if there else 'write'} {target}" + ("" if there else f", fetched as {name}"))
    elif there:
        yield Note(f"{target} is {name} already")
        yield Result(str(target), {"identity": header.read(target).identity})
    else:
        yield Note(f"fetching {name}")
        yield from save(fetch(name), target, run=run, force=force)


def fetch(name: str, *, pretrained: bool = True) -> Imported:
    """The network with the library's published weights, or newly drawn ones, its classifier included.

    Raises UsageError for a name that is not known, InputError for a network that cannot be divided into blocks,
    AbsentError where it cannot be fetched.
    """
    check_named(name)
    told = about(name)
    model = _model(name, told)
    notes: tuple[str, ...] = ()
    if pretrained:
        chain = blueprint(model)
        network = fetched(name, {})
        notes = _filled(chain, network, name)
        _check(chain.eval(), network, told, name)
    else:
        chain = build(model).eval()
    if part_of(chain.names[-1]) == "backbone":
        model["backbone"]["classes"] = 0
    source = {"library": name.partition(":")[0], "version": told.version, "name": name, "weights": told.weights}
    return Imported(model, chain, "vector", Input(told.size, told.mean, told.std), source, notes)


def outline(name: str) -> dict[str, Any]:
    """What a checkpoint of the network would say of its model, blocks, read-out and input: no weight is fetched."""
    check_named(name)
    told = about(name)
    model = _model(name, told)
    chain = blueprint(model)
    input = Input(told.size, told.mean, told.std)
    return {"model": model, "chain": _costs(chain, told.size), "readout": "vector", "input": input.document()}


def _costs(chain: Chain, size: int) -> list[dict[str, Any]]:
    keys = ("name", "width", "spatial", "parameters", "flops")
    return [{key: getattr(cost, key) for key in keys} for cost in costs(chain, size)]


def _model(name: str, told: About) -> dict[str, Any]:
    return {"backbone": unfetched({"name": name, "pretrained": False, "classes": told.classes})}


def _is_of(target: Path, name: str) -> bool:
    """Whether a checkpoint is this very network as it was imported."""
    try:
        history = header.read_network(target).document["history"]
    except InputError:
        return False
    return len(history) == 1 and history[0].get("options", {}).get("name") == name


def _filled(chain: Chain, network: nn.Module, name: str) -> tuple[str, ...]:
    """Give the chain the network's weights; says which tensors nothing reads."""
    weights = network.state_dict()
    wanted = chain.tensors()
    chain.load_tensors({key: weights[key] for key in wanted if key in weights}, name)
    left = [key for key in weights if key not in wanted]
    parts = ", ".join(dict.fromkeys(key.split(".")[0] for key in left))
    return (f"left out {len(left)} tensors, which the network does not use to describe an image: {parts}",) * bool(left)


def _check(chain: Chain, network: nn.Module, told: About, name: str) -> None:
    """Raise InputError unless the blocks in a row give what the library's own forward gives."""
    images = torch.randn(2, 3, told.size, told.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = chain(images), network(images)
        if found.shape != wanted.shape and hasattr(network, "forward_head"):
            own: Any = network
            wanted = own.forward_head(own.forward_features(images), pre_logits=True)
    if found.shape != wanted.shape or not torch.allclose(found, wanted, atol=CLOSE * float(wanted.abs().max())):
        raise InputError(f"{name}: its blocks one after the other do not give what the library's own forward gives")
