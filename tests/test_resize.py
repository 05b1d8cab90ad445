"""`sslcut resize`: files, refusals, and what goes on with a resized checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from cli import TINY, sslcut
from exported import saved

import sslcut as package
from sslcut import checkpoint, header, recipe, study
from sslcut.errors import InputError, UsageError
from sslcut.events import Note, Plan, Result
from sslcut.inputs import Given
from sslcut.model.widths import lever
from sslcut.options import Options
from sslcut.rundir import RunDir
from sslcut.stages import guillotine, pretrain, resize
from sslcut.study.sharing import arrange
from sslcut.sweep import cells


@pytest.fixture
def trained(tiny_run, tmp_path):
    """A copy of the tiny run's checkpoint in a run directory of its own."""
    source = tiny_run / "runs/default"
    for name in ("pretrain.safetensors", "run.json", "recipe.yaml"):
        shutil.copy(source / name, tmp_path / name)
    return tmp_path / "pretrain.safetensors"


def done(path, width, *, known=None, **options):
    """The events of a resize, and the path that came out."""
    where = resize.Options(**{key: options.pop(key) for key in ("out", "force", "dry_run") if key in options})
    events = list(resize.run(Given(path), resize.Width(width, **options), where, known))
    results = [event for event in events if isinstance(event, Result)]
    return events, header.read_network(results[0].text) if results else None


def own(**sections):
    """The tiny recipe with more set."""
    return recipe.load(None, [*TINY, *(f"{key}={value}" for key, value in sections.items())])


def test_a_fresh_resize_is_written_beside_its_input_and_says_that_it_needs_training(trained):
    events, made = done(trained, 48)
    document = made.document
    assert made.path == trained.with_name("pretrain-width-48.safetensors")
    assert (
        document["model"]["last_block"]
        == document["recipe"]["model"]["last_block"]
        == {"width": 48, "shortcut": "auto"}
    )
    assert document["history"][-1]["note"] == "resized, needs training"
    assert document["history"][-1]["input"] == header.read(trained).identity
    assert next(block["width"] for block in document["chain"] if block["name"] == "layer4.0") == 48
    step = RunDir(trained.parent).steps()[-1]
    assert (step.stage, step.output, step.identity) == ("resize", made.path.name, made.identity)
    told = " ".join(event.text for event in events if isinstance(event, Note))
    assert "32 → 48 channels" in told and f"P(48) = {19_572 + 16 * (9 * 32 + 2 + 16 + 2):,}" in told


def test_what_is_there_is_kept_and_something_else_is_not_replaced(trained):
    first = done(trained, 48)[1].identity
    events, made = done(trained, 48)
    assert made.identity == first and "is this network already" in events[0].text
    assert RunDir(trained.parent).steps()[-1].output == made.path.name
    with pytest.raises(UsageError, match="exists and is something else"):
        done(trained, 48, seed=1)
    assert done(trained, 48, seed=1, force=True)[1].identity != first


def test_what_was_preserved_on_other_data_is_something_else(trained):
    made = [done(trained, 48, init="preserve", known=own(**{"data.train": count}))[1].path for count in (64, 64)]
    assert made[0] == made[1]
    with pytest.raises(UsageError, match="exists and is something else"):
        done(trained, 48, init="preserve", known=own(**{"data.train": 32}))


def test_a_dry_run_tells_the_parameters_and_operations_and_writes_nothing(trained):
    before = sorted(trained.parent.iterdir())
    events, made = done(trained, 64, dry_run=True)
    assert made is None and all(isinstance(event, Plan) for event in events)
    assert any("P(64) = 29,428 parameters (now 19,572)" in event.text for event in events)
    assert any("million FLOPs" in event.text for event in events) and sorted(trained.parent.iterdir()) == before


def test_what_is_preserved_is_the_output_of_the_loaded_network(trained):
    _, made = done(trained, 48, init="preserve", known=own())
    old, new = package.load(trained), package.load(made.path)
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(old(images), new(images), atol=1e-5)
    assert made.document["history"][-1]["error"] < 1e-4 and "note" not in made.document["history"][-1]


def test_narrowing_tells_its_error_on_the_checkpoints_own_images_or_on_random_ones(trained):
    events, made = done(trained, 16, init="preserve", known=own())
    (told,) = [event.text for event in events if "differs by" in event.text]
    assert "135 images of `shapes`" in told and 0 < made.document["history"][-1]["error"] < 2
    events, _ = done(trained, 16, init="preserve", out=trained.with_name("other.safetensors"))
    assert any("random images" in event.text for event in events)


def test_an_imported_network_has_no_recipe_and_is_resized_on_random_images(tmp_path):
    path = saved(
        tmp_path / "a.safetensors", {"backbone": {"name": "vit_ti", "patch": 8, "size": 16, "depth": 1}}, size=16
    )
    document = header.read(path).document
    checkpoint.save(path, checkpoint.load(path).chain, {**document, "recipe": None})
    events, made = done(path, 200, init="preserve")
    assert made.document["recipe"] is None and made.document["model"]["last_block"]["width"] == 200
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    old, new = package.load(path)(images), package.load(made.path)(images)
    assert torch.allclose(new[:, :192], old, atol=1e-5) and new[:, 192:].abs().max() < 1e-5


def test_a_network_that_cannot_be_resized_is_told_from_its_header(trained):
    source = header.read_network(trained)
    source.document["model"]["backbone"]["name"] = "timm:convnext_atto"
    with pytest.raises(
        UsageError, match="cannot be made 48 wide: the last block of `timm:convnext_atto` has one width"
    ):
        resize.check(source, resize.Width(48))


def test_a_cut_checkpoint_is_refused_with_the_remedy(trained):
    (cut,) = [
        event.text
        for event in guillotine.run(Given(trained), guillotine.Options("layer3"))
        if isinstance(event, Result)
    ]
    with pytest.raises(InputError, match="cut off: the checkpoint ends with `layer3.0`") as caught:
        done(Path(cut), 48)
    assert "cut from" in caught.value.faults[0].hint


def test_training_goes_on_from_a_resized_checkpoint(trained, tmp_path):
    _, made = done(trained, 48)
    start = {"from": str(made.path), "train.epochs": 0}
    grown = own(**start, **{"model.last_block.width": 48})
    list(pretrain.run(grown, Options(tmp_path / "on", threads=1)))
    there = checkpoint.load(tmp_path / "on/pretrain.safetensors").chain
    assert lever(there).block.width == 48
    wanted = checkpoint.load(made.path).chain.tensors()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in there.tensors().items())
    history = header.read(tmp_path / "on/pretrain.safetensors").document["history"]
    assert [entry["stage"] for entry in history] == ["pretrain", "resize", "pretrain"]
    with pytest.raises(InputError, match="the network wants") as caught:
        list(pretrain.run(own(**start), Options(tmp_path / "off", threads=1)))
    assert "model.last_block: {width: 48, shortcut: auto}" in caught.value.faults[0].hint


def test_resize_is_a_stage_of_a_recipe(tiny_run, tmp_path):
    sets = {"stages": "[pretrain, resize, guillotine]", "train.epochs": 0, "guillotine.at": "layer4.0"}
    chosen = own(**sets, **{"resize.width": 40, "resize.init": "preserve"})
    last = list(study.run(chosen, Options(tmp_path / "run", threads=1)))[-1]
    assert last.text.endswith("pretrain-width-40-cut-layer4.0.safetensors")
    assert header.read_network(last.text).document["chain"][-1]["width"] == 40
    for width, fault in ((None, "no width to resize to"), (32, "32 wide already")):
        with pytest.raises(UsageError, match=fault):
            list(study.run(own(**sets, **{"resize.width": width or "null"}), Options(tmp_path / "none", threads=1)))
    assert not (tmp_path / "none/pretrain.safetensors").exists()


def test_a_resized_checkpoint_goes_through_the_command_line(trained):
    probing = [word for each in ("probe.layers=[layer4]", "probe.tasks=[shape]") for word in ("--set", each)]
    done = sslcut("resize", trained, "--width", "24", "--shortcut", "always", "--json", cwd=trained.parent)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["width"], result["shortcut"], result["init"]) == (24, "always", "fresh")
    probed = sslcut("probe", result["path"], *probing, cwd=trained.parent)
    assert probed.returncode == 0, probed.stderr
    results = json.loads((trained.parent / "probe-pretrain-width-24.json").read_text())
    assert {row["dim"] for row in results["results"] if row["layer"] == "layer4.0"} == {24}
    assert "last block 24 wide" in results["model"]
    cut = sslcut("guillotine", probed.stdout.strip(), "--at", "layer4", cwd=trained.parent)
    assert cut.returncode == 0 and package.load(cut.stdout.strip())(torch.rand(1, 3, 16, 16)).shape == (1, 24)


def test_a_sweep_over_widths_trains_once_and_resizes_in_each_cell(tmp_path):
    sets = {"stages": "[pretrain, resize, probe]", "train.epochs": 0, "probe.layers": "[layer4]"}
    swept = own(**sets, **{"probe.probes": "[knn]", "probe.tasks": "[shape]", "sweep": "{resize.width: [24, 40]}"})
    list(study.run(swept, Options(tmp_path / "all", threads=1)))
    assert len(list((tmp_path / "all").glob("*/pretrain.safetensors"))) == 1
    found = {path.name: path.parent for path in (tmp_path / "all").glob("*/pretrain-width-*.safetensors")}
    assert sorted(found) == ["pretrain-width-24.safetensors", "pretrain-width-40.safetensors"]
    assert len(set(found.values())) == 2
    for name, folder in found.items():
        results = json.loads((folder / f"probe-{name.removesuffix('.safetensors')}.json").read_text())
        assert f"last block {name.split('-')[-1].split('.')[0]} wide" in results["model"]
    works = arrange(cells(swept), RunDir(tmp_path / "none"), pretrain.key_of)
    assert [list(work.leaders) for work in works] == [[], ["pretrain"]]
