"""Which rows go where: seeded, spread evenly over the classes, with no group on two sides.

All functions take labels (N,) int64, any integers (-1 for unlabelled rows is one more class), and give row indices.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def shuffled_by_class(labels: Tensor, seed: int) -> Tensor:
    """All row indices, class after class, in a seeded order within each."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return order[labels[order].argsort(stable=True)]


def choose(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` row indices in ascending order, from each class its share to within one row.

    Systematic sampling: every N/count-th row of the rows sorted by class. Where count <= N/2, no class of two or more
    rows is taken whole.
    """
    marks = torch.arange(len(labels) + 1) * count // max(len(labels), 1)
    return shuffled_by_class(labels, seed)[marks[1:] > marks[:-1]].sort().values


def deal(labels: Tensor, parts: int, seed: int) -> Tensor:
    """The part, 0 … parts-1, of each row: part sizes, and each class within them, differ by one row at most."""
    part = torch.empty(len(labels), dtype=torch.int64)
    part[shuffled_by_class(labels, seed)] = torch.arange(len(labels)) % parts
    return part


def deal_groups(groups: Tensor, labels: Tensor, shares: Sequence[float], seed: int) -> Tensor:
    """The part of each row where a group (N,) stays whole; needs at least as many groups as parts.

    Largest groups first, each goes where it adds least to sum over parts and classes of (rows held)² / (rows wanted),
    so every part comes near its share of every class; no part stays empty.
    """
    ids, group = torch.unique(groups, return_inverse=True)
    classes, label = torch.unique(labels, return_inverse=True)
    table = torch.zeros(len(ids), len(classes), dtype=torch.float64)  # rows of each group in each class
    table.index_put_((group, label), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    wanted = torch.tensor(shares, dtype=torch.float64).unsqueeze(1) * table.sum(dim=0)
    held = torch.zeros_like(wanted)
    part_of_group = torch.empty(len(ids), dtype=torch.int64)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    order = order[table.sum(dim=1)[order].argsort(descending=True, stable=True)]
    for placed, row in enumerate(order.tolist()):
        cost = ((2 * held + table[row]) * table[row] / wanted).sum(dim=1)
        filled = held.sum(dim=1) > 0
        if int((~filled).sum()) >= len(order) - placed:
            cost[filled] = torch.inf
        part = int(cost.argmin())
        part_of_group[row] = part
        held[part] += table[row]
    return part_of_group[group]
