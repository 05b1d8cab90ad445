import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import factors, generator, layer, one_fold, tasks_of

from sslcut.data.images import Task
from sslcut.metrics.knn import knn, largest, neighbours, vote
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


@given(seed=st.integers(0, 1000), k=st.integers(1, 12), parts=st.integers(1, 9))
def test_the_largest_of_groups_are_the_largest_of_all(seed, k, parts):
    table = torch.rand(5, parts * (k + seed % 7), generator=generator(seed))
    values, columns = largest(table, k, parts)
    assert torch.equal(values, table.topk(k, dim=1).values)
    assert torch.equal(table.gather(1, columns), values)


@given(seed=st.integers(0, 1000))
def test_neighbours_are_rows_of_the_bank_alone(seed):
    draw = generator(seed)
    features = torch.randn(60, 4, generator=draw)
    order = torch.randperm(60, generator=draw)
    bank, queries = order[:25], order[25:]
    similarities, rows = neighbours(features, bank, queries, 7)
    assert torch.isin(rows, bank).all()
    exact = torch.nn.functional.cosine_similarity(features[queries][:, None], features[rows], dim=2)
    torch.testing.assert_close(similarities, exact)


def test_a_layer_that_is_zero_still_gets_a_vote():
    fold = Fold(torch.arange(20), torch.arange(20, 25), torch.arange(25, 30))
    fit = knn([Layer("dead", "avg", torch.zeros(30, 3))], {"kind": Task("class", torch.ones(30).long())}, [fold])[0]
    assert (fit.tested[fold.test] == 1).all()


def test_the_nearer_neighbour_has_the_larger_vote():
    task = Task("class", torch.tensor([0, 1, 1]))
    similarities, rows = torch.tensor([[0.9, 0.5, 0.5]]), torch.tensor([[0, 1, 2]])
    assert vote(similarities, rows, task, 3, 0.1).item() == 0
    assert vote(similarities, rows, task, 3, 10.0).item() == 1
