"""Every loss against its published formula, written out again in plain loops and float64."""

import math

import pytest
import torch
from test_methods import CLASSES, labels_of, method_of, normal
from torch.nn import functional as F

from sslcut.methods.lejepa import epps_pulley
from sslcut.methods.simclr import nt_xent
from sslcut.methods.supcon import l_out
from sslcut.methods.swav import sinkhorn
from sslcut.registry import METHODS


def unit(rows):
    return [row / row.norm() for row in rows]


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def cross_entropy(scores, own):
    return math.log(sum(math.exp(score) for score in scores)) - scores[own]


def test_barlow_twins_is_the_sum_over_the_cross_correlation():
    z, batch = normal(2, 7, 4), 7
    a, b = ((v - v.mean(0)) / (v.var(0, correction=0) + 1e-5).sqrt() for v in z)
    expected = 0.0
    for j in range(4):
        for k in range(4):
            c = float(sum(a[i, j] * b[i, k] for i in range(batch))) / batch
            expected += (1 - c) ** 2 if j == k else 0.0051 * c**2
    loss = method_of("barlow_twins").loss
    assert float(loss(z, None)) == pytest.approx(expected, abs=1e-10)
    assert float(loss(z.float(), None)) == pytest.approx(expected, rel=1e-5)


def test_barlow_twins_of_equal_views_without_redundancy_costs_nothing():
    z = F.normalize(torch.linalg.qr(normal(64, 5) - normal(64, 5).mean(0))[0], dim=0) * 8
    z = z - z.mean(0)
    whitened = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / 64).T)
    assert float(method_of("barlow_twins").loss(torch.stack([whitened] * 2), None)) == pytest.approx(5e-10, rel=1e-3)


def test_byol_is_two_minus_twice_the_cosine_of_crossed_views():
    z = normal(4, 6, 5)
    expected = 0.0
    for i in range(6):
        expected += (2 - 2 * cosine(z[0, i], z[3, i]) + 2 - 2 * cosine(z[1, i], z[2, i])) / 6
    assert float(method_of("byol").loss(z, None)) == pytest.approx(expected, abs=1e-12)
    met = torch.cat([z[:2], z[:2].flip(0)])
    assert float(method_of("byol").loss(met, None)) == pytest.approx(0, abs=1e-9)


def test_simsiam_is_the_mean_negative_cosine_and_minus_one_where_views_meet():
    z = normal(4, 6, 5)
    expected = -sum(cosine(z[0, i], z[3, i]) + cosine(z[1, i], z[2, i]) for i in range(6)) / 12
    assert float(method_of("simsiam").loss(z, None)) == pytest.approx(expected, abs=1e-12)
    met = torch.cat([z[:2], z[:2].flip(0)])
    assert float(method_of("simsiam").loss(met, None)) == pytest.approx(-1, abs=1e-12)


@torch.no_grad()
def test_moco_v2_finds_the_key_among_the_queue():
    method, z = method_of("moco_v2", queue=7), normal(2, 5, 5)
    queue = method.bank.rows.double()
    total = 0.0
    for i in range(5):
        scores = [cosine(z[0, i], z[1, i]) / 0.2, *(float(unit(z[0])[i] @ row) / 0.2 for row in queue)]
        total += cross_entropy(scores, 0) / 5
    assert float(method.loss(z, None)) == pytest.approx(total, abs=1e-10)


def test_moco_v2_of_equal_views_and_an_orthogonal_queue_is_known():
    method = method_of("moco_v2", queue=3, temperature=0.5)
    method.bank.rows.copy_(torch.eye(5)[2:5])
    z = torch.eye(5)[:2].double().expand(2, 2, 5)
    assert float(method.loss(z, None)) == pytest.approx(-2 + math.log(math.exp(2) + 3), abs=1e-12)


def test_moco_v3_is_twice_tau_times_both_directions():
    z, temperature = normal(4, 5, 4), 0.3
    total = 0.0
    for mine, theirs in ((0, 3), (1, 2)):
        for i in range(5):
            scores = [cosine(z[mine, i], z[theirs, j]) / temperature for j in range(5)]
            total += 2 * temperature * cross_entropy(scores, i) / 5
    assert float(method_of("moco_v3", temperature=temperature).loss(z, None)) == pytest.approx(total, abs=1e-12)


def test_supcon_sums_over_the_partners_outside_the_logarithm():
    z, labels, temperature = normal(2, 6, 4), torch.tensor([0, 1, 0, 2, 1, 0]), 0.3
    rows, classes = unit(z.flatten(0, 1)), labels.repeat(2).tolist()
    total = 0.0
    for i in range(12):
        scores = {j: float(rows[i] @ rows[j]) / temperature for j in range(12) if j != i}
        rest = math.log(sum(map(math.exp, scores.values())))
        partners = [j for j in scores if classes[j] == classes[i]]
        total += sum(rest - scores[j] for j in partners) / len(partners) / 12
    assert float(l_out(z.flatten(0, 1), labels.repeat(2), temperature)) == pytest.approx(total, abs=1e-12)
    method = method_of("supcon", temperature=temperature, base_temperature=0.1)
    assert float(method.loss(z, labels)) == pytest.approx(3 * total, abs=1e-12)


def test_supcon_is_nt_xent_where_every_label_is_unique_or_there_is_none():
    z = normal(2, 6, 4)
    method = method_of("supcon", temperature=0.2, base_temperature=0.2)
    for labels in (torch.arange(6), torch.full((6,), -1)):
        torch.testing.assert_close(method.loss(z, labels), nt_xent(z, 0.2))


def test_an_image_without_partner_costs_supcon_nothing():
    z = normal(1, 3, 4)
    alone = l_out(z[0], torch.tensor([0, 1, 2]), 0.1)
    assert float(alone) == 0


@torch.no_grad()
def test_dino_is_the_cross_entropy_of_crossed_views():
    method = method_of("dino", teacher_temperature=0.05).double()
    method.centre.copy_(normal(len(method.centre), seed=3))
    z = normal(5, 4, 5)  # three views of the student, two of the teacher
    score = lambda chain, row: chain.block("prototypes")(row[None])[0]  # noqa: E731
    total, pairs = 0.0, 0
    for u in range(2):
        for v in range(3):
            if u == v:
                continue
            pairs += 1
            for i in range(4):
                sharp = ((score(method.teacher.chain, z[3 + u, i]) - method.centre) / 0.05).softmax(0)
                total -= float((sharp * (score(method.chain, z[v, i]) / 0.1).log_softmax(0)).sum()) / 4
    assert float(method.loss(z, None)) == pytest.approx(total / pairs, abs=1e-10)


@torch.no_grad()
def test_dino_of_equal_scores_and_no_centre_is_the_log_of_their_number():
    method = method_of("dino").double()
    for chain in (method.chain, method.teacher.chain):
        torch.nn.init.ones_(chain.block("prototypes").weight)
    assert float(method.loss(torch.ones(4, 3, 5).double(), None)) == pytest.approx(math.log(len(method.centre)))


def test_dinos_centre_and_teacher_move_after_the_step():
    method, z = method_of("dino", momentum=0.5, centre_momentum=0.9), normal(4, 6, 5).float()
    with torch.no_grad():
        for parameter in method.chain.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in method.teacher.parameters()]
    mean = method.teacher.chain.block("prototypes")(z[2:]).mean((0, 1))
    method.after_step(z, None, 0.0)
    torch.testing.assert_close(method.centre, 0.1 * mean)
    for old, new, own in zip(before, method.teacher.parameters(), method.chain.parameters(), strict=True):
        torch.testing.assert_close(new, (old + own) / 2)


def test_dinos_teacher_warms_up_and_its_prototypes_stand_still_at_first():
    method = method_of(
        "dino", warmup_teacher_temperature=0.04, teacher_temperature=0.07, teacher_temperature_warmup=0.5
    )
    for progress, expected in ((0.0, 0.04), (0.25, 0.055), (0.5, 0.07), (0.9, 0.07)):
        method.progress = progress
        assert method.sharpness() == pytest.approx(expected)
    weight = method.chain.block("prototypes").weight
    weight.grad = torch.ones_like(weight)
    method.before_step(0.5)
    assert weight.grad.all()
    method.before_step(0.001)
    assert not weight.grad.any()


def test_a_sinkhorn_code_shares_the_batch_evenly():
    code = sinkhorn(normal(12, 4), 0.5, 100)
    torch.testing.assert_close(code.sum(1), torch.ones(12).double())
    torch.testing.assert_close(code.sum(0), torch.full((4,), 3.0).double(), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_swav_predicts_each_global_code_from_every_other_view():
    method, z = method_of("swav", epsilon=0.05).double(), normal(3, 5, 5)
    weight = method.chain.block("prototypes").weight.detach()
    scores = F.normalize(z, dim=2) @ weight.T
    total = 0.0
    for i in range(2):
        q = (scores[i] / 0.05).exp()
        for _ in range(3):
            q = q / q.sum(0, keepdim=True)
            q = q / q.sum(1, keepdim=True)
        for v in range(3):
            if v != i:
                total -= float((q * (scores[v] / 0.1).log_softmax(1)).sum()) / 5 / 2 / 2
    assert float(method.loss(z, None)) == pytest.approx(total, abs=1e-10)


@torch.no_grad()
def test_swav_of_equal_scores_is_the_log_of_the_number_of_prototypes():
    method = method_of("swav").double()
    torch.nn.init.ones_(method.chain.block("prototypes").weight)
    count = len(method.chain.block("prototypes").weight)
    assert float(method.loss(torch.ones(2, 6, 5).double(), None)) == pytest.approx(math.log(count))


@torch.no_grad()
def test_swavs_queue_takes_part_in_the_codes_once_its_time_has_come():
    method, z = method_of("swav", queue=8, queue_from=0.5).double(), normal(2, 5, 5)
    without = method.loss(z, None)
    method.progress = 0.5
    assert method.loss(z, None) != without
    method.after_step(z, None, 0.5)
    torch.testing.assert_close(method.banks[1].rows[:5], F.normalize(z[1], dim=1))


def test_epps_pulley_is_the_weighted_distance_of_characteristic_functions():
    samples = normal(40, 3)
    t = torch.linspace(-3, 3, 33).double()
    psi = torch.polar(torch.ones(40, 3, 33).double(), samples[..., None] * t).mean(0)
    normals = (-t.square() / 2).exp()
    expected = 40 * torch.trapezoid((psi - normals).abs().square() * normals, t, dim=1).mean()
    torch.testing.assert_close(epps_pulley(samples, 17, 3.0), expected)


def test_a_normal_sample_passes_and_a_collapsed_one_does_not():
    assert float(epps_pulley(normal(4000, 2), 17, 3.0)) < 10 < 100 < float(epps_pulley(torch.zeros(4000, 2), 17, 3.0))


def test_lejepa_pulls_every_view_to_the_mean_of_the_global_ones():
    method, z = method_of("lejepa", weight=0.0), normal(3, 6, 4)
    centre = (z[0] + z[1]) / 2
    expected = sum((z[v] - centre).square().mean() for v in range(3)) / 3
    torch.testing.assert_close(method.loss(z, None), expected)


def test_trex_prototypes_are_the_classes_sums_and_nought_without_an_image():
    method = method_of("trex", memory_size=9)
    method.bank.labels.copy_(torch.tensor([0, 0, 2, 2, 2, 0, -1, -1, 2]))
    found = method.prototypes()
    for c in range(CLASSES):
        total = sum(
            (row for row, y in zip(method.bank.rows, method.bank.labels, strict=True) if y == c), torch.zeros(5)
        )
        torch.testing.assert_close(found[c], total / max(float(total.norm()), 1e-12))
    assert found[1].abs().sum() == 0


def test_trex_classifies_every_crop_by_the_cosine_to_the_prototypes():
    method, z, labels = method_of("trex", memory_size=16), normal(3, 4, 5), torch.tensor([2, 0, -1, 1])
    prototypes = method.prototypes().double()
    total = 0.0
    for view in z[:2]:
        for row, label in zip(view, labels.tolist(), strict=True):
            if label >= 0:
                total += cross_entropy([float(row @ p / row.norm()) / 0.1 for p in prototypes], label) / 6
    assert float(method.loss(z, labels)) == pytest.approx(total, abs=1e-9)
    assert float(method.loss(z * 7, labels)) == pytest.approx(total, abs=1e-9)


def test_trexs_memory_drops_what_does_not_fit_before_its_end():
    method = method_of("trex", memory_size=7)
    for step in range(4):
        method.after_step(torch.full((2, 3, 5), float(step)), torch.full((3,), step % CLASSES), 0.0)
    assert method.bank.rows[:, 0].tolist() == [3, 3, 3, 1, 1, 1, 2]
    assert method.bank.labels.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert int(method.bank.at) == 3


def test_trexs_projector_is_drawn_as_published_and_its_teacher_begins_as_a_copy():
    method = method_of("trex", width=400)
    layer = method.chain.block("projector").linear
    assert 0.8 * 0.02 < float(layer.weight.detach().std()) < 1.1 * 0.02
    assert layer.bias is not None and not layer.bias.any()
    assert torch.equal(method.teacher.chain.block("projector").linear.weight, layer.weight)


def test_trex_without_a_memory_learns_its_class_weights():
    method = method_of("trex", memory_size=0)
    method.loss(normal(1, 4, 5).float(), labels_of(4)).backward()
    assert method.weight.grad is not None and method.weight.grad.abs().sum() > 0


def test_nt_xent_can_leave_out_the_negatives_of_the_anchors_class():
    z, labels, temperature = normal(2, 6, 4), torch.tensor([0, 1, 0, -1, 1, -1]), 0.3
    rows, known = unit(z.flatten(0, 1)), labels.repeat(2).tolist()
    total = 0.0
    for i in range(12):
        partner = (i + 6) % 12
        rest = [j for j in range(12) if j not in (i, partner) and (known[j] != known[i] or known[i] < 0)]
        scores = [float(rows[i] @ rows[j]) / temperature for j in [partner, *rest]]
        total += cross_entropy(scores, 0) / 12
    assert float(nt_xent(z, temperature, labels)) == pytest.approx(total, abs=1e-12)


@torch.no_grad()
def test_moco_v2_can_leave_out_the_queues_images_of_the_anchors_class():
    method, z, labels = method_of("moco_v2", queue=4, negatives="mask_same_label"), normal(2, 3, 5), labels_of(3)
    assert method.uses_labels and not method_of("moco_v2").uses_labels
    method.bank.labels.copy_(torch.tensor([0, -1, 1, 0]))
    total = 0.0
    for i in range(3):
        rest = [row.double() for row, y in zip(method.bank.rows, method.bank.labels.tolist(), strict=True) if y != i]
        scores = [cosine(z[0, i], z[1, i]) / 0.2, *(float(unit(z[0])[i] @ row) / 0.2 for row in rest)]
        total += cross_entropy(scores, 0) / 3
    assert float(method.loss(z, labels)) == pytest.approx(total, abs=1e-10)
    method.after_step(z.float(), labels, 0.0)
    assert method.bank.labels.tolist() == [0, 1, 2, 0]


def test_moco_v3_can_leave_out_the_keys_of_the_anchors_class():
    method, z, labels = method_of("moco_v3", negatives="mask_same_label"), normal(4, 4, 5), torch.tensor([0, 1, 0, -1])
    total = 0.0
    for mine, theirs in ((0, 3), (1, 2)):
        for i in range(4):
            kept = [i, *(j for j in range(4) if j != i and (labels[j] != labels[i] or labels[i] < 0))]
            total += 0.4 * cross_entropy([cosine(z[mine, i], z[theirs, j]) / 0.2 for j in kept], 0) / 4
    assert float(method.loss(z, labels)) == pytest.approx(total, abs=1e-12)


def test_lejepas_directions_are_drawn_anew_each_step_and_again_by_a_resumed_one():
    method, z = method_of("lejepa", weight=1.0, slices=2), normal(2, 6, 4)
    first = method.loss(z, None)
    assert method.loss(z, None) == first
    method.progress = 0.01
    other = method.loss(z, None)
    method.seed = 1
    assert len({float(first), float(other), float(method.loss(z, None))}) == 3


def test_trex_keeps_its_final_class_means_as_the_block_prototypes():
    method = method_of("trex", memory_size=9).eval()
    kept, images = method.kept, normal(2, 3, 16, 16).float()
    assert kept.names[-1] == "prototypes" and method.added == {"prototypes": {"count": CLASSES, "unit": True}}
    expected = F.normalize(method.chain(images), dim=1) @ method.prototypes().T
    torch.testing.assert_close(kept(images), expected)


@pytest.mark.parametrize("name", [name for name in METHODS if method_of(name).targets])
def test_no_gradient_reaches_a_target(name):
    method = method_of(name)
    z = normal(method.targets + 2, 6, 5).float().requires_grad_()
    method.loss(z, labels_of(6)).backward()
    assert z.grad[-method.targets :].abs().sum() == 0 and z.grad[: -method.targets].abs().sum() > 0
