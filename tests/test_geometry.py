import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import cross_folds, generator, one_fold

from sslcut.metrics.geometry import effective_rank, rankme
from sslcut.metrics.layer import Layer


def by_svd(features):
    """RankMe as published: singular values of the uncentred features."""
    singular = torch.linalg.svdvals(features.double())
    shares = singular / singular.sum() + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


@given(seed=st.integers(0, 1000), rows=st.integers(2, 40), width=st.integers(1, 40))
def test_rankme_is_the_published_formula_for_any_shape(seed, rows, width):
    features = torch.randn(rows, width, generator=generator(seed)) + 0.5
    assert effective_rank(features) == pytest.approx(by_svd(features), rel=1e-6)


def test_rankme_of_features_with_fewer_directions_than_width_is_right_to_four_digits():
    draw = generator(0)
    features = torch.randn(200, 5, generator=draw) @ torch.randn(5, 64, generator=draw)
    assert effective_rank(features) == pytest.approx(by_svd(features), rel=1e-4)


def test_rankme_counts_equal_directions_and_a_collapsed_layer_has_one():
    assert effective_rank(torch.eye(8)) == pytest.approx(8, rel=1e-4)
    assert effective_rank(torch.ones(50, 8)) == pytest.approx(1, rel=1e-3)


def test_rankme_ignores_scale_and_a_rotation():
    features = torch.rand(40, 6, generator=generator(0))
    turned = features @ torch.linalg.qr(torch.randn(6, 6, generator=generator(1)))[0]
    assert effective_rank(1000 * turned) == pytest.approx(effective_rank(features), rel=1e-5)


def test_a_layer_of_zeros_has_no_rank():
    assert math.isnan(effective_rank(torch.zeros(5, 3)))


@pytest.mark.parametrize("shape", [(45_000, 100), (100, 45_000)])
def test_rankme_of_a_layer_in_half_precision_is_read_in_blocks(shape):
    features = (torch.randn(shape, generator=generator(0)) + 0.5).half()
    assert effective_rank(features) == pytest.approx(by_svd(features), rel=1e-6)


def test_rankme_reads_test_rows_only():
    features = torch.eye(100)[:, :4]
    fold = one_fold(100)
    features[fold.test] = torch.ones(len(fold.test), 4)
    assert rankme([Layer("h", "avg", features)], {}, [fold])[0].value == pytest.approx(1, rel=1e-3)


def test_rankme_reads_evenly_spaced_rows_and_all_where_nothing_is_held_out():
    features = torch.randn(100, 5, generator=generator(0))
    layer = Layer("h", "avg", features)
    assert rankme([layer], {}, [], images=50)[0].value == pytest.approx(by_svd(features[::2]), rel=1e-6)
    assert rankme([layer], {}, cross_folds(100))[0].value == pytest.approx(by_svd(features), rel=1e-6)
