"""How the blocks of a network are named, and what a name that a user writes means.

A network is an ordered chain of blocks: the backbone's (`stem`, `layer1.0`, …, `pool`), then the head's
(`projector.0`, …, `predictor.0`, …, then `prototypes` or `classifier`). Needs no torch, since a checkpoint is cut from
its header alone.
"""

from collections.abc import Sequence

from sslcut.errors import UsageError, suggestion

HEAD_PARTS = ("projector", "predictor", "prototypes", "classifier")
UNMEASURED = ("prototypes", "classifier")
LIBRARIES = ("timm:", "torchvision:", "hf-hub:")

RESIZABLE = ("resnet", "vit_", *(f"torchvision:{kind}" for kind in ("resnet", "vit_", "convnext_")))
"""How the backbones begin whose last block can have another width."""
STOCK = ("resnet18", "resnet34", "resnet50", "resnet101")  # of torchvision's ResNets those that are sslcut's own


def can_resize(backbone: str) -> bool:
    """Whether a backbone's last block can have another width than its architecture gives it."""
    library, colon, network = backbone.partition(":")
    stock = not colon or not network.startswith("resnet") or network.partition(".")[0] in STOCK
    return backbone.startswith(RESIZABLE) and stock


def not_resizable(backbone: str, what: str) -> UsageError:
    """The fault of a backbone whose last block is to be changed and cannot be; `what` names the change."""
    hint = "those of resnet…, vit_…, torchvision:resnet18|34|50|101, torchvision:vit_… and torchvision:convnext_… can"
    return UsageError(f"{what}: the last block of `{backbone}` has one width", hint=hint)


def is_named(text: str) -> bool:
    """Whether INPUT names a pretrained model of a library, such as `timm:resnet18`, and not a path."""
    return text.startswith(LIBRARIES)


def part_of(name: str) -> str:
    """`backbone`, or the part of the head that a block belongs to."""
    first = name.split(".")[0]
    return first if first in HEAD_PARTS else "backbone"


def backbone_end(names: Sequence[str]) -> str:
    """The backbone's last block among `names`, which is what `backbone` means."""
    return [name for name in names if part_of(name) == "backbone"][-1]


def measured(names: Sequence[str]) -> list[str]:
    """The blocks that a probe reads when a recipe says `layers: all`: every one but class weights."""
    return [name for name in names if part_of(name) not in UNMEASURED]


def resolve(asked: str | int, names: Sequence[str]) -> str:
    """The block that `asked` means: a block's name, a group of blocks (its last one), or a negative count.

    `layer4` is its last block, `backbone` the backbone's last, `projector` the projector's last; `-2` drops the last
    two. Raises UsageError with the nearest name.
    """
    text = str(asked).strip()
    if text in names:
        return text
    if text == "backbone":
        return backbone_end(names)
    if text.startswith("-") and text[1:].isdigit():
        dropped = int(text[1:])
        if 0 < dropped < len(names):
            return names[len(names) - dropped - 1]
        raise UsageError(f"layer {text} drops {dropped} of {len(names)} blocks", hint=f"-1 … -{len(names) - 1}")
    group = [name for name in names if name.startswith(f"{text}.")]
    if group:
        return group[-1]
    groups = dict.fromkeys(name.split(".")[0] for name in names)
    known = [*names, *(g for g in groups if g not in names), "backbone"]
    raise UsageError(f"unknown layer `{text}`", hint=suggestion(text, known, "layers"))


READOUTS = {2: ("avg", "grid2", "avg+max"), 1: ("cls", "mean", "cls+mean"), 0: ("vector",)}
"""How a block's output becomes a vector, by its number of spatial sides: a map (H, W), tokens (T), a vector."""

NORM = "norm"  # the block of a network of tokens that normalises what its last block gives
_NORMED = "-normed"


def normed(readout: str) -> str:
    """The read-out of tokens that first pass the network's final norm: `cls-normed`, `mean-normed`, …"""
    return readout if is_normed(readout) else readout + _NORMED


def is_normed(readout: str) -> bool:
    """Whether a read-out takes tokens through the network's final norm first."""
    return readout.endswith(_NORMED)


def bare(readout: str) -> str:
    """The read-out of what the final norm gives: `cls` for `cls-normed`; another is itself."""
    return readout.removesuffix(_NORMED)


def norm_behind(block: str, names: Sequence[str], widths: Sequence[int]) -> bool:
    """Whether the chain's final norm stands behind a block and is as wide, so that tokens can pass it at once."""
    at = names.index(block)
    return NORM in names[at + 1 :] and widths[names.index(NORM)] == widths[at]


def fitting_readouts(sides: int, *, norm: bool = False, class_token: bool = True) -> tuple[str, ...]:
    """The read-outs of a block with so many spatial sides, the usual one first.

    `norm` says whether the final norm stands behind it, `class_token` whether there is one among the tokens.
    """
    known = READOUTS[sides]
    if sides != 1:
        return known
    known = known if class_token else ("mean",)
    return (*known, *map(normed, known)) if norm else known


def check_readout(readout: str, sides: int, block: str, *, norm: bool = False, class_token: bool = True) -> str:
    """`readout` where it fits a block (see `fitting_readouts`); else a UsageError that names those that do."""
    known = fitting_readouts(sides, norm=norm, class_token=class_token)
    if readout not in known:
        kind = {2: "a map", 1: "tokens", 0: "a vector"}[sides]
        if is_normed(readout) and sides == 1:
            kind += f" with no `{NORM}` of their width behind them"
        raise UsageError(
            f"read-out `{readout}` does not fit block `{block}`, which gives {kind}",
            hint=suggestion(readout, known, "read-outs"),
        )
    return readout
