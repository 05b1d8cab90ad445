"""What each block costs: parameters and floating-point operations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sslcut.model.chain import Chain

PRODUCTS = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm)  # attention written out
BATCH = 2  # batch norm in training mode refuses one image whose map is a single place


@dataclass(frozen=True)
class BlockCost:
    """One block: what it gives and what it costs, alone, for one image.

    `width` counts channels; `spatial` is [H, W] of a map, [T] of tokens, [] of a vector. `flops` counts two for a
    multiply-add, in convolutions, linear layers and attention; what works element by element counts nothing.
    `activations` are the numbers that training keeps for the backward pass, about: what these layers, norms and
    activations that are not done in place give.
    """

    name: str
    width: int
    spatial: list[int]
    ndim: int
    parameters: int
    flops: int
    activations: int


def costs(chain: Chain, size: int) -> list[BlockCost]:
    """The cost of every block, in order, for images of `size`×`size` pixels; changes nothing.

    Runs two black images through zero weights: shapes alone (the meta device) would bring torch's compiler, whose
    import takes longer than the pass.
    """
    x = torch.zeros(BATCH, 3, size, size, device="cpu")
    rows = []
    for name, _, block in chain.items():
        with torch.no_grad(), Counter() as counter:
            x = _with_zeros(block, x)
        channels, spatial = (x.shape[1], x.shape[2:]) if x.ndim == 4 else (x.shape[-1], x.shape[1:-1])
        parameters = sum(parameter.numel() for parameter in block.parameters())
        shape = (channels, list(spatial), x.ndim)
        rows.append(BlockCost(name, *shape, parameters, counter.flops // BATCH, counter.kept // BATCH))
    return rows


def _with_zeros(block: nn.Module, x: Tensor) -> Tensor:
    tensors = {key: torch.zeros_like(tensor, device="cpu") for key, tensor in block.state_dict().items()}
    return functional_call(block, tensors, (x,))


_KEPT = (F.linear, torch.conv2d, F.scaled_dot_product_attention, F.batch_norm, F.layer_norm, F.gelu)


class Counter(TorchFunctionMode):
    """Counts the operations of the products inside it; torch's own counter agrees, but brings the compiler too.

    `flops` are all of them, `recorded` those where autograd was on; `kept` are the numbers that a backward pass needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.recorded = self.kept = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _KEPT:
            self.kept += out.numel()
        count = _operations(func, args, out)
        self.flops += count
        self.recorded += count * torch.is_grad_enabled()
        return out


def _operations(func: Callable[..., Any], args: Sequence[Any], out: Any) -> int:
    if func is F.linear or func in PRODUCTS:
        return int(2 * out.numel() * args[0].shape[-1])
    if func is torch.conv2d:
        return int(2 * out.numel() * prod(args[1].shape[1:]))
    if func is F.scaled_dot_product_attention:
        tokens, width = args[1].shape[-2:]  # keys (…, T, D); once for the scores, once for the sum of the values
        return int(2 * 2 * prod(args[0].shape[:-1]) * tokens * width)
    return 0
