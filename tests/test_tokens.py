"""Read-outs of tokens: with or without the network's final norm, measured, cut, and loaded again."""

import json
from pathlib import Path

import pytest
import torch
from cli import sslcut, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sslcut import checkpoint, header
from sslcut.errors import InputError, UsageError
from sslcut.inputs import Given
from sslcut.metrics.extract import Taps, taps
from sslcut.model.build import build
from sslcut.model.chain import Block, Chain
from sslcut.model.network import Network
from sslcut.model.readout import read
from sslcut.stages import guillotine

VIT = {"backbone": {"name": "vit_ti", "patch": 8, "size": 16, "depth": 3}}
INPUT = {"size": 16, "channels": "RGB", "range": [0, 1], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
READOUTS = ["cls", "mean", "cls+mean", "cls-normed", "mean-normed", "cls+mean-normed"]
IMAGES = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Tokens(Block):
    """Images (B, 3, H, W) as tokens (B, H·W, 3): a pixel each."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(2).transpose(1, 2)


class Norm(nn.LayerNorm):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.width = width


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A transformer in a file, with every tensor drawn, so that its norm is no plain one."""
    torch.manual_seed(0)
    chain = build(VIT)
    for tensor in chain.tensors().values():
        tensor.data.add_(torch.randn(tensor.shape) / 5)
    path = tmp_path_factory.mktemp("vit") / "pretrain.safetensors"
    document = {"model": VIT, "readout": "vector", "input": INPUT, "recipe": {}, "history": [], "metrics": {}}
    checkpoint.save(path, chain, document)
    return path


def scored(path: Path, *wanted: tuple[str, str]) -> dict[tuple[str, str], torch.Tensor]:
    """The vectors that a probe scores."""
    return Taps(checkpoint.load(path), wanted, torch.device("cpu"))(IMAGES)


def cut(path: Path, target: Path, **options: object) -> Path:
    *_, result = guillotine.run(Given(path), guillotine.Options(out=target, force=True, **options))
    return Path(result.text)


def called(path: Path) -> torch.Tensor:
    with torch.inference_mode():
        return checkpoint.load(path)(IMAGES)


@settings(deadline=None, max_examples=12)
@given(layer=st.sampled_from(["stem", "blocks.0", "blocks.2"]), readout=st.sampled_from(READOUTS))
def test_a_cut_transformer_calls_to_the_vector_that_was_scored(whole, tmp_path_factory, layer, readout):
    target = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    norm = readout.endswith("-normed")
    short = cut(whole, target, at=layer, readout=readout, keep_norm=norm)
    expected = scored(whole, (layer, readout))[layer, readout]
    assert torch.allclose(called(short), expected, atol=1e-5)
    assert header.read(short).names[-1] == ("norm" if norm else layer)


def test_a_normed_read_out_is_the_bare_one_of_the_normalised_tokens(whole):
    net = checkpoint.load(whole)
    with torch.inference_mode():
        tokens = net.chain.run(net.normalised(IMAGES), upto="blocks.0")
        own = nn.functional.layer_norm(
            tokens, (192,), net.chain.block("norm").weight, net.chain.block("norm").bias, 1e-6
        )
    found = scored(whole, ("blocks.0", "cls+mean-normed"), ("blocks.0", "cls"))
    assert torch.allclose(
        found["blocks.0", "cls+mean-normed"], torch.cat([own[:, 0], own[:, 1:].mean(1)], 1), atol=1e-5
    )
    assert torch.allclose(found["blocks.0", "cls"], tokens[:, 0], atol=1e-5)


def test_the_last_blocks_normed_class_token_is_what_the_network_ends_with(whole):
    found = scored(whole, ("blocks.2", "cls-normed"), ("pool", "vector"))
    assert torch.allclose(found["blocks.2", "cls-normed"], found["pool", "vector"], atol=1e-5)


def test_registers_are_never_averaged():
    chain = Chain([("tokens", "", Tokens(3)), ("norm", "norm.", Norm(3))], prefix_tokens=5).eval()
    images = torch.rand(2, 3, 4, 4)
    images[:, :, 0] = 1e6  # the class token and three registers
    images[:, :, 1, 0] = -1e6  # the fourth
    network = Network(chain, "cls", checkpoint.Input(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    found = network.features(images, [("tokens", "mean"), ("tokens", "cls+mean"), ("tokens", "mean-normed")])
    patches = images.flatten(2)[:, :, 5:]
    assert torch.allclose(found["tokens", "mean"], patches.mean(2))
    assert torch.allclose(found["tokens", "cls+mean"][:, 3:], patches.mean(2))
    normalised = nn.functional.layer_norm(patches.transpose(1, 2), (3,))
    assert torch.allclose(found["tokens", "mean-normed"], normalised.mean(1), atol=1e-5)


def test_half_precision_tokens_are_normed_and_averaged_as_float32_ones():
    norm, x = Norm(8).eval(), torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(read(x.bfloat16(), "mean-normed", 1, norm), read(x, "mean-normed", 1, norm), atol=1e-2)
        assert read(x.bfloat16(), "cls-normed", 1, norm).dtype == torch.float32


def test_a_probe_takes_normed_read_outs_where_a_norm_of_the_width_is_behind(whole):
    network = checkpoint.load(whole)
    asked = ["mean", "cls-normed"]
    assert taps(network, ["blocks.1", "norm", "pool"], asked) == [
        ("blocks.1", "mean"), ("blocks.1", "cls-normed"), ("norm", "mean"), ("pool", "vector"),
    ]  # fmt: skip
    narrow = Chain([("tokens", "", Tokens(3)), ("norm", "", Norm(4))], prefix_tokens=1)
    assert narrow.norm_behind("tokens") is None


def test_tokens_with_none_before_the_patches_are_read_by_their_mean():
    network = Network(Chain([("tokens", "", Tokens(3))]), "mean", checkpoint.Input(4, (0.0,) * 3, (1.0,) * 3))
    assert taps(network, ["tokens"], ["avg", "cls"]) == [("tokens", "mean")]


def test_a_cut_of_tokens_without_a_class_token_reads_their_mean(tmp_path):
    chain = Chain([("tokens", "", Tokens(3)), ("mixed", "mixed.", Norm(3)), ("norm", "norm.", Norm(3))])
    document = {"model": {}, "readout": "mean", "input": {**INPUT, "size": 4}, "history": []}
    checkpoint.save(tmp_path / "a.safetensors", chain, document)
    plain = cut(tmp_path / "a.safetensors", tmp_path / "b.safetensors", at="tokens")
    normed = cut(tmp_path / "a.safetensors", tmp_path / "c.safetensors", at="tokens", keep_norm=True)
    assert [header.read(path).document["readout"] for path in (plain, normed)] == ["mean", "mean"]
    with pytest.raises(UsageError, match="`cls` does not fit"):
        list(guillotine.run(Given(plain), guillotine.Options(at="tokens", readout="cls")))


def test_a_study_that_keeps_a_norm_that_is_not_there_ends_before_it_trains(tmp_path):
    done = sslcut("run", *tiny("guillotine={at: layer4, keep_norm: true}"), cwd=tmp_path)
    assert done.returncode == 2 and "no `norm` that fits stands behind `layer4.0`" in done.stderr
    assert "epoch" not in done.stderr


def test_keeping_the_norm_makes_the_asked_read_out_a_normed_one(whole, tmp_path):
    short = cut(whole, tmp_path / "a.safetensors", at="blocks.1", keep_norm=True)
    asked = cut(whole, tmp_path / "b.safetensors", at="blocks.1", keep_norm=True, readout="cls-normed")
    assert header.read(short).names == ["stem", "blocks.0", "blocks.1", "norm"]
    assert header.read(short).document["readout"] == "cls" and short.read_bytes() == asked.read_bytes()
    again = cut(short, tmp_path / "c.safetensors", at="blocks.0", keep_norm=True, readout="mean")
    assert torch.allclose(
        called(again), scored(whole, ("blocks.0", "mean-normed"))["blocks.0", "mean-normed"], atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "what", "hint"),
    [
        ({"at": "blocks.1", "readout": "cls-normed"}, "needs the network's final norm", "--keep-norm"),
        ({"at": "pool", "keep_norm": True}, "no `norm` that fits stands behind `pool`", "--keep-norm"),
        ({"at": "norm", "readout": "mean-normed"}, "with no `norm` of their width behind them", "cls, mean"),
        ({"at": "blocks.1", "readout": "avg", "keep_norm": True}, "`avg-normed` does not fit", "mean-normed"),
    ],
)
def test_a_norm_that_is_dropped_or_not_there_is_refused(whole, options, what, hint):
    with pytest.raises(UsageError, match=what) as caught:
        list(guillotine.run(Given(whole), guillotine.Options(**options)))
    assert hint in caught.value.faults[0].hint


def test_a_file_whose_blocks_are_in_another_order_is_no_network(whole, tmp_path):
    source = header.read(whole)
    document = {**source.document, "chain": source.document["chain"][::-1]}
    planned = header.plan_cut(source, source.names, document)
    header.write_cut(source, planned, tmp_path / "turned.safetensors")
    with pytest.raises(InputError, match="has no place in"):
        checkpoint.load(tmp_path / "turned.safetensors")


def test_the_best_places_norm_is_kept_by_itself_on_the_command_line(tmp_path):
    own = ["model.backbone={name: vit_ti, patch: 8, size: 16, depth: 2}", "train.epochs=0"]
    own += ["probe.layers=[blocks.0]", "probe.readouts=[cls-normed]", "probe.tasks=[background]", "probe.measures=[]"]
    done = sslcut("pretrain", *tiny(*own), "-o", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measured = sslcut("probe", "run", cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    results = json.loads((tmp_path / measured.stdout.strip()).read_text())
    assert {(row["layer"], row["readout"]) for row in results["results"]} == {
        ("blocks.0", "cls-normed"),
        ("pool", "vector"),
    }
    results["recommended"] |= {"layer": "blocks.0", "readout": "cls-normed"}
    (tmp_path / "run" / "probe-other.json").write_text(json.dumps(results))
    short = sslcut("guillotine", "run/probe-other.json", cwd=tmp_path)
    assert short.returncode == 0, short.stderr
    assert short.stdout.strip().endswith("pretrain-cut-blocks.0-cls-normed.safetensors")
    assert header.read(tmp_path / short.stdout.strip()).names == ["stem", "blocks.0", "norm"]
