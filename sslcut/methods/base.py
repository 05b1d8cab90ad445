"""What a training method is: how views become z, and what z costs."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sslcut.data.views import Views
from sslcut.errors import UsageError
from sslcut.methods.mixing import Mixing
from sslcut.model.chain import Chain
from sslcut.names import part_of


class Features(NamedTuple):
    """A batch behind the backbone and before the head: what a pass of the head takes, so that it can be repeated.

    `h` holds one tensor (N_i, H) for all images that share batch statistics, view after view, `views` views in all.
    `targets` (T, B, D) are what z ends with, constants of the batch, where they do not come from the head itself.
    """

    h: tuple[Tensor, ...]
    views: int
    targets: Tensor | None = None


class Method(nn.Module, ABC):
    """A network (`chain`) and a loss over its last output; a subclass writes `loss` and what it declares.

    A method's options are the keyword-only parameters of its `__init__`. Teachers, queues and centres are modules or
    buffers of the method, so that `state_dict()` carries them and resuming costs no code.
    """

    uses_labels: bool = False  # else `labels` is None; an option of the method may ask for them
    needs_classifier: ClassVar[bool] = False  # the chain ends with a block of one output a class
    needs_classes: ClassVar[bool] = False  # `__init__` is given how many classes its labels have
    needs: ClassVar[tuple[str, ...]] = ()  # parts of the head that the loss cannot do without
    keeps: ClassVar[Literal["student", "teacher"]] = "student"  # which network the checkpoint holds
    batchnorm: ClassVar[Literal["per_view", "joint"]] = "joint"  # what batch statistics are taken over, as published
    caution: ClassVar[str] = ""  # what the user must know before the first step
    unseen: ClassVar[int] = 0  # how many of the global views, the last ones, only the teacher sees
    min_views: ClassVar[int] = 2  # how many views the loss compares at least
    stops_gradient: ClassVar[bool] = False  # the loss aims at what the head itself gives, as at a constant
    defaults: ClassVar[dict[str, Any]] = {}  # recipe sections below what the user writes

    progress: float = 0.0
    """How far the training is, from 0 to 1: set before every step."""
    seed: int = 0
    """The recipe's: set before training."""
    n_global: int = 2
    """How many of the views are global ones: noted by `check`."""
    mixing: Mixing | None = None
    """How the images of the last forward were mixed; None where they were not."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.chain = chain

    @property
    def kept(self) -> Chain:
        """The network that a checkpoint holds."""
        return self.chain

    @property
    def added(self) -> dict[str, Any]:
        """What `kept` has beyond the recipe's network, as a recipe's `model` section says it."""
        return {}

    @property
    def targets(self) -> int:
        """How many of z's views, the last ones, are aimed at and pass no gradient."""
        return 0

    def forward(self, views: Views, labels: Tensor | None = None) -> Tensor:
        """z, (V, B, D): what the loss compares, targets last."""
        self.begin()
        return self.head(self.features(views))

    def begin(self) -> None:
        """Called once a step, before its first pass."""

    def features(self, views: Views) -> Features:
        """What the head takes of a batch; raises UsageError where there are too few views to compare."""
        self.check(views)
        return self.seen(self.chain, views.crops)

    def head(self, features: Features) -> Tensor:
        """z, (V, B, D), targets last: one pass of the head."""
        z = self.projected(self.chain, features)
        return z if features.targets is None else torch.cat([z, features.targets])

    def check(self, views: Views) -> None:
        """Note how many views are global; raises UsageError where there are too few to compare."""
        enough(type(self).__name__, sum(len(crop) for crop in views.crops), self.min_views)
        self.n_global = views.n_global

    def outputs(self, chain: Chain, crops: Sequence[Tensor], upto: str | None = None) -> Tensor:
        """What a chain gives for every view, (V, B, D), up to and including block `upto`."""
        return self.projected(chain, self.seen(chain, crops), upto)

    def seen(self, chain: Chain, crops: Sequence[Tensor]) -> Features:
        """What a chain's backbone gives: view by view, or once for each resolution and all views together."""
        if self.batchnorm == "per_view":
            h = tuple(chain.run(view, upto=chain.backbone) for crop in crops for view in crop)
        else:
            h = (torch.cat(self.backbone(chain, crops)),)
        return Features(h, sum(len(crop) for crop in crops))

    def projected(self, chain: Chain, features: Features, upto: str | None = None) -> Tensor:
        """What a chain's head makes of features, (V, B, D), up to and including block `upto`."""
        z = torch.cat([chain.run(h, after=chain.backbone, upto=upto) for h in features.h])  # (V·B, D)
        return z.reshape(features.views, -1, z.shape[-1])

    def backbone(self, chain: Chain, crops: Sequence[Tensor]) -> list[Tensor]:
        """A chain's backbone for each group of crops, its views one after another, (V_i·B, H)."""
        by_size: dict[torch.Size, list[int]] = defaultdict(list)
        for group, crop in enumerate(crops):
            by_size[crop.shape[-2:]].append(group)
        found: dict[int, Tensor] = {}
        for groups in by_size.values():
            images = [crops[group].flatten(0, 1) for group in groups]
            h = chain.run(torch.cat(images), upto=chain.backbone)
            found.update(zip(groups, torch.split(h, [len(x) for x in images]), strict=True))
        return [found[group] for group in range(len(crops))]

    def generator(self, device: torch.device) -> torch.Generator:
        """This step's random numbers: of the seed and the progress alone, so that a resumed training has them too."""
        digest = blake2b(f"{self.seed} {self.progress!r}".encode(), digest_size=7).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))

    def draw_head(self) -> None:
        """Draw every block behind the backbone anew, as it was at first, from torch's random numbers."""
        for name, _, block in self.chain.items():
            for layer in block.modules() if part_of(name) != "backbone" else ():
                if callable(drawn := getattr(layer, "reset_parameters", None)):
                    drawn()

    @abstractmethod
    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The loss of z (V, B, D), a scalar. Called with autocast off and z in float32."""

    def held(self, progress: float) -> Sequence[nn.Parameter]:
        """The parameters that the coming step leaves where they are; `progress` runs from 0 to 1."""
        return ()

    def before_step(self, progress: float) -> None:
        """Called between the backward pass and the optimiser's step; `progress` runs from 0 to 1."""
        for parameter in self.held(progress):
            hold(parameter)

    def after_step(self, z: Tensor, labels: Tensor | None, progress: float) -> None:
        """Called after the optimiser's step with the detached z: queues, centres, then the teacher."""


def enough(method: str, count: int, least: int) -> None:
    """Raise UsageError where `count` views are fewer than a method compares."""
    if count < least:
        raise UsageError(
            f"the method {method} compares {least} views, views.crops gives {count}",
            hint=f"make the counts in `views.crops` add up to {least} or more",
        )


def hold(parameter: nn.Parameter) -> None:
    """Let the coming step leave a parameter where it is, but for its weight decay.

    Its gradient becomes zero and not None, which torch's fused SGD cannot have in the first step alone.
    """
    if parameter.grad is not None:
        parameter.grad.zero_()


def pairs(n_global: int, views: int) -> list[tuple[int, int]]:
    """Every two views of which one at least is global, once each: what a loss that knows no sides compares."""
    return [(a, b) for a in range(n_global) for b in range(a + 1, views)]


def crossed(n_global: int, views: int) -> list[tuple[int, int]]:
    """Every view with every global one but itself, as (view, target)."""
    return [(view, target) for target, view in product(range(n_global), range(views)) if view != target]
