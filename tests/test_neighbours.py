"""The search is held to brute force in float64 and to scikit-learn's; the peak memory is that of a process."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import generator
from sklearn.neighbors import NearestNeighbors

from sslcut.metrics import neighbours as room
from sslcut.metrics.neighbours import neighbours

BOTH = pytest.mark.parametrize("rounding", [False, True], ids=["float32", "bfloat16"])


@pytest.fixture(autouse=True)
def sizes_of_its_own(monkeypatch):
    """Lets a test change the room's sizes through `set_sizes` and have them back as they were."""
    for name in ("ROWS", "QUERIES", "RUN", "SPARSE", "_rounding_pays"):
        monkeypatch.setattr(room, name, getattr(room, name))


def set_sizes(rounding, rows=64, queries=16, run=8, sparse=1):
    """Small blocks; and unless `sparse` is larger, none is sorted as a whole because many pairs reach the bar."""
    room.ROWS, room.QUERIES, room.RUN, room.SPARSE = rows, queries, run, sparse
    room._rounding_pays = lambda features: rounding


def found(features, bank, queries, k):
    """All neighbours in the order of the queries."""
    parts = zip(*neighbours(features, bank, queries, k), strict=True)
    asked, similarities, rows = (torch.cat(part) for part in parts)
    assert torch.equal(asked.sort().values, queries.sort().values)
    place = asked.argsort()[queries.argsort().argsort()]
    return similarities[place], rows[place]


def check(features, bank, queries, k):
    """The similarities are the k largest in float64, each row's own, and no row is there twice or from elsewhere."""
    similarities, rows = found(features, bank, queries, k)
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    exact = unit[queries] @ unit[bank].T
    torch.testing.assert_close(similarities.double(), exact.topk(k, dim=1).values, rtol=0, atol=2e-6)
    own = (unit[queries][:, None] * unit[rows]).sum(dim=2)
    torch.testing.assert_close(similarities.double(), own, rtol=0, atol=2e-6)
    assert torch.isin(rows, bank).all() and all(len(row.unique()) == k for row in rows)


@BOTH
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 700),
    width=st.integers(1, 40),
    k=st.integers(1, 20),
    mean=st.sampled_from([0.0, 1.0, 30.0]),
    sparse=st.sampled_from([1, 16]),
)
def test_neighbours_are_those_of_brute_force(rounding, seed, n, width, k, mean, sparse):
    set_sizes(rounding, sparse=sparse)
    draw = generator(seed)
    features = mean + torch.randn(n + 50, width, generator=draw)
    order = torch.randperm(n + 50, generator=draw)
    check(features, order[:n], order[n : n + 30], min(k, n))


@BOTH
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_blocks_may_be_of_any_size(rounding, size):
    set_sizes(rounding, rows=size, queries=size, run=size)
    draw = generator(size)
    check(torch.randn(90, 5, generator=draw), torch.randperm(90, generator=draw)[:40], torch.arange(7), 4)


@BOTH
def test_neighbours_are_those_of_scikit_learn(rounding):
    set_sizes(rounding, rows=512, queries=128)
    features = torch.relu(torch.randn(2200, 32, generator=generator(0)) + 0.5)
    distances, rows = NearestNeighbors(n_neighbors=20, metric="cosine").fit(features[:2000]).kneighbors(features[2000:])
    similarities, mine = found(features, torch.arange(2000), torch.arange(2000, 2200), 20)
    torch.testing.assert_close(1 - similarities, torch.from_numpy(distances).float(), rtol=0, atol=2e-6)
    assert (mine == torch.from_numpy(rows)).float().mean() > 0.999  # near ties may change places


@BOTH
def test_equal_similarities_are_different_rows(rounding):
    set_sizes(rounding)
    signs = torch.randint(0, 2, (400, 3), generator=generator(0)).float()  # eight directions, one of them zero
    check(signs, torch.arange(0, 400, 2), torch.arange(1, 101, 2), 90)


@BOTH
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_layer_that_is_the_same_for_all_still_has_neighbours(rounding, value):
    set_sizes(rounding)
    check(torch.full((300, 4), value), torch.arange(250), torch.arange(250, 300), 20)


@given(seed=st.integers(0, 1000), width=st.integers(1, 100), mean=st.sampled_from([0.0, 0.3, 3.0]))
@settings(max_examples=40, deadline=None)
def test_a_rounded_product_is_off_by_no_more_than_its_margin(seed, width, mean):
    features = mean + torch.randn(200, width, generator=generator(seed))
    centre = torch.nn.functional.normalize(features, dim=1).mean(dim=0)
    set_sizes(rounding=True, rows=100, run=100)
    bank = room._Bank(features, torch.arange(200), features)
    bank.centre = centre
    asked = room._asked(features, torch.arange(100), centre)
    for number in (0, 1, 0):  # what is known of a block at its second reading is what the first one found
        shelf = bank._shelf(number, bank._rows(number))
        _, margin = room._product(asked, shelf, room._Table(100, bank.longest, True))
        rounded = asked.rounded.double() @ shelf.rounded.double().T
        off = asked.exact.double() @ shelf.exact.double().T - asked.shift - rounded
        assert (off.abs() <= margin).all()


@given(seed=st.integers(0, 1000), middle=st.sampled_from([-1.0, 0.0, 1.0]))
def test_what_reaches_the_floor_does_so_once_it_is_rounded(seed, middle):
    tile = torch.rand(16, 64, generator=generator(seed)).sub_(0.5).mul_(0.01).add_(middle)
    tile[0, :2] = torch.tensor([0.0, -0.0])
    floor = torch.cat([torch.zeros(1, 1), tile[1:, :1]])
    for table in (tile, tile.bfloat16()):
        reach = room._Table(16, 64, table.dtype == torch.bfloat16).reach(table, floor)
        assert reach[tile >= floor].all()
        assert (table[reach].float() > (floor.expand(16, 64)[reach] - 0.01)).all()


@given(seed=st.integers(0, 1000), rank=st.integers(1, 20), width=st.integers(20, 500))
def test_the_first_bar_is_below_as_many_as_it_says(seed, rank, width):
    tile = torch.randn(8, width, generator=generator(seed))
    for table in (tile, tile.bfloat16()):
        assert ((tile > room._ranked(table, rank)).sum(dim=1) >= rank).all()


@BOTH
def test_queries_that_the_first_block_misleads_are_searched_again(rounding, monkeypatch):
    set_sizes(rounding)
    searched = []
    search = room._Bank.search
    monkeypatch.setattr(room._Bank, "search", lambda self, *asked: searched.append(asked) or search(self, *asked))
    features = torch.randn(1000, 8, generator=generator(0))
    features[:8] = features[990] + 0.01 * features[:8]  # all of its near ones are in the first run
    check(features, torch.arange(900), torch.arange(980, 1000), 20)
    (_, k, rank), (again, _, sure) = searched
    assert rank < k == sure and 990 in again and len(again) < 10


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_have_the_neighbours_of_the_same_numbers_in_float32(rounding, dtype):
    set_sizes(rounding)
    features = torch.randn(300, 16, generator=generator(0)).to(dtype)
    for half, single in zip(
        *(found(table, torch.arange(250), torch.arange(250, 300), 9) for table in (features, features.float())),
        strict=True,
    ):
        assert torch.equal(half, single)


def test_a_mapped_file_is_read_in_place(tmp_path):
    features = torch.randn(300, 16, generator=generator(0))
    features.numpy().tofile(tmp_path / "features")
    mapped = torch.from_file(str(tmp_path / "features"), shared=False, size=features.numel()).view(300, 16)
    search = partial(found, bank=torch.arange(1, 300, 2), queries=torch.arange(0, 300, 2), k=9)
    assert all(map(torch.equal, search(mapped), search(features)))


PEAK = """
import torch
from sslcut.metrics import neighbours as room
room._rounding_pays = lambda features: {rounding}
def peak(features, bank):
    order = torch.randperm(len(features))
    for _ in room.neighbours(features, order[:bank], order[bank:], 200): pass
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
features = torch.empty({bank} + {queries}, {width}, dtype=torch.float16)
for part in features.split(1000): part.normal_()
before = peak(features[:2100].clone(), 2000)  # what torch loads for its first products is no part of the search
print(peak(features, {bank}) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("bank", "queries", "width", "rounding"),
    [(50_000, 2000, 512, True), (50_000, 600, 512, False), (300_000, 600, 64, False)],
)
def test_at_most_64_mb_are_held_beside_the_features(bank, queries, width, rounding):
    code = PEAK.format(bank=bank, queries=queries, width=width, rounding=rounding)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 < int(done.stdout) <= 64
