"""What a folder of data holds, in one hash: a result is kept only as long as its data is the same (no torch)."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def data_fingerprint(data: Mapping[str, Any]) -> str:
    """The sha256 over the names and sizes of all files below a recipe's `data.root`; empty where there is no root.

    Names are relative and times are left out, so that a copy elsewhere is the same data. Links are followed, each
    folder once.
    """
    root = data.get("root")
    if root is None:
        return ""
    digest, seen = hashlib.sha256(), set()
    base = os.path.expanduser(root)
    for folder, below, files in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        for name in sorted(files):
            path = Path(folder) / name
            size = path.stat().st_size if path.exists() else -1
            digest.update(f"{os.path.relpath(path, base)}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
