from math import cos, pi, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslcut.schedules import cosine, linear, scaled_lr, warmup_cosine


@given(st.integers(1, 200), st.integers(0, 100), st.floats(0, 10), st.floats(0, 1))
def test_the_warmed_up_cosine_is_the_published_formula_at_every_step(steps, warmup, peak, end):
    warmup = min(warmup, steps - 1)
    for k in range(steps):
        risen = peak * k / max(warmup, 1)
        falling = end + (peak - end) * (1 + cos(pi * (k - warmup) / (steps - warmup))) / 2
        expected = risen if k < warmup else falling
        assert warmup_cosine(k, steps, warmup=warmup, peak=peak, end=end) == pytest.approx(expected, abs=1e-12)


def test_a_warmup_may_begin_above_zero():
    assert [warmup_cosine(k, 8, warmup=2, start=0.5) for k in range(3)] == [0.5, 0.75, 1.0]


def test_a_warmup_longer_than_the_training_only_rises():
    assert [warmup_cosine(k, 2, warmup=4) for k in range(2)] == [0.0, 0.25]


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_a_schedule_begins_ends_and_stays_where_it_is_told_to(schedule):
    assert [schedule(p, 0.99, 1.0) for p in (-1, 0, 1, 2)] == pytest.approx([0.99, 0.99, 1.0, 1.0])
    assert schedule(0.5, 0.0, 1.0) == pytest.approx(0.5)


def test_a_learning_rate_is_the_value_at_batch_256_unless_scaling_says_otherwise():
    assert scaled_lr(0.4, 512, "linear") == 0.8
    assert scaled_lr(0.4, 512, "sqrt") == pytest.approx(0.4 * sqrt(2))
    assert scaled_lr(0.4, 512, "none") == 0.4
