"""CKA, uniformity and measures of the covariance's spectrum, against their formulas in float64."""

import math

import pytest
import torch
from layers import generator

from sslcut.metrics.layer import Layer
from sslcut.metrics.similarity import Kernel, alike, cka, uniformity
from sslcut.metrics.variances import alpha_req, erank_cov, participation, power_law


def drawn(rows, width, seed=0):
    return torch.randn(rows, width, generator=generator(seed)) + 1


def only(measure, features, **options):
    return next(iter(measure([Layer("h", "avg", features)], {}, [], **options))).value


def similarity(f, g):
    rows = torch.arange(len(f))
    return alike(Kernel(f, rows), Kernel(g, rows))


def by_matrices(f, g):
    """Debiased HSIC with the kernels' matrices as Song et al. write it, and CKA from it."""
    n = len(f)

    def hsic(a, b):
        k, m = ((x.double() @ x.double().T).fill_diagonal_(0) for x in (a, b))
        one = torch.ones(n, dtype=torch.float64)
        total = (k @ m).trace() + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    return float(hsic(f, g) / (hsic(f, f) * hsic(g, g)).sqrt())


@pytest.mark.parametrize(("rows", "wide"), [(50, 4), (9, 40)])
def test_cka_is_the_debiased_formula_whichever_way_it_is_made(rows, wide, monkeypatch):
    monkeypatch.setattr("sslcut.metrics.similarity.BLOCK", 100)
    f = drawn(rows, 6)
    g = torch.cat([f[:, :3], drawn(rows, wide, 1)], dim=1)
    assert similarity(f, g) == pytest.approx(by_matrices(f, g), rel=1e-6)


def test_cka_ignores_rotation_scale_and_shift():
    f, g = drawn(40, 6), drawn(40, 6).relu()
    turn = torch.linalg.qr(drawn(6, 6, 2)).Q
    assert similarity(7 * f @ turn + 3, g) == pytest.approx(similarity(f, g), rel=1e-4)
    assert similarity(7 * f @ turn + 3, f) == pytest.approx(1, abs=1e-4)


def test_cka_of_independent_features_is_nought_where_dimensions_outnumber_images():
    found = [similarity(drawn(30, 300, seed), drawn(30, 300, 100 + seed)) for seed in range(20)]
    assert abs(sum(found) / 20) < 0.03  # the biased one is 0.9


def test_each_layer_is_compared_with_the_block_before_it_by_its_own_read_out():
    f = drawn(40, 5)
    layers = [Layer("a", "avg", f), Layer("a", "grid2", f.relu()), Layer("b", "grid2", f), Layer("c", "vector", f)]
    found = {one.layer.name: one.value for one in cka(layers, {}, [])}
    assert found.keys() == {"b", "c"} and found["c"] == pytest.approx(1)
    assert found["b"] == pytest.approx(similarity(f, f.relu()))


def test_a_layer_that_never_varies_is_like_no_other():
    assert math.isnan(similarity(drawn(20, 3), torch.zeros(20, 3))) and math.isnan(similarity(drawn(3, 2), drawn(3, 2)))


def test_uniformity_is_nought_of_one_point_and_the_mean_over_pairs():
    assert only(uniformity, torch.ones(20, 4)) == pytest.approx(0, abs=1e-12)
    f = drawn(20, 4)
    unit = torch.nn.functional.normalize(f.double(), dim=1)
    expected = torch.pdist(unit).square().mul(-2).exp().mean().log()
    assert only(uniformity, f) == pytest.approx(float(expected), rel=1e-6)


def test_uniformity_is_lowest_at_the_corners_of_a_simplex():
    corners = torch.eye(30) - 1 / 30
    assert only(uniformity, corners) == pytest.approx(-4 * 30 / 29, rel=1e-6)


@pytest.mark.parametrize("count", [60, 400])
def test_a_planted_power_law_is_found(count):
    law = torch.arange(1, count + 1, dtype=torch.float64) ** -1.3
    alpha, fit = power_law(law)
    assert alpha == pytest.approx(1.3, rel=1e-9) and fit == pytest.approx(1)


def test_alpha_is_that_of_the_features_covariance():
    axes = torch.linalg.qr(drawn(300, 150)).Q
    features = (axes - axes.mean(dim=0)) @ torch.diag(torch.arange(1, 151.0) ** -0.5) + 4
    alpha, fit = (found.value for found in alpha_req([Layer("h", "avg", features)], {}, []))
    assert alpha == pytest.approx(1, abs=0.05) and fit > 0.99


def test_alpha_is_withheld_where_no_power_law_fits():
    step = torch.cat([torch.ones(30), 1e-4 * torch.ones(30)]).double()
    alpha, fit = power_law(step)
    assert alpha == 0 and fit == 1  # flat over the ranks that are fitted
    features = drawn(400, 60) * torch.cat([torch.ones(20), 0.01 * torch.ones(40)])
    alpha, fit = (found.value for found in alpha_req([Layer("h", "avg", features)], {}, []))
    assert math.isnan(alpha) and fit < 0.95


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_ranks_of_the_covariance_are_those_of_its_eigenvalues(shape):
    features = drawn(*shape)
    found = torch.linalg.eigvalsh(features.double().T.cov())
    shares = found[found > 1e-9 * found.max()] / found.sum()
    assert only(erank_cov, features) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-6)
    assert only(participation, features) == pytest.approx(float(1 / shares.square().sum()), rel=1e-6)
    assert math.isnan(only(erank_cov, torch.ones(10, 3)))
