"""The memory that a plan tells, against what torch really holds."""

import pytest
import torch

from sslcut.model.build import build
from sslcut.model.cost import costs
from sslcut.recipe import load
from sslcut.registry import METHODS
from sslcut.training.estimate import gigabytes, memory
from sslcut.training.outlook import plan

SMALL = ["model.backbone={name: resnet10, width: 8, stem: small}", "train.batch_size=32"]


def planned(*sets):
    document = load("default", [*SMALL, *sets]).dump()
    return document, memory(document, document["model"], 32, classes=4)


@pytest.mark.parametrize(("optimizer", "moments"), [("sgd", 1), ("lars", 1), ("adamw", 2)])
@pytest.mark.parametrize("name", ["simclr", "byol", "moco_v2"])
def test_what_is_held_is_the_methods_tensors_and_a_gradient_and_moments_of_what_learns(name, optimizer, moments):
    document, told = planned(f"method={name}", f"train.optimizer={{name: {optimizer}}}")
    options = {key: value for key, value in document["method"].items() if key != "name"}
    method = METHODS.load(name)(build(document["model"]), **options)
    tensors = sum(t.numel() * t.element_size() for t in method.state_dict().values())
    assert told.held == tensors + 4 * (1 + moments) * sum(p.numel() for p in method.parameters() if p.requires_grad)


def test_a_steps_activations_are_about_what_autograd_keeps():
    kept: dict[int, int] = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    chain = build({"backbone": {"name": "resnet18"}}).train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = chain(torch.rand(4, 3, 64, 64))
    weights = {p.data_ptr() for p in chain.tensors().values()}
    measured = sum(count for pointer, count in kept.items() if pointer not in weights) / 4
    estimated = sum(block.activations for block in costs(chain, 64))
    assert out.requires_grad and 0.8 * measured < estimated < 1.25 * measured


def test_every_view_counts_at_its_own_size():
    one = planned("views.crops=[{count: 2, size: 32}]")[1].step
    more = planned("method=lejepa", "model.projector.widths=[256, 256, 128]",
                   "views.crops=[{count: 2, size: 32}, {count: 4, size: 16}]")[1].step  # fmt: skip
    assert 1.4 * one < more < 1.7 * one  # four of a quarter's size are half as much again


def test_classes_are_counted_where_a_method_learns_a_weight_for_each():
    document, few = planned("method={name: trex, memory_size: 0}")
    many = memory(document, document["model"], 32, classes=1004)
    assert many.held - few.held == 1000 * 64 * 4 * 3  # of 64 numbers each: the weight, its gradient, its momentum


@pytest.mark.parametrize(
    ("sets", "warned"),
    [(["data={name: folder, root: nowhere}"], True), (["data={name: shapes, train: 64, test: 64}"], False)],
)
def test_a_plan_counts_the_datas_classes_or_says_that_it_cannot(sets, warned):
    recipe = load("default", [*SMALL, *sets, "method={name: trex, memory_size: 0}"])
    events = list(plan(recipe, torch.device("cpu")))
    assert any("only the data can tell" in event.text for event in events) is warned
    told = next(event.text for event in events if event.text.startswith("memory"))
    expected = memory(recipe.dump(), recipe.dump()["model"], 32, classes=2 if warned else 10)
    assert str(expected) in told


@pytest.mark.parametrize(("count", "said"), [(386e6, "386 MB"), (2.14e9, "2.1 GB"), (1130.7e9, "1,130.7 GB")])
def test_bytes_are_told_as_one_would_say_them(count, said):
    assert gigabytes(int(count)) == said
