"""The head's principal directions against tangent planes: the linear head, the baselines, planted planes."""

import math

import pytest
import torch
from layers import generator
from torch import nn
from torch.func import jacrev

from sslcut.metrics.layer import Layer
from sslcut.metrics.tangent import (
    Head,
    agreement,
    head_behind,
    mean_plane,
    neighbourhoods,
    principal,
    random_deviation,
    tangent,
)
from sslcut.metrics.viewed import Viewed
from sslcut.model.build import build
from sslcut.model.heads import mlp
from sslcut.model.network import Input, Network

CPU = torch.device("cpu")
POOL = ("pool", "vector")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def plane_of(directions):
    return directions @ directions.T / directions.shape[1]


def test_random_subspaces_hold_m_of_d_and_vary_as_the_formula_says():
    plane = plane_of(torch.linalg.qr(drawn(20, 4)).Q) * 0.7 + plane_of(torch.eye(20, 3, dtype=torch.float64)) * 0.3
    subspaces = torch.linalg.qr(drawn(500, 20, 6, seed=1)).Q
    found = torch.stack([torch.tensor(agreement(each, plane)) for each in subspaces])
    assert abs(found.mean() - 6 / 20) < 3 * found.std() / 500**0.5
    assert random_deviation(plane, 6) == pytest.approx(float(found.std()), rel=0.1)
    assert random_deviation(torch.eye(20, dtype=torch.float64) / 20, 6) == pytest.approx(0, abs=1e-9)


def test_a_linear_heads_directions_are_its_right_singular_vectors():
    linear = nn.Linear(12, 5).requires_grad_(False)
    linear.weight.copy_(torch.linalg.qr(drawn(12, 5))[0].T * torch.tensor([3.0, 2.0, 2.0, 0.2, 0.1])[:, None])
    matrix = Head(linear, CPU).gauss_newton(drawn(7, 12))
    directions = principal(matrix)
    expected = torch.linalg.svd(linear.weight.double())[2][:3]  # 17 of the 17.05 that the trace is
    assert directions.shape == (12, 3)
    assert torch.linalg.matrix_norm(expected @ directions) ** 2 == pytest.approx(3, abs=1e-4)


def test_the_gauss_newton_matrix_is_the_mean_over_images(monkeypatch):
    monkeypatch.setattr("sslcut.metrics.tangent.BLOCK", 300)
    torch.manual_seed(0)
    blocks = nn.Sequential(*(block for _, _, block in mlp("projector", 6, widths=[9, 4]))).eval()
    vectors = drawn(11, 6)
    each = [jacrev(lambda v: blocks(v[None])[0])(v.float()).detach().double() for v in vectors]
    expected = torch.stack([j.T @ j for j in each]).mean(dim=0)
    assert torch.allclose(Head(blocks, CPU).gauss_newton(vectors), expected, rtol=1e-4, atol=1e-8)


def test_neighbours_are_the_nearest_others():
    vectors = torch.arange(10, dtype=torch.float64)[:, None] ** 2
    [cloud] = neighbourhoods(vectors, torch.tensor([0, 9]), 2)
    assert cloud[:, :, 0].tolist() == [[1, 4], [64, 49]]


def test_planes_are_what_clouds_vary_in_each_over_its_own_dimensions():
    flat = drawn(5, 20, 3) @ drawn(3, 9, seed=1)  # five clouds in one plane of three dimensions
    found = mean_plane(iter([flat[:2], flat[2:]]), 8)
    assert torch.allclose(found, plane_of(torch.linalg.qr(drawn(3, 9, seed=1).T).Q), atol=1e-8)
    assert mean_plane(iter([torch.ones(2, 4, 3)]), 2).isnan().all()


def read(head, features, weak):
    layer = Layer(*POOL, features.float())
    nearby = Viewed([Layer(*POOL, weak.flatten(0, 1).float())], weak.shape[1], torch.arange(len(weak)), {})
    return {one.measure: one.value for one in tangent([layer], {}, [], reference=POOL, head=head, nearby=nearby)}


def test_a_head_that_keeps_the_datas_plane_agrees_with_it_and_not_with_the_views():
    features = torch.zeros(300, 12)
    features[:, :8] = drawn(300, 8).float()
    weak = features[:50, None].repeat(1, 10, 1)
    weak[:, :, 8:] += drawn(50, 10, 4, seed=1)
    kept = nn.Linear(12, 8)
    nn.init.eye_(kept.weight)
    found = read(Head(kept, CPU), features, weak)
    assert found["directions"] == 8 and found["tangent_random"] == pytest.approx(8 / 12)
    assert found["tangent"] == pytest.approx(1, abs=1e-4) and found["tangent_pca"] == pytest.approx(1, abs=1e-4)
    assert found["tangent_views"] == pytest.approx(0, abs=1e-4) and 0 < found["tangent_random_sd"] < 0.2


@pytest.mark.parametrize("images", [1, 2, 5])
def test_a_few_images_have_a_plane_of_their_few_directions_or_none(images):
    found = read(Head(nn.Linear(6, 4), CPU), drawn(images, 6), drawn(images, 2, 6, seed=1))
    assert math.isnan(found["tangent"]) == (images < 3) and 0 < found["tangent_views"] <= 1


def test_the_head_is_the_projector_behind_the_backbones_end():
    model = {"backbone": {"name": "resnet10", "width": 4, "stem": "small"}, "projector": {"widths": [6, 5]}}
    network = Network(build({**model, "predictor": {"widths": [7, 5]}}), "vector", Input(16, (0.5,) * 3, (0.2,) * 3))
    head = head_behind(network, POOL, CPU)
    assert head is not None and not head.blocks.training and network.training
    h = drawn(3, network.chain.cut("pool").width).float()
    assert torch.equal(head.blocks(h), network.eval().chain.run(h, after="pool", upto="projector"))
    assert head_behind(network, ("layer4.0", "avg"), CPU) is None
    assert head_behind(Network(build(model).cut("pool"), "vector", network.input), POOL, CPU) is None
    assert read(None, torch.ones(4, 3), torch.ones(4, 2, 3)) == {}
