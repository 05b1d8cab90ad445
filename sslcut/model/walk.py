"""How a network of another library runs, seen from one pass: which module hands its output straight to which.

Each module's call is watched. Where the tensor that leaves one is the very tensor that enters the next, nothing
happens between them, and the two can be run one after the other without the code that holds them. A module whose
calls are all linked so, from its own input to its own output, is its calls in a line; one with a gap (a residual sum,
several inputs) stays whole.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

BATCH = 2
WEIGHED = (nn.Conv2d, nn.Linear)
"""The modules with which something new is computed; norms, activations and pooling belong to one of them."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A tensor as it was at one moment: `version` counts what had been written into it."""

    tensor: Tensor
    version: int

    def is_still(self, other: "Seen | None") -> bool:
        """Whether this is the very tensor that was seen there, with nothing written into it between."""
        return other is not None and self.tensor is other.tensor and self.version == other.version

    @staticmethod
    def of(value: Any) -> "Seen | None":
        """What was seen of a module's only argument or its output; None where that is no tensor."""
        return Seen(value, value._version) if isinstance(value, Tensor) else None


@dataclass
class Call:
    """One call of a module: its path in the network, what went in and came out, and the calls inside it.

    `given` is None where the module took more than one tensor. `flattened` says that the output of the call before was
    flattened to vectors on its way here.
    """

    path: str
    module: nn.Module
    given: Seen | None
    gave: Seen | None = None
    inner: list["Call"] = field(default_factory=list)
    flattened: bool = False

    @property
    def before(self) -> Tensor:
        """The tensor that went in."""
        assert self.given is not None
        return self.given.tensor

    @property
    def after(self) -> Tensor:
        """The tensor that came out."""
        assert self.gave is not None
        return self.gave.tensor

    def everything(self) -> Iterator["Call"]:
        """This call and all inside it."""
        yield self
        for call in self.inner:
            yield from call.everything()


def watch(network: nn.Module, size: int) -> Call:
    """The calls of one pass of images of `size` pixels a side through the network; the first is its own.

    Runs in evaluation mode and on the meta device, with shapes alone: the network's tensors stay as they are.
    """
    root = Call("", nn.Identity(), None)
    stack, watches = [root], []

    def begin(path: str, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        alone = arguments[0] if len(arguments) == 1 and not named else None
        call = Call(path, module, Seen.of(alone))
        stack[-1].inner.append(call)
        stack.append(call)

    def end(output: Any) -> None:
        stack.pop().gave = Seen.of(output)

    for path, module in network.named_modules():
        watches.append(
            module.register_forward_pre_hook(lambda m, a, k, path=path: begin(path, m, a, k), with_kwargs=True)
        )
        watches.append(module.register_forward_hook(lambda _, __, output: end(output)))
    training = network.training
    try:
        # in a caller's inference mode tensors count no versions
        with torch.inference_mode(False), torch.no_grad(), torch.device("meta"):
            named = [*network.named_parameters(), *network.named_buffers()]
            shapes = {name: tensor.to("meta") for name, tensor in named}
            functional_call(network.eval(), shapes, (torch.empty(BATCH, 3, size, size),))
    finally:
        network.train(training)
        for each in watches:
            each.remove()
    return root.inner[0]


def runs(call: Call) -> list[list[Call]]:
    """The calls inside one, in runs that are linked from first to last; between two runs stands other code."""
    found: list[list[Call]] = []
    left = call.inner
    while left:
        linked, _ = follow(left[0].given, left)
        found.append(linked or left[:1])
        left = left[len(found[-1]) :]
    return found


def follow(given: Seen | None, calls: Iterable[Call]) -> tuple[list[Call], Seen | None]:
    """The first of `calls` that are linked to `given` one after the other, and what the last of them gave."""
    linked: list[Call] = []
    for call in calls:
        if given is None or call.given is None or not _reaches(given, call):
            break
        linked.append(call)
        given = call.gave
    return linked, given


def _reaches(seen: Seen, call: Call) -> bool:
    """Whether a tensor enters a call as it was; notes where it was flattened on the way."""
    given = call.given
    assert given is not None
    if seen.version != given.version:
        return False  # written into meanwhile: `out += shortcut` leaves the tensor itself in place
    base = seen.tensor if seen.tensor._base is None else seen.tensor._base
    call.flattened = (
        given.tensor._base is base and given.tensor.shape == seen.tensor.flatten(1).shape != seen.tensor.shape
    )
    return call.flattened or given.tensor is seen.tensor


def in_line(call: Call) -> bool:
    """Whether the calls inside this one, each of a module of its own, do all that it does."""
    if call.given is None or call.gave is None or not call.inner or holds_tensors(call.module):
        return False
    linked, last = follow(call.given, call.inner)
    weights = [id(inner.module) for inner in call.inner if weighs(inner.module)]
    return len(linked) == len(call.inner) and call.gave.is_still(last) and len(weights) == len(set(weights))


def holds_tensors(module: nn.Module) -> bool:
    """Whether a module has parameters or buffers of its own, outside the modules that it holds."""
    return bool(list(module.parameters(recurse=False)) or list(module.buffers(recurse=False)))


def composite(module: nn.Module) -> bool:
    """Whether modules inside this one hold tensors."""
    return any(weighs(child) for child in module.children())


def weighs(module: nn.Module) -> bool:
    """Whether a file holds tensors of this module."""
    return bool(module.state_dict())


def gapped(call: Call) -> set[type]:
    """The types of composite modules that do something between their parts, in at least one of their calls."""
    return {
        type(inner.module)
        for inner in call.everything()
        if inner is not call
        and composite(inner.module)
        and type(inner.module) is not nn.Sequential
        and not in_line(inner)
    }


def pieces(call: Call, kept: set[type]) -> list[Call]:
    """A call as a line of calls that are blocks, or parts of one: containers give way to what they contain.

    `kept` are the types that stay whole. So does what has weights of its own among its parts, unless it is a plain
    sequence of several, or turns maps into vectors.
    """
    module = call.module
    if type(module) in kept or not composite(module) or not in_line(call):
        return [call]
    weights = sum(isinstance(part, WEIGHED) for part in module.children())
    vectors = call.after.ndim == 2
    plain = isinstance(module, nn.Sequential) and not any(composite(part) for part in module.children())
    direct = any(weighs(part) and not composite(part) for part in module.children())
    if not vectors and (weights < 2 if plain else direct and not isinstance(module, nn.Sequential)):
        return [call]
    call.inner[0].flattened |= call.flattened
    return [piece for inner in call.inner for piece in pieces(inner, kept)]


def foldable(calls: Iterable[Call]) -> tuple[tuple[str, str], ...]:
    """Paths of the convolutions in a line of calls, and of the plain batch norm that each hands its output to."""
    pairs = []
    leaves = [inner for call in calls for inner in call.everything() if not inner.inner]
    for first, second in zip(leaves, leaves[1:], strict=False):
        norm = type(second.module) is nn.BatchNorm2d  # not timm's, which hold the activation too
        if (
            norm
            and isinstance(first.module, nn.Conv2d)
            and first.gave is not None
            and first.gave.is_still(second.given)
        ):
            pairs.append((first.path, second.path))
    return tuple(pairs)
