"""A precision that was measured once on a machine is the one that it uses: repeated runs give equal weights."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch

from sslcut.atomic import cache_folder, write_text
from sslcut.errors import MachineError
from sslcut.provenance import processor
from sslcut.training.world import Precision


def remembered(task: Mapping[str, Any], device: torch.device, measure: Callable[[], Precision]) -> Precision:
    """The precision found earlier for `task` (network, size, batch) on this processor or GPU, else a measured one.

    Keyed also by torch's version and thread count; kept in the user's cache folder, and measured anew where that
    cannot be read or written.
    """
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    about = {**task, "on": card, "torch": torch.__version__, "threads": torch.get_num_threads()}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    file = cache_folder() / "precision.json"
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
    with suppress(KeyError, TypeError):
        return Precision(**known[key])
    found = measure()
    with suppress(OSError, MachineError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({**known, key: asdict(found)}, indent=1))
    return found
