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
from sslcut.foreign.within_timm import Made, pooling, smaller

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
    "vit_l": "vit_large_patch16_224",
}
SAID = ("patch", "size", "depth", "heads", "pool", "registers", "layer_scale", "qkv_bias")
TOLD = {"heads": "num_heads", "layer_scale": "init_values", "qkv_bias": "qkv_bias"}  # by timm's name of the argument
INNER = (
    ("ln_1.", "norm1."),
    ("ln_2.", "norm2."),
    ("self_attention.in_proj_", "attn.qkv."),
    ("self_attention.out_proj.", "attn.proj."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.3.", "mlp.fc2."),
    ("layer_scale_1", "ls1.gamma"),
    ("layer_scale_2", "ls2.gamma"),
)
OUTER = (
    ("class_token", "cls_token"),
    ("register_tokens", "reg_token"),
    ("conv_proj.", "patch_embed.proj."),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.ln.", "norm."),
    ("classifier.", "head."),
)
LAYER = "encoder.layers.encoder_layer_"


def timm(checkpoint: Checkpoint) -> Export:
    """The network as timm's: architecture, what its constructor is told, and the tensors by timm's names.

    The model that timm creates takes normalised images and gives the read-out's vector, or the logits of the
    classifier. Raises InputError naming what timm cannot build.
    """
    own_or_refused(checkpoint, "timm")
    if library_of(checkpoint.backbone):
        made, tensors = smaller(checkpoint), checkpoint.tensors()
    elif checkpoint.backbone in RESNETS:
        stock_fits(checkpoint, "timm", SAID)
        made = _resnet(checkpoint)
        tensors = renamed(checkpoint.tensors(), lambda name: swapped(name, [("classifier.", "fc.")]))
    else:
        fixed = checkpoint.model["backbone"]["size"] == checkpoint.network.input.size
        stock_fits(checkpoint, "timm", (*SAID, "positions") if fixed else SAID)
        made, tensors = _transformer(checkpoint), renamed(_positions_apart(checkpoint), transformer_name)
    notes = told_apart(checkpoint, "timm")
    if made.arguments.get("global_pool") == "":
        readout, layer = checkpoint.network.readout, checkpoint.layer
        notes += (f"timm has no read-out `{readout}`: its model gives the output of `{layer}` as it is",)
    return Export(SUFFIX, notes, lambda: _folder(checkpoint, made, tensors))


def _folder(checkpoint: Checkpoint, made: Made, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    described = json.dumps(config(checkpoint, made), indent=2)
    return {"config.json": f"{described}\n".encode(), "model.safetensors": packed(tensors)}


def config(checkpoint: Checkpoint, made: Made) -> dict[str, Any]:
    """What `config.json` says: the architecture with its arguments, and the images that it wants to be fed."""
    given = checkpoint.network.input
    pool = {"global_pool": made.arguments["global_pool"]} if "global_pool" in made.arguments else {}
    return {
        "architecture": made.architecture,
        "num_classes": checkpoint.classes,
        "num_features": checkpoint.network.chain.cut(checkpoint.layer).width,
        **pool,
        "model_args": dict(made.arguments),
        "pretrained_cfg": {
            "input_size": [3, given.size, given.size],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(given.mean),
            "std": list(given.std),
            "num_classes": checkpoint.classes,
            **made.facts,
        },
    }


def _last_map(checkpoint: Checkpoint) -> list[int]:
    """The sides of the last map that the network pools."""
    return [block["spatial"] for block in checkpoint.header.document["chain"] if len(block["spatial"]) == 2][-1]


def _resnet(checkpoint: Checkpoint) -> Made:
    """timm's name and arguments: as many blocks a stage as are kept, a stage of none passing its input on.

    The channels of an empty stage are those of the one before, from which timm tells the width of the features.
    Raises InputError for a single block, by whose number less one timm divides.
    """
    architecture, stock = RESNETS[checkpoint.backbone]
    kept = checkpoint.kept
    layers = [sum(name.startswith(f"layer{stage}.") for name in kept) for stage in range(1, len(stock) + 1)]
    facts = {"pool_size": _last_map(checkpoint), "first_conv": "conv1", "classifier": "fc"}
    arguments: dict[str, Any] = {"global_pool": pooling(checkpoint)}
    if tuple(layers) == stock and checkpoint.backbone == architecture:
        return Made(architecture, arguments, facts)
    if sum(layers) == 1:
        what = f"timm builds no ResNet that ends at its first block, `{checkpoint.layer}`"
        raise InputError(what, place=str(checkpoint.header.path), hint=f"cut elsewhere, or {ANY_NETWORK}")
    stages = sum(count > 0 for count in layers)
    stem = CHANNELS[0] // EXPANSIONS.get(checkpoint.backbone, 1)  # whose 64 channels are all that timm is left with
    last = CHANNELS[stages - 1] if stages else stem
    arguments |= {"layers": layers, "channels": [*CHANNELS[:stages], *[last] * (len(layers) - stages)]}
    return Made(architecture, arguments, facts)


def _transformer(checkpoint: Checkpoint) -> Made:
    """timm's name and arguments: the depth that is kept, and the final norm only where it is."""
    options, names = checkpoint.model["backbone"], checkpoint.network.names
    depth = sum(name.startswith("blocks.") for name in names)
    arguments = {"img_size": options["size"], "patch_size": options["patch"], "depth": depth}
    arguments |= {"final_norm": "norm" in names, "fc_norm": False}  # ours is before pooling, whatever pools
    arguments |= {told: options[key] for key, told in TOLD.items() if options.get(key) is not None}
    if options.get("registers"):
        arguments |= {"reg_tokens": options["registers"], "no_embed_class": True}
    fixed = options["size"] == checkpoint.network.input.size
    if not fixed:
        arguments["dynamic_img_size"] = True
    facts = {"fixed_input_size": fixed, "first_conv": "patch_embed.proj", "classifier": "head"}
    return Made(TRANSFORMERS[checkpoint.backbone], {**arguments, "global_pool": pooling(checkpoint)}, facts)


def _positions_apart(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors; where there are registers, which have no positions, the class token with its own added to it.

    timm gives positions either to every token before the patches, or to none.
    """
    tensors = checkpoint.tensors()
    if checkpoint.model["backbone"].get("registers"):
        positions = tensors["encoder.pos_embedding"]  # (1, 1 + patches, D)
        tensors["class_token"] = tensors["class_token"] + positions[:, :1]
        tensors["encoder.pos_embedding"] = positions[:, 1:]
    return tensors


def transformer_name(name: str) -> str:
    """timm's name of a transformer's tensor."""
    if not name.startswith(LAYER):
        return swapped(name, OUTER)
    index, _, rest = name.removeprefix(LAYER).partition(".")
    return f"blocks.{index}.{swapped(rest, INNER)}"
