"""Networks that torchvision and timm know by name, as chains with the library's own modules and tensor names.

torchvision's stock ResNets and its ViTs are sslcut's own, whose tensors have the same names: their last block can be
resized, as a ConvNeXt's can, and their positions fitted to other images.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import nn

from sslcut.errors import UsageError
from sslcut.libraries import check_named
from sslcut.model import resnet, vit
from sslcut.model.borrowed import chain_of
from sslcut.model.chain import Chain
from sslcut.model.convnext import with_last_block
from sslcut.model.heads import Classifier
from sslcut.model.published import about, fetched, side, tagged, unfetched
from sslcut.model.shortcut import changed
from sslcut.names import STOCK, can_resize, not_resizable

REFUSED = {
    "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only",
    "num_classes",
}  # fmt: skip
"""Arguments of timm's that fetch, read a file or make another kind of network, which no file and no hub may give."""


def torchvision(
    network: str,
    *,
    last_block: Mapping[str, Any],
    pretrained: bool = False,
    classes: Annotated[int, Field(ge=0)] = 0,
) -> Chain:
    """A network of torchvision's for classification, such as `torchvision:convnext_tiny`.

    A dot and the name of weights may follow. `classes` keeps a classifier of so many.
    """
    name = f"torchvision:{network}"
    check_named(name)
    plain = network.partition(".")[0]
    if changed(last_block):
        _resizable(name, last_block, pretrained)
    if plain in STOCK:
        chain: Chain = getattr(resnet, plain)(last_block=last_block)
        chain = _classified(chain, "fc.", classes)
    else:
        size = about(name).size
        fitted = {"image_size": size} if plain.startswith("vit_") else {}

        def make() -> nn.Module:
            models = import_module("torchvision.models")
            found: nn.Module = models.get_model(plain, weights=None, **fitted, **_of_classes(classes))
            return with_last_block(found, last_block) if plain.startswith("convnext_") else found

        made = _skeleton(make)
        if fitted:
            chain = _transformer(made, last_block, classes)
        else:
            chain = _without(chain_of(made, size, _last(made), name), classes)
    return _filled(chain, name, {}) if pretrained else chain


def timm(
    network: str,
    *,
    last_block: Mapping[str, Any],
    pretrained: bool = False,
    classes: Annotated[int, Field(ge=0)] = 0,
    arguments: dict[str, Any] | None = None,
) -> Chain:
    """A network of timm's, such as `timm:convnext_atto`; `arguments` are those of `timm.create_model`.

    A dot and the tag of weights may follow. `classes` keeps a classifier of so many.
    """
    name = f"timm:{network}"
    check_named(name)
    if changed(last_block):
        _resizable(name, last_block)
    options = {**(arguments or {}), **_of_classes(classes)}
    if refused := REFUSED & set(arguments or {}):
        raise UsageError(f"{name} is not to be told `{min(refused)}`", hint="leave it out of `arguments`")
    told = tagged(network).to_dict()
    made = _skeleton(lambda: _created(network, options))
    size = side(options.get("img_size") or told["input_size"])
    heads = cast(Any, made).get_classifier()
    heads = [head for head in (heads if isinstance(heads, tuple) else [heads]) if not isinstance(head, nn.Identity)]
    chain = _without(chain_of(made, size, heads, name), classes)
    return _filled(chain, name, arguments or {}) if pretrained else chain


def hf_hub(
    network: str,
    *,
    last_block: Mapping[str, Any],
    pretrained: bool = False,
    classes: Annotated[int, Field(ge=0)] = 0,
) -> Chain:
    """A network of timm's that a hub holds, such as `hf-hub:timm/resnet18.a1_in1k`."""
    name = f"hf-hub:{network}"
    options = unfetched({"name": name, "classes": classes})
    chain = timm(options.pop("name").partition(":")[2], last_block=last_block, **options)
    return _filled(chain, name, {}) if pretrained else chain


def _filled(chain: Chain, name: str, arguments: Mapping[str, Any]) -> Chain:
    """The chain with the library's weights; on the meta device, where shapes alone are wanted, as it is."""
    if torch.get_default_device().type != "meta":
        found = fetched(name, arguments).state_dict()
        chain.load_tensors({key: found[key] for key in chain.tensors() if key in found}, name)
    return chain


def _skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """The network that `make` makes, on the meta device where that is the default.

    Numbers that no file holds (a table of offsets, say) are real there too.
    """
    if torch.get_default_device().type != "meta":
        return make()
    try:
        network = make()
    except (NotImplementedError, RuntimeError):  # it computes with tensors while it is made
        network = None
    if network is not None and not any(module._non_persistent_buffers_set for module in network.modules()):
        return network
    with torch.device("cpu"):
        network = make()
    for module in network.modules():
        for key, parameter in module._parameters.items():
            module._parameters[key] = None if parameter is None else nn.Parameter(parameter.to("meta"))
        for key, buffer in module._buffers.items():
            if buffer is not None and key not in module._non_persistent_buffers_set:
                module._buffers[key] = buffer.to("meta")
    return network


def _transformer(network: nn.Module, last_block: Mapping[str, Any], classes: int) -> Chain:
    """Our own transformer with the measures of one of torchvision's."""
    its = cast(Any, network)
    heads, depth = its.encoder.layers[0].num_heads, len(its.encoder.layers)
    shape = vit.Shape(its.hidden_dim, heads, its.patch_size, its.image_size, 0, None, True, 1e-6, "antialias")
    return _classified(vit.of_shape(shape, last_block, depth, "cls"), "heads.head.", classes)


def _classified(chain: Chain, prefix: str, classes: int) -> Chain:
    return chain.followed_by([("classifier", prefix, Classifier(chain.width, classes))] if classes else [])


def _without(chain: Chain, classes: int) -> Chain:
    """The chain, less a classifier that nobody asked for."""
    return chain if classes else chain.cut(chain.backbone)


def _of_classes(classes: int) -> dict[str, int]:
    return {"num_classes": classes} if classes else {}


def _last(network: nn.Module) -> list[nn.Module]:
    """The last linear layer, which in torchvision's networks holds the class weights."""
    found: list[nn.Module] = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return found[-1:]


def _resizable(name: str, last_block: Mapping[str, Any], pretrained: bool = False) -> None:
    """Raise UsageError where the last block cannot be changed, or its weights are to be the library's."""
    asked = ", ".join(f"{key}: {value}" for key, value in last_block.items() if value is not None)
    if not can_resize(name):
        raise not_resizable(name, f"`last_block: {{{asked}}}`")
    if pretrained:
        what = f"`pretrained` fetches weights of {name} that do not fit `last_block: {{{asked}}}`"
        raise UsageError(what, hint=f"`sslcut import {name}`, then `sslcut resize`")


def _created(network: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        return import_module("timm").create_model(network, **options)
    except (TypeError, ValueError, AssertionError) as error:
        told = ", ".join(f"{key}: {value}" for key, value in options.items())
        what = f"timm makes no `{network}` with {told} ({error})"
        raise UsageError(what, hint="`arguments` are those of `timm.create_model`") from error
