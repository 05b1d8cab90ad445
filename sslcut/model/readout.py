"""How a block's output becomes one vector an image.

A block's kind is its number of dimensions: 4 a map (B, C, H, W), 3 tokens (B, T, D), 2 a vector (B, D). Sums run in
float32 whatever the block computes in, so that a bf16 pass loses nothing more here. Tokens can pass the network's final
norm first: `cls-normed` is what `cls` reads of the normalised tokens.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sslcut.errors import UsageError, suggestion
from sslcut.names import bare, fitting_readouts, is_normed

PART = 2**20  # numbers of a half-precision output that a processor turns to float32 at a time: its cache holds them

Norm = Callable[[Tensor], Tensor]
"""Normalises tokens (B, T, D)."""


def readouts(ndim: int, *, norm: bool = False) -> tuple[str, ...]:
    """The read-outs that fit a block whose output has `ndim` dimensions; the first is the usual one.

    `norm` says whether the network's final norm stands behind the block.
    """
    return fitting_readouts(ndim - 2, norm=norm)  # beside its sides an output has batch and width


def fitting(ndim: int, asked: Sequence[str], *, class_token: bool = True, norm: bool = False) -> list[str]:
    """Those of `asked` that fit a block, in their order; where none does, the kind's usual one.

    A vector has one read-out, `vector`, whatever is asked; tokens without a class token have only the `mean`.
    """
    known = fitting_readouts(ndim - 2, norm=norm, class_token=class_token)
    return [readout for readout in asked if readout in known] or [known[0]]


def read(x: Tensor, readout: str, prefix_tokens: int, norm: Norm | None = None, *, class_token: bool = True) -> Tensor:
    """The vectors (B, D), float32, that `readout` makes of a block's output.

    Raises UsageError where the read-out does not fit the output's kind.
    """
    return read_all(x, [readout], prefix_tokens, norm, class_token=class_token)[readout]


def read_all(
    x: Tensor, names: Sequence[str], prefix_tokens: int, norm: Norm | None = None, *, class_token: bool = True
) -> dict[str, Tensor]:
    """What `read` gives for each of `names`, from one reduction where they can share it: `avg` is the mean of `grid2`.

    Tokens pass `norm` once for all read-outs that want it.
    """
    if x.ndim == 3 and not (class_token and prefix_tokens) and any(bare(name) != "mean" for name in names):
        raise UsageError("read-out `cls` needs a class token, and this network has none", hint="use `mean`")
    known = readouts(x.ndim, norm=norm is not None)
    for name in names:
        if name not in known:
            what = f"read-out `{name}` does not fit an output of shape {tuple(x.shape)}"
            raise UsageError(what, hint=suggestion(name, known, "fitting"))
    passing = [name for name in names if is_normed(name)]
    found = _in_parts(x, [name for name in names if name not in passing], prefix_tokens)
    if passing and norm is not None:
        vectors = _in_parts(norm(x), [bare(name) for name in passing], prefix_tokens)
        found |= {name: vectors[bare(name)] for name in passing}
    return {name: found[name] for name in names}


def _in_parts(x: Tensor, names: Sequence[str], prefix_tokens: int) -> dict[str, Tensor]:
    """On a processor a half-precision output becomes float32 part by part, never as a whole."""
    if x.is_cuda or x.dtype == torch.float32 or x.ndim == 2:
        return _read(x, names, prefix_tokens)
    step = max(1, PART // max(1, x[:1].numel()))
    parts = [_read(part, names, prefix_tokens) for part in torch.split(x, step)]
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def _read(x: Tensor, names: Sequence[str], prefix_tokens: int) -> dict[str, Tensor]:
    if x.ndim == 4:
        return _of_map(x, names)
    if x.ndim == 3:
        return {name: _of_tokens(x, name, prefix_tokens) for name in names}
    return {name: x.float() for name in names}


def _of_map(x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Of a map (B, C, H, W): `avg` the mean over all places (B, C), `avg+max` that and the maximum (B, 2C).

    `grid2` (B, 4C) is the means of 2×2 cells, a channel's four together: upper left, upper right, lower left and right.
    """
    cells = _cells(x) if "grid2" in names else None
    # cells of one size: the mean of their means is the map's
    average = cells.mean(dim=(2, 3)) if cells is not None and _even(x) else x.mean(dim=(2, 3), dtype=torch.float32)
    found = {"avg": average}
    if cells is not None:
        found["grid2"] = cells.flatten(1)
    if "avg+max" in names:
        found["avg+max"] = torch.cat([average, x.amax(dim=(2, 3)).float()], dim=1)
    return {name: found[name] for name in names}


def _cells(x: Tensor) -> Tensor:
    """The means of 2×2 cells of a map, (B, C, 2, 2) float32; at odd sides the middle is in both, as torch pools."""
    if x.is_cuda and _even(x):  # a GPU's `mean` sums half precision in float32 without a float32 map
        count, channels, height, width = x.shape
        halves = x.reshape(count, channels, 2, height // 2, width).mean(dim=3, dtype=torch.float32)
        return halves.reshape(count, channels, 2, 2, width // 2).mean(dim=4)
    return F.adaptive_avg_pool2d(x.float(), 2)


def _even(x: Tensor) -> bool:
    return x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0


def _of_tokens(x: Tensor, name: str, prefix_tokens: int) -> Tensor:
    """Of tokens (B, T, D): `cls` the class token, `mean` over the patches, without class token or registers; (B, D).

    `cls+mean` (B, 2D) is both.
    """
    if name == "mean":
        return x[:, prefix_tokens:].mean(dim=1, dtype=torch.float32)
    first = x[:, 0].float()
    return first if name == "cls" else torch.cat([first, _of_tokens(x, "mean", prefix_tokens)], dim=1)
