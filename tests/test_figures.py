"""Figures are Vega-Lite that compiles, with a text alternative; their numbers are the results', in readable units."""

import json
import math
import xml.etree.ElementTree as ET

import pytest
import report_data
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sslcut.render import atlas, chart, compare, curves, figures, geometry, words
from sslcut.render.gather import Found
from sslcut.render.page import slim
from sslcut.render.results import Document, told_alike

TASKS = {"shape": "class", "hue": "angle"}


def doc(**options):
    return Document.model_validate(report_data.document(**{"tasks": TASKS, **options}))


def several(tmp_path, **options):
    made = [doc(seed=seed, recipe=report_data.RECIPE | {"seed": seed}, **options) for seed in range(3)]
    return [Found(tmp_path / f"seed={i}" / "probe-pretrain.json", one) for i, one in enumerate(made)]


def every_figure(tmp_path):
    document = doc()
    few = report_data.document(tasks=TASKS)
    few["results"] += [{**row, "fraction": 0.1, "value": 0.4} for row in few["results"] if row["layer"] == "pool"]
    few["results"] += [{**row, "options": "pca=8"} for row in few["results"] if row["probe"] == "linear"]
    other = Document.model_validate(few)
    found = several(tmp_path)
    labels = ["a", "b", "c"]
    return [
        *figures.by_layer(document), *figures.gains(document), *figures.heat(document), *curves.cost(document),
        *geometry.figures(document), *curves.training(report_data.epochs()), *curves.fractions(other),
        *curves.widths(other), *atlas.lines(compare.groups(found, labels)), *atlas.atlas(compare.cells(found)),
    ]  # fmt: skip


def test_every_kind_of_figure_is_drawn_and_tells_its_content_in_words(tmp_path):
    drawn = every_figure(tmp_path)
    assert len({figure.name for figure in drawn}) == len(drawn) == 15
    for figure in drawn:
        ET.fromstring(vl_convert.vegalite_to_svg(figure.spec, config=chart.theme()))
        assert len(figure.alt) > 30
        json.dumps(figure.spec, allow_nan=False)


def test_accuracy_and_r2_never_share_a_scale():
    for figure in figures.by_layer(doc()):
        tasks = {row["task"] for row in figure.spec["data"]["values"]}
        assert tasks == ({"shape"} if figure.name.startswith("accuracy") else {"hue"})


def test_a_plot_holds_the_scores_of_the_results_in_per_cent():
    document = doc(tasks={"shape": "class"})
    (figure,) = figures.by_layer(document)
    drawn = {(row["where"], row["series"]): row["value"] for row in figure.spec["data"]["values"]}
    for row in document.scores("shape"):
        series = "raw pixels" if row.layer == "pixels" else "linear probe" if document.is_main(row) else None
        if series:
            assert drawn[document.place_name(row, full=True), series] == pytest.approx(100 * row.value)


def test_the_forest_plot_leaves_the_reference_out_and_calls_an_interval_over_zero_unclear():
    document = doc(tasks={"shape": "class"}, bump=0.001)
    (figure,) = figures.gains(document)
    rows = figure.spec["data"]["values"]
    assert "pool" not in {row["row"] for row in rows}
    assert all((row["verdict"] == "unclear") == (row["low"] <= 0 <= row["high"]) for row in rows)
    assert "unclear" in {row["verdict"] for row in rows}


def test_a_heat_maps_colour_runs_from_a_tasks_worst_layer_to_its_best():
    (figure,) = figures.heat(doc())
    for task in TASKS:
        shares = [row["share"] for row in figure.spec["data"]["values"] if row["task"] == task]
        assert min(shares) == 0 and max(shares) == 1


def test_more_tasks_than_fit_are_left_to_the_tables_and_the_caption_says_so():
    tasks, rest = figures.shown([f"task{i}" for i in range(15)])
    assert len(tasks) == 12 and "12 of 15" in rest


def test_a_document_without_labels_has_only_its_measures_and_costs_drawn():
    bare = doc(tasks={})
    assert not [*figures.by_layer(bare), *figures.gains(bare), *figures.heat(bare)]
    assert [f.name for f in [*geometry.figures(bare), *curves.cost(bare)]] == ["measures-by-layer", "cost-by-layer"]


def test_one_layer_is_enough_for_every_figure():
    one = doc(layers=("layer4.0",), recommended="layer4.0")
    for figure in [*figures.by_layer(one), *figures.heat(one), *curves.cost(one)]:
        assert vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")


def test_training_curves_pass_over_what_is_no_number():
    epochs = [{"epoch": 1, "loss": 2.0, "rank": None}, {"epoch": 2, "loss": math.nan}, {"epoch": 3, "loss": 1.0}]
    (figure,) = curves.training(epochs)
    assert [row["value"] for row in figure.spec["data"]["values"]] == [2.0, 1.0]


def test_a_slim_drawing_has_the_same_words_and_half_the_size():
    (figure,) = figures.heat(doc())
    svg = vl_convert.vegalite_to_svg(figure.spec, config=chart.theme())
    texts = [node.text for node in ET.fromstring(svg).iter() if node.text]
    assert [node.text for node in ET.fromstring(slim(svg)).iter() if node.text] == texts
    assert len(slim(svg)) < 0.6 * len(svg)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_the_interval_over_seeds_is_students(values):
    found = compare.spread(values)
    low, high = stats.t.interval(0.95, len(values) - 1, found.mean, max(stats.sem(values), 1e-12))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_one_seed_has_no_interval_over_seeds():
    assert compare.spread([0.5]).low is None


@given(st.floats(-2, 2))
def test_a_number_reads_back_to_what_it_was_rounded_to(value):
    text = words.number(value, 3, sign=True)
    assert float(text.replace(words.MINUS, "-")) == pytest.approx(value, abs=5.1e-4)
    assert not (text.lstrip("+" + words.MINUS).strip("0.") == "" and text[0] in "+" + words.MINUS)


def test_recipes_equal_but_for_the_seed_are_one_group(tmp_path):
    found = several(tmp_path)
    (group,) = compare.groups(found, ["a", "b", "c"])
    assert group.seeds == 3
    found[2].document.recipe["method"] = {"name": "simclr", "temperature": 0.5}
    groups = compare.groups(found, ["a", "b", "c"])
    assert [(one.label, one.seeds) for one in groups] == [("temperature=0.2", 2), ("temperature=0.5", 1)]


def test_results_that_chose_two_metrics_for_a_task_are_told_in_one():
    made = [doc(seed=seed) for seed in (0, 1)]
    task = next(task for task, metric in made[0].metrics.items() if metric == "accuracy")
    rows = [row.model_copy(update={"metric": "balanced_accuracy"}) for row in made[1].results if row.task == task]
    best = [one.model_copy(update={"metric": "balanced_accuracy"} if one.task == task else {}) for one in made[1].best]
    mixed = [
        made[0],
        Document.model_validate({**made[1].model_dump(), "results": [*made[1].results, *rows], "best": best}),
    ]
    assert [one.metrics[task] for one in mixed] == ["accuracy", "balanced_accuracy"]
    assert [one.metrics[task] for one in told_alike(mixed)] == ["balanced_accuracy"] * 2
    assert told_alike(made) == made


def test_over_seeds_validation_chooses_the_layer_and_the_gain_is_paired(tmp_path):
    found = several(tmp_path, bump=0.05)
    (group,) = compare.groups(found, ["a", "b", "c"])
    place, score, gain = compare.chosen_over_seeds(group, "hue")
    rows = [one.document.score_at("hue", place) for one in found]
    assert place.layer == "layer2.0"
    assert gain.values == tuple(row.gain for row in rows) and score.mean == pytest.approx(sum(score.values) / 3)


def test_a_checkpoint_is_one_row_of_the_atlas_whatever_is_asked_of_it_on_each_data_set(tmp_path):
    found = []
    for name, root, tasks in (("shapes", None, ["shape"]), ("folder", "cats", "all"), ("folder", "dogs", "all")):
        made = report_data.document()
        made["data"] = {**made["data"], "name": name}
        made["recipe"] = {**made["recipe"], "data": {"name": name, "root": root}, "probe": {"tasks": tasks}}
        found.append(Found(tmp_path / "simclr" / f"probe-{root}.json", Document.model_validate(made)))
    cells = compare.cells(found)
    assert len({cell.checkpoint for cell in cells}) == 1
    sets = list(dict.fromkeys(cell.column.partition(":")[0] for cell in cells))
    assert sets == ["shapes", "folder cats", "folder dogs"]
    again = found[0].document.model_copy(update={"recipe": found[0].document.recipe | {"probe": {"tasks": "all"}}})
    twice = [*found, Found(tmp_path / "simclr" / "probe-again.json", again)]
    assert len({cell.checkpoint for cell in compare.cells(twice)}) == 2  # two ways on the shapes


def test_the_atlas_tells_depth_and_hatches_what_is_not_clear(tmp_path):
    found = several(tmp_path, bump=0.05)
    cell = next(cell for cell in compare.cells(found) if cell.column == "hue")
    assert cell.depth == pytest.approx(3 / 6) and cell.clear  # layer2.0 is the third block, pool the sixth
    unclear = compare.Cell("a", "t", cell.best.model_copy(update={"gain_low": -0.01}), keeps=False, depth=0.5)
    (figure,) = atlas.atlas([cell, unclear])
    assert [row["hatched"] for row in figure.spec["data"]["values"]] == [False, True]
