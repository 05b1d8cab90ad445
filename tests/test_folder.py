import os

import numpy as np
import pytest
import torch
from PIL import Image
from work import done

from sslcut.data import decode
from sslcut.data.opening import open_dataset
from sslcut.errors import InputError


def picture(path, colour=(200, 30, 90), size=(20, 14), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of six pictures, some of them nested."""
    for row in range(6):
        picture(tmp_path / "cat" / ("deep/er" if row % 2 else "") / f"{row}.png", (row, 0, 0))
        picture(tmp_path / "dog" / f"{row}.jpg", (0, 40 * row, 99))
    return tmp_path


def opened(root, **options):
    return done(open_dataset("folder", {"root": str(root), "size": 8, **options}, seed=0))


def test_the_first_level_of_folders_is_the_class(folder):
    dataset = opened(folder)
    assert dataset.train.tasks["class"].classes == ("cat", "dog")
    assert dataset.train.tasks["class"].values.tolist() == [0] * 6 + [1] * 6
    assert "cat/deep/er/1.png" in dataset.train.names and dataset.test is None and dataset.warnings == ()


def test_a_flat_folder_has_no_tasks(tmp_path):
    for row in range(3):
        picture(tmp_path / f"{row}.png", (row, 0, 0))
    dataset = opened(tmp_path)
    assert dataset.train.tasks == {} and len(dataset.train) == 3


def test_one_class_folder_alone_gives_no_labels(tmp_path):
    picture(tmp_path / "all" / "a.png")
    dataset = opened(tmp_path)
    assert dataset.train.tasks == {} and "one class folder only (`all`)" in dataset.warnings[0]


def test_train_and_test_folders_are_the_splits(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("splits")
    for row in range(8):
        picture(root / ("train", "test")[row % 2] / ("cat", "dog")[row // 4] / f"{row}.png", (row, 0, 0))
    dataset = opened(root)
    assert (len(dataset.train), len(dataset.test)) == (4, 4)
    picture(root / "val" / "dog" / "9.png", (99, 0, 0))
    assert (len(opened(root).train), len(opened(root).test)) == (5, 4)
    picture(root / "test" / "fox" / "1.png")
    with pytest.raises(InputError, match="`fox`.* test images only"):
        opened(root)


def test_a_class_may_be_called_train_among_others(tmp_path):
    for name in ("train", "test", "car"):
        for row in range(5):
            picture(tmp_path / name / f"{row}.png", (row, len(name), 0))
    assert opened(tmp_path).train.tasks["class"].classes == ("car", "test", "train")


def test_a_number_for_test_holds_images_out(folder):
    dataset = opened(folder, test=4, train=6)
    assert (len(dataset.train), len(dataset.test)) == (6, 4)
    assert sorted(dataset.test.tasks["class"].values.tolist()) == [0, 0, 1, 1]


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match="no images in"):
        opened(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        opened(tmp_path / "nowhere")


def test_images_beside_the_class_folders_are_left_out_with_a_warning(folder):
    picture(folder / "stray.png")
    dataset = opened(folder)
    assert len(dataset.train) == 12 and "stray.png" in dataset.warnings[0]


def test_hidden_files_are_passed_over(folder):
    (folder / "cat" / "._0.png").write_bytes(b"a resource fork")
    (folder / ".trash").mkdir()
    assert len(opened(folder).train) == 12


def test_an_unreadable_image_is_named_and_left_out_only_when_told_to(folder):
    bad = folder / "dog" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(InputError, match=r"dog/3\.jpg") as told:
        opened(folder)
    assert "data.skip_bad: true" in told.value.faults[0].hint
    dataset = opened(folder, skip_bad=True)
    assert len(dataset.train) == 11 and dataset.warnings[0].startswith("1 unreadable images are left out")
    assert dataset.train.tasks["class"].values.tolist() == [0] * 6 + [1] * 5


def test_a_link_to_nowhere_is_an_unreadable_image(folder):
    (folder / "dog" / "gone.png").symlink_to(folder / "nothing.png")
    with pytest.raises(InputError, match=r"gone\.png: No such file"):
        opened(folder)


def test_a_link_to_itself_is_an_unreadable_image(folder):
    (folder / "dog" / "loop.png").symlink_to("loop.png")
    with pytest.raises(InputError, match=r"loop\.png: Too many levels of symbolic links"):
        opened(folder)


def test_a_class_too_small_for_the_folds_is_named_and_left_out_only_when_told_to(folder):
    picture(folder / "ant" / "only.png", (7, 7, 7))
    with pytest.raises(InputError, match="class `ant` has 1 of the 5") as told:
        opened(folder)
    assert "data.skip_small: true" in told.value.faults[0].hint
    dataset = opened(folder, skip_small=True)
    assert dataset.train.tasks["class"].classes == ("cat", "dog") and "ant (1)" in dataset.warnings[0]
    assert dataset.train.tasks["class"].values.tolist() == [0] * 6 + [1] * 6


def test_links_are_followed_and_loops_are_not(folder):
    os.symlink(folder / "cat", folder / "cat" / "deep" / "again")
    os.symlink(folder / "cat" / "0.png", folder / "dog" / "cat.png")
    dataset = opened(folder)
    assert len(dataset.train) == 13
    torn = next(told for told in dataset.warnings if "more than one class" in told)
    assert torn.startswith("1 pictures") and "cat/0.png and dog/cat.png" in torn


def corner_of(path, size=4):
    return decode.decode(path, size)[:, 0, 0].tolist()


def test_transparent_pixels_are_white_and_half_transparent_ones_half_so(tmp_path):
    assert corner_of(picture(tmp_path / "a.png", (255, 0, 0, 0), mode="RGBA")) == [255, 255, 255]
    red, green, blue = corner_of(picture(tmp_path / "b.png", (255, 0, 0, 128), mode="RGBA"))
    assert red == 255 and green == blue == pytest.approx(127, abs=1)
    assert corner_of(picture(tmp_path / "c.png", (0, 0), mode="LA")) == [255, 255, 255]


def test_palettes_keep_their_colours_and_their_transparent_entry(tmp_path):
    paletted = Image.new("RGB", (9, 9), (10, 200, 30)).quantize(4)
    paletted.save(tmp_path / "opaque.png")
    paletted.save(tmp_path / "clear.png", transparency=paletted.getpixel((0, 0)))
    assert corner_of(tmp_path / "opaque.png") == [10, 200, 30]
    assert corner_of(tmp_path / "clear.png") == [255, 255, 255]


@pytest.mark.parametrize(("value", "seen"), [(0, 0), (257 * 100, 100), (65535, 255)])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, value, seen):
    Image.fromarray(np.full((9, 9), value, np.uint16)).save(tmp_path / "deep.png")
    assert corner_of(tmp_path / "deep.png") == [seen] * 3


def test_grey_bilevel_and_cmyk_become_rgb(tmp_path):
    assert corner_of(picture(tmp_path / "grey.png", 77, mode="L")) == [77] * 3
    assert corner_of(picture(tmp_path / "bits.png", 1, mode="1")) == [255] * 3
    cyan = corner_of(picture(tmp_path / "press.jpg", (255, 0, 0, 0), mode="CMYK", quality=95))
    assert cyan == pytest.approx([0, 255, 255], abs=3)


def halves(size, across):
    """Black, then white, from left to right or from top to bottom."""
    array = np.zeros(size[::-1], np.uint8)
    array[(slice(None), slice(size[0] // 2, None)) if across else slice(size[1] // 2, None)] = 255
    return Image.fromarray(array).convert("RGB")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_camera_held_sideways_is_set_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6  # a quarter turn clockwise sets it upright
    halves((40, 40), across=False).save(tmp_path / f"a{suffix}", exif=exif)
    upright = decode.decode(tmp_path / f"a{suffix}", 8)
    assert (upright[:, :, :3] > 250).all() and (upright[:, :, -3:] < 5).all()


def test_the_largest_centred_square_is_kept(tmp_path):
    halves((60, 20), across=True).save(tmp_path / "wide.png")
    halves((20, 61), across=False).save(tmp_path / "tall.png")
    wide, tall = decode.decode(tmp_path / "wide.png", 10), decode.decode(tmp_path / "tall.png", 10)
    assert wide.shape == tall.shape == (3, 10, 10)
    assert wide[0, :, 0].max() < 5 and wide[0, :, 9].min() > 250
    assert tall[0, 0].max() < 5 and tall[0, 9].min() > 250


def test_fine_stripes_become_grey_and_not_moire(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (300, 150))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert np.abs(decode.decode(tmp_path / "stripes.png", 16).astype(int) - 127).max() <= 8


@pytest.mark.parametrize(("side", "plenty"), [(61, 1024), (300, 1024), (300, 128)])
def test_reducing_is_the_bicubic_of_the_whole_square(tmp_path, monkeypatch, side, plenty):
    monkeypatch.setattr(decode, "PLENTY", plenty)
    smooth = np.add.outer(np.arange(side), 2 * np.arange(side + 10)) * 255 // (3 * side + 10)
    picture = Image.fromarray(smooth.astype(np.uint8)).convert("RGB")
    picture.save(tmp_path / "ramp.png")
    exact = picture.crop((5, 0, 5 + side, side)).resize((24, 24), Image.Resampling.BICUBIC)
    found = decode.decode(tmp_path / "ramp.png", 24).transpose(1, 2, 0)
    assert np.abs(found.astype(int) - np.asarray(exact)).max() <= 2


def test_pillow_is_itself_again_when_the_last_thread_leaves(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with decode._unguarded():
        with decode._unguarded():
            pass
        assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (2, 3), (33, 17)])
def test_pictures_of_any_shape_give_the_same_size(tmp_path, size):
    assert corner_of(picture(tmp_path / "odd.png", size=size)) == [200, 30, 90]


def test_a_picture_of_several_strips_is_what_one_strip_gives(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (211, 307, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    monkeypatch.setattr(decode, "PLENTY", 16)
    whole = decode.decode(tmp_path / "noise.png", 8)
    monkeypatch.setattr(decode, "STRIP", 5000)
    assert np.array_equal(decode.decode(tmp_path / "noise.png", 8), whole)


def test_a_picture_beyond_pillows_limit_is_read_where_memory_allows(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert len(opened(folder).train) == 12
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(decode, "available_memory", lambda: 2 * 4 * 250)
    monkeypatch.setattr(decode, "STRIP", 100)
    with pytest.raises(decode.TooLarge, match="20 × 14 pixels do not fit"):
        decode.decode(folder / "cat" / "0.png", 4)


def test_resizing_keeps_a_plain_picture_and_a_size_that_fits():
    plain = torch.full((2, 1, 8, 8), 77, dtype=torch.uint8)
    assert decode.resized(plain, 8) is plain
    assert decode.resized(plain, 13).unique().tolist() == [77]
