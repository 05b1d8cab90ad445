"""Tensors in and out: a network with its chain and history, the state to resume from, a probe's predictions.

Every file is safetensors, written whole or not at all; no pickle is written or read.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sslcut import header as headers
from sslcut.atomic import replacing
from sslcut.errors import InputError, SslcutError
from sslcut.header import Entry, Header
from sslcut.model.build import blueprint
from sslcut.model.chain import Chain
from sslcut.model.cost import costs
from sslcut.model.network import Input, Network

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> str:
    """Write tensors and a JSON document to `path`; returns the file's identity. The same input gives the same bytes."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # keeps wide types aligned
    entries: dict[str, Entry] = {}
    at = 0
    for name in order:
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        entries[name] = Entry(_DTYPES[tensor.dtype], tuple(tensor.shape), at, end)
        at = end
    raw = headers.encode(entries, document)
    with replacing(path) as file:
        file.write(raw)
        for name in order:
            file.write(_bytes(tensors[name]))
    return headers.identity_of(raw)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file that `write_tensors` wrote, on the CPU, and its document; raises InputError."""
    header = headers.read(path)
    return _load(header), header.document


def save(path: Path, chain: Chain, document: Mapping[str, Any]) -> str:
    """Write a network; `document` holds model, readout, input, recipe, history and metrics. Returns its identity.

    The chain's description (tensors, width, cost and hash of each block) is added here.
    """
    tensors = {name: tensor.detach() for name, tensor in chain.tensors().items()}
    parts = {name: chain.parts(name) for name in chain.names}
    owners = headers.own(parts, tensors, str(path))
    counted = costs(chain, document["input"]["size"])
    described = [
        {
            "name": cost.name,
            "tensors": parts[cost.name],
            "width": cost.width,
            "spatial": cost.spatial,
            "parameters": cost.parameters,
            "flops": cost.flops,
            "sha256": _block_hash({name: tensors[name] for name in owners[cost.name]}),
        }
        for cost in counted
    ]
    about = {"format": headers.FORMAT, **document, "chain": described}
    if chain.prefix_tokens != headers.PREFIX_TOKENS and any(len(cost.spatial) == 1 for cost in counted):
        about["prefix_tokens"] = chain.prefix_tokens
    if chain.prefix_tokens and not chain.class_token:
        about["class_token"] = False
    return write_tensors(path, tensors, about)


def load(path: Path | str) -> Network:
    """Read a network from a checkpoint of sslcut's, strictly and with every block's hash checked.

    The network is in evaluation mode and on the CPU. Raises InputError (exit 3) naming the tensor or block that is
    missing, surplus, mis-shaped or damaged.
    """
    header = headers.read_network(path)
    document = header.document
    names = header.names
    owners = header.owners
    tensors = _load(header)
    for block in document["chain"]:
        if _block_hash({name: tensors[name] for name in owners[block["name"]]}) != block["sha256"]:
            raise InputError(
                f"{path}: the bytes of block `{block['name']}` are not those that were written",
                hint="the file is damaged; make it again, or restore it from a copy",
            )
    try:
        backbone = document["model"]["backbone"]
        if backbone["name"].startswith("hf-hub:") or backbone.get("pretrained"):
            raise InputError("it names a network that would have to be fetched")
        chain = blueprint(document["model"]).keep(names)
        given = document["input"]
        input = Input(given["size"], tuple(given["mean"]), tuple(given["std"]))
    except (KeyError, TypeError, SslcutError) as error:
        raise InputError(f"{path}: its header describes no network that sslcut can build ({error})") from error
    chain.load_tensors(tensors, str(path))
    return Network(chain, document["readout"], input).eval()


def save_state(folder: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write the state to resume from into `folder`, keeping the one before it as `previous.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.safetensors"
    with suppress(FileNotFoundError):
        last.replace(folder / "previous.safetensors")
    write_tensors(last, tensors, {"format": headers.FORMAT, **document})


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest state in `folder` that can be read, or None where there is none."""
    for name in ("last.safetensors", "previous.safetensors"):
        with suppress(InputError):
            return read_tensors(folder / name)
    return None


def _load(header: Header) -> dict[str, Tensor]:
    try:
        return load_file(header.path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{header.path} cannot be read ({error})", hint="make it again") from error


def _block_hash(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 over a block's tensors in name order: name, dtype and shape as JSON, a newline, the bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        told = json.dumps([name, _DTYPES[tensor.dtype], list(tensor.shape)], separators=(",", ":"))
        digest.update(told.encode() + b"\n")
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
