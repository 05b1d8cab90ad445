"""Export to timm: a folder with `config.json` and `model.safetensors`, for `timm.create_model('local-dir:FOLDER')`.

A cut network is one that timm builds smaller: a transformer with less depth, a ResNet whose last stages have fewer
blocks or none.
"""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sslcut.errors import InputError
from sslcut.foreign.exporting import (
    ANY_NETWORK,
    Checkpoint,
    Export,
    library_of,
    own_or_refused,
    packed,
    renamed,
    stock_fits,
    swapped,
    told_apart,
)
from sslcut.foreign.within_timm import smaller

SUFFIX = "-timm"
RESNETS = {  # timm's name, and how many blocks each stage has
    "resnet10": ("resnet18", (1, 1, 1, 1)),  # which timm has under no name of its own
    "resnet18": ("resnet18", (2, 2, 2, 2)),
    "resnet34": ("resnet34", (3, 4, 6, 3)),
    "resnet50": ("resnet50", (3, 4, 6, 3)),
    "resnet101": ("resnet101", (3, 4, 23, 3)),
}
EXPANSIONS = {"resnet50": 4, "resnet101": 4}  # of a bottleneck; a basic block's is 1
CHANNELS = (64, 128, 256, 512)
TRANSFORMERS = {
    "vit_ti": "vit_tiny_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
}
SAID = ("patch", "size", "depth", "pool")
INNER = (
    ("ln_1.", "norm1."),
    ("ln_2.", "norm2."),
    ("self_attention.in_proj_", "attn.qkv."),
    ("self_attention.out_proj.", "attn.proj."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.3.", "mlp.fc2."),
)
OUTER = (
    ("class_token", "cls_token"),
    ("conv_proj.", "patch_embed.proj."),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.ln.", "norm."),
    ("classifier.", "head."),
)
LAYER = "encoder.layers.encoder_layer_"
MAP_POOLS = {"avg": "avg", "avg+max": "catavgmax"}
TOKEN_POOLS = {"cls": "token", "mean": "avg"}


def timm(checkpoint: Checkpoint) -> Export:
    """The network as timm's: architecture, what its constructor is told, and the tensors by timm's names.

    The model that timm creates takes normalised images and gives the read-out's vector, or the logits of the
    classifier. Raises InputError naming what timm cannot build.
    """
    own_or_refused(checkpoint, "timm")
    if library_of(checkpoint.backbone):
        architecture, arguments = smaller(checkpoint)
        tensors = checkpoint.tensors()
    elif checkpoint.backbone in RESNETS:
        stock_fits(checkpoint, "timm", SAID)
        architecture, arguments = _resnet(checkpoint)
        tensors = renamed(checkpoint.tensors(), lambda name: swapped(name, [("classifier.", "fc.")]))
    else:
        stock_fits(checkpoint, "timm", SAID)
        architecture, arguments = _transformer(checkpoint)
        tensors = renamed(checkpoint.tensors(), transformer_name)
    pool = pooling(checkpoint)
    notes = told_apart(checkpoint, "timm")
    if not pool:
        readout, layer = checkpoint.network.readout, checkpoint.network.names[-1]
        notes += (f"timm has no read-out `{readout}`: its model gives the output of `{layer}` as it is",)
    arguments = {**arguments, "global_pool": pool}
    return Export(SUFFIX, notes, lambda: _folder(checkpoint, architecture, arguments, tensors))


def _folder(
    checkpoint: Checkpoint, architecture: str, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, bytes]:
    described = config(checkpoint, architecture, arguments)
    return {"config.json": f"{json.dumps(described, indent=2)}\n".encode(), "model.safetensors": packed(tensors)}


def config(checkpoint: Checkpoint, architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.json` says: the architecture with its arguments, and the images that it wants to be fed."""
    given = checkpoint.network.input
    transformer = checkpoint.network.chain.prefix_tokens > 0
    return {
        "architecture": architecture,
        "num_classes": checkpoint.classes,
        "num_features": checkpoint.network.chain.cut(checkpoint.layer).width,
        "global_pool": arguments["global_pool"],
        "model_args": dict(arguments),
        "pretrained_cfg": {
            "input_size": [3, given.size, given.size],
            "fixed_input_size": transformer and not arguments.get("dynamic_img_size", False),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(given.mean),
            "std": list(given.std),
            "num_classes": checkpoint.classes,
            "pool_size": _last_map(checkpoint),
            "first_conv": "patch_embed.proj" if transformer else "conv1",
            "classifier": "head" if transformer else "fc",
        },
    }


def _last_map(checkpoint: Checkpoint) -> list[int] | None:
    """The sides of the last map that the network pools; None for tokens."""
    sides = [block["spatial"] for block in checkpoint.header.document["chain"] if len(block["spatial"]) == 2]
    return None if checkpoint.network.chain.prefix_tokens else sides[-1]


def _resnet(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    """timm's name and arguments: as many blocks a stage as are kept, a stage of none passing its input on.

    The channels of an empty stage are those of the one before, from which timm tells the width of the features.
    Raises InputError for a single block, by whose number less one timm divides.
    """
    architecture, stock = RESNETS[checkpoint.backbone]
    kept = checkpoint.kept
    layers = [sum(name.startswith(f"layer{stage}.") for name in kept) for stage in range(1, len(stock) + 1)]
    if tuple(layers) == stock and checkpoint.backbone == architecture:
        return architecture, {}
    if sum(layers) == 1:
        what = f"timm builds no ResNet that ends at its first block, `{checkpoint.layer}`"
        raise InputError(what, place=str(checkpoint.header.path), hint=f"cut elsewhere, or {ANY_NETWORK}")
    stages = sum(count > 0 for count in layers)
    stem = CHANNELS[0] // EXPANSIONS.get(checkpoint.backbone, 1)  # whose 64 channels are all that timm is left with
    last = CHANNELS[stages - 1] if stages else stem
    return architecture, {"layers": layers, "channels": [*CHANNELS[:stages], *[last] * (len(layers) - stages)]}


def _transformer(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    """timm's name and arguments: the depth that is kept, and the final norm only where it is."""
    options, names = checkpoint.model["backbone"], checkpoint.network.names
    depth = sum(name.startswith("blocks.") for name in names)
    arguments = {"img_size": options["size"], "patch_size": options["patch"], "depth": depth}
    arguments |= {"final_norm": "norm" in names, "fc_norm": False}  # ours is before pooling, whatever pools
    if options["size"] != checkpoint.network.input.size:
        arguments["dynamic_img_size"] = True
    return TRANSFORMERS[checkpoint.backbone], arguments


def transformer_name(name: str) -> str:
    """timm's name of a transformer's tensor."""
    if not name.startswith(LAYER):
        return swapped(name, OUTER)
    index, _, rest = name.removeprefix(LAYER).partition(".")
    return f"blocks.{index}.{swapped(rest, INNER)}"


def pooling(checkpoint: Checkpoint) -> str:
    """timm's word for the read-out; empty where it has none, and the model gives maps or tokens."""
    network = checkpoint.network
    tokens = network.chain.prefix_tokens > 0
    if checkpoint.layer == "pool":
        return TOKEN_POOLS[checkpoint.model["backbone"].get("pool", "cls")] if tokens else "avg"
    return (TOKEN_POOLS if tokens else MAP_POOLS).get(network.readout, "")
