import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import generator

from sslcut import answers
from sslcut.errors import UsageError
from sslcut.metrics.answer import best_set, comparable, judge, wins
from sslcut.metrics.resample import Bootstrap
from sslcut.metrics.score import accuracy, values

ROWS = 1000


def study(shares, *, seed, alike=0.7, rows=ROWS, count=400):
    """The verdict on candidates of true accuracy `shares`, which mostly fail on the same images; 1 is the reference."""
    draw = generator(seed)
    common = torch.rand(rows, generator=draw)
    own = torch.rand(len(shares), rows, generator=draw)
    luck = torch.where(torch.rand(len(shares), rows, generator=draw) < alike, common, own)
    right = (luck < torch.tensor(shares)[:, None]).long()
    scorer = accuracy(right, torch.ones(rows, dtype=torch.int64))
    return judge(values(scorer, rows), Bootstrap(rows, count=count, seed=seed).replicate(scorer, torch.arange(rows)), 1)


def test_where_all_layers_are_equal_hardly_ever_is_one_left_out_or_the_reference_passed_over():
    verdicts = [study([0.8] * 6, seed=seed, rows=500) for seed in range(200)]
    assert sum(len(verdict.members) < 6 for verdict in verdicts) <= 10
    assert sum(verdict.chosen != 1 for verdict in verdicts) <= 10


def test_the_best_layer_is_in_the_set_in_95_of_100_studies():
    verdicts = [study([0.80, 0.78, 0.82, 0.79, 0.70], seed=seed, rows=500, count=300) for seed in range(100)]
    assert sum(2 in verdict.members for verdict in verdicts) >= 95


def test_a_planted_difference_is_found_and_the_earliest_good_layer_recommended():
    verdict = study([0.60, 0.70, 0.85, 0.851, 0.75], seed=0)
    assert verdict.members == [2, 3] and verdict.chosen == 2


def test_the_reference_is_kept_where_it_may_be_the_best():
    verdict = study([0.80, 0.80, 0.805], seed=0)
    assert 1 in verdict.members and verdict.chosen == 1


def test_identical_predictions_stay_in_the_set_together():
    scores = torch.tensor([0.5, 0.5, 0.4])
    replicates = torch.rand(1, 300, generator=generator(0)).expand(3, -1) * 0.01 + scores[:, None]
    assert best_set(scores, replicates).tolist() == [True, True, False]


@given(seed=st.integers(0, 1000))
def test_the_candidate_with_the_highest_score_is_always_in_the_set(seed):
    draw = generator(seed)
    replicates = torch.rand(5, 1, generator=draw) + 0.1 * torch.randn(5, 100, generator=draw)
    assert best_set(replicates.mean(dim=1), replicates)[replicates.mean(dim=1).argmax()]


def test_wins_are_shared_by_equals_and_sum_to_one():
    replicates = torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(wins(replicates), torch.tensor([1.5, 1.5, 0.0]).double() / 3)


def test_log_odds_of_a_half_is_nought_symmetric_and_clipped_at_half_a_row():
    scores = torch.tensor([0.5, 0.2, 0.8, 0.0, 1.0])
    odds = comparable(scores, "accuracy", 100)
    torch.testing.assert_close(odds + odds[[0, 2, 1, 4, 3]], torch.zeros(5).double(), atol=1e-6, rtol=0)
    assert odds[4] == pytest.approx(torch.tensor(199.0).log().item(), rel=1e-6)


def test_the_gain_of_r2_is_the_log_of_the_error_that_is_left():
    gain = comparable(torch.tensor([0.75, 0.5, 1.0]), "r2", 50)
    assert gain[0] - gain[1] == pytest.approx(torch.tensor(2.0).log().item())
    assert gain.isfinite().all()


LAYERS = ("stem", "layer4.0", "pool", "projector.0")


def row(layer, readout, task, validation, **other):
    base = {"layer": layer, "readout": readout, "task": task, "probe": "linear", "metric": "accuracy"}
    return base | {"fraction": 1.0, "validation": validation} | other


def results(scores):
    """A results document of one read-out a layer; `scores` are each task's validation accuracies."""
    rows = [row(n, "avg", task, v) for task, line in scores.items() for n, v in zip(LAYERS, line, strict=True)]
    place = {"layer": "layer4.0", "readout": "avg"}
    return {
        "layers": list(LAYERS),
        "reference": {"layer": "pool", "readout": "avg"},
        "results": rows,
        "best": [{"task": task, "metric": "accuracy", "among": ["layer4.0"], **place} for task in scores],
        "recommended": {**place, "why": "it is good"},
    }


def test_smallest_is_the_earliest_layer_within_so_many_points_of_the_reference():
    document = results({"kind": (0.70, 0.796, 0.80, 0.9), "side": (0.88, 0.794, 0.80, 0.1)})
    assert answers.smallest(document, 0.5) == ("layer4.0", "avg")
    assert answers.smallest(document, 0.4) == ("pool", "avg")
    assert answers.smallest(document, 1) == ("stem", "avg")
    assert answers.smallest(document, 0.4, "kind") == ("layer4.0", "avg")
    assert answers.smallest(document, 0, "side") == ("stem", "avg")


def test_smallest_reads_the_linear_probe_with_all_labels_on_blocks_of_the_network():
    document = results({"kind": (0.70, 0.70, 0.80, 0.9)})
    document["results"] += [
        row("pixels", "vector", "kind", 0.99),
        row("stem", "avg", "kind", 0.99, probe="knn"),
        row("stem", "avg", "kind", 0.99, fraction=0.1),
        row("stem", "avg", "kind", 0.99, metric="balanced_accuracy"),
        row("layer4.0", "grid2", "kind", 0.85),
        row("layer4.0", "avg+max", "kind", 0.81),
    ]
    assert answers.smallest(document, 0) == ("layer4.0", "grid2")


def test_best_is_what_the_results_recommend_for_all_tasks_or_for_one():
    document = results({"kind": (0.7, 0.9, 0.8, 0.7)})
    assert answers.best(document) == ("layer4.0", "avg", "it is good")
    assert answers.best(document, "kind")[:2] == ("layer4.0", "avg")
    assert "better than the reference `pool`" in answers.best(document, "kind")[2]


@pytest.mark.parametrize("ask", [answers.best, lambda document: answers.smallest(document, 0.5)])
def test_results_without_labels_advise_but_do_not_cut(ask):
    with pytest.raises(UsageError, match="label-free rankings advise, they do not cut"):
        ask({"layers": list(LAYERS), "results": [], "best": [], "recommended": None, "reference": None})


def test_an_unknown_task_is_an_error_naming_the_nearest():
    with pytest.raises(UsageError, match="unknown task `kin`") as caught:
        answers.best(results({"kind": (0.7, 0.9, 0.8, 0.7)}), "kin")
    assert "did you mean `kind`" in caught.value.faults[0].hint


def test_a_readout_is_named_only_where_it_does_not_go_without_saying():
    assert answers.label("pool", "vector") == "pool"
    assert answers.label("layer4.0", "grid2") == "layer4.0 grid2"
