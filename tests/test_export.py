"""Exports: the library's own network, given the file, computes what `sslcut.load` computes."""

import json
from pathlib import Path

import pytest
import torch
from cli import sslcut
from exported import BOTTLENECKS, RESNET, TRANSFORMER, close, images, normalised, saved
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from sslcut import checkpoint
from sslcut.errors import InputError, MachineError, UsageError
from sslcut.events import Result
from sslcut.foreign.files import Wish, convert
from sslcut.inputs import Given
from sslcut.model.network import Network
from sslcut.stages import export as stage

WITH_TIMM = [
    (RESNET, "backbone", "vector"),
    ({"backbone": {"name": "resnet10"}}, "layer4.0", "avg"),
    (BOTTLENECKS, "layer3.5", "avg"),
    (BOTTLENECKS, "layer2.1", "avg+max"),
    (RESNET, "layer4.0", "avg"),
    (BOTTLENECKS, "stem", "avg"),
    (TRANSFORMER, "backbone", "vector"),
    (TRANSFORMER, "blocks.2", "cls"),
    (TRANSFORMER, "norm", "mean"),
    (TRANSFORMER, "blocks.3", "mean"),
    (TRANSFORMER, "stem,blocks.0,blocks.1,norm", "mean"),
]


def exported(path, to, **options):
    """The path that an export of this checkpoint gives."""
    *_, result = stage.run(Given(path), stage.Options(to, **options))
    assert isinstance(result, Result)
    return result.text


@torch.inference_mode()
def features(path, size=32):
    return checkpoint.load(path)(images(size))


@torch.inference_mode()
def run(model, size=32):
    return model.eval()(normalised(images(size)))


def without_head(model: nn.Module, file: str) -> nn.Module:
    """A ResNet of torchvision's with this file's tensors; stages that the file does not have pass their input on."""
    tensors = load_file(file)
    for name, _ in list(model.named_children()):
        if not any(key.startswith(f"{name}.") for key in tensors) and name.startswith(("layer", "fc")):
            setattr(model, name, nn.Identity())
    model.load_state_dict(tensors, strict=True)
    return model


@pytest.mark.parametrize(("model", "at", "readout"), [(RESNET, "backbone", "vector"), (BOTTLENECKS, "layer3.5", "avg")])
def test_torchvisions_resnet_computes_what_was_exported(tmp_path, model, at, readout):
    path = saved(tmp_path / "a.safetensors", model, at, readout)
    file = exported(path, "torchvision")
    peer = without_head(getattr(models, model["backbone"]["name"])(), file)
    assert close(run(peer), features(path))


def test_torchvisions_transformer_of_less_depth_computes_what_was_exported(tmp_path):
    path = saved(tmp_path / "a.safetensors", TRANSFORMER, "blocks.2", "cls")
    peer = models.VisionTransformer(32, 8, num_layers=3, num_heads=3, hidden_dim=192, mlp_dim=768)
    peer.heads, peer.encoder.ln = nn.Identity(), nn.Identity()
    peer.load_state_dict(load_file(exported(path, "torchvision")), strict=True)
    assert close(run(peer), features(path))


@pytest.mark.parametrize("model", [RESNET, TRANSFORMER], ids=["resnet", "transformer"])
@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_a_classifier_keeps_its_place(tmp_path, model, to):
    path = saved(tmp_path / "a.safetensors", {**model, "classifier": 7}, "classifier")
    if to == "timm":
        timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
        peer = timm.create_model(f"local-dir:{exported(path, to)}", pretrained=True)
    else:
        peer = models.resnet18(num_classes=7) if model is RESNET else models.VisionTransformer(
            32, 8, num_layers=4, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=7
        )  # fmt: skip
        peer.load_state_dict(load_file(exported(path, to)), strict=True)
    assert close(run(peer), features(path))


def test_a_torchvision_file_carries_the_ecosystems_mark_alone(tmp_path):
    file = exported(saved(tmp_path / "a.safetensors", RESNET), "torchvision")
    with safe_open(file, "pt") as read:
        assert read.metadata() == {"format": "pt"}


@pytest.mark.parametrize(("model", "at", "readout"), WITH_TIMM)
def test_timm_makes_the_network_from_the_folder_and_computes_what_was_exported(tmp_path, model, at, readout):
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
    path = saved(tmp_path / "a.safetensors", model, at, readout)
    peer = timm.create_model(f"local-dir:{exported(path, 'timm')}", pretrained=True)
    assert close(run(peer), features(path))
    assert peer.num_classes == 0 and peer.pretrained_cfg["mean"] == pytest.approx((0.4, 0.5, 0.6))


def test_a_folder_of_timms_comes_back_as_the_network_that_it_was(tmp_path):
    backbone = {**TRANSFORMER["backbone"], "heads": 6, "pool": "mean"}
    path = saved(tmp_path / "a.safetensors", {"backbone": backbone})
    back = convert(Path(exported(path, "timm")) / "model.safetensors", Wish())
    assert (back.model["backbone"]["heads"], back.model["backbone"]["pool"]) == (6, "mean")
    with torch.inference_mode():
        assert close(Network(back.chain, back.readout, back.input)(images()), features(path))


def test_a_transformer_read_at_another_size_interpolates_its_positions_in_timm_too(tmp_path):
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
    path = saved(tmp_path / "a.safetensors", TRANSFORMER, size=48)
    peer = timm.create_model(f"local-dir:{exported(path, 'timm')}", pretrained=True)
    assert close(run(peer, 48), features(path, 48))


def test_timm_is_given_the_last_output_where_it_has_no_such_read_out(tmp_path):
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
    path = saved(tmp_path / "a.safetensors", RESNET, "layer4.1", "grid2")
    events = list(stage.run(Given(path), stage.Options("timm")))
    assert "no read-out `grid2`" in events[0].text
    peer = timm.create_model(f"local-dir:{events[-1].text}", pretrained=True)
    with torch.inference_mode():
        assert close(run(peer), checkpoint.load(path).map(images()))


def test_timm_builds_no_resnet_of_one_block(tmp_path):
    path = saved(tmp_path / "a.safetensors", RESNET, "layer1.0", "avg")
    with pytest.raises(InputError, match=r"first block, `layer1.0`"):
        exported(path, "timm")


@pytest.mark.parametrize(
    ("model", "at", "readout"),
    [
        (RESNET, "backbone", "vector"),
        (BOTTLENECKS, "layer3.5", "avg"),
        (TRANSFORMER, "blocks.2", "cls+mean"),
        ({"backbone": {"name": "resnet10", "width": 8, "stem": "small"}}, "layer4.0", "grid2"),
        ({**RESNET, "projector": {"widths": [16, 8]}}, "projector", "vector"),
    ],
)
def test_the_onnx_graph_gives_the_networks_features_for_any_number_of_images(tmp_path, model, at, readout):
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    path = saved(tmp_path / "a.safetensors", model, at, readout)
    session = onnxruntime.InferenceSession(exported(path, "onnx"), providers=["CPUExecutionProvider"])
    assert [each.name for each in (*session.get_inputs(), *session.get_outputs())] == ["images", "features"]
    for count in (1, 5):
        found = session.run(None, {"images": images(count=count).numpy()})[0]
        with torch.inference_mode():
            assert close(torch.from_numpy(found), checkpoint.load(path)(images(count=count)))


def test_an_onnx_graph_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    from sslcut.foreign import to_onnx

    path = saved(tmp_path / "a.safetensors", RESNET, "layer1.0", "avg")
    monkeypatch.setattr(to_onnx.Reading, "forward", lambda self, images: self.network(images) * 1.001)
    with pytest.raises(InputError, match=r"features that differ by up to"):
        exported(path, "onnx")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_without_the_extra_the_remedy_is_told(tmp_path, monkeypatch, library):
    from sslcut.foreign import to_onnx

    monkeypatch.setattr(to_onnx, "find_spec", lambda name: None if name == library else object())
    with pytest.raises(InputError, match=f"needs {library}") as caught:
        exported(saved(tmp_path / "a.safetensors", RESNET), "onnx")
    assert caught.value.faults[0].hint == "pip install 'sslcut[onnx]'"


@pytest.mark.parametrize("to", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("backbone", "last", "tensor"),
    [
        ({"width": 16}, {}, r"`conv1.weight` .* \(16, 3, 7, 7\)"),
        ({"stem": "small"}, {}, r"`conv1.weight` .* \(64, 3, 3, 3\)"),
        ({"stem": "cifar"}, {}, r"`conv1.weight`"),
        ({}, {"width": 640}, r"`layer4.1.conv2.weight` .* \(640, 512, 3, 3\)"),
        ({}, {"shortcut": "always"}, r"`layer4.1.downsample.0.weight` .* has none"),
    ],
)
def test_a_network_that_the_library_does_not_have_is_refused_naming_the_tensor(tmp_path, to, backbone, last, tensor):
    model = {"backbone": {"name": "resnet18", **backbone}, "last_block": last}
    with pytest.raises(InputError, match=tensor) as caught:
        exported(saved(tmp_path / "a.safetensors", model), to)
    assert caught.value.faults[0].hint == "`--to onnx` takes any network"


def test_a_librarys_network_that_was_resized_is_refused_naming_the_tensor(tmp_path):
    model = {"backbone": {"name": "torchvision:resnet18"}, "last_block": {"width": 40, "shortcut": "auto"}}
    with pytest.raises(InputError, match=r"`layer4.1.conv2.weight` .* \(40, 512, 3, 3\)"):
        exported(saved(tmp_path / "a.safetensors", model), "torchvision")
    exported(saved(tmp_path / "b.safetensors", model, "layer4.0", "avg"), "torchvision")


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_a_wide_transformer_is_refused_naming_the_tensor(tmp_path, to):
    model = {**TRANSFORMER, "last_block": {"width": 200, "shortcut": "auto"}}
    with pytest.raises(InputError, match=r"`encoder.layers.encoder_layer_3.mlp.3.weight` .* \(200, 768\)"):
        exported(saved(tmp_path / "a.safetensors", model), to)


def test_the_head_is_left_out_and_said_to_be(tmp_path):
    path = saved(tmp_path / "a.safetensors", {**RESNET, "projector": {"widths": [16, 8]}}, "projector")
    first, *_, result = stage.run(Given(path), stage.Options("torchvision"))
    assert first.text.startswith("projector.0, projector.1 are left out")
    assert not any(name.startswith("projector") for name in load_file(result.text))


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_the_same_export_is_kept_and_another_is_in_the_way(tmp_path, to):
    path = saved(tmp_path / "a.safetensors", RESNET, "layer2.0", "avg")
    target = exported(path, to)
    assert exported(path, to) == target
    other = saved(tmp_path / "b.safetensors", RESNET, "layer2.1", "avg")
    with pytest.raises(UsageError, match="is something else"):
        exported(other, to, out=tmp_path / target)
    assert exported(other, to, out=tmp_path / target, force=True) == target


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    path = saved(tmp_path / "a.safetensors", RESNET, "layer2.0", "avg")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(UsageError, match="holds other files"):
        exported(path, "timm", out=tmp_path / "mine", force=True)
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_finished_leaves_what_was_there(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.safetensors", RESNET, "layer2.0", "avg")
    target = exported(path, "timm")
    other = saved(tmp_path / "b.safetensors", RESNET, "layer2.1", "avg")
    before = (tmp_path / target / "config.json").read_bytes()
    monkeypatch.setattr("sslcut.atomic.os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(MachineError, match="the disk is full"):
        exported(other, "timm", out=tmp_path / target, force=True)
    assert (tmp_path / target / "config.json").read_bytes() == before
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".a")]


def test_a_run_exports_its_newest_checkpoint_and_stdout_holds_the_path_alone(tiny_copy):
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    done = sslcut("export", "--to", "onnx", cwd=tiny_copy)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert (tiny_copy / line).is_file() and line.endswith(".onnx")
    assert "warning" not in done.stderr.lower() and len(done.stderr.splitlines()) <= 4, done.stderr
    steps = json.loads((tiny_copy / "runs/default/run.json").read_text())["stages"]
    assert steps[-1]["stage"] == "export" and steps[-1]["facts"]["format"] == "onnx"


def test_a_tensor_that_does_not_fit_is_exit_3_and_a_dry_run_writes_nothing(tiny_copy):
    refused = sslcut("export", "--to", "torchvision", "--dry-run", cwd=tiny_copy)
    assert refused.returncode == 3 and "tensor `conv1.weight` does not fit" in refused.stderr
    saved(tiny_copy / "a.safetensors", RESNET, "layer1.0", "avg")
    planned = sslcut("export", "a.safetensors", "--to", "torchvision", "--dry-run", cwd=tiny_copy)
    assert planned.returncode == 0 and planned.stdout == "" and "would write a-torchvision" in planned.stderr
    assert not (tiny_copy / "a-torchvision.safetensors").exists()
