"""What every way of bringing in a network hands over."""

from dataclasses import dataclass
from typing import Any

from sslcut.model.chain import Chain
from sslcut.model.network import Input


@dataclass(frozen=True)
class Imported:
    """A network from elsewhere, ready to be saved as a checkpoint.

    `model` is the recipe's section of which `sslcut.model.build.build` makes this chain, with `classifier: classes`
    where it has one; `chain` is in evaluation mode and on the CPU. `readout` is the published one of the last block.
    `source` goes into the history (dialect or library and version, name, branch, the file's sha256), `notes` are lines
    for stderr: what was ignored, what was chosen.
    """

    model: dict[str, Any]
    chain: Chain
    readout: str
    input: Input
    source: dict[str, Any]
    notes: tuple[str, ...] = ()
