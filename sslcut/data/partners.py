"""Label-defined positives: for each image of a batch another one with the same label (arXiv 2206.13378's control)."""

import torch
from torch import Tensor

from sslcut.data.draws import uniform

DRAW = -1  # what a partner is drawn with; views draw with the numbers from 0 on


class Partners:
    """Draws partners from `labels` (N,), -1 where an image has none.

    An image without a label, or the only one with its label, is its own partner: there are `alone` of them.
    """

    def __init__(self, labels: Tensor, seed: int) -> None:
        self.seed = seed
        self.order = labels.argsort(stable=True)  # (N,) the images, label by label
        ordered = labels[self.order]
        self.place = self.order.argsort()  # (N,) where each image stands among them
        self.first = torch.searchsorted(ordered, labels)  # (N,) where its label begins
        self.count = torch.searchsorted(ordered, labels, right=True) - self.first
        self.count[labels < 0] = 1
        self.first[labels < 0] = self.place[labels < 0]

    @property
    def alone(self) -> int:
        """How many images have no other to be paired with."""
        return int((self.count == 1).sum())

    def __call__(self, indices: Tensor, epoch: int) -> Tensor:
        """The partners (B,) of the images at `indices` (B,) in one epoch, each of the others equally likely."""
        first, count = self.first[indices], self.count[indices]
        chance = uniform(self.seed, epoch, indices, torch.tensor(DRAW))
        step = 1 + (chance * (count - 1)).long().clamp(max=count - 2).clamp(min=0)
        return self.order[first + (self.place[indices] - first + step) % count]
