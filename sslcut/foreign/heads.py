"""Heads of other projects as ours: linear layers and batch norms in a row become the blocks of `sslcut.model.heads`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sslcut.foreign.dialect import Part
from sslcut.foreign.layouts import Named


@dataclass
class Layer:
    """A linear layer, where it stands, and the batch norm behind it, each by the names of its own tensors."""

    number: tuple[int, ...]
    linear: dict[str, Named]
    norm: dict[str, Named] = field(default_factory=dict)

    @property
    def widths(self) -> tuple[int, int]:
        """How many numbers go in, and how many come out."""
        out, inputs = self.linear["weight"].tensor.shape
        return inputs, out


def rebuilt(
    name: str, tensors: Mapping[str, Named], inputs: int, part: Part
) -> tuple[dict[str, Any], dict[str, Named]] | None:
    """The options of `sslcut.model.heads.mlp` for these layers behind `inputs` numbers, and the tensors by our names.

    `tensors` are named below the head (`0.weight`, `1.running_mean`, `1.fc.weight`). None where the layers are no such
    stack.
    """
    layers = _layers(tensors)
    if not layers or not _fit(layers, inputs):
        return None
    last, hidden = layers[-1], layers[:-1]
    normed, biased = {bool(layer.norm) for layer in hidden}, {"bias" in layer.linear for layer in hidden}
    if len(normed) > 1 or len(biased) > 1 or any(layer.norm and "weight" not in layer.norm for layer in hidden):
        return None
    options = {
        "widths": [layer.widths[1] for layer in layers],
        "norm": "none" if normed == {False} else "batch",
        "activation": part.activation,
        "bias": biased.pop() if biased else None,
        "last_norm": bool(last.norm),
        "last_affine": not last.norm or "weight" in last.norm,
        "last_activation": False,
        "last_bias": "bias" in last.linear,
        "input_norm": part.unit_input and layers[0].number[:1] == (1,),
    }
    names = {
        f"{name}.{index}.{kind}.{tensor}": named
        for index, layer in enumerate(layers)
        for kind, mine in (("linear", layer.linear), ("norm", layer.norm))
        for tensor, named in mine.items()
    }
    return options, names


def _layers(tensors: Mapping[str, Named]) -> list[Layer]:
    """The layers in order; none where something else stands among them."""
    modules: dict[str, dict[str, Named]] = {}
    for name, named in tensors.items():
        module, _, tensor = name.rpartition(".")
        modules.setdefault(module, {})[tensor] = named
    found: list[Layer] = []
    for module in sorted(modules, key=lambda module: (_numbers(module), "running_mean" in modules[module])):
        mine = modules[module]
        if _is_linear(mine):
            found.append(Layer(_numbers(module), mine))
        elif _is_norm(mine) and found and not found[-1].norm:
            found[-1].norm = mine
        else:
            return []
    return found


def _numbers(module: str) -> tuple[int, ...]:
    """Where a module stands: `1.fc` and `1.bn` at the same place, `10` behind `9`."""
    return tuple(int(word) for word in module.split(".") if word.isdecimal())


def _is_linear(tensors: Mapping[str, Named]) -> bool:
    return "weight" in tensors and tensors["weight"].tensor.ndim == 2 and set(tensors) <= {"weight", "bias"}


def _is_norm(tensors: Mapping[str, Named]) -> bool:
    known = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    return "running_mean" in tensors and set(tensors) <= known


def _fit(layers: list[Layer], inputs: int) -> bool:
    widths = [inputs, *(layer.widths[1] for layer in layers)]
    return [layer.widths[0] for layer in layers] == widths[:-1]
