import json
from pathlib import Path

import pytest
import torch

from sslcut import bundled as room
from sslcut.errors import UsageError
from sslcut.methods.making import check_fit
from sslcut.recipe import load
from sslcut.registry import METHODS
from sslcut.schedules import scaled_lr
from sslcut.study.one import check_places
from sslcut.sweep import cells
from sslcut.training.outlook import plan

NAMES = list(room.bundled())


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_recipe_is_sound_and_says_what_it_is_for(name):
    assert load(name).name == name
    told = room.describe(room.bundled_path(name))
    text = room.bundled_path(name).read_text().replace("\n# ", " ").removeprefix("# ")
    assert len(told) > 15 and text.startswith(told) and (told[-1] in ".?" or text[len(told)] == ":")


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_recipe_written_out_is_the_same_recipe(name, tmp_path):
    (tmp_path / "recipe.yaml").write_text(load(name).text())
    assert load(str(tmp_path / "recipe.yaml")) == load(name)


def test_the_default_recipe_comes_first_and_leaves_the_method_its_own_choices():
    assert NAMES[0] == "default"
    texts = room.bundled_path("default").read_text()
    assert not any(f"\n{key}:" in texts for key in ("method", "head", "views"))


FULL_SCALE = [name for name in NAMES if name.startswith(("imagenet-", "cifar10-"))]
PEAKS = {  # learning rates that the sources give as absolute numbers, or as multiples of batch / 256
    "imagenet-resnet50-simclr": 0.3 * 16,
    "imagenet-resnet50-vicreg": 0.2 * 8,
    "imagenet-resnet50-swav": 4.8,
    "imagenet-resnet50-moco_v2": 0.03,
    "imagenet-resnet50-dino": 0.03 * 2,
    "imagenet-resnet50-trex": 0.1,
    "cifar10-resnet18-byol": 1.0,
}


@pytest.mark.parametrize("name", FULL_SCALE)
def test_a_full_scale_recipe_is_marked_until_someone_has_run_it(name):
    recipe = load(name)
    assert recipe.verified is False
    assert recipe.paper is not None
    assert recipe.data.options["root"] is None


def test_every_method_has_a_full_scale_recipe():
    assert {load(name).method.name for name in FULL_SCALE if name.startswith("imagenet-")} == set(METHODS)


def counts_classes(name):
    return load(name).method.name in ("supervised", "trex")


@pytest.mark.parametrize("name", FULL_SCALE)
def test_a_full_scale_recipe_is_planned_here_its_data_a_listed_absence(name):
    said = [event.line() for event in plan(load(name), torch.device("cpu"))]
    *warnings, network, memory, training = said
    assert [line.partition(":")[0] for line in (network, memory, training)] == ["network", "memory", "training"]
    assert warnings[0].startswith("warning: the data is not here") and len(warnings) == 1 + counts_classes(name)
    assert "parameters" in network and " GB" in memory and " steps" in training


@pytest.mark.parametrize("name", PEAKS)
def test_a_published_learning_rate_is_reached_at_the_published_batch(name):
    train = load(name).train
    rate = scaled_lr(train.optimizer.options["lr"], train.batch_size, train.lr_scaling)
    assert rate == pytest.approx(PEAKS[name])


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        room.bundled_path("fashion")
    assert "did you mean `fashion-mnist`?" in caught.value.faults[0].hint


def test_recipes_are_found_inside_an_installed_package(tmp_path, monkeypatch):
    inside, beside = tmp_path / "sslcut" / "recipes", tmp_path / "recipes"
    for folder in (inside, beside):
        folder.mkdir(parents=True)
    (beside / "other.yaml").write_text("# another package's\n")
    (inside / "default.yaml").write_text("# ours\n")
    monkeypatch.setattr(room, "_FOLDERS", (inside, beside))
    assert room.bundled() == {"default": inside / "default.yaml"}


def test_the_repository_keeps_its_recipes_beside_the_package():
    top = Path(room.__file__).parent.parent / "recipes"
    assert not top.is_dir() or room.bundled()["default"].parent == top


STUDIES = [name for name in NAMES if name.startswith("study-")]
ON_REAL_IMAGES = ["study-fashion-mnist", "study-folder"]
SMALL = [name for name in STUDIES if not name.endswith("-imagenet") and name not in ON_REAL_IMAGES]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_study_has_five_conditions_with_five_seeds_and_a_twin_at_full_scale(name):
    made = cells(load(name))
    conditions = {json.dumps({k: v for k, v in cell.overrides.items() if k != "seed"}) for cell in made}
    assert (len(made), len(conditions), {cell.recipe.seed for cell in made}) == (25, 5, set(range(5)))
    assert all(cell.recipe.views.exact and cell.recipe.paper for cell in made)
    twin = load(f"{name}-imagenet")
    assert twin.verified is False and twin.paper == load(name).paper
    assert twin.study is not None and len(cells(twin)) >= 30


@pytest.mark.parametrize("name", ON_REAL_IMAGES)
def test_a_study_on_real_images_reads_each_method_at_two_widths_over_five_seeds(name):
    made = cells(load(name))
    conditions = {(cell.recipe.method.name, cell.recipe.dump()["model"]["last_block"]["width"]) for cell in made}
    assert conditions == {(method, width) for method in ("simclr", "supervised") for width in (16, 256)}
    assert len(made) == 20 and {cell.recipe.seed for cell in made} == set(range(5))


@pytest.mark.parametrize("name", [*SMALL, *ON_REAL_IMAGES])
def test_every_condition_of_a_small_study_is_one_that_can_be_trained_and_read(name):
    for cell in cells(load(name)):
        if cell.recipe.seed == 0:
            check_fit(cell.recipe.dump())
            check_places(cell.recipe)


@pytest.mark.parametrize("name", SMALL)
def test_a_study_at_full_scale_sees_exact_views(name):
    assert load(f"{name}-imagenet").views.exact


@pytest.mark.parametrize("name", ["study-readout-imagenet", "study-width-imagenet"])
def test_a_study_at_full_scale_trains_each_method_as_its_own_recipe_does(name):
    for recipe in {cell.recipe.method.name: cell.recipe for cell in cells(load(name))}.values():
        own = load(f"imagenet-resnet50-{recipe.method.name}")
        for keys in (("views", "policy"), ("views", "crops"), ("train", "batch_size"), ("train", "end_lr")):
            mine, its = (one.dump()[keys[0]][keys[1]] for one in (recipe, own))
            assert mine == its, (recipe.method.name, keys)


def test_the_readout_study_at_full_scale_gives_every_method_the_same_head():
    heads = [cell.recipe.dump()["model"]["projector"] for cell in cells(load("study-readout-imagenet"))]
    same = {"widths": [8192] * 3, "last_norm": False, "last_bias": False}
    assert all({key: head[key] for key in same} == same for head in heads)
