"""What every export is made of: a checkpoint's blocks, those that a library has a place for, and the files written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor

from sslcut.errors import InputError, nearest
from sslcut.header import Header
from sslcut.model.build import blueprint
from sslcut.model.chain import Chain
from sslcut.model.network import Network
from sslcut.model.shortcut import changed
from sslcut.names import part_of
from sslcut.registry import BACKBONES

ANY_NETWORK = "`--to onnx` takes any network"

Content = bytes | Mapping[str, bytes]
"""What is written: one file, or a folder's files by name."""


@dataclass(frozen=True)
class Checkpoint:
    """What is exported: a checkpoint's header and its network, in evaluation mode on the CPU."""

    header: Header
    network: Network

    @property
    def model(self) -> Mapping[str, Any]:
        """The header's `model`: what the chain was built from."""
        return self.header.document["model"]

    @property
    def backbone(self) -> str:
        """The backbone's name in `BACKBONES`, or a library's: `timm:NAME`."""
        return self.model["backbone"]["name"]

    @property
    def kept(self) -> list[str]:
        """The blocks that a library's network has: the backbone, and the classifier that stands right behind it.

        A library's backbone keeps the library's own classifier alone.
        """
        names = self.network.names
        inner = [name for name in names if part_of(name) == "backbone"]
        follows = names[len(inner) : len(inner) + 1] == ["classifier"]
        grafted = bool(library_of(self.backbone)) and bool(self.model.get("classifier"))
        return names[: len(inner) + 1] if follows and not grafted else inner

    @property
    def left_out(self) -> list[str]:
        """The head's blocks, which another library's network does not have."""
        return self.network.names[len(self.kept) :]

    @property
    def classes(self) -> int:
        """How many classes the kept classifier names; 0 where none is kept."""
        return self.network.chain.cut(self.kept[-1]).width if self.kept[-1] == "classifier" else 0

    @property
    def layer(self) -> str:
        """The last block of the backbone."""
        return self.network.chain.backbone

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the kept blocks by sslcut's names."""
        return {name: tensor.detach() for name, tensor in self.network.chain.cut(self.kept[-1]).tensors().items()}


@dataclass(frozen=True)
class Export:
    """A network that another library can take: how its file is called by default, and how it is made.

    The file is named after the checkpoint, with `suffix` in place of `.safetensors`. `make` does the work, and `notes`
    say what was left out and how the file is loaded.
    """

    suffix: str
    notes: tuple[str, ...]
    make: Callable[[], Content]


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file as every library of the field reads it."""
    return safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()}, metadata={"format": "pt"})


def renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """The tensors by the names that `rename` gives them."""
    return {rename(name): tensor for name, tensor in tensors.items()}


def swapped(name: str, table: Sequence[tuple[str, str]]) -> str:
    """A tensor's name with the first beginning that `table` lists exchanged; as it is where none is listed."""
    for old, new in table:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def stock_fits(checkpoint: Checkpoint, library: str, said: Sequence[str]) -> None:
    """Raise InputError where `library`'s network of this name has other tensors, naming the first that does not fit.

    `said` are the options of the backbone that the library can be told; the others must have their defaults.
    """
    options = {key: value for key, value in checkpoint.model["backbone"].items() if key != "name"}
    stock = {key: value for key, value in options.items() if key in said}
    whole, held = blueprint({"backbone": {"name": checkpoint.backbone, **stock}}), checkpoint.network.chain
    held = held.cut(checkpoint.layer)
    chain = whole.keep([name for name in whole.names if name in held.names])  # a kept norm leaves a hole before it
    _same_tensors(held, chain, f"{library}'s {checkpoint.backbone}", str(checkpoint.header.path))
    for key, option in BACKBONES.options(checkpoint.backbone).items():
        if key not in said and key in options and options[key] != option.default and key not in _IN_TENSORS:
            what = f"{library}'s {checkpoint.backbone} cannot be told `{key}: {options[key]}`"
            raise InputError(what, place=str(checkpoint.header.path), hint=ANY_NETWORK)


def own_width(checkpoint: Checkpoint, library: str) -> None:
    """Raise InputError where a library's network was resized, naming the first tensor that its own does not have."""
    if not changed(checkpoint.model.get("last_block") or {}):
        return
    held = checkpoint.network.chain
    stock = blueprint({"backbone": checkpoint.model["backbone"]})
    kept = [name for name in held.names if name in stock.names]
    _same_tensors(held.keep(kept), stock.keep(kept), f"{library}'s {checkpoint.backbone}", str(checkpoint.header.path))


_IN_TENSORS = ("width", "stem", "zero_init_residual")  # seen in a tensor's shape, or gone once weights are loaded


def _same_tensors(held: Chain, stock: Chain, whose: str, where: str) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in held.tensors().items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in stock.tensors().items()}
    for name, shape in own.items():
        if name not in wanted:
            raise InputError(f"tensor `{name}` does not fit: {whose} has none", place=where, hint=ANY_NETWORK)
        if shape != wanted[name]:
            what = f"tensor `{name}` does not fit: its shape is {shape}, {whose} has {wanted[name]}"
            raise InputError(what, place=where, hint=ANY_NETWORK)
    if absent := [name for name in wanted if name not in own]:
        close = nearest(absent[0], own)
        what = f"tensor `{absent[0]}` of {whose} is missing"
        raise InputError(what, place=where, hint=f"{f'the nearest is `{close}`; ' if close else ''}{ANY_NETWORK}")


def told_apart(checkpoint: Checkpoint, library: str) -> tuple[str, ...]:
    """The note that says which blocks are left out, where any are."""
    if not checkpoint.left_out:
        return ()
    read = f"it gives what `{checkpoint.layer}` gives, `sslcut.load` what `{checkpoint.left_out[-1]}` gives"
    return (f"{', '.join(checkpoint.left_out)} are left out, {library} has no place for a head: {read}",)


def library_of(backbone: str) -> str:
    """The library that a backbone's name begins with (`timm:resnet50`); empty for sslcut's own."""
    library, colon, _ = backbone.partition(":")
    return library if colon else ""


def own_or_refused(checkpoint: Checkpoint, library: str) -> None:
    """Raise InputError where the backbone is another library's than `library`."""
    source = library_of(checkpoint.backbone)
    if source and source != library:
        what = f"`{checkpoint.backbone}` has the names and the layout of {source}, which {library} does not read"
        raise InputError(what, place=str(checkpoint.header.path), hint=f"`--to {source}` is a copy; {ANY_NETWORK}")
