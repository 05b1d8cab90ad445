import os

# Read once by typer and rich when they are imported.
os.environ["NO_COLOR"] = "1"
os.environ["TERMINAL_WIDTH"] = "80"

import shutil  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A folder in which `sslcut run` has been done with a tiny recipe; read it, never write into it."""
    from cli import sslcut, tiny

    folder = tmp_path_factory.mktemp("tiny")
    done = sslcut("run", *tiny(), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def tiny_copy(tiny_run, tmp_path) -> Path:
    """A copy of the tiny run's folder that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))
