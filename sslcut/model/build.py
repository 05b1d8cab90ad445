"""A recipe's `model` section becomes a chain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sslcut.model.chain import Chain
from sslcut.model.heads import classifier, mlp, prototypes
from sslcut.registry import BACKBONES


def build(model: Mapping[str, Any]) -> Chain:
    """The network that `model` describes: backbone, then of projector, predictor, prototypes, classifier what it names.

    Weights are drawn from torch's global generator, or not at all under `torch.device("meta")`. Raises UsageError for
    an unknown backbone or a last block that it cannot have.
    """
    options = dict(model["backbone"])
    chain: Chain = BACKBONES.load(options.pop("name"))(last_block=model.get("last_block") or {}, **options)
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
