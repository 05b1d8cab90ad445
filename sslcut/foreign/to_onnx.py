"""Export to ONNX: images in, the read-out's vector out, the normalisation inside the graph."""

import json
import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from sslcut.errors import InputError
from sslcut.foreign.exporting import Checkpoint, Export
from sslcut.model.network import Network

SUFFIX = ".onnx"
IMAGES, FEATURES, BATCH = "images", "features", "batch"
TOLERANCE = 1e-5  # of the largest feature, where that is above 1
LARGEST = 2**31 - 1  # bytes that one file of the format can hold
UPGRADE = "upgrade torch, onnx and onnxruntime, and try again"
TRIED = 3  # images in the batch that the graph is compared on: another number than it is made with


class Reading(nn.Module):
    """A network as the graph holds it: images (B, 3, size, size) in [0, 1] → vectors (B, D)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def onnx(checkpoint: Checkpoint) -> Export:
    """The whole chain, head and read-out as the checkpoint has them, for any number of images at a time.

    The graph is run by onnxruntime, where that is installed, and must give the network's own features. Raises
    InputError where the extra is not installed, or the graph gives other features.
    """
    for library in ("onnx", "onnxscript"):
        if find_spec(library) is None:
            raise InputError(f"ONNX export needs {library}, which is not installed", hint="pip install 'sslcut[onnx]'")
    size = checkpoint.network.input.size
    notes = [f"input `{IMAGES}` ({BATCH}, 3, {size}, {size}) in [0, 1], output `{FEATURES}` ({BATCH}, D)"]
    if find_spec("onnxruntime") is None:
        notes.append("the graph is not checked: onnxruntime is not installed")
    return Export(SUFFIX, tuple(notes), lambda: _checked(checkpoint))


def _checked(checkpoint: Checkpoint) -> bytes:
    content = graph(checkpoint)
    if find_spec("onnxruntime") is not None:
        compare(content, checkpoint.network)
    return content


def graph(checkpoint: Checkpoint) -> bytes:
    """The network as an ONNX file; what torch's exporter prints and warns of is kept from the streams.

    Raises InputError where the exporter cannot write one of the network's operations.
    """
    images = torch.rand(2, 3, checkpoint.network.input.size, checkpoint.network.input.size)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                Reading(checkpoint.network).eval(),
                (images,),
                input_names=[IMAGES],
                output_names=[FEATURES],
                dynamic_shapes={IMAGES: {0: torch.export.Dim(BATCH, min=1)}},
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            what = f"torch cannot write this network as ONNX ({_line(error)})"
            raise InputError(
                what, place=str(checkpoint.header.path), hint="cut it elsewhere, or upgrade torch"
            ) from error
    assert program is not None
    return _told(program.model_proto, checkpoint)


def _told(proto: Any, checkpoint: Checkpoint) -> bytes:
    """The file's bytes, with the checkpoint's identity, and without the exporter's notes on this machine's files."""
    inner = proto.graph
    for part in (*inner.node, *inner.input, *inner.output, *inner.value_info, *inner.initializer, inner, proto):
        del part.metadata_props[:]
        part.doc_string = ""
    source = checkpoint.header
    said = {"identity": source.identity, "layer": source.names[-1], "readout": source.document["readout"]}
    proto.metadata_props.add(key="sslcut", value=json.dumps(said))
    if proto.ByteSize() > LARGEST:
        raise InputError(f"{source.path} is too large for one ONNX file (2 GB)", hint="cut it earlier")
    return proto.SerializeToString(deterministic=True)


def compare(content: bytes, network: Network) -> None:
    """Raise InputError where onnxruntime computes other features from this file than `network` does."""
    size = network.input.size
    images = torch.rand(TRIED, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images)
    try:
        found = ran(content, images)
    except Exception as error:  # onnxruntime's errors have no class of their own
        raise InputError(f"onnxruntime cannot run the ONNX graph ({_line(error)})", hint=UPGRADE) from error
    if found.shape != expected.shape:
        what = f"the ONNX graph gives shape {tuple(found.shape)}, the network {tuple(expected.shape)}"
        raise InputError(what, hint=UPGRADE)
    apart = (found - expected).abs().max().item() / max(1.0, expected.abs().max().item())
    if not apart <= TOLERANCE:
        raise InputError(f"the ONNX graph gives features that differ by up to {apart:.1e}", hint=UPGRADE)


def ran(content: bytes, images: Tensor) -> Tensor:
    """What onnxruntime computes for images (B, 3, size, size) from an ONNX file."""
    import onnxruntime  # an extra, and half a second

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([FEATURES], {IMAGES: images.numpy()})[0])


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
