import hashlib
import json

import pytest
import torch
from cli import sslcut, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.models import resnet50

from sslcut import checkpoint, header
from sslcut.errors import InputError
from sslcut.inputs import Given
from sslcut.model.build import build
from sslcut.stages import guillotine

SMALL = {"backbone": {"name": "resnet10", "width": 4, "stem": "small"}, "projector": {"widths": [8, 4]}}
INPUT = {"size": 16, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}


def document(model: dict, size: int = 16) -> dict:
    about = {"model": model, "readout": "vector", "input": {**INPUT, "size": size}}
    return {**about, "recipe": {"name": "r"}, "history": [], "metrics": {}}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    chain = build(SMALL).eval()
    checkpoint.save(tmp_path / "a.safetensors", chain, document(SMALL))
    return tmp_path / "a.safetensors", chain


def test_what_is_saved_is_loaded_to_the_bit(saved):
    path, chain = saved
    found = checkpoint.load(path).chain.tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in chain.tensors().items())


def test_the_safetensors_library_reads_the_same_tensors_and_the_formats_mark(saved):
    path, chain = saved
    assert {n: t.shape for n, t in load_file(path).items()} == {n: t.shape for n, t in chain.tensors().items()}
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_the_same_network_gives_the_same_bytes(saved, tmp_path):
    path, chain = saved
    checkpoint.save(tmp_path / "b.safetensors", chain, document(SMALL))
    assert (tmp_path / "b.safetensors").read_bytes() == path.read_bytes()


def test_a_block_is_hashed_as_documented(saved):
    path, _ = saved
    tensors = load_file(path)
    for block in header.read(path).document["chain"]:
        digest = hashlib.sha256()
        for name in sorted(n for n in tensors if any(n == p or n.startswith(p) for p in block["tensors"])):
            dtype = {torch.float32: "F32", torch.int64: "I64"}[tensors[name].dtype]
            told = json.dumps([name, dtype, list(tensors[name].shape)], separators=(",", ":"))
            digest.update(told.encode() + b"\n" + tensors[name].numpy().tobytes())
        assert digest.hexdigest() == block["sha256"]


@pytest.mark.parametrize("change", ["missing", "surplus", "mis-shaped"])
def test_a_tensor_that_does_not_fit_is_named(saved, change):
    path, _ = saved
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), load_file(path)
    name = "layer2.0.conv1.weight"
    if change == "missing":
        del tensors[name]
    elif change == "surplus":
        name = "layer2.0.extra"
        tensors[name] = torch.zeros(2)
    else:
        tensors[name] = tensors[name][:1].contiguous()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(InputError, match=r"layer2\.0"):
        checkpoint.load(path)


@settings(max_examples=10, deadline=None)
@given(name=st.sampled_from(["stem", "layer1.0", "layer4", "pool", "projector.0", "-1"]), seed=st.integers(0, 999))
def test_a_cut_file_calls_to_the_vector_that_the_whole_one_had_there(tmp_path_factory, name, seed):
    folder = tmp_path_factory.mktemp("cut")
    torch.manual_seed(seed)
    checkpoint.save(folder / "a.safetensors", build(SMALL), document(SMALL))
    *_, result = guillotine.run(Given(folder / "a.safetensors"), guillotine.Options(at=name))
    whole, short = checkpoint.load(folder / "a.safetensors"), checkpoint.load(result.text)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    tap = (short.names[-1], short.readout)
    with torch.inference_mode():
        assert torch.equal(short(images), whole.features(images, [tap])[tap])
        assert torch.equal(short.map(images), whole.chain.run(whole.normalised(images), upto=tap[0]))


def test_a_cut_resnet50_loads_into_torchvisions_and_gives_its_features(tmp_path):
    model = {"backbone": {"name": "resnet50", "width": 64, "stem": "imagenet"}, "projector": {"widths": [8]}}
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "a.safetensors", build(model), document(model, 64))
    *_, result = guillotine.run(Given(tmp_path / "a.safetensors"), guillotine.Options(at="pool"))
    stock = resnet50()
    stock.fc = torch.nn.Identity()
    stock.load_state_dict(load_file(result.text))
    net = checkpoint.load(result.text)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(net(images), stock.eval()(net.normalised(images)), atol=1e-5)


def test_images_as_bytes_and_as_fractions_give_the_same_vector(saved):
    net = checkpoint.load(saved[0])
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(net(images), net(images / 255), atol=1e-5)


def test_a_states_previous_one_is_kept_and_read_where_the_last_is_damaged(tmp_path):
    for step in (1, 2):
        checkpoint.save_state(tmp_path, {"w": torch.full((2,), float(step))}, {"step": step})
    assert checkpoint.load_state(tmp_path)[1]["step"] == 2
    (tmp_path / "last.safetensors").write_bytes(b"torn")
    tensors, found = checkpoint.load_state(tmp_path)
    assert found["step"] == 1 and tensors["w"].tolist() == [1, 1]


def test_the_same_recipe_and_seed_give_the_same_file_twice_and_another_seed_another(tmp_path):
    files = []
    for folder, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        done = sslcut("pretrain", *tiny(), "--seed", seed, "-o", folder, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        files.append((tmp_path / folder / "pretrain.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]
