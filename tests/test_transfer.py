"""The transfer protocol: the split, the search, both solvers, and the mean log-odds; scikit-learn is the reference."""

import json
import math

import numpy as np
import pytest
import torch
from cli import sslcut, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import cross_folds, factors, layer, one_fold, tasks_of
from sklearn.linear_model import LogisticRegression, Ridge

from sslcut.data.images import Task
from sslcut.errors import InputError
from sslcut.events import Event
from sslcut.metrics import transfer as room
from sslcut.metrics.assemble import measure
from sslcut.metrics.descent import Descent
from sslcut.metrics.layer import Fit, Fold, Layer, defined
from sslcut.metrics.logodds import mean_rows
from sslcut.metrics.table import Part
from sslcut.metrics.transfer import Penalised, held_out, search, transfer

ROWS = 400
POOL = ("pool", "vector")
GIVEN = {"seed": 0, "memory": 10**9, "group": None}


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna", reason="the extra `transfer` is not installed")


def pool(noise=0.5, seed=0) -> Layer:
    """Features of many sizes, with means far from nought: raw ones."""
    drawn = layer(factors(ROWS), "pool", noise, readout="vector", seed=seed)
    return Layer("pool", "vector", drawn.features * torch.logspace(-1, 1, 12) + 3)


# ---- the split


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_a_fifth_of_each_class_is_held_out_and_at_least_one_image(counts, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    held = held_out(Task("class", labels), None, seed)
    assert torch.bincount(labels[held]).tolist() == [max(1, round(count / 5)) for count in counts]
    assert torch.equal(held, held_out(Task("class", labels), None, seed))


def test_another_seed_holds_out_other_images_and_a_fifth_of_numbers():
    task = Task("number", torch.randn(100))
    assert int(held_out(task, None, 0).sum()) == 20
    assert not torch.equal(held_out(task, None, 0), held_out(task, None, 1))


def test_a_group_is_held_out_as_a_whole():
    group = torch.arange(200) // 8
    labels = torch.arange(200) % 3
    held = held_out(Task("class", labels), group, 0)
    assert all(len(torch.unique(held[group == one])) == 1 for one in range(25))
    assert 0.15 < held.float().mean() < 0.25


def test_a_single_group_and_single_images_of_classes_are_no_fault(optuna):
    assert 0 < held_out(Task("class", torch.arange(20) % 2), torch.zeros(20, dtype=torch.int64), 0).sum() < 20
    shown = layer(factors(12), "pool", 0.1)
    task = Task("class", torch.arange(12) % 3, ("a", "b", "c"))
    few = Fold(torch.tensor([0, 1]), torch.tensor([2]), torch.arange(3, 12))
    (fit,) = transfer([shown], {"kind": task}, [few], trials=1, seeds=1, **GIVEN)
    assert fit.rows == 3


# ---- the search and the fits


def test_the_search_is_its_seeds_and_finds_the_best(optuna):
    def score(drawn):
        return -abs(math.log10(drawn["C"]) - 2)

    found = search(Penalised.draw, score, 30, seed=3)
    assert abs(math.log10(found["C"]) - 2) < 0.7
    assert found == search(Penalised.draw, score, 30, seed=3) != search(Penalised.draw, score, 30, seed=4)
    both = search(Descent.draw, lambda drawn: -abs(math.log(drawn["lr"])), 20, seed=0, multivariate=True)
    assert 0.1 <= both["lr"] <= 100 and 1e-12 <= both["weight_decay"] <= 1e-4


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0, 1e3])
def test_the_refit_is_scikit_learns_on_training_and_validation_images(monkeypatch, c):
    monkeypatch.setattr(room, "search", lambda *_, **__: {"C": c})
    shown, fold = pool(), one_fold(ROWS)
    labels = tasks_of(factors(ROWS))["kind"]
    (fit,) = transfer([shown], {"kind": labels}, [fold], seeds=2, **GIVEN)
    rows, x = fold.final, shown.features.double().numpy()
    peer = LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(x[rows], labels.values[rows])
    for predicted in fit.tested[:, fold.test]:
        assert np.array_equal(predicted.numpy(), peer.predict(x[fold.test]))
    judged = LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(x[fold.train], labels.values[fold.train])
    assert np.array_equal(fit.validated[0, fold.validation].numpy(), judged.predict(x[fold.validation]))


def test_numbers_are_fitted_by_scikit_learns_ridge():
    shown, task = pool(), tasks_of(factors(ROWS))["size"]
    rows = defined(task).nonzero().squeeze(1)
    ours = Penalised(shown.features, task, rows, memory=10**9, seed=0).fit({"C": 0.05})(rows)
    peer = Ridge(alpha=20).fit(shown.features[rows].double(), task.values[rows].double())
    assert np.allclose(ours, peer.predict(shown.features[rows].double()), atol=1e-4)


def test_a_fit_does_not_depend_on_those_before_it():
    task, rows = tasks_of(factors(ROWS))["kind"], torch.arange(ROWS)
    fresh, worn = (Penalised(pool().features, task, rows, memory=10**9, seed=0) for _ in range(2))
    for c in (1e5, 1e-5, 10.0):
        worn.fit({"C": c})
    different = (fresh.fit({"C": 0.1})(rows) != worn.fit({"C": 0.1})(rows)).sum()
    assert different <= 1


def test_descent_takes_the_steps_of_momentum_and_weight_decay_along_a_cosine():
    shown, task, rows = pool(), tasks_of(factors(ROWS))["kind"], torch.arange(300)
    chosen = {"lr": 20.0, "weight_decay": 1e-4}
    x = torch.nn.functional.normalize(shown.features.double())
    x = torch.cat([x, torch.ones(ROWS, 1)], dim=1)  # the bias is a weight like another
    onehot = torch.nn.functional.one_hot(task.values[rows], 3)
    weights, speed = torch.zeros(13, 3, dtype=torch.float64), torch.zeros(13, 3, dtype=torch.float64)
    for step in range(100):  # one batch an epoch
        slope = x[rows].T @ ((x[rows] @ weights).softmax(dim=1) - onehot) / 300 + 1e-4 * weights
        speed = 0.9 * speed + slope
        weights -= 20 * (1 + math.cos(math.pi * step / 100)) / 2 * speed
    for memory in (10**9, 0):
        ours = Descent(shown.features, task, rows, memory=memory, seed=0).fit(chosen)(torch.arange(ROWS))
        assert (ours != (x @ weights).argmax(dim=1)).sum() <= 1


def test_descents_batches_are_its_seeds():
    hidden = factors(3000)
    shown, task = layer(hidden, "pool", 2.0), tasks_of(hidden)["kind"]
    rows = torch.arange(2500)
    made = [
        Descent(shown.features, task, rows, memory=0, seed=seed).fit({"lr": 100.0, "weight_decay": 0.0})
        for seed in (1, 1, 2)
    ]
    first, again, other = (predictor(torch.arange(3000)) for predictor in made)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert (first[2500:] == task.values[2500:]).float().mean() > 0.5


@pytest.mark.parametrize("solver", ["logistic", "sgd"])
def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(optuna, solver):
    shown, tasks = pool(noise=3.0), {"kind": tasks_of(factors(ROWS))["kind"]}
    options = {"trials": 3, "seeds": 2, "solver": solver}
    one, two = (transfer([shown], tasks, [one_fold(ROWS)], **options, **GIVEN)[0] for _ in range(2))
    (other,) = transfer([shown], tasks, [one_fold(ROWS)], **options, **{**GIVEN, "seed": 1})
    assert torch.equal(one.tested, two.tested) and one.options == two.options
    assert one.options != other.options and one.options.startswith(f"{solver} trials=3 ")
    assert one.tested.shape == (2, ROWS) and len(set(one.options.split("=")[-1].split("/"))) == 2


def test_every_row_is_tested_once_where_there_is_no_test_split(optuna):
    tasks = tasks_of(factors(ROWS))
    fits = transfer([pool(noise=0.1)], tasks, cross_folds(ROWS), trials=6, seeds=1, **GIVEN)
    right = {fit.task: float((fit.tested[0] == tasks[fit.task].values).float().mean()) for fit in fits[:2]}
    assert min(right.values()) > 0.9
    assert [tuple(fit.tested.shape) for fit in fits[2:]] == [(1, ROWS), (1, ROWS, 2)]


def test_an_absent_optuna_is_an_input_fault_with_what_to_install(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(room, "import_module", absent)
    with pytest.raises(InputError) as caught:
        transfer([pool()], tasks_of(factors(ROWS)), [one_fold(ROWS)], **GIVEN)
    assert caught.value.exit_code == 3 and caught.value.faults[0].hint == "pip install 'sslcut[transfer]'"


# ---- the mean log-odds


def answers(*shares: float, count: int = 100) -> torch.Tensor:
    """Predictions of the class 1 by several seeds, of which these shares are right."""
    return torch.stack([(torch.arange(count) < round(share * count)).long() for share in shares])


def score(shares: dict[str, tuple[float, ...]], trained_on: tuple[str, ...] = (), count: int = 100):
    """The mean log-odds of tasks by their seeds' shares of right answers."""
    tasks = {name: Task("class", torch.ones(count, dtype=torch.int64), ("no", "yes")) for name in shares}
    at = torch.arange(count)
    part = Part([Fold(at, at, at)], "test", group=None, count=50, seed=0)
    shown = Layer("pool", "vector", torch.zeros(count, 4))
    made = {name: answers(*each, count=count) for name, each in shares.items()}
    fits = [Fit(shown, name, "transfer", "", "", 80, each, each) for name, each in made.items()]
    rows = mean_rows(fits, tasks, part, part, reference=POOL, trained_on=trained_on)
    return rows[0] if rows else None


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_the_log_odds_of_a_half_are_nought_and_symmetric():
    assert score({"a": (0.5,)})["value"] == pytest.approx(0, abs=1e-6)
    assert score({"a": (0.8,)})["value"] == pytest.approx(-score({"a": (0.2,)})["value"], abs=1e-5)


def test_the_mean_of_log_odds_is_not_the_log_odds_of_the_mean():
    value = score({"a": (0.95,), "b": (0.55,)})["value"]
    assert value == pytest.approx((logit(0.95) + logit(0.55)) / 2, abs=1e-5)
    assert abs(value - logit(0.75)) > 0.3


def test_seeds_are_averaged_before_their_logarithm_is_taken():
    assert score({"a": (0.95, 0.55)})["value"] == pytest.approx(logit(0.75), abs=1e-5)


def test_nothing_is_infinite():
    assert score({"a": (1.0,)})["value"] == pytest.approx(logit(1 - 1 / 200), abs=1e-5)
    assert score({"a": (0.0,)})["value"] == pytest.approx(logit(1 / 200), abs=1e-5)


def test_the_task_that_the_network_learnt_does_not_count():
    row = score({"a": (0.95,), "b": (0.6,)}, trained_on=["a"])
    assert row["value"] == pytest.approx(logit(0.6), abs=1e-5) and row["options"] == "tasks=b"
    assert score({"a": (0.95,)}, trained_on=["a"]) is None


# ---- in the results


def finish(measuring):
    while True:
        try:
            event = next(measuring)
            assert isinstance(event, Event)
        except StopIteration as end:
            return end.value


def test_results_average_the_seeds_and_have_one_row_for_all_tasks(optuna):
    layers = [layer(factors(ROWS), "stem", 2.0, readout="vector"), pool()]
    tasks = tasks_of(factors(ROWS))
    probe = {"name": "transfer", "trials": 3, "seeds": 2, "solver": "logistic", "layers": "reference"}
    fold = one_fold(ROWS)
    results, tensors = finish(
        measure(
            layers, tasks, [fold], reference=POOL, end=POOL, probes=["linear", probe], measures=[], bootstrap=100,
            trained_on=["side"],
        )
    )  # fmt: skip
    rows = [(index, row) for index, row in enumerate(results["results"]) if row["probe"] == "transfer"]
    assert {row["layer"] for _, row in rows} == {"pool"}
    for index, row in rows:
        if row["metric"] == "accuracy":
            right = tensors[f"row.{index}"] == tensors[f"target.{row['task']}"]
            assert right.shape == (2, len(fold.test)) and row["value"] == pytest.approx(float(right.float().mean()))
            assert row["low"] <= row["value"] <= row["high"] and row["gain"] == 0
    mean = rows[-1][1]
    kind = next(row for _, row in rows if (row["task"], row["metric"]) == ("kind", "accuracy"))
    assert (mean["task"], mean["metric"], mean["options"]) == (
        "mean log-odds",
        "log_odds",
        "logistic trials=3 tasks=kind",
    )
    assert mean["value"] == pytest.approx(logit(kind["value"]), abs=1e-4) and mean["low"] < mean["value"] < mean["high"]
    assert {row["metric"] for _, row in rows} == {"accuracy", "balanced_accuracy", "r2", "log_odds"}
    json.dumps(results, allow_nan=False)


def test_all_layers_are_read_where_the_recipe_says_so(optuna):
    layers, tasks = [pool(seed=1), pool()], {"kind": tasks_of(factors(ROWS))["kind"]}
    layers[0] = Layer("stem", "vector", layers[0].features)
    probe = {"name": "transfer", "trials": 1, "seeds": 1, "solver": "logistic", "layers": "all"}
    options = {"reference": POOL, "end": POOL, "probes": [probe], "measures": [], "bootstrap": 20}
    results, _ = finish(measure(layers, tasks, [one_fold(ROWS)], **options))
    means = {row["layer"]: row for row in results["results"] if row["metric"] == "log_odds"}
    assert list(means) == ["stem", "pool"] and means["pool"]["gain"] == 0
    assert means["stem"]["gain"] == pytest.approx(means["stem"]["value"] - means["pool"]["value"], abs=1e-5)


def test_two_solvers_beside_each_other_have_a_mean_each(optuna):
    both = [{"name": "transfer", "trials": 1, "seeds": 1, "solver": solver} for solver in ("logistic", "sgd")]
    tasks = {"kind": tasks_of(factors(ROWS))["kind"]}
    options = {"reference": POOL, "end": POOL, "probes": both, "measures": [], "bootstrap": 20}
    results, _ = finish(measure([pool()], tasks, [one_fold(ROWS)], **options))
    means = {row["options"].split()[0]: row["value"] for row in results["results"] if row["metric"] == "log_odds"}
    shares = {row["options"].split()[0]: row["value"] for row in results["results"] if row["metric"] == "accuracy"}
    assert means == {solver: pytest.approx(logit(share), abs=1e-4) for solver, share in shares.items()}
    assert set(means) == {"logistic", "sgd"}


def test_a_trained_networks_transfer_is_measured_and_reported_on_the_command_line(optuna, tmp_path):
    probe = ["probe.layers=[pool]", "probe.probes=[linear, {name: transfer, trials: 2, seeds: 2}]", "probe.measures=[]"]
    made = sslcut("pretrain", *tiny("method=supervised", "train.epochs=0", *probe), "-o", "run", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    done = sslcut("probe", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "study" not in done.stderr
    results = json.loads((tmp_path / done.stdout.strip()).read_text())
    (mean,) = [row for row in results["results"] if row["metric"] == "log_odds"]
    assert mean["options"] == "logistic trials=2 tasks=background" and mean["n"] == 120
    report = sslcut("report", "run", "-o", "report", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    text = (tmp_path / "report/report.md").read_text()
    assert "Every score by the transfer protocol" in text and "mean log-odds" in text
    assert "8 tasks" not in text


def test_without_optuna_the_probe_ends_before_it_reads_an_image(tiny_copy):
    (tiny_copy / "optuna.py").write_text("raise ImportError('absent')")
    done = sslcut("probe", "--set", "probe.probes=[transfer]", "--dry-run", cwd=tiny_copy)
    assert done.returncode == 3 and "pip install 'sslcut[transfer]'" in done.stderr and done.stdout == ""
