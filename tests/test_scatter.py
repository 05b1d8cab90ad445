"""Measures over views: what is exact of them, against brute force in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import generator
from test_geometry import by_svd

from sslcut.metrics import scatter, spread
from sslcut.metrics.layer import Layer
from sslcut.metrics.viewed import Viewed

POOL = ("pool", "vector")


def seen(**features):
    """Viewed layers from features (N, V, D) each, and the layers that are read; `pool` is the reference."""
    count, views = next(iter(features.values())).shape[:2]
    layers = [Layer(name.replace("_", "."), "vector", each.flatten(0, 1).float()) for name, each in features.items()]
    return Viewed(layers, views, torch.arange(count), {}), layers


def values(measure, viewed, layers, **more):
    return {found.layer.name: found.value for found in measure(layers, {}, [], viewed=viewed, **more)}


def value(measure, features):
    return values(measure, *seen(pool=features))["pool"]


def noisy(images=60, views=5, width=7, seed=0, noise=0.5):
    draw = generator(seed)
    means = torch.randn(images, 1, width, generator=draw) @ torch.randn(width, width, generator=draw)
    return means + noise * torch.randn(images, views, width, generator=draw) + 3


def covariances(u):
    """S_w and the bias-corrected S_b as papers define them, in float64."""
    u = u.float().double()
    n, v, _ = u.shape
    mu = u.mean(dim=1)
    apart = (u - mu[:, None]).flatten(0, 1)
    within = apart.T @ apart / (n * (v - 1))
    return within, mu.T.cov() - within / v


def test_views_without_an_image_effect_have_sensitivity_one_and_equal_views_nought():
    draws = [value(scatter.sensitivity, torch.randn(400, 8, 20, generator=generator(k)) + 5) for k in range(5)]
    assert min(draws) > 0.98 and max(draws) <= 1
    assert value(scatter.sensitivity, torch.randn(30, 1, 6, generator=generator(0)).expand(-1, 4, -1)) == 0


def test_the_correction_takes_what_few_views_add_to_the_images():
    planted = [value(scatter.sensitivity, noisy(800, 2, 5, seed, noise=2.0)) for seed in range(3)]
    many = [value(scatter.sensitivity, noisy(800, 40, 5, seed, noise=2.0)) for seed in range(3)]
    assert planted == pytest.approx(many, abs=0.03)  # uncorrected they differ by 0.1


@given(seed=st.integers(0, 99), factor=st.floats(0.01, 100), shift=st.floats(-50, 50))
def test_sensitivity_ignores_scale_and_shift(seed, factor, shift):
    u = noisy(seed=seed)
    assert value(scatter.sensitivity, factor * u + factor * shift) == pytest.approx(
        value(scatter.sensitivity, u), rel=1e-3
    )


def test_scatter_over_blocks_is_the_formula(monkeypatch):
    monkeypatch.setattr("sslcut.metrics.viewed.BLOCK", 200)
    u = noisy()
    within, between = (matrix.trace() for matrix in covariances(u))
    r = float(within / (within + between))
    for measure, expected in ((scatter.sensitivity, r), (scatter.within, r), (scatter.between, 1 - r)):
        assert value(measure, u) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("features", [torch.ones(5, 3, 4), noisy(1, 3, 4)])
def test_a_layer_that_never_varies_and_a_single_image_have_no_sensitivity(features):
    measures = (scatter.sensitivity, scatter.between, scatter.sensitivity_cosine, spread.lidar)
    assert all(math.isnan(value(measure, features)) for measure in measures)


def test_cosines_are_means_over_all_pairs():
    u = noisy(12, 4, 3)
    unit = torch.nn.functional.normalize(u.double(), dim=2)
    every = unit.flatten(0, 1) @ unit.flatten(0, 1).T
    image = torch.arange(12).repeat_interleave(4)
    same = (image[:, None] == image) & ~torch.eye(48, dtype=torch.bool)
    near, far = every[same].mean(), every[image[:, None] != image].mean()
    assert value(scatter.sensitivity_cosine, u) == pytest.approx(float((1 - near) / (1 - far)), rel=1e-5)
    apart = (unit[:, :, None] - unit[:, None]).square().sum(dim=3)
    assert value(scatter.alignment, u) == pytest.approx(float(apart.sum() / (12 * 4 * 3)), rel=1e-5)


def test_a_head_that_drops_what_views_change_keeps_the_data():
    u = noisy(200, 6, 8)
    u[:, :, 4:] += 3 * torch.randn(200, 6, 4, generator=generator(1))
    viewed, layers = seen(layer4_0=u, pool=u, projector_0=u[:, :, :4], projector_1=u[:, :, 4:])
    ratio = values(scatter.selectivity, viewed, layers, reference=POOL)
    assert list(ratio) == ["projector.0", "projector.1"] and ratio["projector.0"] > 1 > ratio["projector.1"]
    views, data = (values(m, viewed, layers, reference=POOL) for m in (scatter.keep_views, scatter.keep_data))
    assert ratio["projector.0"] == pytest.approx(data["projector.0"] / views["projector.0"])
    r = values(scatter.sensitivity, viewed, layers)
    assert views["projector.1"] == pytest.approx(r["projector.1"] / r["pool"])


@pytest.mark.parametrize("shape", [(30, 4, 9), (6, 3, 40)])
def test_ranks_are_rankme_of_view_means_and_of_centred_views(shape):
    u = noisy(*shape)
    means = u.double().mean(dim=1)
    assert value(spread.rank_data, u) == pytest.approx(by_svd(means), rel=1e-4)
    assert value(spread.rank_views, u) == pytest.approx(by_svd((u.double() - means[:, None]).flatten(0, 1)), rel=1e-4)


@pytest.mark.parametrize("shape", [(40, 5, 8), (6, 8, 20)])
def test_lidar_is_the_published_formula(shape):
    u = noisy(*shape)
    within, _ = covariances(u)
    within += 1e-4 * within.trace() / shape[2] * torch.eye(shape[2])
    values, turns = torch.linalg.eigh(within)
    root = turns @ (turns / values.sqrt()).T
    found = torch.linalg.eigvalsh(root @ u.double().mean(dim=1).T.cov() @ root).clamp_min(0)
    shares = found / found.sum() + 1e-8
    assert value(spread.lidar, u) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-4)


def test_lidar_counts_the_directions_that_tell_images_apart():
    u = 0.1 * torch.randn(300, 6, 10, generator=generator(0))
    u[:, :, :3] += 5 * torch.randn(300, 1, 3, generator=generator(1))
    assert value(spread.lidar, u) == pytest.approx(3, abs=0.1)
