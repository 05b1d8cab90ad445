"""How much memory a training will take, before it is begun: from shapes alone, nothing is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sslcut.methods.base import Method
from sslcut.methods.making import method_on
from sslcut.model.build import build, unmade
from sslcut.model.cost import costs

MOMENTS = {"adamw": 2}  # numbers that an optimiser keeps for each weight; the others keep one
BYTES = 4  # of a float32


@dataclass(frozen=True)
class Memory:
    """Bytes: of what is held throughout (weights, teacher, queues, gradients, moments), and of a step's activations."""

    held: int
    step: int

    def __str__(self) -> str:
        return f"{gigabytes(self.held)} held, and about {gigabytes(self.step)} for a step's activations in float32"


def memory(recipe: Mapping[str, Any], model: Mapping[str, Any], size: int, classes: int) -> Memory:
    """The memory that training by `recipe` takes, with the network that `model` describes.

    `size` is that of a crop for which the recipe says none, `classes` how many the labels have.
    """
    method = _shapes_of(recipe["method"], model, classes)
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in method.state_dict().values())
    moments = MOMENTS.get(recipe["train"]["optimizer"]["name"], 1)
    views: dict[int, int] = {}
    for crop in recipe["views"]["crops"]:
        views[crop["size"] or size] = views.get(crop["size"] or size, 0) + crop["count"]
    kept = sum(count * sum(block.activations for block in costs(method.chain, side)) for side, count in views.items())
    return Memory(tensors + BYTES * trained * (1 + moments), BYTES * kept * recipe["train"]["batch_size"])


def gigabytes(count: int) -> str:
    """A number of bytes as one would say it."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _shapes_of(chosen: Mapping[str, Any], model: Mapping[str, Any], classes: int) -> Method:
    with unmade():
        return method_on(build(model), chosen, classes)
