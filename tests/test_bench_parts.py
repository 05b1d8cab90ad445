"""The contenders of the benchmark's parts do the same work: same shapes, same normalisation, same numbers."""

import copy
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from sslcut.atomic import cache_folder
from sslcut.bench import epoch, features, files, step, updates, views
from sslcut.bench.contest import Contender, Contest
from sslcut.bench.setting import Setting
from sslcut.data.images import ArrayImages
from sslcut.methods.simclr import SimCLR
from sslcut.metrics.extract import Taps, taps
from sslcut.model.build import build
from sslcut.model.network import Input, Network
from sslcut.training.world import Precision

CPU = torch.device("cpu")
TINY = {"name": "resnet10", "width": 4, "stem": "small"}
TINY_VIT = {"name": "vit_ti", "size": 32, "depth": 1}
MAKERS = {
    "sslcut": lambda source: views.ours(source, exact=False),
    "exact": lambda source: views.ours(source, exact=True),
    "kornia": views.kornia,
    "stable_pretraining": views.stable_pretraining,
    "lightly": views.lightly,
    "torchvision": views.torchvision,
}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Loaders then work in this process."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def two_views(name, pixels, blur=0.0):
    """The two views (2, B, 3, S, S) that a maker gives."""
    if name in ("kornia", "stable_pretraining", "lightly"):
        pytest.importorskip(name, reason="the extra `bench` is not installed")
    found = MAKERS[name](views.Source(pixels, blur)).work()
    if isinstance(found, list) and isinstance(found[0], list):
        found = [torch.cat(parts) for parts in zip(*found, strict=True)]
    return torch.stack(list(found))


@pytest.mark.parametrize("name", MAKERS)
def test_every_maker_gives_two_different_normalised_views_of_each_image(name):
    found = two_views(name, torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8))
    assert found.shape == (2, 16, 3, 32, 32) and found.dtype == torch.float32
    assert not torch.equal(found[0], found[1])
    low, high = (torch.tensor([(end - m) / s for m, s in zip(views.MEAN, views.STD, strict=True)]) for end in (0, 1))
    assert (found.amin(dim=(0, 1, 3, 4)) >= low - 1e-4).all() and (found.amax(dim=(0, 1, 3, 4)) <= high + 1e-4).all()


@pytest.mark.parametrize("name", MAKERS)
def test_a_black_image_stays_black_whatever_the_maker(name):
    found = two_views(name, torch.zeros(8, 3, 32, 32, dtype=torch.uint8), blur=0.5)
    black = -torch.tensor(views.MEAN) / torch.tensor(views.STD)
    assert torch.allclose(found, black.view(3, 1, 1).expand_as(found), atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_every_maker_blurs_where_it_is_asked_to(name):
    pixels = torch.randint(256, (24, 3, 32, 32), dtype=torch.uint8)
    sharp, soft = (two_views(name, pixels, blur).diff(dim=-1).square().mean() for blur in (0.0, 1.0))
    assert soft < 0.7 * sharp


def test_the_bare_pass_gives_what_sslcuts_step_starts_from():
    torch.manual_seed(0)
    method = SimCLR(build({"backbone": TINY, **SimCLR.defaults["model"]}))
    images = torch.randn(16, 3, 16, 16)
    before = copy.deepcopy(method.state_dict())
    ours = step.ours(method, images)
    z = ours.work()[1].flatten(0, 1)
    name = "bf16" if ours.note.startswith("bf16") else "float32"
    for last in (True, False):
        bare = step.bare(method.chain, images, Precision(name, last)).work()
        assert torch.allclose(z, bare.float(), atol=0.05 if name == "bf16" else 1e-4)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_a_step_moves_its_own_weights_and_a_bare_pass_none():
    method = SimCLR(build({"backbone": TINY, **SimCLR.defaults["model"]}))
    images = torch.randn(8, 3, 16, 16)
    ours, bare = step.ours(method, images), step.bare(method.chain, images, Precision("float32", True))
    assert ours.work()[0] != ours.work()[0]
    assert torch.equal(bare.work(), bare.work())


def test_lightlys_epoch_and_sslcuts_start_from_the_same_network_and_train_it(monkeypatch):
    pytest.importorskip("lightly", reason="the extra `bench` is not installed")
    networks, build_one = [], epoch.network
    monkeypatch.setattr(epoch, "network", lambda: networks.append(build_one()) or networks[-1])
    pixels = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    contenders = [epoch.ours(pixels, 8, CPU), epoch.lightly(pixels, 8, CPU)]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    assert all(torch.equal(value, before[1][key]) for key, value in before[0].items())
    for contender, network, start in zip(contenders, networks, before, strict=True):
        contender.work()
        moved = network.state_dict()
        assert not torch.equal(moved["blocks.0.conv1.weight"], start["blocks.0.conv1.weight"])
        assert all(value.isfinite().all() for value in moved.values())


@pytest.mark.parametrize(("units", "factor"), [(True, 1.8), (False, 1.0)])
def test_an_epoch_must_be_faster_where_the_processor_has_matrix_units(monkeypatch, units, factor):
    monkeypatch.setattr(epoch, "has_matrix_units", lambda: units)
    monkeypatch.setattr(epoch, "ours", lambda *_: Contender("sslcut", lambda: None))
    monkeypatch.setattr(epoch, "lightly", lambda *_: Contender("lightly", lambda: None, "peer"))
    [contest] = epoch.epoch(Setting("cpu", scale=0.01))
    assert contest.goals[0].factor == factor


def test_an_epoch_on_a_gpu_has_no_goal_of_the_processors(monkeypatch):
    monkeypatch.setattr(Setting, "open_device", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr(epoch, "ours", lambda *_: Contender("sslcut", lambda: None))
    monkeypatch.setattr(epoch, "lightly", lambda *_: Contender("lightly", lambda: None, "peer"))
    [contest] = epoch.epoch(Setting(scale=0.01))
    assert contest.goals == []


def test_a_deterministic_step_asks_torch_for_the_same_bits_while_it_lasts():
    method = SimCLR(build({"backbone": TINY, **SimCLR.defaults["model"]}))
    asked, loss = [], method.loss
    method.loss = lambda *given: asked.append(torch.are_deterministic_algorithms_enabled()) or loss(*given)
    found = step.ours(method, torch.randn(8, 3, 16, 16), deterministic=True)
    before = len(asked)
    found.work()
    assert asked[before:] == [True] and not torch.are_deterministic_algorithms_enabled()
    assert found.name == "sslcut, deterministic"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_features_end_in_what_a_plain_pass_gives(precision):
    network = Network(build({"backbone": TINY}), "vector", Input(32, features.MEAN, features.STD)).eval()
    pixels = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    source = Taps(network, taps(network, network.names, features.READOUTS), CPU, precision)
    layers = {layer.key: layer.features for layer in features.ours(source, ArrayImages(pixels, {}), CPU)}
    plain = features.forward(network, pixels, CPU, precision, batch=4)
    assert torch.allclose(
        layers["pool", "vector"], plain.float(), rtol=0.05, atol=0.05 if precision == "bf16" else 1e-4
    )


def test_torchvisions_extractor_takes_as_many_numbers_as_sslcut():
    network = Network(
        build({"backbone": {"name": "resnet18", "stem": "cifar"}}), "vector", Input(32, (0, 0, 0), (1, 1, 1))
    )
    wanted = taps(network, network.names, features.READOUTS)
    ours = Taps(network.eval(), [tap for tap in wanted if tap[0] != "pool"], CPU).widths
    theirs = features.extractor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), CPU, "float32")()
    widths = {name: sum(ours[name, readout] for readout in features.READOUTS) for name, _ in ours}
    assert {name: parts[0].shape for name, parts in theirs.items()} == {n: (2, width) for n, width in widths.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of the benchmark's pictures, and their paths."""
    folder = tmp_path_factory.mktemp("files") / "pictures"
    return folder, files.write_pictures(folder, 60)


def test_the_pictures_are_of_the_size_that_photographs_have(pictures):
    _, paths = pictures
    assert len(set(paths)) == 60 and sum("test" in path.parts for path in paths) == 12
    assert all(60_000 < path.stat().st_size < 120_000 for path in paths)
    with Image.open(paths[0]) as first:
        assert first.format == "JPEG" and first.size == (files.SIDE, files.SIDE)


def tiny_vit():
    return Network(build({"backbone": TINY_VIT}), "vector", Input(32, files.MEAN, files.STD)).eval()


def test_the_reference_decodes_the_pixels_that_sslcut_opens(pictures, tmp_path, monkeypatch):
    folder, paths = pictures
    opened = []
    monkeypatch.setattr(files, "rows_of", lambda given, *_: opened.append(given.dataset.train))
    with files.own_cache(tmp_path / "cache"):
        files.open_rows(folder, 32)
    [train] = opened
    same = [next(path for path in paths if path.match(name)) for name in train.names]
    pixels, ends = files.floor(same, tiny_vit(), CPU).work()
    gap = (train.read(torch.arange(len(train))).int() - pixels.int()).abs().float()
    assert gap.mean() < 1 and ends.shape == (48, 192)


def test_a_probe_of_files_forgets_what_was_decoded_and_its_shares_make_up_its_time(pictures, tmp_path):
    with files.own_cache(tmp_path / "cache") as cache:
        (cache / "old").mkdir(parents=True)
        spent = files.probe(pictures[0], tiny_vit(), CPU, cache)
        assert not (cache / "old").exists()
    assert spent.seconds > 0 and sum(spent.found.values()) == pytest.approx(1)


def test_the_users_cache_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "mine")
    with files.own_cache(tmp_path):
        assert cache_folder().parent == tmp_path
    assert cache_folder().parent == Path("mine")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with files.own_cache(tmp_path):
        assert cache_folder().parent == tmp_path
    assert "XDG_CACHE_HOME" not in os.environ


PARTS = {
    "views": views.views,
    "step": step.step,
    "updates": updates.updates,
    "epoch": epoch.epoch,
    "features": features.features,
    "files": files.files,
}


@pytest.mark.parametrize("name", PARTS)
def test_every_part_yields_contests_that_sslcut_leads_and_all_can_enter(monkeypatch, name):
    monkeypatch.setitem(step.CASES, "cpu", [step.Case("tiny", TINY, 16, 4)])
    monkeypatch.setattr(updates, "CASE", step.Case("tiny", TINY, 16, 4))
    monkeypatch.setattr(files, "BACKBONE", TINY_VIT)
    monkeypatch.setattr(files, "SIZE", 32)
    for contest in PARTS[name](Setting("cpu", scale=0.02)):
        assert isinstance(contest, Contest) and contest.count > 0 and contest.unit == "images"
        present = [each for each in contest.contenders if isinstance(each, Contender)]
        assert present[0].name == "sslcut" and len({(each.name, each.note) for each in present}) == len(present)
        for contender in present:
            contender.work()
