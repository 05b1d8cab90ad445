import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import generator

from sslcut.metrics.resample import Bootstrap, t_quantile
from sslcut.metrics.score import METRICS, accuracy, balanced_accuracy, r2, values

ROWS = 500
EVERY = torch.arange(ROWS)
ONES = torch.ones(ROWS, dtype=torch.int64)
STUDIES = 500


def right_or_wrong(share, luck):
    return (luck < share).long()


def covered(interval, truth):
    low, high = interval
    return float(((low <= truth) & (truth <= high)).float().mean())


def test_the_accuracys_interval_covers_the_truth_in_95_of_100_studies():
    boot = Bootstrap(ROWS)
    right = right_or_wrong(0.8, torch.rand(STUDIES, ROWS, generator=generator(0)))
    assert 0.93 <= covered(boot.interval(boot.replicate(accuracy(right, ONES), EVERY)), 0.8) <= 0.97


def test_the_paired_gains_interval_covers_the_truth_in_95_of_100_studies():
    boot, draw = Bootstrap(ROWS), generator(1)
    luck, other = torch.rand(2, STUDIES, ROWS, generator=draw)
    shared = torch.rand(STUDIES, ROWS, generator=draw) < 0.7  # two layers mostly fail on the same images
    base, better = right_or_wrong(0.75, luck), right_or_wrong(0.8, torch.where(shared, luck, other))
    gain = boot.replicate(accuracy(better, ONES), EVERY) - boot.replicate(accuracy(base, ONES), EVERY)
    assert 0.93 <= covered(boot.interval(gain), 0.05) <= 0.97


def test_groups_drawn_whole_cover_the_truth_where_single_rows_would_not():
    group, draw = EVERY // 10, generator(2)
    ease = 0.5 + 0.5 * torch.rand(STUDIES, ROWS // 10, generator=draw)  # every patient's images are alike
    right = right_or_wrong(ease.repeat_interleave(10, dim=1), torch.rand(STUDIES, ROWS, generator=draw))
    whole, single = Bootstrap(ROWS, group=group), Bootstrap(ROWS)
    assert 0.93 <= covered(whole.interval(whole.replicate(accuracy(right, ONES), EVERY)), 0.75) <= 0.97
    assert covered(single.interval(single.replicate(accuracy(right, ONES), EVERY)), 0.75) < 0.92


def test_the_interval_of_r2_covers_the_truth():
    draw, boot, hits = generator(3), Bootstrap(ROWS, count=400), 0
    for _ in range(100):
        shown, noise = torch.randn(2, ROWS, generator=draw)
        replicates = boot.replicate(r2(shown[None], shown + 0.5 * noise), EVERY)
        hits += covered(boot.interval(replicates), 0.8) == 1
    assert 89 <= hits <= 99


@given(seed=st.integers(0, 1000), metric=st.sampled_from(sorted(METRICS)))
def test_weights_count_rows_as_repeated_rows_would(seed, metric):
    draw = generator(seed)
    weights = torch.randint(0, 3, (12, 1), generator=draw).float()
    weights[:4] += 1
    again = torch.arange(12).repeat_interleave(weights[:, 0].long())
    target = torch.randint(2, (12,), generator=draw)
    predicted = torch.randint(2, (3, 12), generator=draw)
    if metric == "r2":
        target, predicted = target + torch.rand(12, generator=draw), predicted.float()
    expected = values(METRICS[metric](predicted[:, again], target[again]), len(again))
    torch.testing.assert_close(METRICS[metric](predicted, target)(weights)[:, 0], expected, equal_nan=True)


def test_r2_is_scikit_learns_and_pools_the_outputs_of_an_angle():
    draw = generator(0)
    target, predicted = torch.randn(50, 2, generator=draw), torch.randn(1, 50, 2, generator=draw)
    error = (predicted[0] - target).square().sum()
    spread = (target - target.mean(dim=0)).square().sum()
    torch.testing.assert_close(values(r2(predicted, target), 50)[0], 1 - error / spread)
    assert values(r2(torch.zeros(1, 5), torch.ones(5)), 5).isnan().all()


def test_balanced_accuracy_is_the_mean_over_classes():
    target, predicted = torch.tensor([0, 0, 0, 0, 2]), torch.tensor([[0, 0, 0, 1, 0]])
    assert values(balanced_accuracy(predicted, target), 5).item() == pytest.approx((3 / 4 + 0) / 2)


def test_a_resample_draws_as_many_units_as_there_are_and_whole_groups():
    group = torch.tensor([7, 7, 9, 9, 9, 4])
    boot = Bootstrap(6, group=group, count=50)
    weights = torch.cat(list(boot.weights(torch.arange(6))), dim=1)
    assert weights.shape == (6, 50)
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[2], weights[4])
    assert (weights[[0, 2, 5]].sum(dim=0) == 3).all()


def test_the_same_seed_draws_the_same_resamples_in_one_piece_or_in_parts(monkeypatch):
    whole = torch.cat(list(Bootstrap(40, count=30, seed=5).weights(torch.arange(40))), dim=1)
    monkeypatch.setattr("sslcut.metrics.resample.AT_ONCE", 40 * 7)
    parts = list(Bootstrap(40, count=30, seed=5).weights(torch.arange(40)))
    assert len(parts) == 5 and torch.equal(torch.cat(parts, dim=1), whole)
    assert not torch.equal(torch.cat(list(Bootstrap(40, count=30, seed=6).weights(torch.arange(40))), dim=1), whole)


@pytest.mark.parametrize(("freedom", "table"), [(4, 2.776), (9, 2.262), (29, 2.045), (10**6, 1.960)])
def test_the_t_quantile_is_the_tables(freedom, table):
    assert t_quantile(0.975, freedom) == pytest.approx(table, rel=0.01)
    assert math.isclose(t_quantile(0.025, freedom), -t_quantile(0.975, freedom))
