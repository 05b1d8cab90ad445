import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_methods
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_methods import CLASSES
from torch import nn

from sslcut.data.ahead import ahead
from sslcut.data.images import ArrayImages
from sslcut.data.samplers import Sampler, order
from sslcut.data.views import Crop, ViewMaker
from sslcut.errors import DivergedError, InputError, MachineError, UsageError
from sslcut.events import Progress, Warn
from sslcut.interrupts import Terminated, deferred
from sslcut.methods.simclr import SimCLR
from sslcut.methods.supervised import Supervised
from sslcut.model.build import build
from sslcut.recipe import load
from sslcut.registry import METHODS, OPTIMISERS
from sslcut.training import compiled, loop, prepared, world
from sslcut.training.loop import Epoch, Plan, duration, rank_of, train
from sslcut.training.state import Position, capture, restore
from sslcut.training.world import (
    Precision,
    all_finite,
    choose_device,
    choose_precision,
    drawing,
    reproducible,
    use_threads,
)

PLAIN = Precision("float32", channels_last=True)
PLAN = Plan(3, 8, {"name": "sgd", "lr": 0.2}, seed=0, device=torch.device("cpu"), precision=PLAIN, warmup_epochs=1)


def method_of(name="simclr", seed=0):
    return test_methods.method_of(name, seed=seed)


def images_of(count=28, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ArrayImages(torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator), {})


def views_of(method):
    crops = [Crop(method.min_views, 16, (0.2, 1.0))]
    some = dict(options={}, strength=1.0, exact=False, seed=0, mean=(0.5,) * 3, std=(0.25,) * 3)
    return ViewMaker(crops, policy="simclr", **some)


def run(method, plan=PLAN, images=None, **keywords):
    images = images if images is not None else images_of()
    labels = torch.arange(len(images)) % CLASSES
    return train(method, images, labels, views_of(method), plan, **keywords)


def weights(method):
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class OnDisk(ArrayImages):
    """Images that are read by the thread that reads ahead; the read that begins after `last` others fails."""

    resident = False

    def __init__(self, images, last=1000):
        super().__init__(images.pixels, {})
        self.left = last

    def read(self, indices):
        self.left -= 1
        if self.left < 0:
            raise InputError("b.png cannot be read")
        return super().read(indices)


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


class Kept:
    """A `save` that keeps every state, as a file would."""

    def __init__(self):
        self.states = []

    def __call__(self, tensors, document):
        self.states.append(
            ({name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}, document)
        )


# The order of images


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_has_full_batches_of_different_images_and_at_least_one(count, batch, seed, epoch):
    batches = list(Sampler(count, batch, seed).epoch(epoch))
    assert len(batches) == Sampler(count, batch, seed).steps >= 1
    assert {len(b) for b in batches} == {min(batch, count)}
    assert len(torch.cat(batches).unique()) == len(torch.cat(batches)) > count - batch


@given(st.integers(0, 4))
def test_an_epoch_resumed_at_a_step_goes_on_with_the_same_batches(start):
    sampler = Sampler(40, 8, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(list(sampler.epoch(2))[start:], sampler.epoch(2, start), strict=True))


def test_every_seed_and_epoch_has_an_order_of_its_own():
    orders = {tuple(order(20, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


# Training


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_twice_gives_the_same_weights_to_the_bit(name):
    first, second = method_of(name), method_of(name)
    start = weights(first)
    for method in (first, second):
        list(run(method))
    assert same(weights(first), weights(second)) and not same(weights(first), start)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("at", [1, 4, 5, 6])
def test_a_run_resumed_at_any_step_ends_as_the_uninterrupted_one_to_the_bit(name, at):
    plan = replace(PLAN, optimizer={"name": name, "lr": 0.05}, state_every_seconds=0.0)
    whole, kept = method_of(), Kept()
    records = [e for e in run(whole, plan, save=kept) if isinstance(e, Epoch)]
    assert [(d["epoch"], d["step"]) for _, d in kept.states[:4]] == [(0, 1), (0, 2), (1, 0), (1, 1)]
    resumed = method_of(seed=1)
    rest = [e for e in run(resumed, plan, state=kept.states[at]) if isinstance(e, Epoch)]
    assert same(weights(whole), weights(resumed))
    assert [(e.epoch, e.loss, e.rank, e.lr) for e in rest] == [(e.epoch, e.loss, e.rank, e.lr) for e in records][
        -len(rest) :
    ]


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in METHODS), ("supervised", {"mixup": 0.4})])
def test_every_method_resumes_to_the_bit(name, options):
    plan, kept = replace(PLAN, state_every_seconds=0.0), Kept()
    whole, resumed = (test_methods.method_of(name, seed=seed, **options) for seed in (0, 1))
    list(run(whole, plan, save=kept))
    list(run(resumed, plan, state=kept.states[3]))
    assert same(weights(whole), weights(resumed))


def forgetful(seed=0):
    """A method whose network drops numbers at random, from torch's own generator."""
    method = method_of(seed=seed)
    modules = [(m, name) for m in method.chain.modules() for name, each in m.named_children() if type(each) is nn.ReLU]
    for module, name in modules:
        setattr(module, name, nn.Dropout(0.5))
    return method


@pytest.mark.parametrize("at", [1, 4])
def test_a_network_with_dropout_resumes_to_the_bit_and_torchs_generator_stays_as_it_was(at):
    plan, kept = replace(PLAN, state_every_seconds=0.0), Kept()
    whole, resumed, without = forgetful(), forgetful(seed=1), method_of()
    before = torch.get_rng_state()
    list(run(whole, plan, save=kept))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(at)
    list(run(resumed, plan, state=kept.states[at]))
    list(run(without, plan))
    assert same(weights(whole), weights(resumed)) and not same(weights(whole), weights(without))


def test_what_torch_draws_in_a_step_depends_on_its_seed_and_number_alone():
    def drawn(*key):
        with drawing(torch.device("cpu"), *key):
            return torch.rand(8).tolist()

    found = [drawn(seed, step) for seed in (0, 1) for step in (0, 1, 2**32)]
    torch.rand(3)
    assert found == [drawn(seed, step) for seed in (0, 1) for step in (0, 1, 2**32)]
    assert len({tuple(each) for each in found}) == 6


def test_only_a_deterministic_training_asks_torch_for_the_same_bits_and_only_while_it_lasts(monkeypatch):
    loss, seen = SimCLR.loss, []

    def noting(*given):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic))
        return loss(*given)

    monkeypatch.setattr(SimCLR, "loss", noting)
    plain, alike = method_of(), method_of()
    list(run(plain))
    list(run(alike, replace(PLAN, deterministic=True)))
    assert seen == [(False, False)] * 9 + [(True, True)] * 9 and same(weights(plain), weights(alike))
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_an_operator_without_a_deterministic_form_is_told_with_the_key_that_asks_for_one(monkeypatch):
    def loss(method, z, labels):
        return z.square().mean() + torch.zeros(2).put_(torch.tensor([0]), torch.ones(1)).sum()

    monkeypatch.setattr(SimCLR, "loss", loss)
    list(run(method_of()))
    with pytest.raises(UsageError, match="`train.deterministic: true` cannot be kept: put_ does not have") as caught:
        list(run(method_of(), replace(PLAN, deterministic=True)))
    assert "train.deterministic" in caught.value.faults[0].hint
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="something else"), reproducible(True):
        raise RuntimeError("something else")


@pytest.mark.gpu
def test_a_deterministic_training_on_a_gpu_resumes_to_the_bit():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device, kept = choose_device("cuda"), Kept()
    plan = replace(PLAN, device=device, precision=Precision("bf16", True), deterministic=True, state_every_seconds=0.0)
    whole, again, resumed = forgetful(), forgetful(), forgetful(seed=1)
    list(run(whole, plan, save=kept))
    list(run(again, plan))
    list(run(resumed, plan, state=kept.states[4]))
    assert same(weights(whole), weights(again)) and same(weights(whole), weights(resumed))


@pytest.mark.parametrize(("received", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_saves_the_state_and_the_same_command_goes_on_to_the_same_end(received, raised):
    plan, kept = replace(PLAN, epochs=4), Kept()
    whole, stopped, resumed = method_of(), method_of(), method_of(seed=1)
    list(run(whole, plan))
    with pytest.raises(raised, match="the state is saved"):
        for event in run(stopped, plan, save=kept):
            if isinstance(event, Epoch):
                os.kill(os.getpid(), received)
    assert [document["epoch"] for _, document in kept.states] == [1]
    list(run(resumed, plan, state=kept.states[-1]))
    assert same(weights(whole), weights(resumed))


def test_an_epoch_is_recorded_with_its_mean_loss_and_last_learning_rate(monkeypatch):
    losses = []
    monkeypatch.setattr(SimCLR, "loss", lambda self, z, labels: losses.append(z.square().mean()) or losses[-1])
    records = [e for e in run(method_of()) if isinstance(e, Epoch)]
    assert [e.epoch for e in records] == [1, 2, 3]
    assert [e.loss for e in records] == pytest.approx([float(sum(losses[i : i + 3]).detach()) / 3 for i in (0, 3, 6)])
    assert records[0].lr == pytest.approx(0.2 * 8 / 256 * 2 / 3)
    assert records[0].numbers().keys() == {"epoch", "loss", "lr", "images_per_second", "rank", "seconds", "waiting"}


@pytest.mark.parametrize(
    ("reading", "working", "share", "told"),
    [
        (3.0, 1.0, 0.75, "waiting 75 % for images"),
        (0.125, 0.875, 0.125, "waiting 12 % for images"),
        (1.0, 31, 1 / 32, ""),
    ],
)
def test_an_epoch_tells_the_share_of_its_time_that_images_took_to_arrive(monkeypatch, reading, working, share, told):
    now = [0.0]

    def lasting(seconds, work):
        return lambda *given: (now.__setitem__(0, now[0] + seconds), work(*given))[1]

    images = images_of()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(images, "read", lasting(reading, images.read))
    monkeypatch.setattr(loop._Run, "step", lasting(working, loop._Run.step))
    records = [e for e in run(method_of(), images=images) if isinstance(e, Epoch)]
    assert [e.waiting for e in records] == pytest.approx([share] * 3, abs=1e-4)
    assert all(e.text.endswith(told or "img/s") for e in records)


def test_a_training_learns():
    plan = replace(PLAN, epochs=8, optimizer={"name": "adamw", "lr": 0.3})
    records = [e for e in run(method_of(), plan) if isinstance(e, Epoch)]
    assert records[-1].loss < records[0].loss - 0.1


def test_labels_reach_only_a_method_that_uses_them(monkeypatch):
    seen = []
    monkeypatch.setattr(SimCLR, "after_step", lambda self, z, labels, progress: seen.append(labels))
    list(run(method_of(), replace(PLAN, epochs=1)))
    assert seen == [None] * 3
    monkeypatch.setattr(Supervised, "after_step", lambda self, z, labels, progress: seen.append(labels))
    list(run(method_of("supervised"), replace(PLAN, epochs=1)))
    assert torch.equal(seen[3], order(28, 0, 0)[:8] % CLASSES)


def test_a_data_set_smaller_than_a_batch_is_one_batch():
    records = [e for e in run(method_of(), images=images_of(5)) if isinstance(e, Epoch)]
    assert len(records) == 3


def test_one_image_is_refused():
    with pytest.raises(InputError, match="at least 2 images, there is 1"):
        list(run(method_of(), images=images_of(1)))


def test_no_epochs_leave_the_network_as_it_was():
    method = method_of()
    before = weights(method)
    assert list(run(method, replace(PLAN, epochs=0))) == [] and same(weights(method), before)


def test_progress_is_told_by_the_clock(monkeypatch):
    monkeypatch.setattr(loop, "PROGRESS_SECONDS", 0.0)
    told = [e for e in run(method_of()) if isinstance(e, Progress)]
    assert [(e.text, e.done, e.total) for e in told[:3]] == [
        ("epoch 1/3", 1, 9),
        ("epoch 1/3", 2, 9),
        ("epoch 2/3", 4, 9),
    ]
    assert told[0].facts.keys() == {"loss", "img/s", "left"}
    monkeypatch.setattr(loop, "PROGRESS_SECONDS", 60.0)
    assert not [e for e in run(method_of()) if isinstance(e, Progress)]


def test_each_parameters_gradient_is_clipped_by_itself_where_that_is_asked_for(monkeypatch):
    norms = []
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda self: norms.extend(p.grad.norm() for g in self.param_groups for p in g["params"]),
    )
    list(run(method_of(), replace(PLAN, clip=0.01, clip_each=True)))
    assert torch.stack(norms).max() <= 0.01 * 1.001 and sum(norm > 0.0099 for norm in norms) > 9


def test_a_gradient_is_clipped_to_the_asked_norm(monkeypatch):
    norms = []
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda self: norms.append(nn.utils.get_total_norm([p.grad for g in self.param_groups for p in g["params"]])),
    )
    list(run(method_of(), replace(PLAN, clip=0.01)))
    assert torch.stack(norms).tolist() == pytest.approx([0.01] * 9, rel=1e-3)


# The next batch


@pytest.mark.parametrize("at", [0, 4])
def test_images_read_ahead_train_the_same_weights_to_the_bit_from_any_step(at):
    kept, whole, other = Kept(), method_of(), method_of(seed=1)
    list(run(whole, replace(PLAN, state_every_seconds=0.0), save=kept))
    list(run(other, images=OnDisk(images_of()), state=kept.states[at]))
    assert same(weights(whole), weights(other)) and not readers()


def test_a_signal_loses_no_batch_that_was_read_ahead():
    whole, stopped, resumed, kept = method_of(), method_of(), method_of(seed=1), Kept()
    list(run(whole))
    with pytest.raises(KeyboardInterrupt, match="the state is saved"):
        for event in run(stopped, images=OnDisk(images_of()), save=kept):
            if isinstance(event, Epoch):
                os.kill(os.getpid(), signal.SIGINT)
    assert not readers()
    list(run(resumed, images=OnDisk(images_of()), state=kept.states[-1]))
    assert same(weights(whole), weights(resumed))


def test_an_image_that_cannot_be_read_ends_training_at_its_batch_and_leaves_no_thread():
    steps = []
    with pytest.raises(InputError, match=r"b\.png cannot be read"):
        for event in run(method_of(), images=OnDisk(images_of(), last=7)):
            steps.append(event)
    assert [e.epoch for e in steps if isinstance(e, Epoch)] == [1, 2] and not readers()


def test_a_training_that_is_left_stops_reading():
    training = run(method_of(), images=OnDisk(images_of()))
    next(training)
    training.close()
    assert not readers()


GROWTH = """
import ctypes, sys
from pathlib import Path
sys.path.insert(0, "TESTS")
from test_loop import Epoch, PLAN, images_of, method_of, replace, run
from sslcut.training.updates import Joint

def held():
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept for later is not held
    return int(next(line for line in Path("/proc/self/status").open() if line.startswith("RssAnon")).split()[1]) / 1024

def growth(images, plan):
    sizes = [held() for event in run(method_of(), plan, images) if isinstance(event, Epoch)]
    return sizes[-1] - sizes[0]

images, plan = images_of(256), replace(PLAN, epochs=6, batch_size=128)
print(growth(images, plan))
step, kept = Joint.step, []
Joint.step = lambda self, views, *more: (kept.append(views), step(self, views, *more))[1]
print(growth(images, plan))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_memory_does_not_grow_from_epoch_to_epoch_and_would_be_seen_to():
    code = GROWTH.replace("TESTS", str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    flat, leaking = map(float, done.stdout.split())
    views = 2 * 128 * 3 * 16 * 16 * 4 / 2**20  # of a batch, in MB
    assert flat < views  # a batch kept each epoch would have added five
    assert leaking > 0.8 * 5 * 2 * views  # the second training kept both batches of each


# When training goes wrong


@pytest.mark.parametrize("every", [0.0, 60.0])
def test_a_training_that_diverges_stops_and_never_hands_over_its_state(monkeypatch, every):
    counter = iter(range(100))
    good = SimCLR.loss
    bad = lambda self, z, labels: good(self, z, labels) * (torch.inf if next(counter) == 4 else 1)  # noqa: E731
    monkeypatch.setattr(SimCLR, "loss", bad)
    kept = Kept()
    with pytest.raises(DivergedError, match="in epoch 2: the loss or a weight is not finite") as caught:
        list(run(method_of(), replace(PLAN, state_every_seconds=every), save=kept))
    assert "lower train.optimizer.lr" in caught.value.faults[0].hint
    assert all(all_finite(tensors.values(), PLAN.device) for tensors, _ in kept.states)


def test_a_collapse_is_warned_of_once(monkeypatch):
    monkeypatch.setattr(SimCLR, "loss", lambda self, z, labels: z.square().mean())
    monkeypatch.setattr(loop, "COLLAPSED", 1.1)
    warned = [e for e in run(method_of()) if isinstance(e, Warn)]
    assert len(warned) == 1 and "of 5 directions" in warned[0].text


def test_a_state_of_another_training_is_refused():
    kept = Kept()
    list(run(method_of(), save=kept, plan=replace(PLAN, state_every_seconds=0.0)))
    with pytest.raises(InputError, match="has batch size 8, this training has 4"):
        list(run(method_of(), replace(PLAN, batch_size=4), state=kept.states[0]))
    tensors, document = kept.states[0]
    fewer = {
        name: t for name, t in tensors.items() if "projector" not in name and not name.endswith("blocks.0.bn1.bias")
    }
    with pytest.raises(InputError, match=r"tensor `chain\.blocks\.0\.bn1\.bias` .* does not fit"):
        list(run(method_of(), state=(fewer, document)))


def test_a_state_that_moves_an_unknown_parameter_is_refused():
    method = method_of()
    optimizer = torch.optim.SGD(method.named_parameters(), lr=0.1)
    tensors, document = capture(method, optimizer, Position(), {})
    with pytest.raises(InputError, match="moves `head.weight`"):
        restore(method, optimizer, {**tensors, "optimizer.head.weight:momentum_buffer": torch.zeros(1)}, document, {})


# Signals


def test_signals_wait_and_the_second_one_acts_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), deferred() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.pending == signal.SIGINT
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) == before and Terminated.exit_code == 143


def test_nothing_is_raised_where_no_signal_came():
    with deferred() as interrupts:
        interrupts.check("saved")


def test_a_signal_that_nobody_acted_on_is_let_through_at_the_end():
    with pytest.raises(KeyboardInterrupt), deferred():
        os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_left_alone_outside_the_main_thread():
    seen = []

    def work():
        with deferred() as interrupts:
            seen.append((interrupts.pending, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, signal.getsignal(signal.SIGINT))]


# Device and arithmetic


def sample_of(method, batch=4):
    return views_of(method)(images_of(batch).read(torch.arange(batch)), torch.arange(batch), 0)


def test_a_device_that_is_not_here_is_named_with_those_that_are():
    assert choose_device("cpu") == torch.device("cpu") and choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="no device `cuda:99` here") as caught:
        choose_device("cuda:99")
    assert "auto, cpu" in caught.value.faults[0].hint


def test_a_gpu_that_is_chosen_becomes_the_current_one_with_memory_for_the_same_bits(monkeypatch):
    current, environment = [], {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(world, "os", SimpleNamespace(environ=environment))
    assert choose_device("cpu").type == "cpu" and not current and not environment
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(current))
    asked = ("auto", "cuda", "cuda:1", "cuda")
    assert [str(choose_device(each)) for each in asked] == ["cuda:0", "cuda:0", "cuda:1", "cuda:0"]
    assert list(map(str, current)) == ["cuda:1", "cuda:0"]  # the first one is current from the start
    assert environment == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def test_threads_are_at_least_one():
    assert use_threads(None) == torch.get_num_threads()
    with pytest.raises(UsageError, match="at least 1, not 0"):
        use_threads(0)


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((1.0, 0.5), "bf16"), ((1.0, 0.9), "float32"), ((1.0, 3.0), "float32")]
)
def test_bf16_is_taken_only_where_it_is_much_faster(monkeypatch, seconds, chosen):
    monkeypatch.setattr(world, "timed_step", lambda method, precision, *_: seconds[precision.name == "bf16"])
    method = method_of()
    found = choose_precision("auto", method, sample_of(method), None)
    assert (found.name, found.timings) == (chosen, {"float32": seconds[0], "bf16": seconds[1]})


def test_an_arithmetic_whose_step_does_not_fit_into_memory_is_not_taken(monkeypatch):
    def timed_step(method, precision, *_):
        if precision.name in short:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    monkeypatch.setattr(world, "timed_step", timed_step)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    short, method = {"float32"}, method_of()
    assert choose_precision("auto", method, sample_of(method), None) == Precision("bf16", True, {"bf16": 1.0})
    short.add("bf16")
    with pytest.raises(MachineError, match="does not fit into memory"):
        choose_precision("auto", method, sample_of(method), None)


@pytest.mark.parametrize(
    ("options", "asked"),
    [(["train.compile=auto"], [12]), ([], []), (["train.compile=auto", "train.epochs=0"], []),
     (["train.compile=auto", "train.online={}"], [])],
)  # fmt: skip
def test_compiling_is_measured_only_where_the_recipe_asks_and_for_all_steps(monkeypatch, options, asked):
    seen = []
    monkeypatch.setattr(prepared, "remembered", lambda task, device, measure: measure())
    monkeypatch.setattr(
        prepared, "worth_compiling", lambda found, method, views, labels, steps: seen.append(steps) or found
    )
    document = load(None, ["train.epochs=4", "train.batch_size=8", "train.precision=float32", *options]).dump()
    method = method_of()
    found = prepared.decided(document, method, images_of(28), None, views_of(method))
    assert found == Precision("float32", True) and seen == asked


def test_measuring_leaves_the_method_and_the_random_state_as_they_were():
    method = method_of("supervised").eval()
    before, state = weights(method), torch.get_rng_state()
    found = choose_precision("auto", method, sample_of(method), torch.arange(4) % CLASSES, budget=0.01)
    assert same(weights(method), before) and torch.equal(torch.get_rng_state(), state) and not method.training
    assert all(seconds > 0 for seconds in found.timings.values()) and found.channels_last
    assert all(p.grad is None for p in method.parameters())


@pytest.mark.parametrize(
    ("steps", "seconds", "worth"),
    [(2000, 0.5, True), (2000, 0.97, False), (2000, 2.0, False), (1000, 0.5, False), (2000, None, False)],
)
def test_a_training_is_compiled_only_where_that_ends_it_sooner(monkeypatch, steps, seconds, worth):
    """A step takes a second as it is, and half an hour is long; None: there is no compiler."""

    def timed_step(method, *_):
        if method._compiled_call_impl is None:
            return 1.0
        tried.append(seconds)
        return seconds if seconds is not None else 1 / 0

    tried = []
    monkeypatch.setattr(compiled, "timed_step", timed_step)
    monkeypatch.setattr(compiled, "time_steps", lambda *_: ({"bf16": 1.0}, 4))
    method, given = method_of(), Precision("bf16", True, {"bf16": 1.0, "float32": 2.0})
    found = compiled.worth_compiling(given, method, sample_of(method), None, steps)
    assert found.compiled == worth and bool(tried) == (steps == 2000) and method._compiled_call_impl is None
    assert replace(found, compiled=False, timings=given.timings) == given
    assert found.label == ("bf16, channels last, compiled" if worth else "bf16, channels last")


def test_what_a_compiler_cannot_do_is_told_with_the_key_that_asked_for_it():
    from torch._dynamo.exc import TorchDynamoException

    with pytest.raises(UsageError, match="cannot take this training: no compiler$") as caught, world.compiling(True):
        raise TorchDynamoException("no compiler\nand much more")
    assert caught.value.faults[0].hint == "train.compile: false"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", "dino", "trex"])
def test_a_compiled_training_is_the_same_to_rounding(name):
    losses = [
        [
            event.loss
            for event in run(method_of(name), replace(PLAN, precision=replace(PLAIN, compiled=compile)))
            if isinstance(event, Epoch)
        ]
        for compile in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_an_arithmetic_that_is_asked_for_is_not_measured():
    assert choose_precision("bf16", method_of(), sample_of(method_of()), None) == Precision("bf16", True)


def test_the_loss_runs_in_float32_outside_autocast(monkeypatch):
    seen = []
    monkeypatch.setattr(
        SimCLR, "loss", lambda self, z, labels: seen.append((z.dtype, (z[0] @ z[1].T).dtype)) or z.square().mean()
    )
    list(run(method_of(), replace(PLAN, epochs=1, precision=Precision("bf16", True))))
    assert set(seen) == {(torch.float32, torch.float32)}


def test_finiteness_looks_at_every_floating_tensor():
    cpu, good = torch.device("cpu"), [torch.ones(2), torch.tensor(3), torch.zeros(())]
    assert all_finite(good, cpu) and all_finite([torch.tensor(1)], cpu)
    assert not all_finite([*good, torch.tensor([1.0, torch.nan])], cpu)
    assert not all_finite([*good, torch.tensor([-torch.inf])], cpu)


def test_the_effective_rank_counts_directions():
    assert rank_of(torch.eye(8)[:5]) == pytest.approx(5, rel=1e-4)
    assert rank_of(torch.ones(20, 6)) == pytest.approx(1, abs=1e-4)
    assert rank_of(torch.zeros(4, 4)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
def test_the_effective_rank_is_rankme_of_the_singular_values(shape):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(z.double())
    share = singular / singular.sum() + 1e-7
    assert rank_of(z) == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-5)


def test_a_time_to_wait_is_said_in_words():
    assert [duration(s) for s in (44.6, 720, 12600)] == ["45 s", "12 min", "3.5 h"]


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_step_on_a_gpu_never_makes_the_host_wait(name, optimizer):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda:0")
    plan = replace(PLAN, device=device, precision=Precision("bf16", True), optimizer={"name": optimizer}, clip=1.0)
    method, images = method_of(name), images_of()
    training = loop._Run(method, images, torch.arange(len(images)) % CLASSES, views_of(method), plan, None)
    with closing(ahead(images, training.order(), device)) as batches:
        training.step(*next(batches))  # constants, optimiser states and kernels are made once
        try:
            torch.cuda.set_sync_debug_mode("error")
            for _ in range(2):
                loss, _ = training.step(*next(batches))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert loss.is_cuda and loss.isfinite()


def test_the_learning_rate_begins_and_ends_where_the_recipe_says_and_a_predictor_may_keep_its_own():
    torch.manual_seed(0)
    heads = {"projector": {"widths": [6, 5]}, "predictor": {"widths": [4, 5]}}
    method = METHODS.load("simsiam")(build({"backbone": {"name": "resnet10", "width": 2, "stem": "small"}, **heads}))
    plan = replace(PLAN, start_lr=0.001, end_lr=0.0005, constant_lr=("predictor",), lr_scaling="none")
    held = loop._Run(method, images_of(), None, views_of(method), plan, None)
    rates = [0.2 * held.share(step, 9) for step in (0, 3, 9)]
    assert rates == pytest.approx([0.001, 0.2, 0.0005])
    constant = {n for g in held.optimizer.param_groups if g.get("constant") for n in g["param_names"]}
    assert constant == {n for n, _ in method.named_parameters() if n.split(".")[2] in ("8", "9")}
    assert method.chain.names[8:] == ["predictor.0", "predictor.1"]
