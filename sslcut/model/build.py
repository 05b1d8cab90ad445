"""A recipe's `model` section becomes a chain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sslcut.errors import UsageError
from sslcut.model.chain import Chain
from sslcut.model.heads import classifier, mlp, prototypes
from sslcut.names import HEAD_PARTS, is_named, part_of
from sslcut.registry import BACKBONES


def build(model: Mapping[str, Any]) -> Chain:
    """The network that `model` describes: backbone, then of projector, predictor, prototypes, classifier what it names.

    Weights are drawn from torch's global generator, or a library's where the backbone says `pretrained`; under
    `torch.device("meta")` neither. Raises UsageError for an unknown backbone or a last block that it cannot have.
    """
    options = dict(model["backbone"])
    chain: Chain = BACKBONES.load(options.pop("name"))(last_block=model.get("last_block") or {}, **options)
    if part_of(chain.names[-1]) != "backbone" and any(model.get(part) for part in HEAD_PARTS):
        what = f"the backbone keeps its own {chain.names[-1]}, and nothing can follow it"
        raise UsageError(what, hint="leave `model.backbone.classes` out, or the head")
    for part in ("projector", "predictor"):
        if head := model.get(part):
            chain = chain.followed_by(mlp(part, chain.width, **head))
    if directions := model.get("prototypes"):
        chain = chain.followed_by(prototypes(chain.width, **directions))
    if classes := model.get("classifier"):
        chain = chain.followed_by(classifier(chain.width, classes))
    return chain


def blueprint(model: Mapping[str, Any]) -> Chain:
    """The same network on the meta device, with shapes and no weights: to be counted, or to be given its tensors."""
    with unmade():
        return build(model)


def settled(model: Mapping[str, Any]) -> dict[str, Any]:
    """The same `model` with nothing left to be fetched, as a checkpoint holds it: a library's network without weights.

    Raises InputError where a hub has to be asked, and cannot be.
    """
    if not is_named(model["backbone"]["name"]):
        return dict(model)
    from sslcut.model.published import unfetched  # which only a library's network needs

    return {**model, "backbone": unfetched(model["backbone"])}


@contextmanager
def unmade() -> Iterator[None]:
    """What is built inside has shapes and no numbers: it is on the meta device, and nothing is drawn."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves out the drawing of weights, which on the meta device would only bring torch's compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "trunc_normal_", "random_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
