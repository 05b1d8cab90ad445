import gzip
import hashlib

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from work import done

from sslcut.data import idx
from sslcut.data.images import (
    ArrayImages,
    Dataset,
    Subset,
    Task,
    describe,
    folds,
    hold_out,
    small_classes,
    split_validation,
    statistics,
    subset,
)
from sslcut.data.opening import open_dataset
from sslcut.errors import InputError, SslcutError, UsageError
from sslcut.registry import DATASETS


def images(labels, group=None, size=2, seed=0):
    """Random pictures of those classes."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(labels), 3, size, size), dtype=torch.uint8, generator=generator)
    classes = tuple(str(c) for c in range(int(labels.max()) + 1))
    return ArrayImages(pixels, {"class": Task("class", labels, classes)}, group=group)


def balanced(count, classes=5):
    return images(torch.arange(count) % classes)


groups = st.lists(st.integers(0, 12), min_size=20, max_size=60).filter(lambda drawn: len(set(drawn)) >= 5)


@given(drawn=groups, fraction=st.floats(0.05, 0.6), seed=st.integers(0, 2**32))
def test_no_group_is_in_both_training_and_validation(drawn, fraction, seed):
    group = torch.tensor(drawn)
    train, validation = split_validation(images(group % 3, group), fraction, seed)
    assert not set(group[train].tolist()) & set(group[validation].tolist())
    assert sorted(torch.cat([train, validation]).tolist()) == list(range(len(drawn)))
    assert len(train) and len(validation)


@given(drawn=groups, seed=st.integers(0, 2**32))
def test_no_group_is_in_two_folds_and_no_fold_is_empty(drawn, seed):
    group = torch.tensor(drawn)
    parts = [set(group[test].tolist()) for test in folds(images(group % 2, group), 5, seed)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set(drawn))


@given(labels=st.lists(st.integers(-1, 4), min_size=5, max_size=80), count=st.integers(2, 5), seed=st.integers(0, 9))
def test_folds_tile_all_images_and_share_every_class_evenly(labels, count, seed):
    labels = torch.tensor(labels)
    parts = folds(images(labels), count, seed)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    for wanted in {-1, 0, 1, 2, 3, 4}:
        sizes = [int((labels[part] == wanted).sum()) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=80), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_subset_has_its_count_and_each_class_its_share_to_within_one(labels, share, seed):
    labels = torch.tensor(labels)
    count = round(share * len(labels))
    chosen = subset(images(labels), count, seed).tasks["class"].values
    assert len(chosen) == count
    for wanted in labels.unique().tolist():
        assert abs(int((chosen == wanted).sum()) - count / len(labels) * int((labels == wanted).sum())) < 1 + 1e-9


def test_groups_are_dealt_so_that_classes_stay_balanced():
    group = torch.arange(400) // 4
    split = images(group % 2, group)
    shares = [split.tasks["class"].values[test].double().mean() for test in folds(split, 5, seed=1)]
    assert all(abs(share - 0.5) < 0.05 for share in shares)


def test_another_seed_gives_another_subset_and_the_same_seed_the_same():
    drawn = [Subset.read(subset(balanced(100), 20, seed), torch.arange(20)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_subset_of_more_than_there_are_is_the_split_itself():
    split = balanced(10)
    assert subset(split, 11, 0) is split and subset(split, None, 0) is split


def test_a_subset_keeps_pixels_tasks_groups_and_names_together():
    labels = torch.arange(30) % 3
    split = images(labels, group=torch.arange(30))
    split.names = [f"{row}.png" for row in range(30)]
    part = Subset(Subset(split, torch.arange(10, 20)), torch.tensor([7, 0]))
    assert torch.equal(part.read(torch.tensor([0, 1])), split.pixels[[17, 10]])
    assert part.tasks["class"].values.tolist() == labels[[17, 10]].tolist()
    assert part.group.tolist() == [17, 10] and part.names == ["17.png", "10.png"]


def test_more_folds_than_groups_are_refused():
    with pytest.raises(InputError, match="3 groups"):
        folds(images(torch.zeros(9, dtype=torch.int64), torch.arange(9) % 3), 5, seed=0)


def test_one_image_cannot_be_divided():
    with pytest.raises(InputError, match="1 images"):
        split_validation(balanced(1), 0.5, seed=0)


def test_holding_out_gives_two_splits_of_the_asked_sizes():
    train, test = hold_out(balanced(50), 10, seed=0)
    assert (len(train), len(test)) == (40, 10)
    with pytest.raises(InputError, match="50 images in all"):
        hold_out(balanced(50), 50, seed=0)


def test_statistics_are_those_of_the_pixels_in_numpy():
    split = balanced(40)
    mean, std = statistics(split)
    pixels = split.pixels.numpy() / 255
    assert np.allclose(mean, pixels.mean((0, 2, 3))) and np.allclose(std, pixels.std((0, 2, 3)))


def test_the_deviation_of_one_colour_is_not_zero():
    assert statistics(ArrayImages(torch.full((3, 3, 2, 2), 9, dtype=torch.uint8), {}))[1] == (1e-3,) * 3


def test_grey_images_are_read_as_three_equal_channels():
    split = ArrayImages(torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2), {})
    assert split.read(torch.tensor([1])).tolist() == [[[[4, 5], [6, 7]]] * 3]


def test_content_hashes_are_the_sha256_of_the_pixels():
    split = balanced(3)
    hashes = split.hashes(torch.tensor([2, 0]))
    assert hashes.shape == (2, 32) and hashes.dtype == torch.uint8
    assert bytes(hashes[0].tolist()) == hashlib.sha256(split.pixels[2].numpy().tobytes()).digest()


def test_a_task_without_some_classes_numbers_the_others_anew():
    task = Task("class", torch.tensor([0, 1, 2, -1]), ("a", "b", "c")).without(["b"])
    assert task.classes == ("a", "c") and task.values.tolist() == [0, -1, 1, -1]


def test_small_classes_are_named_with_their_counts_and_the_way_out():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    with pytest.raises(InputError, match="class `b` has 1 of the 3 .* `c` \\(2\\)") as told:
        small_classes(labels, ("a", "b", "c"), 3, skip=False)
    assert "data.skip_small: true" in told.value.faults[0].hint
    assert small_classes(labels, ("a", "b", "c"), 3, skip=True) == {"b": 1, "c": 2}


@pytest.fixture
def opened(monkeypatch):
    """Opens splits made in a test as though a loader had made them."""

    def opener(train, test=None):
        monkeypatch.setattr(DATASETS, "load", lambda name: lambda *, seed: Dataset("folder", train, test))
        return done(open_dataset("folder", {}, seed=0))

    return opener


def test_test_images_that_are_in_training_too_are_counted(opened):
    train, test = balanced(20), images(torch.arange(10) % 5, seed=1)
    assert opened(train, test).warnings == ()
    test.pixels[:3] = train.pixels[:3]
    [told] = opened(train, test).warnings
    assert told.startswith("3 test images are in the training split too") and "test image 0" in told


def test_a_picture_in_two_classes_or_in_two_folds_is_warned_of_once(opened):
    split = balanced(20)
    split.names = [f"{row}.png" for row in range(20)]
    split.pixels[7] = split.pixels[3]
    torn, repeated = opened(split).warnings
    assert torn.startswith("1 pictures are in more than one class") and "3.png and 7.png" in torn
    assert repeated.startswith("1 pictures occur more than once")


def test_an_empty_split_is_refused(opened):
    empty = ArrayImages(torch.empty(0, 3, 2, 2, dtype=torch.uint8), {})
    with pytest.raises(InputError, match="no test images"):
        opened(balanced(10), empty)


def test_a_count_below_one_is_a_fault_of_the_recipe():
    with pytest.raises(UsageError, match=r"data\.train is 0"):
        done(open_dataset("digits", {"train": 0}, seed=0))


def test_a_data_set_is_described_in_a_phrase(opened):
    assert describe(opened(balanced(20))) == "20 images, 5 classes (from folders), no test split: 5-fold cross-fitting"
    bare = ArrayImages(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), {})
    assert describe(Dataset("folder", bare, bare)) == "1 training and 1 test images, no labels"


def test_digits_hold_out_a_stratified_fifth():
    digits = done(open_dataset("digits", {}, seed=0))
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    counts = torch.bincount(digits.test.tasks["class"].values)
    assert counts.min() >= 34 and counts.max() <= 37
    assert digits.train.read(torch.arange(50)).max() == 255


def test_digits_take_counts_and_a_size():
    digits = done(open_dataset("digits", {"train": 50, "test": 20, "size": 12}, seed=0))
    assert digits.train.read(torch.arange(50)).shape == (50, 3, 12, 12) and len(digits.test) == 20


def idx_bytes(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    """The four files of an MNIST of 8 and 4 images, one of them gzipped."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    labels = np.arange(12, dtype=np.uint8) % 10
    for prefix, rows in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(pixels[rows]))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels[rows])))
    return tmp_path


def test_idx_files_are_read_plain_and_gzipped(idx_folder):
    dataset = done(open_dataset("fashion-mnist", {"root": str(idx_folder)}, seed=0))
    assert (len(dataset.train), len(dataset.test)) == (8, 4)
    assert dataset.test.tasks["class"].values.tolist() == [8, 9, 0, 1]
    assert dataset.train.tasks["class"].classes[9] == "Ankle boot"


def test_clothes_have_four_kinds_where_they_are_asked_for(idx_folder):
    plain = done(open_dataset("fashion-mnist", {"root": str(idx_folder)}, seed=0))
    dataset = done(open_dataset("fashion-mnist", {"root": str(idx_folder), "coarse": True}, seed=0))
    assert list(plain.test.tasks) == ["class"] and list(dataset.test.tasks) == ["class", "coarse"]
    told = [dataset.test.tasks["coarse"].classes[kind] for kind in dataset.test.tasks["coarse"].values.tolist()]
    assert told == ["bag", "shoe", "upper", "lower"]  # Bag, Ankle boot, T-shirt/top, Trouser


@pytest.mark.parametrize(("head", "cut"), [(b"", 100), (b"", 2), (b"\x89PNG", None), (b"\0", None), (b"", 0)])
def test_a_truncated_or_foreign_idx_file_is_named(idx_folder, head, cut):
    path = idx_folder / "train-images-idx3-ubyte"
    path.write_bytes(head + path.read_bytes()[:cut])
    with pytest.raises(InputError, match="train-images-idx3-ubyte"):
        done(open_dataset("mnist", {"root": str(idx_folder)}, seed=0))


def test_a_cut_gzip_file_is_named(idx_folder):
    path = idx_folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="t10k-labels"):
        done(open_dataset("mnist", {"root": str(idx_folder)}, seed=0))


def test_images_and_labels_that_do_not_fit_are_named(idx_folder):
    (idx_folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(InputError, match="do not fit together"):
        done(open_dataset("mnist", {"root": str(idx_folder)}, seed=0))


def test_missing_fashion_mnist_names_the_package_and_the_option(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "DEBIAN", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError) as told:
        done(open_dataset("fashion-mnist", {}, seed=0))
    assert "dataset-fashion-mnist" in told.value.faults[0].hint and "data.root" in told.value.faults[0].hint


class Tiny(torchvision.datasets.VisionDataset):
    """A set as torchvision writes them, with splits called train and val."""

    classes = ("cat", "dog")

    def __init__(self, root, split="train", download=False):
        if split not in ("train", "val"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        self.split = split

    def __len__(self):
        return 12 if self.split == "train" else 6

    def __getitem__(self, row):
        return Image.new("RGB", (9, 7), (row, 100 * (self.split == "val"), 0)), row % 2


@pytest.fixture
def tiny_set(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "Tiny", Tiny, raising=False)
    return {"dataset": "tiny", "root": "nowhere", "size": 4}


def test_torchvision_splits_are_found_whatever_their_names(tiny_set):
    dataset = done(open_dataset("torchvision", tiny_set, seed=0))
    assert (len(dataset.train), len(dataset.test)) == (12, 6)
    assert dataset.train.read(torch.tensor([5]))[0, :, 0, 0].tolist() == [5, 0, 0]
    assert dataset.train.tasks["class"].values.tolist() == [0, 1] * 6
    assert dataset.train.tasks["class"].classes == ("cat", "dog")


def test_a_torchvision_set_without_splits_is_cross_fitted_or_held_out_from(tiny_set):
    whole = {**tiny_set, "arguments": {"split": "train"}}
    assert done(open_dataset("torchvision", whole, seed=0)).test is None
    held = done(open_dataset("torchvision", {**whole, "test": 4, "train": 6}, seed=0))
    assert (len(held.train), len(held.test)) == (6, 4)


def test_missing_torchvision_files_end_in_one_line(tmp_path):
    with pytest.raises(InputError, match="CIFAR10: Dataset not found or corrupted$") as told:
        done(open_dataset("torchvision", {"root": str(tmp_path)}, seed=0))
    assert "data.download: true" in told.value.faults[0].hint


def test_a_torchvision_set_that_is_not_of_classes_is_refused(tiny_set, monkeypatch):
    monkeypatch.setattr(Tiny, "__getitem__", lambda self, row: (Image.new("L", (3, 3)), {"boxes": []}))
    with pytest.raises(InputError, match="not a classification set"):
        done(open_dataset("torchvision", tiny_set, seed=0))


def test_an_unknown_torchvision_set_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as told:
        done(open_dataset("torchvision", {"dataset": "CIFAR11", "root": "."}, seed=0))
    assert "did you mean `CIFAR10`" in told.value.faults[0].hint


@pytest.mark.parametrize("name", DATASETS)
def test_every_loader_takes_a_size_and_counts_and_has_a_summary(name):
    assert {"size", "train", "test"} <= DATASETS.options(name).keys()
    assert DATASETS.summary(name)


@pytest.mark.parametrize("name", ["folder", "table", "torchvision"])
def test_a_missing_root_is_an_input_fault_with_a_hint(name):
    with pytest.raises(SslcutError) as told:
        done(open_dataset(name, {}, seed=0))
    assert told.value.exit_code == 3 and "data.root" in told.value.faults[0].hint
