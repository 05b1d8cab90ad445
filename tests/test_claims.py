"""A recipe's claims: what they may say, and what a report makes of them on planted results."""

import csv
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import study_data
import vl_convert
from cli import sslcut, tiny

from sslcut.claims import Quantity, fits
from sslcut.errors import RecipeError, UsageError
from sslcut.recipe import load
from sslcut.render import atlas, chart, claimed, compare, conditions, sections
from sslcut.render import study as study_room
from sslcut.render.gather import labels
from sslcut.soundness import check_layers
from sslcut.sweep import cells

RECIPE = """
name: s
extends: default
sweep: {seed: [0, 1], views.strength: [0.1, 1.0]}
study:
  claims:
    - says: Strong views hide the hue
      value: {task: hue, layer: backbone}
      where: {views.strength: 0.1}
      against: {views.strength: 1.0}
"""
NARROW = """
probe: {tasks: [hue], common_width: 16, pixels: false}
method: {name: supervised, task: hue}
"""


def written(tmp_path, text=RECIPE, **changes):
    for old, new in changes.items():
        text = text.replace(old.replace("__", " "), new)
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    return str(tmp_path / "s.yaml")


def faults(path, *sets):
    with pytest.raises(RecipeError) as caught:
        cells(load(path, sets))
    return [str(fault) for fault in caught.value.faults]


def setting(documents, study):
    found = study_data.found(documents)
    return conditions.setting(compare.groups(found, labels(found)), study)


def judged(documents, study):
    return claimed.judged(study, setting(documents, study))


# ---- what a recipe may say


def test_a_study_is_part_of_every_cells_recipe_and_of_no_stages_hash(tmp_path):
    one = cells(load(written(tmp_path)))[0].recipe
    other = cells(load(written(tmp_path, Strong="Weak")))[0].recipe
    assert one.study is not None and one != other
    assert one.stage_hash("pretrain", None) == other.stage_hash("pretrain", None)
    assert one.stage_hash("probe", "x") == other.stage_hash("probe", "x")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("views.strength: 0.1}", "views.strenght: 0.1}", "no cell has"),
        ("strength: 0.1}\n", "strength: 0.3}\n", "no cell of the sweep has {views.strength: 0.3}"),
        ("where: {views.strength: 0.1}", "where: {views.strength: 1.0}", "compares cells with themselves"),
        ("layer: backbone", "layer: backbone, probe: mlp", "the probe `mlp`, which does not run"),
        ("layer: backbone", "measure: rankme, layer: backbone", "about task and measure at once"),
        ("task: hue, layer", "measure: rankme, layer", "needs its own `smallest`"),
        ("task: hue, layer: backbone", "task: hue", "`value` needs a `layer`"),
        ("against: {views.strength: 1.0}", "smallest: 2", "compares nothing"),
        ("task: hue", "taks: hue", "unknown key `study.claims[0].value.taks`"),
        ("layer: backbone", "layer: backbone, control: pca=32", "`pca=32`, and all layers are read at 16"),
        ("layer: backbone", "layer: backbone, control: scale=raw", "`scale=raw`, which does not run"),
        ("layer: backbone", "layer: backbone, control: raw", "must be `pca=` and a width, or `scale=raw`, not `raw`"),
        ("layer: backbone", "layer: backbone, readout: grid2", "the read-out `grid2`, which is not taken"),
        ("layer: backbone", "layer: backbone, metric: acuracy", "must be `accuracy`, `balanced_accuracy` or `r2`"),
        ("task: hue", "tasks: transfer", "every task that is probed is trained on"),
        ("layer: backbone", "layer: pixels", "the raw pixels, which are not probed"),
        ("layer: backbone}", "layer: pool}\n      less: {measure: rankme, layer: best}", "no layer is the best by"),
        ("task: hue, layer", "measure: rankme, probe: knn, layer", "`rankme` is no score and has no `probe`"),
    ],
)  # fmt: skip
def test_a_claim_that_no_cell_could_bear_out_is_a_fault_with_its_line(tmp_path, old, new, what):
    (fault,) = faults(written(tmp_path, RECIPE.replace(old, new) + NARROW))
    assert what in fault and re.search(r"s\.yaml:\d+: ", fault)


def test_a_cells_own_recipe_carries_the_claims_and_is_no_sweep(tmp_path):
    assert cells(load(written(tmp_path), ["sweep=null"])) == []
    text = cells(load(written(tmp_path)))[0].recipe.text()
    assert "Strong views" in text and cells(load(written(tmp_path, text))) == []


def test_what_the_command_line_takes_out_of_a_sweep_is_no_fault_of_its_claims(tmp_path):
    assert len(cells(load(written(tmp_path), ["sweep={seed: [0, 1]}"]))) == 2
    assert len(cells(load(written(tmp_path), ["views.strength=0.5"]))) == 2


def test_a_claims_layer_that_the_network_lacks_or_the_probe_passes_over_is_a_fault(tmp_path):
    recipe = cells(load(written(tmp_path)))[0].recipe.dump()
    names = ["stem", "pool", "projector.0"]
    check_layers(recipe, names, ["pool"])
    recipe["study"]["claims"][0]["value"]["layer"] = "projector"
    with pytest.raises(UsageError, match="which is not measured"):
        check_layers(recipe, names, ["pool"])
    recipe["study"]["claims"][0]["value"]["layer"] = "pixels"
    check_layers(recipe, names, ["pool"])
    recipe["study"]["claims"][0]["value"]["layer"] = "layer9"
    with pytest.raises(UsageError, match="layer9"):
        check_layers(recipe, names, ["pool"])


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ({"method": "simclr"}, True),
        ({"method": "byol"}, False),
        ({"method.temperature": 0.2}, True),
        ({"method": {"name": "simclr"}, "views.strength": 1}, True),
        ({"views.crops": [{"count": 2}]}, True),
        ({"views.crops": [{"count": 2}, {"count": 4}]}, False),
        ({"views.exact": 0}, False),
        ({}, True),
    ],
)
def test_a_cell_is_meant_by_what_it_is_asked_to_have(asked, there):
    assert fits(asked, study_data.recipe({"views.exact": False})) is there


def test_a_comparison_changes_what_it_names_and_keeps_the_rest():
    value = Quantity(task="hue", layer="backbone", probe="knn")
    assert value.changed(Quantity(layer="projector")) == Quantity(task="hue", layer="projector", probe="knn")
    assert value.changed(Quantity(tasks="all")) == Quantity(tasks="all", layer="backbone", probe="knn")


def test_a_probe_that_some_cell_has_bears_a_claim_out(tmp_path):
    swept = written(tmp_path, RECIPE.replace("layer: backbone", "layer: backbone, probe: mlp"))
    assert cells(load(swept, ["sweep={views.strength: [0.1, 1.0], probe.probes: [[linear], [linear, mlp]]}"]))


def test_the_readmes_study_is_sound(tmp_path):
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "study:\n" in block]
    assert len(cells(load(written(tmp_path, block)))) == 10


# ---- what comes of it


def test_an_effect_is_paired_by_seed_and_taken_against_other_cells():
    claim = study_data.HUE | {"where": {"views.strength": 1.0}, "against": {"views.strength": 0.1}}
    documents = [
        study_data.result({"views.strength": strength}, seed, {("hue", "pool"): h + seed, ("hue", "projector.2"): seed})
        for strength, h in ((1.0, 0.3), (0.1, 0.1))
        for seed in range(3)
    ]
    (one,) = judged(documents, study_data.study(claim))
    assert one.verdict.values == pytest.approx([20.0] * 3) and one.verdict.word == "appears"


def test_a_difference_may_be_compared_with_that_of_another_task_or_with_the_untrained_network():
    planted = {("hue", "pool"): 0.9, ("hue", "projector.2"): 0.4, ("shape", "pool"): 0.6, ("shape", "projector.2"): 0.5}
    documents = [study_data.result({}, seed, planted) for seed in range(3)]
    gap = {**study_data.HUE, "than": {"task": "shape"}}
    drawn = {"says": "x", "value": {"task": "hue", "layer": "pool"}, "less": {"untrained": True}}
    found = judged(documents, study_data.study(gap, drawn))
    assert [one.verdict.mean for one in found] == pytest.approx([40.0, 50.0])  # the made-up pool has 0.4 untrained


def test_a_seed_that_a_condition_lacks_is_left_out_and_said_to_be():
    documents = [study_data.result({"views.strength": s}, seed) for s in (0.1, 1.0) for seed in range(4)]
    (one,) = judged(documents[:-1], study_data.study())
    assert len(one.verdict.values) == 3 and one.missing == (3,)
    assert claimed.sentence(one).endswith("positive in 3 of 3 seeds; without seed 3.")


def test_a_claim_about_what_was_not_measured_says_so():
    documents = [study_data.result({}, seed) for seed in range(3)]
    about = {"says": "x", "value": {"measure": "sensitivity", "layer": "pool"}, "less": 0.5, "smallest": 0.1}
    (one,) = judged(documents, study_data.study(about))
    assert one.verdict.word == "not measured"
    assert claimed.sentence(one) == "“x” was not measured: no seed has the numbers that it is about."


def test_a_number_may_be_a_mean_over_tasks_a_best_layer_a_ratio_or_under_a_control():
    document = study_data.result(
        {"method": {"name": "supervised", "task": "shape"}}, 0,
        {("hue", "pool"): 0.5, ("size", "pool"): 0.7},
        {("sensitivity", "pool"): 0.4, ("sensitivity", "projector.2"): 0.1},
    )  # fmt: skip
    document["results"].append({**document["results"][0], "layer": "pool", "options": "pca=16 l2=1", "value": 0.25})
    room = setting([document], study_data.study())
    (group,) = room.groups
    told = {
        "transfer": {"tasks": "transfer", "layer": "backbone"},
        "ratio": {"measure": "sensitivity", "layer": "projector", "over": "backbone"},
        "control": {"task": "shape", "layer": "backbone", "readout": "avg", "control": "pca=16"},
        "unknown": {"task": "shape", "layer": "nowhere"},
    }
    values = {name: room.value(group.documents[0], Quantity(**what)) for name, what in told.items()}
    assert values == {"transfer": pytest.approx(60), "ratio": 0.25, "control": 25, "unknown": None}
    best = room.value(group.documents[0], Quantity(task="shape", layer="best"))
    assert best == pytest.approx(100 * next(row.value for row in group.documents[0].best if row.task == "shape"))


def test_conditions_are_named_by_few_keys_and_stand_in_the_order_of_their_numbers():
    changes = [
        {"method": {"name": name, "task": None}, "model.last_block.width": width, "train.epochs": width}
        for name in ("simclr", "supervised")
        for width in (256, 16, 64)
    ]
    claim = study_data.HUE | {"where": {"model.last_block.width": 16}}
    room = setting([study_data.result(one, 0) for one in changes], study_data.study(claim))
    assert [group.label for group in room.groups][:4] == [
        "simclr, width 16", "supervised, width 16", "simclr, width 64", "supervised, width 64",
    ]  # fmt: skip


STUDIES = {
    "layers": [{"method.name": name} for name in ("simclr", "vicreg")],
    "width": [{"method.name": m, "model.last_block.width": w} for m in ("simclr", "supervised") for w in (16, 64)],
    "strength": [{"views.strength": strength} for strength in (0.1, 1.0)],
    "head": [{"head.update": {"name": name}} for name in ("joint", "frozen", "two_speed")],
    "transfer": [{"method": {"name": "trex", "task": "shape", "memory_size": size}} for size in (0, 2048)],
}


@pytest.mark.parametrize("figure", STUDIES)
def test_the_figure_of_each_paper_is_drawn_with_intervals_over_seeds(figure):
    measures = {("sensitivity", "pool"): 0.4, ("sensitivity", "projector.2"): 0.2}
    documents = [study_data.result(one, seed, measures=measures) for one in STUDIES[figure] for seed in range(3)]
    told = study_room.told(found := study_data.found(documents), compare.groups(found, labels(found)),
                           study_data.study(figure=figure))  # fmt: skip
    assert told is not None and told.figures
    for each in told.figures:
        ET.fromstring(vl_convert.vegalite_to_svg(each.spec, config=chart.theme()))
        rows = each.spec["data"]["values"]
        assert {row["seeds"] for row in rows} == {3} and all(
            row.get("low", row.get("x_low")) is not None for row in rows
        )


def test_blocks_of_different_networks_stand_behind_what_they_follow():
    byol, simclr = ["pool", "projector.0", "predictor.0"], ["pool", "projector.0", "projector.1"]
    assert atlas.in_order([byol, simclr]) == ["pool", "projector.0", "projector.1", "predictor.0"]


def test_head_updates_are_compared_with_the_joint_one_seed_by_seed():
    documents = [
        study_data.result({"head.update": {"name": name}}, seed, {("hue", "pool"): 0.5 + 0.1 * seed + extra})
        for name, extra in (("joint", 0.0), ("frozen", -0.02))
        for seed in range(3)
    ]
    told = study_room.told(found := study_data.found(documents), compare.groups(found, labels(found)),
                           study_data.study(figure="head"))  # fmt: skip
    (row,) = [
        row
        for row in told.figures[0].spec["data"]["values"]
        if (row["panel"], row["series"]) == ("hue", "backbone (h)")
    ]
    assert (row["value"], row["row"]) == (-2.0, "frozen")
    assert row["low"] == pytest.approx(-2.0) == row["high"]


def test_the_report_of_a_sweep_leads_with_its_claims_then_the_figure_then_the_conditions():
    raw = study_data.study().model_dump(mode="json")
    documents = [
        study_data.result({"method.name": name}, seed, study=raw) for name in ("simclr", "vicreg") for seed in range(3)
    ]
    told = sections.report(study_data.found(documents))
    assert told.answer.sentence == "Of 1 claim, 1 appears."
    assert told.answer.details[0].startswith("“Hue is read better at the backbone” appears: +")
    assert [section.name for section in told.parts[0].sections] == ["figure", "claims", "conditions"]
    assert [row[0] for row in told.parts[0].sections[2].tables[0].rows] == ["simclr", "vicreg"]
    names = [figure.name for figure in told.figures]
    assert len(set(names)) == len(names)


def test_a_studys_checkpoints_are_called_by_condition_and_seed_in_all_of_the_report():
    raw = study_data.study().model_dump(mode="json")
    documents = [
        study_data.result({"method.name": name}, seed, study=raw) for name in ("simclr", "vicreg") for seed in range(2)
    ]
    told = sections.report(study_data.found(documents))
    called = ["simclr, seed 0", "simclr, seed 1", "vicreg, seed 0", "vicreg, seed 1"]
    assert [part.title for part in told.parts[2:]] == called
    assert told.parts[2].sections[0].prose == ("From `00/pretrain`.",)
    (rows,) = [figure.spec["data"]["values"] for figure in told.figures if figure.name == "atlas"]
    assert list(dict.fromkeys(row["row"] for row in rows)) == called


def test_checkpoints_that_condition_and_seed_do_not_tell_apart_keep_their_paths():
    raw = study_data.study().model_dump(mode="json")
    whole, cut, other = (
        study_data.result({"method.name": name}, 0, study=raw) for name in ("simclr", "simclr", "vicreg")
    )
    cut["checkpoint"]["identity"] = "c" * 64
    cut["history"] = [*cut["history"], {"stage": "guillotine", "options": {"layer": "pool"}}]
    told = sections.report(study_data.found([whole, cut, other]))
    assert [part.title for part in told.parts[2:]] == ["00/pretrain", "01/pretrain", "02/pretrain"]


def test_results_without_a_shared_study_are_compared_as_ever():
    raw = study_data.study().model_dump(mode="json")
    mixed = [study_data.result({}, 0, study=raw), study_data.result({"views.strength": 2.0}, 0)]
    assert sections.report(study_data.found(mixed)).parts[0].name == "comparison"


def test_a_sweep_with_a_study_ends_in_a_report_with_verdicts(tmp_path):
    claims = """
      - {says: Pool over head, value: {tasks: all, layer: backbone}, less: {layer: projector}}
      - says: Strength matters
        value: {task: hue, layer: pool}
        where: {views.strength: 1.0}
        against: {views.strength: 0.5}
      - {says: Rank differs, smallest: 0.5, value: {measure: rankme, layer: pool}, less: {layer: projector}}
    """
    recipe = (
        f"extends: default\nname: s\nsweep: {{seed: [0, 1], views.strength: [0.5, 1.0]}}\nstudy:\n  claims:{claims}"
    )
    (tmp_path / "s.yaml").write_text(recipe, encoding="utf-8")
    more = [
        "train.epochs=0",
        "data.train=64",
        "data.test=32",
        "probe.probes=[linear]",
        "probe.layers=[backbone, projector]",
        "probe.tasks=[hue]",
    ]
    done = sslcut("run", "s.yaml", *tiny(*more), "--out", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "all/report/report.md").read_text(encoding="utf-8")
    assert re.search(r"^\*\*Of 3 claims, .*\*\*$", text, re.MULTILINE)
    assert "“Strength matters” does not appear: 0.0 points (0.0 to 0.0), positive in 0 of 2 seeds." in text
    assert "## What was claimed" in text and "| strength 0.5 | 2 |" in text
    with (tmp_path / "all/report/claims.csv").open(encoding="utf-8") as file:
        told = {row["claim"]: row for row in csv.DictReader(file)}
    assert told["Strength matters"]["verdict"] == "does not appear" and told["Rank differs"]["unit"] == ""
