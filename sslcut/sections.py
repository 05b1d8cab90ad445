"""What a recipe holds, section by section, and the recipe as a whole. Brings pydantic, not torch."""

import hashlib
import json
import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from sslcut.choices import Choice, Chosen, ChosenData, ChosenNetwork, DataChoice, OptionsOf, Section, told, wanted
from sslcut.claims import Study
from sslcut.draft import Draft
from sslcut.registry import (
    AUGMENTATIONS,
    BACKBONES,
    DATASETS,
    MEASURES,
    METHODS,
    OPTIMISERS,
    PROBES,
    SHIFTS,
    UPDATES,
    Registry,
)
from sslcut.yamltext import write

Stage = Literal["pretrain", "resize", "probe", "guillotine", "report"]
HeadPart = Literal["projector", "predictor", "prototypes", "classifier"]
Readout = Literal[
    "avg", "grid2", "avg+max", "cls", "mean", "cls+mean", "cls-normed", "mean-normed", "cls+mean-normed", "vector"
]

_HEADS = Registry("head", {"mlp": "sslcut.model.heads:mlp"})
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_LONGEST_NAME = 100


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[\w][\w .+=,@-]*(?<! )", name) or len(name) > _LONGEST_NAME:
        raise wanted(f"a folder's name (letters, digits and `. _ - + = , @`, at most {_LONGEST_NAME})")
    return name


def size_in_bytes(text: str) -> int:
    """How many bytes `4GB`, `512 MiB` or `1.5G` are."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?|)B?", text.strip().upper())
    if not found or not float(found[1]):
        raise wanted("a size such as `4GB`")
    return int(float(found[1]) * _UNITS[found[2]])


def _size(text: str) -> str:
    size_in_bytes(text)
    return text


Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Names = Literal["all"] | tuple[str, ...]


class Dense(Section):
    """Widths of a head's layers; the other options are those of `sslcut.model.heads:mlp`."""

    widths: tuple[Count, ...]


Mlp = Annotated[dict[str, Any], OptionsOf(_HEADS, "mlp", Dense)]


class LastBlock(Section):
    """The backbone's last block: its width where it is not the architecture's own, and its shortcut."""

    width: Count | None = None
    shortcut: Literal["auto", "always", "never"] = "auto"


class Prototypes(Section):
    """Directions that outputs are assigned to: how many, and whether they are scaled to length 1."""

    count: Count
    unit: bool = False


class Model(Section):
    """The network: backbone, then the head's projector and predictor (None or an MLP's options) and its prototypes."""

    backbone: Annotated[Choice, ChosenNetwork(BACKBONES)]
    last_block: LastBlock = LastBlock()
    projector: Mlp | None = None
    predictor: Mlp | None = None
    prototypes: Prototypes | None = None


class Head(Section):
    """How the head is optimised."""

    update: Annotated[Choice, Chosen(UPDATES)]


class Crop(Section):
    """A group of equal crops: how many, their side in pixels, and the share of the image's area that they take."""

    count: Count = 2
    size: Count
    scale: tuple[Share, Share] = (0.2, 1.0)

    @model_validator(mode="after")
    def _rising(self) -> "Crop":
        if self.scale[0] > self.scale[1]:
            raise told(
                f"a crop's `scale` falls from {self.scale[0]} to {self.scale[1]}", "write the smaller share first"
            )
        return self


class Views(Section):
    """What the network sees of an image. `strength` 0 is no augmentation, 1 the policy as published.

    `positives: label` shows in every second view another image with the same label in `task`, the first class task
    where null.
    """

    policy: Annotated[Choice, Chosen(AUGMENTATIONS)]
    strength: Annotated[float, Field(ge=0)] = 1.0
    exact: bool = False
    positives: Literal["instance", "label"] = "instance"
    task: str | None = None
    crops: Annotated[tuple[Crop, ...], Field(min_length=1)]


class Online(Section):
    """Linear probes of the network's layers that learn beside it, from the batches that it sees, by AdamW."""

    tasks: Names = "all"
    layers: Names = "all"
    lr: Positive = 1e-3


class Train(Section):
    """The training. No epochs give the untrained network; `state_every` is in seconds.

    The learning rate rises from `start_lr` to the optimiser's over the warm-up, then falls to `end_lr`; neither of the
    two is scaled with the batch. That of `constant_lr`, parts of the head, stays as the optimiser has it. `online`
    probes the layers while they train.

    `clip_gradient` is the largest norm of the gradient, with `clip_each` of each parameter's own, as DINO's authors
    have it. `compile` hands the network to torch.compile, by `auto` where a training is so long that measuring finds it
    to save time; a sweep, whose cells are compared, takes no `auto`. `deterministic` makes a training on a GPU the same
    to the bit from run to run and over an interruption, as one on a processor always is, for some of its speed.
    `match: compute` gives an update of the head that costs more than `joint` as many fewer epochs.
    """

    epochs: Whole = 20
    match: Literal["steps", "compute"] = "steps"
    batch_size: Annotated[int, Field(ge=2)] = 256
    optimizer: Annotated[Choice, Chosen(OPTIMISERS)]
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    start_lr: Annotated[float, Field(ge=0)] = 0.0
    end_lr: Annotated[float, Field(ge=0)] = 0.0
    constant_lr: tuple[HeadPart, ...] = ()
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool | Literal["auto"] = False
    deterministic: bool = False
    clip_gradient: Positive | None = None
    clip_each: bool = False
    state_every: Positive = 60.0
    online: Online | None = None

    @model_validator(mode="after")
    def _watched(self) -> "Train":
        if self.compile is True and self.online is not None:
            raise told("`train.online` cannot watch a network that is compiled", "write `train.compile: false`")
        return self


class Viewed(Section):
    """The views under which measures of invariance read every network: so many of each of some test images.

    Without a `policy` it is SimCLR's, whatever a network was trained with, at this `strength` of it.
    """

    images: Annotated[int, Field(ge=2)] = 1024
    views: Annotated[int, Field(ge=2)] = 16
    policy: Annotated[Choice, Chosen(AUGMENTATIONS)] | None = None
    strength: Annotated[float, Field(ge=0)] = 0.5
    exact: bool = True


class Probe(Section):
    """What is measured at which layers. `train` and `test` cap the numbers of images.

    `precision` is that of the pass over the images, `memory` what the features and a probe's work may take together.
    `fractions` are shares of the labels to learn from as well, beside all of them. `controls` read the layers once
    more: `pca` at one width, `common_width` or the narrowest layer's, and in pairs with the reference; `concat` the
    backbone's last four blocks together; `raw` in the other scale than `scale`. `shifts` are shifted test images that
    the probes read as they were fitted, `all` of them but another folder's. `view_parameters` asks what each layer
    knows of how its views, those of `viewed`, were made.
    """

    layers: Names = "all"
    tasks: Names = "all"
    probes: tuple[Annotated[Choice, Chosen(PROBES)], ...]
    readouts: Annotated[tuple[Readout, ...], Field(min_length=1)] = ("avg",)
    measures: tuple[Annotated[Choice, Chosen(MEASURES)], ...]
    viewed: Viewed = Viewed()
    view_parameters: bool = False
    untrained: bool = True
    pixels: bool = True
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    scale: Literal["standard", "raw"] = "standard"
    controls: tuple[Literal["pca", "concat", "raw"], ...] = ("pca",)
    common_width: Count | None = None
    shifts: Literal["all"] | tuple[Annotated[Choice, Chosen(SHIFTS)], ...] = ()
    bootstrap: Annotated[int, Field(ge=2)] = 1000
    precision: Literal["float32", "bf16"] = "float32"
    memory: Annotated[str, AfterValidator(_size)] = "4GB"
    train: Count | None = None
    test: Count | None = None


class Resize(Section):
    """The width that the last block gets, whether it is drawn anew, and its shortcut."""

    width: Count | None = None
    init: Literal["fresh", "preserve"] = "fresh"
    shortcut: Literal["auto", "always", "never"] = "auto"


class Guillotine(Section):
    """Where the network is cut: a block's name, minus a number of blocks, `best` or `smallest`.

    `keep_norm` keeps a transformer's final norm behind the cut.
    """

    at: str | int = "best"
    task: str | None = None
    within: Annotated[float, Field(ge=0)] | None = None
    readout: Readout | None = None
    keep_norm: bool = False


class Report(Section):
    """The report's title, where it is not made from the recipe's name."""

    title: str | None = None


class Paper(Section):
    """The paper that a recipe follows, by its arXiv number, and how closely."""

    id: str
    fidelity: Literal["exact", "protocol", "inspired"]


class Recipe(Section):
    """A checked recipe with every default filled in."""

    name: Annotated[str, AfterValidator(_folder_name)]
    description: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    start: str | None = Field(None, alias="from")
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = ("pretrain", "probe", "guillotine", "report")
    data: Annotated[DataChoice, ChosenData(DATASETS)]
    model: Model
    method: Annotated[Choice, Chosen(METHODS)]
    head: Head
    views: Views
    train: Train
    probe: Probe
    resize: Resize = Resize()
    guillotine: Guillotine = Guillotine()
    report: Report = Report()
    sweep: dict[str, Any] | list[dict[str, Any]] | None = None
    study: Study | None = None
    paper: Paper | None = None
    verified: bool | None = None

    _draft: Draft = PrivateAttr(default_factory=Draft)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.dump() == other.dump()

    def __hash__(self) -> int:
        return hash(self.text())

    @property
    def draft(self) -> Draft:
        """The layers that the recipe was made of, between which a sweep's cells are laid."""
        return self._draft

    @property
    def probe_memory(self) -> int:
        """`probe.memory` in bytes."""
        return size_in_bytes(self.probe.memory)

    def dump(self) -> dict[str, Any]:
        """The recipe as plain data, every default written out."""
        return self.model_dump(mode="json", by_alias=True)

    def text(self) -> str:
        """The recipe as YAML, which reads back as the same recipe."""
        return write(self.dump())

    def stored(self) -> dict[str, Any]:
        """The recipe as a checkpoint holds it: of an absolute path only its last name, which tells no one's folders."""
        dump = self.dump()
        for holder, key in (*_roots(dump), (dump, "from")):
            path = holder.get(key)
            if path is not None and (PurePath(path).is_absolute() or path.startswith("~")):
                holder[key] = PurePath(path).name
        return dump

    def stage_sections(self, stage: str) -> dict[str, Any]:
        """What a stage's result depends on, of this recipe: the sections that it reads, less paths and speed."""
        dump = self.dump()
        for holder, key in (*_roots(dump), (dump, "from")):
            if holder.get(key) is not None:
                holder[key] = PurePath(holder[key]).name
        del dump["train"]["state_every"], dump["probe"]["memory"]
        for key in ("download", "cache"):
            dump["data"].pop(key, None)
        return {section: dump[section] for section in _READS[stage]}

    def stage_hash(self, stage: str, input_identity: str | None) -> str:
        """The sha256 of what a stage's result depends on: the sections that it reads, and the input's identity."""
        read = {"stage": stage, "input": input_identity, "sections": self.stage_sections(stage)}
        return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def _roots(dump: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Where a recipe names folders of images: the mappings, and the key in each."""
    shifts = dump["probe"]["shifts"]
    return [(holder, "root") for holder in (dump["data"], *(shifts if shifts != "all" else ()))]


_READS = {
    "pretrain": ("seed", "from", "data", "model", "method", "head", "views", "train"),
    "probe": ("seed", "data", "probe"),
    "guillotine": ("guillotine",),
    "resize": ("seed", "resize"),
    "report": ("report", "paper", "description"),
}
