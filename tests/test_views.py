"""Views: drawn as torchvision draws, exact where they say so, and the same for an image in any batch."""

import math

import pytest
import torch
import torchvision.transforms.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision.transforms import ColorJitter, RandomResizedCrop

from sslcut.data import colour, exact
from sslcut.data.parameters import ORDERS, draw
from sslcut.data.policies import Policy, byol, simclr, supervised, vicreg
from sslcut.data.resample import resample, taps
from sslcut.data.views import Crop, ViewMaker, normalise
from sslcut.errors import UsageError
from sslcut.registry import AUGMENTATIONS
from sslcut.render.sheet import contact_sheet

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TWO = [Crop(2, 24, (0.2, 1.0))]


def picture(count: int = 6, size: int = 24, seed: int = 0) -> torch.Tensor:
    """Smooth colourful images, uint8: noise alone would hide an error of resampling."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return (F.resize(coarse, [size, size], antialias=True) * 255).byte()


def maker(crops=TWO, policy="simclr", strength=1.0, exact=False, seed=0, **options) -> ViewMaker:
    return ViewMaker(
        crops, policy=policy, options=options, strength=strength, exact=exact, seed=seed, mean=MEAN, std=STD
    )


def drawn(policy: Policy, images: int = 4000, size: int = 32, scale=(0.08, 1.0)) -> dict[str, torch.Tensor]:
    return draw(policy, [scale] * 2, size, seed=1, epoch=2, indices=torch.arange(images))


def factor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None]


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (0.05, 0.25)])
def test_crops_are_distributed_as_torchvisions(scale):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(3, 32, 32)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(2500)])
    ours = drawn(supervised(), scale=scale)
    for column, name in enumerate(("top", "left", "height", "width")):
        assert ks_2samp(ours[name].flatten(), theirs[:, column]).pvalue > 1e-4, name
    area = (ours["height"] * ours["width"]).flatten()
    assert ks_2samp(area, theirs[:, 2] * theirs[:, 3]).pvalue > 1e-4


def test_crops_lie_inside_the_image():
    crop = drawn(supervised())
    for start, length in (("top", "height"), ("left", "width")):
        assert crop[start].min() == 0 and crop[length].min() >= 1
        assert (crop[start] + crop[length]).max() == 32


def test_colour_factors_are_distributed_as_torchvisions():
    jitter = ColorJitter(0.8, 0.8, 0.8, 0.2)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [jitter.get_params(*ranges) for _ in range(2500)]
    ours = drawn(simclr(jitter=1.0))
    for place, name in enumerate(("brightness", "contrast", "saturation", "hue"), start=1):
        assert ks_2samp(ours[name].flatten(), [row[place] for row in theirs]).pvalue > 1e-4, name
    assert ours["order"].flatten().bincount().min() > 0.8 * 8000 / 24
    assert len(ORDERS) == 24


def test_a_view_is_jittered_greyed_blurred_solarised_and_flipped_as_often_as_published():
    ours = drawn(vicreg(sigma=(0.5, 2.0)))
    happened = {
        "jitter": (ours["brightness"] != 1, 0.8),
        "grey": (ours["grey"], 0.2),
        "blur": (ours["blur"] > 0, 0.5),
        "solarise": (ours["solarise"], 0.1),
        "flip": (ours["flip"], 0.5),
    }
    for name, (mask, expected) in happened.items():
        assert mask.float().mean(dim=1).sub(expected).abs().max() < 0.03, name
    blurs = ours["blur"][ours["blur"] > 0]
    assert 0.5 <= blurs.min() < 0.51 and 1.99 < blurs.max() < 2.0


def test_byols_views_differ_and_the_last_probability_stands_for_the_rest():
    ours = draw(byol(), [(0.08, 1.0)] * 3, 32, seed=0, epoch=0, indices=torch.arange(2000))
    assert (ours["blur"] > 0).float().mean(dim=1).tolist() == pytest.approx([1.0, 0.1, 0.1], abs=0.03)
    assert ours["solarise"].float().mean(dim=1).tolist() == pytest.approx([0.0, 0.2, 0.2], abs=0.03)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("policy", AUGMENTATIONS)
def test_at_strength_zero_every_view_is_the_evaluation_input(policy, exact):
    pixels = picture()
    views = maker(policy=policy, strength=0.0, exact=exact)(pixels, torch.arange(6), 0)
    assert torch.allclose(views.crops[0], normalise(pixels, MEAN, STD).expand(2, -1, -1, -1, -1), atol=1e-5)


def test_the_policy_none_is_the_evaluation_input_at_any_strength():
    pixels = picture()
    views = maker(policy="none", strength=3.0)(pixels, torch.arange(6), 5)
    assert torch.allclose(views.crops[0][1], normalise(pixels, MEAN, STD), atol=1e-5)


def test_normalise_is_torchvisions_on_pixels_from_zero_to_one():
    pixels = picture()
    assert torch.allclose(normalise(pixels, MEAN, STD), F.normalize(pixels / 255, MEAN, STD), atol=1e-6)


@given(strength=st.floats(0, 20), low=st.floats(0.01, 1.0))
def test_any_strength_stays_within_what_is_valid(strength, low):
    moved = byol().at(strength)
    smallest, largest = moved.crop_scale((low, 1.0))
    assert min(0.02, low) <= smallest <= largest <= 1
    assert moved.hue <= 0.5 and moved.probability("jitter", 2) == (0.8, 0.8)
    assert moved.probability("flip", 1)[0] == min(strength, 1) / 2
    assert all(0 <= p <= 1 for name in ("grey", "blur", "solarise") for p in moved.probability(name, 2))


def test_strength_moves_simclr_as_the_study_of_strength_says():
    half = simclr().at(0.5)
    assert (half.brightness, half.hue) == pytest.approx((0.4, 0.1))
    assert half.crop_scale((0.08, 1.0)) == pytest.approx((1 - 0.92 * 0.5, 1.0))
    assert half.probability("grey", 1) + half.probability("blur", 1) == pytest.approx((0.1, 0.25))
    assert simclr().at(1.0).crop_scale((0.3, 0.7)) == pytest.approx((0.3, 0.7))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: simclr(flip=1.4), "flip"),
        (lambda: byol(blur=(0.5, -0.1)), "blur"),
        (lambda: vicreg(hue=0.6), "hue"),
        (lambda: simclr(brightness=math.nan), "brightness"),
        (lambda: simclr(sigma=(2.0, 0.1)), "sigma"),
        (lambda: simclr(kernel=0.0), "kernel"),
        (lambda: simclr().at(-1.0), "strength -1"),
        (lambda: Crop(2, 32, (0.0, 1.0)), "scale"),
        (lambda: Crop(0, 32, (0.2, 1.0)), "0 crops"),
    ],
)
def test_a_value_out_of_range_is_named(make, named):
    with pytest.raises(UsageError, match=named):
        make()


@pytest.mark.parametrize("exact", [False, True])
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(6)), size=st.integers(1, 6))
def test_an_image_has_the_same_views_in_any_batch(exact, order, size):
    pixels, make = picture(), maker(exact=exact)
    whole = make(pixels, torch.arange(6) + 100, 3)
    batch = torch.tensor(order)[:size]
    part = make(pixels[batch], batch + 100, 3)
    assert torch.allclose(part.crops[0], whole.crops[0][:, batch], atol=1e-5)
    assert all(torch.equal(part.drawn[name], values[:, batch]) for name, values in whole.drawn.items())


def test_another_epoch_another_seed_and_the_other_view_look_different():
    pixels, indices = picture(), torch.arange(6)
    first = maker()(pixels, indices, 0).crops[0]
    others = [maker()(pixels, indices, 1).crops[0], maker(seed=1)(pixels, indices, 0).crops[0], first.flip(0)]
    assert all((first - other).abs().mean() > 0.1 for other in others)


def test_every_crop_group_has_its_size_and_the_first_is_global():
    views = maker([Crop(2, 24, (0.4, 1.0)), Crop(3, 12, (0.05, 0.4))])(picture(), torch.arange(6), 0)
    assert [tuple(group.shape) for group in views.crops] == [(2, 6, 3, 24, 24), (3, 6, 3, 12, 12)]
    assert views.n_global == 2 and views.drawn["hue"].shape == (5, 6)
    area = (views.drawn["height"] * views.drawn["width"]).float() / 24**2
    assert area[2:].max() < 0.45 < area[:2].max()


def test_views_are_channels_last_once_they_are_flattened():
    for group in maker([Crop(2, 24, (0.4, 1.0)), Crop(3, 12, (0.05, 0.4))])(picture(), torch.arange(6), 0).crops:
        assert group.dtype == torch.float32
        assert group.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_an_empty_batch_has_empty_views():
    assert maker()(picture()[:0], torch.arange(0), 0).crops[0].shape == (2, 0, 3, 24, 24)


def test_autocast_does_not_touch_the_pixels():
    plain = maker()(picture(), torch.arange(6), 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(maker()(picture(), torch.arange(6), 0).crops[0], plain.crops[0])


@pytest.mark.parametrize("size", [7, 24, 40])
def test_resampling_is_torchvisions_resized_crop_and_flip(size):
    pixels = picture() / 255
    top, left = torch.tensor([0, 3, 11, 0, 5, 23]), torch.tensor([0, 7, 2, 20, 1, 0])
    height, width = torch.tensor([24, 20, 5, 24, 2, 1]), torch.tensor([24, 9, 22, 4, 23, 24])
    flip = torch.tensor([False, True, True, False, True, False])
    ours = resample(pixels, taps(top, height, size, 24), taps(left, width, size, 24, flip)).mT
    for i, image in enumerate(pixels):
        theirs = F.resized_crop(
            image, int(top[i]), int(left[i]), int(height[i]), int(width[i]), [size, size], antialias=True
        )
        assert torch.allclose(ours[i], F.hflip(theirs) if flip[i] else theirs, atol=1e-5), i


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (exact.brighten, F.adjust_brightness, [0.0, 0.3, 1.0, 1.8, 3.0, 1.1]),
        (exact.contrast, F.adjust_contrast, [0.0, 0.3, 1.0, 1.8, 3.0, 1.1]),
        (exact.saturate, F.adjust_saturation, [0.0, 0.3, 1.0, 1.8, 3.0, 1.1]),
        (exact.turn, F.adjust_hue, [-0.5, -0.2, 0.0, 0.1, 0.33, 0.5]),
    ],
)
def test_an_exact_colour_operator_is_torchvisions(ours, theirs, values):
    images = picture() / 255
    images[:, :, 0, :4] = torch.tensor([0.0, 1.0, 0.5, 0.25])  # greys have no hue
    images[:, :, 1, :3] = torch.eye(3)  # pure colours
    expected = torch.stack([theirs(image, value) for image, value in zip(images, values, strict=True)])
    assert torch.allclose(ours(images, factor(values)), expected, atol=1e-5)


def test_the_exact_blur_is_torchvisions():
    images, sigma = picture(size=40) / 255, torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 1.3])
    ours = exact.blur(images.clone(), sigma, 0.24)  # a kernel of 9 pixels
    assert torch.equal(ours[0], images[0])
    for i in range(1, 6):
        assert torch.allclose(ours[i], F.gaussian_blur(images[i], [9, 9], [float(sigma[i])] * 2), atol=1e-5)


def one_by_one(pixels: torch.Tensor, own: dict[str, torch.Tensor], size: int, taps: int) -> torch.Tensor:
    """What torchvision makes of each image with the drawn values, operator by operator: (V, B, 3, size, size)."""
    operators = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    names = ("brightness", "contrast", "saturation", "hue")
    views = []
    for v, b in torch.cartesian_prod(torch.arange(len(own["top"])), torch.arange(len(pixels))).tolist():
        p = {name: values[v, b].item() for name, values in own.items()}
        image = F.resized_crop(
            pixels[b] / 255, p["top"], p["left"], p["height"], p["width"], [size] * 2, antialias=True
        )
        image = F.hflip(image) if p["flip"] else image
        for operator in ORDERS[p["order"]]:
            image = operators[operator](image, p[names[operator]])
        image = F.rgb_to_grayscale(image, 3) if p["grey"] else image
        image = F.gaussian_blur(image, [taps] * 2, [p["blur"]] * 2) if p["blur"] else image
        image = F.solarize(image, 0.5) if p["solarise"] else image
        views.append(F.normalize(image, MEAN, STD))
    return torch.stack(views).unflatten(0, (len(own["top"]), len(pixels)))


@pytest.mark.parametrize(("policy", "strength"), [("simclr", 1.0), ("vicreg", 1.5), ("byol", 1.0)])
@pytest.mark.parametrize("size", [12, 24])
def test_exact_views_are_torchvisions_operator_by_operator(policy, strength, size):
    pixels = picture(24)
    make = maker([Crop(2, size, (0.1, 1.0))], policy, strength, exact=True, kernel=0.25)
    views = make(pixels, torch.arange(24), 0)
    taps = {12: 3, 24: 7}[size]  # a quarter of the side, rounded down to an odd number
    error = (views.crops[0] - one_by_one(pixels, views.drawn, size, taps)).abs()
    assert error.max() < 1e-3


@pytest.mark.parametrize("options", [{}, {"blur": 1.0, "kernel": 0.25}, {"blur": 1e-9}, {"solarise": 1.0}])
def test_fast_views_are_the_exact_ones_where_no_colour_changes(options):
    pixels, plain = picture(), {"jitter": 0.0, "grey": 0.0, "blur": 0.0, **options}
    fast, slow = (maker(exact=exact, **plain)(pixels, torch.arange(6), 0).crops[0] for exact in (False, True))
    assert torch.allclose(fast, slow, atol=1e-4)


def mixed(images: torch.Tensor, own: dict[str, torch.Tensor]) -> torch.Tensor:
    matrix, lift = colour.mixing(images, own)
    return torch.einsum("bij,bjhw->bihw", matrix, images) + lift


@pytest.mark.parametrize("turn", [0.0, 1 / 3, -1 / 3])
def test_fast_colours_are_the_exact_ones_in_every_order_but_for_clamps_and_parts_of_a_third(turn):
    drawn = torch.Generator().manual_seed(0)
    images = 0.4 + 0.2 * picture(48) / 255  # far from black and white, so that nothing is clamped
    own = {
        name: torch.linspace(0.8, 1.2, 48)[torch.randperm(48, generator=drawn)]
        for name in ("brightness", "contrast", "saturation")
    }
    own |= {"hue": torch.full((48,), turn), "order": torch.arange(48) % 24, "grey": torch.arange(48) >= 24}
    wanted = exact.recolour(images.clone(), own)
    assert torch.allclose(mixed(images, own), wanted, atol=1e-3)
    if turn:
        others = {**own, "order": own["order"].flip(0)}
        assert not torch.allclose(mixed(images, others), wanted, atol=1e-3)


@pytest.mark.parametrize("turn", [0.05, 0.1, 0.2, 0.5])
def test_no_matrix_is_nearer_to_hsvs_turn_of_the_hue(turn):
    images = torch.rand(4000, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    own = {name: torch.ones(4000) for name in ("brightness", "contrast", "saturation")}
    own |= {"hue": torch.full((4000,), turn), "grey": torch.zeros(4000, dtype=torch.bool)}
    own |= {"order": torch.zeros(4000, dtype=torch.int64)}
    wanted = exact.turn(images, torch.full((4000, 1, 1, 1), turn))
    best = torch.linalg.lstsq(images[:, :, 0, 0], wanted[:, :, 0, 0]).solution
    nearest = (images[:, :, 0, 0] @ best - wanted[:, :, 0, 0]).square().mean()
    assert (mixed(images, own) - wanted).square().mean() < 1.02 * nearest


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_fast_views_are_jittered_then_clamped_then_solarised_then_normalised(strength):
    pixels = picture(24)
    views = maker([Crop(1, 24, (0.2, 1.0))], "vicreg", strength, blur=0.0)(pixels, torch.arange(24), 0)
    own = {name: values[0] for name, values in views.drawn.items()}
    cut = resample(
        pixels / 255, taps(own["top"], own["height"], 24, 24), taps(own["left"], own["width"], 24, 24, own["flip"])
    ).mT
    jittered = mixed(cut.contiguous(), own)
    expected = jittered.clamp(0, 1)
    expected[own["solarise"]] = F.solarize(expected[own["solarise"]], 0.5)
    assert (jittered - jittered.clamp(0, 1)).abs().max() > 0.1 and own["solarise"].any()
    assert torch.allclose(views.crops[0][0], F.normalize(expected, MEAN, STD), atol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_a_batch_that_is_worked_on_in_parts_has_the_same_views(monkeypatch, exact):
    pixels, make = picture(), maker(exact=exact)
    whole = make(pixels, torch.arange(6), 0).crops[0]
    monkeypatch.setattr("sslcut.data.views.ROOM", 4 * 3 * 24**2 * 4)
    assert torch.allclose(make(pixels, torch.arange(6), 0).crops[0], whole, atol=1e-5)


def test_fast_and_exact_views_have_nearly_the_same_statistics():
    pixels = picture(200)
    fast, slow = (maker(exact=exact)(pixels, torch.arange(200), 0).crops[0] for exact in (False, True))
    assert fast.mean().item() == pytest.approx(slow.mean().item(), abs=0.05)
    assert fast.std().item() == pytest.approx(slow.std().item(), rel=0.05)
    assert torch.stack([fast.flatten(), slow.flatten()]).corrcoef()[0, 1] > 0.95


def test_solarising_inverts_the_bright_half_of_those_that_drew_it():
    images = torch.tensor([0.2, 0.5, 0.9]).expand(2, 3, 1, 3).clone()
    ours = colour.solarise(images, torch.tensor([True, False]), 0.5)
    assert ours[0, 0, 0].tolist() == pytest.approx([0.2, 0.5, 0.1])
    assert ours[1, 0, 0].tolist() == pytest.approx([0.2, 0.5, 0.9])


def test_a_contact_sheet_shows_the_images_and_undoes_the_normalisation():
    pixels = picture(2)
    sheet = contact_sheet(pixels, maker(policy="none")(pixels, torch.arange(2), 0), MEAN, STD, ["one", "two"])
    assert sheet.size == (4 + 2 * (3 * 100 - 4 + 4), 4 + 96 + 16 + 4)
    image, view = (sheet.getpixel((4 + 100 * cell + 50, 20 + 50)) for cell in (0, 1))
    assert image == tuple(pixels[0, :, 12, 12].tolist())
    assert max(abs(a - b) for a, b in zip(image, view, strict=True)) <= 1


def test_a_contact_sheet_without_views_is_a_grid_and_wants_a_caption_for_each_image():
    assert contact_sheet(picture(9), None, MEAN, STD, ["a caption far wider than its picture"] * 9).size == (804, 236)
    with pytest.raises(ValueError):
        contact_sheet(picture(3), None, MEAN, STD, ["only one"])


@pytest.mark.gpu
@pytest.mark.parametrize("exact", [False, True])
def test_a_gpu_makes_the_same_views_without_the_host_waiting(exact):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    make, indices = maker(policy="vicreg", exact=exact), torch.arange(6)
    pixels, there = picture().cuda(), indices.cuda()
    make(pixels, there, 0)  # sends the constants, once
    try:
        torch.cuda.set_sync_debug_mode("error")
        views = make(pixels, there, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(views.crops[0].cpu(), make(picture(), indices, 1).crops[0], atol=1e-3)
