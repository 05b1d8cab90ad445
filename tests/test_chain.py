"""The chain: cutting, features in one pass, tensors by name; and what is made of it: head, costs, folding."""

import copy
import pickle
from functools import cache

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from sslcut.errors import InputError, UsageError
from sslcut.model.build import build
from sslcut.model.chain import Chain
from sslcut.model.cost import costs
from sslcut.model.fold import folded
from sslcut.model.heads import mlp
from sslcut.model.readout import read, readouts

TINY = {
    "backbone": {"name": "resnet10", "width": 4, "stem": "small"},
    "last_block": {"width": 12, "shortcut": "auto"},
    "projector": {"widths": [10, 6]},
    "predictor": {"widths": [5, 6]},
    "classifier": 3,
}
TINY_VIT = {"backbone": {"name": "vit_ti", "patch": 8, "size": 16, "depth": 2}, "projector": {"widths": [7]}}


@cache
def tiny(transformer: bool = False) -> Chain:
    """An untrained network whose batch norms have seen a batch, so that they differ from the identity."""
    torch.manual_seed(0)
    chain = build(TINY_VIT if transformer else TINY)
    chain(images(seed=9, count=16))
    return chain.eval()


def images(seed: int, count: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), transformer=st.booleans(), data=st.data())
def test_a_cut_chain_gives_the_features_the_whole_chain_had_at_that_block(seed, transformer, data):
    chain = tiny(transformer)
    name = data.draw(st.sampled_from(chain.names))
    cut = chain.cut(name)
    with torch.inference_mode():
        output = cut(images(seed))
        readout = data.draw(st.sampled_from(readouts(output.ndim)))
        features = chain.features(images(seed), [("projector", "vector"), (name, readout), ("backbone", "vector")])
    assert features[name, readout].dtype == torch.float32
    assert torch.equal(features[name, readout], read(output, readout, chain.prefix_tokens))


def test_features_run_each_block_once_and_none_behind_the_last_one_wanted():
    chain, ran = tiny(), []
    handles = [block.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, _, block in chain.items()]
    chain.features(images(0), [("layer2.0", "avg"), ("stem", "grid2"), ("layer2.0", "avg+max")])
    for handle in handles:
        handle.remove()
    assert ran == ["stem", "layer1.0", "layer2.0"]


def test_features_leave_running_statistics_alone_in_eval_mode():
    chain = tiny()
    before = {name: tensor.clone() for name, tensor in chain.tensors().items()}
    chain.features(images(1), [("layer4", "avg"), ("backbone", "vector"), ("projector", "vector")])
    assert all(torch.equal(tensor, before[name]) for name, tensor in chain.tensors().items())


def test_features_answer_under_the_names_they_were_asked_by():
    found = tiny().features(images(1), [("layer4", "avg"), ("layer4.0", "avg")])
    assert list(found) == [("layer4", "avg"), ("layer4.0", "avg")]
    assert torch.equal(found["layer4", "avg"], found["layer4.0", "avg"])


def test_a_cut_chain_shares_its_modules_and_has_fewer_parameters():
    chain = tiny()
    counts = [sum(p.numel() for p in chain.cut(name).parameters()) for name in chain.names]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert chain.cut("layer2").blocks[2] is chain.blocks[2]
    assert chain.cut("layer2").names == ["stem", "layer1.0", "layer2.0"]


def test_a_chain_run_in_two_halves_equals_one_run():
    chain, x = tiny(), images(2)
    h = chain.run(x, upto=chain.backbone)
    assert torch.equal(chain.run(h, after="backbone"), chain(x))
    assert torch.equal(chain.run(h, after="pool", upto="pool"), h)


def test_running_backwards_is_refused_by_name():
    with pytest.raises(UsageError, match="`stem` stands before `pool`"):
        tiny().run(images(0), after="pool", upto="stem")


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda chain: pickle.loads(pickle.dumps(chain))])
@pytest.mark.parametrize("transformer", [False, True])
def test_a_chain_survives_copying_and_pickling(twin, transformer):
    chain = tiny(transformer)
    other = twin(chain)
    assert torch.equal(other(images(3)), chain(images(3)))
    assert other.tensors().keys() == chain.tensors().keys()
    assert all(other.tensors()[name] is not tensor for name, tensor in chain.tensors().items())


@pytest.mark.parametrize("transformer", [False, True])
def test_every_tensor_belongs_to_exactly_one_block_by_the_parts_that_a_header_lists(transformer):
    chain = tiny(transformer)
    parts = {name: chain.parts(name) for name in chain.names}
    for tensor in chain.tensors():
        owners = [
            name
            for name, listed in parts.items()
            if any(tensor == part or part.endswith(".") and tensor.startswith(part) for part in listed)
        ]
        assert len(owners) == 1, (tensor, owners)


def test_a_chain_lists_its_parameters_themselves():
    chain = tiny()
    assert {id(p) for p in chain.parameters()} <= {id(tensor) for tensor in chain.tensors().values()}


def test_tensors_loaded_into_another_chain_make_it_the_same():
    torch.manual_seed(1)
    chain, other = tiny(), build(TINY).eval()
    assert not torch.equal(other(images(4)), chain(images(4)))
    other.load_tensors(chain.tensors(), "there")
    assert torch.equal(other(images(4)), chain(images(4)))


def test_a_chain_on_the_meta_device_takes_loaded_tensors_in_its_own_precision():
    with torch.device("meta"):
        other = build(TINY).eval()
    halves = {name: t.half() if t.is_floating_point() else t for name, t in tiny().tensors().items()}
    other.load_tensors(halves, "there")
    assert other(images(4)).dtype == torch.float32
    assert torch.allclose(other(images(4)), tiny()(images(4)), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layer2.0.bn1.bias"), r"^there: tensor `layer2.0.bn1.bias` is missing"),
        (lambda t: t.update(stray=torch.zeros(1)), r"^there: tensor `stray` belongs to no block"),
        (lambda t: t.update({"conv1.weight": torch.zeros(2)}), r"`conv1.weight` has shape \(2,\), .* \(4, 3, 3, 3\)"),
    ],
)
def test_loading_names_the_first_tensor_that_does_not_fit_and_changes_nothing(change, message):
    chain = copy.deepcopy(tiny())
    tensors = {name: torch.full_like(tensor, 5) for name, tensor in chain.tensors().items()}
    change(tensors)
    with pytest.raises(InputError, match=message):
        chain.load_tensors(tensors, "there")
    assert torch.equal(chain(images(5)), tiny()(images(5)))


def test_a_head_is_linear_norm_activation_and_a_plain_last_linear():
    blocks = mlp("projector", 4, widths=[8, 8, 3])
    tensors = Chain(blocks).tensors()
    assert [name for name, _, _ in blocks] == ["projector.0", "projector.1", "projector.2"]
    assert "projector.1.norm.running_var" in tensors and "projector.1.linear.bias" not in tensors
    assert [name for name in tensors if name.startswith("projector.2.")] == [
        "projector.2.linear.weight",
        "projector.2.linear.bias",
    ]


def test_a_head_of_no_widths_is_no_block():
    assert mlp("projector", 4, widths=[]) == []
    assert build({**TINY, "projector": None, "predictor": {"widths": []}, "classifier": None}).names[-1] == "pool"


def test_a_head_with_normalised_input_forgets_the_length_of_its_vectors():
    torch.manual_seed(0)
    head = Chain(mlp("projector", 4, widths=[8, 3], input_norm=True)).eval()
    x = images(0).flatten(1)[:, :4]
    assert torch.allclose(head(7 * x), head(x), atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "last_norm", "biases"), [("none", True, (True, False)), ("batch", True, (False, False))]
)
def test_a_head_has_a_bias_where_no_norm_follows(norm, last_norm, biases):
    tensors = Chain(mlp("p", 4, widths=[5, 3], norm=norm, last_norm=last_norm, last_affine=False)).tensors()
    assert ("p.0.linear.bias" in tensors, "p.1.linear.bias" in tensors) == biases
    assert "p.1.norm.running_mean" in tensors and "p.1.norm.weight" not in tensors


def test_costs_count_two_operations_for_every_multiply_add():
    rows = {row.name: row for row in costs(tiny(), 16)}
    assert (rows["stem"].width, rows["stem"].spatial, rows["stem"].flops) == (4, [8, 8], 2 * 8 * 8 * 4 * 27)
    assert (rows["layer1.0"].flops, rows["layer1.0"].parameters) == (2 * 2 * 64 * 4 * 36, 2 * 4 * 36 + 16)
    assert (rows["pool"].width, rows["pool"].spatial, rows["pool"].ndim, rows["pool"].flops) == (12, [], 2, 0)
    assert (rows["projector.0"].flops, rows["projector.0"].parameters) == (2 * 12 * 10, 12 * 10 + 2 * 10)
    assert (rows["classifier"].flops, rows["classifier"].parameters) == (2 * 6 * 3, 6 * 3 + 3)


def test_costs_of_a_transformer_hold_attention_and_the_mlp():
    tokens, width = 10, 192
    row = costs(tiny(transformer=True), 24)[1]
    assert (row.name, row.width, row.spatial, row.ndim) == ("blocks.0", width, [tokens], 3)
    assert row.flops == 2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width


def test_costs_leave_the_chain_as_it_is():
    chain = copy.deepcopy(tiny()).train()
    before = {name: tensor.clone() for name, tensor in chain.tensors().items()}
    costs(chain, 16)
    assert chain.training and all(torch.equal(t, before[name]) for name, t in chain.tensors().items())


def test_a_folded_chain_gives_the_same_features_with_no_batch_norm_left():
    chain = copy.deepcopy(tiny()).train()
    for seed in range(30):
        chain(images(seed, count=16))
    fast = folded(chain.eval())
    wanted = [(row.name, readouts(row.ndim)[0]) for row in costs(chain, 16)]
    slow, quick = chain.features(images(6), wanted), fast.features(images(6), wanted)
    assert not any("running_mean" in name for name in fast.tensors()) and fast.names == chain.names
    assert all((slow[tap] - quick[tap]).abs().max() <= 1e-5 * slow[tap].abs().max() for tap in wanted)


def test_folding_respects_a_norm_without_scale_and_a_linear_with_bias():
    torch.manual_seed(0)
    head = Chain(mlp("p", 4, widths=[5, 3], bias=True, last_norm=True, last_affine=False, last_bias=True))
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    head(x)
    assert torch.allclose(folded(head)(x), head.eval()(x), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_b_16"])
def test_a_stock_network_costs_what_torchvision_publishes_less_its_classifier(name):
    published = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].meta["_ops"]  # 1e9 multiply-adds
    with torch.device("meta"):
        chain = build({"backbone": {"name": name.removesuffix("_16")}})
    rows = costs(chain, 224)
    assert sum(row.flops for row in rows) / 2e9 + rows[-1].width * 1000 / 1e9 == pytest.approx(published, abs=1e-3)


def test_a_block_without_tensors_lists_no_part_in_a_header():
    assert Chain([("features.0", "features.0.", torch.nn.ReLU())]).parts("features.0") == []
