"""What runs on a GPU, on one that is not there: nothing mixes devices, no step waits, results are the CPU's."""

from types import SimpleNamespace

import pytest
import torch
from conftest import EXCUSED
from pretended import GPU, pretending
from test_loop import method_of, views_of
from test_methods import CLASSES
from torch import nn

from sslcut.bench import step, views
from sslcut.bench.setting import Setting
from sslcut.data.images import ArrayImages, Task
from sslcut.data.views import Crop, ViewMaker
from sslcut.metrics.binarised import binarised
from sslcut.metrics.controls import projected, rescaled
from sslcut.metrics.extract import Taps, estimate_batchnorm, features, seconds_per_1000, taps
from sslcut.metrics.knn import knn
from sslcut.metrics.layer import Beside, Fold, Layer
from sslcut.metrics.linear import fit_scaled, linear
from sslcut.metrics.store import Store
from sslcut.model.build import build
from sslcut.model.network import Input, Network
from sslcut.registry import AUGMENTATIONS, METHODS, OPTIMISERS
from sslcut.training.optim import build_optimizer, set_lr

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and tests of its own")
INPUT = Input(16, (0.5,) * 3, (0.25,) * 3)
HOW = dict(scale="standard", memory=10**9)


@pytest.fixture(autouse=True)
def no_layer_is_too_small(monkeypatch):
    monkeypatch.setattr("sslcut.metrics.layer.WORTH", 0)
    monkeypatch.setattr("sslcut.metrics.layer.ASIDE", 0)


def test_the_pretence_tells_what_a_gpu_would_not_do():
    with pretending() as gpu:
        x = torch.arange(6.0).view(2, 3).to(GPU)
        assert x.is_cuda and torch.equal((x * 2).cpu(), torch.arange(6.0).view(2, 3) * 2)
        for mixed in (lambda: x + torch.ones(3), lambda: x.index_select(0, torch.tensor([1])), x.numpy):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()
        before = len(gpu.waits)
        x[torch.tensor(1)] *= torch.tensor(2.0)
        x[torch.tensor([1]).to(GPU, non_blocking=True)] *= torch.tensor(0.5)
        assert len(gpu.waits) == before and float(x.sum()) == 15 and len(gpu.waits) == before + 1
        assert torch.equal(x[torch.tensor([1, 0])].cpu(), torch.arange(6.0).view(2, 3)[[1, 0]])
        assert len(gpu.waits) == before + 3  # the index goes there, the numbers come back


def test_a_machine_with_a_gpu_is_excused_from_pretending_one():
    assert pytestmark.kwargs["reason"] in EXCUSED


# Probes


def drawn(count, width, dtype=torch.float32):
    """A layer with images beside it, three kinds of tasks on it, and one fold."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(count, width, generator=generator), torch.randint(0, 4, (count,), generator=generator)
    x[:, :4] += nn.functional.one_hot(y, 4)
    rows = torch.randperm(count, generator=generator)
    tasks = {
        "class": Task("class", y, tuple("abcd")),
        "number": Task("number", x[:, 5] + 0.1 * torch.randn(count, generator=generator)),
        "angle": Task("angle", x[:, 6:8] + torch.randn(count, 2, generator=generator)),
    }
    beside = Beside((x[:30] + 0.1).to(dtype), torch.arange(15), torch.arange(15, 30))
    fold = Fold(rows[: count // 2], rows[count // 2 : 3 * count // 4], rows[3 * count // 4 :])
    return Layer("layer1", "avg", x.to(dtype), beside), tasks, [fold]


def fits_of(layer, tasks, folds):
    own = linear([layer], tasks, folds, **HOW)
    narrow = projected(layer.alone, tasks, folds, [5], own=own, **HOW)
    alike = [*binarised([layer.alone], tasks, folds, **HOW), *rescaled(layer.alone, tasks, folds, **HOW)]
    return [*own, *knn([layer], tasks, folds), *narrow, *alike]


@pytest.mark.parametrize(
    ("count", "width", "dtype"),
    [(300, 20, torch.float32), (160, 300, torch.float16), (9000, 8, torch.float32)],
)
def test_a_layer_is_probed_on_a_gpu_as_on_the_cpu(count, width, dtype):
    layer, tasks, folds = drawn(count, width, dtype)
    wanted = fits_of(layer, tasks, folds)
    with pretending() as gpu:
        found = fits_of(Layer("layer1", "avg", layer.features, layer.beside, GPU), tasks, folds)
    assert gpu.waits
    for one, other in zip(wanted, found, strict=True):
        assert (one.probe, one.task, one.options, one.rows) == (other.probe, other.task, other.options, other.rows)
        for part in ("tested", "validated", "beside"):
            assert torch.allclose(getattr(one, part), getattr(other, part), atol=1e-5)
        assert not other.layer.features.is_cuda and type(other.tested) is torch.Tensor


def test_a_layer_of_many_directions_is_probed_on_a_gpu_from_a_sketch(monkeypatch):
    monkeypatch.setattr("sslcut.metrics.spectrum.EXACT", 64)
    monkeypatch.setattr("sslcut.metrics.spectrum.SKETCH", 16)
    layer, tasks, folds = drawn(400, 100)
    few = {"class": tasks["class"]}
    wanted = linear([layer], few, folds, **HOW)
    with pretending():
        found = linear([Layer("layer1", "avg", layer.features, layer.beside, GPU)], few, folds, **HOW)
    assert torch.equal(wanted[0].tested, found[0].tested) and wanted[0].options == found[0].options


def test_a_layer_that_a_gpu_has_no_room_for_or_that_is_small_is_probed_on_the_cpu(monkeypatch):
    layer, tasks, folds = drawn(300, 20)
    there = Layer("layer1", "avg", layer.features, layer.beside, GPU)
    with pretending(free=2 * 4 * layer.features.numel()) as gpu:
        assert there.near(1000) == (there, 1000)
        linear([there], tasks, folds, **HOW)
    assert not gpu.waits
    monkeypatch.setattr("sslcut.metrics.layer.WORTH", layer.features.numel() + 1)
    with pretending():
        assert there.near(1000) == (there, 1000)
    monkeypatch.setattr("sslcut.metrics.layer.WORTH", 0)
    with pretending(free=4 * 4 * layer.features.numel()):
        near, memory = there.near(1000)
        assert near.features.is_cuda and near.beside.features.is_cuda and memory >= 4 * layer.features.numel()


def test_a_layer_on_which_a_gpus_memory_runs_out_is_probed_on_the_cpu(monkeypatch):
    layer, tasks, folds = drawn(300, 20)
    wanted = linear([layer], tasks, folds, **HOW)

    def full(here, *others):
        if here.features.is_cuda:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fit_scaled(here, *others)

    monkeypatch.setattr("sslcut.metrics.linear.fit_scaled", full)
    there = Layer("layer1", "avg", layer.features, layer.beside, GPU)
    with pretending():
        found = linear([there], tasks, folds, **HOW)
    assert all(
        torch.equal(one.tested, other.tested) and other.layer is there for one, other in zip(wanted, found, strict=True)
    )


@pytest.mark.parametrize("kind", ["avg", "cls"])
def test_features_are_taken_on_a_gpu_as_on_the_cpu(kind, tmp_path):
    backbone = {"name": "resnet10", "width": 4, "stem": "small"} if kind == "avg" else {"name": "vit_ti", "patch": 8}
    torch.manual_seed(0)
    network = Network(build({"backbone": backbone}), "vector", Input(16, (0.5,) * 3, (0.25,) * 3))
    images = ArrayImages(torch.randint(0, 256, (300, 3, 16, 16), dtype=torch.uint8), {})
    wanted = [(name, kind) for name in network.names[:-1] if name != "pool"]

    def taken(device):
        taps = Taps(network, wanted, device)
        store = Store(len(images), list(taps.widths.values()), 10**9, tmp_path)
        steps = features([taps], images, store, device=device, text="features")
        try:
            while True:
                next(steps)
        except StopIteration as end:
            return end.value[0]

    expected = taken(torch.device("cpu"))
    with pretending():
        found = taken(GPU)
    for one, other in zip(expected, found, strict=True):
        assert other.device == GPU and not other.features.is_cuda
        assert torch.allclose(one.features, other.features, atol=1e-5)


# Training


@pytest.mark.parametrize("policy", AUGMENTATIONS)
@pytest.mark.parametrize("exact", [False, True])
def test_views_are_made_on_a_gpu_as_on_the_cpu_without_waiting(policy, exact):
    crops = [Crop(2, 16, (0.2, 1.0)), Crop(1, 8, (0.1, 0.2))]
    how = dict(options={}, strength=1.0, exact=exact, seed=0, mean=(0.5,) * 3, std=(0.25,) * 3)
    make, pixels = ViewMaker(crops, policy=policy, **how), torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8)
    wanted = make(pixels, torch.arange(6), 1)
    with pretending() as gpu:
        there, indices = pixels.to(GPU), torch.arange(6).to(GPU)
        make(there, indices, 0)  # sends the constants, once
        before = len(gpu.waits)
        found = make(there, indices, 1)
        assert gpu.waits[before:] == []
        pairs = [*zip(wanted.crops, found.crops, strict=True)]
        assert all(torch.allclose(one, other.cpu(), atol=1e-4) for one, other in pairs)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_on_a_gpu_keeps_to_it_and_never_makes_the_host_wait(name, monkeypatch):
    """But for the backward pass, which a GPU that is not there cannot do."""
    monkeypatch.setattr("sslcut.methods.base.Method.generator", lambda method, device: None)
    method = method_of(name)
    views = views_of(method)
    with pretending() as gpu, torch.no_grad():
        method.train().to(GPU)
        pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8).to(GPU)
        indices, classes = torch.arange(8).to(GPU), (torch.arange(8) % CLASSES).to(GPU)
        labels = classes if method.uses_labels else None
        optimisers = [build_optimizer(method.named_parameters(), {"name": each}, 8, "linear") for each in OPTIMISERS]

        def step():
            z = method(views(pixels, indices, 0), labels)
            loss = method.loss(z.float(), labels)
            for p in method.parameters():
                p.grad = torch.full_like(p, 0.01) if p.requires_grad else None
            method.before_step(0.5)
            for optimiser in optimisers:
                set_lr(optimiser, 0.5)
                optimiser.step()
            method.after_step(z, labels, 0.5)
            return loss

        step()  # constants, and the optimisers' states
        before = len(gpu.waits)
        loss = step()
        assert gpu.waits[before:] == []
        assert loss.is_cuda and bool(loss.isfinite())


def test_an_untrained_network_is_given_its_statistics_and_timed_on_a_gpu():
    torch.manual_seed(0)
    network = Network(
        build({"backbone": {"name": "resnet10", "width": 4}}), "vector", Input(32, (0.5,) * 3, (0.25,) * 3)
    )
    images = ArrayImages(torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8), {})
    with pretending():
        estimate_batchnorm(network, images, GPU)
        assert len(seconds_per_1000(network, GPU)) == len(network.names)


def test_the_taps_of_a_network_that_has_gone_to_a_gpu_are_those_that_it_had():
    network = Network(build({"backbone": {"name": "vit_ti", "size": 16, "patch": 8, "depth": 1}}), "vector", INPUT)
    wanted = taps(network, network.names, ["cls", "mean"])
    with pretending():
        assert taps(network.to(GPU), network.names, ["cls", "mean"]) == wanted


def test_the_clock_that_times_blocks_starts_when_a_gpu_has_made_their_input(monkeypatch):
    network, said = Network(build({"backbone": {"name": "resnet10", "width": 2}}), "vector", INPUT), []
    clock = SimpleNamespace(perf_counter=lambda: said.append("clock") or 0.0)
    monkeypatch.setattr("sslcut.metrics.extract.time", clock)
    with pretending():
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: said.append("settled"))
        seconds_per_1000(network, GPU)
        monkeypatch.undo()
    assert said[:5] == ["clock", "settled", "clock", "settled", "clock"]


# The benchmark


def test_the_benchmark_times_views_whose_indices_lie_on_the_gpu():
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    with pretending() as gpu:
        contender = views.ours(views.Source(pixels.to(GPU), 0.5), exact=False)
        contender.work()  # sends the constants, once
        before = len(gpu.waits)
        assert contender.work().is_cuda and gpu.waits[before:] == []


def test_a_step_on_a_gpu_is_timed_beside_a_deterministic_one(monkeypatch):
    asked = []
    monkeypatch.setattr(Setting, "open_device", lambda _: GPU)
    monkeypatch.setitem(step.CASES, "cuda", [step.Case("tiny", {"name": "resnet10", "width": 2}, 32, 4)])
    monkeypatch.setattr(step, "ours", lambda *_, deterministic=False: asked.append(deterministic))
    monkeypatch.setattr(step, "bare", lambda *_: None)
    with pretending():
        assert len(list(step.step(Setting()))) == 1 and asked == [False, True]
