"""Files as other projects write them: the real architectures with every tensor drawn, under each source's names."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn


@dataclass
class Case:
    """A file's content, and what the source computes with it: the backbone's vector, and the head's of that."""

    content: Any
    backbone: Callable[[Tensor], Tensor]
    head: nn.Module | None = None
    size: int = 64


class UnitLength(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1)


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation mode with every tensor drawn, so that one left behind would show."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        near_one = tensor.ndim == 1 and (name.endswith("running_var") or (tensor == 1).all())
        tensor.copy_(1 + noise.abs() / 10 if near_one else noise / max(1.0, tensor[0].numel()) ** 0.5)
    return module.eval()


def resnet(seed: int = 0, cifar_padding: int | None = None) -> nn.Module:
    """torchvision's ResNet-18 without its classifier; with a CIFAR stem where a padding is given."""
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    if cifar_padding is not None:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=cifar_padding, bias=False)
        network.maxpool = nn.Identity()
    return drawn(network, seed)


def mlp(inputs: int, *widths: int, bias: bool = True, last_bias: bool = True, last: str = "", norm: bool = True,
        activation: type[nn.Module] = nn.ReLU, seed: int = 1) -> nn.Sequential:  # fmt: skip
    """Linear, norm and activation a layer, the last one linear; `last` is `norm` or `plain norm` (without a scale)."""
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        end = index == len(widths) - 1
        layers.append(nn.Linear(inputs, width, bias=last_bias if end else bias))
        if (norm and not end) or (end and last):
            layers.append(nn.BatchNorm1d(width, affine=last != "plain norm" or not end))
        if not end:
            layers.append(activation())
        inputs = width
    return drawn(nn.Sequential(*layers), seed)


def under(prefix: str, module: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's tensors with a prefix before their names."""
    tensors = module.state_dict() if isinstance(module, nn.Module) else module
    return {prefix + name: tensor for name, tensor in tensors.items()}


OPTIMISER = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def vicreg() -> Case:
    network, head = resnet(), mlp(512, 64, 64, 32, last_bias=False)
    tensors = {**under("module.backbone.", network), **under("module.projector.", head)}
    return Case({"epoch": 1, "model": tensors, "optimizer": OPTIMISER}, network, head)


def barlow_twins() -> Case:
    network, head = resnet(), mlp(512, 64, 32, bias=False, last_bias=False)
    loss = under("module.bn.", nn.BatchNorm1d(32, affine=False))
    tensors = {**under("module.backbone.", network), **under("module.projector.", head), **loss}
    return Case({"epoch": 1, "model": tensors}, network, head)


def moco(*widths: int) -> Case:
    network, head = resnet(), mlp(512, *widths, norm=False)
    other = {**under("module.encoder_k.", resnet(5)), **under("module.encoder_k.fc.", mlp(512, *widths, norm=False))}
    names = {"": "weight"} if len(widths) == 1 else {}
    tensors = {**under("module.encoder_q.", network), **under("module.encoder_q.fc.", head), **other}
    if names:  # version 1 has the one linear layer itself
        tensors = {name.replace(".fc.0.", ".fc."): tensor for name, tensor in tensors.items()}
    queue = {"module.queue": torch.zeros(widths[-1], 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return Case({"epoch": 1, "arch": "resnet18", "state_dict": {**tensors, **queue}}, network, head)


def moco_v3() -> Case:
    network, head = resnet(), mlp(512, 64, 32, bias=False, last_bias=False, last="plain norm")
    predictor = mlp(32, 64, 32, bias=False, last_bias=False)
    tensors = {**under("module.base_encoder.", network), **under("module.base_encoder.fc.", head)}
    tensors |= {**under("module.momentum_encoder.", resnet(5)), **under("module.predictor.", predictor)}
    return Case({"state_dict": tensors}, network, nn.Sequential(head, predictor))


def simsiam() -> Case:
    network, head = resnet(), mlp(512, 64, 64, 64, bias=False, last="plain norm")
    predictor = mlp(64, 16, 64, bias=False)
    tensors = {**under("module.encoder.", network), **under("module.encoder.fc.", head)}
    return Case({"state_dict": {**tensors, **under("module.predictor.", predictor)}}, network,
                nn.Sequential(head, predictor))  # fmt: skip


def swav() -> Case:
    network, head = resnet(), mlp(512, 64, 32)
    tensors = {**under("module.", network), **under("module.projection_head.", head)}
    return Case({**tensors, "module.prototypes.weight": torch.zeros(30, 32)}, network, head)


def solo_learn(cifar: bool) -> Case:
    network, head = resnet(cifar_padding=2 if cifar else None), mlp(512, 64, 32)
    predictor = mlp(32, 64, 32)
    tensors = {**under("backbone.", network), **under("projector.", head), **under("predictor.", predictor)}
    tensors |= {**under("momentum_backbone.", resnet(5)), **under("momentum_projector.", mlp(512, 64, 32, seed=6))}
    tensors |= under("classifier.", nn.Linear(512, 10))
    content = {"state_dict": tensors, "pytorch-lightning_version": "2.1.2", "optimizer_states": [OPTIMISER]}
    return Case(content, network, nn.Sequential(head, predictor), 32 if cifar else 64)


def lightly(cifar: bool) -> Case:
    """lightly's examples keep a backbone as a Sequential: of torchvision's children, or of its own ResNet's."""
    network, head = resnet(cifar_padding=1 if cifar else None), mlp(512, 64, 32)
    numbers = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    places = dict(zip(numbers, (0, 1, 2, 3, 4, 5) if cifar else (0, 1, 4, 5, 6, 7), strict=True))
    backbone = {}
    for name, tensor in network.state_dict().items():
        first, _, rest = name.partition(".")
        backbone[f"{places[first]}.{rest}".replace("downsample", "shortcut" if cifar else "downsample")] = tensor
    tensors = {**under("backbone.", backbone), **under("projection_head.layers.", head)}
    return Case(tensors, network, head, 32 if cifar else 64)


def lightly_dino() -> Case:
    """In lightly's benchmark of DINO `backbone` is the teacher."""
    network, head = resnet(), mlp(512, 64, 32, activation=nn.GELU, last_bias=True)
    teacher = {**under("backbone.", network), **under("projection_head.layers.", head)}
    student = {**under("student_backbone.", resnet(5)), **under("student_projection_head.layers.", head)}
    return Case({"state_dict": {**teacher, **student}}, network, head)


def dino() -> Case:
    network, head = resnet(), mlp(512, 64, 64, 32, norm=False, activation=nn.GELU)
    last = {"last_layer.weight_g": torch.ones(9, 1), "last_layer.weight_v": torch.ones(9, 32)}
    teacher = {**under("module.backbone.", network), **under("module.head.mlp.", head), **under("module.head.", last)}
    student = {name: tensor + 1 for name, tensor in teacher.items()}
    return Case({"student": student, "teacher": teacher, "optimizer": OPTIMISER, "epoch": 3}, network, head)


def vissl() -> Case:
    network, head = resnet(), mlp(512, 64, 32)
    heads = {**under("0.projection_head.", head), "0.prototypes0.weight": torch.zeros(30, 32)}
    model = {"trunk": under("_feature_blocks.", network), "heads": heads}
    state = {"base_model": {"model": model, "meta": {}}, "optimizer": OPTIMISER, "loss": {}}
    return Case({"phase_idx": 1, "classy_state_dict": state}, network, head)


def trex(unit_input: bool) -> Case:
    network = resnet()
    hidden = nn.Sequential(OrderedDict(fc=nn.Linear(512, 64), bn=nn.BatchNorm1d(64), act=nn.GELU()))
    before = [UnitLength()] if unit_input else []
    head = drawn(nn.Sequential(*before, hidden, nn.Linear(64, 32, bias=False)))
    mine = {**under("encoder.", network), **under("head.layers.", head)}
    tensors = {**under("module.model.", mine), **under("module.model_ema.", {k: v + 1 for k, v in mine.items()})}
    tensors |= {"module.memory.features": torch.zeros(8, 32), "module.memory.ptr": torch.zeros(1)}
    return Case({"model": tensors, "optimizer": OPTIMISER}, network, head)


def save(case: Case, path: Path) -> Path:
    torch.save(case.content, path)
    return path


def images(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(9))
