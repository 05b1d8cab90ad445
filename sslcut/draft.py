"""A recipe before it is checked: its texts one over the other, defaults lowest and `--set` on top."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sslcut.marked import Keys, Marked, Place, Problem, everywhere
from sslcut.merge import normalise, put, stack
from sslcut.registry import DATASETS, METHODS
from sslcut.yamltext import DEEPEST, read

DEFAULTS = everywhere(
    {
        "data": {"name": "shapes"},
        "model": {"backbone": {"name": "resnet10", "width": 16, "stem": "small"}},
        "method": {"name": "simclr"},
        "head": {"update": {"name": "joint"}},
        "views": {"policy": {"name": "simclr"}, "crops": [{}]},
        "train": {"optimizer": {"name": "sgd"}},
        "probe": {"probes": ["linear", "knn"], "measures": ["rankme"]},
    },
    Place("sslcut's defaults"),
)
_USUAL_SIZE = 32  # stands in for a size that is itself at fault, so that crops do not add a second fault


@dataclass(frozen=True)
class Draft:
    """The texts of a recipe, the oldest ancestor first, and what the command line fixes above them."""

    texts: tuple[Marked, ...] = ()
    fixed: tuple[Marked, ...] = ()

    def merged(self, cell: Sequence[Marked] | None = None) -> Marked:
        """All layers in one, with a sweep's cell between texts and command line; a cell has no sweep of its own.

        Without a cell, axes of the sweep that the command line fixes are left out of it.
        """
        told = _one_sweep((*self.texts, *(cell or ()), *self.fixed), len(self.fixed))
        method = stack((DEFAULTS, *told)).get(("method", "name"))
        text = _sized(stack((DEFAULTS, _of_method(method), *told)))
        if cell is not None:
            return text.without(("sweep",))
        axes = _still_open(text.get(("sweep",)), stack((Marked({}), *self.fixed)).data)
        return Marked({**text.data, "sweep": axes}, text.places, text.problems)


def _one_sweep(layers: Sequence[Marked], fixed: int) -> list[Marked]:
    """The layers, in which a sweep of the last `fixed` ones is the only one: it takes the place of a recipe's."""
    first = len(layers) - fixed
    last = max((index for index in range(first, len(layers)) if "sweep" in layers[index].data), default=0)
    return [layer.without(("sweep",)) if index < last else layer for index, layer in enumerate(layers)]


def setting(text: str) -> Marked:
    """What one `--set KEY=VALUE` says; the value is YAML."""
    key, equals, value = text.partition("=")
    keys = _split(key.strip())
    place = Place(f"--set {key.strip()}")
    if not equals or not all(keys) or len(keys) > DEEPEST:
        return _nothing(Problem(place, "is not KEY=VALUE", "write a dotted key and a value: --set train.epochs=5"))
    if keys[0] == "extends":
        return _nothing(Problem(place, "`extends` belongs into a file", "name the recipe to start from with --recipe"))
    said = read(value, place.source, numbered=False)
    return _nothing(*said.problems) if said.problems else normalise(said.under(keys, place))


def data_folder(texts: Sequence[Marked], sets: Sequence[Marked], folder: str) -> Marked:
    """What `--data FOLDER` says: the data set's root; where it takes none, the data set `folder` at the same size."""
    place = Place("--data")
    below, above = stack((DEFAULTS, *texts)), stack((Marked({}), *sets))
    asked = above.get(("data", "name"))
    name = asked or below.get(("data", "name"))
    if not isinstance(name, str) or name not in DATASETS or "root" in DATASETS.options(name):
        return everywhere({"data": {"name": name, "root": folder}}, place)
    if asked:
        return _nothing(Problem(place, f"the data set `{name}` takes no folder", "leave out --data, or `data.name`"))
    return everywhere({"data": {"name": "folder", "root": folder, "size": _size(below)}}, place)


def _nothing(*problems: Problem) -> Marked:
    return Marked({}, {}, problems)


def _split(key: str) -> list[str]:
    """A dotted key's parts; what a sweep varies keeps its dots."""
    parts = key.split(".")
    depth = 0 if parts[0] != "sweep" else 2 if parts[1:2] == ["zip"] else 1
    return [*parts[:depth], ".".join(parts[depth:])] if 0 < depth < len(parts) else parts


def _of_method(name: Any) -> Marked:
    if not isinstance(name, str) or name not in METHODS:
        return Marked({})
    return normalise(everywhere(METHODS.literal(name, "defaults", {}), Place(f"the defaults of the method `{name}`")))


def _sized(text: Marked) -> Marked:
    """The recipe with crops as large as the data's images where nothing else is written."""
    keys: Keys = ("views", "crops")
    crops = text.get(keys)
    if not isinstance(crops, list):
        return text
    size = _size(text)
    unsized = [isinstance(crop, dict) and crop.get("size") is None for crop in crops]
    filled = [{**crop, "size": size} if bare else crop for crop, bare in zip(crops, unsized, strict=True)]
    return Marked(put(text.data, keys, filled), text.places, text.problems)


def _size(text: Marked) -> int:
    name, size = text.get(("data", "name")), text.get(("data", "size"))
    if size is None and isinstance(name, str) and name in DATASETS and "size" in (known := DATASETS.options(name)):
        size = known["size"].default
    return size if isinstance(size, int) and size > 0 else _USUAL_SIZE


def _still_open(sweep: Any, fixed: dict[str, Any]) -> Any:
    """The sweep less the axes that `fixed` settles; None where none is left."""
    if isinstance(sweep, list):
        points = [_still_open(point, fixed) or {} if isinstance(point, dict) else point for point in sweep]
        return points if any(points) else None
    if not isinstance(sweep, dict):
        return sweep
    axes = {key: _still_open(value, fixed) if key == "zip" else value for key, value in sweep.items()}
    return {key: value for key, value in axes.items() if value is not None and not settles(fixed, key)} or None


def settles(fixed: Any, key: str) -> bool:
    """Whether `fixed` says the value of a dotted key, or chooses another member where the key is one of its options."""
    for part in key.split("."):
        if not isinstance(fixed, dict):
            return True
        if part not in fixed:
            return False
        fixed = fixed[part]
    return not isinstance(fixed, dict) or "name" in fixed
