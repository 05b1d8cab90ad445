import pytest

from sslcut.errors import RecipeError, UsageError
from sslcut.recipe import load
from sslcut.sweep import cells, folder_names, refuse_sweep


def swept(sweep, *sets):
    """The cells of the default recipe with this sweep."""
    return cells(load("default", [f"sweep={sweep}", *sets]))


def names(sweep, *sets):
    return [cell.name for cell in swept(sweep, *sets)]


def test_a_sweep_on_the_command_line_takes_the_place_of_the_recipes(tmp_path):
    (tmp_path / "s.yaml").write_text("extends: default\nsweep: {seed: [0, 1, 2], views.strength: [0.5, 1.0]}\n")
    chosen = load(str(tmp_path / "s.yaml"), ["sweep={seed: [7]}"])
    assert [cell.name for cell in cells(chosen)] == ["seed=7"]


def test_a_recipe_without_a_sweep_has_no_cells():
    assert cells(load()) == []
    assert swept("null") == []


def test_a_grid_is_every_combination_the_last_key_fastest():
    grid = "{seed: [0, 1], views.strength: [0.5, 1.0]}"
    assert names(grid) == ["seed=0,strength=0.5", "seed=0,strength=1.0", "seed=1,strength=0.5", "seed=1,strength=1.0"]
    third = swept(grid)[2]
    assert third.overrides == {"seed": 1, "views.strength": 0.5}
    assert (third.recipe.seed, third.recipe.views.strength, third.recipe.sweep) == (1, 0.5, None)


def test_a_list_of_mappings_is_one_cell_each():
    found = swept("[{method: vicreg, train.epochs: 3}, {seed: 4}, {}]")
    assert [cell.name for cell in found] == ["method=vicreg,epochs=3", "seed=4", "base"]
    assert [cell.recipe.method.name for cell in found] == ["vicreg", "simclr", "simclr"]
    assert found[0].recipe.train.optimizer.name == load("vicreg-shapes").train.optimizer.name


def test_zip_pairs_lists_and_crosses_them_with_the_rest():
    found = names("{zip: {train.batch_size: [64, 128], train.optimizer.lr: [0.1, 0.2]}, seed: [0, 1]}")
    assert found == [
        "batch_size=64,lr=0.1,seed=0", "batch_size=64,lr=0.1,seed=1",
        "batch_size=128,lr=0.2,seed=0", "batch_size=128,lr=0.2,seed=1",
    ]  # fmt: skip


def test_a_cell_wins_over_the_file_and_a_setting_over_the_cell():
    cell = swept("{train: [{epochs: 3, batch_size: 8}]}", "train.batch_size=16")[0].recipe
    assert (cell.train.epochs, cell.train.batch_size) == (3, 16)


@pytest.mark.parametrize("setting", ["seed=5", "seed=0"])
def test_an_axis_that_a_setting_fixes_is_no_axis_any_more(setting):
    found = swept("{seed: [0, 1, 2], views.strength: [0.5, 1]}", setting)
    assert [cell.name for cell in found] == ["strength=0.5", "strength=1"]
    assert {cell.recipe.seed for cell in found} == {int(setting[-1])}


def test_a_sweep_that_settings_fix_wholly_is_gone():
    fixed = load("default", ["sweep=[{seed: 1}, {seed: 2, method: vicreg}]", "seed=3", "method=simclr"])
    assert fixed.sweep is None
    refuse_sweep(fixed, "pretrain")


def test_options_of_a_choice_do_not_fix_the_axis_that_chooses():
    found = swept("{train.optimizer: [sgd, lars]}", "train.optimizer.lr=0.7")
    assert [(c.recipe.train.optimizer.name, c.recipe.train.optimizer.options["lr"]) for c in found] == [
        ("sgd", 0.7), ("lars", 0.7),
    ]  # fmt: skip


def test_a_point_that_is_written_twice_is_one_cell():
    assert names("{seed: [1, 1]}") == ["seed=1"]


def test_folder_names_are_short_safe_and_distinct():
    keys = ["model.projector.widths", "model.predictor.widths"]
    assert folder_names([dict.fromkeys(keys, [8, 4])]) == ["projector.widths=8-4,predictor.widths=8-4"]
    for name in folder_names(
        [{"data.root": "/a/b c"}, {"data.root": "/a b/c"}, {"x": 1}, {"x": "1"}, {"x": "é" * 300}]
    ):
        assert "/" not in name and " " not in name and name.isascii() and len(name) < 120
    awkward = folder_names([{"data.root": "/a/b"}, {"data.root": "_a_b"}, {"x": 1}, {"x": "1"}])
    assert len(set(awkward)) == 4


def test_a_folder_name_does_not_depend_on_the_sweep_around_it():
    long = {"probe.layers": [f"layer{i}.0" for i in range(30)]}
    assert folder_names([long])[0] == folder_names([{"probe.layers": ["stem"]}, long])[1]


@pytest.mark.parametrize(
    ("sweep", "fault"),
    [
        ("{seed: 3}", "`sweep.seed` must be a list of at least one value"),
        ("{seed: []}", "`sweep.seed` must be a list of at least one value"),
        ("{zip: [1]}", "`sweep.zip` must be a mapping of lists"),
        (
            "{zip: {seed: [1, 2], train.epochs: [1]}}",
            "`sweep.zip` pairs lists of different lengths: seed 2, train.epochs 1",
        ),
        ("{name: [a, b]}", "a sweep cannot vary `name`"),
        ("{seed: [0, 1], views.strenght: [1]}", "unknown key `views.strenght`"),
        ("{train.epochs: [1, two, three]}", "`train.epochs` must be a whole number, not `two`"),
        ("[{method: simcrl}]", "unknown method `simcrl`"),
    ],
)
def test_a_fault_of_a_sweep_stands_at_its_line(tmp_path, monkeypatch, sweep, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(f"seed: 1\nsweep: {sweep}\n")
    with pytest.raises(RecipeError) as caught:
        cells(load("r.yaml"))
    assert str(caught.value.faults[0]) == f"r.yaml:2: {fault}"


def test_faults_of_all_cells_come_at_once_and_once():
    with pytest.raises(RecipeError) as caught:
        swept("{seed: [0, -1], train.epochs: [x, 1]}")
    assert [fault.what for fault in caught.value.faults] == [
        "`train.epochs` must be a whole number, not `x`", "`seed` must be at least 0, not `-1`",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sweep", "sets"), [("{seed: [0, 1]}", ["train.compile=auto"]), ("{train.compile: [auto]}", [])]
)
def test_a_sweep_does_not_leave_compiling_to_each_of_its_cells(sweep, sets):
    with pytest.raises(RecipeError, match="a sweep compares its cells") as caught:
        swept(sweep, *sets)
    assert caught.value.faults[0].hint == "write true or false"


def test_a_sweep_of_too_many_cells_is_refused():
    hundred = list(range(100))
    with pytest.raises(RecipeError, match="`sweep` has 1000000 cells"):
        swept(f"{{seed: {hundred}, train.epochs: {hundred}, views.strength: {hundred}}}")


def test_a_command_for_one_network_refuses_a_sweep():
    with pytest.raises(UsageError, match="has a sweep, and `probe` takes one cell") as caught:
        refuse_sweep(load("default", ["sweep={seed: [0, 1]}"]), "probe")
    assert "sslcut run" in caught.value.faults[0].hint
