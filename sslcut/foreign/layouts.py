"""How libraries name the tensors of a backbone, and how those names become ours, which are torchvision's.

A layout says nothing of who trained the network: that is a dialect's part (`sslcut.foreign.dialects`).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sslcut.errors import InputError

Renames = tuple[tuple[str, str], ...]
"""Patterns and what they become, applied one after the other; see `re.sub`."""


@dataclass(frozen=True)
class Layout:
    """How a library names a backbone's tensors below one root (`backbone.`, `module.encoder_q.`, or nothing).

    `sign` matches the names of its blocks, `beside` the beginning of names that stand beside them. `classifier` turns
    the root into the class weights' prefix. `ignored` are tensors that no read-out needs.
    """

    family: Literal["resnet", "vit"]
    sign: str
    beside: tuple[str, ...]
    renames: Renames = ()
    classifier: tuple[str, str] = ("$", "fc.")
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Root:
    """A network in a file: the layout of its names, and the prefix that they all have."""

    layout: Layout
    prefix: str


@dataclass(frozen=True)
class Named:
    """A tensor under a name of ours, and what it is called in its file: several names where it is joined of several."""

    tensor: Tensor
    origins: tuple[str, ...]

    @property
    def origin(self) -> str:
        """The first of its names in the file."""
        return self.origins[0]


_BLOCK = r"encoder.layers.encoder_layer_\1."
_ATTENTION = "self_attention."
_TIMM: Renames = (
    (r"^cls_token$", "class_token"),
    (r"^reg_token$", "register_tokens"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^norm\.", "encoder.ln."),
    (r"^blocks\.\d+\.(\d+)\.(?=norm|attn|ls|mlp)", _BLOCK),  # DINOv2 saves its blocks in chunks
    (r"^blocks\.(\d+)\.", _BLOCK),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.(weight|bias)$", rf".{_ATTENTION}in_proj_\1"),
    (r"\.attn\.proj\.", rf".{_ATTENTION}out_proj."),
    (r"\.ls([12])\.gamma$", r".layer_scale_\1"),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)
_EMBEDDINGS: Renames = (
    (r"^embeddings\.cls_token$", "class_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "encoder.pos_embedding"),
    (r"^embeddings\.patch_embeddings\.projection\.", "conv_proj."),
    (r"^layernorm\.", "encoder.ln."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", _BLOCK),
    (r"\.attention\.attention\.(query|key|value)\.", rf".{_ATTENTION}\1."),
    (r"\.attention\.output\.dense\.", rf".{_ATTENTION}out_proj."),
    # since version 5 a network in memory has these names, and its files the ones above
    *((rf"\.attention\.{word[0]}_proj\.", f".{_ATTENTION}{word}.") for word in ("query", "key", "value")),
    (r"\.attention\.o_proj\.", rf".{_ATTENTION}out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)
_VIT: Renames = (
    *_EMBEDDINGS,
    (r"\.layernorm_before\.", ".ln_1."),
    (r"\.layernorm_after\.", ".ln_2."),
    (r"\.intermediate\.dense\.", ".mlp.0."),
    (r"\.output\.dense\.", ".mlp.3."),
)
_DINOV2: Renames = (
    *_EMBEDDINGS,
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.layer_scale([12])\.lambda1$", r".layer_scale_\1"),
)
_TORCHVISION_VIT: Renames = ((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3."))

_FIRST = ("0.weight", "1.running_mean")


def _numbered(first: int) -> Renames:
    """The names of a `nn.Sequential` of a ResNet's children, whose stages begin at number `first`."""
    stages = tuple((rf"^{first + stage}\.", f"layer{stage + 1}.") for stage in range(4))
    return (*stages, (r"^0\.", "conv1."), (r"^1\.", "bn1."), (r"\.shortcut\.", ".downsample."))


LAYOUTS: Mapping[str, Layout] = {
    "torchvision ResNet": Layout(
        "resnet", r"layer[1-4]\.\d+\.", ("conv1.", "bn1."), ((r"\.shortcut\.", ".downsample."),)
    ),
    "Sequential of lightly's ResNet": Layout("resnet", r"[23]\.\d+\.(?:conv|bn)\d\.", _FIRST, _numbered(2)),
    "Sequential of torchvision's ResNet": Layout("resnet", r"[4-7]\.\d+\.(?:conv|bn)\d\.", _FIRST, _numbered(4)),
    "torchvision ViT": Layout(
        "vit",
        r"encoder\.layers\.encoder_layer_\d+\.",
        ("conv_proj.", "class_token", "encoder.pos_embedding"),
        _TORCHVISION_VIT,
        classifier=("$", "heads.head."),
    ),
    "timm ViT": Layout(
        "vit",
        r"blocks\.\d+\.(?:\d+\.)?(?:norm1|attn|norm2|mlp)\.",
        ("patch_embed.proj.", "cls_token", "pos_embed"),
        _TIMM,
        classifier=("$", "head."),
        ignored=(r"mask_token$",),
    ),
    "transformers DINOv2": Layout(
        "vit",
        r"(?:encoder\.)?layers?\.\d+\.(?:norm1|layer_scale1)\b",
        ("embeddings.",),
        _DINOV2,
        classifier=(r"dinov2(?:_with_registers)?\.$", "classifier."),
        ignored=(r"embeddings\.mask_token$",),
    ),
    "transformers ViT": Layout(
        "vit",
        r"(?:encoder\.)?layers?\.\d+\.layernorm_before\b",
        ("embeddings.",),
        _VIT,
        classifier=(r"vit\.$", "classifier."),
        ignored=(r"embeddings\.mask_token$", r"pooler\."),
    ),
}


def roots(names: Iterable[str]) -> list[Root]:
    """Every network among the names of a file's tensors, in their order."""
    listed = list(names)
    found: dict[str, Root] = {}
    for layout in LAYOUTS.values():
        pattern = re.compile(rf"((?:[^.]+\.)*?){layout.sign}")
        prefixes = dict.fromkeys(match[1] for name in listed if (match := pattern.match(name)))
        for prefix in prefixes:
            beside = tuple(prefix + name for name in layout.beside)
            if prefix not in found and any(name.startswith(beside) for name in listed):
                found[prefix] = Root(layout, prefix)
    return list(found.values())


def renamed(layout: Layout, tensors: Mapping[str, Named]) -> dict[str, Named]:
    """The tensors, given by their names below the root, under our names; what no rule knows keeps its own."""
    found = {}
    for name, named in tensors.items():
        for pattern, becomes in layout.renames:
            name = re.sub(pattern, becomes, name)
        found[name] = named
    if layout.family == "vit":
        _join_projections(found)
        _fold_positions(found)
    return found


def _join_projections(tensors: dict[str, Named]) -> None:
    """Lay queries, keys and values on top of one another, as one product computes them."""
    for name in [name for name in tensors if re.search(rf"{_ATTENTION}query\.(weight|bias)$", name)]:
        base, kind = name.split("query.")
        apart = [f"{base}{part}.{kind}" for part in ("query", "key", "value")]
        if not all(each in tensors for each in apart):
            continue  # what is left over is named by whoever checks
        parts = [tensors.pop(each) for each in apart]
        joined = torch.cat([part.tensor for part in parts])
        tensors[f"{base}in_proj_{kind}"] = Named(joined, tuple(part.origin for part in parts))


def _fold_positions(tensors: dict[str, Named]) -> None:
    """Bring positions into our form: one for the class token and one a patch, (1, 1 + grid², D).

    timm may leave the class token without a position (it then gets zeros), or give registers theirs (which is added to
    the registers).
    """
    given, registers = tensors.get("encoder.pos_embedding"), tensors.get("register_tokens")
    if given is None or given.tensor.ndim != 3:
        return
    positions = given.tensor
    count, extra = positions.shape[1], 0 if registers is None else registers.tensor.shape[1]
    if _square(count):
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    elif registers is not None and _square(count - 1 - extra) and not _square(count - 1):
        own = registers.tensor + positions[:, 1 : 1 + extra]
        tensors["register_tokens"] = Named(own, registers.origins)
        positions = torch.cat([positions[:, :1], positions[:, 1 + extra :]], dim=1)
    elif not _square(count - 1):
        raise InputError(
            f"tensor `{given.origin}` holds {count} positions, which are those of no square of patches",
            hint="sslcut reads transformers for square images with a class token",
        )
    tensors["encoder.pos_embedding"] = Named(positions, given.origins)


def _square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count
