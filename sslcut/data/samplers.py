"""The order of an epoch's images: drawn from (seed, epoch) alone, so that any step of any epoch can be resumed at."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


def order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation of 0 … count-1, (count,) int64, that depends on nothing but the three numbers."""
    digest = blake2b(f"order {seed} {epoch}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randperm(count, generator=generator)


@dataclass(frozen=True)
class Sampler:
    """Full batches of `count` images in a new order each epoch; what is left over sits that epoch out.

    A data set smaller than `batch_size` is one batch, so that an epoch is never empty.
    """

    count: int
    batch_size: int
    seed: int

    @property
    def batch(self) -> int:
        """How many images a batch really holds."""
        return min(self.batch_size, self.count)

    @property
    def steps(self) -> int:
        """How many batches an epoch has, at least 1."""
        return self.count // self.batch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The image indices of each batch of `epoch`, (batch,) int64, from batch `start` on."""
        yield from self._batches(epoch)[start:]

    def before(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """For each of those batches the one before it; before the epoch's first stands its last."""
        batches = self._batches(epoch)
        yield from (batches[step - 1] for step in range(start, len(batches)))

    def _batches(self, epoch: int) -> tuple[Tensor, ...]:
        return torch.split(order(self.count, self.seed, epoch)[: self.steps * self.batch], self.batch)
