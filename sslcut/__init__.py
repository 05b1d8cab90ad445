"""sslcut: measure at which layer a pretrained vision network should be read, and cut it there.

`sslcut.load(path)` gives a checkpoint's network, whose call is the vector that the probe scored.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sslcut.model.network import Network

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: "Path | str") -> "Network":
    """The network in a checkpoint of sslcut's, on the CPU and in evaluation mode.

    `network(images)` is the (B, D) float32 vector that `sslcut probe` scored, by the recorded read-out;
    `network.map(images)` the last block's raw output. Images are (B, 3, H, W), uint8 or floats in [0, 1]. Raises
    `sslcut.errors.InputError` where the file is missing, damaged, or holds another network than it says.
    """
    from sslcut.checkpoint import (
        load as load_checkpoint,
    )  # brings torch, which the command line's start cannot wait for

    return load_checkpoint(path)
