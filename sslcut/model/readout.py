"""How a block's output becomes one vector an image.

A block's kind is its number of dimensions: 4 a map (B, C, H, W), 3 tokens (B, T, D), 2 a vector (B, D). Sums run in
float32 whatever the block computes in, so that a bf16 pass loses nothing more here.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sslcut.errors import UsageError, suggestion
from sslcut.names import READOUTS


def avg(x: Tensor) -> Tensor:
    """The mean over all places of a map: (B, C, H, W) → (B, C)."""
    return x.mean(dim=(2, 3), dtype=torch.float32)


def grid2(x: Tensor) -> Tensor:
    """The means of 2×2 cells of a map: (B, C, H, W) → (B, 4C).

    A channel's four cells stand together: upper left, upper right, lower left, lower right, then the next channel.
    """
    return F.adaptive_avg_pool2d(x.float(), 2).flatten(1)


def avg_max(x: Tensor) -> Tensor:
    """The mean, then the maximum, over all places of a map: (B, C, H, W) → (B, 2C)."""
    return torch.cat([avg(x), x.amax(dim=(2, 3)).float()], dim=1)


def cls(x: Tensor, prefix_tokens: int) -> Tensor:
    """The class token: (B, T, D) → (B, D). Raises UsageError where there is none."""
    if prefix_tokens == 0:
        raise UsageError("read-out `cls` needs a class token, and this network has none", hint="use `mean`")
    return x[:, 0].float()


def mean(x: Tensor, prefix_tokens: int) -> Tensor:
    """The mean over the patches, without class token or registers: (B, T, D) → (B, D)."""
    return x[:, prefix_tokens:].mean(dim=1, dtype=torch.float32)


def cls_mean(x: Tensor, prefix_tokens: int) -> Tensor:
    """The class token, then the mean over the patches: (B, T, D) → (B, 2D)."""
    return torch.cat([cls(x, prefix_tokens), mean(x, prefix_tokens)], dim=1)


MAPS: dict[str, Callable[[Tensor], Tensor]] = {"avg": avg, "grid2": grid2, "avg+max": avg_max}
TOKENS: dict[str, Callable[[Tensor, int], Tensor]] = {"cls": cls, "mean": mean, "cls+mean": cls_mean}
FITTING = {sides + 2: names for sides, names in READOUTS.items()}  # beside its sides an output has batch and width


def readouts(ndim: int) -> tuple[str, ...]:
    """The read-outs that fit a block whose output has `ndim` dimensions; the first is the usual one."""
    return FITTING[ndim]


def fitting(ndim: int, asked: Sequence[str]) -> list[str]:
    """Those of `asked` that fit a block, in their order; where none does, the kind's usual one.

    A vector has one read-out, `vector`, whatever is asked.
    """
    known = readouts(ndim)
    return [readout for readout in asked if readout in known] or [known[0]]


def read(x: Tensor, readout: str, prefix_tokens: int) -> Tensor:
    """The vectors (B, D), float32, that `readout` makes of a block's output.

    Raises UsageError where the read-out does not fit the output's kind.
    """
    if readout not in readouts(x.ndim):
        what = f"read-out `{readout}` does not fit an output of shape {tuple(x.shape)}"
        raise UsageError(what, hint=suggestion(readout, readouts(x.ndim), "fitting"))
    if x.ndim == 4:
        return MAPS[readout](x)
    return TOKENS[readout](x, prefix_tokens) if x.ndim == 3 else x.float()
