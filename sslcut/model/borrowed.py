"""A network of another library as a chain: its own modules, with its own tensor names, in blocks that can be cut.

Most networks run as a line of modules, which `walk` finds: here it is divided into a stem, blocks, the pooling and
the classifier. Where a network's own code does more before its blocks (a class token, positions) or after them (the
choice of a token), that part is the library's network itself with everything else taken out.
"""

import re
from collections.abc import Callable, Collection, Sequence
from copy import copy
from functools import partial

from torch import Tensor, nn

from sslcut.errors import InputError
from sslcut.model.chain import Block, Chain, Named
from sslcut.model.walk import WEIGHED, Call, composite, foldable, follow, gapped, pieces, runs, watch, weighs

Step = str | Callable[[Tensor], Tensor]
"""What a block does next: the module at a path, or a change of shape."""


class Borrowed(Block):
    """Modules of another library, run one after the other, each at the path that it has there.

    Takes and gives maps as (B, C, H, W), whatever order the modules themselves keep.
    """

    def __init__(self, width: int, calls: Sequence[Call], steps: Sequence[Step]) -> None:
        super().__init__(width)
        self.steps = list(steps)
        self.folds = foldable(calls)
        for call in calls:
            _place(self, call.path, call.module)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = self.get_submodule(step)(x) if isinstance(step, str) else step(x)
        return x


class Stem(Borrowed):
    """The modules before a borrowed network's blocks: images (B, 3, H, W) → the first map."""

    def forward(self, x: Tensor) -> Tensor:
        return _fitting(super().forward, x)


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) → (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def flat(x: Tensor) -> Tensor:
    """(B, C, 1, 1) → (B, C)."""
    return x.flatten(1)


def one_place(x: Tensor) -> Tensor:
    """(B, C) → (B, C, 1, 1)."""
    return x[:, :, None, None]


def chain_of(network: nn.Module, size: int, classifiers: Collection[nn.Module], called: str) -> Chain:
    """The network as a chain that shares its modules, found from one pass of images of `size` pixels a side.

    Of `classifiers`, its layers of class weights, a single one becomes the block `classifier`. Raises InputError where
    the network, `called` so, runs in no line of blocks, naming the module.
    """
    call = watch(network, size)
    found = runs(call)
    line = max(found, key=lambda run: sum(_parameters(each) for each in run))
    kept = gapped(call)
    items = [piece for each in line for piece in pieces(each, kept)]
    first = _first_block(items)
    if first is None or any(each.given is None or each.gave is None for each in items):
        raise _indivisible(called, line[0].path)
    if follow(call.given, line[:1])[0]:
        first = max(first, 1)
        stem: nn.Module = _block(items[:first], 4, Stem)
    else:
        before = [*(each for run in found[: found.index(line)] for each in run), *items[:first]]
        stem = _part(network, "forward_features", before, items[first:], items[first].before, called)
    blocks: list[Named] = [("stem", "", stem)]
    after = [each for run in found[found.index(line) + 1 :] for each in run]
    if not after:
        blocks += _blocks(_divided(items[first:], classifiers, called), items[first].before.ndim)
    else:
        blocks += _blocks(_body(items[first:]), items[first].before.ndim)
        heads = [each for each in after if each.module in classifiers]
        vectors = heads[0].before if heads else call.after
        rest = [each for each in after if each not in heads]
        blocks.append(("pool", "", _part(network, "forward_head", rest, [*heads, *items], vectors, called)))
        blocks += _blocks([("classifier", heads)], 2) if len(heads) == 1 else []
    has_class = getattr(network, "cls_token", None) is not None
    return Chain(blocks, prefix_tokens=getattr(network, "num_prefix_tokens", 0), class_token=has_class)


Group = tuple[str, list[Call]]
"""A block's name and the calls that it is made of."""


def _first_block(items: Sequence[Call]) -> int | None:
    """Where the stem ends: before the first module that is more than layers in a row, else before the second layer."""
    blocks = [i for i, each in enumerate(items) if composite(each.module) and type(each.module) is not nn.Sequential]
    layers = [i for i, each in enumerate(items) if isinstance(each.module, WEIGHED)]
    return next(iter(blocks or layers[1:]), None)


def _body(items: Sequence[Call]) -> list[Group]:
    """A block for each composite module and each layer; what follows a layer (norm, activation) belongs to it."""
    groups: list[Group] = []
    for item in items:
        module = item.module
        after_block = bool(groups) and any(composite(each.module) for each in groups[-1][1])
        if not groups or composite(module) or isinstance(module, WEIGHED) or (after_block and weighs(module)):
            groups.append((_spelled(item.path), [item]))
        else:
            groups[-1][1].append(item)
    return groups


def _divided(items: Sequence[Call], classifiers: Collection[nn.Module], called: str) -> list[Group]:
    """The body; then `pool`, up to the last thing before a layer; `head`, the layers that follow; `classifier`."""
    end = next((i for i, each in enumerate(items) if each.module in classifiers), len(items))
    pooled = next((i for i, each in enumerate(items[:end]) if _pools(each)), None)
    if pooled is None:
        raise _indivisible(called, items[-1].path)
    while isinstance(items[end - 1].module, nn.Dropout):
        end -= 1  # what is dropped at random is dropped for the classifier alone
    layer = next((i for i in range(pooled, end) if isinstance(items[i].module, WEIGHED)), end)
    top = [("pool", items[pooled:layer]), ("head", items[layer:end]), ("classifier", items[end:])]
    return _body(items[:pooled]) + [(name, list(calls)) for name, calls in top if calls]


def _pools(call: Call) -> bool:
    """Whether a module leaves one place of a map's many, or none."""
    if call.after.ndim == 2:
        return True
    return call.after.ndim == 4 and call.after.shape[2:].numel() == 1 < call.before.shape[2:].numel()


def _blocks(groups: Sequence[Group], ndim: int) -> list[Named]:
    """The groups as blocks; `ndim` is the number of dimensions of what the first of them is given."""
    blocks: list[Named] = []
    for name, calls in groups:
        vectors = name in ("pool", "head", "classifier")
        blocks.append((name, "", _block(calls, ndim, vectors=vectors)))
        ndim = 2 if vectors else calls[-1].after.ndim
    return blocks


def _block(calls: Sequence[Call], ndim: int, kind: type[Borrowed] = Borrowed, *, vectors: bool = False) -> Borrowed:
    """The calls as one block; it takes something of `ndim` dimensions, and gives vectors where it must."""
    first, out = calls[0], calls[-1].after
    steps: list[Step] = []
    if ndim == 4 and _is_last(first.before):
        steps.append(channels_last)
    elif ndim == 2 and first.before.ndim == 4:
        steps.append(one_place)
    for call in calls:
        shaped = flat if call.flattened and not (call is first and ndim == 2) else None
        steps += [call.path] if shaped is None else [shaped, call.path]
    if vectors and out.ndim == 4:
        steps.append(flat)
    elif _is_last(out):
        steps.append(channels_first)
    return kind(_width(out), calls, steps)


def _part(
    network: nn.Module, half: str, kept: Sequence[Call], dropped: Sequence[Call], gives: Tensor, called: str
) -> nn.Module:
    """One half of the library's own forward, on a copy of the network that holds only the modules of `kept`.

    The first half has the network's own tensors too. `gives` is a tensor as the half gives it.
    """
    roots = {each.path.split(".")[0] for each in kept}
    first = half == "forward_features"
    shared = [each.path for each in dropped if each.path.split(".")[0] in roots]
    if shared or not hasattr(network, half) or _is_last(gives):
        raise _indivisible(called, next(iter(shared), dropped[0 if first else -1].path))
    part = copy(network)
    modules = {
        name: module if name in roots or module is None else nn.Sequential()
        for name, module in network._modules.items()
    }
    tensors = {"_parameters": dict(network._parameters), "_buffers": dict(network._buffers)}
    vars(part).update(tensors if first else {"_parameters": {}, "_buffers": {}})
    vars(part).update(_modules=modules, width=_width(gives))
    vars(part)["forward"] = partial(_fitting, getattr(part, half))
    return part


def _fitting(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What `run` makes of `x`; raises InputError where it refuses the size of images."""
    try:
        return run(x)
    except AssertionError as error:
        what = f"the network does not take images of {x.shape[-2]}×{x.shape[-1]} pixels ({error})"
        raise InputError(
            what, hint="give it the size that it is made for, or set `arguments: {img_size: …}`"
        ) from error


def _place(block: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path below a block, whose state dict then has the library's own names."""
    *parents, last = path.split(".")
    for name in parents:
        if name not in dict(block.named_children()):
            block.add_module(name, nn.Module())
        block = block.get_submodule(name)
    block.add_module(last, module)


def _is_last(x: Tensor) -> bool:
    """Whether a map of a square image has its channels last: (B, H, W, C)."""
    return x.ndim == 4 and x.shape[1] == x.shape[2] != x.shape[3]


def _width(x: Tensor) -> int:
    return x.shape[1] if x.ndim == 4 and not _is_last(x) else x.shape[-1]


def _parameters(call: Call) -> int:
    return sum(parameter.numel() for parameter in call.module.parameters())


def _spelled(path: str) -> str:
    """A module's path as a block's name: `trunk_output.block1.block1-0` is `block1.0`."""
    return re.sub(r"\b(\w+)\.\1-", r"\1.", path.removeprefix("trunk_output."))


def _indivisible(called: str, path: str) -> InputError:
    return InputError(
        f"{called} cannot be divided into blocks: around its module `{path}` it does what no module of its own does",
        hint="name a network that runs block after block, such as a ResNet, ConvNeXt, ViT or Swin",
    )
