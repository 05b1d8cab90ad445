import random
from collections import Counter

import pytest
import torch
from test_methods import CLASSES, labels_of, method_of, normal, views_of

from sslcut.methods.mixing import Mixing, draw


def test_mixup_is_the_weighted_mean_of_two_images():
    crop = normal(2, 3, 3, 8, 8)
    mixed = Mixing(torch.tensor([2, 0, 1]), 0.7)(crop)
    torch.testing.assert_close(mixed, 0.7 * crop + 0.3 * crop[:, [2, 0, 1]])


def test_cutmix_pastes_the_other_image_into_the_box_at_every_size():
    mixing = Mixing(torch.tensor([1, 0]), 0.75, (0.0, 0.5, 0.5, 1.0))
    for side in (8, 16):
        crop = torch.stack([torch.zeros(3, side, side), torch.ones(3, side, side)])[None]
        half = side // 2
        mixed = mixing(crop)[0, 0]
        assert mixed[:, :half, half:].all() and mixed.sum() == 3 * half**2


@pytest.mark.parametrize("seed", range(20))
def test_a_box_covers_what_the_share_leaves_out(seed):
    mixing = draw(random.Random(seed), 4, 0.0, 1.0, torch.device("cpu"))
    top, left, bottom, right = mixing.box
    assert 0 <= top <= bottom <= 1 and 0 <= left <= right <= 1
    assert (bottom - top) * (right - left) == pytest.approx(1 - mixing.share)


def test_each_of_two_mixings_takes_half_the_batches_and_one_alone_takes_all():
    chance, device = random.Random(0), torch.device("cpu")
    both = Counter(draw(chance, 4, 0.2, 1.0, device).box is None for _ in range(400))
    assert 160 < both[True] < 240
    assert all(draw(chance, 4, 0.2, 0.0, device).box is None for _ in range(50))
    assert all(draw(chance, 4, 0.0, 0.2, device).box is not None for _ in range(50))


def test_mixed_images_are_taught_both_labels_by_their_shares():
    method, z, labels = method_of("supervised", mixup=1.0), normal(1, 6, CLASSES), labels_of(6)
    method.mixing = Mixing(torch.tensor([3, 1, 5, 0, 2, 4]), 0.6)
    log = torch.log_softmax(z[0], dim=1)
    shuffled = labels[method.mixing.order]
    expected = -(0.6 * log[range(6), labels] + 0.4 * log[range(6), shuffled]).mean()
    torch.testing.assert_close(method.loss(z, labels), expected)


def test_images_are_mixed_while_training_alone_and_again_alike_at_the_same_step():
    method, views = method_of("supervised", cutmix=1.0), views_of(normal(1, 6, 3, 16, 16).float())
    method.train()(views)
    first = method.mixing
    method(views)
    assert method.mixing.share == first.share and torch.equal(method.mixing.order, first.order)
    method.progress = 0.5
    method(views)
    assert method.mixing.share != first.share
    method.eval()(views)
    assert method.mixing is None
