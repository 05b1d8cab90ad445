import json

import pytest
from cli import sslcut, tiny

SWEEP = ["--set", "sweep={seed: [0, 1], method.temperature: [0.2, 0.5]}"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    return folder, sslcut("run", *tiny("train.epochs=1"), *SWEEP, "--out", "all", cwd=folder)


def test_every_cell_of_a_sweep_is_a_whole_run_directory(swept):
    folder, done = swept
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all/report/index.html"
    names = sorted(path.parent.name for path in (folder / "all").glob("*/run.json"))
    assert names == [f"seed={seed},temperature={t}" for seed in (0, 1) for t in ("0.2", "0.5")]
    for name in names:
        document = json.loads((folder / "all" / name / "run.json").read_text())
        assert [stage["stage"] for stage in document["stages"]][:2] == ["pretrain", "probe"]


def test_the_report_is_on_all_cells_and_a_second_run_keeps_them(swept):
    folder, _ = swept
    made = {path: path.stat().st_mtime_ns for path in (folder / "all").glob("*/pretrain.safetensors")}
    again = sslcut("run", *tiny("train.epochs=1"), *SWEEP, "--out", "all", cwd=folder)
    assert again.returncode == 0 and "cell 4 of 4: seed=1,temperature=0.5" in again.stderr
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert (folder / "all/report/index.html").read_text().count("temperature=0.5") > 0


def test_a_failed_cell_leaves_the_others_and_gives_the_code(tmp_path):
    recipe = "extends: default\nname: s\nmethod: supervised\nsweep: {method.task: [shape, shapes]}\n"
    (tmp_path / "s.yaml").write_text(recipe, encoding="utf-8")
    done = sslcut("run", "s.yaml", *tiny("train.epochs=1"), "--out", "all", cwd=tmp_path)
    assert done.returncode == 3 and done.stdout == ""
    assert "cell task=shapes failed" in done.stderr and "did you mean `shape`?" in done.stderr
    assert (tmp_path / "all/task=shape/pretrain.safetensors").exists()
    assert (tmp_path / "all/report/index.html").exists()
