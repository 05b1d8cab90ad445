"""A network as an ordered chain of named blocks: where it is cut, what is measured, what a file lists.

A block's tensors are named `prefix + its own state_dict key`, which gives torchvision's names for a backbone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from sslcut.errors import InputError, UsageError, nearest
from sslcut.model.readout import read_all
from sslcut.names import NORM, backbone_end, norm_behind, resolve

Named = tuple[str, str, nn.Module]
"""A block's name, the prefix of its tensors, and the module."""


class Block(nn.Module):
    """A module that knows how many channels it gives (`width`), so that what follows can be built to fit."""

    folds: tuple[tuple[str, str], ...] = ()
    """Pairs of submodules: a convolution (or linear) and the batch norm that alone reads its output."""
    widened: tuple[str, ...] = ()
    """What of a residual block follows its width: the last convolution or linear, its normalisation, the shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


class Chain(nn.Module):
    """Named blocks in order: images (B, 3, H, W) in, maps (B, C, H, W), tokens (B, T, D) or vectors (B, D) between.

    `prefix_tokens` is how many tokens stand before the patches, 0 for a network of maps; `class_token` says whether the
    first of them is a class token, or all are registers.
    """

    def __init__(self, blocks: Iterable[Named], *, prefix_tokens: int = 0, class_token: bool = True) -> None:
        super().__init__()
        listed = list(blocks)
        self.names = [name for name, _, _ in listed]
        self.prefixes = [prefix for _, prefix, _ in listed]
        self.blocks = nn.ModuleList(module for _, _, module in listed)
        self.prefix_tokens = prefix_tokens
        self.class_token = class_token and prefix_tokens > 0

    def forward(self, images: Tensor) -> Tensor:
        """What the last block gives for images (B, 3, H, W)."""
        for block in self.blocks:
            images = block(images)
        return images

    def run(self, x: Tensor, after: str | None = None, upto: str | None = None) -> Tensor:
        """Pass `x`, the output of block `after` (None: images), on through the blocks up to and including `upto`.

        Raises UsageError for an unknown name, or where `upto` stands before `after`.
        """
        start = 0 if after is None else self.position(after) + 1
        stop = len(self.blocks) if upto is None else self.position(upto) + 1
        if stop < start:
            raise UsageError(f"block `{upto}` stands before `{after}`", hint=f"order: {', '.join(self.names)}")
        for block in self.blocks[start:stop]:
            x = block(x)
        return x

    def features(self, images: Tensor, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Tensor]:
        """The vectors (B, D), float32, of every wanted (layer, read-out), from one pass that ends at the last of them.

        Runs in the chain's own mode: call `eval()` first, or batch norm sees these images. Raises UsageError for an
        unknown layer, or a read-out that does not fit its block.
        """
        asked: dict[int, list[tuple[str, str]]] = {}
        for layer, readout in wanted:
            asked.setdefault(self.position(layer), []).append((layer, readout))
        found: dict[tuple[str, str], Tensor] = {}
        x = images
        for index in range(max(asked, default=-1) + 1):
            x = self.blocks[index](x)
            if taps := asked.get(index):
                names, norm = [readout for _, readout in taps], self.norm_behind(self.names[index])
                vectors = read_all(x, names, self.prefix_tokens, norm, class_token=self.class_token)
                found |= {tap: vectors[tap[1]] for tap in taps}
        return {tap: found[tap] for tap in wanted}

    def cut(self, name: str) -> "Chain":
        """The chain up to and including the block that `name` means; it shares the modules, and drops the rest."""
        kept = self._of(self.items()[: self.position(name) + 1])
        kept.training = self.training
        return kept

    def keep(self, names: Sequence[str]) -> "Chain":
        """The chain of these blocks alone, named exactly and in order; it shares the modules, and drops the rest.

        Raises UsageError where a name is not of this chain, or stands before the one before it.
        """
        blocks = iter(self.items())
        kept = [next((item for item in blocks if item[0] == name), None) for name in names]
        for name, found in zip(names, kept, strict=True):
            if found is None:
                raise UsageError(f"block `{name}` has no place in {', '.join(names)}", hint=", ".join(self.names))
        short = self._of([item for item in kept if item is not None])
        short.training = self.training
        return short

    def norm_behind(self, name: str) -> nn.Module | None:
        """The chain's final norm, where it stands behind the block and is as wide: normed read-outs pass it."""
        widths = [cast(Block, block).width for block in self.blocks]
        return self.blocks[self.names.index(NORM)] if norm_behind(name, self.names, widths) else None

    def followed_by(self, blocks: Iterable[Named]) -> "Chain":
        """This chain with more blocks behind it; it shares the modules."""
        return self._of([*self.items(), *blocks])

    def _of(self, blocks: Iterable[Named]) -> "Chain":
        return Chain(blocks, prefix_tokens=self.prefix_tokens, class_token=self.class_token)

    def items(self) -> list[Named]:
        """Every block in order, with its name and the prefix of its tensors."""
        return list(zip(self.names, self.prefixes, self.blocks, strict=True))

    def position(self, name: str) -> int:
        """Where the block that `name` means stands, from 0; names as `sslcut.names.resolve` reads them."""
        return self.names.index(resolve(name, self.names))

    def block(self, name: str) -> nn.Module:
        """The module of the block that `name` means."""
        return self.blocks[self.position(name)]

    @property
    def backbone(self) -> str:
        """The name of the backbone's last block."""
        return backbone_end(self.names)

    @property
    def width(self) -> int:
        """How many channels the last block gives."""
        return cast(Block, self.blocks[-1]).width

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer itself, by its full name, block after block."""
        return {
            prefix + key: tensor
            for _, prefix, block in self.items()
            for key, tensor in block.state_dict(keep_vars=True).items()
        }

    def parts(self, name: str) -> list[str]:
        """What a file's header lists for a block: its prefix, or its tensors' names where the prefix is empty."""
        index = self.position(name)
        keys, prefix = list(self.blocks[index].state_dict()), self.prefixes[index]
        return [prefix] if keys and prefix else keys

    def load_tensors(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take over every tensor by its full name, converted to this chain's types; nothing changes on a fault.

        A chain on the meta device takes the given tensors themselves. Raises InputError, placed at `where`, naming
        the first tensor that is missing, left over or of another shape.
        """
        own = self.tensors()
        _check(own, tensors, where)
        for _, prefix, block in self.items():
            mine = block.state_dict()
            given = {key: tensors[prefix + key].detach().to(tensor.dtype) for key, tensor in mine.items()}
            block.load_state_dict(given, assign=any(tensor.is_meta for tensor in mine.values()))


def _check(own: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    surplus = [name for name in given if name not in own]
    for name, tensor in own.items():
        if name not in given:
            close = nearest(name, surplus)
            hint = f"the nearest name there is `{close}`" if close else "was it made by another network?"
            raise InputError(f"tensor `{name}` is missing", place=where, hint=hint)
        found, expected = tuple(given[name].shape), tuple(tensor.shape)
        if found != expected:
            raise InputError(f"tensor `{name}` has shape {found}, the network wants {expected}", place=where)
    if surplus:
        what = f"tensor `{surplus[0]}` belongs to no block of the network"
        raise InputError(
            what, place=where, hint=f"{len(surplus)} tensors are left over; was it made by another network?"
        )
