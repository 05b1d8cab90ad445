"""What a command line imports, read from `python -X importtime`: never a clock."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from cli import tiny

import sslcut
from sslcut.cli import app

HEAVY = {"torch", "torchvision", "vl_convert", "sklearn", "scipy", "numpy"}
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
FAULTY = "data: {size: huge}\ntrain:\n  colour: red\n"


def imported(*arguments: str, cwd: Path, code: int = 0) -> set[str]:
    """The modules that this command line imports; it ends with this exit code."""
    command = [sys.executable, "-X", "importtime", "-m", "sslcut", *arguments]
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr.splitlines()[-5:]
    names = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "sslcut.cli" in names
    return names


def of_pydantic() -> set[str]:
    """The modules of sslcut that cannot be imported without pydantic; typer itself takes it for a command's values."""
    root, found = Path(sslcut.__file__).parent, set()
    for path in root.rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
        if any(name.split(".")[0] == "pydantic" for name in names):
            found.add(".".join(["sslcut", *path.relative_to(root).with_suffix("").parts]))
    return found


def test_help_needs_no_more_than_typer(tmp_path):
    assert not imported("--help", cwd=tmp_path) & {*HEAVY, "pydantic", "yaml", "jinja2"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_is_light(tmp_path, command):
    assert not imported(command, "--help", cwd=tmp_path) & {*HEAVY, *of_pydantic()}


@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "default"]])
def test_recipes_are_listed_and_printed_without_being_checked(tmp_path, arguments):
    assert not imported(*arguments, cwd=tmp_path) & {*HEAVY, *of_pydantic()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect"],
        ["inspect", "runs/default/pretrain.safetensors"],
        ["guillotine", "--at", "layer1"],
        ["guillotine", "--at", "-2", "--dry-run", "runs/default/pretrain.safetensors"],
        ["guillotine", "--at", "best", "--out", "cut.safetensors"],
        ["report", "--dry-run", "runs/default"],
    ],
)
def test_a_checkpoint_is_shown_and_cut_by_its_header_alone(tiny_copy, arguments):
    names = imported(*arguments, cwd=tiny_copy)
    assert not names & HEAVY
    assert arguments[0] == "report" or not names & of_pydantic()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["unknown"], 2),
        (["inspect", "--unknown"], 2),
        (["recipes", "unknown"], 2),
        *[([command, "unknown"], 2) for command in ("pretrain", "run", "bench")],
        *[([command, "faulty.yaml"], 2) for command in ("pretrain", "run")],
        *[([command, "--set", "train.colour=red"], 2) for command in ("pretrain", "run")],
        *[([command, "missing.safetensors"], 3) for command in ("inspect", "guillotine", "resize", "probe")],
        (["report", "missing.json"], 3),
        (["export", "missing.safetensors", "--to", "onnx"], 3),
        (["inspect", "faulty.yaml"], 3),
    ],
)
def test_a_fault_of_the_command_line_is_told_at_once(tmp_path, arguments, code):
    (tmp_path / "faulty.yaml").write_text(FAULTY, encoding="utf-8")
    assert not imported(*arguments, cwd=tmp_path, code=code) & HEAVY


def test_an_unknown_export_format_is_told_at_once(tiny_run):
    assert not imported("export", "--to", "onxx", cwd=tiny_run, code=2) & {*HEAVY, *of_pydantic()}


@pytest.mark.parametrize("arguments", [["--width", "8", "--init", "perserve"], []])
def test_a_resize_without_a_width_or_of_an_unknown_kind_is_told_at_once(tiny_run, arguments):
    assert not imported("resize", *arguments, cwd=tiny_run, code=2) & HEAVY


def test_an_unknown_layer_is_told_at_once(tiny_run):
    assert not imported("guillotine", "--at", "unknown", cwd=tiny_run, code=2) & {*HEAVY, *of_pydantic()}


def test_what_would_be_seen_is_there(tiny_copy):
    """The reading of imports finds torch, and sslcut's own pydantic, where they are needed."""
    names = imported("pretrain", *tiny("train.epochs=0"), "--out", "new.safetensors", cwd=tiny_copy)
    assert {"torch", "numpy"} <= names and names & of_pydantic()
