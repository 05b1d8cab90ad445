"""What a dialect is: the habits of one project's files that are not in the tensors themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Branch = Literal["student", "teacher"]
Colour = tuple[float, float, float]
Statistics = tuple[Colour, Colour]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


@dataclass(frozen=True)
class Part:
    """Where a head's layers stand: a pattern in the backbone's prefix and what it becomes (see `re.sub`).

    `backbone.` → `projector.` finds `momentum_projector.` beside `momentum_backbone.`. `unit_input`: where the first
    layer is number 1, number 0 scales vectors to length 1.
    """

    pattern: str
    becomes: str
    activation: Literal["relu", "gelu"] = "relu"
    unit_input: bool = False


@dataclass(frozen=True)
class Dialect:
    """How one project writes its networks: a file is of the first dialect all of whose `marks` it has.

    `marks` are patterns of names, each found in one name at least. `published` is the branch that the authors evaluate
    where a file holds both. `ignored` are patterns of what is left out on purpose. `options` complete the backbone's,
    by family, for networks with registers, or by architecture; `stem` is what a 3×3 first convolution is the sign of.
    `statistics` are mean and deviation of the input, `small_statistics` those of a network with such a stem, `size`
    the most pixels a side.
    """

    title: str
    marks: tuple[str, ...] = ()
    published: Branch = "student"
    projectors: tuple[Part, ...] = ()
    predictors: tuple[Part, ...] = ()
    ignored: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stem: str = "cifar"
    size: int = 1024
    statistics: Statistics = IMAGENET
    small_statistics: Statistics = IMAGENET


TRAINING = (
    r"^(?:optimizers?|optimizer_states?|opt|lr_schedulers?|scheduler|scaler|fp16_scaler|amp|grad_scaler|callbacks|loops)\b",
    r"^(?:epoch|step|iteration|global_step|best_acc1?|rng_state|torch_rng_state|cuda_rng_state|random_state)\b",
)
"""What any training script may leave beside its weights."""
