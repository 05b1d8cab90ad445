import os
import shutil
from pathlib import Path

import pytest

# Workers side by side (pytest-xdist) that each take every core wait for one another; torch reads this at its import.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Read once by typer and rich when they are imported.
os.environ["NO_COLOR"] = "1"
os.environ["TERMINAL_WIDTH"] = "80"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> None:
    """Nothing that a test decodes or measures is kept for, or taken from, the user's own runs."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


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


EXTRAS = tuple(f"the extra `{name}` is not installed" for name in ("bench", "onnx", "timm", "transfer", "transformers"))
EXCUSED = ("no CUDA device", "there is a GPU, and tests of its own", "root writes into read-only folders", *EXTRAS)
_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note every skipped test whose reason is not that of a machine on which it cannot mean anything."""
    if report.skipped and not any(reason in str(report.longrepr) for reason in EXCUSED):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With SSLCUT_REQUIRE_ALL, a test that should have run and was skipped fails the whole run."""
    if _skipped and os.environ.get("SSLCUT_REQUIRE_ALL"):
        print(f"\nskipped, and all tests were required: {', '.join(_skipped)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
