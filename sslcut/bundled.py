"""The recipes that come with sslcut, found alike in a wheel, an sdist and an editable install."""

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
    """What a recipe is for: the first line of the comment at its head."""
    with path.open(encoding="utf-8") as lines:
        first = next(lines, "")
    return first.removeprefix("#").strip() if first.startswith("#") else ""
