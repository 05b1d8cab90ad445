"""Supervised learning: the classifier at the chain's end names the class of every view."""

from torch import Tensor
from torch.nn import functional as F

from sslcut.methods.base import Method
from sslcut.model.chain import Chain


class Supervised(Method):
    """Cross-entropy on the labels of `task` (the first class task where null), over every view.

    `label_smoothing` is the share of the target spread over all classes.
    """

    uses_labels = True
    needs_classifier = True
    n_views = None
    defaults = {
        "model": {"projector": None},
        "views": {"policy": "supervised", "crops": [{"count": 1, "scale": [0.2, 1.0]}]},
        "train": {"optimizer": {"name": "sgd", "lr": 0.2, "weight_decay": 5e-4}},
    }

    def __init__(self, chain: Chain, *, label_smoothing: float = 0.0, task: str | None = None) -> None:
        super().__init__(chain)
        self.label_smoothing, self.task = label_smoothing, task

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The mean over views and labelled images; z (V, B, C) logits, labels (B,), -1 where there is none."""
        assert labels is not None
        targets = labels.repeat(z.shape[0])  # (V·B,)
        total = F.cross_entropy(
            z.flatten(0, 1), targets, ignore_index=-1, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / (targets >= 0).sum().clamp(min=1)  # a batch without labels costs nothing, rather than NaN
