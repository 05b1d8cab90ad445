"""The tables of everything that a recipe can name: `name → "module:object"`, imported at first use.

To add a member, write its file and one line here. Its options are the keyword-only parameters that have a default;
keyword-only parameters without one are handed in by sslcut (`seed`, …). Both are read from the source with `ast`, so
a recipe is checked before torch is imported.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sslcut.errors import UsageError, suggestion


@dataclass(frozen=True)
class Option:
    """One option of a member: its name, its annotation as written, and its literal default."""

    name: str
    annotation: str
    default: Any


class Registry(Mapping[str, str]):
    """A table of names; the object behind a name is imported by `load` and described without importing it.

    An entry that ends in a colon is a family: every name that begins so is a member.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        if name not in self:
            raise UsageError(f"unknown {self.kind} `{name}`", hint=suggestion(name, self))
        return self._entries.get(name) or self._entries[_family(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or (isinstance(name, str) and _family(name) in self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """The object behind `name`; imports its module. Raises UsageError with the nearest name.

        Of a family it is the family's function with the rest of the name as its first argument.
        """
        module, _, attribute = self[name].partition(":")
        found = getattr(import_module(module), attribute)
        return found if name in self._entries else partial(found, name.partition(":")[2])

    def options(self, name: str) -> dict[str, Option]:
        """The member's options by name, read from its source: keyword-only parameters with a default."""
        arguments = _signature(self._node(name))
        pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        return {
            a.arg: Option(a.arg, ast.unparse(a.annotation) if a.annotation else "Any", ast.literal_eval(default))
            for a, default in pairs
            if default is not None
        }

    def wants(self, name: str) -> list[str]:
        """What the member is handed in, read from its source: keyword-only parameters without a default."""
        arguments = _signature(self._node(name))
        pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        return [argument.arg for argument, default in pairs if default is None]

    def literal(self, name: str, attribute: str, default: Any = None) -> Any:
        """A literal class attribute of the member (`uses_labels`, `defaults`), read from its source."""
        for statement in getattr(self._node(name), "body", []):
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            if any(isinstance(t, ast.Name) and t.id == attribute for t in targets):
                return ast.literal_eval(statement.value)
        return default

    def summary(self, name: str) -> str:
        """The first sentence of the member's docstring, for listings."""
        node = self._node(name)
        text = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else ""
        return (text or "").split("\n\n")[0].replace("\n", " ")

    def _node(self, name: str) -> ast.stmt:
        module, _, attribute = self[name].partition(":")
        found = _definitions(module).get(attribute)
        if found is None:
            raise LookupError(f"{module} defines no {attribute}, which the table of {self.kind}s names")
        return found


def _family(name: str) -> str:
    return f"{name.partition(':')[0]}:" if ":" in name else ""


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"no module {module}")
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def _signature(node: ast.stmt) -> ast.arguments:
    if isinstance(node, ast.ClassDef):
        node = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    assert isinstance(node, ast.FunctionDef)
    return node.args


DATASETS = Registry(
    "data set",
    {
        "shapes": "sslcut.data.shapes:load",
        "digits": "sslcut.data.digits:load",
        "fashion-mnist": "sslcut.data.idx:load_fashion_mnist",
        "mnist": "sslcut.data.idx:load_mnist",
        "folder": "sslcut.data.folder:load",
        "table": "sslcut.data.table:load",
        "torchvision": "sslcut.data.downloads:load",
    },
)

AUGMENTATIONS = Registry(
    "view policy",
    {
        "simclr": "sslcut.data.policies:simclr",
        "vicreg": "sslcut.data.policies:vicreg",
        "byol": "sslcut.data.policies:byol",
        "moco_v2": "sslcut.data.policies:moco_v2",
        "dino": "sslcut.data.policies:dino",
        "trex": "sslcut.data.policies:trex",
        "supervised": "sslcut.data.policies:supervised",
        "none": "sslcut.data.policies:none",
    },
)

BACKBONES = Registry(
    "backbone",
    {
        "resnet10": "sslcut.model.resnet:resnet10",
        "resnet18": "sslcut.model.resnet:resnet18",
        "resnet34": "sslcut.model.resnet:resnet34",
        "resnet50": "sslcut.model.resnet:resnet50",
        "resnet101": "sslcut.model.resnet:resnet101",
        "vit_ti": "sslcut.model.vit:vit_ti",
        "vit_s": "sslcut.model.vit:vit_s",
        "vit_b": "sslcut.model.vit:vit_b",
        "vit_l": "sslcut.model.vit:vit_l",
        "torchvision:": "sslcut.model.library:torchvision",
        "timm:": "sslcut.model.library:timm",
        "hf-hub:": "sslcut.model.library:hf_hub",
    },
)

METHODS = Registry(
    "method",
    {
        "simclr": "sslcut.methods.simclr:SimCLR",
        "moco_v2": "sslcut.methods.moco_v2:MoCoV2",
        "moco_v3": "sslcut.methods.moco_v3:MoCoV3",
        "barlow_twins": "sslcut.methods.barlow_twins:BarlowTwins",
        "vicreg": "sslcut.methods.vicreg:VICReg",
        "byol": "sslcut.methods.byol:BYOL",
        "simsiam": "sslcut.methods.simsiam:SimSiam",
        "swav": "sslcut.methods.swav:SwAV",
        "dino": "sslcut.methods.dino:DINO",
        "lejepa": "sslcut.methods.lejepa:LeJEPA",
        "supcon": "sslcut.methods.supcon:SupCon",
        "supervised": "sslcut.methods.supervised:Supervised",
        "trex": "sslcut.methods.trex:TReX",
    },
)

OPTIMISERS = Registry(
    "optimizer",
    {
        "sgd": "sslcut.training.optim:sgd",
        "lars": "sslcut.training.optim:lars",
        "adamw": "sslcut.training.optim:adamw",
    },
)

UPDATES = Registry(
    "head update",
    {
        "joint": "sslcut.training.updates:Joint",
        "two_speed": "sslcut.training.updates:TwoSpeed",
        "alternating": "sslcut.training.inner:Alternating",
        "unrolled": "sslcut.training.inner:Unrolled",
        "implicit": "sslcut.training.inner:Implicit",
        "frozen": "sslcut.training.updates:Frozen",
        "reset": "sslcut.training.reset:Reset",
    },
)

PROBES = Registry(
    "probe",
    {
        "linear": "sslcut.metrics.linear:linear",
        "knn": "sslcut.metrics.knn:knn",
        "mlp": "sslcut.metrics.mlp:mlp",
        "binarised": "sslcut.metrics.binarised:binarised",
        "transfer": "sslcut.metrics.transfer:transfer",
    },
)

SHIFTS = Registry(
    "shift",
    {
        "brightness": "sslcut.data.shifts:brightness",
        "noise": "sslcut.data.shifts:noise",
        "blur": "sslcut.data.shifts:blur",
        "occlusion": "sslcut.data.shifts:occlusion",
        "rotation": "sslcut.data.shifts:rotation",
        "folder": "sslcut.data.elsewhere:folder",
    },
)

MEASURES = Registry(
    "measure",
    {
        "rankme": "sslcut.metrics.geometry:rankme",
        "erank_cov": "sslcut.metrics.variances:erank_cov",
        "participation": "sslcut.metrics.variances:participation",
        "alpha_req": "sslcut.metrics.variances:alpha_req",
        "uniformity": "sslcut.metrics.similarity:uniformity",
        "cka": "sslcut.metrics.similarity:cka",
        "alignment": "sslcut.metrics.scatter:alignment",
        "sensitivity": "sslcut.metrics.scatter:sensitivity",
        "sensitivity_cosine": "sslcut.metrics.scatter:sensitivity_cosine",
        "within": "sslcut.metrics.scatter:within",
        "between": "sslcut.metrics.scatter:between",
        "keep_views": "sslcut.metrics.scatter:keep_views",
        "keep_data": "sslcut.metrics.scatter:keep_data",
        "selectivity": "sslcut.metrics.scatter:selectivity",
        "rank_data": "sslcut.metrics.spread:rank_data",
        "rank_views": "sslcut.metrics.spread:rank_views",
        "lidar": "sslcut.metrics.spread:lidar",
        "tangent": "sslcut.metrics.tangent:tangent",
        "zeros": "sslcut.metrics.sparsity:zeros",
        "zeros_exact": "sslcut.metrics.sparsity:zeros_exact",
        "dead": "sslcut.metrics.sparsity:dead",
    },
)

EXPORTS = Registry(
    "export format",
    {
        "torchvision": "sslcut.foreign.to_torchvision:torchvision",
        "timm": "sslcut.foreign.to_timm:timm",
        "onnx": "sslcut.foreign.to_onnx:onnx",
    },
)

# of files from elsewhere; the first whose marks a file has is taken
DIALECTS = Registry(
    "dialect",
    {
        "trex": "sslcut.foreign.dialects:TREX",
        "dinov2": "sslcut.foreign.dialects:DINOV2",
        "dino": "sslcut.foreign.dialects:DINO",
        "moco-v3": "sslcut.foreign.dialects:MOCO_V3",
        "moco": "sslcut.foreign.dialects:MOCO",
        "simsiam": "sslcut.foreign.dialects:SIMSIAM",
        "vissl": "sslcut.foreign.dialects:VISSL",
        "swav": "sslcut.foreign.dialects:SWAV",
        "lightly-dino": "sslcut.foreign.dialects:LIGHTLY_DINO",
        "lightly": "sslcut.foreign.dialects:LIGHTLY",
        "solo-learn": "sslcut.foreign.dialects:SOLO_LEARN",
        "barlow-twins": "sslcut.foreign.dialects:BARLOW_TWINS",
        "vicreg": "sslcut.foreign.dialects:VICREG",
        "transformers-dinov2": "sslcut.foreign.dialects:TRANSFORMERS_DINOV2",
        "transformers-vit": "sslcut.foreign.dialects:TRANSFORMERS_VIT",
        "timm": "sslcut.foreign.dialects:TIMM",
        "torchvision": "sslcut.foreign.dialects:TORCHVISION",
    },
)

BENCHES = Registry(
    "part of the benchmark",
    {
        "startup": "sslcut.bench.startup:startup",
        "views": "sslcut.bench.views:views",
        "step": "sslcut.bench.step:step",
        "updates": "sslcut.bench.updates:updates",
        "epoch": "sslcut.bench.epoch:epoch",
        "features": "sslcut.bench.features:features",
        "files": "sslcut.bench.files:files",
        "linear": "sslcut.bench.linear:linear",
        "knn": "sslcut.bench.knn:knn",
        "cut": "sslcut.bench.cut:cut",
        "run": "sslcut.bench.run:run",
    },
)


def uses_labels(method: Mapping[str, Any]) -> bool:
    """Whether the method that a recipe's `method` section describes is given labels; of an unknown one False."""
    name = str(method.get("name"))
    own = name in METHODS and METHODS.literal(name, "uses_labels", False)
    return bool(own) or method.get("negatives") == "mask_same_label"
