import json
import struct
import sys
from pathlib import Path

import pytest
import torch
from cli import sslcut, tiny
from pictures import photographs

from sslcut import checkpoint, header
from sslcut.atomic import write_text
from sslcut.errors import InputError, MachineError, UsageError
from sslcut.events import Result
from sslcut.options import Options
from sslcut.recipe import load
from sslcut.rundir import RunDir
from sslcut.stages import guillotine, pretrain
from sslcut.training.world import Precision


def recipe(*sets: str):
    return load(None, tiny(*sets)[1::2])


def trained(folder: Path, *sets: str, **options) -> Path:
    *_, result = pretrain.run(recipe(*sets), Options(out=folder, threads=1, **options))
    assert isinstance(result, Result)
    return Path(result.text)


def test_results_cannot_take_a_name_whose_predictions_would_replace_a_checkpoint(tiny_copy):
    file = tiny_copy / "runs/default/pretrain.safetensors"
    before = file.read_bytes()
    for name in ("pretrain.json", "pretrain.safetensors"):
        done = sslcut("probe", file, "-o", file.with_name(name), "--force", cwd=tiny_copy)
        assert (done.returncode, done.stdout) == (2, "")
    assert file.read_bytes() == before


def test_results_go_into_a_folder_that_is_made(tiny_copy):
    file = "runs/default/pretrain.safetensors"
    done = sslcut("probe", file, "-o", "new/results.json", "--set", "probe.layers=[layer4]", cwd=tiny_copy)
    assert (done.returncode, done.stdout.strip()) == (0, "new/results.json"), done.stderr
    results = json.loads((tiny_copy / "new/results.json").read_text())
    assert results["layers"] == ["layer4.0", "pool"]  # the reference is measured, asked for or not
    assert {row["end_value"] for row in results["best"]} == {None}


def test_force_keeps_the_old_network_until_the_new_one_is_written(tmp_path):
    file = trained(tmp_path)
    before = file.read_bytes()
    with pytest.raises(InputError, match="no folder"):
        trained(tmp_path, "data={name: folder, root: /nowhere}", force=True)
    assert file.read_bytes() == before
    with pytest.raises(UsageError, match="another recipe's"):
        trained(tmp_path, "seed=1")
    assert trained(tmp_path, "seed=1", force=True).read_bytes() != before


def test_a_network_that_could_not_be_written_is_made_again_from_the_state(tmp_path, monkeypatch):
    def full(*_):
        raise MachineError("the disk is full")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(MachineError):
        trained(tmp_path, "train.epochs=2", "train.state_every=1e-9")
    monkeypatch.undo()
    assert (tmp_path / "state/last.safetensors").exists()
    told = [e.text for e in pretrain.run(recipe("train.epochs=2", "train.state_every=1e-9"), Options(out=tmp_path))]
    assert "resuming in epoch 2" in told
    assert not list((tmp_path / "state").iterdir())
    metrics = header.read(tmp_path / "pretrain.safetensors").document["metrics"]
    assert (metrics["epochs"], metrics["images"]) == (2, 2 * 4 * 64) and "waiting" not in metrics


def test_a_training_is_deterministic_where_the_recipe_says_so_and_another_one_then():
    asked, other = recipe("train.deterministic=true"), recipe()
    plans = [pretrain.plan_of(one.dump(), torch.device("cpu"), Precision("float32", True)) for one in (asked, other)]
    assert [plan.deterministic for plan in plans] == [True, False]
    assert asked.stage_hash("pretrain", None) != other.stage_hash("pretrain", None)


@pytest.mark.parametrize(
    ("options", "compiled"),
    [([], False), (["train.compile=auto"], True), (["train.compile=auto", "train.online={}"], False)],
)
def test_a_training_that_goes_on_is_compiled_only_where_that_is_wanted_and_can_be(tmp_path, options, compiled):
    decided = Options(precision={"name": "float32", "channels_last": True, "compiled": True})
    training = pretrain._Training(recipe(*options), RunDir(tmp_path), torch.device("cpu"), decided, "")
    assert training.precision(None, None, None, None).compiled == compiled
    older = Options(precision={"name": "bf16", "channels_last": True, "timings": {}})
    training = pretrain._Training(recipe(*options), RunDir(tmp_path), torch.device("cpu"), older, "")
    assert training.precision(None, None, None, None) == Precision("bf16", True)


def test_an_untrained_network_has_no_epochs_of_an_earlier_training_beside_it(tmp_path):
    trained(tmp_path)
    trained(tmp_path, "train.epochs=0", force=True)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_run_without_labels_ends_with_a_report(tmp_path):
    photographs(tmp_path / "flat", 1, 30)
    done = sslcut("run", *tiny("data={name: folder, root: flat, size: 16}"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "runs/default/report/index.html"
    assert "nothing is cut" in done.stderr


def test_a_run_refuses_an_unknown_layer_before_it_trains(tmp_path):
    for fault in ("probe.layers=[layer9]", "guillotine.at=layer9"):
        done = sslcut("run", *tiny(fault), cwd=tmp_path)
        assert done.returncode == 2
        assert "unknown layer `layer9`" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_images_in_an_absolute_folder_are_found_again_from_the_runs_recipe(tmp_path):
    images = photographs(tmp_path / "elsewhere" / "photos", 2, 12)
    (tmp_path / "here").mkdir()
    asked = tiny("data.train=null", "data.test=null", "train.batch_size=8")
    made = sslcut("pretrain", "--data", images, *asked, cwd=tmp_path / "here")
    done = sslcut("probe", made.stdout.strip(), cwd=tmp_path / "here")
    assert done.stdout == "runs/default/probe-pretrain.json\n", done.stderr
    assert str(images) not in (tmp_path / "here" / done.stdout.strip()).read_text()


def test_a_dry_run_says_that_a_method_has_no_labels_to_learn_from(tmp_path):
    photographs(tmp_path / "photos", 2, 12)
    asked = tiny("data={name: folder, root: photos, size: 16}", "method=supervised")
    done = sslcut("pretrain", "--dry-run", *asked, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no test split" in done.stderr


def test_a_probes_own_seed_divides_the_trainings_data_as_the_training_did(tmp_path):
    made = sslcut("pretrain", *tiny("data={name: digits, size: 16}"), cwd=tmp_path)
    files = [tmp_path / f"{seed}.json" for seed in (0, 1)]
    for seed, file in enumerate(files):
        cheap = ["--set", "probe.layers=[pool]", "--set", "probe.probes=[knn]"]
        assert sslcut("probe", made.stdout.strip(), *cheap, "--seed", seed, "-o", file, cwd=tmp_path).returncode == 0
    first, second = (checkpoint.read_tensors(file.with_suffix(".safetensors"))[0]["image"] for file in files)
    assert torch.equal(first, second)


def test_a_recommended_readout_of_the_last_block_is_a_file_of_its_own(tmp_path):
    source = header.read(trained(tmp_path))
    at_layer4 = guillotine.Options(at="layer4")
    *_, cut = guillotine.run(guillotine.Given(source.path), at_layer4)
    with pytest.raises(UsageError, match="nothing to cut"):
        list(guillotine.run(guillotine.Given(Path(cut.text)), at_layer4))
    *_, other = guillotine.run(guillotine.Given(Path(cut.text)), guillotine.Options(at="layer4", readout="grid2"))
    assert header.read(other.text).document["readout"] == "grid2"
    assert other.text.endswith("-cut-layer4.0-grid2.safetensors")


def test_a_broken_results_file_of_another_checkpoint_is_passed_over(tiny_copy):
    write_text(tiny_copy / "runs/default/probe-zzz.json", "{")
    done = sslcut("guillotine", "--at", "best", cwd=tiny_copy)
    assert done.returncode == 0, done.stderr


def test_a_header_nested_without_end_is_damaged_rather_than_a_bug(tmp_path):
    text = b'{"a":' + b"[" * sys.getrecursionlimit() * 50
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(InputError, match="damaged"):
        header.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("chain", [[], [{"name": "a", "tensors": []}]])
def test_a_forged_header_that_describes_no_network_is_an_input_that_cannot_be_read(tmp_path, chain):
    file = tmp_path / "x.safetensors"
    file.write_bytes(header.encode({}, {"format": 1, "chain": chain}))
    for use in (header.read_network, checkpoint.load):
        with pytest.raises(InputError, match="says no `model`"):
            use(file)


def test_a_probe_with_controls_writes_their_rows_and_what_each_recommends(tiny_copy):
    sets = [f"--set=probe.{text}" for text in ("controls=[pca, concat, raw]", "probes=[linear]", "tasks=[shape]")]
    run = sslcut("probe", "runs/default/pretrain.safetensors", "--json", "--force", *sets, cwd=tiny_copy)
    found = json.loads(run.stdout)
    assert [answer["control"] for answer in found["controls"]] == ["pca=4", "scale=raw", "pca=pairwise"]
    rows = {row["options"].split()[0]: row for row in found["results"] if row["layer"] == "projector.0"}
    assert rows["pca=4"]["dim"] == 4 and rows["scale=raw"]["dim"] == 16
    (together,) = [row["dim"] for row in found["results"] if "concat" in row["layer"] and row["metric"] == "accuracy"]
    assert together == 4 + 8 + 16 + 32 and "concat:last4" not in found["layers"]
