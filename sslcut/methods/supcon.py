"""SupCon: images of one class attract, in every view, all others repel (arXiv 2004.11362)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.methods.base import Method
from sslcut.model.chain import Chain


class SupCon(Method):
    """The loss L_out over the labels of `task`, the first class task where null.

    The loss is scaled by `temperature` over `base_temperature`, as in the authors' code; their 0.1 leaves a small
    network at the loss of equal outputs for longer than a short training lasts. An image without a label has its own
    other views for partners.
    """

    uses_labels = True
    min_views = 1
    defaults = {
        "model": {"projector": {"widths": [256, 128]}},
        "views": {"policy": {"name": "moco_v2", "blur": 0.0}, "crops": [{"count": 2, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "adamw", "lr": 0.002}},
    }

    def __init__(
        self, chain: Chain, *, temperature: float = 0.3, base_temperature: float = 0.07, task: str | None = None
    ) -> None:
        super().__init__(chain)
        self.temperature, self.base_temperature, self.task = temperature, base_temperature, task

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """L_out of z (V, B, D) with labels (B,), averaged over all V·B rows."""
        assert labels is not None
        own = -1 - torch.arange(len(labels), device=labels.device)  # a class of its own for an image without a label
        classes = torch.where(labels < 0, own, labels).repeat(z.shape[0])
        return self.temperature / self.base_temperature * l_out(z.flatten(0, 1), classes, self.temperature)


def l_out(z: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Equation 2 of the paper: mean over rows of the mean over partners of −log p(partner); z (N, D), classes (N,).

    A row without partner costs nothing.
    """
    rows = F.normalize(z, dim=1) * temperature**-0.5
    logits = rows @ rows.T
    self_pairs = torch.eye(len(z), dtype=torch.bool, device=z.device)
    partners = (classes[:, None] == classes) & ~self_pairs
    log = logits - logits.masked_fill(self_pairs, -torch.inf).logsumexp(dim=1, keepdim=True)
    shares = (log * partners).sum(dim=1) / partners.sum(dim=1).clamp(min=1)
    return -shares.mean()
