"""The MLP probe: what a linear map misses, its seeds, and networks that do not meddle with each other."""

import pytest
import torch
from layers import cross_folds, factors, generator, layer, one_fold, tasks_of

from sslcut.data.images import Task
from sslcut.errors import InputError
from sslcut.metrics import mlp as room
from sslcut.metrics.layer import Layer
from sslcut.metrics.linear import linear
from sslcut.metrics.mlp import mlp

GIVEN = {"scale": "standard", "seed": 0, "memory": 10**9}


def folded(rows=500):
    """Two features whose product's sign is a class, whose product a number, and whose direction is an angle."""
    features = torch.randn(rows, 6, generator=generator(0))
    product = features[:, 0] * features[:, 1]
    angle = torch.nn.functional.normalize(torch.stack([product, features[:, 2].square() - 1], dim=1), dim=1)
    tasks = {
        "sign": Task("class", (product > 0).long(), ("minus", "plus")),
        "product": Task("number", product),
        "turn": Task("angle", angle),
    }
    return Layer("pool", "vector", features * 3 + 1), tasks


def score(tested, task, fold):
    predicted, truth = tested[fold.test], task.values[fold.test]
    if task.kind == "class":
        return float((predicted == truth).float().mean())
    return 1 - float((predicted - truth).square().sum() / (truth - truth.mean(dim=0)).square().sum())


def test_what_is_folded_is_read_by_the_mlp_and_not_by_a_linear_map():
    (shown, tasks), fold = folded(), one_fold(500)
    fits = linear([shown], tasks, [fold], scale="standard", memory=10**9)
    flat = {fit.task: score(fit.tested, tasks[fit.task], fold) for fit in fits}
    fits = mlp([shown], tasks, [fold], **GIVEN, seeds=1, hidden=64)
    bent = {fit.task: score(fit.tested[0], tasks[fit.task], fold) for fit in fits}
    assert flat["sign"] < 0.65 and max(flat["product"], flat["turn"]) < 0.2
    assert bent["sign"] > 0.85 and bent["product"] > 0.6 and bent["turn"] > 0.3


def test_a_fit_has_a_prediction_of_every_seed_on_all_rows_in_five_folds():
    hidden = factors(200)
    tasks, folds = tasks_of(hidden), cross_folds(200)
    fits = mlp([layer(hidden, "pool", 0.3)], tasks, folds, **GIVEN, epochs=4, hidden=16, seeds=2)
    assert [fit.task for fit in fits] == list(tasks) and {fit.probe for fit in fits} == {"mlp"}
    for fit in fits:
        assert fit.tested.shape == fit.validated.shape == (2, *tasks[fit.task].values.shape)
        assert not torch.equal(fit.tested[0], fit.tested[1]) and fit.setting == "hidden=16"
        assert len(fit.chosen.split()[0].removeprefix("epoch=").split("/")) == 10
    assert (fits[0].tested == tasks["kind"].values).float().mean() > 0.5


def test_tasks_seeds_and_other_layers_trained_beside_it_change_nothing(monkeypatch):
    hidden = factors(300)
    tasks, fold, shown = tasks_of(hidden), one_fold(300), layer(hidden, "pool", 0.3)
    some = {**GIVEN, "epochs": 3, "hidden": 8}
    together = {fit.task: fit for fit in mlp([shown], tasks, [fold], **some)}
    for name in ("kind", "turn"):
        (alone,) = mlp([shown], {name: tasks[name]}, [fold], **{**some, "memory": 1}, seeds=1)
        assert torch.allclose(alone.tested[0].float(), together[name].tested[0].float(), atol=1e-4)
    again = mlp([shown], tasks, [fold], **some)
    assert all(torch.equal(fit.tested, together[fit.task].tested) for fit in again)


def test_test_rows_choose_nothing():
    hidden = factors(300)
    tasks, fold, shown = tasks_of(hidden), one_fold(300), layer(hidden, "pool", 0.3)
    kind = tasks["kind"].values.clone()
    kind[fold.test] = 0
    other = {"kind": Task("class", kind, ("a", "b", "c"))}
    some = {**GIVEN, "epochs": 3, "hidden": 8}
    (one,), (two,) = (mlp([shown], {"kind": task["kind"]}, [fold], **some) for task in (tasks, other))
    assert torch.equal(one.tested, two.tested) and one.chosen == two.chosen


def test_the_epoch_and_weight_decay_are_those_that_validation_likes_best(monkeypatch):
    """With labels that are noise beyond a few rows, a large network remembers, and an early epoch validates best."""
    draw = generator(3)
    features = torch.randn(300, 40, generator=draw)
    noisy = ((features[:, 0] + 2 * torch.randn(300, generator=draw)) > 0).long()
    fold, task = one_fold(300), {"noisy": Task("class", noisy, ("no", "yes"))}
    tried = []
    keep = room.Chosen.improve

    def watch(chosen, scores, predicted, epoch):
        tried.append(scores)
        keep(chosen, scores, predicted, epoch)

    monkeypatch.setattr(room.Chosen, "improve", watch)
    (fit,) = mlp([Layer("pool", "vector", features)], task, [fold], **GIVEN, epochs=8, hidden=32, seeds=2)
    right = (fit.validated[:, fold.validation] == noisy[fold.validation]).float().mean(dim=1)
    assert torch.allclose(torch.stack(tried).amax(dim=(0, 2)), right)
    epochs = [int(epoch) for epoch in fit.chosen.split()[0].removeprefix("epoch=").split("/")]
    best = torch.stack(tried).amax(dim=2)  # (epochs, S)
    assert epochs == [int(best[:, index].argmax()) + 1 for index in range(2)]


def test_few_rows_features_that_are_constant_and_features_that_are_not_finite():
    hidden = factors(40)
    fold = one_fold(40)
    some = {**GIVEN, "epochs": 2, "hidden": 4, "seeds": 1}
    task = {"side": tasks_of(hidden)["side"]}
    (fit,) = mlp([Layer("pool", "vector", torch.ones(40, 3))], task, [fold], **some)
    assert len(fit.tested[0, fold.test].unique()) == 1
    with pytest.raises(InputError, match="not finite"):
        mlp([Layer("pool", "vector", hidden / 0)], task, [fold], **some)
