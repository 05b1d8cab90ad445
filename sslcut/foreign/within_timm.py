"""A network that timm made and sslcut cut, as one that timm can make: the whole one, or one with less depth."""

from importlib.util import find_spec
from typing import Any

import torch

from sslcut.errors import InputError
from sslcut.foreign.exporting import ANY_NETWORK, Checkpoint


def smaller(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    """timm's name of the architecture, and the arguments with which it has these very tensors.

    Raises InputError where timm builds no such network, naming a tensor that it would have beside them.
    """
    if find_spec("timm") is None:
        raise InputError("this network needs timm, which is not installed", hint="pip install 'sslcut[timm]'")
    import timm  # an extra, and seconds

    architecture = checkpoint.backbone.removeprefix("timm:").partition(".")[0]
    own = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors().items()}
    options = {key: value for key, value in checkpoint.model["backbone"].items() if key not in ("name", "pretrained")}
    surplus: list[str] = []
    for arguments in candidates(checkpoint):
        told = {**options, **arguments}
        try:
            with torch.device("meta"):
                model = timm.create_model(architecture, num_classes=checkpoint.classes, **told)
        except (TypeError, AssertionError, RuntimeError):  # an architecture without these arguments
            continue
        theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if theirs == own:
            return architecture, told
        surplus = surplus or [name for name in theirs if name not in own]
    named = f"it would also have `{surplus[0]}`" if surplus else "its tensors have other names or shapes"
    what = f"timm builds no {architecture} that ends at `{checkpoint.layer}`: {named}"
    raise InputError(what, place=str(checkpoint.header.path), hint=f"cut elsewhere, or {ANY_NETWORK}")


def candidates(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The arguments to try, in order: none, then those of a transformer with as many blocks as are kept."""
    depth = sum(name.startswith("blocks.") for name in checkpoint.kept)
    if not depth:
        return [{}]
    norm = any(name == "norm" for name in checkpoint.kept)
    return [{}, {"depth": depth, "final_norm": norm}, {"depth": depth, "final_norm": norm, "fc_norm": False}]
