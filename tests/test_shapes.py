import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from work import done

from sslcut.data.opening import open_dataset
from sslcut.data.shapes import BACKGROUNDS, RANGES, SHAPES, Shapes, draws
from sslcut.errors import MachineError, UsageError


@pytest.fixture(scope="module")
def drawn() -> Shapes:
    return Shapes(0, "train", 600, 48)


def test_pixels_are_the_same_on_every_machine():
    pixels = Shapes(0, "train", 64, 32).pixels
    assert (
        hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
        == "84ea008bd8a197bf8977745d5fd9cfd4091495f082808a29e1b410f0a307891d"
    )


@settings(max_examples=10)
@given(count=st.integers(1, 200), seed=st.integers(-5, 2**40))
def test_an_image_does_not_depend_on_how_many_are_drawn(count, seed):
    few, many = Shapes(seed, "test", count, 8), Shapes(seed, "test", 200, 8)
    assert torch.equal(few.pixels, many.pixels[:count])
    for name, task in many.tasks.items():
        assert torch.equal(few.tasks[name].values.nan_to_num(), task.values[:count].nan_to_num())


def test_seeds_and_splits_give_different_images():
    images = [Shapes(seed, split, 4, 16).pixels for seed, split in ((0, "train"), (1, "train"), (0, "test"))]
    assert not any(torch.equal(images[a][row], images[b][row]) for a, b in ((0, 1), (0, 2), (1, 2)) for row in range(4))


def test_every_factor_is_a_task_in_order(drawn):
    assert list(drawn.tasks) == ["shape", "hue", "background", "x", "y", "size", "rotation"]
    kinds = [task.kind for task in drawn.tasks.values()]
    assert kinds == ["class", "angle", "class", "number", "number", "number", "angle"]
    assert drawn.tasks["background"].classes == BACKGROUNDS


def test_factors_are_independent_and_spread_evenly():
    factors = draws(3, "train", np.arange(20000))
    correlations = np.corrcoef(list(factors.values())) - np.eye(len(factors))
    assert np.abs(correlations).max() < 0.04  # over five standard errors at 20,000
    for name, classes in (("shape", len(SHAPES)), ("background", len(BACKGROUNDS))):
        counts = np.bincount(factors[name].astype(int), minlength=classes)
        assert np.abs(counts * classes / 20000 - 1).max() < 0.1


def test_neither_area_nor_centre_tells_the_shape(drawn):
    """The mask's area is size², and its centre of mass (x, y), whatever the shape."""
    masks = drawn.masks(torch.arange(len(drawn))).double() / 255
    grid = (torch.arange(48) + 0.5) / 48
    mass = masks.sum((1, 2))
    found = {"size": (mass / 48**2).sqrt(), "x": (masks.sum(1) @ grid.double()) / mass}
    found["y"] = (masks.sum(2) @ grid.double()) / mass
    for name, values in found.items():
        assert (values - drawn.tasks[name].values).abs().max() < 0.004, name


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_largest_shape_nearest_the_edge_stays_inside(shape):
    turns = np.linspace(0, 2 * np.pi, 2000)
    reach = min(RANGES["x"][0], 1 - RANGES["y"][1]) / RANGES["size"][1] * shape.area**0.5
    assert (shape.distance(reach * np.cos(turns), reach * np.sin(turns)) > 0).all()


@pytest.mark.parametrize("number", range(len(SHAPES)), ids=[shape.name for shape in SHAPES])
def test_a_shape_turned_by_its_symmetry_is_itself(number):
    shape = SHAPES[number]
    x, y = np.random.default_rng(number).uniform(-1.2, 1.2, (2, 500))
    turn = 2 * np.pi / (shape.symmetry or 7)
    turned = shape.distance(np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y)
    assert np.allclose(shape.distance(x, y), turned, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_shape_has_the_area_it_says_about_its_centre_of_mass(shape):
    grid = (np.arange(1200) + 0.5) / 400 - 1.5
    x, y = np.meshgrid(grid, grid)
    inside = shape.distance(x, y) < 0
    assert inside.mean() * 9 == pytest.approx(shape.area, rel=2e-3)
    assert abs(x[inside].mean()) < 2e-3 and abs(y[inside].mean()) < 2e-3


def test_the_rotation_is_undefined_where_it_cannot_be_seen(drawn):
    symmetry = torch.tensor([shape.symmetry for shape in SHAPES])[drawn.tasks["shape"].values]
    rotation = drawn.tasks["rotation"].values
    assert torch.equal(rotation.isnan().any(dim=1), symmetry == 0)
    assert torch.allclose(rotation[symmetry > 0].norm(dim=1), torch.ones(int((symmetry > 0).sum())))


def test_the_hue_is_the_colour_inside_the_shape(drawn):
    masks = drawn.masks(torch.arange(len(drawn))) == 255
    red, green, blue = (drawn.pixels[:, c][masks].double() for c in range(3))
    hue = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue)  # of the colour hexagon, within 1.2 degrees
    sine, cosine = drawn.tasks["hue"].values.T.repeat_interleave(masks.sum((1, 2)), dim=1)
    assert torch.cos(hue - torch.atan2(sine, cosine)).min() > 0.999


def test_outside_the_shape_a_plain_ground_is_one_colour_and_others_are_not(drawn):
    outside = drawn.masks(torch.arange(len(drawn))) == 0
    background = drawn.tasks["background"].values
    spread = torch.stack([pixels[0][out].float().std() for pixels, out in zip(drawn.pixels, outside, strict=True)])
    assert spread[background == 0].max() == 0 and spread[background > 0].min() > 3


def test_masks_follow_the_asked_order(drawn):
    assert torch.equal(drawn.masks(torch.tensor([5, 2])), drawn.masks(torch.arange(6))[[5, 2]])


def test_counts_and_size_are_options():
    dataset = done(open_dataset("shapes", {"train": 30, "test": 20, "size": 16}, seed=7))
    assert (len(dataset.train), len(dataset.test), dataset.train.size) == (30, 20, 16)
    assert dataset.warnings == ()


@pytest.mark.parametrize("size", [7, 513])
def test_a_size_that_shapes_are_not_drawn_at_is_refused(size):
    with pytest.raises(UsageError, match=f"data.size {size}"):
        done(open_dataset("shapes", {"size": size}, seed=0))


def test_more_images_than_memory_can_hold_are_refused_before_any_is_drawn():
    with pytest.raises(MachineError, match="512 px take .* GB"):
        done(open_dataset("shapes", {"size": 512, "train": 10**9}, seed=0))
