"""Resizing the last block: what is drawn anew, what stays to the bit, and an output that stays."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from sslcut.errors import InputError, UsageError
from sslcut.methods.vicreg import VICReg
from sslcut.model.borrowed import chain_of
from sslcut.model.build import blueprint, build
from sslcut.model.chain import Chain
from sslcut.model.convnext import with_last_block
from sslcut.model.heads import mlp
from sslcut.model.widths import chosen, copies, difference, lever, padded, preserve, representation, resized

BACKBONES = {
    "basic": {"name": "resnet18", "width": 3, "stem": "small"},
    "strided": {"name": "resnet10", "width": 2, "stem": "cifar"},
    "bottleneck": {"name": "resnet50", "width": 1, "stem": "small"},
    "vit": {"name": "vit_ti", "patch": 8, "size": 16, "depth": 1},
    "scaled": {
        "name": "vit_ti",
        "patch": 8,
        "size": 16,
        "depth": 1,
        "layer_scale": 0.1,
        "registers": 2,
        "pool": "mean",
    },
    "convnext": {"name": "convnext"},
}
HEADS = {
    "none": {},
    "linear": {"classifier": 5},
    "mlp": {"projector": {"widths": [6, 4]}},
    "unit": {"projector": {"widths": [6, 4], "input_norm": True}},
    "prototypes": {"prototypes": {"count": 5, "unit": True}},
}


def convnext(last_block) -> Chain:
    """A ConvNeXt of torchvision's classes with 2 stages, and a classifier of 5."""
    setting = [CNBlockConfig(6, 10, 1), CNBlockConfig(10, None, 2)]
    network = with_last_block(ConvNeXt(setting, num_classes=5, layer_scale=0.3), last_block)
    return chain_of(network, 32, [network.classifier[2]], "a small ConvNeXt")


def made(backbone: str, head: str = "none", **last_block) -> Chain:
    """The network with this last block, drawn from seed 0."""
    torch.manual_seed(0)
    if backbone == "convnext":
        chain = convnext(last_block)
        return chain if head == "linear" else chain.cut("pool")
    return build({"backbone": BACKBONES[backbone], "last_block": last_block, **HEADS[head]})


def trained(chain: Chain, seed: int) -> Chain:
    """A chain in eval mode whose every tensor is drawn, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in chain.tensors().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5
            tensor.data.copy_(drawn.abs() + 0.5 if "var" in name or name.endswith("scale") else drawn)
    return chain.eval()


def pictures(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(9)) * 2 - 1


def width_of(chain: Chain) -> int:
    return chain.block(lever(chain).name).width


# ---- drawn anew


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_what_is_drawn_anew_is_as_it_was_drawn_and_all_else_stays_to_the_bit(backbone):
    old = trained(made(backbone, "linear"), 1)
    drawn = made(backbone, "linear", width=7, shortcut="auto")
    fresh = {name: tensor.clone() for name, tensor in drawn.tensors().items()}
    new = resized(old, drawn).tensors()
    redrawn = {name for name in new if not torch.equal(new[name], old.tensors().get(name, torch.empty(0)))}
    assert {name for name in lever(drawn).redrawn() ^ redrawn if not name.endswith("num_batches_tracked")} == set()
    assert all(torch.equal(new[name], fresh[name]) for name in redrawn)


def test_a_resize_changes_the_last_convolution_its_norm_the_shortcut_and_what_reads_them():
    names = lever(made("bottleneck", "mlp", width=7)).redrawn()
    norms = {
        f"{norm}.{key}" for norm in ("bn3", "downsample.1") for key in made("strided").block("stem").bn1.state_dict()
    }
    inner = {"conv3.weight", "downsample.0.weight", *norms}
    assert names == {*(f"layer4.2.{name}" for name in inner), "projector.0.linear.weight"}
    assert {"encoder.ln.weight", "encoder.ln.bias"} < lever(made("vit", width=7)).redrawn()


def test_a_cut_off_or_unchanged_last_block_is_refused():
    old = made("basic", "mlp")
    with pytest.raises(InputError, match="`layer4.1` is cut off: the checkpoint ends with `layer4.0`"):
        resized(old.cut("layer4.0"), made("basic", "mlp", width=7))
    with pytest.raises(UsageError, match="24 wide already"):
        resized(old, made("basic", "mlp", width=24))
    assert resized(old.cut("layer4.1"), made("basic", "mlp", width=7)).names[-1] == "layer4.1"


@pytest.mark.parametrize("name", ["torchvision:convnext_tiny", "torchvision:vit_b_32", "torchvision:resnet18", "vit_s"])
def test_a_recipe_gives_any_of_these_networks_a_last_block_of_its_width(name):
    chain = blueprint({"backbone": {"name": name}, "last_block": {"width": 100, "shortcut": "always"}})
    assert chain.width == width_of(chain) == 100


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "torchvision:resnext50_32x4d"])
def test_a_network_that_cannot_be_resized_is_refused_with_those_that_can(name):
    with pytest.raises(UsageError, match=f"the last block of `{name}` has one width") as caught:
        blueprint({"backbone": {"name": name}, "last_block": {"width": 100}})
    assert "torchvision:convnext_…" in caught.value.faults[0].hint
    with pytest.raises(UsageError, match="fetches weights") as caught:
        blueprint({"backbone": {"name": "torchvision:resnet18", "pretrained": True}, "last_block": {"width": 100}})
    assert "sslcut resize" in caught.value.faults[0].hint


def test_a_convnexts_block_of_its_own_width_is_torchvisions_to_the_bit():
    torch.manual_seed(0)
    peer = ConvNeXt([CNBlockConfig(6, 10, 1), CNBlockConfig(10, None, 2)], num_classes=5, layer_scale=0.3).eval()
    torch.manual_seed(0)
    ours = convnext({}).eval()
    assert list(ours.tensors()) == list(peer.state_dict())
    assert torch.equal(ours(pictures()), peer(pictures()))


# ---- the output stays


@functools.cache
def before(backbone: str, head: str, seed: int) -> Chain:
    return trained(made(backbone, head), seed)


@settings(deadline=None, max_examples=40)
@given(
    backbone=st.sampled_from(list(BACKBONES)), head=st.sampled_from(list(HEADS)), more=st.floats(0.02, 2.5),
    shortcut=st.sampled_from(["auto", "always"]), seed=st.integers(0, 3),
)  # fmt: skip
def test_widening_with_preserve_leaves_the_output(backbone, head, more, shortcut, seed):
    old = before(backbone, head, seed)
    width = int(width_of(old) * (1 + more)) + 1
    new = resized(old, made(backbone, head, width=width, shortcut=shortcut))
    how, x = preserve(old, new, pictures()), pictures()
    with torch.no_grad():
        one, other, h, wide = old(x), new(x), representation(old, x), representation(new, x)
    if old.backbone == old.names[-1]:
        assert new.width == width
        one, other = h @ h.T, wide @ wide.T
    assert torch.allclose(one, other, rtol=0, atol=1e-5 * float(one.abs().max()))
    assert torch.allclose(how.back(wide), h, rtol=0, atol=1e-5 * float(h.abs().max()))


def test_a_projection_that_takes_an_identitys_place_does_what_it_did_in_training_too():
    old = before("basic", "linear", 0)
    new = resized(old, made("basic", "linear", width=24, shortcut="always"))
    preserve(old, new, pictures())
    x = old.run(pictures(), upto="layer4.0")
    shortcut = new.block("layer4.1").downsample
    assert torch.allclose(shortcut(x), x, atol=1e-5)
    assert torch.allclose(shortcut.train()(x), x, atol=1e-2)  # its own moments, unbiased or not


def test_widened_channels_are_told_apart_by_what_reads_them():
    old = before("basic", "mlp", 0)
    new = resized(old, made("basic", "mlp", width=48))
    preserve(old, new, pictures())
    weight = new.block("projector.0").linear.weight
    assert not torch.allclose(weight[:, :24], weight[:, 24:])
    new.train()(pictures()).square().sum().backward()
    gradient = new.block("layer4.1").conv2.weight.grad
    first, second = gradient[:24].flatten(1), gradient[24:].flatten(1)
    assert torch.equal(first.any(dim=1), second.any(dim=1)) and first.any(dim=1).sum() > 12
    assert not any(torch.allclose(one, other) for one, other in zip(first, second, strict=True) if one.any())


def test_a_widened_transformers_channels_of_zeros_are_trained():
    old = before("vit", "linear", 0)
    new = resized(old, made("vit", "linear", width=200))
    preserve(old, new, pictures())
    new(pictures()).square().sum().backward()
    assert new.block("blocks.0").mlp[3].weight.grad[192:].abs().amax(dim=1).min() > 0


@pytest.mark.parametrize("embedding", [copies(5, 12), padded(5, 12), chosen(5, torch.tensor([0, 3]))])
def test_an_embedding_is_its_matrix(embedding):
    matrix = embedding(torch.eye(5, dtype=torch.float64))
    weight, drawn = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, len(matrix), dtype=torch.float64)
    other = torch.eye(len(matrix)) - matrix @ matrix.T
    assert torch.allclose(embedding.reader(weight, drawn), weight @ matrix.T + drawn @ other, atol=1e-12)
    assert torch.allclose(embedding.back(drawn), drawn @ matrix)
    if len(matrix) > 5:
        assert torch.allclose(matrix.T @ matrix, torch.eye(5, dtype=torch.float64))


# ---- narrowing


def test_narrowing_drops_what_contributes_nothing_and_then_loses_nothing():
    old = trained(made("basic", "mlp"), 2)
    dead = torch.arange(0, 24, 3)
    old.block("projector.0").linear.weight.data[:, dead] = 0
    new = resized(old, made("basic", "mlp", width=16))
    how = preserve(old, new, pictures())
    with torch.no_grad():
        one, other = old(pictures()), new(pictures())
    assert torch.allclose(one, other, rtol=0, atol=1e-5 * float(one.abs().max()))
    contributed = representation(old, pictures()).abs().sum(dim=0) * old.block("projector.0").linear.weight.norm(dim=0)
    assert {channel for channel in range(24) if contributed[channel] > 0} <= set(how.take.tolist())


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_the_error_of_narrowing_is_measured_on_the_output(backbone):
    old = before(backbone, "linear", 1)
    new = resized(old, made(backbone, "linear", width=width_of(old) // 2))
    how, x = preserve(old, new, pictures()), pictures(20)
    with torch.no_grad():
        one, other, first, second = old(x), new(x), old(pictures()), new(pictures())
    expected = ((one - other).square().sum() / (one - one.mean(dim=0)).square().sum()).sqrt()
    assert difference(old, new, how, x) == pytest.approx(float(expected), rel=1e-4)
    # what is lost on average is made up for
    assert torch.allclose(first.mean(dim=0), second.mean(dim=0), rtol=0, atol=1e-5 * float(first.abs().max()))


def test_an_identity_cannot_take_a_projections_place():
    old = before("strided", "linear", 0)
    wide = resized(before("basic", "linear", 0), made("basic", "linear", width=48))
    with pytest.raises(UsageError, match="an identity cannot"):
        preserve(wide, resized(wide, made("basic", "linear", width=24)), pictures())
    assert resized(old, made("strided", "linear", width=8)).block("layer4.0").downsample is not None


# ---- a linear head narrower than h


@pytest.mark.parametrize(("outputs", "rank"), [(1, 1), (3, 3), (9, 9), (20, 12)])
def test_gradients_at_h_through_a_linear_head_of_k_outputs_span_k_directions_at_most(outputs, rank):
    """With K < D the samples' gradients lie in the span of the head's K rows; with K ≥ D in nothing less than D."""
    torch.manual_seed(0)
    h = torch.randn(2, 40, 12, dtype=torch.float64, requires_grad=True)  # views, samples, D
    head = mlp("projector", 12, widths=[outputs], last_bias=False)[0][2].double()
    (gradient,) = torch.autograd.grad(VICReg(Chain([])).loss(head(h), None), h)
    singular = torch.linalg.svdvals(gradient.flatten(0, 1))
    assert singular[rank - 1] > 1e-5 * singular[0]
    assert rank == 12 or singular[rank] < 1e-12 * singular[0]
