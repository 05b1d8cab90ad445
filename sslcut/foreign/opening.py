"""Opening a file of another project: every tensor by its dotted path, and nothing in the file is run.

A pickle is a program. torch reads it with a list of what it may name (tensors and plain containers); `ALLOWED` adds the
settings and numbers that training scripts leave beside their weights, as stand-ins that only hold what they are given.
"""

import hashlib
import pickletools
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from sslcut import header
from sslcut.errors import InputError


class Settings:
    """Stands for an object of settings: takes whatever its file gives it, and does nothing."""

    def __init__(self, *values: Any, **more: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        self.state = state


OBJECTS = (
    "argparse.Namespace", "pathlib.PosixPath", "pathlib._local.PosixPath", "pathlib.Path", "typing.Any",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", "omegaconf.nodes.AnyNode", "omegaconf.nodes.IntegerNode", "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.StringNode", "omegaconf.nodes.BooleanNode", "apex.amp.scaler.LossScaler",
)  # fmt: skip
MAPPINGS = (
    "easydict.EasyDict", "addict.addict.Dict", "yacs.config.CfgNode", "fvcore.common.config.CfgNode",
    "vissl.utils.hydra_config.AttrDict", "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
)  # fmt: skip
NUMPY = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.ndarray", "numpy.dtype",
)  # fmt: skip
ALLOWED: tuple[tuple[Any, str], ...] = (
    *((Settings, name) for name in (*OBJECTS, *NUMPY)),
    *((OrderedDict, name) for name in MAPPINGS),
)  # fmt: skip
"""What a pickle may name beside tensors and plain containers: stand-ins by name, for numpy's numbers too."""

DENSE = "save `model.state_dict()` of a network with plain tensors"


def tensors_in(path: Path) -> dict[str, Tensor]:
    """Every tensor of a `.pth`, `.pt`, `.ckpt`, `.tar` or `.safetensors` file, by its dotted path, on the CPU.

    Raises InputError (exit 3) for a file that is damaged, or a pickle that names anything which is not allowed; its
    message lists what.
    """
    if not header.is_pickled(path):
        header.read(path)  # says clearly what is wrong with a damaged one
        return load_file(path)
    try:
        with safe_globals([*ALLOWED]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols that torch does not write
            found = dict(_walk(torch.load(path, map_location="cpu", weights_only=True), ""))
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # torch and zip readers raise a dozen kinds for a damaged or refused file
        raise _refused(path, error) from error
    for name, tensor in found.items():
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            raise InputError(f"tensor `{name}` is without numbers, sparse or quantised", place=str(path), hint=DENSE)
    return found


def sha256(path: Path) -> str:
    """The sha256 of the whole file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _walk(content: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield path, content.detach()
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _walk(value, f"{path}.{key}" if path else str(key))


def _refused(path: Path, error: Exception) -> InputError:
    wanted = _forbidden(path, error)
    if wanted:
        what = f"{path} is a pickle that wants to run {', '.join(wanted)}: refused, and nothing was run"
        return InputError(what, hint="where you trust it, save `model.state_dict()` alone")
    size = path.stat().st_size
    first = str(error).strip().splitlines()[:1]
    return InputError(
        f"{path} cannot be read as a file of torch's: it is damaged, or is truncated ({size} bytes)",
        hint=f"fetch it again{f'; torch says: {first[0][:120]}' if first else ''}",
    )


def _forbidden(path: Path, error: Exception) -> list[str]:
    """What a pickle names beyond the allowed; found by reading its instructions, not by following them."""
    named = set(re.findall(r"GLOBAL ([\w.]+)", str(error)))
    try:
        with safe_globals([*ALLOWED]):
            named |= set(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip, or a damaged one
        pass
    return sorted(named) or _instructed(path)


def _instructed(path: Path) -> list[str]:
    """What a bare pickle's instructions name, torch's own and plain containers aside."""
    allowed = {name for _, name in ALLOWED}
    named, texts = set(), ["", ""]
    try:
        with open(path, "rb") as file:
            for instruction, value, _ in pickletools.genops(file):
                if instruction.name == "GLOBAL":
                    named.add(str(value).replace(" ", "."))
                elif instruction.name == "STACK_GLOBAL":
                    named.add(".".join(texts))
                elif isinstance(value, str):
                    texts = [texts[1], value]
    except ValueError:
        pass  # it ends in the middle, or is no pickle
    return sorted(name for name in named - allowed if not name.startswith(("torch.", "collections.")))
