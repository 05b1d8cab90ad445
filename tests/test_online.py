import json
from dataclasses import replace

import pytest
import test_loop
import test_methods
import torch
from cli import sslcut, tiny
from test_loop import PLAN, Kept, images_of, same, weights
from torch.nn import functional as F

from sslcut import header
from sslcut.data.images import ArrayImages, Dataset, Task
from sslcut.data.opening import Opened
from sslcut.data.views import Crop, ViewMaker, Views
from sslcut.errors import InputError, UsageError
from sslcut.methods.mixing import Mixing
from sslcut.model.build import build
from sslcut.model.network import Input
from sslcut.options import Options
from sslcut.recipe import load
from sslcut.registry import METHODS, UPDATES
from sslcut.render.online import online as curves
from sslcut.stages import pretrain
from sslcut.training.loop import Epoch, train
from sslcut.training.online import Online, evaluating
from sslcut.training.online import online_of as online_of_recipe
from sslcut.training.world import Precision

INPUT = Input(16, (0.5,) * 3, (0.25,) * 3)


def tasks_of(count):
    angle = torch.linspace(0, 6, count)
    number = torch.linspace(-3, 9, count)
    number[1] = torch.nan
    return {
        "kind": Task("class", torch.arange(count) % 3 - (torch.arange(count) == 5).long() * 3, ("a", "b", "c")),
        "size": Task("number", number),
        "turn": Task("angle", torch.stack([angle.sin(), angle.cos()], dim=1)),
    }


def online_of(method, count=28, held=None, **options):
    some = held or ArrayImages(images_of(9, seed=1).pixels, tasks_of(9))
    taps = [name for name in method.chain.names if name not in ("prototypes", "classifier")]
    return Online(method.chain, taps, tasks_of(count), some, INPUT, **{"lr": 1e-2, **options})


def asking(**options):
    """A recipe that asks for probes, as plain data."""
    asked = {"tasks": "all", "layers": "all", "lr": 1e-3, **options}
    return {"seed": 0, "head": {"update": {"name": "joint"}}, "data": {"validation": 0.25}, "train": {"online": asked}}


def run(method, online, plan=PLAN, crops=None, **keywords):
    some = dict(options={}, strength=1.0, exact=False, seed=0, mean=(0.5,) * 3, std=(0.25,) * 3)
    views = ViewMaker(crops or [Crop(2, 16, (0.2, 1.0))], policy="simclr", **some)
    labels = torch.arange(28) % test_methods.CLASSES
    return list(train(method, images_of(), labels, views, plan, online=online, **keywords))


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in METHODS), ("supervised", {"mixup": 0.4})])
def test_probes_leave_every_method_as_it_is_without_them_to_the_bit(name, options):
    crops = [Crop(2, 16, (0.2, 1.0)), Crop(1, 8, (0.1, 0.3))] if METHODS.literal(name, "batchnorm") is None else None
    plain, watched = (test_methods.method_of(name, **options) for _ in range(2))
    run(plain, None, replace(PLAN, epochs=2), crops)
    online = online_of(watched)
    events = run(watched, online, replace(PLAN, epochs=2), crops)
    assert same(weights(plain), weights(watched))
    assert all(weight.abs().sum() > 0 for weight in online.weights)
    scores = next(event for event in events if isinstance(event, Epoch)).numbers()["online"]
    assert list(scores) == online.taps and set(scores["pool"]) == {"kind", "size", "turn"}


def test_probes_leave_a_training_in_bf16_as_it_is_to_the_bit():
    plan = replace(PLAN, precision=Precision("bf16", channels_last=True))
    plain, watched = test_loop.method_of(), test_loop.method_of()
    run(plain, None, plan)
    run(watched, online_of(watched), plan)
    assert same(weights(plain), weights(watched))


@pytest.mark.parametrize("update", UPDATES)
def test_probes_leave_every_update_of_the_head_as_it_is_to_the_bit(update):
    plan = replace(PLAN, update={"name": update}, epochs=2)
    plain, watched = test_loop.method_of(), test_loop.method_of()
    run(plain, None, plan)
    online = online_of(watched)
    run(watched, online, plan)
    assert same(weights(plain), weights(watched)) and all(weight.abs().sum() > 0 for weight in online.weights)


def test_tokens_are_read_by_their_class_token():
    torch.manual_seed(0)
    network = build({"backbone": {"name": "vit_ti", "size": 16, "patch": 8, "depth": 2}, "projector": {"widths": [4]}})
    method = METHODS.load("simclr")(network)
    online, seen = online_of(method), {}
    online.learn = lambda found, parts: seen.update(found)
    views = Views((torch.rand(2, 3, 3, 16, 16),), 2, {})
    with online.watch(method, views, torch.arange(3)):
        method(views)
    with torch.no_grad():
        wanted = network.features(views.crops[0].flatten(0, 1), [("blocks.1", "cls")])
    assert torch.allclose(seen["blocks.1"], wanted["blocks.1", "cls"], atol=1e-6)


def test_the_command_line_trains_the_same_network_with_and_without_probes(tmp_path):
    asked = tiny("train.precision=bf16", "data.train=200")
    for name, more in (("off", []), ("on", ["--set", "train.online={lr: 0.01}"])):
        done = sslcut("pretrain", *asked, *more, "--threads", "1", "-o", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    off, on = (header.read(tmp_path / name / "pretrain.safetensors") for name in ("off", "on"))
    assert [b["sha256"] for b in off.document["chain"]] == [b["sha256"] for b in on.document["chain"]]
    assert off.document["metrics"]["loss"] == on.document["metrics"]["loss"]
    last = [json.loads(line) for line in (tmp_path / "on/metrics.jsonl").read_text().splitlines()][-1]
    assert on.document["metrics"]["online"] == last["online"]
    assert set(last["online"]["projector.1"]) == set(last["online"]["stem"]) >= {"shape", "hue", "size"}


@pytest.mark.parametrize("at", [1, 3, 4])
def test_probes_resume_to_the_bit(at):
    kept, plan = Kept(), replace(PLAN, state_every_seconds=0.0)
    whole, resumed = test_loop.method_of(), test_loop.method_of(seed=1)
    first, second = online_of(whole), online_of(resumed)
    run(whole, first, plan, save=kept)
    run(resumed, second, plan, state=kept.states[at])
    assert same(first.tensors(), second.tensors()) and same(weights(whole), weights(resumed))


def test_a_state_without_probes_is_not_one_to_resume_probes_from():
    kept = Kept()
    run(test_loop.method_of(), None, replace(PLAN, state_every_seconds=0.0), save=kept)
    method = test_loop.method_of()
    with pytest.raises(InputError, match=r"tensor `online\.biases` of the state"):
        run(method, online_of(method), state=kept.states[0])


def test_no_gradient_of_the_probes_reaches_the_network():
    method = test_loop.method_of()
    online, views = online_of(method), Views((torch.rand(2, 8, 3, 16, 16),), 2, {})
    caught = {}
    online.learn = lambda found, parts: caught.update(loss=online.loss(found, parts))
    with online.watch(method, views, torch.arange(8)):
        method(views).sum().backward()
    gradients = torch.autograd.grad(caught["loss"], list(method.parameters()), allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in gradients)
    assert torch.autograd.grad(caught["loss"], online.weights[0])[0].abs().sum() > 0


def test_what_is_learnt_are_the_vectors_of_the_global_views_with_their_own_labels():
    method = test_loop.method_of()
    online, seen = online_of(method), {}
    online.learn = lambda found, parts: seen.update(found=found, parts=parts)
    crops = (torch.rand(2, 4, 3, 16, 16), torch.rand(3, 4, 3, 16, 16))
    with online.watch(method, Views(crops, 2, {}), torch.tensor([1, 2, 3, 4, 11, 12, 13, 14])):
        z = method(Views(crops, 2, {}))
    assert torch.equal(seen["found"]["projector.1"], z[:2].flatten(0, 1).detach())  # local views come last
    assert seen["parts"][0][1].tolist() == [1, 2, 3, 4, 11, 12, 13, 14]  # every second view shows the partner
    assert {len(vectors) for vectors in seen["found"].values()} == {8}


def test_mixed_images_are_learnt_as_what_they_were_mixed_of():
    method = test_methods.method_of("supervised")
    online, seen = online_of(method), {}
    online.learn = lambda found, parts: seen.update(parts=parts)
    with online.watch(method, Views((torch.rand(1, 3, 3, 16, 16),), 1, {}), torch.tensor([7, 8, 9])):
        method(Views((torch.rand(1, 3, 3, 16, 16),), 1, {}))
        method.mixing = Mixing(torch.tensor([2, 0, 1]), 0.75)
    assert [(share, images.tolist()) for share, images in seen["parts"]] == [(0.75, [7, 8, 9]), (0.25, [9, 7, 8])]


def test_the_loss_is_that_of_each_task_on_the_images_that_have_a_label():
    method = test_loop.method_of()
    online, tasks = online_of(method), tasks_of(28)
    images = torch.tensor([1, 5, 6, 20])
    output = torch.randn(1, 4, 6)
    parts = zip(online.goals, output.split([3, 1, 2], 2), strict=True)
    kind, size, turn = (goal.loss(part, images) for goal, part in parts)
    known = [0, 2, 3]  # image 5 has no class
    assert kind == pytest.approx(float(F.cross_entropy(output[0, known, :3], tasks["kind"].values[images[known]])))
    number = tasks["size"].values
    scaled = (number - number.nanmean()) / number[~number.isnan()].std(correction=0)
    aimed = scaled[images[1:]]  # image 1 has no number
    assert size == pytest.approx(float((output[0, 1:, 3] - aimed).square().mean()))
    assert turn == pytest.approx(float((output[0, :, 4:] - tasks["turn"].values[images]).square().sum(1).mean()))
    goal = online.goals[1]
    assert torch.equal(goal.predicted(output[:, :, 3:4]), output[..., 3] * goal.unit + goal.centre)


def test_accuracy_rises_on_an_easy_task():
    bright = (torch.arange(28) % 2)[:, None, None, None] * 200
    pixels = (images_of().pixels // 5 + bright).to(torch.uint8)
    task = {"kind": Task("class", torch.arange(28) % 2, ("dark", "bright"))}
    method = test_loop.method_of()
    online = Online(method.chain, ["stem", "pool"], task, ArrayImages(pixels, task), INPUT, lr=0.05)
    some = dict(options={}, strength=0.0, exact=False, seed=0, mean=(0.5,) * 3, std=(0.25,) * 3)
    views = ViewMaker([Crop(2, 16, (1.0, 1.0))], policy="simclr", **some)
    plan = replace(PLAN, epochs=6, optimizer={"name": "sgd", "lr": 0.01})
    events = train(method, ArrayImages(pixels, task), None, views, plan, online=online)
    found = [event.online["stem"]["kind"] for event in events if isinstance(event, Epoch)]
    assert found[-1] == 1.0


def test_scores_are_those_of_the_network_in_evaluation_mode_which_stays_as_it_was():
    method = test_loop.method_of()
    online = online_of(method)
    run(method, online)
    method.chain.blocks[1].eval()
    before = weights(method)
    found = online.scores(PLAN.precision, 4)
    assert same(before, weights(method)) and method.chain.blocks[0].training and not method.chain.blocks[1].training
    pixels = (online.held.pixels.float() / 255 - 0.5) / 0.25
    with evaluating(method), torch.no_grad():
        h = method.chain.run(pixels, upto="pool")
    place = online.taps.index("pool")
    scale, weight, bias = online.scales[place], online.weights[place], online.biases[place]
    said = F.linear(F.batch_norm(h, scale.running_mean, scale.running_var), weight, bias)
    truth = online.held.tasks["kind"].values
    right = (said[:, :3].argmax(1) == truth)[truth >= 0].float().mean()
    assert found["pool"]["kind"] == pytest.approx(float(right), abs=1e-4)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("{layers: [layer9]}", "unknown layer `layer9`"),
        ("{layers: [prototypes]}", "unknown layer `prototypes`"),
        ("{tasks: [colour]}", "the data has no task `colour`"),
    ],
)
def test_an_unknown_layer_or_task_is_refused(tmp_path, asked, told):
    recipe = load(None, [*tiny()[1::2], f"train.online={asked}"])
    with pytest.raises(UsageError, match=told):
        list(pretrain.run(recipe, Options(out=tmp_path)))


def test_data_without_labels_and_a_compiled_network_are_refused():
    method = test_loop.method_of()
    opened = Opened(Dataset("flat", images_of(), None), torch.arange(28), torch.arange(0), INPUT.mean, INPUT.std)
    with pytest.raises(InputError, match="learns from labels, and the data has none"):
        online_of_recipe(asking(), opened, method, INPUT)
    held_out = {**asking(), "head": {"update": {"name": "alternating", "inner": "held_out"}}}
    with pytest.raises(UsageError, match="reads the head on the batch before"):
        online_of_recipe(held_out, opened, method, INPUT)
    with pytest.raises(UsageError, match="cannot watch a network that is compiled"):
        load(None, ["train.online={}", "train.compile=true"])


def test_where_nothing_validates_the_labels_of_some_training_images_are_held_out():
    method, images = test_loop.method_of(), ArrayImages(images_of().pixels, tasks_of(28))
    opened = Opened(Dataset("flat", images, None), torch.arange(28), torch.arange(0), INPUT.mean, INPUT.std)
    online = online_of_recipe(asking(tasks=["kind"], layers=["pool"]), opened, method, INPUT)
    (goal,) = online.goals
    assert online.taps == ["pool"] and len(online.held) == 7
    assert int(goal.known.sum()) + int((online.held.tasks["kind"].values >= 0).sum()) == 27


def test_the_report_draws_a_line_a_layer_and_says_which_leads():
    lines = [{"pool": {"kind": 0.2 * e, "size": None}, "stem": {"kind": 0.5, "size": 0.1}} for e in (1, 2, 3)]
    metrics = {"kind": "accuracy", "size": "r2"}
    told = [{"epoch": e, "online": one, "online_metrics": metrics} for e, one in enumerate(lines, 1)]
    figure, other = curves(told)
    assert (figure.name, other.name) == ("online-accuracy", "online-r2")
    assert "kind: `pool` leads after epoch 3 with 60.0 %" in figure.alt.replace("\u2009", "")
    rows = figure.spec["data"]["values"]
    assert {(row["layer"], row["epoch"]) for row in rows} == {(a, e) for a in ("pool", "stem") for e in (1, 2, 3)}
    assert list(curves([{"epoch": 1, "loss": 2.0}])) == []
