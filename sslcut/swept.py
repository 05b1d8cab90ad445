"""What a sweep set out to do: `sweep.json`, beside its cells, tells a report which are its own. No torch."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslcut.atomic import write_text
from sslcut.errors import InputError
from sslcut.sweep import Cell

SWEEP_FILE = "sweep.json"
FORMAT = 1


@dataclass(frozen=True)
class Swept:
    """A sweep's directory and the recipe of each cell, as it is stored, by the cell's folder."""

    folder: Path
    cells: Mapping[str, Mapping[str, Any]]

    @property
    def folders(self) -> list[Path]:
        """The cells' folders, in the sweep's order, whether they are there or not."""
        return [self.folder / name for name in self.cells]


def remember(folder: Path, cells: Sequence[Cell]) -> None:
    """Write which cells a sweep has; a folder that cannot be written, as a finished sweep's may be, stays as it is."""
    document = {"format": FORMAT, "cells": swept(folder, cells).cells}
    file, text = folder / SWEEP_FILE, json.dumps(document, indent=1) + "\n"
    if os.access(folder, os.W_OK) and (not file.is_file() or file.read_bytes() != text.encode()):
        write_text(file, text)


def swept(folder: Path, cells: Sequence[Cell]) -> Swept:
    """The sweep of these cells in a folder."""
    return Swept(folder, {cell.name: cell.recipe.stored() for cell in cells})


def recall(folder: Path) -> Swept | None:
    """The sweep that was last run in a folder; None where none was.

    Raises InputError where its file is damaged, cannot be read, or is of a later format.
    """
    file = folder / SWEEP_FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        made_as, cells = document["format"], {name: dict(recipe) for name, recipe in document["cells"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "run the sweep again, which writes it anew, or delete it"
        raise InputError(f"{file} is damaged ({error})", hint=hint) from error
    if made_as != FORMAT:
        raise InputError(f"{file} has format {made_as!r}, this sslcut reads {FORMAT}", hint="upgrade sslcut")
    return Swept(folder, cells)
