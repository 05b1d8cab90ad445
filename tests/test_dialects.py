"""Networks of other projects: what they compute here is what they compute at home."""

import json

import elsewhere
import pytest
import torch
import torchvision
from elsewhere import Case, drawn, images
from torch import nn

from sslcut import checkpoint
from sslcut.foreign.files import Wish, convert
from sslcut.foreign.saving import save
from sslcut.registry import DIALECTS

CASES = {
    "vicreg": ("vicreg", elsewhere.vicreg, None),
    "barlow-twins": ("barlow-twins", elsewhere.barlow_twins, None),
    "moco v1": ("moco", lambda: elsewhere.moco(32), "student"),
    "moco v2": ("moco", lambda: elsewhere.moco(64, 32), "student"),
    "moco-v3": ("moco-v3", elsewhere.moco_v3, "student"),
    "simsiam": ("simsiam", elsewhere.simsiam, None),
    "swav": ("swav", elsewhere.swav, None),
    "solo-learn": ("solo-learn", lambda: elsewhere.solo_learn(cifar=False), "student"),
    "solo-learn CIFAR": ("solo-learn", lambda: elsewhere.solo_learn(cifar=True), "student"),
    "lightly": ("lightly", lambda: elsewhere.lightly(cifar=False), None),
    "lightly CIFAR": ("lightly", lambda: elsewhere.lightly(cifar=True), None),
    "lightly's DINO": ("lightly-dino", elsewhere.lightly_dino, "teacher"),
    "dino": ("dino", elsewhere.dino, "teacher"),
    "vissl": ("vissl", elsewhere.vissl, None),
    "t-ReX": ("trex", lambda: elsewhere.trex(unit_input=True), "student"),
    "t-ReX without l2": ("trex", lambda: elsewhere.trex(unit_input=False), "student"),
}


def agree(chain: nn.Module, case: Case, tmp_path, imported) -> None:
    """The backbone's vector and the head's output are the source's, also once saved and loaded."""
    x = images(case.size)
    with torch.inference_mode():
        vector = case.backbone(x)
        assert vector.std() > 1e-3
        assert torch.allclose(chain.run(x, upto="pool"), vector, atol=1e-5, rtol=1e-5)
        if case.head is not None:
            assert torch.allclose(chain(x), case.head(vector), atol=1e-5, rtol=1e-5)
        target = tmp_path / "saved" / "network.safetensors"
        assert [event.text for event in save(imported, target)][-1] == str(target)
        assert torch.equal(checkpoint.load(target).chain(x), chain(x))


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_another_project_computes_what_it_computed_there(name, tmp_path):
    dialect, make, branch = CASES[name]
    case = make()
    imported = convert(elsewhere.save(case, tmp_path / "file.pth"), Wish(size=case.size))
    assert (imported.source["dialect"], imported.source["branch"]) == (dialect, branch)
    agree(imported.chain, case, tmp_path, imported)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_torchvisions_resnet_keeps_its_classifier(arch, tmp_path):
    network = drawn(getattr(torchvision.models, arch)(num_classes=7))
    imported = convert(elsewhere.save(Case(network.state_dict(), network), tmp_path / "file.pth"), Wish(arch))
    assert imported.chain.names[-2:] == ["pool", "classifier"] and imported.model["classifier"] == 7
    with torch.inference_mode():
        assert torch.allclose(imported.chain(images(64)), network(images(64)), atol=1e-4, rtol=1e-5)


def test_torchvisions_transformer_computes_what_it_computed_there(tmp_path):
    network = drawn(torchvision.models.VisionTransformer(64, 16, 2, 3, 192, 768, num_classes=5))
    imported = convert(elsewhere.save(Case(network.state_dict(), network), tmp_path / "file.pth"), Wish())
    assert imported.input.size == 64 and imported.chain.names[-1] == "classifier"
    with torch.inference_mode():
        assert torch.allclose(imported.chain(images(64)), network(images(64)), atol=1e-5)


TIMM = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_dinov2": {},
    "vit_small_patch14_reg4_dinov2": {},
    "vit_tiny_patch16_224 without bias": {"qkv_bias": False},
    "vit_tiny_patch16_224 registers": {"reg_tokens": 2},
    "resnet18": {},
}


@pytest.mark.parametrize("name", TIMM)
def test_timms_network_computes_what_it_computed_there(name, tmp_path):
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
    size = 56 if "14" in name else 64
    shape = {} if name.startswith("resnet") else {"img_size": size, "depth": 2}
    network = drawn(timm.create_model(name.split()[0], num_classes=0, **shape, **TIMM[name]))
    case = Case(network.state_dict(), network, size=size)
    imported = convert(elsewhere.save(case, tmp_path / "file.pth"), Wish())
    assert imported.chain.prefix_tokens == getattr(network, "num_prefix_tokens", 0)
    agree(imported.chain, case, tmp_path, imported)


@pytest.mark.parametrize("registers", [0, 3])
def test_dinov2s_own_file_is_read_with_its_mask_token_and_chunks(registers, tmp_path):
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
    network = drawn(timm.create_model("vit_small_patch14_dinov2", img_size=56, depth=2, num_classes=0))
    tensors = {**network.state_dict(), "mask_token": torch.zeros(1, 384)}
    if registers:
        tensors["register_tokens"] = torch.randn(1, registers, 384)
    chunked = {name.replace("blocks.1.", "blocks.0.1.").replace("blocks.0.n", "blocks.0.0.n"): tensor
               for name, tensor in tensors.items()}  # fmt: skip
    plain, chunks = (
        convert(elsewhere.save(Case(content, network), tmp_path / f"{name}.pth"), Wish())
        for name, content in (("plain", tensors), ("chunked", {"teacher": elsewhere.under("backbone.", chunked)}))
    )
    assert plain.source["dialect"] == chunks.source["dialect"] == "dinov2"
    assert plain.model["backbone"]["positions"] == ("antialias" if registers else "offset")
    assert torch.equal(plain.chain(images(56)), chunks.chain(images(56)))
    if not registers:
        assert torch.allclose(plain.chain(images(56)), network(images(56)), atol=1e-5)


def test_positions_of_another_size_are_dinos():
    network = convert_vit("offset")
    stored = network.block("stem").encoder["pos_embedding"]
    grid = stored[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    theirs = nn.functional.interpolate(grid, scale_factor=(6.1 / 4, 3.1 / 4), mode="bicubic")
    assert theirs.shape[2:] == (6, 3)
    assert torch.equal(network.block("stem").positions(6, 3)[:, 1:], theirs.flatten(2).transpose(1, 2))


def convert_vit(positions: str):
    from sslcut.model.vit import vit_ti

    return drawn(vit_ti(last_block={}, patch=16, size=64, depth=1, positions=positions))


def transformers_network(kind: str, size: int):
    transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    shape = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": size}
    if kind == "ViT":
        shape["intermediate_size"] = 768
    else:
        shape["patch_size"] = 14
    config = getattr(transformers, f"{kind}Config")(**shape)
    return drawn(getattr(transformers, f"{kind}Model")(config))


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters"])
@pytest.mark.parametrize("other", [False, True], ids=["own size", "another size"])
def test_a_transformer_of_transformers_computes_what_it_computed_there(kind, other, tmp_path):
    size = 64 if kind == "ViT" else 56
    network = transformers_network(kind, size)
    network.save_pretrained(tmp_path / "hub")
    imported = convert(tmp_path / "hub" / "model.safetensors", Wish())
    assert imported.chain.prefix_tokens == (5 if "Registers" in kind else 1)
    x = images(size + 2 * imported.model["backbone"]["patch"] * other)
    more = {"interpolate_pos_encoding": True} if other and kind == "ViT" else {}
    with torch.inference_mode():
        theirs = network(x, **more).last_hidden_state
        assert torch.allclose(imported.chain.run(x, upto="norm"), theirs, atol=1e-5)
        assert torch.equal(imported.chain(x), imported.chain.run(x, upto="norm")[:, 0])


def test_what_stands_beside_a_file_of_transformers_is_heeded(tmp_path):
    network = transformers_network("ViT", 64)
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": 6}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "size": 32}))
    imported = convert(tmp_path / "model.safetensors", Wish(std=(0.2, 0.2, 0.2)))
    assert imported.model["backbone"]["heads"] == 6 and imported.model["backbone"]["norm_eps"] == 1e-12
    assert (imported.input.size, imported.input.mean, imported.input.std) == (32, (0.1, 0.2, 0.3), (0.2, 0.2, 0.2))


def test_the_other_branch_can_be_asked_for(tmp_path):
    case = elsewhere.dino()
    path = elsewhere.save(case, tmp_path / "file.pth")
    teacher, student = (convert(path, Wish(branch=branch)) for branch in ("teacher", "student"))
    x = images(64)
    assert torch.allclose(teacher.chain.run(x, upto="pool"), case.backbone(x), atol=1e-5)
    assert not torch.allclose(student.chain.run(x, upto="pool"), case.backbone(x), atol=1e-2)
    assert student.source["branch"] == "student"


def test_wrappers_are_taken_off_however_deep(tmp_path):
    network = elsewhere.resnet()
    wrapped = elsewhere.under("module._orig_mod.encoder_q._orig_mod.module.", network)
    path = elsewhere.save(Case({"state_dict": {"model": wrapped}}, network), tmp_path / "file.pth")
    assert torch.equal(convert(path, Wish()).chain(images(64)), network(images(64)))


def test_a_head_that_cannot_be_rebuilt_is_left_out_and_said(tmp_path):
    case = elsewhere.vicreg()
    case.content["model"]["module.projector.3.weight"] = torch.zeros(64, 64, 1, 1)
    imported = convert(elsewhere.save(case, tmp_path / "file.pth"), Wish())
    assert imported.chain.names[-1] == "pool"
    assert any("`projector.` is left out" in note for note in imported.notes)


def test_moco_v3s_small_transformer_has_its_twelve_heads(tmp_path):
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
    network = drawn(timm.create_model("vit_small_patch16_224", img_size=64, depth=2, num_heads=12, num_classes=0))
    head = elsewhere.mlp(384, 64, 64, 32, bias=False, last_bias=False, last="plain norm")
    tensors = {**elsewhere.under("module.base_encoder.", network), **elsewhere.under("module.base_encoder.head.", head)}
    case = Case({"state_dict": tensors}, network, head)
    imported = convert(elsewhere.save(case, tmp_path / "file.pth"), Wish())
    agree(imported.chain, case, tmp_path, imported)


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_can_be_loaded_and_says_whose_it_is(name):
    dialect = DIALECTS.load(name)
    assert dialect.title and dialect.marks and dialect.published in ("student", "teacher")
