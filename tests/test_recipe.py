import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslcut.errors import RecipeError, UsageError
from sslcut.recipe import load, load_stored
from sslcut.registry import METHODS


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes recipe.yaml (or another name) into an empty working directory and loads it."""
    monkeypatch.chdir(tmp_path)

    def write(text, *sets, name="r.yaml", **more):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load(name, sets, **more)

    return write


@pytest.fixture
def faults(recipe):
    """The faults of a recipe's text, as the user reads them, each with its hint."""

    def find(text, *sets, **more):
        with pytest.raises(RecipeError) as caught:
            recipe(text, *sets, **more)
        assert caught.value.exit_code == 2
        return [(str(fault), fault.hint) for fault in caught.value.faults]

    return find


# Layers


def test_no_recipe_means_the_bundled_default():
    assert load() == load("default")
    assert load().name == "default"


def test_a_file_without_a_name_is_called_after_itself(recipe):
    assert recipe("seed: 1", name="heads.yaml").name == "heads"


def test_sections_that_are_not_written_have_their_defaults(recipe):
    found = recipe("train:\n  # nothing yet\n")
    assert (found.seed, found.train.batch_size, found.data.name, found.data.validation) == (0, 256, "shapes", 0.1)
    assert found.model.backbone.mapping() == recipe("model: {backbone: resnet10}").model.backbone.mapping()
    assert found.model.backbone.options["width"] == 16


def test_every_layer_wins_over_the_one_below(recipe):
    recipe("train: {batch_size: 8, optimizer: {lr: 2}}\nviews: {policy: none}\nseed: 1", name="base.yaml")
    text = "extends: base.yaml\nmethod: vicreg\nseed: 2\ntrain: {epochs: 5}"
    assert recipe(text).train.epochs == 5
    assert recipe(text, "train.epochs=6", "train.epochs=7").train.epochs == 7
    found = recipe(text)
    assert (found.train.batch_size, found.seed, found.views.policy.name) == (8, 2, "none")
    assert found.train.optimizer.name == METHODS.literal("vicreg", "defaults")["train"]["optimizer"]["name"]
    assert found.train.optimizer.options["lr"] == 2.0


def test_a_method_brings_its_own_head_views_and_optimiser():
    defaults = METHODS.literal("vicreg", "defaults")
    found = load("default", ["method={name: vicreg}"])
    assert list(found.model.projector["widths"]) == defaults["model"]["projector"]["widths"]
    assert found.train.optimizer.mapping().items() >= defaults["train"]["optimizer"].items()


def test_a_changed_name_replaces_its_mapping_and_the_same_name_merges(recipe):
    recipe("method: {name: simclr, temperature: 0.7}\ntrain: {optimizer: {name: sgd, lr: 9}}", name="base.yaml")
    same = recipe("extends: base.yaml\nmethod: simclr\ntrain: {optimizer: {name: sgd, momentum: 0}}")
    assert same.method.options["temperature"] == 0.7
    assert (same.train.optimizer.options["lr"], same.train.optimizer.options["momentum"]) == (9.0, 0.0)
    other = recipe("extends: base.yaml\ntrain: {optimizer: {name: adamw}}")
    assert other.train.optimizer.options["lr"] == 1e-3


def test_a_bare_string_stands_for_a_name(recipe):
    short = "{data: digits, model: {backbone: resnet18}, method: vicreg, head: {update: joint}, views: {policy: byol}}"
    long = (
        "data: {name: digits}\nmodel: {backbone: {name: resnet18}}\nmethod: {name: vicreg}\n"
        "head: {update: {name: joint}}\nviews: {policy: {name: byol}}"
    )
    assert recipe(short) == recipe(long)


def test_extends_is_relative_to_its_own_file_or_a_bundled_name(recipe, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "base.yaml").write_text("extends: vicreg-shapes\nseed: 4")
    found = recipe("extends: deep/base.yaml")
    assert (found.seed, found.method.name, found.name) == (4, "vicreg", "r")


def test_what_a_recipe_says_of_itself_alone_is_not_inherited(recipe):
    recipe("name: base\ndescription: a base\nverified: true\npaper: {id: '1', fidelity: exact}", name="base.yaml")
    found = recipe("extends: base.yaml")
    assert (found.name, found.description, found.verified) == ("r", None, None)
    assert found.paper.id == "1"


def test_crops_have_the_size_of_the_images_unless_it_is_written(recipe):
    text = "data: {{name: {}}}\nviews: {{crops: [{{count: 2}}, {{count: 4, size: 20}}, {{size: null}}]}}"
    assert [crop.size for crop in recipe(text.format("shapes, size: 48")).views.crops] == [48, 20, 48]
    assert [crop.size for crop in recipe(text.format("fashion-mnist")).views.crops] == [28, 20, 28]


# The command line


def test_set_takes_dotted_keys_and_yaml_values():
    found = load("default", ["train.optimizer.lr=1e-1", "probe.layers=[stem, pool]", "guillotine.at=-2", "from="])
    assert found.train.optimizer.options["lr"] == 0.1
    assert (found.probe.layers, found.guillotine.at, found.start) == (("stem", "pool"), -2, None)


def test_seed_wins_over_every_text():
    assert load("default", ["seed=3"], seed=5).seed == 5


@pytest.mark.parametrize("setting", ["train.epochs", "=5", "train..epochs=5", ".=1", ".".join("a" * 5000) + "=1"])
def test_a_setting_that_is_no_key_and_value_is_named(setting):
    with pytest.raises(RecipeError, match="is not KEY=VALUE") as caught:
        load("default", [setting])
    assert caught.value.faults[0].place == f"--set {setting.partition('=')[0]}"


def test_a_faulty_setting_has_its_option_as_its_place(faults):
    assert faults("seed: 1", "train.epochs=twenty", "seed=[") == [
        ("--set seed: is not YAML: did not find expected node content",
         "put a value that holds `: `, `#`, quotes or brackets into quotes of its own"),
        ("--set train.epochs: `train.epochs` must be a whole number, not `twenty`", ""),
    ]  # fmt: skip


def test_a_setting_replaces_the_place_of_what_it_replaces(faults):
    ((fault, _),) = faults("train:\n  optimizer: {name: sgd, lr: 1}\n", "train.optimizer={lr: x}")
    assert fault.startswith("--set train.optimizer: `train.optimizer.lr` must be a number")


def test_data_names_the_folder_of_a_data_set_that_has_one(recipe):
    assert recipe("data: {name: table, csv: a.csv}", folder="x").data.options["root"] == "x"
    assert recipe("data: {name: table, csv: a.csv}", folder="x").data.options["csv"] == "a.csv"


def test_data_stands_for_the_data_set_folder_where_images_are_drawn(recipe):
    found = recipe("data: {name: shapes, size: 48, train: 5}", "data.skip_bad=true", folder="/x/cats").data
    assert (found.name, found.options["root"], found.options["size"]) == ("folder", "/x/cats", 48)
    assert (found.options["train"], found.options["skip_bad"]) == (None, True)


def test_data_keeps_to_the_data_set_that_a_setting_names(recipe, faults):
    assert recipe("data: shapes", "data={name: table}", folder="x").data.options["root"] == "x"
    ((fault, _),) = faults("data: table", "data.name=shapes", folder="x")
    assert fault == "--data: the data set `shapes` takes no folder"
    assert len(faults("data: {name: [table]}", folder="x")) == 1


# Faults


def test_all_faults_of_a_text_come_at_once_by_line(faults):
    text = """\
# a comment
name: head-width
data: {name: shapes, size: "32"}
train:
  epochs: twenty
  warmpu_epochs: 2
  optimizer: {name: lars, lr: .inf, momentm: 0.9}
method: simcrl
seed: 1
seed: 2
"""
    assert faults(text) == [
        ("r.yaml:3: `data.size` must be a whole number, not the text `32`", "write it without quotes"),
        ("r.yaml:5: `train.epochs` must be a whole number, not `twenty`", ""),
        ("r.yaml:6: unknown key `train.warmpu_epochs`",
         "did you mean `warmup_epochs`? `train` takes epochs, match, batch_size, optimizer, lr_scaling, warmup_epochs, "
         "start_lr, end_lr, constant_lr, precision, compile, deterministic, clip_gradient, clip_each, state_every, "
         "online"),
        ("r.yaml:7: `train.optimizer.lr` must be a finite number, not `inf`",
         "`train.optimizer` takes name, lr, momentum, weight_decay, eta, clip, bias_lr"),
        ("r.yaml:7: unknown key `train.optimizer.momentm`",
         "did you mean `momentum`? `train.optimizer` takes name, lr, momentum, weight_decay, eta, clip, bias_lr"),
        ("r.yaml:8: unknown method `simcrl`", f"did you mean `simclr`? known: {', '.join(METHODS)}"),
        ("r.yaml:10: holds the key `seed` a second time", "it stands at r.yaml:9 already: keep one"),
    ]  # fmt: skip


def test_a_fault_of_an_ancestor_stands_in_its_file(recipe, faults):
    (pytest.raises(RecipeError, recipe, "train: {epochs: x}", name="base.yaml"))
    ((fault, _),) = faults("extends: base.yaml\nseed: 1")
    assert fault.startswith("base.yaml:1: `train.epochs`")


@pytest.mark.parametrize(
    ("text", "fault", "hint"),
    [
        ("train: {batch_size: 1}", "`train.batch_size` must be at least 2, not `1`", ""),
        ("train: {epochs: 2.0}", "`train.epochs` must be a whole number, not `2.0`", ""),
        ("train: {epochs: null}", "`train.epochs` must be a whole number, not `null`", ""),
        ("train: {compile: yes}", "`train.compile` must be true or false or `auto`, not `yes`", ""),
        ("train: {lr: 1}", "unknown key `train.lr`", "`lr` belongs into `train.optimizer`"),
        ("train: {seed: 1}", "unknown key `train.seed`", "`seed` stands outside the sections"),
        ("views: {strength: .nan}", "`views.strength` must be a finite number, not `nan`", ""),
        ("views: {crops: []}", "`views.crops` must be a list of at least 1, not a list of 0", ""),
        ("views: {crops: [{scale: [0.5]}]}", "`views.crops[0].scale[1]` is missing", ""),
        ("views: {crops: [{scale: [0.5, 0.1]}]}",
         "a crop's `scale` falls from 0.5 to 0.1", "write the smaller share first"),
        ("views: {policy: {name: byol, blur: [a]}}", "`views.policy.blur[0]` must be a number, not `a`", ""),
        ("model: {last_block: 5}", "`model.last_block` must be a mapping, not `5`", ""),
        ("model: {last_block: {shortcut: allways}}",
         "`model.last_block.shortcut` must be `auto`, `always` or `never`, not `allways`", "did you mean `always`?"),
        ("probe: {layers: 7}", "`probe.layers` must be `all` or a list, not `7`", ""),
        ("probe: {layers: [stem, 7]}", "`probe.layers[1]` must be text, not `7`", "write it in quotes"),
        ("probe: {memory: lots}", "`probe.memory` must be a size such as `4GB`, not `lots`", ""),
        ("guillotine: {at: 1.5}", "`guillotine.at` must be text or a whole number, not `1.5`", ""),
        ("paper: {id: 2206.13378, fidelity: exact}", "`paper.id` must be text, not `2206.13378`", "write it in quotes"),
        ("data: {validation: 1.0}", "`data.validation` must be less than 1, not `1.0`", None),
        ("data: {name: shapes, group: patient}", "`data.group` is not for the data set `shapes`", "with groups: table"),
        ("method: 3", "`method` must be a name, or a mapping with a `name`, not `3`", ""),
        ("method: {name: null}", "no `name` for the method", f"write `name:` and one of {', '.join(METHODS)}"),
        ("name: a/b",
         "`name` must be a folder's name (letters, digits and `. _ - + = , @`, at most 100), not `a/b`", ""),
        ("name: ..", None, ""),
        ("seed: -1", "`seed` must be at least 0, not `-1`", ""),
        ("seed: true", "`seed` must be a whole number, not `true`", ""),
        ("stages: [pretrain, prob]", None, "did you mean `probe`?"),
        ("extends: [a]", "`extends` must be a file or the name of a bundled recipe", "write `extends: default`"),
    ],
)  # fmt: skip
def test_a_fault_is_told_in_plain_words(faults, text, fault, hint):
    ((found, advice),) = faults(text)
    assert fault is None or found == f"r.yaml:1: {fault}"
    assert hint is None or advice == hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "r.yaml:1: is empty"),
        (b"# only a comment\n", "r.yaml:1: is empty"),
        (b"- a\n", "r.yaml:1: is not a mapping of sections"),
        (b"words", "r.yaml:1: is not a mapping of sections"),
        (b"\xff\xfe\x00", "r.yaml: is not UTF-8 text"),
        (b"a\x00b: 1", "r.yaml: is not text: it holds control characters"),
        (b"train: [", "r.yaml:1: is not YAML"),
        (b"\n" * 1_000_001, "r.yaml: is larger than 1000000 bytes"),
    ],
)
def test_what_is_no_recipe_is_said_so(tmp_path, monkeypatch, text, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_bytes(text)
    with pytest.raises(RecipeError) as caught:
        load("r.yaml")
    assert str(caught.value).startswith(what)


def test_a_recipe_that_extends_itself_is_refused(recipe, tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    with pytest.raises(RecipeError, match=r"^a.yaml:1: `extends` goes in a circle"):
        recipe("extends: a.yaml", name="b.yaml")


def test_an_ancestor_that_is_not_there_is_named_with_the_nearest(recipe, tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 1")
    with pytest.raises(RecipeError, match="names no recipe: `bas.yaml`") as caught:
        recipe("seed: 1\nextends: bas.yaml")
    assert caught.value.faults[0].place == "r.yaml:2"
    assert caught.value.faults[0].hint.startswith("did you mean `base.yaml`?")


def test_an_unknown_recipe_is_a_usage_error_with_the_nearest_name(recipe, tmp_path):
    with pytest.raises(UsageError) as caught:
        load("defualt")
    assert caught.value.faults[0].hint.startswith("did you mean `default`?")
    recipe("seed: 1", name="heads.yaml")
    with pytest.raises(UsageError) as caught:
        load("head.yaml")
    assert caught.value.faults[0].hint == "did you mean `heads.yaml`?"


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        load(str(tmp_path))


def test_a_name_with_bytes_that_are_no_text_is_refused_without_a_traceback():
    with pytest.raises(RecipeError):
        load("default", [os.fsdecode(b"name=\xff")])
    with pytest.raises(RecipeError):
        load("default", [os.fsdecode(b"\xff=1")])


# Text, storage and hashes

names = st.text("abcXYZ019._-", min_size=1, max_size=20).filter(lambda name: name[0] not in ".-")
words = st.text(max_size=30) | st.sampled_from(
    ["1e-3", "no", "null", "~", "0o17", "12:30", "a: b", "x\n y\n", "é🙂", "#"]
)


@settings(deadline=None, max_examples=25)
@given(
    name=names, title=words, description=words, layers=st.lists(words, max_size=3), seed=st.integers(0, 2**32 - 1),
    lr=st.floats(0, 1e6), strength=st.floats(0, 1e-5), root=words,
)  # fmt: skip
def test_a_recipe_reads_back_as_itself(tmp_path_factory, name, title, description, layers, seed, lr, strength, root):
    written = {
        "name": name, "description": description, "seed": seed, "data": {"name": "folder", "root": root},
        "views": {"strength": strength}, "train": {"optimizer": {"lr": lr}}, "probe": {"layers": layers},
        "report": {"title": title},
    }  # fmt: skip
    recipe = load_stored(written)
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(recipe.text(), encoding="utf-8")
    again = load(str(path))
    assert again.dump() == recipe.dump()
    assert again.stage_hash("pretrain", "x") == recipe.stage_hash("pretrain", "x")
    assert (again.report.title, again.seed, again.data.options["root"]) == (title, seed, root)


def test_a_stored_recipe_loads_as_itself_with_settings_over_it():
    recipe = load("vicreg-shapes")
    assert load_stored(recipe.stored()) == recipe
    assert load_stored(recipe.stored(), ["probe.readouts=[grid2]"], seed=9).probe.readouts == ("grid2",)


def test_a_checkpoint_learns_no_absolute_path():
    recipe = load("folder", ["from=/data/me/runs/a.safetensors"], folder="/data/me/cats")
    assert (recipe.dump()["data"]["root"], recipe.dump()["from"]) == ("/data/me/cats", "/data/me/runs/a.safetensors")
    assert (recipe.stored()["data"]["root"], recipe.stored()["from"]) == ("cats", "a.safetensors")
    assert load("folder", folder="data/cats").stored()["data"]["root"] == "data/cats"


@pytest.mark.parametrize(
    ("setting", "stages"),
    [
        ("seed=7", {"pretrain", "probe"}),
        ("train.epochs=3", {"pretrain"}),
        ("train.precision=float32", {"pretrain"}),
        ("views.strength=0.5", {"pretrain"}),
        ("model.last_block.width=64", {"pretrain"}),
        ("data.train=99", {"pretrain", "probe"}),
        ("probe.readouts=[grid2]", {"probe"}),
        ("guillotine.at=stem", {"guillotine"}),
        ("train.state_every=5", set()),
        ("probe.memory=1GB", set()),
        ("name=other", set()),
        ("report.title=T", set()),
        ("sweep={seed: [1, 2]}", set()),
    ],
)
def test_a_stage_hash_covers_the_sections_that_the_stage_reads(setting, stages):
    base, changed = load(), load("default", [setting])
    differ = [s for s in ("pretrain", "probe", "guillotine") if base.stage_hash(s, "x") != changed.stage_hash(s, "x")]
    assert set(differ) == stages


def test_a_stage_hash_covers_its_input_and_of_a_root_only_the_last_name():
    recipe = load("folder", folder="/a/cats")
    assert recipe.stage_hash("probe", "x") != recipe.stage_hash("probe", "y")
    assert recipe.stage_hash("probe", "x") == load("folder", folder="/b/cats").stage_hash("probe", "x")
    assert recipe.stage_hash("probe", "x") != load("folder", folder="/a/dogs").stage_hash("probe", "x")


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4e9), ("512 MiB", 2**29), ("1.5g", 1.5e9), ("100", 100), ("2KB", 2000)]
)
def test_a_size_is_read_in_decimal_or_binary_units(text, size):
    assert load("default", [f"probe.memory='{text}'"]).probe_memory == size


def test_a_recipe_is_checked_without_torch_and_listed_without_pydantic():
    code = "import sys; from sslcut.recipe import load, bundled, describe; {}; sys.exit('{}' in sys.modules)"
    for work, module in (("load()", "torch"), ("[describe(p) for p in bundled().values()]", "pydantic")):
        assert subprocess.run([sys.executable, "-c", code.format(work, module)], check=False).returncode == 0
