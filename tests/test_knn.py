import pytest
import torch
from layers import cross_folds, factors, generator, layer, one_fold, tasks_of

from sslcut.data.images import Task
from sslcut.metrics.knn import knn, vote
from sslcut.metrics.layer import Fold, Layer


def by_hand(features, labels, bank, queries, k, temperature, classes):
    """lightly's and DINO's rule in float64, one-hot and dense."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    similarity, index = (unit[queries] @ unit[bank].T).topk(k, dim=1)
    votes = torch.nn.functional.one_hot(labels[bank][index], classes) * (similarity / temperature).exp()[..., None]
    return votes.sum(dim=1).argmax(dim=1)


@pytest.mark.parametrize(("setting", "k", "temperature"), [(0, 200, 0.1), (1, 20, 0.07)])
def test_knn_is_the_published_vote(setting, k, temperature):
    hidden = factors(3000)
    fold, task = one_fold(3000), tasks_of(hidden)["kind"]
    shown = layer(hidden, "h", 1.0)
    fit = knn([shown], {"kind": task}, [fold])[setting]
    expected = by_hand(shown.features, task.values, fold.final, fold.test, k, temperature, 3)
    assert (fit.tested[fold.test] == expected).float().mean() > 0.998  # float32 breaks near ties otherwise
    assert fit.options == f"k={k} T={temperature}"


def test_validation_rows_are_predicted_from_train_alone_and_k_is_capped():
    hidden = factors(500)
    fold, task = one_fold(500), tasks_of(hidden)["kind"]
    shown = layer(hidden, "h", 1.0)
    fit = knn([shown], {"kind": task}, [fold])[0]
    expected = by_hand(shown.features, task.values, fold.train, fold.validation, len(fold.train) // 10, 0.1, 3)
    assert (fit.validated[fold.validation] == expected).float().mean() > 0.99
    assert fit.options == "k=200 T=0.1 capped=35"


def test_unlabelled_rows_have_no_vote():
    hidden = factors(300)
    fold, values = one_fold(300), tasks_of(hidden)["kind"].values
    values[fold.train[::2]] = -1
    fit = knn([layer(hidden, "h", 0.1)], {"kind": Task("class", values, tuple("abc"))}, [fold])[0]
    assert fit.tested[fold.test].min() >= 0 and fit.rows == len(fold.final) - len(fold.train[::2])


def test_numbers_and_angles_have_no_nearest_neighbours():
    hidden = factors(100)
    tasks = {name: task for name, task in tasks_of(hidden).items() if task.kind != "class"}
    assert knn([layer(hidden, "h", 0.1)], tasks, [one_fold(100)]) == []


def test_a_layer_that_is_zero_still_gets_a_vote():
    fold = Fold(torch.arange(20), torch.arange(20, 25), torch.arange(25, 30))
    fit = knn([Layer("dead", "avg", torch.zeros(30, 3))], {"kind": Task("class", torch.ones(30).long())}, [fold])[0]
    assert (fit.tested[fold.test] == 1).all()


def test_the_nearer_neighbour_has_the_larger_vote():
    task = Task("class", torch.tensor([0, 1, 1]))
    similarities, rows = torch.tensor([[0.9, 0.5, 0.5]]), torch.tensor([[0, 1, 2]])
    assert vote(similarities, rows, task, 3, 0.1).item() == 0
    assert vote(similarities, rows, task, 3, 10.0).item() == 1


def test_each_fold_votes_with_its_own_rows():
    hidden = factors(600)
    folds, task = cross_folds(600), tasks_of(hidden)["kind"]
    shown = layer(hidden, "h", 1.0)
    fit = knn([shown], {"kind": task}, folds)[1]
    for fold in folds:
        expected = by_hand(shown.features, task.values, fold.final, fold.test, 20, 0.07, 3)
        assert (fit.tested[fold.test] == expected).float().mean() > 0.99


def test_a_thousand_classes_are_voted_on():
    draw = generator(0)
    values = torch.randint(1000, (4000,), generator=draw)
    features = torch.randn(1000, 24, generator=draw)[values] + 0.3 * torch.randn(4000, 24, generator=draw)
    fold = one_fold(4000)
    fit = knn([Layer("h", "avg", features)], {"many": Task("class", values)}, [fold])[1]
    expected = by_hand(features, values, fold.final, fold.test, 20, 0.07, 1000)
    assert (fit.tested[fold.test] == expected).float().mean() > 0.998


def test_half_features_give_the_votes_of_the_same_numbers_in_float32():
    hidden = factors(500)
    shown, task, fold = layer(hidden, "h", 1.0).features.half(), tasks_of(hidden)["kind"], one_fold(500)
    half, single = (knn([Layer("h", "avg", table)], {"kind": task}, [fold])[0] for table in (shown, shown.float()))
    assert torch.equal(half.tested, single.tested) and torch.equal(half.validated, single.validated)
