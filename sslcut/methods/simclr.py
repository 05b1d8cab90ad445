"""SimCLR: a view is to be told from every other view of the batch by its own partner (arXiv 2002.05709)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.methods.base import Method
from sslcut.model.chain import Chain


class SimCLR(Method):
    """Two views of an image attract, all others of the batch repel; `temperature` says how sharply."""

    defaults = {
        "model": {"projector": {"widths": [256, 256, 128]}},
        "views": {"policy": "simclr", "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(self, chain: Chain, *, temperature: float = 0.2) -> None:
        super().__init__(chain)
        self.temperature = temperature

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """NT-Xent over both views, z (2, B, D)."""
        return nt_xent(z, self.temperature)


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each row's partner among the 2B-1 other rows, by cosine over `temperature`; z (2, B, D).

    Equation 1 of the paper, averaged over the 2B rows; log(2B-1) where all rows are equal.
    """
    batch = z.shape[1]
    rows = F.normalize(z.flatten(0, 1), dim=1) * temperature**-0.5  # (2B, D)
    logits = rows @ rows.T  # (2B, 2B)
    logits.detach().fill_diagonal_(-torch.inf)  # nothing flows back through -inf: to record it would copy a gradient
    partner = torch.arange(2 * batch, device=z.device).roll(batch)
    return F.cross_entropy(logits, partner)
