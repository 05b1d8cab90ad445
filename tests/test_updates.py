"""How the head moves: gradients against closed forms and finite differences, and what each update leaves alone."""

from dataclasses import replace
from itertools import pairwise

import pytest
import test_methods
import torch
from cli import sslcut, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import PLAN, Kept, images_of, method_of, run, same, weights
from test_methods import views_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sslcut.data.samplers import Sampler
from sslcut.errors import InputError, SslcutError, UsageError
from sslcut.events import Warn
from sslcut.methods.making import check_fit, check_update
from sslcut.model.teacher import Teacher
from sslcut.names import part_of
from sslcut.recipe import load
from sslcut.registry import METHODS, UPDATES
from sslcut.render import curves
from sslcut.training import inner as inner_module
from sslcut.training.hypergradient import (
    Rule,
    alternating,
    conjugate,
    descent,
    dot,
    implicit,
    mean_eigenvalue,
    unrolled,
)
from sslcut.training.inner import HeadLoss, untouched
from sslcut.training.loop import Epoch
from sslcut.training.optim import build_optimizer
from sslcut.training.passes import beside_joint, far_from_matched, matched, work_of
from sslcut.training.updates import Engine, head_of, options_of, shorten_each
from sslcut.training.world import Precision

SECOND_ORDER = [name for name in UPDATES if UPDATES.literal(name, "second_order", False)]
APART = ["alternating", *SECOND_ORDER]
STOPPING = [name for name in METHODS if METHODS.literal(name, "stops_gradient", False)]
MODES = [{"name": name} for name in UPDATES] + [
    {"name": "alternating", "inner": "held_out", "lr": 0.01, "reset_inner_state": True},
    {"name": "unrolled", "inner": "held_out", "steps": 2},
    {"name": "implicit", "inner": "held_out", "steps": 2},
    {"name": "reset", "every": 2, "unit": "steps", "then": {"name": "alternating", "steps": 2}},
    {"name": "reset", "then": {"name": "frozen"}},
]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def label(mode):
    return "-".join(str(value["name"] if isinstance(value, dict) else value) for value in mode.values())


def updated(update, **more):
    return replace(PLAN, update=update if isinstance(update, dict) else {"name": update}, **more)


def split(method):
    """The parameters of θ and those of φ."""
    head = head_of(method)
    rest = {name: p for name, p in method.named_parameters() if p.requires_grad and name not in head}
    return ({name: p.detach().clone() for name, p in part.items()} for part in (rest, head))


def statistics(method, part):
    """The running statistics of a part of the network, and how many batches they have seen."""
    blocks = [block for name, _, block in method.chain.items() if (part_of(name) == "backbone") == (part == "backbone")]
    return {f"{i}.{name}": t.clone() for i, block in enumerate(blocks) for name, t in block.named_buffers()}


# Gradients


class Quadratic:
    """inner = φᵀAφ/2 − φᵀ(Bx), outer = |φ − c|²/2 + dᵀx: φ* = A⁻¹Bx and the gradient by x have closed forms."""

    def __init__(self, seed):
        square = normal(4, 4, seed=seed)
        self.a = square @ square.T / 4 + torch.eye(4)
        self.b, self.c, self.d = normal(4, 3, seed=seed + 1), normal(4, seed=seed + 2), normal(3, seed=seed + 3)
        self.x = normal(3, seed=seed + 4).requires_grad_()
        self.start = ((normal(4, seed=seed + 5),), (torch.zeros(4).double(),))

    def inner(self, values):
        return values[0] @ self.a @ values[0] / 2 - values[0] @ (self.b @ self.x)

    def outer(self, values):
        loss = (values[0] - self.c).square().sum() / 2 + self.d @ self.x
        return loss, loss

    def same(self, values):
        loss = self.inner(values)
        return loss, loss

    @property
    def best(self):
        return torch.linalg.solve(self.a, self.b @ self.x.detach())

    @property
    def gradient(self):
        return self.d + self.b.T @ torch.linalg.solve(self.a, self.best - self.c)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_implicit_and_unrolled_gradients_are_the_closed_form_of_a_quadratic(seed):
    toy = Quadratic(seed)
    rule = Rule(steps=200, lr=1 / float(torch.linalg.eigvalsh(toy.a)[-1]), momentum=0.0)
    through = unrolled(toy.inner, toy.outer, [toy.x], *toy.start, rule)
    exact = implicit(toy.inner, toy.outer, [toy.x], *toy.start, rule, damping=0.0, floor=0.0)
    for found in (through, exact):
        torch.testing.assert_close(found.values[0], toy.best, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found.slopes[0], toy.gradient, rtol=1e-4, atol=1e-6)
    assert exact.facts["positive_curvature"] == 1.0 and not any(
        t.requires_grad for t in (*through.values, *exact.values)
    )


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_with_the_inner_loss_outside_too_alternating_is_the_exact_gradient_at_the_heads_minimum(seed):
    toy = Quadratic(seed)
    rule = Rule(steps=200, lr=1 / float(torch.linalg.eigvalsh(toy.a)[-1]), momentum=0.0)
    expected = -toy.b.T @ toy.best  # of min inner = −(Bx)ᵀA⁻¹(Bx)/2
    for found in (
        alternating(toy.inner, toy.same, [toy.x], *toy.start, rule),
        unrolled(toy.inner, toy.same, [toy.x], *toy.start, rule),
        implicit(toy.inner, toy.same, [toy.x], *toy.start, rule, damping=0.01),
    ):
        torch.testing.assert_close(found.slopes[0], expected, rtol=1e-4, atol=1e-6)


def problem(method_name="simclr", seed=0):
    """A method's head in float64: features of two batches, its loss on either, and its parameters."""
    method = method_of(method_name, seed=seed).double().train()
    loss = HeadLoss(method, Precision("float32", True))
    views = (normal(2, 6, 3, 16, 16, seed=n) for n in (1, 2))
    with torch.no_grad():
        fitted, judged = (method.features(views_of(each)) for each in views)
    names, values = zip(*head_of(method).items(), strict=True)
    labels = torch.arange(6) % 3

    def on(features, values):
        named = {f"method.{name}": value for name, value in zip(names, values, strict=True)}
        with untouched(method):
            return torch.func.functional_call(loss, named, (features, labels))

    values = tuple(value.detach() for value in values)
    return on, fitted, judged, values, tuple(torch.zeros_like(value) for value in values)


def moved(features, direction, by):
    return features._replace(h=tuple(h + by * d for h, d in zip(features.h, direction, strict=True)))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in STOPPING])
def test_the_unrolled_gradient_is_that_of_finite_differences(name):
    on, fitted, judged, values, momenta = problem(name)
    momenta, rule = tuple(0.01 * value for value in values), Rule(3, 0.05, 0.9)
    direction = [normal(*h.shape, seed=9) for h in fitted.h]

    def after(by):
        reached, _, _ = descent(lambda v: on(moved(fitted, direction, by), v)[0], values, momenta, rule)
        return float(on(judged, reached)[0])

    x = [h.detach().requires_grad_() for h in fitted.h]
    opened = fitted._replace(h=tuple(x))
    found = unrolled(lambda v: on(opened, v)[0], lambda v: on(judged, v), x, values, momenta, rule)
    expected = (after(1e-5) - after(-1e-5)) / 2e-5
    assert float(dot(found.slopes, tuple(direction))) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert float(found.loss) == pytest.approx(after(0.0)) and found.passes == 4


def test_the_implicit_gradient_is_that_of_finite_differences_where_the_head_follows_its_minimum():
    on, fitted, judged, values, momenta = problem("supervised")
    ridge = 0.5  # a minimum that gradient descent reaches, which cross-entropy alone has not
    direction, rule = [normal(*h.shape, seed=9) for h in fitted.h], Rule(400, 0.3, 0.5)
    cost = lambda features, v: on(features, v)[0] + ridge / 2 * dot(v, v)  # noqa: E731

    def after(by):
        reached, _, _ = descent(lambda v: cost(moved(fitted, direction, by), v), values, momenta, rule)
        return float(on(judged, reached)[0])

    x = [h.detach().requires_grad_() for h in fitted.h]
    opened = fitted._replace(h=tuple(x))
    inner, outer = (lambda v: cost(opened, v)), (lambda v: on(judged, v))
    found = implicit(inner, outer, x, values, momenta, rule, damping=0.0, floor=0.0)
    expected = (after(1e-4) - after(-1e-4)) / 2e-4
    assert float(dot(found.slopes, tuple(direction))) == pytest.approx(expected, rel=1e-3)


def test_conjugate_gradients_solve_a_positive_system():
    square = normal(6, 6)
    matrix, aim = square @ square.T + torch.eye(6), (normal(6, seed=1),)
    found, products, shift = conjugate(lambda v: (matrix @ v[0],), aim, 0.5)
    torch.testing.assert_close(found[0], torch.linalg.solve(matrix + 0.5 * torch.eye(6), aim[0]), rtol=1e-4, atol=1e-6)
    assert shift == 0.5 and products <= 7
    assert not conjugate(lambda v: v, (torch.zeros(3).double(),), 0.0)[0][0].any()


@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.integers(0, 100))
def test_conjugate_gradients_are_damped_past_the_negative_curvature_that_they_meet(eigenvalues, seed):
    matrix, aim = torch.diag(torch.tensor(eigenvalues).double()), (normal(3, seed=seed),)
    (found,), products, shift = conjugate(lambda v: (matrix @ v[0],), aim, 1e-3)
    assert products <= 10 and found.isfinite().all() and float(dot((found,), aim)) > 0
    assert (shift == 1e-3) or min(eigenvalues) < 0
    if products < 10:
        torch.testing.assert_close(matrix @ found + shift * found, aim[0], rtol=1e-3, atol=1e-4)


def test_hutchinsons_signs_give_a_diagonal_matrixs_mean_eigenvalue_exactly():
    diagonal = (torch.tensor([1.0, 2.0]).double(), torch.tensor([6.0]).double())
    product = lambda v: tuple(a * b for a, b in zip(diagonal, v, strict=True))  # noqa: E731
    assert mean_eigenvalue(product, diagonal) == pytest.approx(3.0)


# What each update does to the network


def allowed():
    """Every update's defaults with every method that check_fit lets have it, and variants with a few."""
    for mode in MODES[1:]:
        few = METHODS if len(mode) == 1 else ["moco_v2", "simclr", "supervised", "trex"]
        for name in few:
            if name not in STOPPING or mode["name"] not in SECOND_ORDER:
                yield pytest.param(name, mode, id=f"{name}-{label(mode)}")


@pytest.mark.parametrize(("name", "mode"), [*allowed()])
def test_every_method_trains_with_every_update_that_it_allows(name, mode):
    plain = mode["then"]["name"] if "then" in mode else "joint" if mode["name"] == "reset" else mode["name"]
    method = method_of(name)
    backbone, head = split(method)
    plan = updated(mode, epochs=1, batch_size=8)
    done = [event for event in run(method, plan, images_of(16)) if isinstance(event, Epoch)]
    assert all(tensor.isfinite().all() for tensor in method.state_dict().values() if tensor.is_floating_point())
    now = dict(method.named_parameters())
    assert not same(backbone, {key: now[key] for key in backbone})
    assert (plain in APART) == bool(done[0].head)
    if plain == "frozen" and name != "swav":  # whose prototypes are brought to length 1
        assert same(head, {key: now[key] for key in head})
    elif plain != "frozen":
        assert not same(head, {key: now[key] for key in head})


def test_alternating_lowers_the_inner_loss_on_its_batch():
    for inner in ("same", "held_out"):
        update = {"name": "alternating", "steps": 3, "lr": 0.01, "momentum": 0.0, "inner": inner}
        figures = []
        for event in run(method_of(), updated(update, epochs=20, batch_size=14)):
            if isinstance(event, Epoch):
                figures.append(event.head)
        lower = [each["inner_after"] < each["inner_before"] for each in figures]
        assert sum(lower) >= 0.95 * len(lower)
        assert figures[0]["head_passes"] == (4 if inner == "same" else 5)


@pytest.mark.parametrize(("name", "inner"), [("simclr", "same"), ("byol", "held_out"), ("trex", "held_out")])
def test_running_statistics_are_those_of_joint_where_no_weight_moves(name, inner):
    still = {"name": "sgd", "lr": 0.0}
    joint, other, moving = method_of(name), method_of(name), method_of(name)
    list(run(joint, replace(PLAN, optimizer=still)))
    for method, lr in ((other, 0.0), (moving, 0.1)):
        list(run(method, updated({"name": "alternating", "lr": lr, "inner": inner}, optimizer=still)))
    assert same(weights(joint), weights(other))
    assert same(statistics(joint, "backbone"), statistics(moving, "backbone"))
    counts = [name for name in statistics(joint, "head") if "num_batches_tracked" in name]
    assert all(torch.equal(statistics(joint, "head")[n], statistics(moving, "head")[n]) for n in counts)


def test_batch_norms_are_as_before_behind_passes_that_leave_them_untouched():
    norm = nn.BatchNorm1d(3)
    before = {name: t.clone() for name, t in norm.state_dict().items()}
    with untouched(norm):
        out = norm(torch.randn(5, 3))
    assert same(before, norm.state_dict()) and norm.track_running_stats
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-6, rtol=0)


def test_the_first_step_of_two_speed_moves_the_head_as_many_times_as_far():
    plan = replace(PLAN, epochs=1, batch_size=28, optimizer={"name": "sgd", "lr": 0.01, "weight_decay": 0.0})
    plan, moves = replace(plan, warmup_epochs=0), []
    for update in ({"name": "joint"}, {"name": "two_speed", "ratio": 3.0}):
        method = method_of()
        before = list(split(method))
        list(run(method, replace(plan, update=update)))
        moves.append([{k: new[k] - old[k] for k in old} for old, new in zip(before, split(method), strict=True)])
    (slow, slow_head), (also, fast_head) = moves
    assert same(slow, also)
    for name in slow_head:
        torch.testing.assert_close(3 * slow_head[name], fast_head[name], rtol=1e-3, atol=1e-6)


def test_reset_draws_the_head_again_at_its_steps_alone_and_then_in_the_same_way():
    states = []
    for _ in range(2):
        kept = Kept()
        update = {"name": "reset", "every": 2, "unit": "steps", "then": "frozen"}
        list(run(method_of(), updated(update, state_every_seconds=0.0, epochs=2), save=kept))
        states.append(
            [{k: t for k, t in tensors.items() if "projector" in k or "blocks.7" in k} for tensors, _ in kept.states]
        )
    heads = [[tensors[k] for k in sorted(tensors) if k.endswith("linear.weight")] for tensors in states[0]]
    assert len(heads) == 6
    again = [not all(torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in pairwise(heads)]
    assert again == [False, True, False, True, False]
    assert all(same(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("mode", MODES[1:], ids=label)
def test_a_training_resumed_at_any_step_ends_to_the_bit_as_the_uninterrupted_one(mode):
    plan = updated(mode, state_every_seconds=0.0, epochs=2)
    whole, kept = method_of(), Kept()
    records = [event for event in run(whole, plan, save=kept) if isinstance(event, Epoch)]
    for at in (1, 4):
        resumed = method_of(seed=1)
        rest = [event for event in run(resumed, plan, state=kept.states[at]) if isinstance(event, Epoch)]
        assert same(weights(whole), weights(resumed))
        assert [(e.loss, e.rank, e.head) for e in rest] == [(e.loss, e.rank, e.head) for e in records][-len(rest) :]


def test_a_state_of_another_update_is_not_gone_on_from():
    kept = Kept()
    list(run(method_of(), updated("alternating", state_every_seconds=0.0, epochs=1), save=kept))
    for update in ("joint", "unrolled"):
        tensors = {k: t for k, t in kept.states[0][0].items() if update == "joint" or "momentum.chain" not in k}
        with pytest.raises(InputError, match=r"head.update|no momentum"):
            list(run(method_of(), updated(update, epochs=1), state=(tensors, kept.states[0][1])))


def test_a_backbone_whose_gradient_vanishes_is_warned_of_once(monkeypatch):
    monkeypatch.setattr(inner_module, "FITTED", 2.0)
    assert not [event for event in run(method_of(), updated("alternating")) if isinstance(event, Warn)]
    monkeypatch.setattr(inner_module, "VANISHED", 10.0)
    events = list(run(method_of(), updated("alternating")))
    warned = [event.text for event in events if isinstance(event, Warn) and "gradient" in event.text]
    assert len(warned) == 1 and "after epoch 2" in warned[0] and "held_out" in warned[0]


@pytest.mark.parametrize(("momentum", "alike"), [(0.0, True), (0.9, False)])
def test_the_momentum_of_the_head_goes_on_from_batch_to_batch_unless_it_is_reset(momentum, alike):
    ends = []
    for fresh in (False, True):
        method = method_of()
        update = {"name": "alternating", "steps": 2, "momentum": momentum, "reset_inner_state": fresh}
        list(run(method, updated(update, epochs=1)))
        ends.append(weights(method))
    assert same(*ends) == alike


def test_the_held_out_batch_is_the_one_before_in_the_epoch():
    sampler = Sampler(30, 8, seed=1)
    batches = list(sampler.epoch(2))
    for start in (0, 2):
        before = list(sampler.before(2, start))
        expected = [*batches[-1:], *batches[:-1]][start:]
        assert len(before) == len(expected) and all(map(torch.equal, before, expected))


def test_a_held_out_batch_needs_two_an_epoch():
    with pytest.raises(InputError, match="two batches an epoch") as caught:
        list(run(method_of(), updated({"name": "alternating", "inner": "held_out"}, batch_size=28)))
    assert "train.batch_size to 14" in caught.value.faults[0].hint


# What a step costs


class Counter(TorchDispatchMode):
    """Sums what torch's own table says of each operation, backward passes included."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("mode", MODES[:10], ids=label)
def test_a_steps_operations_are_those_of_torchs_own_counter(mode):
    crops, counted = [{"count": 2, "size": 16}], []
    options = {key: option.default for key, option in UPDATES.options(mode["name"]).items()}
    full = {**options, **mode, **({"then": {"name": "joint"}} if mode["name"] == "reset" else {})}
    for update in ({"name": "joint"}, full):
        method = test_methods.method_of("vicreg", width=64)
        optimizer = build_optimizer(method.named_parameters(), {"name": "sgd", "lr": 0.0}, 256, "none")
        engine = Engine(method.train(), optimizer, PLAN.precision)
        moved = UPDATES.load(update["name"])(engine, **options_of(update))
        batch = views_of(normal(2, 8, 3, 16, 16).float())
        with Counter() as counter:
            moved.step(batch, None, 0.5, (batch, None) if moved.held_out else None)
        counted.append(counter.total)
    expected = beside_joint(full, work_of(method, crops, 16, 8))
    if mode["name"] == "implicit":  # whose conjugate gradients may be done, or stopped, before the last
        assert 0.5 * expected < counted[1] / counted[0] < 1.03 * expected
    else:
        assert counted[1] / counted[0] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", METHODS)
def test_the_work_of_a_method_is_counted_without_touching_it(name):
    method = method_of(name).train()
    before = weights(method)
    small, large = (work_of(method, [{"count": 2, "size": 16}], 16, batch) for batch in (8, 16))
    assert same(before, weights(method)) and method.training and method.progress == 0.0
    assert large.backbone == 2 * small.backbone and large.head >= 2 * small.head > 0
    assert (small.constant_backbone > 0) == any(isinstance(each, Teacher) for each in method.modules())


@pytest.mark.parametrize(("match", "epochs", "warmup"), [("steps", 20, 2), ("compute", 13, 1.3)])
def test_equal_compute_takes_epochs_away_from_a_costlier_update(match, epochs, warmup):
    train = matched({"match": match, "epochs": 20, "warmup_epochs": 2}, 1.5)
    assert (train["epochs"], train["warmup_epochs"]) == (epochs, pytest.approx(warmup))
    assert matched({"match": match, "epochs": 0, "warmup_epochs": 2}, 1.5)["epochs"] == 0


def test_the_reports_training_figure_draws_the_heads_losses_by_epoch():
    done = [event.numbers() for event in run(method_of(), updated("alternating")) if isinstance(event, Epoch)]
    (figure,) = curves.training(done)
    assert "loss before the head's steps, loss after them" in figure.title.lower()


# What does not fit


def document(*sets):
    return load("default", sets=sets).dump()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("update", UPDATES)
def test_what_a_method_does_not_allow_is_refused_with_a_remedy(name, update):
    recipe = document(f"method={name}", f"head.update={update}")
    if name in STOPPING and update in SECOND_ORDER:
        with pytest.raises(UsageError, match="stops the gradient") as caught:
            check_fit(recipe)
        assert "alternating" in caught.value.faults[0].hint
    else:
        check_fit(recipe)


@pytest.mark.parametrize(
    ("sets", "what"),
    [
        (["model.projector=null", "head.update=alternating"], "the network has none"),
        (["model.projector=null", "head.update={name: reset, then: frozen}"], "`head.update: reset` moves the head"),
        (["head.update={name: reset, then: reset}"], "`reset` again"),
        (["head.update=unrolled", "train.precision=bf16"], "bf16 is too coarse"),
        (["head.update={name: reset, then: {name: implicit}}", "train.precision=bf16"], "bf16 is too coarse"),
        (["head.update=alternating", "train.compile=true"], "`train.compile` does not reach"),
    ],
)
def test_a_head_that_cannot_be_moved_so_is_refused(sets, what):
    with pytest.raises(UsageError, match=what):
        check_fit(document(*sets))


def test_the_update_of_a_reset_is_checked_as_one_itself():
    whole = document("head.update={name: reset, then: {name: alternating, steps: 2}}")["head"]["update"]
    assert whole["then"]["steps"] == 2 and whole["then"]["inner"] == "same" and whole["unit"] == "epochs"
    for wrong, said in (
        ("{name: reset, then: joined}", "unknown head update"),
        ("{name: reset, then: {name: joint, x: 1}}", "x"),
    ):
        with pytest.raises(SslcutError, match=said):
            document(f"head.update={wrong}")


def test_gradients_shortened_each_by_itself_are_those_that_torch_clips_one_by_one():
    generator = torch.Generator().manual_seed(0)
    shapes, scales = ((3, 4), (5,), (), (2, 3, 3, 3), (4,), (2,)), (1.0, 1e-3, 9.0, 0.3, 0.0, None)
    ours, theirs = ([nn.Parameter(torch.zeros(shape)) for shape in shapes] for _ in range(2))
    for one, other, scale in zip(ours, theirs, scales, strict=True):
        if scale is not None:
            one.grad = scale * torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
            nn.utils.clip_grad_norm_([other], 0.5)
    shorten_each(ours, 0.5)
    shorten_each(ours[-1:], 0.5)
    assert ours[-1].grad is None and ours[2].grad.abs() == pytest.approx(0.5, rel=1e-5)
    for one, other in zip(ours[:-1], theirs[:-1], strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-6, atol=0)


def test_the_command_line_trains_with_an_inner_loop_at_equal_compute(tmp_path):
    some = tiny("head.update={name: alternating, steps: 2, inner: held_out}", "train.epochs=2", "train.match=compute")
    done = sslcut("pretrain", *some, "-o", "run", cwd=tmp_path)
    assert done.returncode == 0 and " inner " in done.stderr and "so 1 epoch" in done.stderr, done.stderr
    assert '"backbone_gradient"' in (tmp_path / "run/metrics.jsonl").read_text()


def test_whole_epochs_that_come_nowhere_near_the_compute_are_told():
    train = {"match": "compute", "epochs": 6, "warmup_epochs": 1.0}
    assert matched(train, 20.0)["epochs"] == 1 and "3.33 ×" in far_from_matched(train, 1, 20.0)
    assert far_from_matched(train, matched(train, 1.5)["epochs"], 1.5) == ""
    assert far_from_matched({**train, "match": "steps"}, 6, 20.0) == ""


def test_a_reset_without_a_head_is_told_by_its_own_name():
    document = load("default", ["head.update=reset"]).dump()
    document["model"]["projector"] = None
    with pytest.raises(UsageError, match="`head.update: reset` moves the head"):
        check_update(document)
