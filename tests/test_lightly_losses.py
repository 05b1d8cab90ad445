"""lightly's losses on the same tensors, where the two follow the same official code."""

import pytest
import torch
from test_methods import method_of, normal
from torch.nn import functional as F

loss = pytest.importorskip("lightly.loss", reason="the extra `bench` is not installed")


def assert_agrees(name, z, theirs, **options):
    torch.testing.assert_close(method_of(name, **options).loss(z, None), theirs.squeeze(), rtol=1e-5, atol=1e-6)


def test_nt_xent():
    z = normal(2, 16, 8).float()
    assert_agrees("simclr", z, loss.NTXentLoss(temperature=0.2)(*z))


def test_vicreg():
    z = normal(2, 16, 8).float()
    assert_agrees("vicreg", z, loss.VICRegLoss()(*z))


def test_barlow_twins():
    z = normal(2, 16, 8).float()
    assert_agrees("barlow_twins", z, loss.BarlowTwinsLoss(lambda_param=0.0051)(*z))


def test_simsiam_and_byol_are_its_negative_cosine():
    z, cosine = normal(4, 16, 8).float(), loss.NegativeCosineSimilarity()
    both = cosine(z[0], z[3]) + cosine(z[1], z[2])
    assert_agrees("simsiam", z, both / 2)
    assert_agrees("byol", z, 4 + 2 * both)


@torch.no_grad()
def test_swav_over_global_and_local_crops():
    method, z = method_of("swav", epsilon=0.05), normal(4, 16, 5).float()
    scores = [F.normalize(view, dim=1) @ method.prototypes.weight.T for view in z]
    torch.testing.assert_close(method.loss(z, None), loss.SwaVLoss()(scores[:2], scores[2:]).squeeze())


@torch.no_grad()
def test_dino_over_global_and_local_crops():
    method, z = method_of("dino"), normal(6, 16, 5).float()
    own = [method.chain.block("prototypes")(view) for view in z[:4]]
    teacher = [method.teacher.chain.block("prototypes")(view) for view in z[4:]]
    theirs = loss.DINOLoss(output_dim=7, warmup_teacher_temp_epochs=1)
    torch.testing.assert_close(method.loss(z, None), theirs(teacher, own))
    method.after_step(z, None, 0.0)
    torch.testing.assert_close(method.centre, theirs.center.flatten(), rtol=1e-4, atol=1e-6)
