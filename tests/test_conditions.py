"""The conditions of a study: which results they are made of, and what is told where some are not there."""

import pytest
import study_data

from sslcut import claims
from sslcut.render import claimed, compare, conditions, sections
from sslcut.render import study as study_room
from sslcut.render.gather import labels

SUPERVISED = {"method.name": "supervised", "method.task": "shape"}
TREX = [{"method": {"name": "trex", "task": "shape", "memory_size": size}} for size in (0, 2048)]
APART = {"says": "x", "value": {"task": "hue", "layer": "backbone"}, "where": {"method": "simclr"}}


def told(documents, study=None, planned=()):
    found = study_data.found(documents)
    return study_room.told(found, compare.groups(found, labels(found)), study, planned)


def on_other_data(made, data="flowers", odds=None):
    """The same network's result on another data set with tasks of the same names, and a joint score at the pool."""
    other = {**made, "data": {**made["data"], "name": data}}
    other["recipe"] = {**made["recipe"], "data": {"name": "folder", "root": data}}
    row = {"layer": "pool", "readout": "vector", "task": "mean log-odds", "probe": "transfer", "metric": "log_odds"}
    row |= {"value": odds, "options": "tasks=shape"}
    return {**other, "results": [*made["results"], row]} if odds is not None else other


# ---- data


def test_results_on_other_data_are_no_conditions():
    planted = {("hue", "pool"): 0.8, ("hue", "projector.2"): 0.5}
    mine = [study_data.result({}, seed, planted) for seed in range(3)]
    others = [on_other_data(study_data.result({}, seed, {("hue", "pool"): 0.1})) for seed in range(3)]
    shown = told([*mine, *others], study_data.study())
    assert [group.seeds for group in shown.setting.groups] == [3] and len(shown.setting.elsewhere) == 1
    assert shown.claims[0].verdict.mean == pytest.approx(30)
    report = sections.report(study_data.found([*mine, *others]), asked=study_data.study())
    assert [part.title for part in report.parts[4:6]] == ["seed 2", "03/pretrain"]
    assert len(report.parts) == 2 + 6  # the results on other data are still shown, each by itself


def test_what_was_learned_on_one_data_set_is_not_learned_on_another():
    (made,) = study_data.found([study_data.result(SUPERVISED, 0)])
    (other,) = study_data.found([on_other_data(study_data.result(SUPERVISED, 0))])
    assert conditions.trained_on(made.document) == ["shape"] and conditions.trained_on(other.document) == []


def test_transfer_is_told_by_the_data_set_that_a_task_is_of():
    flowers = {"data": {"name": "flowers"}}
    documents = [study_data.result(SUPERVISED, 0), study_data.result(flowers, 0)]
    documents[1]["history"] = [{"stage": "pretrain", "options": {"data": "flowers"}}]
    shown = told(documents, study_data.study())
    values = [
        shown.setting.value(group.documents[0], claims.Quantity(tasks="transfer", layer="pool"))
        for group in shown.setting.groups
    ]
    whole = [
        shown.setting.value(group.documents[0], claims.Quantity(tasks="all", layer="pool"))
        for group in shown.setting.groups
    ]
    assert sorted(one == other for one, other in zip(values, whole, strict=True)) == [False, True]


def test_source_is_drawn_against_the_mean_log_odds_on_the_other_data_sets_that_all_networks_were_read_on():
    documents = []
    for place, changes in enumerate(TREX):
        for seed in range(3):
            made = study_data.result(changes, seed, {("shape", "pool"): 0.7})
            documents += [made, on_other_data(made, "flowers", 1.0 + place), on_other_data(made, "pets", 2.0 + place)]
    documents.append(on_other_data(documents[0], "cars", 9.0))  # of one network alone
    (figure,) = told(documents, study_data.study(figure="transfer")).figures
    rows = figure.spec["data"]["values"]
    assert [(row["x"], row["y"], row["seeds"]) for row in rows] == [(70, 1.5, 3), (70, 2.5, 3)]
    assert "mean log-odds on flowers and pets" in str(figure.spec)


# ---- what is missing


def test_studies_that_differ_are_not_judged_by_one_of_them():
    raw = study_data.study().model_dump(mode="json")
    mixed = [study_data.result({}, 0, study={**raw, "smallest": size}) for size in (1.0, 2.0)]
    assert told(mixed) is None and told([mixed[0], mixed[0]]) is not None


def test_a_claim_over_several_conditions_is_not_measured_where_one_of_them_has_no_result():
    strengths = (0.1, 0.5, 1.0)
    planned = [study_data.recipe({"views.strength": one, "seed": seed}) for one in strengths for seed in range(3)]
    documents = [study_data.result({"views.strength": one}, seed) for one in strengths[:2] for seed in range(3)]
    weak = study_data.HUE | {"where": {"views.strength": 0.1}}
    shown = told(documents, study_data.study(study_data.HUE, weak), planned)
    assert [one.verdict.word == "not measured" for one in shown.claims] == [True, False]
    assert claimed.sentence(shown.claims[0]).endswith("was not measured: no result of `strength 1.0`.")
    assert any("without any result: `strength 1.0`" in line for line in shown.prose)


def test_a_plan_whose_conditions_are_all_there_changes_nothing():
    planned = [study_data.recipe({"views.strength": one, "paper": {"id": "later"}}) for one in (0.1, 0.5)]
    documents = [study_data.result({"views.strength": one}, seed) for one in (0.1, 0.5) for seed in range(3)]
    assert told(documents, study_data.study(), planned).setting.absent == ()


def test_seeds_that_divide_the_images_into_parts_of_other_sizes_are_one_condition():
    documents = [study_data.result({}, seed) for seed in range(3)]
    for seed, made in enumerate(documents):
        made["data"] |= {"train": 20000 + seed, "description": f"{20000 + seed} images"}
    found = study_data.found(documents)
    assert [group.seeds for group in compare.groups(found, labels(found))] == [3]
    documents[0]["data"]["classes"] = {"shape": ["a", "b"]}
    assert len(compare.groups(found := study_data.found(documents), labels(found))) == 2


# ---- the figure of the head


def test_each_update_of_the_head_is_compared_with_the_joint_one_of_its_own_recipe():
    documents = [
        study_data.result({"head.update": {"name": name}, "train.match": match}, seed, {("hue", "pool"): value})
        for name, match, value in (
            ("joint", "steps", 0.5), ("frozen", "steps", 0.4), ("joint", "compute", 0.6), ("frozen", "compute", 0.7),
            ("two_speed", "neither", 0.9),
        )
        for seed in range(2)
    ]  # fmt: skip
    (figure,) = told(documents, study_data.study(figure="head")).figures
    rows = [row for row in figure.spec["data"]["values"] if row["panel"] == "hue" and row["series"].startswith("back")]
    assert sorted(row["value"] for row in rows) == [-10, 10]
