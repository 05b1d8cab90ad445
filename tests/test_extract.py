"""Features of every layer from one pass: what is read, in which precision, where it is kept, what is left behind."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from layers import factors, layer, one_fold, tasks_of
from work import done

from sslcut.data.images import ArrayImages
from sslcut.errors import MachineError
from sslcut.metrics import store as room
from sslcut.metrics.assemble import measure
from sslcut.metrics.extract import Pixels, Taps, estimate_batchnorm, features, seconds_per_1000, taps
from sslcut.metrics.layer import Layer
from sslcut.metrics.store import Store
from sslcut.model.build import build
from sslcut.model.network import Input, Network

CPU = torch.device("cpu")
PLENTY = 10**9
SMALL = {
    "backbone": {"name": "resnet10", "width": 4, "stem": "small"},
    "last_block": {"width": 12, "shortcut": "auto"},
    "projector": {"widths": [10, 6]},
}


class Counted(ArrayImages):
    """Images that remember how often each was read."""

    def __init__(self, pixels):
        super().__init__(pixels, {})
        self.reads = torch.zeros(len(pixels), dtype=torch.int64)

    def read(self, indices):
        self.reads[indices] += 1
        return super().read(indices)


def drawn(count, size=16, seed=0):
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return ArrayImages(pixels.to(torch.uint8), {})


@pytest.fixture(scope="module")
def network():
    """An untrained network whose batch norms have seen images."""
    torch.manual_seed(0)
    net = Network(build(SMALL), "vector", Input(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2)))
    estimate_batchnorm(net, drawn(600), CPU)
    return net


@pytest.fixture(scope="module")
def wanted(network):
    return taps(network, network.names, ["avg", "grid2", "avg+max"])


def stored(sources, images, folder, memory=PLENTY):
    """The layers of each source, and the closed store that holds them."""
    store = Store(len(images), [width for source in sources for width in source.widths.values()], memory, folder)
    try:
        return done(features(sources, images, store, device=CPU, text="features")), store
    finally:
        store.close()


def test_the_pass_gives_what_the_unfolded_network_gives_at_every_tap(network, wanted, tmp_path):
    images = drawn(300, seed=1)
    [layers], _ = stored([Taps(network, wanted, CPU)], images, tmp_path)
    with torch.inference_mode():
        plain = network.features(images.pixels, wanted)
    assert [one.key for one in layers] == wanted
    for one in layers:
        expected = plain[one.key]
        assert (one.features - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_bf16_pass_is_near_the_float32_one_and_sums_in_float32(network, wanted, tmp_path):
    images = drawn(40)
    sources = [Taps(network, wanted, CPU, precision) for precision in ("float32", "bf16")]
    (exact, half), _ = stored(sources, images, tmp_path)
    for one, other in zip(exact, half, strict=True):
        apart = (one.features - other.features).abs().max() / one.features.abs().max()
        assert 0 < apart < 0.05
    found = {tap: layer.features for tap, layer in zip(wanted, half, strict=True)}
    averages = found["stem", "avg"]
    assert not torch.equal(averages, averages.bfloat16().float())
    assert torch.equal(found["pool", "vector"], found[network.names[network.names.index("pool") - 1], "avg"])


def test_the_pass_leaves_the_network_as_it_is(network, wanted, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.chain.tensors().items()}
    stored([Taps(network, wanted, CPU, "bf16")], drawn(20), tmp_path)
    after = network.chain.tensors()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_every_image_is_read_once_for_all_sources(network, wanted, tmp_path):
    images = Counted(drawn(300).pixels)
    (first, second, raw), _ = stored(
        [Taps(network, wanted, CPU), Taps(network, wanted, CPU), Pixels(16)], images, tmp_path
    )
    assert images.reads.tolist() == [1] * 300
    assert all(torch.equal(a.features, b.features) for a, b in zip(first, second, strict=True))
    assert raw[0].key == ("pixels", "vector")


@pytest.mark.parametrize("size", [8, 16, 24])
def test_pixels_are_means_over_at_most_16_places_a_side(size, tmp_path):
    images = drawn(5, size)
    [[raw]], _ = stored([Pixels(size)], images, tmp_path)
    expected = F.adaptive_avg_pool2d(images.pixels.double() / 255, min(16, size)).flatten(1)
    assert torch.allclose(raw.features.double(), expected, atol=1e-6)


def test_a_batch_is_smaller_where_maps_are_large(network, wanted):
    wide = Network(
        build({"backbone": {"name": "resnet10", "stem": "cifar"}}), "vector", Input(64, (0.5,) * 3, (1,) * 3)
    )
    assert (Taps(network, wanted, CPU).batch, Taps(wide, [("stem", "avg")], CPU).batch) == (256, 16)


def filled(memory, folder, numbers, widths=None):
    """A store's one shelf with `numbers` (N, D) written in batches of 7."""
    store = Store(len(numbers), widths or [numbers.shape[1]], memory, folder)
    shelf = store.shelf(numbers.shape[1])
    for start in range(0, len(numbers), 7):
        shelf.write(start, numbers[start : start + 7])
    store.close()
    return shelf.numbers, store


@pytest.mark.parametrize(
    ("memory", "dtype", "place", "left"),
    [
        (12000, torch.float32, "float32 in memory", 4000),
        (11999, torch.float16, "half precision in memory", 7999),
        (8000, torch.float16, "half precision in memory", 4000),
        (7900, torch.float16, "half precision in a temporary file", 7900),
    ],
)
def test_the_budget_is_divided_between_features_and_a_copy_of_the_widest_layer(memory, dtype, place, left, tmp_path):
    numbers = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))  # 4,000 bytes as float32, and two of them
    kept, store = filled(memory, tmp_path, numbers, [20, 20])
    assert (kept.dtype, store.place.split(",")[0], store.left) == (dtype, place, left)
    assert torch.equal(kept, numbers.to(dtype)) and list(tmp_path.iterdir()) == []


def test_matrices_in_a_file_do_not_overlap(tmp_path):
    store = Store(3, [2, 5, 1], 1, tmp_path)
    shelves = [store.shelf(width) for width in (2, 5, 1)]
    for value, shelf in enumerate(shelves):
        shelf.write(0, torch.full_like(shelf.numbers, value, dtype=torch.float32))
    store.close()
    assert [shelf.numbers.unique().tolist() for shelf in shelves] == [[0], [1], [2]]


@pytest.mark.parametrize("memory", [1, 4000])
def test_numbers_beyond_float16_make_their_layer_bfloat16_with_the_rows_before(memory, tmp_path):
    numbers = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    numbers[33, 4] = -1e6
    kept, _ = filled(memory, tmp_path, numbers)
    assert kept.dtype == torch.bfloat16 and torch.allclose(kept.float(), numbers, rtol=0.005)


def test_a_disk_without_room_is_told_before_the_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: room.shutil._ntuple_diskusage(10**10, 0, 10**9))
    with pytest.raises(
        MachineError, match=r"take 109.1 GB in half precision; probe.memory allows 4.0 GB.*1.0 GB free"
    ) as told:
        Store(1_280_000, [21312, 21312], 4 * 10**9, tmp_path)
    assert "--out" in told.value.faults[0].hint and "probe.layers" in told.value.faults[0].hint


def test_a_disk_that_is_full_after_all_is_an_error_that_leaves_nothing(network, wanted, tmp_path, monkeypatch):
    calls, write = [], os.pwrite

    def failing(*arguments):
        calls.append(1)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, "no space")
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(MachineError, match="the disk is full"):
        stored([Taps(network, wanted, CPU)], drawn(600), tmp_path, memory=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_write_cut_short_goes_on_where_it_stopped(tmp_path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, raw, at: write(file, raw[:13], at))
    numbers = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(filled(1, tmp_path, numbers)[0], numbers.half())


def test_an_interrupted_pass_leaves_no_file_even_while_it_runs(network, wanted, tmp_path):
    source, images = Taps(network, wanted, CPU), drawn(600)
    store = Store(len(images), list(source.widths.values()), 1000, tmp_path)
    work = features([source], images, store, device=CPU, text="")
    next(work)
    assert "temporary file" in store.place and list(tmp_path.iterdir()) == []
    work.close()
    store.close()


def test_scores_from_a_file_are_those_from_memory_to_rounding(tmp_path):
    hidden = factors(400)
    layers = [layer(hidden, "pool", 0.3, readout="vector")]  # noise, since rounding alone would add to a lower rank
    mapped = [Layer(one.name, one.readout, filled(1, tmp_path, one.features)[0]) for one in layers]
    pool = ("pool", "vector")
    asked = {"tasks": tasks_of(hidden), "folds": [one_fold(400)], "reference": pool, "end": pool, "bootstrap": 50}
    exact, half = (done(measure(one, **asked))[0] for one in (layers, mapped))
    for row, other in zip(exact["results"], half["results"], strict=True):
        assert row["value"] == pytest.approx(other["value"], abs=0.01)
    assert exact["measures"][0]["value"] == pytest.approx(half["measures"][0]["value"], rel=1e-3)


@pytest.mark.parametrize(("rows", "budget"), [(2_560, 8_000_000), (12_800, 40_000_000)])
def test_a_hundredth_of_imagenet_at_20_taps_keeps_to_a_hundredth_of_4_gb(rows, budget, tmp_path):
    """As float32 the larger takes 1.09 GB, in half precision 0.55 GB, 13 times its budget.

    At 100 times the rows it is a file of 55 GB and 4 GB of memory. What stays the same is a batch's own work:
    22 MB a batch as float32, two of them at the moment where one replaces the other, and the allocator's slack.
    """
    script = [sys.executable, "-W", "error", Path(__file__).with_name("wide.py"), str(rows), str(budget), tmp_path]
    ran = subprocess.run(script, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["place"].startswith("half precision in a temporary file") and found["names"] == []
    assert found["grown"] < budget + 64 * 2**20 < 2 * rows * 21_312
    assert 0 < found["apart"] <= 2**-11  # half a unit in float16's last place


def test_the_time_of_reading_grows_from_block_to_block(network):
    seconds = seconds_per_1000(network, CPU)
    assert len(seconds) == len(network.names) and seconds == sorted(seconds) and seconds[0] > 0
