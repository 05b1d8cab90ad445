"""A memory bank: the last few vectors that a network gave, first in, first out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """Room for `size` vectors of `width` numbers, with a label each; buffers, so that a state carries them.

    It starts as random directions of length 1 without a label, which is -1. `wrap` says what becomes of the part of a
    batch that does not fit before the end: it goes to the beginning (MoCo), or is dropped (t-ReX), and the next batch
    starts anew.
    """

    rows: Tensor
    labels: Tensor
    at: Tensor

    def __init__(self, size: int, width: int, *, wrap: bool = True) -> None:
        super().__init__()
        self.wrap = wrap
        self.register_buffer("rows", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("labels", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("at", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, vectors: Tensor, labels: Tensor | None = None) -> None:
        """Put vectors (B, D) and their labels (B,) over the oldest rows; of more than there is room for, the last."""
        size, count = len(self.rows), min(len(vectors), len(self.rows))
        place = self.at + torch.arange(count, device=self.at.device)
        fits, end, place = place < size, self.at + count, place % size
        vectors = vectors[-count:].to(self.rows.dtype)
        labels = self.labels[place] if labels is None else labels[-count:]
        if not self.wrap:  # what does not fit writes what is there already: choosing rows would wait for the device
            vectors = torch.where(fits[:, None], vectors, self.rows[place])
            labels = torch.where(fits, labels, self.labels[place])
        self.rows.index_copy_(0, place, vectors)
        self.labels.index_copy_(0, place, labels)
        self.at.copy_(end % size if self.wrap else torch.where(end < size, end, 0))
