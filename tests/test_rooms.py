"""The rooms of the package: what imports what, and who alone may do what."""

import ast
from pathlib import Path

import pytest

import sslcut

ROOT = Path(sslcut.__file__).parent
ORDER = [
    "errors", "registry", "names", "libraries", "events", "options", "fingerprint", "schedules", "interrupts",
    "provenance", "atomic", "marked", "yamltext", "merge", "draft", "choices", "claims", "soundness", "sections",
    "faults", "bundled", "recipe", "sweep", "swept", "rundir", "inputs", "header", "answers", "data", "model",
    "methods", "metrics", "training", "checkpoint", "foreign", "render", "stages", "study", "bench", "asked", "rows",
    "screen", "cli", "__main__",
]  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """The dotted names that a file imports, those for the type checker alone left out."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found: list[str] = []
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_every_room_has_its_place_in_the_order():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_imports_one_further_on(path):
    if room_of(path) == "__init__":
        return
    place = ORDER.index(room_of(path))
    for name in imports(path):
        if name.startswith("sslcut.") and name.split(".")[1] in ORDER:
            assert ORDER.index(name.split(".")[1]) <= place, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("yaml", {"yamltext"}),
        ("safetensors", {"checkpoint", "foreign"}),
        ("timm", {"foreign", "model"}),
        ("onnxruntime", {"foreign"}),
        (
            "pydantic",
            {
                *("claims", "choices", "sections", "faults", "draft", "recipe"),
                *("data", "model", "methods", "metrics", "training", "render"),
            },
        ),
        ("typer", {"cli", "screen"}),
        ("vl_convert", {"render"}),
        ("sklearn", {"data", "bench"}),
        ("lightly", {"bench"}),
        ("kornia", {"bench"}),
        ("stable_pretraining", {"bench"}),
        ("faiss", {"bench"}),
        ("optuna", {"metrics"}),
        ("torch.distributed", set()),
        ("pickle", set()),
    ],
)
def test_a_library_is_imported_in_its_room_alone(library, rooms):
    users = {room_of(path) for path in FILES for name in imports(path) if f"{name}.".startswith(f"{library}.")}
    assert users <= rooms


def test_only_the_command_line_prints():
    for path in FILES:
        calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        printing = {"print", "typer.echo", "sys.stdout.write", "sys.stderr.write"} & {
            ast.unparse(call) for call in calls
        }
        assert not printing or room_of(path) in ("cli", "screen"), path
