"""SimCLR: a view is to be told from every other view of the batch by its own partner (arXiv 2002.05709)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.methods.base import Method, pairs
from sslcut.methods.negatives import hide_same_label
from sslcut.model.chain import Chain


class SimCLR(Method):
    """Two views of an image attract, all others of the batch repel; `temperature` says how sharply.

    `negatives: mask_same_label` leaves out images with the anchor's label in `task`, the first class task where null.
    """

    defaults = {
        "model": {"projector": {"widths": [256, 256, 128]}},
        "views": {"policy": "simclr", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(
        self,
        chain: Chain,
        *,
        temperature: float = 0.2,
        negatives: Literal["all", "mask_same_label"] = "all",
        task: str | None = None,
    ) -> None:
        super().__init__(chain)
        self.temperature, self.negatives, self.task = temperature, negatives, task
        self.uses_labels = negatives == "mask_same_label"

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """NT-Xent of z (V, B, D), the mean over pairs of views."""
        met = pairs(self.n_global, len(z))
        return torch.stack([nt_xent(torch.stack([z[a], z[b]]), self.temperature, labels) for a, b in met]).mean()


def nt_xent(z: Tensor, temperature: float, labels: Tensor | None = None) -> Tensor:
    """Cross-entropy of each row's partner among the 2B-1 other rows, by cosine over `temperature`; z (2, B, D).

    Equation 1 of the paper, averaged over the 2B rows; log(2B-1) where all rows are equal. With `labels` (B,) no row is
    held against others of its label.
    """
    batch = z.shape[1]
    rows = F.normalize(z.flatten(0, 1), dim=1) * temperature**-0.5  # (2B, D)
    logits = rows @ rows.T  # (2B, 2B)
    logits.detach().fill_diagonal_(-torch.inf)  # nothing flows back through -inf: to record it would copy a gradient
    partner = torch.arange(2 * batch, device=z.device).roll(batch)
    if labels is not None:
        both = labels.repeat(2)
        hide_same_label(logits, both, both, partner)
    return F.cross_entropy(logits, partner)
