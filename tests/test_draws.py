"""The counter-based numbers: uniform, independent, and the same however they are asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslcut.data.draws import uniform

WORD = 2**64


def reference(seed: int, epoch: int, index: int, draw: int) -> float:
    """The same hash in Python's unbounded integers."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        return z ^ (z >> 31)

    key = mix(seed % WORD)
    for counter in (epoch, index, draw):
        key = mix((key + 0x9E3779B97F4A7C15 * (counter + 1)) % WORD)
    return (key >> 11) / 2**53


def table(seed: int = 0, epoch: int = 0, images: int = 4000, draws: int = 12) -> torch.Tensor:
    return uniform(seed, epoch, torch.arange(images), torch.arange(draws)[:, None])


@given(
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 2**31),
    index=st.integers(0, 2**40),
    draw=st.integers(0, 2**12),
)
def test_a_number_is_the_splitmix_hash_of_its_counters(seed, epoch, index, draw):
    ours = uniform(seed, epoch, torch.tensor([index]), torch.tensor(draw))
    assert ours.item() == reference(seed, epoch, index, draw)


def test_the_first_numbers_are_those_of_every_release():
    golden = [0.1387094101, 0.183839791, 0.0451882593]
    ours = uniform(0, 0, torch.tensor([0, 1, 2]), torch.tensor(0))
    assert ours.tolist() == pytest.approx(golden, abs=1e-9)


def test_numbers_spread_evenly_over_zero_to_one():
    numbers = table().flatten().sort().values
    expected = (torch.arange(len(numbers), dtype=torch.float64) + 0.5) / len(numbers)
    assert numbers[0] >= 0 and numbers[-1] < 1
    assert (numbers - expected).abs().max() < 1.63 / len(numbers) ** 0.5  # Kolmogorov-Smirnov at 1 %


def test_an_image_the_next_draw_the_next_epoch_and_the_next_seed_are_uncorrelated():
    here = table()
    neighbours = {
        "draw": (here[:-1], here[1:]),
        "image": (here[:, :-1], here[:, 1:]),
        "epoch": (here, table(epoch=1)),
        "seed": (here, table(seed=1)),
        "epoch as seed": (table(seed=1, epoch=0), table(seed=0, epoch=1)),
    }
    for name, pair in neighbours.items():
        both = torch.stack([side.flatten() for side in pair])
        assert both.corrcoef()[0, 1].abs() < 4 / both.shape[1] ** 0.5, name


def test_the_draws_of_an_image_are_pairwise_uncorrelated():
    correlations = table(draws=33).corrcoef() - torch.eye(33)
    assert correlations.abs().max() < 5 / 4000**0.5


@given(order=st.permutations(range(40)), size=st.integers(1, 40))
def test_numbers_do_not_depend_on_the_batch_or_its_order(order, size):
    whole = table(images=40)
    indices = torch.tensor(order)[:size]
    assert torch.equal(uniform(0, 0, indices, torch.arange(12)[:, None]), whole[:, indices])


@pytest.mark.gpu
def test_a_gpu_draws_the_same_numbers():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    ours = uniform(3, 1, torch.arange(1000, device="cuda"), torch.arange(40)[:, None])
    assert torch.equal(ours.cpu(), uniform(3, 1, torch.arange(1000), torch.arange(40)[:, None]))
