"""The recipes that come with sslcut, found alike in a wheel, an sdist and an editable install."""

import re
from itertools import takewhile
from pathlib import Path

from sslcut.errors import UsageError, suggestion

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")  # as installed, and as in the repository


def bundled() -> dict[str, Path]:
    """The files of the bundled recipes by name, `default` first."""
    folder = next((folder for folder in _FOLDERS if (folder / "default.yaml").is_file()), None)
    if folder is None:
        raise FileNotFoundError(f"no recipes in {' or '.join(map(str, _FOLDERS))}")
    paths = sorted(folder.glob("*.yaml"), key=lambda path: (path.stem != "default", path.stem))
    return {path.stem: path for path in paths}


def bundled_path(name: str) -> Path:
    """The file of a bundled recipe. Raises UsageError with the nearest name."""
    found = bundled()
    if name not in found:
        raise UsageError(f"no recipe `{name}`", hint=suggestion(name, found, "bundled"))
    return found[name]


def describe(path: Path) -> str:
    """What a recipe is for: the first sentence of the comment at its head, up to a colon."""
    with path.open(encoding="utf-8") as lines:
        head = [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
    return re.split(r"(?<=[.?!:])\s", " ".join(head), maxsplit=1)[0].rstrip(":")
