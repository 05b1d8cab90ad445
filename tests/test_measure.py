import json

import pytest
import torch
from layers import cross_folds, factors, layer, one_fold, tasks_of

from sslcut import answers
from sslcut.data.images import Task
from sslcut.errors import UsageError
from sslcut.events import Progress, Warn
from sslcut.metrics.assemble import measure
from sslcut.metrics.layer import Layer

POOL = ("pool", "vector")
END = ("projector.0", "vector")
ROWS = 600


@pytest.fixture(scope="module")
def hidden():
    return factors(ROWS)


@pytest.fixture(scope="module")
def layers(hidden):
    """The middle block shows most, the projector least."""
    noises = {"stem": 2.0, "layer4.0": 0.1, "pool": 1.0, "projector.0": 3.0}
    readouts = {"stem": "avg", "layer4.0": "grid2", "pool": "vector", "projector.0": "vector"}
    return [layer(hidden, name, noise, readout=readouts[name]) for name, noise in noises.items()]


def finish(measuring):
    """What the generator returns, and the events that it yielded."""
    events = []
    while True:
        try:
            events.append(next(measuring))
        except StopIteration as end:
            return *end.value, events


@pytest.fixture(scope="module")
def measured(hidden, layers):
    untrained = [layer(hidden, one.name, 5.0, readout=one.readout) for one in layers]
    pixels = layer(hidden, "pixels", 0.01, readout="vector", width=24)
    return finish(
        measure(
            layers, tasks_of(hidden), [one_fold(ROWS)], reference=POOL, end=END, fractions=[0.1],
            untrained=untrained, pixels=pixels, bootstrap=200,
        )
    )  # fmt: skip


def found(results, **wanted):
    return [row for row in results["results"] if all(row[key] == value for key, value in wanted.items())]


def test_results_are_json_without_nan_and_have_a_row_for_every_number(measured):
    results, _, _ = measured
    json.dumps(results, allow_nan=False)
    metrics = {(row["task"], row["metric"]) for row in results["results"]}
    assert metrics >= {("kind", "accuracy"), ("kind", "balanced_accuracy"), ("size", "r2"), ("turn", "r2")}
    assert len(found(results, probe="linear", fraction=1.0, metric="accuracy")) == 2 * 5
    assert len(found(results, probe="knn", fraction=1.0, metric="accuracy")) == 2 * 2 * 4


def test_the_answer_is_the_planted_layer_for_every_task_and_for_all(measured):
    results, _, _ = measured
    assert [(best["layer"], best["readout"]) for best in results["best"]] == [("layer4.0", "grid2")] * 4
    assert results["recommended"]["layer"] == "layer4.0" and results["recommended"]["among"] == ["layer4.0 grid2"]
    assert results["recommended"]["gain_low"] > 0 and set(results["recommended"]["regret"].values()) == {0.0}
    best = results["best"][0]
    assert best["gain"] == pytest.approx(best["value"] - best["reference_value"], abs=1e-6)
    assert best["end_value"] == found(results, layer="projector.0", task="kind", probe="linear")[0]["value"]


def test_the_raw_pixels_are_measured_but_never_recommended(measured):
    results, _, _ = measured
    rows = found(results, layer="pixels", task="kind", metric="accuracy")
    assert len(rows) == 1 and rows[0]["gain"] is None and rows[0]["value"] > 0.9


def test_the_references_own_gain_is_nought_and_others_are_paired_with_it(measured):
    results, _, _ = measured
    rows = {row["layer"]: row for row in found(results, task="kind", probe="linear", metric="accuracy", fraction=1.0)}
    assert (rows["pool"]["gain"], rows["pool"]["gain_low"], rows["pool"]["gain_high"]) == (0, 0, 0)
    better = rows["layer4.0"]
    assert better["gain"] == pytest.approx(better["value"] - rows["pool"]["value"], abs=1e-6)
    assert 0 < better["gain_low"] < better["gain"] < better["gain_high"]
    assert better["low"] < better["value"] < better["high"]


def test_predictions_and_targets_give_the_rows_again(measured):
    results, tensors, _ = measured
    for index, row in enumerate(results["results"]):
        if row["metric"] == "accuracy":
            right = tensors[f"row.{index}"] == tensors[f"target.{row['task']}"]
            assert right.float().mean().item() == pytest.approx(row["value"], abs=1e-6)
            right = tensors[f"validation.row.{index}"] == tensors[f"validation.target.{row['task']}"]
            assert right.float().mean().item() == pytest.approx(row["validation"], abs=1e-6)
    assert tensors["row.0"].dtype == torch.int32 and tensors["target.turn"].shape == (180, 2)


def test_the_untrained_network_stands_beside_the_linear_probe_with_all_labels(measured):
    results, _, _ = measured
    beside = {(row["probe"], row["fraction"]) for row in results["results"] if row["untrained"] is not None}
    assert beside == {("linear", 1.0)}
    row = found(results, layer="layer4.0", task="kind", metric="accuracy", probe="linear", fraction=1.0)[0]
    assert row["untrained"] < row["value"]


def test_few_labels_are_a_seeded_share_with_every_class(measured):
    results, _, _ = measured
    row = found(results, layer="layer4.0", task="kind", metric="accuracy", probe="linear", fraction=0.1)[0]
    assert 38 <= row["n_train"] <= 46 and 0.5 < row["value"] <= 1


def test_measures_name_every_layer_and_progress_reaches_its_end(measured):
    results, _, events = measured
    assert [m["layer"] for m in results["measures"]] == ["stem", "layer4.0", "pool", "projector.0"]
    steps = [event for event in events if isinstance(event, Progress)]
    assert steps[-1].done == steps[-1].total and [s.done for s in steps] == sorted(s.done for s in steps)


def test_the_same_seed_gives_the_same_results(hidden, layers):
    asked = {"reference": POOL, "end": END, "bootstrap": 50, "probes": ["linear"]}
    first, second = (finish(measure(layers[:3], tasks_of(hidden), [one_fold(ROWS)], **asked))[0] for _ in range(2))
    assert first == second


def test_cross_fitting_scores_every_row_and_groups_are_resampled_whole(hidden, layers):
    tasks = {"kind": tasks_of(hidden)["kind"]}
    group = torch.arange(ROWS) // 60
    asked = {"reference": POOL, "end": END, "bootstrap": 200, "probes": ["linear"], "measures": []}
    plain, tensors, _ = finish(measure(layers, tasks, cross_folds(ROWS), **asked))
    grouped, _, _ = finish(measure(layers, tasks, cross_folds(ROWS), group=group, **asked))
    assert plain["results"][0]["n"] == ROWS and len(tensors["row.0"]) == ROWS
    assert torch.equal(tensors["target.kind"], tasks["kind"].values.int())
    assert plain["results"][0]["value"] == grouped["results"][0]["value"]
    assert plain["results"][0]["low"] != grouped["results"][0]["low"]


def test_equal_layers_keep_the_reference(hidden):
    layers = [layer(hidden, name, 1.0, seed=3, readout="vector") for name in ("stem", "pool")]
    results, _, _ = finish(measure(layers, tasks_of(hidden), [one_fold(ROWS)], reference=POOL, end=END, bootstrap=50))
    assert results["recommended"]["layer"] == "pool" and "no layer is surely better" in results["recommended"]["why"]
    assert results["best"][0]["end_value"] is None
    document = results | {"layers": ["stem", "pool"], "reference": {"layer": "pool", "readout": "vector"}}
    assert answers.smallest(document, 0.5) == ("stem", "vector")
    assert answers.best(document, "kind")[:2] == POOL


def test_without_labels_there_are_measures_and_no_answer(layers):
    results, tensors, _ = finish(measure(layers, {}, [], reference=POOL, end=END))
    assert len(results["measures"]) == 4 and not results["results"] and not tensors
    assert results["best"] == [] and results["recommended"] is None


def test_a_task_without_labels_to_learn_from_is_left_out_with_a_warning(hidden, layers):
    tasks = tasks_of(hidden) | {"same": Task("class", torch.zeros(ROWS).long(), ("only",))}
    asked = {"reference": POOL, "end": END, "bootstrap": 50, "probes": ["linear"]}
    results, _, events = finish(measure(layers, tasks, [one_fold(ROWS)], **asked))
    assert [event.text for event in events if isinstance(event, Warn)][0].startswith("task `same`")
    assert "same" not in {row["task"] for row in results["results"]}


def test_a_probes_own_options_come_with_its_name(layers):
    results, _, _ = finish(measure(layers, {}, [], reference=POOL, end=END, measures=[{"name": "rankme", "images": 2}]))
    assert all(1 <= row["value"] <= 2.01 for row in results["measures"])


def test_a_reference_that_is_not_measured_is_an_error(layers):
    with pytest.raises(UsageError, match="reference `norm` is not among the measured layers"):
        next(measure(layers, {}, [], reference=("norm", "cls"), end=END))


def test_a_target_that_is_constant_on_validation_has_no_r2_and_no_answer(hidden, layers):
    fold, number = one_fold(ROWS), torch.rand(ROWS)
    number[fold.validation] = 1.0
    asked = {"reference": POOL, "end": END, "bootstrap": 50, "probes": ["linear"], "measures": []}
    results, _, _ = finish(measure(layers, {"odd": Task("number", number)}, [fold], **asked))
    assert results["results"][0]["validation"] is None and results["best"] == [] and results["recommended"] is None


def test_layers_are_told_apart_by_readout():
    assert Layer("layer4.0", "avg", torch.zeros(1, 1)).key != Layer("layer4.0", "grid2", torch.zeros(1, 1)).key
