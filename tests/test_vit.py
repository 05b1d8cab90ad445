"""Vision transformers: torchvision's tensors and outputs, images of other sizes."""

import pytest
import torch
import torchvision

from sslcut.errors import InputError, UsageError
from sslcut.model import vit
from sslcut.model.chain import Chain


def drawn(name: str = "vit_ti", **options: object) -> Chain:
    """A shallow transformer in eval mode with every tensor drawn, so that a forgotten one would show."""
    chain: Chain = getattr(vit, name)(**{"last_block": {}, "patch": 8, "size": 32, "depth": 2, **options})
    generator = torch.Generator().manual_seed(0)
    for tensor in chain.tensors().values():
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator) / 10)
    return chain.eval()


def images(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_a_transformer_loads_into_torchvision_and_gives_its_output():
    chain = drawn()
    peer = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768)
    peer.heads = torch.nn.Identity()
    peer.load_state_dict(chain.tensors(), strict=True)
    with torch.inference_mode():
        assert torch.allclose(chain(images(32, 32)), peer.eval()(images(32, 32)), atol=1e-5)


@pytest.mark.parametrize("patch", [16, 32])
def test_a_base_transformer_has_torchvisions_tensors_in_its_order(patch):
    with torch.device("meta"):
        chain = vit.vit_b(last_block={}, patch=patch)
        peer = getattr(torchvision.models, f"vit_b_{patch}")()
    peer.heads = torch.nn.Identity()
    ours = [(key, tensor.shape) for key, tensor in chain.tensors().items()]
    assert ours == [(key, tensor.shape) for key, tensor in peer.state_dict().items()]


@pytest.mark.parametrize(("name", "count"), [("vit_ti", 5_524_416), ("vit_s", 21_665_664), ("vit_b", 85_798_656)])
def test_a_transformer_has_the_published_number_of_parameters(name, count):
    with torch.device("meta"):
        chain = getattr(vit, name)(last_block={})
    assert sum(parameter.numel() for parameter in chain.parameters()) == count
    assert chain.names == ["stem", *(f"blocks.{i}" for i in range(12)), "norm", "pool"]


def test_a_transformer_is_drawn_as_torchvision_draws_it():
    torch.manual_seed(0)
    ours = vit.vit_ti(last_block={}, patch=8, size=64, depth=1).tensors()
    peer = torchvision.models.VisionTransformer(64, 8, num_layers=1, num_heads=3, hidden_dim=192, mlp_dim=768)
    for name, tensor in peer.state_dict().items():
        if name in ours:
            assert torch.allclose(ours[name].std(), tensor.std(), rtol=0.15), name
            assert torch.allclose(ours[name].mean(), tensor.mean(), atol=1e-2), name


@pytest.mark.parametrize(("height", "width", "tokens"), [(48, 48, 37), (16, 32, 9), (32, 32, 17)])
def test_images_of_another_size_get_interpolated_positions(height, width, tokens):
    stem = drawn().block("stem")
    assert stem(images(height, width)).shape == (2, tokens, 192)
    assert torch.equal(stem.positions(4, 4), stem.encoder["pos_embedding"])


def test_interpolated_positions_keep_the_class_tokens_and_which_way_is_down():
    stem = drawn().block("stem")
    rows = torch.arange(4.0).repeat_interleave(4)  # a patch's position is its row
    stem.encoder["pos_embedding"].data[0, 1:] = rows[:, None]
    grid = stem.positions(8, 2)[0, 1:].reshape(8, 2, -1)
    assert torch.equal(stem.positions(8, 2)[:, 0], stem.encoder["pos_embedding"][:, 0])
    assert (grid.diff(dim=0) > 0).all() and torch.allclose(grid[:, 0], grid[:, 1], atol=1e-5)


def test_images_that_do_not_divide_into_patches_are_refused_with_their_numbers():
    with pytest.raises(InputError, match="30×32 pixels do not divide into patches of 8") as caught:
        drawn()(images(30, 32))
    assert "such as 32" in caught.value.faults[0].hint


def test_a_size_that_does_not_divide_into_patches_is_refused_before_anything_is_built():
    with pytest.raises(UsageError, match="`size: 100` does not divide into patches of 16") as caught:
        vit.vit_b(last_block={}, size=100)
    assert "such as 96" in caught.value.faults[0].hint


def test_pooling_takes_the_class_token_or_the_mean_of_the_patches():
    by_token, by_mean = drawn(), drawn(pool="mean")
    tokens = by_token.cut("norm")(images(32, 32))
    assert torch.equal(by_token(images(32, 32)), tokens[:, 0])
    assert torch.allclose(by_mean(images(32, 32)), tokens[:, 1:].sum(1) / 16, atol=1e-5)


@pytest.mark.parametrize("width", [64, 192, 1000])
def test_a_transformer_of_width_d_adds_its_linear_its_shortcut_and_its_norm(width):
    with torch.device("meta"):
        stock, wide = (vit.vit_ti(last_block=last) for last in ({}, {"width": width, "shortcut": "always"}))
    counts = [sum(parameter.numel() for parameter in chain.parameters()) for chain in (stock, wide)]
    assert counts[1] - counts[0] == width * (4 * 192 + 1 + 192 + 2) - 192 * (4 * 192 + 1 + 2)
    assert wide.width == width and wide.block("norm").weight.shape == (width,)


def test_a_transformer_of_its_own_width_is_the_stock_one_to_the_bit():
    found = []
    for last_block in ({}, {"width": 192, "shortcut": "auto"}, {"width": 192, "shortcut": "never"}):
        torch.manual_seed(0)
        chain = vit.vit_ti(last_block=last_block, patch=8, size=32, depth=2, layer_scale=0.1)
        found.append((chain.tensors(), chain(images(32, 32))))
    for tensors, output in found[1:]:
        assert list(tensors) == list(found[0][0]) and torch.equal(output, found[0][1])
        assert all(torch.equal(tensor, found[0][0][name]) for name, tensor in tensors.items())


def test_a_wide_last_block_adds_its_branch_to_its_turned_tokens():
    block = drawn(last_block={"width": 40}, layer_scale=0.1).block("blocks.1")
    x = torch.randn(2, 5, 192, generator=torch.Generator().manual_seed(0))
    y = x + block.layer_scale_1 * block.self_attention(block.ln_1(x))
    expected = y @ block.shortcut.weight.T + block.layer_scale_2 * block.mlp(block.ln_2(y))
    assert expected.shape == (2, 5, 40) and torch.allclose(block(x), expected, atol=1e-5)
    with pytest.raises(UsageError, match=r"never.* channels into 40"):
        vit.vit_ti(last_block={"width": 40, "shortcut": "never"}, depth=1)
