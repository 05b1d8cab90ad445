"""The solver of the linear probe where it is large: rows in blocks, a bound on memory, many classes, wide features."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from layers import factors, generator, layer, one_fold, tasks_of
from sklearn.linear_model import LogisticRegression, Ridge

from sslcut.bench.memory import Watch
from sslcut.data.images import Task
from sslcut.metrics import minimise, rows, spectrum
from sslcut.metrics.design import Affine, Design
from sslcut.metrics.layer import Fold, Layer
from sslcut.metrics.lbfgs import Memory
from sslcut.metrics.linear import GRID, linear
from sslcut.metrics.logistic import CrossEntropy, logistic
from sslcut.metrics.ridge import SquaredError, ridge
from sslcut.metrics.rows import Kept, Scaler

MANY = 10**9


def drawn(count, width, classes, *, apart=1.0, seed=0):
    """Standardised features (count, width) whose variances fall over five decades, and classes that shift them."""
    draw = generator(seed)
    labels = torch.arange(count) % classes
    features = torch.randn(count, width, generator=draw) + apart * torch.randn(classes, width, generator=draw)[labels]
    features = (features * torch.logspace(0, -2.5, width)) @ torch.linalg.qr(
        torch.randn(width, width, generator=draw)
    ).Q
    return (features - features.mean(dim=0)) / features.std(dim=0), labels


def objective(fitted, features, labels, l2):
    logits = features.double() @ fitted.weights[0].double().T + fitted.intercepts[0].double()
    return float(torch.nn.functional.cross_entropy(logits, labels) + l2 / 2 * fitted.weights.double().square().sum())


def scikit(features, labels, l2):
    model = LogisticRegression(C=1 / (len(labels) * l2), tol=1e-6, max_iter=5000)
    model.fit(features.double().numpy(), labels.numpy())
    return Affine(torch.tensor(model.coef_)[None], torch.tensor(model.intercept_)[None])


def assert_scikit_learns_optimum(features, labels, classes, l2):
    ours = logistic(Design(features), labels, classes, torch.tensor([l2]))
    best = objective(scikit(features, labels, l2), features, labels, l2)
    assert objective(ours, features, labels, l2) == pytest.approx(best, rel=1e-4)


def test_a_thousand_classes_reach_scikit_learns_optimum():
    assert_scikit_learns_optimum(*drawn(3000, 16, 1000), 1000, 1e-1)


def test_8192_dimensions_reach_scikit_learns_optimum():
    draw = generator(0)
    labels = torch.arange(120) % 3
    assert_scikit_learns_optimum(torch.randn(120, 8192, generator=draw) + 0.02 * labels[:, None], labels, 3, 1e-1)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "width", "classes"), [(600, 8192, 10), (3000, 2048, 10), (5000, 64, 1000)])
def test_large_problems_reach_scikit_learns_optimum(count, width, classes):
    assert_scikit_learns_optimum(*drawn(count, width, classes), classes, 1e-2)


@pytest.fixture
def sketched(monkeypatch):
    """Spectra of more than 32 directions are sketched by 12."""
    monkeypatch.setattr(spectrum, "EXACT", 32)
    monkeypatch.setattr(spectrum, "SKETCH", 12)


@pytest.mark.parametrize("count", [400, 60])
def test_classes_reach_scikit_learns_optimum_from_a_sketch_of_the_spectrum(sketched, count):
    assert_scikit_learns_optimum(*drawn(count, 90, 4), 4, 1e-3)


def test_ridge_from_a_sketch_of_the_spectrum_is_scikit_learns(sketched):
    features, _ = drawn(400, 90, 4)
    targets = features[:, :2] + torch.randn(400, 2, generator=generator(1)) + 5
    fitted = ridge(Design(features), targets, torch.tensor([1e-3, 1e-1]))
    for predicted, l2 in zip(fitted(features), [1e-3, 1e-1], strict=True):
        model = Ridge(alpha=l2 * 400).fit(features.double().numpy(), targets.double().numpy())
        expected = torch.tensor(model.predict(features.double().numpy())).float()
        torch.testing.assert_close(predicted.T, expected, atol=5e-3, rtol=0)


def test_features_of_few_directions_can_be_sketched(sketched):
    draw = generator(0)
    features = torch.randn(200, 3, generator=draw) @ torch.randn(3, 50, generator=draw)
    found = Design(features).spectrum
    covariance = features.T.cov(correction=0)
    exact = torch.linalg.eigvalsh(covariance)
    torch.testing.assert_close(found.variances.flip(0)[:3], exact.flip(0)[:3], rtol=1e-4, atol=0)
    assert found.rest < 1e-4 * found.variances.max()


@pytest.mark.parametrize("shape", [(5000, 20), (200, 20), (20, 50)])
def test_the_spectrum_inverts_the_covariance_plus_the_penalty(shape):
    features = torch.randn(shape, generator=generator(0)) + 0.3
    design, gradient = Design(features), torch.randn(2, 4, shape[0], generator=generator(1)) @ features
    centred = (features - features.mean(dim=0)).double()
    gradient = (gradient.double() @ torch.linalg.pinv(centred, rtol=1e-6) @ centred).float()  # of the rows
    hessian = 0.2 * centred.T @ centred / shape[0] + 0.1 * torch.eye(shape[1])
    expected = torch.linalg.solve(hessian, gradient.double().mT).mT.float()
    along, _ = design.coordinates(Affine(gradient, torch.zeros(2, 4)))
    found = design.spectrum.inverse(along, torch.full((2, 4, 1), 0.2), 0.1)
    torch.testing.assert_close(design.affine(found, torch.zeros(2, 4)).weights, expected, atol=1e-3, rtol=1e-3)


def test_a_map_is_the_same_on_features_and_on_their_coordinates():
    features, labels = drawn(300, 20, 4)
    design = Design(features)
    fitted = logistic(design, labels, 4, torch.tensor([1e-2]))
    again = design.affine(*design.coordinates(fitted))
    torch.testing.assert_close(again(features), fitted(features), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", [CrossEntropy(torch.arange(30) % 6, 6), SquaredError(torch.rand(30, 6))])
def test_a_loss_gives_its_first_and_second_derivatives(loss):
    outputs, part = torch.randn(6, 10, generator=generator(0)), slice(7, 17)

    def total(outputs):
        if isinstance(loss, SquaredError):
            return (outputs - loss.targets[:, part]).square().sum() / 2
        return torch.nn.functional.cross_entropy(outputs.T, loss.labels[part], reduction="sum")

    first = torch.autograd.functional.jacobian(total, outputs)
    second = torch.autograd.functional.hessian(total, outputs).flatten(2).flatten(0, 1).diagonal().view(6, 10).sum(1)
    value = float(total(outputs))
    slope, summed, curvature = loss.slope(outputs, part)
    assert summed == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(slope, first)
    torch.testing.assert_close(curvature, second)


def two_loops(gradient, pairs, scaling):
    """L-BFGS as it is taught: Nocedal & Wright, algorithm 7.4."""
    rest, shares = gradient, []
    for step, change in reversed(pairs):
        shares.append((step * rest).sum() / (step * change).sum())
        rest = rest - shares[-1] * change
    rest = scaling(rest)
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        rest = rest + (share - (change * rest).sum() / (step * change).sum()) * step
    return -rest


@pytest.mark.parametrize("pairs", [1, 3, 7])
def test_compact_directions_are_those_of_the_two_loops(pairs):
    draw = generator(pairs)
    root = torch.randn(12, 12, generator=draw)
    hessian = root @ root.T + torch.eye(12)
    steps = [torch.randn(3, 4, generator=draw) for _ in range(pairs)]
    memory, shift = Memory(steps[0], size=3), torch.linspace(0, 1, 12).view(3, 4)
    for step in steps:
        memory.remember(step, (hessian @ step.flatten()).view(3, 4))
    memory.stiffen(shift)
    stiff = hessian + shift.flatten().diag()
    kept = [(step, (stiff @ step.flatten()).view(3, 4)) for step in steps[-3:]]
    gradient = torch.randn(3, 4, generator=draw)
    flat = 0.5 / float(torch.linalg.eigvalsh(stiff)[-1])  # less than every pair shows: it is not scaled down
    found = memory.direction(gradient, lambda vector: flat * vector)
    torch.testing.assert_close(found, two_loops(gradient, kept, lambda vector: flat * vector), atol=1e-4, rtol=1e-3)


def test_pairs_that_a_softer_penalty_leaves_without_curvature_are_forgotten():
    step, memory = torch.ones(2, 3), Memory(torch.ones(2, 3))
    memory.remember(step, 2 * step)
    memory.stiffen(torch.full((2, 3), -1.5))
    assert memory.forget() and not memory.forget()
    memory.remember(step, 2 * step)
    memory.stiffen(torch.full((2, 3), -2.0))
    assert not memory.forget()


def passes(monkeypatch, work):
    count, evaluate = [], minimise._Objective.at
    monkeypatch.setattr(minimise._Objective, "at", lambda *call: count.append(1) or evaluate(*call))
    work()
    monkeypatch.undo()
    return len(count)


def test_a_path_takes_half_the_passes_of_fits_that_begin_at_nothing(monkeypatch):
    features, labels = drawn(2000, 40, 10, apart=0.7)
    design, l2 = Design(features), torch.tensor(GRID)
    path = passes(monkeypatch, lambda: logistic(design, labels, 10, l2, tolerance=1e-4))
    alone = passes(monkeypatch, lambda: [logistic(design, labels, 10, one[None], tolerance=1e-4) for one in l2])
    assert path < alone / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_moments_that_are_joined_from_blocks_are_those_of_all_rows(monkeypatch, dtype):
    monkeypatch.setattr(rows, "BLOCK", 70)
    features = (20 + torch.randn(100, 7, generator=generator(0)) * torch.arange(1, 8)).to(dtype)
    taken = torch.arange(0, 100, 3)
    scaler, exact = Scaler(features, taken, "standard"), features[taken].double()
    torch.testing.assert_close(scaler.mean.double(), exact.mean(dim=0), rtol=1e-6, atol=0)
    torch.testing.assert_close(scaler.deviation.double(), exact.std(dim=0, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("width", "exact"), [(12, 1024), (700, 1024), (80, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_layer_without_room_for_a_copy_is_solved_alike(monkeypatch, sketched, width, exact, dtype):
    monkeypatch.setattr(spectrum, "EXACT", exact)
    monkeypatch.setattr(rows, "BLOCK", 50 * width)
    hidden = factors()
    shown = layer(hidden, "h", 0.3, width=width)
    shown = Layer(shown.name, shown.readout, shown.features.to(dtype))
    kept, passing = (
        linear([shown], tasks_of(hidden), [one_fold(600)], scale="standard", memory=memory) for memory in (MANY, 0)
    )
    for one, other in zip(kept, passing, strict=True):
        assert one.chosen == other.chosen
        same = (one.tested - other.tested).abs() < 1e-3
        assert same.float().mean() > 0.998


def test_where_there_is_room_a_copy_is_read_and_not_the_layer(monkeypatch):
    features = torch.randn(50, 4, generator=generator(0))
    scaler, all_rows = Scaler(features, torch.arange(50), "raw"), torch.arange(50)
    assert isinstance(rows.scaled(features, all_rows, scaler, 50 * 4 * 4), Kept)
    assert not isinstance(rows.scaled(features, all_rows, scaler, 50 * 4 * 4 - 1), Kept)


def probe_within(kind, memory):
    """Probe 90,000 × 256 features within so many bytes: those added at the peak, and the share of test rows right."""
    features = torch.randn(90_000, 256, generator=generator(0), dtype=torch.bfloat16)
    values = features[:, 0].float() if kind == "number" else (features[:, 0] > 0).long()
    few, fold = torch.arange(2000), Fold(*torch.arange(90_000).split([60_000, 8_000, 22_000]))
    task = Task(kind, values, ("no", "yes") if kind == "class" else ())
    probe = partial(linear, scale="standard", memory=memory)
    probe([Layer("h", "avg", features[few])], {"t": task.take(few)}, [one_fold(2000)])  # libraries take their share
    with Watch() as watch:
        (fit,) = probe([Layer("h", "avg", features)], {"t": task}, [fold])
    return watch.added, float(((fit.tested - values)[fold.test].abs() < 0.5).float().mean())


@pytest.mark.parametrize("kind", ["number", pytest.param("class", marks=pytest.mark.slow)])
def test_the_probe_keeps_to_its_memory(kind):
    memory = 80 * 2**20  # a copy of the final fit's rows alone would take 70 MB
    code = f"import test_solver; print(*test_solver.probe_within({kind!r}, {memory}))"  # no other test's heap
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    added, right = done.stdout.split()
    assert added == "None" or int(added) <= memory
    assert float(right) > 0.98
