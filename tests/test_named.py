"""Networks that torchvision and timm know by name: the chain equals the library's own forward, at every block."""

import json
from pathlib import Path

import pytest
import torch
from cli import sslcut, tiny
from torch import Tensor, nn
from torchvision import models

import sslcut as package
from sslcut import checkpoint
from sslcut.errors import AbsentError, InputError, RecipeError, UsageError
from sslcut.foreign.named import fetch, outline
from sslcut.libraries import check_named
from sslcut.model.build import blueprint, build, settled
from sslcut.model.chain import Chain
from sslcut.model.fold import folded
from sslcut.options import Options
from sslcut.recipe import load as load_recipe
from sslcut.stages import pretrain

slow = pytest.mark.slow
IMAGENET = {"size": 64, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

TORCHVISION = [
    "resnet18", "efficientnet_b0", "regnet_y_400mf", "mobilenet_v3_small", "swin_t",
    pytest.param("convnext_tiny", marks=slow), pytest.param("resnext50_32x4d", marks=slow),
    pytest.param("vgg11_bn", marks=slow), pytest.param("efficientnet_v2_s", marks=slow),
]  # fmt: skip
TIMM = [
    ("resnet18", {}, 64), ("convnext_atto", {}, 64), ("efficientnet_lite0", {}, 64),
    pytest.param("mobilenetv3_small_050", {}, 64, marks=slow),
    ("vit_tiny_patch16_224", {"depth": 2, "img_size": 64}, 64),
    ("vit_small_patch14_reg4_dinov2", {"depth": 2, "img_size": 56}, 56),
    pytest.param("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (2, 2, 2, 2)}, 64, marks=slow),
    ("test_vit2", {}, 160), pytest.param("resnetv2_50", {}, 64, marks=slow),
]  # fmt: skip


def timm():
    return pytest.importorskip("timm", reason="the extra `timm` is not installed")


def varied(network: nn.Module) -> nn.Module:
    """The network in evaluation mode with weights and statistics that are nowhere 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(0.5 + noise if name.endswith(("running_var", "weight")) else noise - 0.5)
    return network.eval()


def images(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def chain_with_weights_of(network: nn.Module, **backbone: object) -> tuple[Chain, dict]:
    model = {"backbone": dict(backbone)}
    chain = blueprint(model)
    chain.load_tensors(network.state_dict(), str(backbone["name"]))
    return chain.eval(), model


def check_every_block(chain: Chain, network: nn.Module, x: Tensor) -> None:
    """Each borrowed block gives what the module at its end gives inside the library's own forward."""
    seen: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        module.register_forward_hook(
            lambda _, __, out, path=path: seen.update({path: out.clone()}) if isinstance(out, Tensor) else None
        )
    with torch.inference_mode():
        network(x)
        for name, _, block in chain.items():
            paths = [step for step in getattr(block, "steps", ()) if isinstance(step, str)]
            if paths:
                found, wanted = chain.cut(name)(x), seen[paths[-1]]
                turned = found.ndim == 4 and wanted.shape[1:] != found.shape[1:]
                wanted = wanted.permute(0, 3, 1, 2) if turned else wanted
                torch.testing.assert_close(found, wanted.reshape(found.shape), atol=1e-5, rtol=1e-5)


def check_file(chain: Chain, model: dict, x: Tensor, folder: Path) -> None:
    """A file of the chain loads bit for bit, and written again it has the same bytes."""
    document = {"model": model, "readout": "vector", "recipe": None, "history": [], "metrics": {}}
    document["input"] = {**IMAGENET, "size": x.shape[-1]}
    checkpoint.save(folder / "first.safetensors", chain, document)
    loaded = package.load(folder / "first.safetensors").chain
    checkpoint.save(folder / "second.safetensors", loaded, document)
    assert (folder / "first.safetensors").read_bytes() == (folder / "second.safetensors").read_bytes()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), chain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_chain_of_torchvision_equals_its_forward_at_every_block(tmp_path, name):
    network = varied(models.get_model(name, weights=None, num_classes=10))
    chain, model = chain_with_weights_of(network, name=f"torchvision:{name}", classes=10)
    assert chain.names[0] == "stem" and chain.names[-1] == "classifier"
    assert set(chain.tensors()) == set(network.state_dict())
    x = images(64)
    with torch.inference_mode():
        torch.testing.assert_close(chain(x), network(x), atol=1e-5, rtol=1e-5)
    check_every_block(chain, network, x)
    check_file(chain, model, x, tmp_path)


@slow
def test_a_transformer_of_torchvision_is_sslcuts_own_with_its_tensor_names():
    network = varied(models.vit_b_16(weights=None))
    chain, _ = chain_with_weights_of(network, name="torchvision:vit_b_16", classes=1000)
    with torch.inference_mode():
        torch.testing.assert_close(chain(images(224)), network(images(224)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "arguments", "size"), TIMM)
def test_a_chain_of_timm_equals_its_forward_at_every_block(tmp_path, name, arguments, size):
    network = varied(timm().create_model(name, num_classes=10, **arguments))
    chain, model = chain_with_weights_of(network, name=f"timm:{name}", classes=10, arguments=arguments)
    assert set(chain.tensors()) == set(network.state_dict())
    x = images(size)
    with torch.inference_mode():
        features = network.forward_features(x)
        vectors = network.forward_head(features, pre_logits=True)
        torch.testing.assert_close(chain(x), network(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(chain.cut("backbone")(x), vectors, atol=1e-5, rtol=1e-5)
    check_every_block(chain, network, x)
    check_file(chain, model, x, tmp_path)


def test_blocks_of_a_transformer_of_timm_are_its_intermediates_and_registers_stand_before_the_patches():
    arguments = {"depth": 2, "img_size": 56}
    network = varied(timm().create_model("vit_small_patch14_reg4_dinov2", **arguments))
    chain, _ = chain_with_weights_of(network, name="timm:vit_small_patch14_reg4_dinov2", arguments=arguments)
    assert chain.names == ["stem", "blocks.0", "blocks.1", "norm", "pool"] and chain.prefix_tokens == 5
    with torch.inference_mode():
        patches = network.forward_intermediates(images(56), norm=False, output_fmt="NLC", intermediates_only=True)
        for index, wanted in enumerate(patches):
            found = chain.run(images(56), upto=f"blocks.{index}")[:, 5:]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_token_read_out_leaves_registers_out():
    timm()
    name, arguments = "timm:vit_small_patch14_reg4_dinov2", {"depth": 1, "img_size": 56}
    chain = build({"backbone": {"name": name, "arguments": arguments}}).eval()
    assert chain.prefix_tokens == 5
    with torch.inference_mode():
        tokens = chain.run(images(56), upto="blocks.0")
        found = chain.features(images(56), [("blocks.0", "mean")])["blocks.0", "mean"]
        torch.testing.assert_close(found, tokens[:, chain.prefix_tokens :].mean(dim=1))


def test_names_are_those_of_the_design():
    def names(name: str) -> list[str]:
        return blueprint({"backbone": {"name": f"torchvision:{name}", "classes": 10}}).names

    assert names("convnext_tiny")[:5] == ["stem", "features.1.0", "features.1.1", "features.1.2", "features.2"]
    assert names("regnet_y_400mf")[:3] == ["stem", "block1.0", "block2.0"]
    assert names("swin_t")[-4:] == ["features.7.1", "norm", "pool", "classifier"]
    assert names("efficientnet_b0")[-3:] == ["features.8", "pool", "classifier"]
    own, theirs = blueprint({"backbone": {"name": "resnet50"}}), names("resnet50")
    assert [*own.names, "classifier"] == theirs


def test_the_same_rule_finds_the_names_of_sslcuts_own_networks():
    from sslcut.model.borrowed import chain_of

    network = models.resnet18(weights=None)
    assert (
        chain_of(network, 64, [network.fc], "resnet18").names
        == blueprint({"backbone": {"name": "torchvision:resnet18", "classes": 10}}).names
    )


def test_batch_norm_of_a_borrowed_network_folds():
    network = varied(models.get_model("regnet_y_400mf", weights=None, num_classes=10))
    chain, _ = chain_with_weights_of(network, name="torchvision:regnet_y_400mf", classes=10)
    small = folded(chain)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small.modules())
    with torch.inference_mode():
        torch.testing.assert_close(small(images(64)), network(images(64)), atol=1e-4, rtol=1e-4)


def test_a_network_without_weights_says_what_it_is_fed():
    found = fetch("torchvision:resnet18", pretrained=False)
    assert (found.input.size, found.input.mean) == (224, (0.485, 0.456, 0.406))
    assert found.chain.names[-1] == "classifier" and found.source["weights"] == "IMAGENET1K_V1"
    assert outline("torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1")["input"]["size"] == 384


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        ("torchvision:resnt18", UsageError, "did you mean `torchvision:resnet18`"),
        ("torchvision:resnet18.IMAGENET1K_V9", UsageError, "IMAGENET1K_V1"),
        ("hf-hub:resnet18", UsageError, "ORGANISATION/NAME"),
        ("torchvision:densenet121", InputError, "a ResNet, ConvNeXt"),
    ],
)
def test_a_name_that_will_not_do_is_told(name, fault, words):
    with pytest.raises(fault) as caught:
        fetch(name, pretrained=False)
    assert words in f"{caught.value} {caught.value.faults[0].hint}"


def test_timm_names_its_own_tags_and_arguments():
    timm()
    with pytest.raises(UsageError, match="no weights `d9`") as caught:
        fetch("timm:convnext_atto.d9", pretrained=False)
    assert "d2_in1k" in caught.value.faults[0].hint
    with pytest.raises(UsageError, match="colour: 3"):
        build({"backbone": {"name": "timm:convnext_atto", "arguments": {"colour": 3}}})


def test_an_absent_library_is_told_with_what_brings_it(monkeypatch):
    from sslcut import libraries

    monkeypatch.setattr(libraries, "_registered", lambda library: frozenset())
    with pytest.raises(InputError, match="needs the library timm") as caught:
        check_named("timm:resnet18")
    assert caught.value.faults[0].hint == "pip install 'sslcut[timm]'"


@pytest.mark.parametrize(
    "name", ["torchvision:mobilenet_v3_small", "timm:test_convnext", "hf-hub:timm/test_vit.r160_in1k"]
)
def test_what_cannot_be_fetched_is_told_in_one_line(name, monkeypatch, tmp_path):
    if not name.startswith("torchvision"):
        timm()
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", _no_address)
    monkeypatch.setattr("sslcut.model.published.getproxies", dict)
    with pytest.raises(AbsentError, match=f"{name} is not here and cannot be fetched") as caught:
        fetch(name)
    assert "\n" not in str(caught.value)


def _no_address(*_: object, **__: object) -> None:
    raise OSError("Name or service not known")


def cached(folder: Path) -> dict[str, str]:
    """An environment whose torchvision finds the weights of a MobileNet in its cache; they are drawn anew."""
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    url = models.MobileNet_V3_Small_Weights.DEFAULT.url
    torch.save(varied(models.mobilenet_v3_small()).state_dict(), folder / "hub" / "checkpoints" / Path(url).name)
    return {"TORCH_HOME": str(folder)}


def test_a_named_network_is_imported_probed_and_kept(tmp_path):
    env = cached(tmp_path / "home")
    sets = tiny("probe.layers=[features.12, pool]", "probe.train=60", "probe.test=40", "probe.tasks=[shape]")
    first = sslcut("probe", "torchvision:mobilenet_v3_small", *sets, "--json", cwd=tmp_path, env=env)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert found["reference"] == {"layer": "head", "readout": "vector"}
    file = tmp_path / "runs" / "default" / "torchvision-mobilenet_v3_small.safetensors"
    again = sslcut("import", "torchvision:mobilenet_v3_small", cwd=tmp_path, env={"TORCH_HOME": str(tmp_path)})
    assert again.returncode == 0 and "already" in again.stderr
    assert Path(tmp_path / again.stdout.strip()) == file
    cut = sslcut("guillotine", file, "--at", "features.4", cwd=tmp_path)
    assert cut.returncode == 0, cut.stderr
    assert package.load(tmp_path / cut.stdout.strip()).names[-1] == "features.4"


def test_the_classifier_of_an_imported_network_is_measured_and_no_other():
    from sslcut.stages.probe import asked_layers

    names = ["stem", "layer1.0", "pool", "classifier"]
    assert asked_layers("all", names, imported=True) == names
    assert asked_layers("all", names) == names[:-1]


def test_products_written_out_count_as_attention_does():
    from sslcut.model.cost import costs

    def flops(name: str, **arguments: object) -> int:
        chain = blueprint({"backbone": {"name": name, **arguments}})
        return sum(cost.flops for cost in costs(chain, 224))

    assert flops("torchvision:swin_t") > 2 * 4.4e9  # torchvision gives 4.49 billion multiply-adds


def test_inspect_lists_a_named_network_without_its_weights(tmp_path):
    done = sslcut("inspect", "torchvision:resnet18", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "torchvision:resnet18\n"), done.stderr
    assert "layer4.1" in done.stderr and "classifier" in done.stderr


def test_a_typo_is_told_by_every_command_before_torch(tmp_path):
    for command in ("probe", "inspect", "import"):
        done = sslcut(command, "torchvision:resnt18", cwd=tmp_path)
        assert done.returncode == 2 and "did you mean `torchvision:resnet18`" in done.stderr


def test_a_recipe_names_networks_of_libraries_and_a_typo_has_its_line():
    chosen = load_recipe(None, ["model.backbone=torchvision:regnet_y_400mf"])
    assert chosen.dump()["model"]["backbone"] == {
        "name": "torchvision:regnet_y_400mf",
        "pretrained": False,
        "classes": 0,
    }
    with pytest.raises(RecipeError, match="torchvision has no network `regnet_y_40mf`"):
        load_recipe(None, ["model.backbone=torchvision:regnet_y_40mf"])


def test_a_network_of_timm_trains_by_a_recipe_and_loads_without_weights_to_fetch(tmp_path):
    timm()
    sets = tiny("model.backbone={name: timm:test_convnext}", "data.size=32", "data.train=64", "train.batch_size=32")
    done = sslcut("pretrain", *sets, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    network = package.load(tmp_path / done.stdout.strip())
    assert network.names[0] == "stem" and network.names[-1].startswith("projector")
    with torch.inference_mode():
        assert network(images(32)).isfinite().all()


def test_a_checkpoints_model_has_nothing_left_to_fetch():
    model = {"backbone": {"name": "torchvision:resnet18", "pretrained": True, "classes": 0}}
    assert settled(model)["backbone"]["pretrained"] is False
    assert settled({"backbone": {"name": "resnet18"}}) == {"backbone": {"name": "resnet18"}}


def test_no_head_follows_a_classifier():
    with pytest.raises(UsageError, match="nothing can follow"):
        blueprint({"backbone": {"name": "torchvision:resnet18", "classes": 10}, "projector": {"widths": [8]}})


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained", "features_only"])
def test_a_checkpoint_cannot_make_timm_read_or_fetch_anything(argument):
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    backbone = {"name": "timm:test_vit2", "arguments": {argument: "evil.pth"}}
    with pytest.raises(UsageError, match=f"is not to be told `{argument}`"):
        blueprint({"backbone": backbone})


def test_a_plan_tells_that_pretrained_weights_are_still_to_be_fetched():
    sets = ["model.backbone={name: torchvision:resnet18, pretrained: true}", "data.train=64", "data.test=32"]
    said = [event.line() for event in pretrain.plan(load_recipe("default", sets), torch.device("cpu"))]
    assert any("the weights of torchvision:resnet18 are fetched by its library" in line for line in said)


def test_a_network_that_cannot_be_divided_is_told_before_the_images_are_read(tmp_path):
    sets = ["model.backbone={name: torchvision:densenet121}", "data={name: folder, root: nowhere}"]
    with pytest.raises(InputError, match="cannot be divided into blocks"):
        list(pretrain.run(load_recipe("default", sets), Options(out=tmp_path / "run")))
