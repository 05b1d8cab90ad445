import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sslcut.data.views import Views
from sslcut.errors import UsageError
from sslcut.methods.simclr import nt_xent
from sslcut.methods.supervised import Supervised
from sslcut.methods.vicreg import VICReg, overlap, spread
from sslcut.model.build import build
from sslcut.registry import METHODS

SELF_SUPERVISED = [name for name in METHODS if not METHODS.literal(name, "uses_labels", False)]
CLASSES = 3


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def method_of(name, **options):
    """A method around a network small enough for a test, with a classifier where it needs one."""
    torch.manual_seed(0)
    kind = METHODS.load(name)
    head = {"classifier": CLASSES} if kind.needs_classifier else {"projector": {"widths": [6, 5]}}
    return kind(build({"backbone": {"name": "resnet10", "width": 2, "stem": "small"}, **head}), **options)


def views_of(*crops):
    return Views(tuple(crops), len(crops[0]), {})


def labels_of(batch):
    return torch.arange(batch) % CLASSES


# What every method must do


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_every_weight_of_its_chain(name):
    method = method_of(name)
    images = normal(method.n_views or 1, 6, 3, 16, 16, dtype=torch.float32)
    z = method(views_of(images), labels_of(6))
    assert z.shape[:2] == (method.n_views or 1, 6)
    method.loss(z, labels_of(6)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_does_not_depend_on_the_order_of_the_batch(name):
    method, z, order = method_of(name), normal(2, 8, 3), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(method.loss(z[:, order], labels_of(8)[order]), method.loss(z, labels_of(8)))


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_does_not_change_when_the_views_swap(name):
    method, z = method_of(name), normal(2, 8, 3)
    torch.testing.assert_close(method.loss(z.flip(0), labels_of(8)), method.loss(z, labels_of(8)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 5)])
def test_a_loss_has_the_gradient_of_its_finite_differences(name, shape):
    method, z = method_of(name), normal(*shape).requires_grad_()
    assert method.loss(z, labels_of(shape[1])).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda z: method.loss(z, labels_of(shape[1])), z)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_loss_and_its_gradient_are_finite_where_all_outputs_are_equal(name, value):
    z = torch.full((2, 4, 3), value, requires_grad=True)
    loss = method_of(name).loss(z, labels_of(4))
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_declares_can_be_read_without_importing_it(name):
    kind = METHODS.load(name)
    assert METHODS.literal(name, "defaults") == kind.defaults
    assert METHODS.literal(name, "batchnorm", "joint") == kind.batchnorm
    assert set(METHODS.options(name)) == {key for key in vars(method_of(name)) if key in METHODS.options(name)}


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_a_method_of_two_views_refuses_another_number_of_them(name):
    with pytest.raises(UsageError, match="compares 2 views, views.crops gives 3"):
        method_of(name)(views_of(torch.zeros(3, 2, 3, 16, 16)), None)


# The walk from views to z


class Counter(nn.Module):
    """Notes the number of images of every pass."""

    def __init__(self, module):
        super().__init__()
        self.module, self.passes = module, []

    def forward(self, x):
        self.passes.append(len(x))
        return self.module(x)


@pytest.mark.parametrize(("batchnorm", "expected"), [("joint", [12, 8]), ("per_view", [4, 4, 4, 4, 4])])
def test_the_backbone_runs_once_a_resolution_or_view_and_the_head_once(monkeypatch, batchnorm, expected):
    method = method_of("supervised")
    monkeypatch.setattr(Supervised, "batchnorm", batchnorm)
    first, last = Counter(method.chain.blocks[0]), Counter(method.chain.blocks[-1])
    method.chain.blocks[0], method.chain.blocks[-1] = first, last
    z = method(
        views_of(normal(2, 4, 3, 16, 16).float(), torch.zeros(2, 4, 3, 8, 8), torch.zeros(1, 4, 3, 16, 16)), None
    )
    assert (first.passes, last.passes, z.shape) == (expected, [20], (5, 4, CLASSES))


@pytest.mark.parametrize("name", METHODS)
def test_the_views_of_several_sizes_keep_their_order(name, monkeypatch):
    method = method_of(name).eval()
    monkeypatch.setattr(type(method), "n_views", None)
    crops = [normal(2, 3, 3, 16, 16).float(), normal(1, 3, 3, 8, 8).float(), normal(1, 3, 3, 16, 16, seed=3).float()]
    apart = torch.stack([method.chain(view) for crop in crops for view in crop])
    torch.testing.assert_close(method(views_of(*crops), None), apart)


# The formulas


def test_nt_xent_is_the_papers_sum_over_pairs():
    z, temperature = normal(2, 5, 4), 0.3
    rows = [row / row.norm() for row in z.flatten(0, 1)]
    total = 0.0
    for i in range(10):
        scores = [float(rows[i] @ rows[j]) / temperature for j in range(10)]
        rest = sum(math.exp(score) for j, score in enumerate(scores) if j != i)
        total -= math.log(math.exp(scores[(i + 5) % 10]) / rest)
    assert float(nt_xent(z, temperature)) == pytest.approx(total / 10, abs=1e-12)
    assert float(nt_xent(z.float(), temperature)) == pytest.approx(total / 10, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_nt_xent_of_equal_rows_and_of_orthonormal_images_is_known(temperature):
    equal, apart = torch.ones(2, 6, 8).double(), torch.eye(6, 8).double().expand(2, 6, 8)
    assert float(nt_xent(equal, temperature)) == pytest.approx(math.log(11), abs=1e-9)
    known = -1 / temperature + math.log(math.exp(1 / temperature) + 10)
    assert float(nt_xent(apart, temperature)) == pytest.approx(known, abs=1e-9)


@pytest.mark.parametrize(("batch", "width"), [(9, 4), (4, 9)])
def test_vicreg_is_the_authors_formula(batch, width):
    z = normal(2, batch, width)
    invariance = F.mse_loss(z[0], z[1])
    variance = covariance = 0.0
    for branch in z:
        centred = branch - branch.mean(0)
        variance += torch.relu(1 - (centred.square().sum(0) / (batch - 1) + 1e-4).sqrt()).mean() / 2
        c = torch.cov(branch.T)
        covariance += sum(c[j, k] ** 2 for j in range(width) for k in range(width) if j != k) / width
    loss = VICReg(nn.Identity(), invariance=3.0, variance=5.0, covariance=7.0).loss
    expected = 3 * invariance + 5 * variance + 7 * covariance
    torch.testing.assert_close(loss(z, None), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss(z.float(), None).double(), expected, rtol=1e-6, atol=1e-6)


def test_vicreg_of_a_collapsed_network_costs_what_the_paper_implies():
    z = torch.ones(2, 8, 5).double()
    assert float(VICReg(nn.Identity()).loss(z, None)) == pytest.approx(24.75, abs=1e-9)
    assert float(spread(z[0])) == pytest.approx(0.99 / 2) and float(overlap(z[0])) == 0


def test_the_classifier_is_trained_on_every_view_and_on_labelled_images_only():
    logits, labels = normal(2, 4, CLASSES), torch.tensor([2, -1, 0, -1])
    chosen = torch.log_softmax(logits, dim=-1)[:, [0, 2], [2, 0]]
    loss = Supervised(nn.Identity()).loss(logits, labels)
    torch.testing.assert_close(loss, -chosen.mean())


def test_label_smoothing_spreads_its_share_of_the_target():
    logits, labels = normal(1, 4, CLASSES), labels_of(4)
    log = torch.log_softmax(logits[0], dim=-1)
    expected = -(0.8 * log[range(4), labels] + 0.2 * log.mean(dim=1)).mean()
    torch.testing.assert_close(Supervised(nn.Identity(), label_smoothing=0.2).loss(logits, labels), expected)


def test_a_batch_without_any_label_costs_nothing():
    assert float(Supervised(nn.Identity()).loss(normal(1, 3, CLASSES), torch.full((3,), -1))) == 0.0
