"""Small checkpoints with every tensor drawn, for the tests of exports."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslcut import checkpoint
from sslcut.model.build import build

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
RESNET = {"backbone": {"name": "resnet18"}}
BOTTLENECKS = {"backbone": {"name": "resnet50"}}
TRANSFORMER = {"backbone": {"name": "vit_ti", "patch": 8, "size": 32, "depth": 4, "pool": "cls"}}


def saved(path: Path, model: dict[str, Any], at: str = "backbone", readout: str = "vector", size: int = 32) -> Path:
    """A checkpoint of this network, cut at a block (or of `these,blocks`), its statistics of batch norm drawn too."""
    torch.manual_seed(0)
    whole = build(model)
    chain = (whole.keep(at.split(",")) if "," in at else whole.cut(at)).eval()
    for name, tensor in chain.tensors().items():
        if tensor.is_floating_point() and tensor.ndim < 2:
            drawn = torch.rand(tensor.shape)  # of norms and biases, which else start as 0 or 1
            tensor.data.copy_(drawn + 0.5 if "var" in name or name.endswith("weight") else drawn / 10)
    document = {
        "model": model,
        "readout": readout,
        "input": {"size": size, "mean": list(MEAN), "std": list(STD)},
        "recipe": {"name": "r"},
        "history": [],
        "metrics": {},
    }
    checkpoint.save(path, chain, document)
    return path


def images(size: int = 32, count: int = 3) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def normalised(pixels: Tensor) -> Tensor:
    """Images as a library's own network wants them."""
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal to 1e-5 of the largest number."""
    return found.shape == expected.shape and bool((found - expected).abs().max() <= 1e-5 * max(1, expected.abs().max()))
