import json
from dataclasses import replace

import pytest
import torch
from cli import sslcut, tiny
from hypothesis import given
from hypothesis import strategies as st
from layers import factors, generator, layer, one_fold, tasks_of
from pictures import photographs
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from test_measure import finish
from work import done

from sslcut import study
from sslcut.data import shifts as kinds
from sslcut.data.elsewhere import folder
from sslcut.data.images import ArrayImages, Task
from sslcut.data.shifts import LEVELS, Shifted
from sslcut.errors import InputError, UsageError
from sslcut.events import Warn
from sslcut.metrics.assemble import measure
from sslcut.metrics.knn import knn
from sslcut.metrics.layer import Beside, Fold, Layer
from sslcut.metrics.linear import linear
from sslcut.metrics.shifted import Shift, Shifts, shifts
from sslcut.options import Options
from sslcut.recipe import load
from sslcut.registry import SHIFTS

DRAWN = [kind for kind in SHIFTS if kind != "folder"]
ROWS, MORE = 400, 120


def pixels_of(count=6, size=17, seed=0):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator(seed))


# The images


@given(
    kind=st.sampled_from(DRAWN), level=st.sampled_from((0, *LEVELS)), size=st.integers(2, 19), seed=st.integers(0, 9)
)
def test_a_shift_keeps_shape_and_type_and_level_0_the_image(kind, level, size, seed):
    pixels = pixels_of(3, size, seed)
    shifted = SHIFTS.load(kind)(pixels, torch.arange(3), level)
    assert shifted.shape == pixels.shape and shifted.dtype == torch.uint8
    assert (level > 0) or torch.equal(shifted, pixels)


@pytest.mark.parametrize("kind", DRAWN)
def test_a_shift_depends_on_the_images_number_and_not_on_its_batch(kind):
    shift, pixels, numbers = SHIFTS.load(kind), pixels_of(), torch.tensor([3, 70, 1, 2**40, 5, 6])
    whole = shift(pixels, numbers, 2)
    alone = torch.cat([shift(pixels[i : i + 1], numbers[i : i + 1], 2) for i in range(6)])
    assert torch.equal(whole, alone)
    same = pixels[:1].expand(6, -1, -1, -1).contiguous()
    others = {shift(same, torch.arange(40, 46), 3)[i].numpy().tobytes() for i in range(6)}
    assert len(others) == {"blur": 1, "brightness": 2, "rotation": 2}.get(kind, 6)


@pytest.mark.parametrize("kind", DRAWN)
def test_a_higher_level_changes_more(kind):
    pixels = pixels_of(8, 32)
    far = [(SHIFTS.load(kind)(pixels, torch.arange(8), level).float() - pixels).abs().mean() for level in LEVELS]
    assert 0 < far[0] < far[1] < far[2]


def test_a_shift_does_what_it_says():
    grey, numbers = torch.full((200, 3, 20, 20), 128, dtype=torch.uint8), torch.arange(200)
    moved = kinds.brightness(grey, numbers, 2).float() - 128
    assert set(moved.unique().tolist()) == {-51.0, 51.0} and 60 < int((moved[:, 0, 0, 0] > 0).sum()) < 140
    spread = (kinds.noise(grey, numbers, 1).float() - 128).std()
    assert spread == pytest.approx(0.05 * 255, rel=0.01)
    hidden = (kinds.occlusion(torch.zeros_like(grey), numbers, 2) == kinds.GREY).float().mean(dim=(1, 2, 3))
    assert hidden.unique().tolist() == [pytest.approx(81 / 400)]
    dot = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    dot[:, :, 16, 16] = 255
    blurred = kinds.blur(dot, torch.arange(1), 2).float()[0, 0]
    width = (blurred.sum(0) * (torch.arange(33) - 16).square()).sum() / blurred.sum()
    assert width.sqrt() == pytest.approx(0.04 * 33, rel=0.1)


def test_an_image_is_turned_by_the_angle_of_its_level():
    line = torch.zeros(40, 3, 65, 65, dtype=torch.uint8)
    line[:, :, 32, 32:60] = 255
    turned = kinds.rotation(line, torch.arange(40), 2)[:, 0].float()
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    angle = torch.rad2deg(torch.atan2((turned * y).sum((1, 2)), (turned * x).sum((1, 2))))
    assert set(angle.round().abs().tolist()) == {30.0} and {True, False} == set((angle > 0).tolist())


def test_a_folders_classes_are_matched_by_name(tmp_path):
    photographs(tmp_path / "other", 3, 6)
    names = sorted(path.name for path in (tmp_path / "other").iterdir())
    tasks = {
        "size": Task("number", torch.zeros(2)),
        "kind": Task("class", torch.zeros(2).long(), (names[2], "x", names[0])),
    }  # noqa: E501
    work, told = folder(tasks, 16, seed=0, root=str(tmp_path / "other")), []
    try:
        while True:
            told.append(next(work))
    except StopIteration as end:
        images = end.value
    assert torch.bincount(images.tasks["kind"].values).tolist() == [6, 0, 6]
    assert images.tasks["size"].values.isnan().all() and images.read(torch.arange(2)).shape == (2, 3, 16, 16)
    warned = " ".join(event.text for event in told if isinstance(event, Warn))
    assert "no images of `x`" in warned and f"unknown `{names[1]}`" in warned
    with pytest.raises(InputError, match="no images of the classes that are probed"):
        done(folder({"kind": Task("class", torch.zeros(2).long(), ("x",))}, 16, seed=0, root=str(tmp_path / "other")))


# The probes


def shifted_layer(name="pool", noise=0.5, readout="vector"):
    """A layer of all rows, and beside it a noisier one of validation and test rows, as under one shift."""
    hidden, fold = factors(ROWS), one_fold(ROWS)
    own = layer(hidden, name, noise, readout=readout)
    rows = torch.cat([fold.validation.sort().values, fold.test.sort().values])
    noisy = own.features[rows] + 1.5 * torch.randn(len(rows), 12, generator=generator(1))
    places = torch.arange(len(rows))
    part = len(fold.validation)
    return hidden, fold, rows, Layer(name, readout, own.features, Beside(noisy, places[:part], places[part:]))


def test_shifted_images_are_read_by_the_fit_on_clean_ones():
    hidden, fold, rows, own = shifted_layer()
    task = tasks_of(hidden)["kind"]
    (fit,) = linear([own], {"kind": task}, [fold], scale="standard", memory=10**8)
    l2, part = float(fit.chosen.removeprefix("l2=")), len(fold.validation)
    scaler = StandardScaler().fit(own.features[fold.train])
    for learnt, some in ((fold.train, slice(0, part)), (fold.final, slice(part, None))):
        solver = LogisticRegression(C=1 / (len(learnt) * l2), tol=1e-8, max_iter=5000)
        solver.fit(scaler.transform(own.features[learnt]), task.values[learnt])
        said = torch.from_numpy(solver.predict(scaler.transform(own.beside.features[some])))
        right = (said == task.values[rows[some]]).float().mean()
        assert (fit.beside[some] == task.values[rows[some]]).float().mean() == pytest.approx(float(right), abs=1e-3)
    plain = linear([own.alone], {"kind": task}, [fold], scale="standard", memory=10**8)[0]
    assert torch.equal(plain.tested, fit.tested) and len(plain.beside) == 0


def test_neighbours_of_shifted_images_are_clean_ones():
    hidden, fold, rows, own = shifted_layer()
    task = {"kind": tasks_of(hidden)["kind"]}
    together = Layer("pool", "vector", torch.cat([own.features, own.beside.features]))
    values = torch.cat([task["kind"].values, task["kind"].values[rows]])
    apart = Fold(
        fold.train, ROWS + own.beside.validation, ROWS + own.beside.test, torch.cat([fold.train, fold.validation])
    )
    joined = {"kind": Task("class", values, task["kind"].classes)}
    for fit, other in zip(knn([own], task, [fold]), knn([together], joined, [apart]), strict=True):
        assert torch.equal(fit.beside[own.beside.validation], other.validated[apart.validation])
        assert torch.equal(fit.beside[own.beside.test], other.tested[apart.test])


@pytest.fixture(scope="module")
def measured():
    hidden, fold, rows, pool = shifted_layer()
    *_, stem = shifted_layer("stem", 0.1, "avg")
    tasks = tasks_of(hidden)
    images = ArrayImages(torch.zeros(len(rows), 3, 1, 1), {name: task.take(rows) for name, task in tasks.items()})
    asked = Shifts(images, [Shift("noise:1", pool.beside.validation, pool.beside.test, True),
                            Shift("folder:x", pool.beside.validation[::2], pool.beside.test[::2], False)])  # fmt: skip
    options = {"reference": ("pool", "vector"), "end": ("pool", "vector"), "bootstrap": 100, "fractions": [0.5]}
    with_shifts = finish(measure([stem, pool], tasks, [fold], shifted=asked, **options))
    without = finish(measure([stem.alone, pool.alone], tasks, [fold], **options))
    return with_shifts, without, tasks, rows


def test_rows_under_a_shift_come_last_and_change_nothing_else(measured):
    (results, tensors, _), (plain, same, _), _, _ = measured
    count = len(plain["results"])
    assert results["results"][:count] == plain["results"] and results["best"] == plain["best"]
    assert results["recommended"] == plain["recommended"] and tensors.keys() == same.keys()
    shifted = results["results"][count:]
    json.dumps(shifted, allow_nan=False)
    assert {row["shift"] for row in shifted} == {"noise:1", "folder:x"} and {row["fraction"] for row in shifted} == {
        1.0
    }
    assert {(row["probe"], row["task"]) for row in shifted} >= {("linear", "turn"), ("knn", "kind")}


def test_a_row_under_a_shift_has_its_own_validation_and_a_paired_gain(measured):
    (results, _, _), _, tasks, rows = measured
    found = {
        r["layer"]: r
        for r in results["results"]
        if (r["shift"], r["probe"], r["task"]) == ("noise:1", "linear", "kind")
    }  # noqa: E501
    stem, pool = found["stem"], found["pool"]
    assert (pool["gain"], pool["gain_low"], pool["gain_high"]) == (0, 0, 0)
    assert stem["gain"] == pytest.approx(stem["value"] - pool["value"], abs=1e-6)
    assert stem["gain_low"] <= stem["gain"] <= stem["gain_high"] and stem["low"] < stem["value"] < stem["high"]
    clean = next(r for r in results["results"] if r["layer"] == "stem" and r["task"] == "kind")
    assert stem["value"] < clean["value"] and stem["validation"] < clean["validation"] and stem["n"] == clean["n"]


def test_a_control_of_width_is_of_the_images_as_they_are():
    hidden, fold, rows, pool = shifted_layer()
    *_, stem = shifted_layer("stem", 0.1, "avg")
    narrow = Layer(
        "stem", "avg", stem.features[:, :5].clone(), replace(stem.beside, features=stem.beside.features[:, :5])
    )
    tasks = {"kind": tasks_of(hidden)["kind"]}
    images = ArrayImages(torch.zeros(len(rows), 3, 1, 1), {"kind": tasks["kind"].take(rows)})
    asked = Shifts(images, [Shift("noise:1", pool.beside.validation, pool.beside.test, True)])
    options = {"reference": ("pool", "vector"), "end": ("pool", "vector"), "bootstrap": 20, "probes": ["linear"]}
    found, *_ = finish(measure([narrow, pool], tasks, [fold], shifted=asked, controls=["pca"], **options))
    shifted = [row for row in found["results"] if row["shift"]]
    assert {row["layer"] for row in shifted} == {"stem", "pool"}
    assert not any("pca" in row["options"] for row in shifted) and any(
        "pca=5" in r["options"] for r in found["results"]
    )


# The recipe


def test_shifts_of_cross_fitted_images_are_refused_before_anything_is_trained(tmp_path):
    for kind, colour in (("a", 0), ("b", 200)):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (16, 16), (colour + i, 0, 0)).save(tmp_path / "images" / kind / f"{i}.png")
    sets = [f"data={{name: folder, root: {tmp_path / 'images'}}}", "probe.shifts=[noise]", "train.epochs=0"]
    for dry in (True, False):
        with pytest.raises(UsageError, match="needs a test split"):
            list(study.run(load("default", sets), Options(out=tmp_path / "run", dry_run=dry)))
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_images_without_a_test_split_cannot_be_shifted():
    images = ArrayImages(pixels_of(), {})
    with pytest.raises(UsageError, match="needs a test split"):
        done(shifts("all", images, [], torch.arange(6), 0))


def test_all_shifts_are_three_levels_of_every_kind_of_the_same_images():
    images, fold = ArrayImages(pixels_of(10), {"kind": Task("class", torch.arange(10) % 2, ("a", "b"))}), one_fold(10)
    found = done(shifts("all", images, [fold], torch.arange(10), 0))
    assert [shift.name for shift in found.each] == [f"{kind}:{level}" for kind in DRAWN for level in LEVELS]
    own = torch.cat([fold.validation.sort().values, fold.test.sort().values])
    assert len(found.images) == 15 * len(own) and len(found.test) == 15 * len(fold.test)
    last = found.each[-1]
    wanted = kinds.rotation(images.pixels[own], own, 3)[len(fold.validation) :]
    assert torch.equal(found.images.read(last.test), wanted)
    assert torch.equal(
        found.images.tasks["kind"].values[last.test], images.tasks["kind"].values[own[-len(last.test) :]]
    )
    some = Shifted(images, own, "noise", 1, own)
    assert torch.equal(some.read(torch.tensor([2])), kinds.noise(images.pixels[own[2:3]], own[2:3], 1))


def test_a_recipe_keeps_no_ones_folders_and_names_no_shift_twice():
    recipe = load(None, ["probe.shifts=[noise, {name: folder, root: /home/me/sketches}]"])
    assert recipe.stored()["probe"]["shifts"][1] == {"name": "folder", "root": "sketches"}
    assert recipe.stage_sections("probe")["probe"]["shifts"][1]["root"] == "sketches"
    with pytest.raises(UsageError, match="unknown shift `nois`"):
        load(None, ["probe.shifts=[nois]"])
    images = ArrayImages(pixels_of(10), {})
    with pytest.raises(UsageError, match="names `noise` twice"):
        done(shifts([{"name": "noise"}, {"name": "noise"}], images, [one_fold(10)], torch.arange(10), 0))


def test_the_command_line_tells_the_best_layer_under_each_shift_and_what_is_known_of_views(tiny_copy):
    asked = ("probe.shifts=[noise, occlusion]", "probe.layers=[stem, pool]", "probe.tasks=[shape]")
    seen = ("probe.view_parameters=true", "probe.viewed={images: 40, views: 4}")
    made = sslcut(
        "probe", "runs/default/pretrain.safetensors", "-o", "shifted.json", *tiny(*asked, *seen), cwd=tiny_copy
    )
    assert made.returncode == 0, made.stderr
    results = json.loads((tiny_copy / "shifted.json").read_text())
    found = {row["shift"] for row in results["results"]}
    assert found == {None, "views", *(f"{kind}:{level}" for kind in ("noise", "occlusion") for level in LEVELS)}
    assert list(results["tasks"]) == [best["task"] for best in results["best"]] == ["shape"]
    told = sslcut("report", "shifted.json", cwd=tiny_copy)
    assert told.returncode == 0, told.stderr
    text = (tiny_copy / told.stdout.strip()).with_name("report.md").read_text()
    assert all(word in text for word in ("Under shifts", "noise:3", "What is known of the view", "crop\\_x"))
