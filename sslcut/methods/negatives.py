"""Which images a contrastive loss holds against each other."""

import torch
from torch import Tensor


def hide_same_label(logits: Tensor, rows: Tensor, columns: Tensor, own: Tensor) -> None:
    """Take out of logits (N, M), in place, the negatives that share their row's label.

    `rows` (N,) and `columns` (M,) are labels, -1 where there is none, and `own` (N,) each row's positive, which stays.
    With few classes many of a batch's negatives show what the anchor shows (arXiv 2206.13378's control).
    """
    same = (rows[:, None] == columns) & (rows >= 0)[:, None]
    same.scatter_(1, own[:, None], False)
    logits.detach().masked_fill_(same, -torch.inf)  # to record it would copy a gradient that is 0
