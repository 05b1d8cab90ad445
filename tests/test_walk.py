"""How a network of another library is seen to run, and how it becomes a chain."""

import pytest
import torch
from torch import nn

from sslcut.errors import InputError
from sslcut.model.borrowed import chain_of
from sslcut.model.walk import gapped, in_line, pieces, watch


class Residual(nn.Module):
    """A sum that is written into the branch's own output, so that the tensor itself goes on."""

    def __init__(self, width: int, inplace: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.inplace = inplace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.norm(self.conv(x))
        if self.inplace:
            out += x
            return self.act(out)
        return self.act(out + x)


class Small(nn.Module):
    """A stem of loose layers, a sequence of blocks, a pooling that is flattened by a function, a classifier."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(*(blocks or (Residual(4), Residual(4))))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer1(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def images(size: int = 16) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inplace", [True, False])
def test_a_residual_block_has_a_gap_even_where_its_sum_is_written_in_place(inplace):
    call = watch(Small(Residual(4, inplace), Residual(4, inplace)), 16)
    blocks = [inner for inner in call.everything() if isinstance(inner.module, Residual)]
    assert len(blocks) == 2 and not any(in_line(block) for block in blocks)


def test_containers_give_way_to_their_blocks_and_blocks_stay_whole():
    call = watch(Small(), 16)
    found = [piece.path for inner in call.inner for piece in pieces(inner, gapped(call))]
    assert found == ["conv1", "bn1", "relu", "layer1.0", "layer1.1", "avgpool", "fc"]


def test_a_network_can_be_watched_in_a_callers_inference_mode():
    with torch.inference_mode():
        assert [call.path for call in watch(Small(), 16).inner] == [call.path for call in watch(Small(), 16).inner]


def test_watching_changes_nothing():
    network = Small().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    watch(network, 16)
    assert network.training and not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_chain_of_a_network_gives_what_the_network_gives():
    network = Small().eval()
    chain = chain_of(network, 16, [network.fc], "small").eval()
    assert chain.names == ["stem", "layer1.0", "layer1.1", "pool", "classifier"]
    assert set(chain.tensors()) == set(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(chain(images()), network(images()))
        assert chain.cut("pool")(images()).shape == (2, 4)


def test_what_is_left_of_a_chain_copies_as_one():
    from copy import deepcopy

    network = Small().eval()
    chain = chain_of(network, 16, [network.fc], "small").eval()
    copied = deepcopy(chain)
    with torch.inference_mode():
        copied.tensors()["conv1.weight"].zero_()
        assert not torch.equal(copied(images()), chain(images()))
        assert torch.equal(chain(images()), network(images()))


class Last(nn.Module):
    """A block that takes and gives (B, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(x)


class Turned(nn.Module):
    """A network whose blocks keep the channels last, and whose pooling wants them first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), Turn(0, 2, 3, 1))
        self.blocks = nn.Sequential(Last(), Last())
        self.norm, self.permute = nn.LayerNorm(4), Turn(0, 3, 1, 2)
        self.avgpool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.permute(self.norm(self.blocks(self.stem(x))))
        return self.head(self.flatten(self.avgpool(x)))


class Turn(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.order)


def test_maps_with_channels_last_come_out_with_channels_first():
    network = Turned().eval()
    chain = chain_of(network, 24, [network.head], "turned").eval()
    assert chain.names == ["stem", "blocks.0", "blocks.1", "norm", "pool", "classifier"]
    with torch.inference_mode():
        x = images(24)
        assert torch.equal(chain(x), network(x))
        inner = network.blocks[0](network.stem(x))  # (B, 6, 6, 4)
        assert torch.equal(chain.run(x, upto="blocks.0"), inner.permute(0, 3, 1, 2))


class Forked(nn.Module):
    """Two paths side by side: no line."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.left, self.right = Residual(4), Residual(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.fc((self.left(x) + self.right(x)).mean((2, 3)))


def test_a_network_of_two_paths_is_refused_by_name():
    network = Forked()
    with pytest.raises(InputError, match=r"forked cannot be divided into blocks: around its module `\w+"):
        chain_of(network, 16, [network.fc], "forked")
