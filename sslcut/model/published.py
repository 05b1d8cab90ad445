"""What torchvision, timm and a hub say of a network by its name, and its weights, fetched by the library itself."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import nn

from sslcut.errors import AbsentError, UsageError, suggestion
from sslcut.libraries import check_named

Colour = tuple[float, float, float]
PATIENCE = 10.0  # seconds until a hub counts as out of reach


@dataclass(frozen=True)
class About:
    """What a library says of a network: what it is fed, its classes (0: none), its weights and the library's version.

    `size` is in pixels a side, `mean` and `std` of images in [0, 1].
    """

    size: int
    mean: Colour
    std: Colour
    classes: int
    weights: str
    version: str


def unfetched(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone without weights, and without a hub: what a hub says of it, in timm's words."""
    found = {**backbone, **({"pretrained": False} if "pretrained" in backbone else {})}
    library, _, network = backbone["name"].partition(":")
    if library != "hf-hub":
        return found
    told, plain, arguments = _of_hub(network)
    if told.get("fixed_input_size"):
        arguments = {"img_size": side(told["input_size"]), **arguments}
    return {**found, "name": f"timm:{plain}", "arguments": arguments}


def about(name: str) -> About:
    """What the library says of the network; raises UsageError for weights that it does not have."""
    library, _, network = name.partition(":")
    if library == "torchvision":
        return _of_weights(*network.partition(".")[::2])
    if library == "hf-hub":
        told, _, _ = _of_hub(network)
        weights = network
    else:
        told = tagged(network).to_dict()
        weights = told.get("hf_hub_id") or told.get("url") or ""
    size, classes = side(told["input_size"]), told.get("num_classes") or 0
    return About(size, tuple(told["mean"]), tuple(told["std"]), classes, weights, import_module("timm").__version__)


def _of_weights(network: str, tag: str) -> About:
    """What torchvision says of the weights `tag` of a network, or of its best where that is empty."""
    known = import_module("torchvision.models").get_model_weights(network)
    if tag and tag not in known.__members__:
        raise UsageError(f"torchvision has no weights `{tag}` of `{network}`", hint=suggestion(tag, known.__members__))
    weights = known[tag] if tag else known.DEFAULT
    seen, classes = weights.transforms(), len(weights.meta["categories"])
    version = import_module("torchvision").__version__
    return About(seen.crop_size[0], tuple(seen.mean), tuple(seen.std), classes, weights.name, version)


def fetched(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The library's own network with its published weights, in evaluation mode; what was fetched before is not again.

    Raises AbsentError (exit 3) where it cannot be fetched.
    """
    library, _, network = name.partition(":")
    if library == "torchvision":
        weights = about(name).weights
        with _fetching(name):
            return (
                import_module("torchvision.models")
                .get_model(network.partition(".")[0], weights=weights, progress=False)
                .eval()
            )
    with _fetching(name), _hub():
        called = name if library == "hf-hub" else network
        return import_module("timm").create_model(called, pretrained=True, **arguments).eval()


def side(size: Any) -> int:
    """The side in pixels of a size as timm writes one: a number, (H, W) or (C, H, W)."""
    return int(size if isinstance(size, int) else size[-1])


def tagged(network: str) -> Any:
    """timm's word on a network and its weights; raises UsageError for a tag that it does not have."""
    library = import_module("timm")
    try:
        return library.models.get_pretrained_cfg(network, allow_unregistered=False)
    except RuntimeError as error:
        plain, _, tag = network.partition(".")
        tags = [name.partition(".")[2] for name in library.list_pretrained(f"{plain}.*")]
        hint = suggestion(tag, tags, "tags")
        raise UsageError(f"timm has no weights `{tag}` of `{plain}`", hint=hint) from error


def _of_hub(network: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What a hub's `config.json` says: of the weights, the architecture's name, and its arguments."""
    check_named(f"hf-hub:{network}")
    with _fetching(f"hf-hub:{network}"), _hub():
        told, plain, arguments = import_module("timm").models.load_model_config_from_hf(network)
    return told, plain, dict(arguments or {})


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Silence around a library's download, and one fault for all that can go wrong in it."""
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # stdout is the result's alone
            yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = re.sub(r"\s+", " ", str(error)).strip(" <>") or type(error).__name__
        hint = "connect to the network once, and the library keeps it; or `sslcut import` its file"
        raise AbsentError(f"{name} is not here and cannot be fetched ({reason})", hint=hint) from error


@contextmanager
def _hub() -> Iterator[None]:
    """Keeps a hub that is out of reach from being asked again and again: what is in its cache is still found."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    if getproxies():
        return True  # the proxy knows
    place = urlsplit(url)
    try:
        create_connection((place.hostname, place.port or 443), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
