import pytest
import torch
from torch import nn

from sslcut.registry import OPTIMISERS
from sslcut.training.optim import build_optimizer, lars, set_lr


def drawn(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (4, 3, 3, 3), "linear.weight": (5, 4), "bn.weight": (4,), "bias": (5,)}
    return {n: nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for n, s in shapes.items()}


def give_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in parameters.values():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def written_lars(values, gradients, buffers, lr, momentum, decay, eta, clip):
    """One step as papers write it, parameter by parameter."""
    for name, p in values.items():
        u = gradients[name]
        if p.ndim > 1:
            u = u + decay * p
            pull = gradients[name].norm() + decay * p.norm() if clip else u.norm()
            q = eta * p.norm() / pull
            u = u * (min(float(q / lr), 1.0) if clip else q)
        buffers[name] = momentum * buffers.get(name, 0) + u
        values[name] = p - lr * buffers[name]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.001, 0.02, 1.0])
def test_lars_takes_the_steps_of_its_written_formula(clip, eta):
    parameters = drawn()
    values, buffers = {n: p.detach().clone() for n, p in parameters.items()}, {}
    optimizer = lars(parameters.items(), lr=0.3, weight_decay=0.01, eta=eta, clip=clip)
    for step in range(3):
        give_gradients(parameters, step)
        written_lars(values, {n: p.grad for n, p in parameters.items()}, buffers, 0.3, 0.9, 0.01, eta, clip)
        optimizer.step()
    for name, p in parameters.items():
        torch.testing.assert_close(p.detach(), values[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("clip", [False, True])
def test_lars_leaves_a_weight_of_zeros_or_without_gradient_unscaled(clip):
    still, zeros = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.zeros(2, 2))
    still.grad, zeros.grad = torch.zeros(2, 2), torch.ones(2, 2)
    lars([("still", still), ("zeros", zeros)], lr=0.5, weight_decay=0.0, clip=clip).step()
    assert torch.equal(still.detach(), torch.ones(2, 2)) and torch.equal(zeros.detach(), torch.full((2, 2), -0.5))


def test_lars_with_clip_stands_still_at_the_first_step_of_a_warmup():
    parameters = drawn()
    before = {n: p.detach().clone() for n, p in parameters.items()}
    give_gradients(parameters, 0)
    lars(parameters.items(), lr=0.0, clip=True).step()
    assert all(torch.equal(p.detach(), before[n]) for n, p in parameters.items())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_biases_and_norms_do_not_decay(name):
    parameters = drawn(dtype=torch.float32)
    for p in parameters.values():
        p.grad = torch.zeros_like(p)
    optimizer = build_optimizer(parameters.items(), {"name": name, "weight_decay": 0.1}, 256, "linear")
    before = {n: p.detach().clone() for n, p in parameters.items()}
    optimizer.step()
    still = {n for n, p in parameters.items() if torch.equal(p.detach(), before[n])}
    assert still == {"bn.weight", "bias"}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_scales_its_learning_rate_from_batch_256_and_follows_a_schedule(name):
    optimizer = build_optimizer(drawn().items(), {"name": name, "lr": 0.2}, 512, "linear")
    set_lr(optimizer, 0.5)
    assert [(g["initial_lr"], g["lr"]) for g in optimizer.param_groups] == [(0.4, 0.2)] * 2


def test_biases_and_norms_may_have_a_learning_rate_of_their_own():
    lars_of = {"name": "lars", "lr": 0.2, "bias_lr": 0.0048}
    optimizer = build_optimizer(drawn().items(), lars_of, 2048, "linear")
    rates = {n: g["initial_lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert {n: round(rate, 6) for n, rate in rates.items() if n in ("bn.weight", "bias")} == {
        "bn.weight": 0.0384,
        "bias": 0.0384,
    }
    assert {round(rate, 6) for n, rate in rates.items() if n not in ("bn.weight", "bias")} == {1.6}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_what_is_held_constant_keeps_its_scaled_learning_rate(name):
    chosen = {"name": name, "lr": 0.2}
    optimizer = build_optimizer(drawn().items(), chosen, 512, "linear", constant=lambda n: n.startswith("bn"))
    set_lr(optimizer, 0.5)
    rates = {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert rates == {n: 0.4 if n.startswith("bn") else 0.2 for n in drawn()}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_descends_and_knows_its_state_by_parameter_name(name):
    parameters = drawn(dtype=torch.float32)
    optimizer = build_optimizer(parameters.items(), {"name": name, "lr": 0.01}, 256, "none")

    def height():
        return sum(p.square().sum() for p in parameters.values())

    start = height().item()
    for _ in range(5):
        optimizer.zero_grad()
        height().backward()
        optimizer.step()
    assert height().item() < start
    assert {n for g in optimizer.param_groups for n in g["param_names"]} == set(parameters)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_memory_order_of_a_weight_does_not_change_its_step(name):
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(
            torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
        )
        optimizer = build_optimizer([("w", weight)], {"name": name, "lr": 0.1}, 256, "none")
        for step in range(3):
            optimizer.zero_grad()
            (weight * torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(step))).sum().backward()
            optimizer.step()
        results.append(weight.detach())
    torch.testing.assert_close(results[0], results[1])
