"""The width of a network's last block: drawn anew, or widened and narrowed with what the network has learnt.

A width sits in three places: the last convolution or linear of the last residual block, with its normalisation and its
shortcut; a norm behind the block; the linear layer that reads the backbone. `resized` takes these from a network that
was drawn anew (arXiv 2304.05369 trains from there). `preserve` is our own: the new representation is h′ = E h, and
what reads it is W Eᵀ + R (I − E Eᵀ) with R as it was drawn. To widen, EᵀE = I: lengths and angles stay, and with them
the output, whether the head scales its inputs to length 1 or not.

- Where a ReLU follows, the channels are dealt out as copies, each over the root of their number: a channel of zeros
  would get no gradient. R tells the copies apart.
- Where a layer norm follows, channels of zeros are added. The norm subtracts the mean over the channels, so the block
  gives tokens less their mean, and divides by a deviation that falls with the zeros, so it gives them so much larger.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sslcut.errors import InputError, UsageError
from sslcut.model.chain import Block, Chain
from sslcut.names import part_of


@dataclass(frozen=True)
class Lever:
    """What of a chain follows its last block's width.

    `block` is the residual block itself, whose tensors' names begin with `prefix`; `norm` the layer norm behind it and
    `reader` the head's first linear, where they are there, each with the beginning of its tensors' names.
    """

    name: str
    prefix: str
    block: nn.Module
    norm: tuple[str, nn.LayerNorm] | None
    reader: tuple[str, nn.Linear] | None

    @property
    def parts(self) -> tuple[str, ...]:
        """What of the block is widened: its last layer first."""
        return cast(Block, self.block).widened

    def redrawn(self) -> set[str]:
        """The names of all tensors whose shape follows the width, and of those that go with them."""
        parts = tuple(f"{part}." for part in self.parts)
        names = {self.prefix + key for key in self.block.state_dict() if f"{key}.".startswith(parts)}
        for found in (self.norm, self.reader):
            if found is not None:
                names |= {found[0] + key for key in found[1].state_dict()}
        return names


def lever(chain: Chain) -> Lever | None:
    """What follows the width of the chain's last residual block; None where it has none that can be resized."""
    inner = [item for item in chain.items() if part_of(item[0]) == "backbone"]
    for index in reversed(range(len(inner))):
        name, prefix, block = inner[index]
        for path, module in block.named_modules():
            if getattr(module, "widened", ()):
                behind, head = inner[index + 1 :], chain.items()[len(inner) :][:1]
                norm, reader = _first(behind, nn.LayerNorm), _first(head, nn.Linear)
                return Lever(name, prefix + (f"{path}." if path else ""), module, norm, reader)
    return None


def _first(blocks: list[tuple[str, str, nn.Module]], kind: type) -> Any:
    found = (
        (prefix + (f"{path}." if path else ""), module)
        for _, prefix, block in blocks
        for path, module in block.named_modules()
        if isinstance(module, kind)
    )
    return next(found, None)


def resized(old: Chain, drawn: Chain) -> Chain:
    """`drawn`, a whole network with another last block, with every tensor of `old` that the width leaves alone.

    Has the blocks that `old` has. Raises UsageError where the network cannot be resized, or nothing would change,
    InputError where its last block was cut off.
    """
    found = lever(drawn)
    if found is None:
        raise UsageError("the network has no last block that can be resized", hint="take a ResNet, ViT or ConvNeXt")
    if found.name not in old.names:
        what = f"the last block `{found.name}` is cut off: the checkpoint ends with `{old.names[-1]}`"
        raise InputError(what, hint="resize the checkpoint that it was cut from, then cut")
    new = drawn.keep(old.names)
    mine, theirs = new.tensors(), old.tensors()
    if {name: each.shape for name, each in mine.items()} == {name: each.shape for name, each in theirs.items()}:
        what = f"`{found.name}` is {cast(Block, new.block(found.name)).width} wide already, with this shortcut"
        raise UsageError(what, hint="another --width, or --shortcut always")
    redrawn = cast(Lever, lever(new)).redrawn()
    with torch.no_grad():
        for name, tensor in mine.items():
            if name not in redrawn:
                tensor.copy_(theirs[name])
    return new.eval()


@dataclass(frozen=True)
class Embedding:
    """E, (D, D₀) with one entry a row: new channel j is `scale[j]` times the old channel `take[j]`, of `inputs`."""

    take: Tensor
    scale: Tensor
    inputs: int

    def __call__(self, old: Tensor) -> Tensor:
        """E · old, for (D₀, …) → (D, …)."""
        return old[self.take] * self.scale.to(old.dtype).reshape(-1, *[1] * (old.ndim - 1))

    def back(self, new: Tensor) -> Tensor:
        """Eᵀ of each row's vector, (B, D) → (B, D₀)."""
        return new.new_zeros(len(new), self.inputs).index_add_(1, self.take, new * self.scale.to(new.dtype))

    def reader(self, weight: Tensor, drawn: Tensor) -> Tensor:
        """W Eᵀ + R (I − E Eᵀ) for W (K, D₀) and R (K, D), float64."""
        drawn = drawn.double()
        return drawn + (weight.double() - self.back(drawn))[:, self.take] * self.scale.double()


def copies(inputs: int, outputs: int) -> Embedding:
    """Every channel dealt out in about equally many copies, each over the root of their number."""
    take = torch.arange(outputs) % inputs
    return Embedding(take, torch.bincount(take, minlength=inputs).double().rsqrt()[take], inputs)


def padded(inputs: int, outputs: int) -> Embedding:
    """The channels themselves, then channels of zeros."""
    at = torch.arange(outputs)
    return Embedding(at.clamp_max(inputs - 1), (at < inputs).double(), inputs)


def chosen(inputs: int, kept: Tensor) -> Embedding:
    """The channels `kept` (D,) alone."""
    return Embedding(kept, torch.ones(len(kept), dtype=torch.float64), inputs)


@torch.no_grad()
def preserve(old: Chain, new: Chain, images: Tensor) -> Embedding:
    """Give `new`, made by `resized`, what the widened part of `old` computes; returns how its channels go over.

    To narrow, the channels are kept that contribute most to the head's first layer on `images` (B, 3, H, W) as the
    network is fed them. Raises UsageError where an identity would have to take a projection's place.
    """
    theirs, ours = cast(Lever, lever(old)), cast(Lever, lever(new))
    inputs, outputs = (cast(Block, chain.block(ours.name)).width for chain in (old, new))
    if _shortcut(theirs) is not None and _shortcut(ours) is None:
        what = f"`{ours.name}` has a projection on its shortcut, and an identity cannot do what it does"
        raise UsageError(what, hint="--shortcut always, or --init fresh")
    if outputs < inputs:
        how = chosen(inputs, strongest(old, images, outputs))
    else:
        how = (copies if hasattr(ours.block, "branch") else padded)(inputs, outputs)
    if hasattr(ours.block, "branch"):
        _normalised(theirs, ours, how)
        if _shortcut(theirs) is None:
            _imitate_identity(ours, how, old.run(images, upto=old.names[old.names.index(ours.name) - 1]))
    else:
        _scaled(theirs, ours, how)
    if theirs.reader is not None and ours.reader is not None:
        (_, before), (_, after) = theirs.reader, ours.reader
        drawn = torch.zeros_like(after.weight) if getattr(after, "unit", False) else after.weight
        after.weight.copy_(how.reader(before.weight, drawn))
        if before.bias is not None:
            after.bias.copy_(before.bias)
        if outputs < inputs:
            _make_up(old, new, before, after, images)
    return how


def _make_up(old: Chain, new: Chain, before: nn.Linear, after: nn.Linear, images: Tensor) -> None:
    """Give the head what the dropped channels gave it on average: in its first layer's bias, or the norm behind it."""
    block = new.blocks[new.names.index(new.backbone) + 1]
    if getattr(block, "unit_input", False):
        return
    gone = before.weight @ representation(old, images).mean(dim=0)
    gone -= after.weight @ representation(new, images).mean(dim=0)
    norm = getattr(block, "norm", None)
    if after.bias is not None:
        after.bias.add_(gone)
    elif isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None:
        norm.running_mean.sub_(gone)


def strongest(chain: Chain, images: Tensor, count: int) -> Tensor:
    """The channels of the last block, (count,) rising, that contribute most to what reads them on these images.

    A contribution is the root mean square of a channel of h times the length of its weights in the head's first layer,
    or without a head its deviation.
    """
    vectors, found = representation(chain, images), cast(Lever, lever(chain))
    if found.reader is None:
        strength = vectors.std(dim=0, correction=0)
    else:
        strength = vectors.square().mean(dim=0).sqrt() * found.reader[1].weight.norm(dim=0)
    return strength.argsort(descending=True, stable=True)[:count].sort().values


@torch.no_grad()
def representation(chain: Chain, images: Tensor) -> Tensor:
    """What the backbone gives for images, (B, D): of maps and tokens the mean over all places."""
    x = chain.run(images, upto=chain.backbone)
    return x.mean(dim=(2, 3)) if x.ndim == 4 else x.mean(dim=1) if x.ndim == 3 else x


@torch.no_grad()
def difference(old: Chain, new: Chain, how: Embedding, images: Tensor) -> float:
    """How far the output on images is from the old one, relative to how much that varies over the images.

    The root mean square difference of the head's output over its deviation; without a head that of the representation,
    in which a dropped channel counts as zero.
    """
    if part_of(old.names[-1]) == "backbone":
        before, after = representation(old, images), how.back(representation(new, images))
    else:
        before, after = old(images), new(images)
    spread = (before - before.mean(dim=0)).square().mean().sqrt()
    return float((after - before).square().mean().sqrt() / spread.clamp_min(torch.finfo(spread.dtype).tiny))


def _shortcut(found: Lever) -> nn.Module | None:
    module: nn.Module | None = getattr(found.block, found.parts[2], None)
    return module


def _normalised(theirs: Lever, ours: Lever, how: Embedding) -> None:
    """A residual block of convolutions: E goes into the batch norms, since the ReLU behind keeps positive factors."""
    for part in theirs.parts[:2]:
        _embed(theirs.block.get_submodule(part), ours.block.get_submodule(part), how)
    before, after = (cast(nn.Sequential | None, _shortcut(found)) for found in (theirs, ours))
    for one, other in zip(before or (), after or (), strict=False):
        _embed(one, other, how)


def _embed(before: nn.Module, after: nn.Module, how: Embedding) -> None:
    """One channel of a convolution or a batch norm for each that E takes; only the norm's outputs are scaled."""
    scaled = isinstance(before, nn.BatchNorm2d)
    mine = after.state_dict(keep_vars=True)
    for key, tensor in before.state_dict().items():
        whole = tensor.ndim == 0  # the count of a norm's batches
        taken = tensor if whole else tensor[how.take]
        mine[key].copy_(how(tensor) if scaled and key in ("weight", "bias") else taken)


def _imitate_identity(ours: Lever, how: Embedding, x: Tensor) -> None:
    """A projection that gives E x; its batch norm takes off and gives back the moments of `x`, in training too."""
    turning, norm = (cast(Any, part) for part in cast(nn.Sequential, _shortcut(ours)))
    turning.weight.copy_(torch.eye(how.inputs)[how.take][:, :, None, None])
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    norm.running_mean.copy_(mean[how.take])
    norm.running_var.copy_(variance[how.take])
    norm.weight.copy_(how((variance + norm.eps).sqrt()))
    norm.bias.copy_(how(mean))


def _scaled(theirs: Lever, ours: Lever, how: Embedding) -> None:
    """A residual block of linear layers: its branch and its shortcut are matrices, into which everything goes."""
    last, scale, shortcut = theirs.parts
    before, after = (cast(nn.Linear, found.block.get_submodule(last)) for found in (theirs, ours))
    branch = torch.cat([before.weight, before.bias[:, None]], dim=1).double()
    gain = 1.0
    if (factors := getattr(theirs.block, scale, None)) is not None:
        branch *= factors.double().reshape(-1, 1)
        gain = float(factors.double().square().mean().sqrt()) or 1.0
        getattr(ours.block, scale).fill_(gain)  # one factor for all: the channels are mixed
    wide = len(how.take) > how.inputs
    stretch = (len(how.take) / how.inputs) ** 0.5 if wide and ours.norm is not None else 1.0
    branch, straight = (_through(each, how, stretch, ours.norm is not None) for each in (branch, _matrix(theirs)))
    after.weight.copy_(branch[:, :-1] / gain)
    after.bias.copy_(branch[:, -1] / gain)
    if (own := _shortcut(ours)) is not None:
        turned = cast(nn.Linear, own).weight
        turned.copy_(straight.reshape_as(turned))
    if theirs.norm is not None and ours.norm is not None:
        (_, norm), (_, mine) = theirs.norm, ours.norm
        mine.weight.copy_(torch.where(how.scale > 0, norm.weight.double()[how.take], 1.0) / stretch)
        mine.bias.copy_(how(norm.bias.double()))


def _matrix(found: Lever) -> Tensor:
    """A shortcut as a matrix (outputs, inputs), float64."""
    shortcut = _shortcut(found)
    if shortcut is None:
        return torch.eye(cast(Any, found.block).get_submodule(found.parts[0]).out_features, dtype=torch.float64)
    return cast(nn.Linear, shortcut).weight.double().flatten(1)


def _through(matrix: Tensor, how: Embedding, stretch: float, centred: bool) -> Tensor:
    """E times a matrix that gives the block's channels, less their mean where a layer norm takes it off anyway."""
    return how(matrix - matrix.mean(dim=0) if centred else matrix) * stretch
