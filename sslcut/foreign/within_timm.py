"""A network in timm's words; and one that timm made and sslcut cut, as one that timm can make again."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from sslcut.errors import InputError
from sslcut.foreign.exporting import ANY_NETWORK, Checkpoint, library_of

MAP_POOLS = {"avg": "avg", "avg+max": "catavgmax"}
TOKEN_POOLS = {"cls": "token", "mean": "avg"}
FACTS = ("fixed_input_size", "pool_size", "first_conv", "classifier")


@dataclass(frozen=True)
class Made:
    """How timm makes a network: the architecture, the arguments, and the `FACTS` of its `pretrained_cfg`."""

    architecture: str
    arguments: Mapping[str, Any]
    facts: Mapping[str, Any]


def pooling(checkpoint: Checkpoint) -> str:
    """timm's word for the read-out; empty where it has none, and the model gives maps or tokens."""
    network = checkpoint.network
    tokens = network.chain.prefix_tokens > 0
    if checkpoint.layer == "pool":
        return TOKEN_POOLS[checkpoint.model["backbone"].get("pool", "cls")] if tokens else "avg"
    return (TOKEN_POOLS if tokens else MAP_POOLS).get(network.readout, "")


def smaller(checkpoint: Checkpoint) -> Made:
    """The architecture, and the arguments with which it has a timm checkpoint's very tensors.

    Raises InputError where timm builds no such network, naming a tensor that it would have beside them.
    """
    if find_spec("timm") is None:
        raise InputError("this network needs timm, which is not installed", hint="pip install 'sslcut[timm]'")
    import timm  # an extra, and seconds

    backbone = checkpoint.model["backbone"]
    architecture = backbone["name"].removeprefix(f"{library_of(backbone['name'])}:").partition(".")[0]
    own = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors().items()}
    surplus: list[str] = []
    for arguments in _candidates(checkpoint):
        told = {**(backbone.get("arguments") or {}), **arguments}
        try:
            with torch.device("meta"):
                model: Any = timm.create_model(architecture, num_classes=checkpoint.classes, **told)
        except (TypeError, AssertionError, RuntimeError):  # an architecture without these arguments
            continue
        theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if theirs == own:
            return Made(
                architecture, told, {key: model.pretrained_cfg[key] for key in FACTS if key in model.pretrained_cfg}
            )
        surplus = surplus or [name for name in theirs if name not in own]
    named = f"it would also have `{surplus[0]}`" if surplus else "its tensors have other names or shapes"
    what = f"timm builds no {architecture} that ends at `{checkpoint.layer}`: {named}"
    raise InputError(what, place=str(checkpoint.header.path), hint=f"cut elsewhere, or {ANY_NETWORK}")


def _candidates(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The arguments to try, in order: the architecture's own, then those of as many blocks as are kept."""
    pool = {} if checkpoint.layer in ("pool", "head") else {"global_pool": pooling(checkpoint)}
    depth = sum(name.startswith("blocks.") for name in checkpoint.kept)
    if not depth:
        return [pool]
    shorter = {**pool, "depth": depth, "final_norm": "norm" in checkpoint.kept}
    return [pool, shorter, {**shorter, "fc_norm": False}]
