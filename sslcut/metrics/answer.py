"""Which layers may be the best, how often each one is, and which one to read: from paired resamples of their scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

SHARED = "log_odds"  # the scale on which scores of different tasks can be averaged


@dataclass(frozen=True)
class Verdict:
    """The candidates (by index) that may be the best, how often each of all was, and the one to read."""

    members: list[int]
    frequency: list[float]
    chosen: int


def judge(values: Tensor, replicates: Tensor, reference: int) -> Verdict:
    """The answer for candidates in network order, of scores (K,) and their resamples (K, B).

    Recommended is the reference if it may be the best, else the earliest candidate that may be. Resamples in which some
    score is no number (R² of a target that came out constant) count for nothing.
    """
    replicates = replicates[:, replicates.isfinite().all(dim=0)]
    members = best_set(values, replicates).nonzero().flatten().tolist()
    return Verdict(members, wins(replicates).tolist(), reference if reference in members else members[0])


def best_set(values: Tensor, replicates: Tensor, level: float = 0.95) -> Tensor:
    """The candidates that may be the best, as a mask (K,); it holds the best one with probability `level` or more.

    A candidate is left out where some other leads it by more than q standard errors of their paired difference. q is
    the `level` quantile of the largest such studentised difference over all ordered pairs at once, so that with equal
    candidates nothing is left out with that probability, however many there are.
    """
    values, replicates = values.double(), replicates.double()
    largest = torch.zeros(replicates.shape[1], dtype=torch.float64)
    leads, errors = [], []
    for value, own in zip(values, replicates, strict=True):
        lead = values - value  # (K,): how far each other one is ahead of this one
        resampled = replicates - own  # (K, B)
        error = resampled.std(dim=1)
        off = (resampled - lead[:, None]).nan_to_num(0.0)
        largest = torch.maximum(largest, torch.where(error[:, None] > 0, off / error[:, None], 0.0).amax(dim=0))
        leads.append(lead)
        errors.append(error)
    doubt = (level * (1 - level) / len(largest)) ** 0.5  # of a quantile from so many resamples: err on the wide side
    q = largest.quantile(min(1.0, level + doubt))
    return ~(torch.stack(leads) > q * torch.stack(errors)).any(dim=1)


def wins(replicates: Tensor) -> Tensor:
    """In which share of the resamples each candidate is the best: (K,), equals sharing a win."""
    top = (replicates == replicates.amax(dim=0)).double()
    return (top / top.sum(dim=0)).mean(dim=1)


def comparable(scores: Tensor, metric: str, rows: int) -> Tensor:
    """Scores on a scale whose differences can be averaged over tasks: log-odds of a share, −log(1 − R²) of R².

    A score that is (nearly) perfect, or a share near nought, counts as half a row short of it. What is on that scale
    already (`SHARED`) stays as it is.
    """
    scores, half = scores.double(), 1 / (2 * rows)
    if metric == SHARED:
        return scores
    if metric == "r2":
        return -(1 - scores).clamp_min(half).log()
    return scores.clamp(half, 1 - half).logit()
