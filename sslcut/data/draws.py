"""Random numbers that depend on what they are for, not on when they are asked for.

A number is a hash of (seed, epoch, image, draw): SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), keyed image by image.
No generator has a state, so another batch size, order, device, number of processes or a restart gives the same numbers.
"""

from functools import lru_cache

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, SplitMix64's step
MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
BITS = 53  # as many as float64 holds


def uniform(seed: int, epoch: int, indices: Tensor, draws: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, in the shape that `indices` and `draws` (both int64) broadcast to.

    `indices` are the images' places in the whole data set and `draws` count what one image draws in one epoch. `seed`
    and `epoch` may be any integers; the numbers are made where `indices` lie and are the same on every device.
    """
    key = _key(seed, epoch)
    for counter in (indices, draws.to(indices.device)):
        key = _mix(key + _signed(GAMMA) * (counter + 1))
    return _shifted(key, 64 - BITS).double().mul_(2.0**-BITS)


@lru_cache(maxsize=8)
def _key(seed: int, epoch: int) -> Tensor:
    """What all numbers of an epoch have in common; on the CPU, where a scalar goes to any device with its operator."""
    return _mix(_mix(torch.tensor(_signed(seed))) + _signed(GAMMA) * (torch.tensor(_signed(epoch)) + 1))


def _mix(state: Tensor) -> Tensor:
    """SplitMix64's finaliser: every bit of the state reaches every bit of the result."""
    for distance, factor in MIXERS:
        state = _shifted(state, distance).bitwise_xor_(state).mul_(_signed(factor))
    return _shifted(state, 31).bitwise_xor_(state)


def _shifted(state: Tensor, distance: int) -> Tensor:
    """A shift right that fills with zeros, where torch's own repeats the sign."""
    return (state >> distance).bitwise_and_((1 << (64 - distance)) - 1)


def _signed(number: int) -> int:
    """The 64 low bits of an integer of any size, read as torch's int64 (whose products wrap, as the hash wants)."""
    return (number + 2**63) % 2**64 - 2**63
