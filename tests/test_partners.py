import pytest
import torch
from cli import sslcut, tiny

from sslcut.data.partners import Partners
from sslcut.data.views import Crop, ViewMaker
from sslcut.methods.making import views_of
from sslcut.recipe import load

LABELS = torch.tensor([2, 0, 1, 0, -1, 0, 2, -1, 3, 0])
PLAIN = {"policy": "none", "options": {}, "strength": 1.0, "exact": True, "seed": 0, "mean": [0] * 3, "std": [1] * 3}


def test_a_partner_has_the_same_label_and_is_another_image():
    draw = Partners(LABELS, seed=0)
    assert draw.alone == 4  # two without a label, and two without another of their class
    for epoch in range(20):
        partners = draw(torch.arange(10), epoch)
        assert torch.equal(LABELS[partners], LABELS)
        same = partners == torch.arange(10)
        assert same.nonzero().flatten().tolist() == [2, 4, 7, 8]


def test_each_other_image_of_the_class_is_equally_likely():
    draw = Partners(torch.zeros(5, dtype=torch.int64), seed=3)
    drawn = torch.stack([draw(torch.tensor([2]), epoch) for epoch in range(4000)]).flatten()
    counts = torch.bincount(drawn, minlength=5)
    assert counts[2] == 0 and (counts[[0, 1, 3, 4]] - 1000).abs().max() < 120


def test_a_partner_depends_on_seed_epoch_and_image_alone():
    labels = torch.arange(40) % 4
    draw, order = Partners(labels, seed=0), torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(order, 5), draw(torch.arange(40), 5)[order])
    assert not torch.equal(draw(order, 5), draw(order, 6))
    assert not torch.equal(draw(order, 5), Partners(labels, seed=1)(order, 5))


def test_every_second_view_shows_the_partner():
    crops = [Crop(2, 8, (1.0, 1.0)), Crop(2, 4, (1.0, 1.0))]
    make = ViewMaker(crops, partners=Partners(torch.tensor([0, 1, 0, 1]), 0), **PLAIN)
    pixels = (torch.arange(4) * 50).to(torch.uint8).view(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous()
    indices = torch.tensor([3, 0])
    shown = make.shown(indices, 0)
    assert shown.tolist() == [3, 0, 1, 2]
    views = make(pixels[shown], indices, 0)
    for crop in views.crops:
        assert (255 * crop[:, :, 0, 0, 0]).round().tolist() == [[150, 0], [50, 100]]


MASKED = "{name: moco_v2, negatives: mask_same_label, queue: 64, task: background}"


@pytest.mark.parametrize("method", ["simclr", MASKED])
def test_any_method_trains_on_positives_of_the_same_label(tmp_path, method):
    chosen = ["--set", f"method={method}", "--set", "views.positives=label", "--set", "views.task=background"]
    chosen = [*tiny(), *chosen]
    done = sslcut("pretrain", *chosen, "--out", "a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "labels: `background`" in done.stderr
    wrong = sslcut("pretrain", *chosen[:-1], "views.task=backgrounds", "--out", "b", cwd=tmp_path)
    if "moco" in method:
        assert wrong.returncode == 2 and "pairs other images than `moco_v2` learns" in wrong.stderr
    else:
        assert wrong.returncode == 3 and "`views.positives: label` needs a task with classes" in wrong.stderr


def test_positives_share_the_label_that_the_method_learns():
    chosen = ["views.positives=label", "method={name: supcon, task: background}"]
    assert views_of(load("default", chosen).dump())["task"] == "background"
    assert views_of(load("default", ["views.positives=label", "views.task=shape"]).dump())["task"] == "shape"


def test_a_picture_of_the_views_shows_the_partner(tmp_path):
    for positives in ("instance", "label"):
        sets = [f"views.positives={positives}", "views.policy=none"]
        done = sslcut("inspect", "--data", "-r", "default", *tiny(*sets), "-o", f"{positives}.png", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "instance.png").read_bytes() != (tmp_path / "label.png").read_bytes()
