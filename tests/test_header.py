import json
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sslcut import header
from sslcut.errors import InputError
from sslcut.header import own

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def document(blocks: dict[str, list[str]]) -> dict:
    return {"format": 1, "chain": [{"name": name, "tensors": tensors} for name, tensors in blocks.items()]}


def make(path, tensors, blocks):
    save_file(tensors, path, metadata={"format": "pt", "sslcut": json.dumps(document(blocks))})
    return header.read(path)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=2, max_size=6), dtype=st.sampled_from(DTYPES), data=st.data())
def test_a_cut_file_read_by_the_safetensors_library_holds_the_kept_tensors_bit_for_bit(
    tmp_path_factory, sizes, dtype, data
):
    folder = tmp_path_factory.mktemp("cut")
    tensors = {f"b{i}.w": torch.arange(size).to(dtype) for i, size in enumerate(sizes)}
    source = make(folder / "a.safetensors", tensors, {f"b{i}": [f"b{i}."] for i in range(len(sizes))})
    end = data.draw(st.integers(1, len(sizes)))
    kept = [f"b{i}" for i in range(end)]
    header.write_cut(source, header.plan_cut(source, kept, document({k: [f"{k}."] for k in kept})), folder / "b")
    found = load_file(folder / "b")
    assert set(found) == {f"b{i}.w" for i in range(end)}
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == dtype for name in found)


def test_the_same_cut_gives_the_same_bytes(tmp_path):
    source = make(tmp_path / "a", {"b0.w": torch.rand(5), "b1.w": torch.rand(7)}, {"b0": ["b0."], "b1": ["b1."]})
    for name in ("x", "y"):
        header.write_cut(source, header.plan_cut(source, ["b0"], document({"b0": ["b0."]})), tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert header.read(tmp_path / "x").identity == header.read(tmp_path / "y").identity


def test_a_header_of_ours_is_aligned_and_its_metadata_readable_by_the_library(tmp_path):
    source = make(tmp_path / "a", {"b0.w": torch.rand(3)}, {"b0": ["b0."]})
    header.write_cut(source, header.plan_cut(source, ["b0"], document({"b0": ["b0."]})), tmp_path / "b")
    with safe_open(tmp_path / "b", "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert header.read(tmp_path / "b").data_start % 8 == 0


def test_a_prefix_never_takes_the_tensors_of_a_longer_name():
    owners = own({"blocks.1": ["blocks.1."], "blocks.10": ["blocks.10."]}, ["blocks.1.w", "blocks.10.w"], "f")
    assert owners == {"blocks.1": ["blocks.1.w"], "blocks.10": ["blocks.10.w"]}


@pytest.mark.parametrize(
    ("parts", "named"),
    [({"a": ["a."]}, "no block"), ({"a": ["x.", "y"], "b": ["x.y."]}, "two blocks: a, b")],
)
def test_a_tensor_of_no_block_or_of_two_is_refused_by_name(parts, named):
    with pytest.raises(InputError, match="`x.y.z`.*" + named.split(":")[0]):
        own(parts, ["x.y.z"], "file")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_file_truncated_anywhere_is_refused(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("truncated")
    make(folder / "a", {"b0.w": torch.rand(30)}, {"b0": ["b0."]})
    whole = (folder / "a").read_bytes()
    (folder / "b").write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(InputError, match=r"truncated|damaged"):
        header.read(folder / "b")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04pickled zip file",
        b"not a checkpoint at all, just some text",
        struct.pack("<Q", 10**15) + b"{}",
        struct.pack("<Q", 4) + b"[1]\n",
        struct.pack("<Q", 60) + b'{"w":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}'.ljust(60) + bytes(4),
        struct.pack("<Q", 60) + b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}'.ljust(60) + bytes(4),
    ],
)
def test_a_foreign_file_is_an_input_error(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError):
        header.read(tmp_path / "x")


@pytest.mark.parametrize("first", [*header.PICKLED, b" <", b"\t<", b"<!", b"ve"])
def test_a_header_may_be_so_long_that_its_length_spells_another_formats_beginning(tmp_path, first):
    length = int.from_bytes(first, "little")
    text = json.dumps({"__metadata__": {"sslcut": "{}"}, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})
    (tmp_path / "x").write_bytes(struct.pack("<Q", length) + text.encode().ljust(length) + bytes(1))
    assert list(header.read(tmp_path / "x").entries) == ["w"] == list(load_file(tmp_path / "x"))
    assert not header.is_foreign(tmp_path / "x")


def test_a_foreign_safetensors_file_is_readable_but_has_no_document(tmp_path):
    save_file({"w": torch.rand(2)}, tmp_path / "x")
    with pytest.raises(InputError, match="not a checkpoint of sslcut"):
        header.read(tmp_path / "x").document  # noqa: B018


def test_a_later_format_is_refused(tmp_path):
    save_file({"w": torch.rand(2)}, tmp_path / "x", metadata={"sslcut": json.dumps({"format": 2, "chain": []})})
    with pytest.raises(InputError, match="format 2"):
        header.read(tmp_path / "x").document  # noqa: B018


def test_reading_and_cutting_a_file_imports_no_torch():
    code = (
        "import sys, sslcut.header, sslcut.stages.guillotine, sslcut.stages.inspect; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tensors_full_name_comes_before_anothers_prefix():
    parts = {"pool": ["classifier.0.weight"], "classifier": ["classifier."]}
    owners = own(parts, ["classifier.0.weight", "classifier.weight"], "here")
    assert owners == {"pool": ["classifier.0.weight"], "classifier": ["classifier.weight"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        ("\n<!DOCTYPE html><html>", "a web page"),
        ("not a tensor in sight", "is not a safetensors file"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_what_was_downloaded_in_a_files_place_is_named(tmp_path, text, said, name):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        header.read(tmp_path / name)
