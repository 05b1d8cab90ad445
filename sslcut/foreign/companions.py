"""What `config.json` and `preprocessor_config.json` beside a file of weights say: how many heads, which input."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Companions:
    """Options of the backbone, and of the input `size`, `mean` and `std`, as far as the files say them."""

    options: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()


NONE = Companions()

POOLS = {"token": "cls", "avg": "mean"}  # timm's words, and ours


def beside(path: Path) -> Companions:
    """What the files beside `path` say; nothing where there are none, or none that can be read."""
    network, processor = _json(path.with_name("config.json")), _json(path.with_name("preprocessor_config.json"))
    trained = network.get("pretrained_cfg") or {}  # timm's
    read = tuple(name for name, found in (("config.json", network), ("preprocessor_config.json", processor)) if found)
    named = {"num_attention_heads": "heads", "layer_norm_eps": "norm_eps"}
    options = {option: network[key] for key, option in named.items() if isinstance(network.get(key), int | float)}
    told = network.get("model_args") or {}  # timm's
    if isinstance(told.get("num_heads"), int):
        options["heads"] = told["num_heads"]
    if (pool := POOLS.get(str(told.get("global_pool", network.get("global_pool"))))) is not None:
        options["pool"] = pool
    size = _side(processor.get("crop_size")) or _side(processor.get("size")) or _side(trained.get("input_size"))
    input = {
        "size": size,
        "mean": _colour(processor.get("image_mean") or trained.get("mean")),
        "std": _colour(processor.get("image_std") or trained.get("std")),
    }
    return Companions(options, {key: value for key, value in input.items() if value is not None}, read)


def _json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        document = json.loads(path.read_text(encoding="utf-8"))
        return document if isinstance(document, dict) else {}
    return {}


def _side(value: Any) -> int | None:
    if isinstance(value, dict):
        value = value.get("height") or value.get("shortest_edge")
    if isinstance(value, list) and value:  # channels, height, width
        value = value[-1]
    return value if isinstance(value, int) and value > 0 else None


def _colour(value: Any) -> tuple[float, float, float] | None:
    if isinstance(value, list) and len(value) == 3 and all(isinstance(each, int | float) for each in value):
        red, green, blue = map(float, value)
        return red, green, blue
    return None
