"""Which of our backbones a network's tensors are of, read from their names and shapes."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sslcut.errors import InputError
from sslcut.foreign.dialect import Dialect
from sslcut.registry import BACKBONES

RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("BasicBlock", (1, 1, 1, 1)): "resnet10",
    ("BasicBlock", (2, 2, 2, 2)): "resnet18",
    ("BasicBlock", (3, 4, 6, 3)): "resnet34",
    ("Bottleneck", (3, 4, 6, 3)): "resnet50",
    ("Bottleneck", (3, 4, 23, 3)): "resnet101",
}
VITS = {192: "vit_ti", 384: "vit_s", 768: "vit_b", 1024: "vit_l"}


def recognised(family: str, tensors: Mapping[str, Tensor], dialect: Dialect, where: str) -> dict[str, Any]:
    """The backbone's mapping, `name` and every option, for tensors under our names.

    Options that the tensors do not show are the dialect's, else the defaults. Raises InputError, placed at `where`,
    for an architecture that sslcut has not.
    """
    try:
        seen = (_resnet if family == "resnet" else _vit)(tensors, dialect, where)
    except (IndexError, ZeroDivisionError, ValueError) as error:
        what = f"its tensors have the names of a {family}, and shapes that none has ({error})"
        raise InputError(what, place=where, hint="fetch it again") from error
    name = seen["name"]
    known = BACKBONES.options(name)
    keys = [family, *(["registers"] if seen.get("registers") else []), name]
    spoken = {key: value for each in keys for key, value in dialect.options.get(each, {}).items()}
    return {"name": name, **{key: option.default for key, option in known.items()}, **spoken, **seen}


def _resnet(tensors: Mapping[str, Tensor], dialect: Dialect, where: str) -> dict[str, Any]:
    depths = tuple(_count(tensors, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
    kind = "Bottleneck" if any(re.match(r"layer\d\.\d+\.conv3\.", name) for name in tensors) else "BasicBlock"
    if (kind, depths) not in RESNETS:
        told = f"a ResNet of {', '.join(map(str, depths))} blocks of the kind {kind}"
        raise InputError(f"its tensors look like {told}, which sslcut has not", place=where, hint=_known("resnet"))
    first = _first(tensors, ("conv1.weight", "bn1.weight", "bn1.running_mean"))
    kernel = tensors["conv1.weight"].shape[-1] if "conv1.weight" in tensors else 7
    stem = "imagenet" if kernel == 7 else dialect.stem
    return {"name": RESNETS[kind, depths], "width": 64 if first is None else first.shape[0], "stem": stem}


def _vit(tensors: Mapping[str, Tensor], dialect: Dialect, where: str) -> dict[str, Any]:
    names = [name for name in tensors if name.endswith((".ln_1.weight", ".ln_2.weight", ".ln_1.bias", "ln.weight"))]
    width = tensors[names[0]].shape[0] if names else 0
    if width not in VITS:
        what = f"its tensors look like a vision transformer of width {width}, which sslcut has not"
        raise InputError(what, place=where, hint=_known("vit"))
    projection, positions = tensors.get("conv_proj.weight"), tensors.get("encoder.pos_embedding")
    patch = 16 if projection is None else projection.shape[-1]
    grid = 224 // patch if positions is None else math.isqrt(positions.shape[1] - 1)
    registers = tensors.get("register_tokens")
    return {
        "name": VITS[width],
        "patch": patch,
        "size": patch * grid,
        "depth": _count(tensors, r"encoder\.layers\.encoder_layer_(\d+)\."),
        "registers": 0 if registers is None else registers.shape[1],
        "layer_scale": 1e-5 if any("layer_scale_" in name for name in tensors) else None,
        "qkv_bias": any(name.endswith("in_proj_bias") for name in tensors),
    }


def _count(names: Iterable[str], pattern: str) -> int:
    """How many numbered blocks there are; where a number is left out, the last one's tensors are left over."""
    return len({found[1] for name in names if (found := re.match(pattern, name))})


def _first(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor | None:
    return next((tensors[name] for name in names if name in tensors), None)


def _known(family: str) -> str:
    return f"it has {', '.join(name for name in BACKBONES if name.startswith(family))}"
