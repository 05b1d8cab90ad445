"""A file of another project becomes a network of ours: recognised by its names, renamed, and checked in full."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sslcut.errors import InputError, nearest
from sslcut.foreign import companions
from sslcut.foreign.architecture import recognised
from sslcut.foreign.companions import Companions
from sslcut.foreign.contents import Contents, groups, read, unwrapped
from sslcut.foreign.dialect import Colour, Part
from sslcut.foreign.heads import rebuilt
from sslcut.foreign.imported import Imported
from sslcut.foreign.layouts import Named, Root, renamed
from sslcut.foreign.opening import sha256
from sslcut.model.build import blueprint
from sslcut.model.network import Input

COUNTER = "num_batches_tracked"  # absent from old files, and read by nothing


@dataclass(frozen=True)
class Wish:
    """What the user says of a file; what is None, the file and its dialect decide."""

    arch: str | None = None
    branch: str | None = None
    size: int | None = None
    mean: Colour | None = None
    std: Colour | None = None


@dataclass
class Heads:
    """What follows the backbone: keys of the model section, tensors under our names, and the places where it stood."""

    options: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Named] = field(default_factory=dict)
    places: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def add(self, name: str, place: str, found: tuple[Any, dict[str, Named]] | None, there: bool) -> None:
        """Enter a part of the head, or the note that it is left out."""
        if found is not None:
            self.options[name] = found[0]
            self.tensors |= found[1]
        if there:
            self.places += (place,)
        if there and found is None:
            self.notes += (f"`{place}` is left out: it is no {name} that sslcut builds",)


def convert(path: Path, wish: Wish) -> Imported:
    """The network of a file, with its head where that can be rebuilt.

    Raises InputError (exit 3) naming the tensor that is missing, unknown or of another shape, the branch that the file
    has not, or the architecture that its tensors look like.
    """
    contents = read(path)
    root, branch = contents.choose(wish.branch)
    ours = renamed(root.layout, contents.below(root))
    beside = companions.beside(path) if contents.spoken.startswith(("transformers", "timm")) else companions.NONE
    backbone = _backbone(contents, root, ours, wish.arch, beside)
    model: dict[str, Any] = {"backbone": backbone, "last_block": {"width": None, "shortcut": "auto"}}
    plain = blueprint(model)
    heads = _heads(contents, root, plain.width)
    taken = {**_matched(plain.tensors(), ours, heads, contents, root), **heads.tensors}
    model |= heads.options
    chain = blueprint(model)
    for name in chain.tensors():
        if name.endswith(COUNTER):
            taken.setdefault(name, Named(torch.tensor(0), ()))
    for name, named in taken.items():
        if named.tensor.is_floating_point() and not bool(named.tensor.isfinite().all()):
            raise InputError(
                f"tensor `{name}` holds numbers that are not finite", place=str(path), hint="fetch it again"
            )
    chain.load_tensors({name: named.tensor for name, named in taken.items()}, str(path))
    input = _input(backbone, contents, beside, wish)
    both = len(contents.roots) > 1
    source = {"dialect": contents.spoken, "file": path.name, "sha256": sha256(path), "branch": branch if both else None}
    notes = (*_told(contents, root, taken, backbone["name"]), *heads.notes, _fed(input, beside))
    return Imported(model, chain.eval().requires_grad_(True), "vector", input, source, notes)


def _backbone(
    contents: Contents, root: Root, ours: Mapping[str, Named], arch: str | None, beside: Companions
) -> dict[str, Any]:
    where = str(contents.path)
    tensors = {name: named.tensor for name, named in ours.items()}
    found = recognised(root.layout.family, tensors, contents.dialect, where)
    if arch not in (None, found["name"]):
        what = f"its tensors look like `{found['name']}`, not `{arch}`"
        raise InputError(what, place=where, hint=f"--arch {found['name']}, or leave it out")
    return {**found, **{key: value for key, value in beside.options.items() if key in found}}


def _heads(contents: Contents, root: Root, width: int) -> Heads:
    """The projector and the predictor behind it; where the file has neither, the class weights."""
    dialect, heads = contents.dialect, Heads()
    for name, parts in (("projector", dialect.projectors), ("predictor", dialect.predictors)):
        for part in parts:
            place, tensors = _place(contents, root, part)
            if tensors:
                found = rebuilt(name, tensors, width, part) if name == "projector" or heads.options else None
                heads.add(name, place, found, True)
                width = found[0]["widths"][-1] if found else width
                break
    if not heads.places:
        place, tensors = _place(contents, root, Part(*root.layout.classifier))
        heads.add("classifier", place, _classes(tensors, width), bool(tensors))
    return heads


def _place(contents: Contents, root: Root, part: Part) -> tuple[str, dict[str, Named]]:
    """The prefix that a part of the head has beside this network, and its tensors by the rest of their names."""
    if not re.search(part.pattern, root.prefix):
        return "", {}
    place = re.sub(part.pattern, part.becomes, root.prefix, count=1)
    found = {name.removeprefix(place): each for name, each in contents.tensors.items() if name.startswith(place)}
    return place, found


def _classes(tensors: Mapping[str, Named], width: int) -> tuple[int, dict[str, Named]] | None:
    if set(tensors) != {"weight", "bias"} or tensors["weight"].tensor.ndim != 2:
        return None
    classes, inputs = tensors["weight"].tensor.shape
    return (classes, {f"classifier.{name}": named for name, named in tensors.items()}) if inputs == width else None


def _matched(
    expected: Mapping[str, Any], ours: Mapping[str, Named], heads: Heads, contents: Contents, root: Root
) -> dict[str, Named]:
    """The backbone's tensors; raises InputError for one that no block has, or one that the file has not."""
    taken, surplus = {}, []
    for name, named in ours.items():
        written = unwrapped(named.origin)
        if name in expected:
            taken[name] = named
        elif not (written.startswith(heads.places) or contents.ignores(written, root)):
            surplus.append(name)
    missing = [name for name in expected if name not in taken and not name.endswith(COUNTER)]
    if surplus:
        what = f"tensor `{ours[surplus[0]].origin}` belongs to no block of this architecture"
        close = nearest(surplus[0], missing)
        told = f"the nearest that is missing is `{_written(close, taken, root)}`" if close else "was it changed?"
        raise InputError(what, place=str(contents.path), hint=told)
    if missing:
        what = f"tensor `{_written(missing[0], taken, root)}` is missing"
        raise InputError(what, place=str(contents.path), hint="is the file whole, and of this architecture?")
    return taken


def _written(name: str, taken: Mapping[str, Named], root: Root) -> str:
    """The name that a tensor of ours would have in its file, after the example of the same tensor in another block."""
    number = re.search(r"(?<=encoder_layer_)\d+", name)
    if number and root.layout.renames:
        alike = re.compile(rf"{re.escape(name[: number.start()])}(\d+){re.escape(name[number.end() :])}")
        for other, named in taken.items():
            if found := alike.fullmatch(other):
                return re.sub(rf"(?<=[._]){found[1]}(?=\.)", number[0], named.origin, count=1)
    return root.prefix + name


def _input(backbone: Mapping[str, Any], contents: Contents, beside: Companions, wish: Wish) -> Input:
    dialect, small = contents.dialect, backbone.get("stem", "imagenet") != "imagenet"
    mean, std = dialect.small_statistics if small else dialect.statistics
    size = 32 if small else min(backbone.get("size", 224), dialect.size)
    told = {"size": size, "mean": mean, "std": std, **beside.input}
    asked = {"size": wish.size, "mean": wish.mean, "std": wish.std}
    return Input(**{**told, **{key: value for key, value in asked.items() if value is not None}})


def _told(contents: Contents, root: Root, taken: Mapping[str, Named], arch: str) -> tuple[str, ...]:
    """How many tensors were read, and what became of the others."""
    used = {origin for named in taken.values() for origin in named.origins}
    rest = [name for name, named in contents.tensors.items() if named.origin not in used]
    parts = (*contents.dialect.projectors, *contents.dialect.predictors)
    heads = [_place(contents, other, part) for other in contents.roots for part in parts]
    others = [*(other.prefix for other in contents.roots if other != root), *(place for place, _ in heads)]
    elsewhere = tuple(place for place in others if place)
    known = [name for name in rest if contents.ignores(name, root) or name.startswith(elsewhere)]
    place = f" under `{root.prefix}`" if root.prefix else ""
    told = [f"{contents.dialect.title}'s file: {len(used)} tensors{place} read as {arch}, {len(rest)} ignored"]
    if known:
        told.append(f"ignored on purpose: {_listed(known)}")
    if unknown := [name for name in rest if name not in set(known)]:
        told.append(f"ignored, and of nothing that sslcut knows: {_listed(unknown)}")
    return tuple(told)


def _listed(names: list[str]) -> str:
    return ", ".join(f"{count} of `{group}`" for group, count in groups(names).items())


def _fed(input: Input, beside: Companions) -> str:
    source = f"by {' and '.join(beside.files)}" if beside.files else "which the tensors do not show"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (input.mean, input.std))
    return f"input {input.size} px, mean {mean}, deviation {std}, {source}; --size, --mean and --std change it"
