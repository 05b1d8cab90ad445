"""Read-outs: how a map, tokens or a vector become one vector an image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslcut.errors import UsageError
from sslcut.model.readout import PART, fitting, read, read_all, readouts


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_avg_and_max_of_a_map_equal_their_formulas_in_float64():
    x = drawn(3, 5, 4, 6)
    places = x.double().flatten(2)
    assert torch.allclose(read(x, "avg", 0).double(), places.sum(2) / 24, atol=1e-6)
    assert torch.equal(read(x, "avg+max", 0)[:, 5:].double(), places.sort(dim=2).values[:, :, -1])
    assert torch.equal(read(x, "avg+max", 0)[:, :5], read(x, "avg", 0))


def test_grid2_lists_the_four_cells_of_a_channel_together():
    x = torch.zeros(1, 2, 4, 4)
    x[0, 1, :2, 2:] = 1
    x[0, 1, 2:, :2] = 2
    assert read(x, "grid2", 0).tolist() == [[0, 0, 0, 0, 0, 1, 2, 0]]


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 5), width=st.integers(1, 5), channels_last=st.booleans())
def test_read_outs_of_a_map_depend_neither_on_memory_order_nor_fail_on_small_maps(height, width, channels_last):
    x = drawn(2, 3, height, width)
    ordered = x.to(memory_format=torch.channels_last) if channels_last else x
    for readout, wide in zip(readouts(4), (3, 12, 6), strict=True):
        assert read(ordered, readout, 0).shape == (2, wide)
        assert torch.allclose(read(ordered, readout, 0), read(x, readout, 0), atol=1e-6)


def test_the_mean_of_tokens_leaves_out_class_token_and_registers():
    x = drawn(2, 7, 3)
    assert torch.allclose(read(x, "mean", 2), x[:, 2:].sum(1) / 5, atol=1e-6)
    assert torch.equal(read(x, "cls", 2), x[:, 0])
    assert torch.equal(read(x, "cls+mean", 1), torch.cat([x[:, 0], read(x, "mean", 1)], dim=1))


def test_a_network_without_class_token_has_none_to_read():
    with pytest.raises(UsageError, match="class token"):
        read(drawn(2, 7, 3), "cls", 0)


@pytest.mark.parametrize(
    ("shape", "readout"), [((2, 3, 16, 16), "avg"), ((2, 3, 16, 16), "grid2"), ((2, 256, 3), "mean")]
)
def test_half_precision_is_summed_in_float32(shape, readout):
    x = (1 + drawn(*shape) / 100).bfloat16()
    assert read(x, readout, 0).dtype == torch.float32
    assert torch.allclose(read(x, readout, 0), read(x.float(), readout, 0), rtol=1e-6)
    assert not torch.equal(read(x, readout, 0), read(x, readout, 0).bfloat16().float())


def test_a_large_half_precision_map_is_read_in_parts_that_stay_in_order():
    x = drawn(24, 64, 32, 32).bfloat16().contiguous(memory_format=torch.channels_last)
    assert x.numel() > PART
    for readout in readouts(4):
        assert torch.allclose(read(x, readout, 0), read(x.float(), readout, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sides", [(4, 6), (5, 4), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_read_outs_taken_together_are_those_taken_alone(sides, dtype):
    x = drawn(3, 5, *sides).to(dtype)
    together = read_all(x, readouts(4), 0)
    assert list(together) == list(readouts(4))
    assert all(torch.allclose(vectors, read(x, name, 0), rtol=1e-6, atol=1e-6) for name, vectors in together.items())


def test_a_vector_is_read_as_it_is():
    x = drawn(4, 6)
    assert torch.equal(read(x, "vector", 0), x)
    assert read(x.bfloat16(), "vector", 0).dtype == torch.float32


def test_a_read_out_that_does_not_fit_is_refused_with_those_that_do():
    with pytest.raises(UsageError, match=r"`cls` does not fit an output of shape \(2, 3, 4, 4\)") as caught:
        read(drawn(2, 3, 4, 4), "cls", 0)
    assert "avg, grid2, avg+max" in caught.value.faults[0].hint


def test_of_the_read_outs_asked_for_those_that_fit_are_kept_in_order():
    asked = ["cls+mean", "grid2", "cls", "avg"]
    assert fitting(4, asked) == ["grid2", "avg"]
    assert fitting(3, asked) == ["cls+mean", "cls"]
    assert fitting(2, asked) == ["vector"]
    assert (fitting(4, ["cls"]), fitting(3, ["grid2"])) == (["avg"], ["cls"])
