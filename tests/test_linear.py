import math

import pytest
import torch
from layers import cross_folds, factors, generator, layer, one_fold, tasks_of
from sklearn.linear_model import LogisticRegression, Ridge

from sslcut.data.images import Task
from sslcut.errors import InputError
from sslcut.metrics.design import Affine, Design
from sslcut.metrics.layer import Fold, Layer
from sslcut.metrics.linear import GRID, choose, linear
from sslcut.metrics.logistic import logistic
from sslcut.metrics.ridge import ridge
from sslcut.metrics.rows import Scaler, scaled
from sslcut.metrics.score import choosing_metric

MEMORY = 10**9


def scaled_by(features, scale):
    rows = torch.arange(len(features))
    return scaled(features, rows, Scaler(features, rows, scale), MEMORY).features


def problem(rows=400, width=20, classes=4, signal=1.0, seed=0):
    """Correlated features with classes that shift them."""
    draw = generator(seed)
    labels = torch.randint(classes, (rows,), generator=draw)
    features = torch.randn(rows, width, generator=draw) @ torch.randn(width, width, generator=draw)
    features = features + signal * torch.randn(classes, width, generator=draw)[labels]
    return scaled_by(features, "standard"), labels


def right(fitted, features, labels):
    return int((fitted(features).argmax(dim=1) == labels).sum())


def objective(fitted, features, labels, l2):
    logits = fitted(features).double()[0].T
    return float(torch.nn.functional.cross_entropy(logits, labels) + l2 / 2 * fitted.weights.double().square().sum())


def scikit(features, labels, l2):
    model = LogisticRegression(C=1 / (len(labels) * l2), tol=1e-8, max_iter=10_000)
    model.fit(features.double().numpy(), labels.numpy())
    return Affine(torch.tensor(model.coef_)[None].float(), torch.tensor(model.intercept_)[None].float())


@pytest.mark.parametrize("signal", [0.3, 1.0, 8.0])
def test_logistic_regression_reaches_scikit_learns_optimum_at_every_penalty(signal):
    features, labels = problem(rows=1000, signal=signal)
    grid = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    ours = logistic(Design(features), labels, 4, torch.tensor(grid))
    for i, l2 in enumerate(grid):
        theirs = scikit(features, labels, l2)
        best = objective(theirs, features, labels, l2)
        assert objective(ours.take(i), features, labels, l2) == pytest.approx(best, rel=1e-4)
        assert abs(right(ours.take(i), features, labels) - right(theirs, features, labels)) <= 2


def test_logistic_regression_with_fewer_rows_than_features_reaches_the_same_optimum():
    features, labels = problem(rows=40, width=120)
    ours = logistic(Design(features), labels, 4, torch.tensor([1e-2]))
    best = objective(scikit(features, labels, 1e-2), features, labels, 1e-2)
    assert objective(ours, features, labels, 1e-2) == pytest.approx(best, rel=1e-4)


def test_penalties_solved_together_are_those_solved_alone_from_anywhere():
    features, labels = problem()
    together = logistic(Design(features), labels, 4, torch.tensor([1e-3, 1e-1]))
    alone = logistic(Design(features), labels, 4, torch.tensor([1e-3]), start=together.take(1))
    best = objective(together.take(0), features, labels, 1e-3)
    assert objective(alone, features, labels, 1e-3) == pytest.approx(best, rel=2e-5)


def test_a_class_without_images_is_never_predicted():
    features, labels = problem()
    fitted = logistic(Design(features), labels, 6, torch.tensor(GRID))
    assert fitted(features).argmax(dim=1).max() == 3


def test_ridge_is_scikit_learns_ridge():
    features, _ = problem()
    targets = torch.randn(len(features), 2, generator=generator(1)) + features[:, :2] + 5
    fitted = ridge(Design(features), targets, torch.tensor([1e-3, 1e-1]))
    for i, l2 in enumerate([1e-3, 1e-1]):
        model = Ridge(alpha=l2 * len(features)).fit(features.double().numpy(), targets.double().numpy())
        expected = torch.tensor(model.predict(features.double().numpy())).float()
        torch.testing.assert_close(fitted(features)[i].T, expected, atol=1e-4, rtol=1e-4)


def test_scaling_drops_constants_and_floors_nearly_constant_features():
    features = torch.randn(100, 5, generator=generator(0))
    features[:, 0] = 3.0
    features[:, 1] *= 1e-5
    scaled = scaled_by(features, "standard")
    assert scaled.shape == (100, 4)
    assert scaled[:, 0].std() < 0.01
    torch.testing.assert_close(scaled[:, 1:].std(dim=0, correction=0), torch.ones(3))


def test_raw_features_are_only_centred():
    features = 7 * torch.randn(50, 3, generator=generator(0)) + 2
    torch.testing.assert_close(scaled_by(features, "raw"), features - features.mean(dim=0))


def test_a_layer_that_is_constant_predicts_the_commonest_class_and_the_mean():
    hidden = factors(200)
    fold, tasks = one_fold(200), tasks_of(hidden)
    fits = {
        fit.task: fit
        for fit in linear([Layer("dead", "avg", torch.ones(200, 4))], tasks, [fold], scale="standard", memory=MEMORY)
    }
    assert (fits["kind"].tested[fold.test] == tasks["kind"].values[fold.final].mode().values).all()
    torch.testing.assert_close(fits["turn"].tested[fold.test][0], tasks["turn"].values[fold.final].mean(dim=0))


def test_every_kind_of_task_is_read_from_a_layer_that_shows_it():
    hidden = factors()
    fold, tasks = one_fold(600), tasks_of(hidden)
    fits = {fit.task: fit for fit in linear([layer(hidden, "h", 0.05)], tasks, [fold], scale="standard", memory=MEMORY)}
    assert (fits["kind"].tested[fold.test] == tasks["kind"].values[fold.test]).float().mean() > 0.9
    error = (fits["size"].tested - tasks["size"].values)[fold.test]
    assert error.nanmean().abs() < 0.1 and error[~error.isnan()].std() < 0.2
    assert fits["turn"].tested[fold.test].shape == (180, 2)
    assert fits["size"].rows == int((~tasks["size"].values[fold.final].isnan()).sum())


def test_test_labels_change_nothing():
    hidden = factors()
    fold, tasks = one_fold(600), tasks_of(hidden)
    spoilt = tasks["kind"].values.clone()
    spoilt[fold.test] = 2 - spoilt[fold.test]
    layers = [layer(hidden, "h", 0.5)]
    honest, other = (
        linear(layers, {"kind": Task("class", values, ("a", "b", "c"))}, [fold], scale="standard", memory=MEMORY)[0]
        for values in (tasks["kind"].values, spoilt)
    )
    assert torch.equal(honest.tested[fold.test], other.tested[fold.test]) and honest.chosen == other.chosen


def test_unlabelled_rows_are_neither_learnt_from_nor_counted():
    hidden = factors()
    fold, values = one_fold(600), tasks_of(hidden)["kind"].values
    values[fold.train[::2]] = -1
    fit = linear(
        [layer(hidden, "h", 0.1)],
        {"kind": Task("class", values, ("a", "b", "c"))},
        [fold],
        scale="standard",
        memory=MEMORY,
    )[0]
    assert fit.rows == len(fold.final) - len(fold.train[::2])
    assert fit.tested[fold.test].min() >= 0


def test_cross_fitting_predicts_every_row_by_a_fit_that_did_not_see_it():
    values = torch.randint(2, (100,), generator=generator(0))
    identity = Layer("rows", "avg", torch.eye(100))  # what a fit has seen of a row, it knows by heart
    fit = linear(
        [identity], {"coin": Task("class", values, ("no", "yes"))}, cross_folds(100), scale="raw", memory=MEMORY
    )[0]
    assert 0.25 < (fit.tested == values).float().mean() < 0.75
    assert 0.25 < (fit.validated == values).float().mean() < 0.75
    assert fit.rows == 80


def test_of_equally_good_penalties_the_largest_is_chosen():
    features, labels = problem()
    task = Task("class", labels, tuple("abcd"))
    same = lambda fitted: ([0.5] * len(fitted), torch.zeros(len(fitted), 3))  # noqa: E731
    assert choose(Design(features), task, same).l2 == pytest.approx(1e4, rel=1e-6)


@pytest.mark.parametrize("wanted", [1e-7, 1e-3, 1e3])
def test_the_grid_of_thirteen_grows_until_its_best_value_is_inside(monkeypatch, wanted):
    tried = []

    def solved(design, task, l2, **options):
        tried.append(l2.tolist())
        return [(torch.arange(len(l2)), Affine(l2[:, None, None], l2[:, None]))]

    def judge(fitted):
        return [-abs(math.log10(l2 / wanted)) for l2 in fitted.weights.flatten().tolist()], torch.zeros(len(fitted), 3)

    monkeypatch.setattr("sslcut.metrics.linear.solve", solved)
    assert choose(None, None, judge).l2 == pytest.approx(wanted)
    assert len(tried[0]) == 13 and (len(tried) > 1) == (wanted != 1e-3)


def test_unbalanced_classes_choose_by_balanced_accuracy():
    fold = Fold(torch.arange(60), torch.arange(60, 80), torch.arange(80, 100))
    even = Task("class", torch.arange(100) % 2)
    rare = Task("class", (torch.arange(100) % 4 == 0).long())
    assert choosing_metric(even, [fold]) == "accuracy"
    assert choosing_metric(rare, [fold]) == "balanced_accuracy"
    assert choosing_metric(Task("number", torch.rand(100)), [fold]) == "r2"


def test_features_that_are_not_finite_are_an_error_naming_the_layer():
    features = torch.ones(20, 3)
    features[4, 1] = torch.inf
    with pytest.raises(InputError, match="layer `layer3.0` .* not finite for 1 images"):
        linear(
            [Layer("layer3.0", "avg", features)], tasks_of(factors(20)), [one_fold(20)], scale="standard", memory=MEMORY
        )
