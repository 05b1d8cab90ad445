"""Export to torchvision: a state dict in safetensors that `torchvision.models` loads, less what was cut off."""

from collections.abc import Mapping
from typing import Any

from sslcut.foreign.exporting import (
    Checkpoint,
    Export,
    library_of,
    own_or_refused,
    own_width,
    packed,
    renamed,
    stock_fits,
    swapped,
    told_apart,
)

SUFFIX = "-torchvision.safetensors"
SAID = ("patch", "size", "depth", "heads", "pool", "positions")  # of a transformer, the last two without a tensor
HEADS = {"resnet": "fc.", "vit": "heads.head."}
NARROW = "ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])"  # torchvision names no ResNet-10
HEAD_WIDTH = 64  # of one head of attention, where a transformer does not say how many it has


def torchvision(checkpoint: Checkpoint) -> Export:
    """The network as torchvision's, of the same tensors: sslcut's names are torchvision's but for the classifier's.

    Raises InputError naming the tensor that a stock network of torchvision does not have.
    """
    own_or_refused(checkpoint, "torchvision")
    if not library_of(checkpoint.backbone):
        stock_fits(checkpoint, "torchvision", SAID)
    else:
        own_width(checkpoint, "torchvision")
    head = HEADS.get(checkpoint.backbone.partition("_")[0].rstrip("0123456789"), "classifier.")
    notes = (*told_apart(checkpoint, "torchvision"), *_reading(checkpoint), _loading(checkpoint))

    def make() -> bytes:
        table = [("classifier.", head)] if checkpoint.model.get("classifier") else []
        return packed(renamed(checkpoint.tensors(), lambda name: swapped(name, table)))

    return Export(SUFFIX, notes, make)


def _loading(checkpoint: Checkpoint) -> str:
    return f"loads into torchvision.models.{constructor(checkpoint)}: model.load_state_dict(…, strict=False)"


def constructor(checkpoint: Checkpoint) -> str:
    """The call in `torchvision.models` that makes the network which the file loads into."""
    name, options = checkpoint.backbone.removeprefix("torchvision:"), checkpoint.model["backbone"]
    if name == "resnet10":
        return NARROW
    return _transformer(checkpoint, options) if name.startswith("vit_") and "patch" in options else f"{name}()"


def _transformer(checkpoint: Checkpoint, options: Mapping[str, Any]) -> str:
    width = checkpoint.network.chain.cut("stem").width
    depth = sum(name.startswith("blocks.") for name in checkpoint.kept)
    heads = options.get("heads", width // HEAD_WIDTH)
    given = f"image_size={options['size']}, patch_size={options['patch']}, num_layers={depth}"
    return f"VisionTransformer({given}, num_heads={heads}, hidden_dim={width}, mlp_dim={4 * width})"


def _reading(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The notes on a transformer that torchvision reads in its own way: the class token after the norm, at one size."""
    if not checkpoint.network.chain.prefix_tokens:
        return ()
    options, size, notes = checkpoint.model["backbone"], checkpoint.network.input.size, []
    if checkpoint.layer != "pool" or options.get("pool", "cls") != "cls":
        notes.append(f"torchvision reads the class token after `encoder.ln`, not `{checkpoint.layer}` as here")
    if options.get("size", size) != size:
        notes.append(f"torchvision takes images of {options['size']} pixels alone, where {size} are read here")
    return tuple(notes)
