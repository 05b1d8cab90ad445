"""ResNets (arXiv 1512.03385) with torchvision's tensor names, any width, and a last block that can be widened.

The last block's width is the lever of arXiv 2304.05369: only its last convolution, that one's batch norm and its
shortcut change.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslcut.model.chain import Block, Chain, Named
from sslcut.model.shortcut import projects


class Stem(Block):
    """The first convolution: images (B, 3, H, W) → (B, width, H/4, W/4) for `imagenet`, H/2 `small`, H `cifar`.

    `cifar-pad2` is solo-learn's: padded by 2, so that its map is H + 2.
    """

    folds = (("conv1", "bn1"),)

    def __init__(self, width: int, kind: str) -> None:
        super().__init__(width)
        kernel, stride = (7, 2) if kind == "imagenet" else (3, 2 if kind == "small" else 1)
        self.conv1 = conv(3, width, kernel=kernel, stride=stride, padding=2 if kind == "cifar-pad2" else kernel // 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if kind == "imagenet" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool(F.relu_(self.bn1(self.conv1(x))))


class Residual(Block, ABC):
    """A branch of convolutions plus the shortcut, then ReLU: (B, inputs, H, W) → (B, outputs, H/stride, W/stride)."""

    downsample: nn.Sequential | None

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """The convolutions, up to the last batch norm; a tensor of its own, which the sum may overwrite."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        out += x if self.downsample is None else self.downsample(x)
        return F.relu_(out)


class BasicBlock(Residual):
    """Two 3×3 convolutions: inputs → planes → outputs."""

    expansion = 1
    folds = (("conv1", "bn1"), ("conv2", "bn2"), ("downsample.0", "downsample.1"))
    widened = ("conv2", "bn2", "downsample")

    def __init__(self, inputs: int, planes: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__(outputs)
        self.conv1 = conv(inputs, planes, kernel=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, outputs, kernel=3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride, shortcut)

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(Residual):
    """1×1, 3×3 (which strides, as torchvision's does) and 1×1 convolutions: inputs → planes → planes → outputs."""

    expansion = 4
    folds = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("downsample.0", "downsample.1"))
    widened = ("conv3", "bn3", "downsample")

    def __init__(self, inputs: int, planes: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__(outputs)
        self.conv1 = conv(inputs, planes, kernel=1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, kernel=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv(planes, outputs, kernel=1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride, shortcut)

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.relu_(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class AveragePool(Block):
    """The mean over all places of a map: (B, C, H, W) → (B, C); read under autocast, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        whole = not self.training and torch.is_autocast_enabled(x.device.type)
        return x.mean(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32) if whole else None)


class Conv(nn.Conv2d):
    """A convolution that is taken in float32 on a processor where its stride is larger than the map.

    There torch 2.14's gradient of the weights in bf16 reads memory that was never written: other numbers each time,
    and now and then NaN.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cpu" and min(input.shape[-2:]) < self.stride[0] and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float())
        return super().forward(input)


def conv(inputs: int, outputs: int, *, kernel: int, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    """A convolution without bias, padded to keep the map's size at stride 1, drawn as torchvision draws it."""
    padded = kernel // 2 if padding is None else padding
    layer = Conv(inputs, outputs, kernel, stride=stride, padding=padded, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def projection(inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Sequential | None:
    """The 1×1 convolution and batch norm on a block's shortcut; None where the shortcut is the identity.

    Raises UsageError as `projects` does.
    """
    if not projects(inputs, outputs, shortcut, stride):
        return None
    return nn.Sequential(conv(inputs, outputs, kernel=1, stride=stride), nn.BatchNorm2d(outputs))


def resnet10(
    *,
    last_block: Mapping[str, Any],
    width: Annotated[int, Field(gt=0)] = 64,
    stem: Literal["imagenet", "cifar", "cifar-pad2", "small"] = "imagenet",
    zero_init_residual: bool = False,
) -> Chain:
    """ResNet-10: one basic block a stage."""
    return _resnet(BasicBlock, (1, 1, 1, 1), last_block, width, stem, zero_init_residual)


def resnet18(
    *,
    last_block: Mapping[str, Any],
    width: Annotated[int, Field(gt=0)] = 64,
    stem: Literal["imagenet", "cifar", "cifar-pad2", "small"] = "imagenet",
    zero_init_residual: bool = False,
) -> Chain:
    """ResNet-18: two basic blocks a stage."""
    return _resnet(BasicBlock, (2, 2, 2, 2), last_block, width, stem, zero_init_residual)


def resnet34(
    *,
    last_block: Mapping[str, Any],
    width: Annotated[int, Field(gt=0)] = 64,
    stem: Literal["imagenet", "cifar", "cifar-pad2", "small"] = "imagenet",
    zero_init_residual: bool = False,
) -> Chain:
    """ResNet-34: 3, 4, 6 and 3 basic blocks."""
    return _resnet(BasicBlock, (3, 4, 6, 3), last_block, width, stem, zero_init_residual)


def resnet50(
    *,
    last_block: Mapping[str, Any],
    width: Annotated[int, Field(gt=0)] = 64,
    stem: Literal["imagenet", "cifar", "cifar-pad2", "small"] = "imagenet",
    zero_init_residual: bool = False,
) -> Chain:
    """ResNet-50: 3, 4, 6 and 3 bottlenecks."""
    return _resnet(Bottleneck, (3, 4, 6, 3), last_block, width, stem, zero_init_residual)


def resnet101(
    *,
    last_block: Mapping[str, Any],
    width: Annotated[int, Field(gt=0)] = 64,
    stem: Literal["imagenet", "cifar", "cifar-pad2", "small"] = "imagenet",
    zero_init_residual: bool = False,
) -> Chain:
    """ResNet-101: 3, 4, 23 and 3 bottlenecks."""
    return _resnet(Bottleneck, (3, 4, 23, 3), last_block, width, stem, zero_init_residual)


def _resnet(
    kind: type[BasicBlock] | type[Bottleneck],
    depths: Sequence[int],
    last_block: Mapping[str, Any],
    width: int,
    stem: str,
    zero_init_residual: bool,
) -> Chain:
    blocks: list[Named] = [("stem", "", Stem(width, stem))]
    inputs = width
    for stage, depth in enumerate(depths, start=1):
        planes = width * 2 ** (stage - 1)
        for index in range(depth):
            last = stage == len(depths) and index == depth - 1
            asked = last_block if last else {}
            outputs = asked.get("width") or planes * kind.expansion
            stride = 2 if stage > 1 and index == 0 else 1
            name = f"layer{stage}.{index}"
            blocks.append((name, f"{name}.", kind(inputs, planes, outputs, stride, asked.get("shortcut", "auto"))))
            inputs = outputs
    if zero_init_residual:
        _silence_branches(module for _, _, module in blocks)
    return Chain([*blocks, ("pool", "", AveragePool(inputs))])


def _silence_branches(blocks: Iterable[nn.Module]) -> None:
    """Begin every residual block as its shortcut alone (arXiv 1706.02677)."""
    for block in blocks:
        if isinstance(block, Bottleneck):
            nn.init.zeros_(block.bn3.weight)
        elif isinstance(block, BasicBlock):
            nn.init.zeros_(block.bn2.weight)
