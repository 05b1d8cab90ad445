from pathlib import Path

import pytest

from sslcut import bundled as room
from sslcut.errors import UsageError
from sslcut.recipe import load

NAMES = list(room.bundled())


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_recipe_is_sound_and_says_what_it_is_for(name):
    assert load(name).name == name
    assert len(room.describe(room.bundled_path(name))) > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_recipe_written_out_is_the_same_recipe(name, tmp_path):
    (tmp_path / "recipe.yaml").write_text(load(name).text())
    assert load(str(tmp_path / "recipe.yaml")) == load(name)


def test_the_default_recipe_comes_first_and_leaves_the_method_its_own_choices():
    assert NAMES[0] == "default"
    texts = room.bundled_path("default").read_text()
    assert not any(f"\n{key}:" in texts for key in ("method", "head", "views"))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("imagenet")])
def test_a_full_scale_recipe_is_marked_until_someone_has_run_it(name):
    recipe = load(name)
    assert recipe.verified is False
    assert recipe.paper is not None
    assert recipe.data.options["root"] is None


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
