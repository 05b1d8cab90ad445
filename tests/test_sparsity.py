"""Zero and dead features, and the linear probe on which are above zero."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import cross_folds, factors, generator, layer, one_fold, tasks_of

from sslcut.errors import InputError
from sslcut.metrics.binarised import binarised
from sslcut.metrics.layer import Beside, Layer
from sslcut.metrics.linear import linear
from sslcut.metrics.sparsity import dead, share_of_dead, share_of_zeros, zeros, zeros_exact
from sslcut.registry import MEASURES

GIVEN = {"scale": "standard", "memory": 10**9}


def all_rows(features):
    return torch.arange(len(features))


def test_strictly_positive_features_have_no_zeros_and_a_zero_tensor_nothing_else():
    positive, nothing = torch.rand(50, 8, generator=generator(0)) + 0.1, torch.zeros(50, 8)
    assert [share(positive, all_rows(positive)) for share in (share_of_zeros, share_of_dead)] == [0, 0]
    assert [share(nothing, all_rows(nothing)) for share in (share_of_zeros, share_of_dead)] == [1, 1]


@given(seed=st.integers(0, 1000), rows=st.integers(1, 30), width=st.integers(1, 30), shift=st.floats(-2, 2))
def test_the_shares_are_those_counted_one_by_one(seed, rows, width, shift):
    features = (torch.randn(rows, width, generator=generator(seed)) + shift).relu()
    features[0, 0] = 1e-7 * features[0].max()
    near = [sum(abs(h) <= 1e-6 * max(map(abs, image)) for h in image) / width for image in features.tolist()]
    assert share_of_zeros(features, all_rows(features)) == pytest.approx(sum(near) / rows)
    exact = sum(h == 0 for image in features.tolist() for h in image) / features.numel()
    assert share_of_zeros(features, all_rows(features), tolerance=0.0) == pytest.approx(exact)
    silent = sum(all(h <= 0 for h in unit) for unit in features.T.tolist())
    assert share_of_dead(features, all_rows(features)) == pytest.approx(silent / width)


@pytest.mark.parametrize("name", ["zeros", "zeros_exact", "dead"])
def test_a_measure_reads_test_rows_alone_at_any_precision(name):
    features = torch.randn(400, 6, generator=generator(1)).relu()
    features[:, 5], fold = 0, one_fold(400)
    features[fold.train, 5] = 1.0  # alive, but for no test image
    (found,) = MEASURES.load(name)([Layer("pool", "vector", features.half())], {}, [fold])
    assert found.measure == name and found.value > 1 / 6 - 1e-6
    again = {"zeros": zeros, "zeros_exact": zeros_exact, "dead": dead}[name](
        [Layer("pool", "vector", features)], {}, [fold]
    )
    assert again[0].value == found.value


@pytest.mark.parametrize("folds", [[one_fold(300)], cross_folds(300)])
def test_the_binarised_probe_is_the_linear_one_on_the_signs(folds):
    hidden = factors(300)
    shown = layer(hidden, "pool", 0.5)
    tasks = tasks_of(hidden)
    found = binarised([shown], tasks, folds, **GIVEN)
    wanted = linear([Layer("pool", "avg", (shown.features > 0).float())], tasks, folds, **GIVEN)
    for one, other in zip(found, wanted, strict=True):
        assert one.layer is shown and (one.probe, one.task, one.options) == ("binarised", other.task, other.options)
        for fold in folds:
            assert torch.equal(one.tested[fold.test], other.tested[fold.test])


def test_what_lies_beside_a_layer_is_binarised_too():
    hidden, fold = factors(300), one_fold(300)
    shown = layer(hidden, "pool", 0.5)
    few = fold.test[:40]
    again = Beside(shown.features[few], torch.arange(20), torch.arange(20, 40))
    for fit in binarised([replace(shown, beside=again)], tasks_of(hidden), [fold], **GIVEN):
        assert torch.equal(fit.beside[20:], fit.tested[few[20:]])


def test_features_that_are_all_positive_have_no_signs_to_read():
    hidden = factors(300)
    shown = Layer("pool", "avg", hidden.abs() + 1)
    (fit,) = binarised([shown], {"side": tasks_of(hidden)["side"]}, [one_fold(300)], **GIVEN)
    assert len(fit.tested[one_fold(300).test].unique()) == 1
    with pytest.raises(InputError, match="not finite"):
        binarised([Layer("pool", "avg", hidden / 0)], {}, [one_fold(300)], **GIVEN)
