"""LeJEPA: views agree with their mean, and the outputs are an isotropic Gaussian (arXiv 2511.08544)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.methods.base import Method
from sslcut.model.chain import Chain


class LeJEPA(Method):
    """Every view predicts the mean of the global ones; SIGReg, weighed by `weight`, keeps z from collapsing.

    SIGReg compares z along random directions (`slices`) with a standard normal by the Epps-Pulley statistic: `knots`
    frequencies from 0 to `highest`.
    """

    min_views = 1
    defaults = {
        "model": {"projector": {"widths": [512, 512, 64]}},
        "views": {"policy": "simclr", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(
        self, chain: Chain, *, weight: float = 0.05, slices: int = 256, knots: int = 17, highest: float = 3.0
    ) -> None:
        super().__init__(chain)
        self.weight, self.slices, self.knots, self.highest = weight, slices, knots, highest

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """(1 − weight) · mean squared distance to the global views' mean + weight · SIGReg; z (V, B, D)."""
        centre = z[: self.n_global].mean(dim=0)
        drawn = torch.randn(z.shape[2], self.slices, generator=self.generator(z.device), device=z.device, dtype=z.dtype)
        directions = F.normalize(drawn, dim=0)
        gaussian = torch.stack([epps_pulley(view @ directions, self.knots, self.highest) for view in z]).mean()
        return (1 - self.weight) * (z - centre).square().mean() + self.weight * gaussian


def epps_pulley(samples: Tensor, knots: int, highest: float) -> Tensor:
    """N · ∫ |ψ(t) − e^{−t²/2}|² e^{−t²/2} dt of samples (N, S) along each of S directions, the mean over them.

    ψ is the samples' characteristic function; the integral over ±`highest` is twice that from 0, by trapezoids.
    """
    t = torch.linspace(0, highest, knots, device=samples.device, dtype=samples.dtype)
    normal = (-t.square() / 2).exp()
    turned = samples[..., None] * t  # (N, S, knots)
    apart = (turned.cos().mean(dim=0) - normal).square() + turned.sin().mean(dim=0).square()
    return 2 * len(samples) * torch.trapezoid(apart * normal, t, dim=1).mean()
