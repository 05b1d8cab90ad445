"""ResNets: torchvision's tensors and outputs, and a last block of any width."""

import math

import pytest
import torch
import torchvision
from torch import Tensor

from sslcut.errors import UsageError
from sslcut.model import resnet
from sslcut.model.chain import Chain
from sslcut.model.cost import costs

STOCK = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032, "resnet101": 42_500_160}


def parameters(chain: Chain) -> int:
    return sum(parameter.numel() for parameter in chain.parameters())


def drawn(name: str, **options: object) -> Chain:
    """A ResNet in eval mode whose batch norms are drawn, so that a confused one would show."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    chain: Chain = getattr(resnet, name)(**{"last_block": {}, **options})
    for key, tensor in chain.tensors().items():
        if key.endswith(("bn1.weight", "bn2.weight", "bn3.weight", "running_var", "running_mean", "bias")):
            low = -0.2 if key.endswith(("mean", "bias")) else 0.5
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) / 2 + low)
    return chain.eval()


def stages(network: torchvision.models.ResNet, x: Tensor) -> dict[str, Tensor]:
    """torchvision's output after the stem, every residual block and pooling."""
    found = {"stem": network.maxpool(network.relu(network.bn1(network.conv1(x))))}
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        for index, block in enumerate(getattr(network, layer)):
            found[f"{layer}.{index}"] = block(list(found.values())[-1])
    return {**found, "pool": network.avgpool(found[list(found)[-1]]).flatten(1)}


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_stock_resnet_loads_into_torchvision_and_agrees_at_every_block(name):
    chain = drawn(name)
    with torch.device("meta"):
        peer = getattr(torchvision.models, name)()
    peer.fc = torch.nn.Identity()
    peer.load_state_dict(chain.tensors(), strict=True, assign=True)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = stages(peer.eval(), x)
        for block in chain.names:
            x = chain.block(block)(x)
            assert torch.allclose(x, expected.pop(block), rtol=1e-5, atol=1e-5), block
    assert not expected


@pytest.mark.parametrize("name", list(STOCK))
def test_a_stock_resnet_has_torchvisions_tensors_in_its_order_and_number(name):
    with torch.device("meta"):
        chain, peer = getattr(resnet, name)(last_block={}), getattr(torchvision.models, name)()
    peer.fc = torch.nn.Identity()
    ours = {key: tensor.shape for key, tensor in chain.tensors().items()}
    assert list(ours.items()) == [(key, tensor.shape) for key, tensor in peer.state_dict().items()]
    assert parameters(chain) == STOCK[name]


@pytest.mark.parametrize("width", [512, 1024, 2048, 4096, 8192, 16384, 25600, 32768])
def test_a_resnet50_with_a_last_block_of_width_d_has_the_papers_number_of_parameters(width):
    with torch.device("meta"):
        chain = resnet.resnet50(last_block={"width": width, "shortcut": "always"})
    assert parameters(chain) == 22_455_360 + 2_564 * width
    assert chain.width == width


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_a_basic_last_block_of_width_d_adds_its_convolution_and_its_shortcut(name):
    with torch.device("meta"):
        build = getattr(resnet, name)
        counts = [parameters(build(last_block={"width": d, "shortcut": "always"})) for d in (256, 512, 1024)]
    rest = STOCK[name] - 512 * (9 * 512 + 2)
    assert counts == [rest + d * (9 * 512 + 2 + 512 + 2) for d in (256, 512, 1024)]


def test_an_automatic_shortcut_keeps_the_identity_where_widths_agree():
    with torch.device("meta"):
        stock, same = (resnet.resnet50(last_block={"width": w, "shortcut": "auto"}) for w in (None, 2048))
        wider = resnet.resnet50(last_block={"width": 2049})
    assert parameters(stock) == parameters(same) == STOCK["resnet50"]
    assert wider.tensors()["layer4.2.downsample.0.weight"].shape == (2049, 2048, 1, 1)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 40), ("resnet10", None)])
def test_an_identity_shortcut_that_cannot_be_had_is_refused_with_its_numbers(name, width):
    with pytest.raises(UsageError, match=r"never.* channels into .* at stride"):
        getattr(resnet, name)(last_block={"width": width, "shortcut": "never"}, width=4)


def test_an_identity_shortcut_is_granted_where_shapes_agree():
    chain = resnet.resnet18(last_block={"width": 32, "shortcut": "never"}, width=4)
    assert not any(key.startswith("layer4.1.downsample") for key in chain.tensors())


@pytest.mark.parametrize(
    ("stem", "sides"), [("imagenet", [8, 8, 4, 2, 1]), ("small", [16, 16, 8, 4, 2]), ("cifar", [32, 32, 16, 8, 4])]
)
def test_the_stem_decides_how_large_the_maps_are(stem, sides):
    rows = costs(resnet.resnet10(last_block={}, width=4, stem=stem), 32)
    assert [row.spatial[0] for row in rows[:-1]] == sides
    assert [row.width for row in rows] == [4, 4, 8, 16, 32, 32]


@pytest.mark.parametrize(("name", "expected"), [("resnet18", [4, 4, 8, 16, 32]), ("resnet50", [4, 16, 32, 64, 128])])
def test_every_width_follows_the_stems(name, expected):
    with torch.device("meta"):
        rows = costs(getattr(resnet, name)(last_block={}, width=4), 32)
    assert sorted({row.width for row in rows if row.name.startswith(("layer", "stem"))}) == sorted(set(expected))


def test_weights_are_drawn_as_torchvision_draws_them():
    torch.manual_seed(0)
    tensors = resnet.resnet18(last_block={"width": 700}, width=16).tensors()
    weight = tensors["layer4.1.conv2.weight"]  # 700 outputs of 3×3
    assert math.isclose(weight.std().item(), math.sqrt(2 / (700 * 9)), rel_tol=0.02)
    assert tensors["layer4.1.bn2.weight"].eq(1).all() and tensors["layer4.1.bn2.bias"].eq(0).all()


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_a_zeroed_residual_network_begins_as_its_shortcuts_alone(name):
    chain = getattr(resnet, name)(last_block={}, width=4, zero_init_residual=True).eval()
    block, x = chain.block("layer1.0"), torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = x if block.downsample is None else block.downsample(x).relu()
    assert torch.allclose(block(x), expected)


def test_maps_keep_the_channels_last_order_through_the_whole_backbone():
    chain = drawn("resnet10", width=8, stem="small").to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)
    assert chain.cut("layer4")(x).is_contiguous(memory_format=torch.channels_last)


def test_a_map_smaller_than_the_stride_has_the_same_gradient_each_time_in_bf16():
    torch.manual_seed(0)
    layer = resnet.conv(16, 32, kernel=3, stride=2).to(memory_format=torch.channels_last)
    pixel = torch.randn(256, 16, 1, 1).contiguous(memory_format=torch.channels_last)
    found = []
    for _ in range(8):
        litter = [torch.full((size,), math.nan) for size in (1_000, 10_000, 100_000, 1_000_000)]
        del litter  # what a kernel that reads what it did not write would find
        with torch.autocast("cpu", torch.bfloat16):
            mapped = layer(pixel)
        found.append(torch.autograd.grad(mapped.float().square().sum(), layer.weight)[0])
    assert all(torch.equal(each, found[0]) for each in found)
