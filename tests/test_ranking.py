"""Rankings of layers without labels: what each names, what following it would have cost, one checkpoint left out."""

import pytest
from scipy.stats import spearmanr

from sslcut.render import following, ranking, sections
from sslcut.render.gather import Found
from sslcut.render.ranking import named, spearman, suggested
from sslcut.render.results import Document, Place

LAYERS = ("layer3", "layer4", "pool", "projector.0", "projector.1")
ACCURACY = (0.60, 0.72, 0.70, 0.65, 0.50)


def document(
    measures=None,
    *,
    accuracy=ACCURACY,
    validation=None,
    recommended="layer4",
    identity="a",
    layers=LAYERS,
    data="shapes",
):
    """Results of one task whose reference is `pool`; `measures` are values by layer, validation is as test."""
    places = [{"layer": layer, "readout": "vector"} for layer in layers]
    rows = [
        {**place, "task": "kind", "probe": "linear", "metric": "accuracy", "value": value, "dim": 10 * (i + 1)}
        | {"validation": validated}
        for i, (place, value, validated) in enumerate(
            zip(places, accuracy or (), validation or accuracy or (), strict=False)
        )
    ]
    told = [
        {**place, "measure": name, "value": value}
        for name, values in (measures or {}).items()
        for place, value in zip(places, values, strict=True)
    ]
    return Document.model_validate({
        "format": 1, "checkpoint": {"identity": identity, "name": "x"}, "data": {"name": data}, "layers": layers,
        "tasks": {"kind": "class"} if accuracy else {}, "reference": {"layer": "pool", "readout": "vector"},
        "results": rows, "measures": told,
        "recommended": {"layer": recommended, "readout": "vector"} if accuracy else None,
    })  # fmt: skip


def names(made):
    return {one.ranking.name: one.place.layer for one in named(made)}


@pytest.mark.parametrize(
    ("measure", "values", "wanted"),
    [
        ("lidar", (5, 9, 8, 7, 6), {"LiDAR": "layer4"}),
        ("sensitivity", (0.37, 0.38, 0.37, 0.36, 0.2), {"sensitivity's plateau": "pool"}),  # 0.36 < 0.95 · 0.38
        ("sensitivity", (0.5, 0.4, 0.3, 0.2, 0.49), {"sensitivity's plateau": "projector.1"}),
        ("cka", (None, 0.9, 0.95, 0.5, 0.3), {"before CKA's largest fall": "pool"}),
        ("cka", (None, 0.2, 0.3, 0.4, 0.4), {}),  # it never falls
        ("alpha_req", (0.4, 2.0, 1.3, 0.8, None), {"alpha-ReQ nearest to 1": "projector.0"}),
        ("rankme", (9, 30, 20, 32, 33), {"RankMe": "projector.1", "RankMe ÷ width": "layer4"}),
        ("uniformity", (-1, -2, -3, -2, -1), {"uniformity": "pool"}),
        ("participation", (1, 2, 3, 4, 3), {"participation ratio": "projector.0"}),
        ("erank_cov", (None,) * 5, {}),
        ("alignment", (5, 4, 3, 2, 1), {}),  # the most invariant layer is the last by construction
    ],
)
def test_each_rule_names_the_layer_that_it_should(measure, values, wanted):
    assert names(document({measure: values})) == wanted


def test_of_equal_layers_the_reference_is_named_and_else_the_earliest():
    assert names(document({"lidar": (5, 9, 9 + 1e-9, 9, 6)})) == {"LiDAR": "pool"}
    assert names(document({"lidar": (5, 9, 8, 9, 6)})) == {"LiDAR": "layer4"}


def test_a_dead_layer_is_named_by_no_ranking():
    made = document({"rankme": (5, 8, 7, 1.5, 6), "uniformity": (-1, -2, -3, -9, -1), "lidar": (5, 4, 1.9, 99, 3)})
    assert names(made) == {"LiDAR": "layer3", "RankMe": "layer4", "RankMe ÷ width": "layer3", "uniformity": "layer4"}


def test_what_a_ranking_costs_is_the_points_to_the_labelled_choice_and_to_the_reference():
    (lidar,) = named(document({"lidar": (5, 6, 7, 9, 6)}))
    assert (lidar.lost, lidar.gain) == (pytest.approx(7.0), pytest.approx(-5.0))
    assert lidar.agreement == pytest.approx(spearmanr((5, 6, 7, 9, 6), ACCURACY).statistic)
    (lidar,) = named(document({"lidar": (5, 6, 7, 9, 6)}, accuracy=None))
    assert (lidar.lost, lidar.gain, lidar.agreement) == (None, None, None)


@pytest.mark.parametrize("other", [(1, 2, 2, 5, 4), (1, 1, 1, 2, 3), (5, 4, 3, 2, 1)])
def test_rank_correlation_is_scipys_with_ties_and_none_without_variation(other):
    assert spearman((3, 1, 4, 1, 5), other) == pytest.approx(spearmanr((3, 1, 4, 1, 5), other).statistic)
    assert spearman((1, 1, 1, 1, 1), other) is None and spearman([1.0], [2.0]) is None


def test_the_reference_is_suggested_unless_several_advising_rules_name_one_other_layer():
    layer4 = {"lidar": (5, 9, 8, 7, 6), "cka": (None, 0.9, 0.5, 0.5, 0.5)}
    for measures, wanted in (
        (layer4, "layer4"),
        (layer4 | {"sensitivity": (1, 1, 1, 1, 0)}, "pool"),
        ({"lidar": layer4["lidar"], "rankme": layer4["lidar"]}, "pool"),  # RankMe does not advise
    ):
        made = document(measures)
        assert suggested(made, named(made)).layer == wanted
    told = " ".join(ranking.prose(document(layer4, accuracy=None)))
    assert "LiDAR names `layer4` and before CKA's largest fall names `layer4`. Suggested is `layer4`." in told
    told = " ".join(ranking.prose(document(layer4 | {"rankme": (9, 30, 20, 32, 33)})))
    assert "All rankings together name 2 layers, from `layer4` to `projector.1`." in told


def test_the_words_say_what_the_suggestion_would_have_cost():
    made = document({"lidar": (5, 9, 8, 7, 6), "sensitivity": (1, 1, 1, 1, 0)})
    told = " ".join(ranking.prose(made))
    assert "Suggested is the reference `pool`, which scores 2.0 points less than the labelled choice." in told
    assert ranking.table(made).rows[0] == ("LiDAR", "yes", "layer4", "0.0", "+2.0", "+0.90")
    assert ranking.table(document()) is None and not list(ranking.prose(document()))


# ---- several checkpoints


def study():
    """LiDAR is right on three of four checkpoints; on the last the reference is best and LiDAR names the worst."""
    right, wrong = {"lidar": (5, 9, 8, 7, 6)}, {"lidar": (5, 6, 7, 8, 9)}
    last = document(wrong, identity="d", accuracy=(0.5, 0.6, 0.7, 0.6, 0.5), recommended="pool")
    return [*(document(right, identity=name) for name in "abc"), last]


def lost(documents, strategy):
    """What a strategy loses on test images at each checkpoint."""
    found = following.regrets(documents)[strategy]
    return pytest.approx(following.by_checkpoint({pair: one.test for pair, one in found.items()}))


def test_regrets_are_the_points_lost_at_each_checkpoint():
    assert lost(study(), "LiDAR") == {"a": 0, "b": 0, "c": 0, "d": 20}
    assert lost(study(), "always the reference") == {"a": 2, "b": 2, "c": 2, "d": 0}
    assert lost(study(), "always `layer4`") == {"a": 0, "b": 0, "c": 0, "d": 10}
    found = following.regrets(study())
    assert "always `pool`" not in found and "RankMe" not in found


def test_left_out_each_checkpoint_pays_for_what_was_best_on_the_others():
    choices = {choice.checkpoint: choice for choice in following.left_out(following.regrets(study()))}
    assert choices["d"].strategy == "LiDAR" and choices["d"].lost == pytest.approx(20)
    assert choices["a"].strategy == "always the reference" and choices["a"].lost == pytest.approx(2)  # 4/3 against 20/3
    (told,), (figure,), (table,) = following.told(study())
    assert "always the reference (3 of 4) and LiDAR (1 of 4)" in told and "loses 6.5 points" in told
    assert table.rows[[row[0] for row in table.rows].index("LiDAR")][1:] == (
        "5.0 (−10.9 to 20.9)", "20.0", "−3.5", "4", "4 of 4",
    )  # fmt: skip
    assert "what was best" in figure.caption and "LiDAR: 5.0 points" in figure.alt


def test_several_data_sets_of_one_checkpoint_are_left_out_together():
    both = [document(identity="a"), document(identity="a", data="b", recommended="pool")]
    assert lost(both, "always the reference") == {"a": 1.0} and following.told([document()]) == ((), (), ())


def test_a_strategy_is_compared_with_the_reference_on_the_data_sets_where_it_names_a_place():
    names = {"lidar": (5, 9, 8, 7, 6)}  # the reference is best where LiDAR names nothing, and worse elsewhere
    other = {"data": "b", "accuracy": (0.5, 0.6, 0.7, 0.6, 0.5), "recommended": "pool"}
    made = [one for name in "abc" for one in (document(names, identity=name), document(identity=name, **other))]
    assert lost(made, "always the reference") == dict.fromkeys("abc", 1.0)
    found = following.regrets(made)
    assert all(choice.strategy != "LiDAR" for choice in following.left_out(found))
    _, _, (table,) = following.told(made)
    (row,) = [row for row in table.rows if row[0] == "LiDAR"]
    assert row[-3:] == ("+2.0", "3", "3 of 6")


def test_validation_chooses_what_is_followed_and_test_says_what_it_cost():
    right, validation = {"lidar": (5, 9, 8, 7, 6)}, (0.6, 0.6, 0.7, 0.6, 0.5)
    made = [document(right, identity=name, validation=validation) for name in "abc"]
    choices = following.left_out(following.regrets(made))
    assert [(one.strategy, round(one.lost, 9)) for one in choices] == [("always the reference", 2.0)] * 3
    blind = [document(right, identity=name, validation=(None,) * 5) for name in "abc"]
    assert following.left_out(following.regrets(blind)) == []


def test_what_scores_above_the_labelled_choice_is_said_to_gain():
    accuracy = (0.5, 0.6, 0.7, 0.6, 0.5)
    made = [document(identity=name, accuracy=accuracy, validation=accuracy, recommended="layer4") for name in "abc"]
    (told,), _, _ = following.told(made)
    assert "that gains 10.0 points (95 %: 10.0 to 10.0) on the labelled choice" in told


def test_a_ranking_that_some_checkpoint_lacks_is_told_but_never_chosen():
    lacking = document(identity="e", accuracy=(0.5, 0.6, 0.7, 0.6, 0.5), recommended="pool")
    found = following.regrets([*study()[:3], lacking])
    assert len(found["LiDAR"]) == 3 and all(c.strategy != "LiDAR" for c in following.left_out(found))


def test_networks_with_other_layers_are_followed_by_depth():
    layers, accuracy = ("one", "two", "pool", "projector.0"), (0.5, 0.8, 0.7, 0.6)
    other = document(identity="z", layers=layers, accuracy=accuracy, recommended="two")
    made = [*study()[:3], other]
    assert "always `layer4`" not in following.regrets(made)
    assert lost(made, "always at depth 0.75") == {"a": 0, "b": 0, "c": 0, "z": 0}
    assert lost(made, "always at depth 0.25") == {"a": 12, "b": 12, "c": 12, "z": 30}


def test_the_report_has_a_section_on_one_result_and_on_several(tmp_path):
    found = [Found(tmp_path / f"{one.checkpoint.identity}/probe-x.json", one) for one in study()]
    for some in (found[:1], found):
        told = sections.report(some)
        (section,) = [s for part in told.parts[:1] for s in part.sections if s.name == "ranking"]
        assert section.title == "Where to cut without labels" and section.tables


def test_without_labels_a_report_says_what_the_rankings_name(tmp_path):
    made = document({"lidar": (5, 9, 8, 7, 6)}, accuracy=None)
    told = sections.report([Found(tmp_path / "probe-x.json", made)])
    (section,) = [s for s in told.parts[0].sections if s.name == "ranking"]
    assert section.tables[0].columns == ("ranking", "advises", "names")
    assert "Suggested is the reference" in section.prose[1]


def test_a_document_with_labels_and_no_measures_has_no_ranking():
    assert named(document()) == [] and suggested(document(), []) == Place(layer="pool", readout="vector")
