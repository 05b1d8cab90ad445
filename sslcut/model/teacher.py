"""A teacher: a copy of a network that follows it as an exponential moving average (arXiv 2006.07733, section 3.1)."""

import copy
import math

import torch
from torch import nn

from sslcut.model.chain import Chain


class Teacher(nn.Module):
    """A copy of `chain`, blocks and weights, that no gradient moves.

    Its batch norm keeps statistics of its own and trains along, as in the authors' code: only parameters follow.
    """

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.chain = copy.deepcopy(chain).requires_grad_(False)

    def begin(self, chain: Chain) -> None:
        """Become a copy of `chain` again, which has been given other weights: parameters and statistics."""
        theirs = chain.state_dict()
        self.chain.load_state_dict({name: theirs[name] for name in self.chain.state_dict()})

    @torch.no_grad()
    def follow(self, chain: Chain, momentum: float) -> None:
        """Move every parameter to momentum · own + (1 − momentum) · that of `chain` by the same name."""
        theirs = dict(chain.named_parameters())
        own = dict(self.chain.named_parameters())
        torch._foreach_lerp_(list(own.values()), [theirs[name] for name in own], 1 - momentum)


def rising(base: float, progress: float) -> float:
    """A momentum that rises along a cosine from `base` to 1 while `progress` goes from 0 to 1."""
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
