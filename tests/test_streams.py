"""The command line as a shell or a person may start it: streams closed, the wrong file given, classes in order."""

import subprocess
import sys

from cli import shell, sslcut
from pictures import photographs

from sslcut.recipe import load
from sslcut.stages import draw


def test_a_report_is_written_with_every_standard_stream_closed(tiny_copy):
    (tiny_copy / "runs/default/report/index.html").unlink()
    done = shell("sslcut report <&- >&- 2>&-", tiny_copy)
    assert done.returncode == 0
    assert (tiny_copy / "runs/default/report/index.html").exists()


def test_a_file_of_predictions_cannot_be_cut(tiny_copy):
    done = sslcut("guillotine", "runs/default/probe-pretrain.safetensors", "--at", "layer4", cwd=tiny_copy)
    assert (done.returncode, done.stdout) == (3, "")
    assert "holds no network" in done.stderr


def test_the_picture_of_the_data_shows_every_class_of_a_folder(tmp_path, monkeypatch):
    captions: list[str] = []
    sheet = draw.contact_sheet

    def noting(*given):
        captions.extend(given[-1])
        return sheet(*given)

    monkeypatch.setattr(draw, "contact_sheet", noting)
    photographs(tmp_path / "mine", classes=3, each=20)
    recipe = load("folder", ["data.size=16"], folder=tmp_path / "mine")
    assert [*draw.run(recipe, tmp_path / "views.png")]
    assert set(captions) == {"c0", "c1", "c2"}


def test_a_full_stdout_is_named_and_the_result_told(tiny_copy):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "sslcut", "inspect"]
        done = subprocess.run(command, cwd=tiny_copy, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 5
    assert b"cannot write to stdout" in done.stderr and b"pretrain" in done.stderr
