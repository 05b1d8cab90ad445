import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sslcut.data.views import Views
from sslcut.errors import UsageError
from sslcut.events import Warn
from sslcut.methods.making import check_fit
from sslcut.methods.moco_v2 import MoCoV2
from sslcut.methods.simclr import nt_xent
from sslcut.methods.supervised import Supervised
from sslcut.methods.vicreg import VICReg, overlap, spread
from sslcut.model.build import build
from sslcut.options import Options
from sslcut.recipe import load
from sslcut.registry import METHODS
from sslcut.stages import pretrain
from sslcut.training.world import Precision, loss_of

CLASSES = 3


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def method_of(name, width=5, seed=0, **options):
    """A method around a network small enough for a test, with a classifier where it needs one."""
    torch.manual_seed(seed)
    kind = METHODS.load(name)
    head = {"classifier": CLASSES} if kind.needs_classifier else {"projector": {"widths": [6, width]}}
    more = {"predictor": {"widths": [4, width]}, "prototypes": {"count": 7}}
    head |= {part: given for part, given in more.items() if kind.defaults["model"].get(part)}
    options |= {"classes": CLASSES} if kind.needs_classes else {}
    return kind(build({"backbone": {"name": "resnet10", "width": 2, "stem": "small"}, **head}), **options)


def views_of(*crops):
    return Views(tuple(crops), len(crops[0]), {})


def labels_of(batch):
    return torch.arange(batch) % CLASSES


# What every method must do


def outputs_of(method, batch, width=5, seed=0):
    """What a method's loss may be given: its own outputs of two views (one of MoCo v2's), and its targets."""
    own = 1 if isinstance(method, MoCoV2) else 2
    return normal(own, batch, width, seed=seed), normal(method.targets, batch, width, seed=seed + 1)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_every_weight_of_its_chain(name):
    method = method_of(name)
    images = normal(2, 6, 3, 16, 16, dtype=torch.float32)
    z = method(views_of(images), labels_of(6))
    assert z.shape[1] == 6
    method.loss(z, labels_of(6)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.chain.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_does_not_depend_on_the_order_of_the_batch(name):
    method, order = method_of(name).double(), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    z = torch.cat(outputs_of(method, 8))
    torch.testing.assert_close(method.loss(z[:, order], labels_of(8)[order]), method.loss(z, labels_of(8)))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "moco_v2"])
def test_a_loss_does_not_change_when_the_views_swap(name):
    method = method_of(name).double()
    own, targets = outputs_of(method, 8)
    swapped = torch.cat([own.flip(0), targets.flip(0)])
    torch.testing.assert_close(method.loss(swapped, labels_of(8)), method.loss(torch.cat([own, targets]), labels_of(8)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("batch", "width"), [(4, 3), (3, 5)])
def test_a_loss_has_the_gradient_of_its_finite_differences(name, batch, width):
    method = method_of(name, **({} if METHODS.load(name).needs_classifier else {"width": width})).double()
    own, targets = outputs_of(method, batch, CLASSES if method.needs_classifier else width)
    loss = lambda own: method.loss(torch.cat([own, targets]), labels_of(batch))  # noqa: E731
    assert loss(own).dtype == torch.float64
    if name == "swav":  # its codes depend on the outputs too, and pass no gradient
        codes = [method.code(method.chain.block("prototypes")(view), place) for place, view in enumerate(own)]
        method.code = lambda scores, view: codes[view]
    assert torch.autograd.gradcheck(loss, own.requires_grad_())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_loss_and_its_gradient_are_finite_where_all_outputs_are_equal(name, value):
    method = method_of(name)
    z = torch.full_like(torch.cat(outputs_of(method, 4)).float(), value).requires_grad_()
    loss = method.loss(z, labels_of(4))
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_declares_can_be_read_without_importing_it(name):
    kind = METHODS.load(name)
    assert METHODS.literal(name, "defaults") == kind.defaults
    assert METHODS.literal(name, "batchnorm", "joint") == kind.batchnorm
    assert set(METHODS.options(name)) == {key for key in vars(method_of(name)) if key in METHODS.options(name)}


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS.literal(name, "min_views", 2) == 2])
def test_a_method_that_compares_views_refuses_a_single_one(name):
    with pytest.raises(UsageError, match="compares 2 views, views.crops gives 1"):
        method_of(name)(views_of(torch.zeros(1, 2, 3, 16, 16)), None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n_global", [1, 2])
def test_every_method_takes_multi_crop(name, n_global):
    method = method_of(name)
    views = views_of(normal(n_global, 6, 3, 16, 16).float(), normal(3, 6, 3, 8, 8).float())
    z = method(views, labels_of(6))
    own = n_global + 3 - (name == "moco_v2")  # whose last global view is the key
    assert z.shape[:2] == (own + method.targets, 6)
    loss = method.loss(z, labels_of(6))
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in method.chain.parameters())


@pytest.mark.parametrize("name", ["simclr", "vicreg", "barlow_twins"])
def test_more_views_cost_the_mean_over_the_pairs_that_hold_a_global_one(name):
    method, z = method_of(name).double(), normal(4, 6, 5)
    met = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    expected = torch.stack([method.loss(z[[a, b]], None) for a, b in met]).mean()
    torch.testing.assert_close(method.loss(z, None), expected)


@pytest.mark.parametrize("name", ["byol", "simsiam", "moco_v3"])
def test_a_local_view_meets_every_target_and_a_global_one_all_but_its_own(name):
    method, z = method_of(name).double(), normal(5, 6, 5)  # two global views, a local one, two targets
    met = [(0, 1), (1, 0), (2, 0), (2, 1)]
    alone = [method.loss(torch.stack([z[v], z[v], z[3 + t], z[3 + t]]), None) for v, t in met]
    torch.testing.assert_close(method.loss(z, None), torch.stack(alone).mean())


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_taken_in_float32_whatever_the_network_computes_in(name, monkeypatch):
    method, views = method_of(name), views_of(torch.zeros(2, 8, 3, 16, 16))
    z = torch.cat(outputs_of(method, 8)).float()
    monkeypatch.setattr(method, "forward", lambda views, labels: z)
    full, half = (loss_of(method, views, labels_of(8), Precision(name, True))[0] for name in ("float32", "bf16"))
    torch.testing.assert_close(half, full, atol=1e-3, rtol=0)


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
def test_the_backbone_runs_once_a_resolution_and_the_head_once_or_both_view_by_view(monkeypatch, batchnorm, expected):
    method = method_of("supervised")
    monkeypatch.setattr(Supervised, "batchnorm", batchnorm)
    first, last = Counter(method.chain.blocks[0]), Counter(method.chain.blocks[-1])
    method.chain.blocks[0], method.chain.blocks[-1] = first, last
    z = method(
        views_of(normal(2, 4, 3, 16, 16).float(), torch.zeros(2, 4, 3, 8, 8), torch.zeros(1, 4, 3, 16, 16)), None
    )
    head = [20] if batchnorm == "joint" else expected
    assert (first.passes, last.passes, z.shape) == (expected, head, (5, 4, CLASSES))


@pytest.mark.parametrize("name", ["simclr", "vicreg", "lejepa", "supcon", "supervised"])
def test_the_views_of_several_sizes_keep_their_order(name):
    method = method_of(name).eval()
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


@pytest.mark.parametrize("name", [name for name in METHODS if hasattr(method_of(name), "teacher")])
def test_a_teacher_begins_again_with_the_weights_and_statistics_that_its_network_was_given(name):
    method, other = method_of(name), method_of(name, seed=1)
    other.chain.train()(normal(4, 3, 16, 16).float())  # moves the running statistics
    method.chain.load_tensors({key: tensor.detach() for key, tensor in other.chain.tensors().items()}, "other")
    method.teacher.begin(method.chain)
    own = method.chain.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in method.teacher.chain.state_dict().items())


# What is checked before any work


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["method=dino", "model.prototypes=null"], "the method `dino` needs a `model.prototypes`"),
        (["method=byol", "model.predictor=null"], "the method `byol` needs a `model.predictor`"),
        (
            ["method=byol", "model.projector.widths=[16, 8]"],
            "compares the predictor's 128 numbers with the projector's 8",
        ),
        (["method=simclr", "views.crops=[{count: 1, size: 32, scale: [0.2, 1.0]}]"], "compares 2 views"),
    ],
)
def test_a_head_or_views_that_a_method_cannot_use_are_refused_at_once(sets, said):
    with pytest.raises(UsageError, match=said):
        check_fit(load("default", sets).dump())


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_own_defaults_fit_it(name):
    check_fit(load("default", [f"method={name}"]).dump())


@pytest.mark.parametrize(("method", "warned"), [("moco_v2", True), ("moco_v3", False)])
def test_unshuffled_batch_norm_is_warned_of(tmp_path, method, warned):
    tiny = ["data={name: shapes, size: 16, train: 64, test: 16}", "train.epochs=0", "train.precision=float32"]
    events = list(pretrain.run(load("default", [f"method={method}", *tiny]), Options(out=tmp_path / "run")))
    assert any(isinstance(event, Warn) and "shuffle" in event.text for event in events) is warned
