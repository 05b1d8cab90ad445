"""The whole pipeline on real images at small scale: Fashion-MNIST, and a folder such as users have."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from cli import sslcut, tiny
from work import done

import sslcut as package
from sslcut.data.folder import load
from sslcut.data.images import ArrayImages
from sslcut.inputs import Given
from sslcut.metrics.extract import Taps, features, taps
from sslcut.metrics.store import Store
from sslcut.stages import guillotine

FASHION = Path("/usr/share/datasets/fashion-mnist")
CLIPART = Path("/usr/share/openclipart/png")


def results_of(folder: Path) -> dict:
    return json.loads((folder / "probe-pretrain.json").read_text())


@pytest.fixture(scope="module")
def clipart(tmp_path_factory) -> Path:
    """Some of openclipart's class folders, as links: nested, with palettes, alpha, grey and every shape."""
    if not CLIPART.is_dir():
        pytest.skip("Debian's openclipart-png is not installed")
    folder = tmp_path_factory.mktemp("clipart")
    for name in ("decorations", "education", "science", "electronics", "logos"):
        (folder / name).symlink_to(CLIPART / name)
    return folder


def test_fashion_mnist_goes_through_the_whole_pipeline(tmp_path):
    if not FASHION.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    sets = tiny("data.size=28", "data.train=1500", "data.test=500", "train.epochs=2", "model.backbone.width=8")
    done = sslcut("run", "fashion-mnist", *sets, "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = results_of(tmp_path / "out")["results"]
    scores = {row["layer"]: row["value"] for row in rows if row["probe"] == "linear" and row["metric"] == "accuracy"}
    assert scores["pool"] > 0.4  # of ten classes; chance is 0.1
    assert "<title>" in (tmp_path / "out/report/index.html").read_text()


def test_a_folder_such_as_users_have_goes_through_the_whole_pipeline(tmp_path, clipart):
    sets = tiny("data.size=16", "data.train=null", "data.test=null", "train.epochs=2", "train.batch_size=32")
    run = sslcut("run", "folder", "--data", clipart, *sets, "-o", "out", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = results_of(tmp_path / "out")
    assert found["data"]["folds"] == 5 and found["tasks"] == {"class": "class"}
    assert {row["metric"] for row in found["results"] if row["probe"] == "linear"} == {"accuracy", "balanced_accuracy"}
    assert found["data"]["test"] == len(done(load(seed=0, root=str(clipart), size=8, cache=False)).train)


def test_a_root_is_kept_whole_in_the_recipe_file_and_by_its_last_name_in_the_checkpoint(tmp_path, clipart):
    sets = tiny("data.size=16", "data.train=null", "data.test=null", "train.epochs=0")
    assert sslcut("pretrain", "folder", "--data", clipart, *sets, "-o", "out", cwd=tmp_path).returncode == 0
    assert str(clipart) in (tmp_path / "out/recipe.yaml").read_text()
    assert str(clipart.parent).encode() not in (tmp_path / "out/pretrain.safetensors").read_bytes()
    assert sslcut("probe", "out", cwd=tmp_path).returncode == 0  # the run's recipe file knows the way
    (tmp_path / "sent").mkdir()
    shutil.copy(tmp_path / "out/pretrain.safetensors", tmp_path / "sent/net.safetensors")
    elsewhere = sslcut("probe", "sent/net.safetensors", cwd=tmp_path)
    assert elsewhere.returncode == 3 and "--data" in elsewhere.stderr
    assert sslcut("probe", "sent/net.safetensors", "--data", clipart, cwd=tmp_path).returncode == 0


def test_a_class_too_small_is_named_and_left_out_only_when_told_to(tmp_path):
    if not CLIPART.is_dir():
        pytest.skip("Debian's openclipart-png is not installed")
    for name in ("buttons", "science"):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).symlink_to(CLIPART / name)
    sets = tiny("data.size=16", "data.train=null", "data.test=null", "train.epochs=0")
    refused = sslcut("pretrain", "folder", "--data", "images", *sets, "-o", "out", cwd=tmp_path)
    assert refused.returncode == 3 and "`buttons` has 3 of the 5 images" in refused.stderr
    assert "data.skip_small: true" in refused.stderr
    done = sslcut(
        "pretrain", "folder", "--data", "images", *sets, "--set", "data.skip_small=true", "-o", "out", cwd=tmp_path
    )
    assert done.returncode == 0 and "buttons" in done.stderr


@pytest.mark.parametrize("files", [[], ["a/note.txt"], ["a/broken.png", "b/broken.png"]])
def test_a_folder_without_readable_images_is_exit_3(tmp_path, files):
    (tmp_path / "images").mkdir()
    for name in files:
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"not an image")
    done = sslcut("pretrain", "folder", "--data", "images", "-o", "out", cwd=tmp_path)
    assert done.returncode == 3 and "Traceback" not in done.stderr and "images" in done.stderr


def test_load_gives_what_the_probe_scored_at_every_layer_and_read_out(tiny_run, tmp_path):
    whole = package.load(tiny_run / "runs/default/pretrain.safetensors")
    source = Given(tiny_run / "runs/default/pretrain.safetensors")
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = taps(whole, whole.names, ["avg", "grid2", "avg+max"])
    assert len(wanted) == 3 * 5 + 1 + 2
    for layer, scored in zip(wanted, probed(whole, pixels, wanted), strict=True):
        if layer[0] == whole.names[-1]:
            continue
        options = guillotine.Options(at=layer[0], readout=layer[1], out=tmp_path / "cut.safetensors", force=True)
        *_, result = guillotine.run(source, options)
        with torch.inference_mode():
            assert torch.allclose(package.load(result.text)(pixels), scored.features, atol=1e-5)


def probed(net, pixels, wanted):
    """The features that the probe stage fits and scores."""
    source, device = Taps(net, wanted, torch.device("cpu")), torch.device("cpu")
    store = Store(len(pixels), list(source.widths.values()), 10**9, Path())
    return done(features([source], ArrayImages(pixels, {}), store, device=device, text=""))[0]
