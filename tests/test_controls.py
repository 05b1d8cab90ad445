"""The controls of a probe: equal width, other scale, several blocks together, and the answer under each."""

from contextlib import closing

import pytest
import torch
from layers import cross_folds, factors, generator, layer, one_fold, tasks_of
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from work import done

from sslcut import answers
from sslcut.data.images import Task
from sslcut.metrics import spectrum
from sslcut.metrics.assemble import measure
from sslcut.metrics.controls import concatenated, last_blocks, pairs, projected, widths
from sslcut.metrics.design import Design
from sslcut.metrics.layer import Layer
from sslcut.metrics.linear import linear
from sslcut.metrics.logistic import logistic
from sslcut.metrics.rows import Kept, Passing, Projection, Scaler, scaled
from sslcut.metrics.spectrum import principal
from sslcut.metrics.store import Store

MEMORY = 10**9
ROWS = 900
POOL = ("pool", "vector")


def kind(rows=ROWS):
    hidden = factors(rows)
    return hidden, {"kind": tasks_of(hidden)["kind"]}


def read_at(one, fold, width, memory=MEMORY):
    """A layer's rows projected to a width: those that fit and those that are tested."""
    scaler = Scaler(one.features, fold.train, "standard")
    along = principal(Passing(one.features, fold.train.sort().values, scaler), width, memory)
    scaling = Projection(scaler, along)
    return [scaled(one.features, rows, scaling, memory).features for rows in (fold.train, fold.test)]


def test_as_many_principal_directions_as_the_layer_is_wide_leave_the_probes_objective():
    hidden, tasks = kind()
    one, fold = layer(hidden, "pool", 0.5), one_fold(ROWS)
    labels = tasks["kind"].values[fold.train]
    plain = scaled(one.features, fold.train, Scaler(one.features, fold.train, "standard"), MEMORY).features
    turned, _ = read_at(one, fold, 12)

    def objective(features):
        fitted = logistic(Design(features), labels, 3, torch.tensor([1e-3]), tolerance=1e-9)
        loss = torch.nn.functional.cross_entropy(fitted(features)[0].T, labels)
        return float(loss + 5e-4 * fitted.weights.square().sum())

    assert objective(turned) == pytest.approx(objective(plain), rel=1e-5)


@pytest.mark.parametrize("width", [2, 5])
def test_a_projected_layer_is_read_as_scikit_learns_pca_and_regression_read_it(width):
    hidden, tasks = kind()
    one, fold = layer(hidden, "pool", 0.5), one_fold(ROWS)
    (fit,) = projected(one, tasks, [fold], [width], own=[], scale="standard", memory=MEMORY)
    labels, l2 = tasks["kind"].values, float(fit.chosen.removeprefix("l2="))
    scaler = Scaler(one.features, fold.train, "standard")
    train, final, test = (
        scaled(one.features, rows, scaler, MEMORY).features.double().numpy()
        for rows in (fold.train, fold.final, fold.test)
    )
    pca = PCA(width).fit(train)
    model = LogisticRegression(C=1 / (len(final) * l2), tol=1e-8, max_iter=10_000)
    model.fit(pca.transform(final), labels[fold.final].numpy())
    theirs = torch.tensor(model.predict(pca.transform(test)))
    assert (fit.tested[fold.test] == labels[fold.test]).float().mean() == pytest.approx(
        (theirs == labels[fold.test]).float().mean().item(), abs=1e-3
    )
    assert (fit.setting, fit.dim, fit.options.split()[0]) == (f"pca={width}", width, f"pca={width}")


def test_every_fold_has_directions_of_its_own_train_rows():
    hidden, tasks = kind(300)
    one, folds = layer(hidden, "pool", 0.5), cross_folds(300)
    (fit,) = projected(one, tasks, folds, [3], own=[], scale="standard", memory=MEMORY)
    for fold in folds:
        (alone,) = projected(one, tasks, [fold], [3], own=[], scale="standard", memory=MEMORY)
        assert torch.equal(fit.tested[fold.test], alone.tested[fold.test])


def test_a_layer_at_its_own_width_or_wider_keeps_its_fit():
    hidden, tasks = kind(300)
    one, folds = layer(hidden, "pool", 0.5), [one_fold(300)]
    own = linear([one], tasks, folds, scale="standard", memory=MEMORY)
    for fit in projected(one, tasks, folds, [12, 40], own=own, scale="standard", memory=MEMORY):
        assert torch.equal(fit.tested, own[0].tested) and fit.dim == 12 and fit.chosen == own[0].chosen


@pytest.mark.parametrize("rows", [60, 700])
def test_directions_found_by_iteration_hold_as_much_variance_as_the_best(monkeypatch, rows):
    draw = generator(0)
    features = torch.randn(rows, 120, generator=draw) * torch.arange(1, 121) ** -0.5
    exact = principal(Kept(features), 20, MEMORY)
    monkeypatch.setattr(spectrum, "EXACT", 30)
    found = principal(Kept(features), 20, MEMORY)
    assert torch.allclose(found.T @ found, torch.eye(20), atol=1e-5)
    centred = features - features.mean(dim=0)
    held, most = ((centred @ along).square().sum().item() for along in (found, exact))
    assert 0.99 * most < held <= 1.0001 * most
    assert principal(Kept(features), 20, 0).shape == (120, 20)


def test_layers_are_paired_with_the_reference_at_the_narrower_ones_width():
    own = {"a": 4, "pool": 8, "z": 16, "y": 8}
    layers = [Layer(name, "vector", torch.zeros(1, width)) for name, width in own.items()]
    assert widths(layers, POOL, 4) == {
        ("a", "vector"): [4], POOL: [4, 8], ("z", "vector"): [4, 8], ("y", "vector"): [4],
    }  # fmt: skip
    assert list(pairs(layers, POOL).values()) == ["pca=4", "", "pca=8", ""]


def test_projecting_in_little_memory_gives_the_same_predictions():
    hidden, tasks = kind(300)
    one, folds = layer(hidden, "pool", 0.5, width=40), [one_fold(300)]
    much, little = (
        projected(one, tasks, folds, [4, 9], own=[], scale="standard", memory=memory) for memory in (MEMORY, 10**5)
    )
    assert [fit.chosen for fit in much] == [fit.chosen for fit in little]
    assert all((a.tested == b.tested).float().mean() > 0.99 for a, b in zip(much, little, strict=True))


# ---- the answer under the controls


def probed(**controls):
    """What is measured of the product of two factors: `wide` has many random features, a few of which tell it.

    The reference shows the product dimly, under noise.
    """
    draw = generator(1)
    hidden = torch.randn(ROWS, 8, generator=draw)
    product = hidden[:, 0] * hidden[:, 1]
    random = torch.relu(hidden @ torch.randn(8, 80, generator=draw))
    dim = 0.4 * product + 0.6 * torch.randn(ROWS, generator=draw)
    layers = [
        Layer("wide", "avg", torch.cat([hidden.repeat(1, 6), 0.5 * random], dim=1)),
        Layer("pool", "vector", torch.cat([hidden, dim[:, None]], dim=1)),
    ]
    tasks = {"odd": Task("class", (product > 0).long(), ("no", "yes"))}
    asked = {"reference": POOL, "end": POOL, "bootstrap": 200, "probes": ["linear"], "measures": [], "scale": "raw"}
    return done(measure(layers, tasks, [one_fold(ROWS)], **asked, **controls))[0]


@pytest.fixture(scope="module")
def wide():
    return probed(controls=["pca", "raw"], fractions=[0.2])


def test_a_layer_that_wins_by_width_alone_wins_no_longer_at_one_width(wide):
    told = {answer["control"]: answer for answer in wide["controls"]}
    assert wide["recommended"]["layer"] == "wide" and wide["recommended"]["gain_low"] > 0
    assert list(told) == ["fraction=0.2", "pca=9", "scale=standard", "pca=pairwise"]
    assert told["pca=9"]["changes"] and told["pca=9"]["recommended"]["layer"] == "pool"
    assert told["pca=9"]["best"] == [{"task": "odd", "layer": "pool", "readout": "vector"}]
    assert not told["scale=standard"]["changes"]
    for key in ("layer", "gain", "among"):
        assert told["pca=pairwise"]["recommended"][key] == told["pca=9"]["recommended"][key]


def test_controls_leave_the_answer_and_the_plain_rows_as_they_were(wide):
    alone = probed()
    rows = [row for row in wide["results"] if row["fraction"] == 1.0 and not answers.controlled(row["options"])]
    assert (alone["results"], alone["controls"]) == (rows, [])
    assert all(alone[key] == wide[key] for key in ("best", "recommended"))


def test_a_projected_row_says_its_width_and_its_gain_is_over_the_reference_at_that_width(wide):
    rows = {(row["layer"], row["options"].split()[0]): row for row in wide["results"] if row["metric"] == "accuracy"}
    row, base = rows["wide", "pca=9"], rows["pool", "pca=9"]
    assert (row["dim"], row["readout"], row["probe"], row["fraction"]) == (9, "avg", "linear", 1.0)
    assert row["gain"] == pytest.approx(row["value"] - base["value"], abs=1e-6)
    assert rows["wide", "scale=standard"]["dim"] == 128 and base["gain"] == 0
    assert row["value"] < 0.7 < rows["pool", "pca=9"]["value"] + 0.1


def test_controlled_rows_are_no_answer_to_how_small_a_network_will_do(wide):
    document = wide | {"layers": ["wide", "pool"], "reference": {"layer": "pool", "readout": "vector"}}
    assert answers.smallest(document, 100.0) == ("wide", "avg")
    plain = [row for row in wide["results"] if not answers.controlled(row["options"])]
    assert answers.smallest(document, 0.0) == answers.smallest(document | {"results": plain}, 0.0)


# ---- several blocks together


def test_the_last_blocks_are_the_backbones_by_their_class_tokens_or_first_readouts():
    maps = [(f"layer{i}.0", readout) for i in range(1, 6) for readout in ("avg", "grid2")]
    assert last_blocks([("stem", "avg"), *maps, POOL, ("projector.0", "vector")]) == maps[2::2]
    tokens = [(f"blocks.{i}", readout) for i in range(3) for readout in ("mean", "cls")]
    assert last_blocks([*tokens, ("norm", "cls"), POOL]) == tokens[1::2]
    assert last_blocks([("layer4.0", "avg"), POOL]) == []


@pytest.mark.parametrize("memory", [10**9, 6 * 10**5, 10**5])  # float32, then half precision, then a file
def test_concatenated_layers_are_their_features_side_by_side_in_the_store(tmp_path, memory):
    hidden = factors(4000)
    layers = [layer(hidden, name, 0.5, width=width, seed=width) for name, width in (("a", 8), ("b", 24))]
    with closing(Store(4000, [32], memory, tmp_path)) as store:
        found = concatenated(layers, store.shelf(32))
        hand = torch.cat([one.features for one in layers], dim=1)
        assert found.key == ("concat:last4", "avg") and found.features.dtype == store.dtype
        assert torch.equal(found.features, hand.to(store.dtype))


def test_what_is_read_together_has_a_row_and_is_never_recommended():
    hidden, tasks = kind(600)
    split = [Layer(name, "avg", hidden[:, part] + 0) for name, part in (("a", slice(0, 2)), ("b", slice(2, 4)))]
    layers = [*split, Layer(*POOL, hidden[:, 1:2] + 0)]
    both = Layer("concat:last4", "avg", hidden[:, :4] + 0)
    asked = {"reference": POOL, "end": POOL, "bootstrap": 100, "probes": ["linear"], "measures": []}
    found, _ = done(measure(layers, tasks, [one_fold(600)], concatenated=both, controls=["pca"], **asked))
    (row,) = [r for r in found["results"] if r["layer"] == "concat:last4" and r["metric"] == "accuracy"]
    assert row["value"] > 0.9 and row["gain_low"] > 0.1 and row["dim"] == 4
    assert found["recommended"]["layer"] == "a" and found["best"][0]["layer"] == "a"
    assert "concat:last4" not in found["recommended"]["frequency"]
