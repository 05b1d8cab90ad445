"""What is installed is what was written: recipes are found alike from wheel, sdist and an editable install."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from sslcut.bundled import bundled

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from hatchling.build import build_{0} as build; print(build(sys.argv[1]))"


def built(kind: str, source: Path, folder: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(folder)], cwd=source, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module", params=["from the repository", "from the sdist"])
def unpacked_wheel(request, tmp_path_factory) -> Path:
    """A wheel, unpacked as an installer would; built from the repository, or from its sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    source = ROOT
    if request.param == "from the sdist":
        with tarfile.open(built("sdist", ROOT, folder)) as archive:
            archive.extractall(folder / "sdist", filter="data")
        source = next((folder / "sdist").iterdir())
    with zipfile.ZipFile(built("wheel", source, folder)) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_lists_the_same_recipes_from_another_folder(unpacked_wheel, tmp_path):
    code = "import sslcut, sslcut.cli; print(sslcut.__file__); sslcut.cli.app(['recipes'], standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(unpacked_wheel)!r}); {code}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    where, *lines = done.stdout.splitlines()
    assert Path(where).is_relative_to(unpacked_wheel)
    assert [line.split()[0] for line in lines] == list(bundled())


def test_a_wheel_holds_the_pages_template_and_the_type_marker(unpacked_wheel):
    held = {str(path.relative_to(unpacked_wheel)) for path in unpacked_wheel.rglob("*") if path.is_file()}
    assert {"sslcut/py.typed", "sslcut/render/page.html.j2", "sslcut/render/page.css", "sslcut/render/page.js"} <= held
    assert not any(name.startswith(("tests/", "recipes/")) for name in held)
