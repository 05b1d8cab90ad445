"""Exports of what other projects made: transformers with registers, and networks that a library knows by name."""

import pytest
import torch
from exported import close, images, normalised, saved

from sslcut import checkpoint
from sslcut.errors import InputError, UsageError
from sslcut.inputs import Given
from sslcut.metrics.extract import taps
from sslcut.stages import export as stage
from sslcut.stages import guillotine

SHALLOW = {"name": "vit_ti", "patch": 8, "size": 32, "depth": 2}
REGISTERS = {**SHALLOW, "registers": 4, "layer_scale": 0.1}
TIMMS = {"name": "timm:vit_tiny_patch16_224", "arguments": {"img_size": 32, "depth": 3}}


def exported(path, to):
    *_, result = stage.run(Given(path), stage.Options(to))
    return result.text


@pytest.mark.parametrize(
    ("backbone", "at", "readout"),
    [
        (REGISTERS, "pool", "vector"),
        (REGISTERS, "blocks.0", "mean"),
        ({**SHALLOW, "qkv_bias": False}, "blocks.1", "cls"),
        ({**SHALLOW, "positions": "offset"}, "blocks.1", "cls"),
        ({"name": "timm:convnext_atto"}, "pool", "vector"),
        ({"name": "timm:resnet18", "classes": 5}, "classifier", "vector"),
        (TIMMS, "pool", "vector"),
        (TIMMS, "blocks.1", "cls"),
    ],
)
def test_timm_computes_what_was_exported(tmp_path, backbone, at, readout):
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
    path = saved(tmp_path / "a.safetensors", {"backbone": backbone}, at, readout)
    own = checkpoint.load(path)
    peer = timm.create_model(f"local-dir:{exported(path, 'timm')}", pretrained=True).eval()
    with torch.inference_mode():
        assert close(peer(normalised(images())), own(images()))


@pytest.mark.parametrize(
    ("backbone", "to", "said"),
    [
        (REGISTERS, "torchvision", "`register_tokens` does not fit"),
        ({**SHALLOW, "qkv_bias": False}, "torchvision", "in_proj_bias` of torchvision's vit_ti is missing"),
        ({**SHALLOW, "norm_eps": 1e-12}, "timm", "cannot be told `norm_eps: 1e-12`"),
        ({"name": "torchvision:resnet18"}, "timm", "which timm does not read"),
    ],
)
def test_what_a_library_cannot_hold_is_refused(tmp_path, backbone, to, said):
    with pytest.raises(InputError, match=said):
        exported(saved(tmp_path / "a.safetensors", {"backbone": backbone}), to)


def test_a_register_is_never_read_as_a_class_token(tmp_path):
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    backbone = {"name": "timm:vit_medium_patch16_reg4_gap_256", "arguments": {"img_size": 32, "depth": 2}}
    path = saved(tmp_path / "a.safetensors", {"backbone": backbone}, "blocks.1", "mean")
    network = checkpoint.load(path)
    tokens = network.map(images())
    assert torch.allclose(network(images()), tokens[:, 4:].mean(dim=1), atol=1e-6)
    assert taps(network, ["blocks.1"], ["cls", "cls+mean"]) == [("blocks.1", "mean")]
    with pytest.raises(UsageError, match="needs a class token"):
        network.chain.features(images().float(), [("blocks.1", "cls")])
    with pytest.raises(UsageError, match="does not fit block"):
        list(guillotine.run(Given(path), guillotine.Options("blocks.0", None, None, "cls", False, None, False)))


def test_a_network_of_timms_is_refused_where_timm_builds_none_so_short(tmp_path):
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    path = saved(tmp_path / "a.safetensors", {"backbone": {"name": "timm:resnet18"}}, "layer3.1", "avg")
    with pytest.raises(InputError, match=r"it would also have `layer4.0.conv1.weight`"):
        exported(path, "timm")
