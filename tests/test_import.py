"""`sslcut import`: files that are whole, foreign, damaged or hostile, and what the command makes of them."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import elsewhere
import numpy as np
import pytest
import torch
from cli import sslcut
from elsewhere import Case, images
from safetensors.torch import save_file

import sslcut as library
from sslcut.errors import InputError, UsageError
from sslcut.foreign.files import Wish, convert
from sslcut.foreign.opening import tensors_in
from sslcut.stages import importing
from sslcut.stages.importing import Options, beside


class Hostile:
    """A pickle of this creates a file when it is opened by anyone who lets it."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def weights(path, seed: int = 0):
    return elsewhere.save(Case(elsewhere.resnet(seed).state_dict(), None), path)


def imported(source, **options) -> str:
    return [event.text for event in importing.run(str(source), Options(**options))][-1]


def test_an_imported_file_is_a_checkpoint_like_any_other(tmp_path):
    case = elsewhere.moco(64, 32)
    elsewhere.save(case, tmp_path / "moco_v2.pth.tar")
    done = sslcut("import", "moco_v2.pth.tar", "--arch", "resnet18", "--size", "64", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["path"] == "moco_v2.safetensors" and result["source"]["dialect"] == "moco"
    assert "124 tensors under `encoder_q.` read as resnet18" in done.stderr and "124 of `encoder_k`" in done.stderr
    cut = sslcut("guillotine", "moco_v2.safetensors", "--at", "backbone", cwd=tmp_path)
    network = library.load(tmp_path / cut.stdout.strip())
    expected = case.backbone(network.normalised(images(64)))
    assert torch.allclose(network(images(64)), expected, atol=1e-5)
    shown = sslcut("inspect", "moco_v2.safetensors", cwd=tmp_path)
    assert "import: dialect moco" in shown.stderr and "projector.1" in shown.stderr


def test_an_imported_checkpoint_is_probed_on_any_images(tmp_path):
    elsewhere.save(elsewhere.vicreg(), tmp_path / "file.pth")
    assert sslcut("import", "file.pth", "--size", "32", cwd=tmp_path).returncode == 0
    sets = ["data.size=32", "data.train=60", "data.test=30", "probe.bootstrap=50", "probe.layers=[pool, projector.0]"]
    words = [word for each in sets for word in ("--set", each)]
    done = sslcut("probe", "file.safetensors", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / done.stdout.strip()).read_text())
    assert results["reference"] == {"layer": "pool", "readout": "vector"}


def test_the_same_import_is_kept_and_another_needs_force(tmp_path):
    weights(tmp_path / "net.pth")
    first = imported(tmp_path / "net.pth")
    before = os.stat(first).st_mtime_ns
    assert imported(tmp_path / "net.pth", arch="resnet18") == first and os.stat(first).st_mtime_ns == before
    weights(tmp_path / "net.pth", seed=1)
    with pytest.raises(UsageError, match="exists and is something else"):
        imported(tmp_path / "net.pth")
    assert imported(tmp_path / "net.pth", force=True) == first and os.stat(first).st_mtime_ns != before


def test_a_checkpoint_of_sslcuts_own_is_not_imported_again(tmp_path):
    made = imported(weights(tmp_path / "net.pth"))
    with pytest.raises(UsageError, match="is a checkpoint of sslcut's already"):
        imported(made)


def test_an_import_into_a_run_directory_is_entered_there(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1, "stages": []}')
    weights(tmp_path / "net.pth")
    imported(tmp_path / "net.pth")
    (step,) = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert (step["stage"], step["output"]) == ("import", "net.safetensors")
    assert step["facts"]["dialect"] == "torchvision" and len(step["facts"]["sha256"]) == 64


def test_a_dry_run_writes_nothing_and_prints_no_path(tmp_path):
    weights(tmp_path / "net.pth")
    done = sslcut("import", "net.pth", "--dry-run", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "") and "would write net.safetensors" in done.stderr
    assert not (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize(
    ("source", "branch", "target"),
    [
        ("a/swav_800ep_pretrain.pth.tar", None, "a/swav_800ep_pretrain.safetensors"),
        ("model.safetensors", None, "model-imported.safetensors"),
        ("v1.0-ep=99.ckpt", "teacher", "v1.0-ep=99-teacher.safetensors"),
    ],
)
def test_a_checkpoint_goes_beside_its_file_and_never_over_it(source, branch, target):
    assert str(beside(source, branch)) == target


def test_every_container_of_tensors_is_opened(tmp_path):
    tensors = elsewhere.resnet().state_dict()
    torch.save(tensors, tmp_path / "zip.pt")
    torch.save(tensors, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("zip.pt", "legacy.pth", "model.safetensors"):
        opened = tensors_in(tmp_path / name)
        assert opened.keys() == tensors.keys() and all(torch.equal(opened[key], tensors[key]) for key in tensors)


def test_the_settings_and_numbers_that_scripts_leave_are_no_obstacle(tmp_path):
    left = {"args": argparse.Namespace(lr=0.1, folder=tmp_path), "best": np.float64(0.7), "n": np.arange(3)}
    for legacy in (False, True):
        path = tmp_path / f"{legacy}.pth"
        torch.save({**left, "model": {"a": torch.ones(2)}}, path, _use_new_zipfile_serialization=not legacy)
        assert tensors_in(path).keys() == {"model.a"}


def test_a_file_that_holds_itself_is_no_way_to_hang(tmp_path):
    content: dict = {"weight": torch.ones(2)}
    content["again"] = content
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InputError, match="cannot be read"):
        tensors_in(tmp_path / "file.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_with_what_it_wanted_and_runs_nothing(legacy, tmp_path):
    trap = tmp_path / "sprung"
    content = {"state_dict": elsewhere.resnet().state_dict(), "args": Hostile(trap)}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"wants to run posix\.system: refused, and nothing was run"):
        tensors_in(tmp_path / "bad.pth")
    assert not trap.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_hostile_pickle_is_refused_by_what_it_names(protocol, tmp_path):
    trap = tmp_path / "sprung"
    code = "import pickle, sys; from test_import import Hostile; path, trap, protocol = sys.argv[1:]; "
    code += "pickle.dump(Hostile(trap), open(path, 'wb'), int(protocol))"
    command = [sys.executable, "-c", code, tmp_path / "bad.pth", trap, str(protocol)]
    subprocess.run(command, cwd=Path(__file__).parent, check=True)
    with pytest.raises(InputError, match=r"wants to run posix\.system: refused, and nothing was run"):
        tensors_in(tmp_path / "bad.pth")
    assert not trap.exists()


def test_a_tensor_that_is_not_finite_is_named(tmp_path):
    tensors = elsewhere.resnet().state_dict()
    tensors["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"tensor `layer1\.0\.conv1\.weight` holds numbers that are not finite"):
        convert(tmp_path / "net.pth", Wish())


@pytest.mark.parametrize("spoil", [lambda t: t[0, 0, 0, 0], lambda t: t.to_sparse(), lambda t: t.to("meta")])
def test_a_tensor_of_another_kind_is_an_error_of_the_file(spoil, tmp_path):
    tensors = elsewhere.resnet().state_dict()
    tensors["conv1.weight"] = spoil(tensors["conv1.weight"])
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(InputError):
        convert(tmp_path / "net.pth", Wish())


def test_a_hostile_pickle_ends_the_command_with_one_message(tmp_path):
    torch.save({"args": Hostile(tmp_path / "sprung")}, tmp_path / "bad.pth")
    for command in ("import", "inspect"):
        done = sslcut(command, "bad.pth", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (3, "") and done.stderr.startswith("error: bad.pth is a pickle that")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pth"]


@pytest.mark.parametrize("name", ["net.pth", "legacy.pth", "net.safetensors"])
def test_half_a_file_is_named_as_such(name, tmp_path):
    tensors = elsewhere.resnet().state_dict()
    if name.endswith("safetensors"):
        save_file(tensors, tmp_path / name)
    else:
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=name == "net.pth")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated"):
        convert(tmp_path / name, Wish())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no file at"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("# not weights"), "not a safetensors file"),
        (lambda path: torch.save({"epoch": 3}, path), "no ResNet or vision transformer"),
        (lambda path: torch.save({"fc.weight": torch.ones(2, 2)}, path), "its tensors: `fc.weight`"),
    ],
)
def test_what_is_no_network_is_exit_3_in_one_message(prepare, message, tmp_path):
    prepare(tmp_path / "file.pth")
    with pytest.raises(InputError, match=message):
        imported(tmp_path / "file.pth")


def broken(tmp_path, case: Case, change, wish: Wish | None = None) -> InputError:
    change(case.content)
    with pytest.raises(InputError) as caught:
        convert(elsewhere.save(case, tmp_path / "file.pth"), wish or Wish())
    return caught.value


def renamed(tensors: dict, old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


def test_a_wrong_architecture_is_told_which_it_looks_like(tmp_path):
    error = broken(tmp_path, elsewhere.swav(), lambda content: None, Wish(arch="resnet50"))
    assert error.exit_code == 3 and "look like `resnet18`, not `resnet50`" in str(error)
    assert "--arch resnet18" in error.faults[0].hint


def test_a_renamed_tensor_is_named_with_the_one_that_is_missing(tmp_path):
    old, new = "module.encoder_q.layer3.1.conv2.weight", "module.encoder_q.layer3.1.convolution2.weight"
    error = broken(tmp_path, elsewhere.moco(64, 32), lambda content: renamed(content["state_dict"], old, new))
    assert f"`state_dict.{new}` belongs to no block" in str(error)
    assert "`encoder_q.layer3.1.conv2.weight`" in error.faults[0].hint


def test_a_missing_tensor_is_named_as_its_file_would(tmp_path):
    network = transformer()
    missing = "blocks.0.mlp.fc1.bias"
    error = broken(tmp_path, Case(network, None), lambda content: content.pop(missing))
    assert f"tensor `{missing}` is missing" in str(error)


def transformer() -> dict[str, torch.Tensor]:
    """A transformer of ours with two blocks under timm's names."""
    from sslcut.model.vit import vit_ti

    names = {"class_token": "cls_token", "conv_proj": "patch_embed.proj", "encoder.pos_embedding": "pos_embed",
             "encoder.layers.encoder_layer_": "blocks.", "encoder.ln": "norm", "ln_": "norm", "in_proj_": "qkv.",
             "self_attention": "attn", "out_proj": "proj", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}  # fmt: skip
    found = {}
    for name, tensor in vit_ti(last_block={}, size=64, depth=2).tensors().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        found[name] = tensor.detach()
    return found


def test_a_tensor_of_another_shape_is_named(tmp_path):
    def widen(content):
        content["module.layer1.0.conv1.weight"] = torch.zeros(128, 64, 3, 3)

    assert "`layer1.0.conv1.weight` has shape (128, 64, 3, 3)" in str(broken(tmp_path, elsewhere.swav(), widen))


def test_a_missing_teacher_is_named_with_what_is_there(tmp_path):
    error = broken(tmp_path, elsewhere.simsiam(), lambda content: None, Wish(branch="teacher"))
    assert "holds no teacher; its networks: `encoder.`" in str(error)


def test_an_architecture_that_sslcut_has_not_is_described(tmp_path):
    import torchvision

    network = torchvision.models.resnet152()
    error = broken(tmp_path, Case(network.state_dict(), None), lambda content: None)
    assert "a ResNet of 3, 8, 36, 3 blocks" in str(error) and "resnet101" in error.faults[0].hint


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["net.pth", "--arch", "resnet81"], 2, "did you mean `resnet18`"),
        (["net.pth", "--branch", "pupil"], 2, "branches: student, teacher"),
        (["net.pth", "--mean", "0.5"], 2, "not three numbers"),
        (["timm:resnet18", "--arch", "resnet18"], 2, "are for files"),
        (["absent.pth"], 3, "no file at absent.pth"),
    ],
)
def test_a_fault_of_the_command_line_needs_no_torch(words, code, message, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"PK")
    command = [sys.executable, "-X", "importtime", "-m", "sslcut", "import", *words]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == code and message in done.stderr
    assert not any(line.rpartition("|")[2].strip() == "torch" for line in done.stderr.splitlines())


def test_inspect_tells_whose_file_it_is_and_what_is_in_it(tmp_path):
    elsewhere.save(elsewhere.dino(), tmp_path / "dino.pth")
    done = sslcut("inspect", "dino.pth", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["dialect"] == "dino" and {each["branch"] for each in told["networks"]} == {"student", "teacher"}
    assert "teacher: resnet18 under `teacher.backbone.`" in done.stderr and "sslcut import dino.pth" in done.stderr


def test_other_commands_say_how_a_foreign_file_is_brought_in(tmp_path):
    weights(tmp_path / "net.pth")
    for command in (["guillotine", "net.pth", "--at", "layer1"], ["probe", "net.pth"]):
        done = sslcut(*command, cwd=tmp_path)
        assert done.returncode == 3 and "`sslcut import net.pth`" in done.stderr
