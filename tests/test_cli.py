import json
import resource
import subprocess
import sys

import pytest
import torch
from cli import shell, sslcut, tiny

import sslcut as package
from sslcut import header
from sslcut.atomic import as_fault


def path_in(done: subprocess.CompletedProcess):
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 5),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 5),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), 5),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), 5),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), 5),
        (MemoryError(), 5),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (ValueError("a text on CUDA error: out of memory"), None),
    ],
)
def test_memory_that_runs_out_anywhere_is_the_machines_fault_and_no_bug(error, code):
    fault = as_fault(error)
    assert (fault and fault.exit_code) == code and (fault is None or "train.batch_size" in fault.faults[0].hint)


def test_a_run_leaves_checkpoint_results_and_a_report(tiny_run):
    folder = tiny_run / "runs" / "default"
    for name in ("run.json", "recipe.yaml", "pretrain.safetensors", "probe-pretrain.json", "metrics.jsonl"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "report" / "index.html").exists()
    stages = [step["stage"] for step in json.loads((folder / "run.json").read_text())["stages"]]
    assert stages[:2] == ["pretrain", "probe"]


def test_a_run_done_twice_does_the_work_once(tiny_copy):
    before = (tiny_copy / "runs/default/pretrain.safetensors").stat().st_mtime_ns
    done = sslcut("run", *tiny(), cwd=tiny_copy)
    assert path_in(done).endswith("index.html")
    assert "done already" in done.stderr
    assert (tiny_copy / "runs/default/pretrain.safetensors").stat().st_mtime_ns == before


def test_the_commands_work_on_lines_of_their_own_without_an_argument(tmp_path):
    lines = ["sslcut pretrain", "sslcut probe", "sslcut guillotine --at layer3", "sslcut report"]
    assert path_in(sslcut("pretrain", *tiny(), cwd=tmp_path)) == "runs/default/pretrain.safetensors"
    for line, ending in zip(lines[1:], ("probe-pretrain.json", "cut-layer3.0.safetensors", "index.html"), strict=True):
        done = shell(line, tmp_path)
        assert path_in(done).endswith(ending)
    assert "newest checkpoint" in shell("sslcut probe", tmp_path).stderr


def test_both_pipelines_end_with_the_reports_path(tmp_path):
    best = shell('eval sslcut pretrain "$TINY" | sslcut probe | sslcut guillotine --at best | sslcut report', tmp_path)
    assert path_in(best).endswith("index.html")
    named = shell(
        'eval sslcut pretrain "$TINY" --json | sslcut guillotine --at layer4 --json | sslcut probe | sslcut report',
        tmp_path,
    )
    assert path_in(named).endswith("index.html")
    assert (tmp_path / "runs/default/probe-pretrain-cut-layer4.0.json").exists()


def test_a_failed_first_stage_fails_the_whole_pipe(tiny_copy):
    done = shell("sslcut pretrain nowhere.yaml | sslcut probe", tiny_copy, pipefail=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "the command before wrote no path" in done.stderr


def test_two_cuts_of_one_checkpoint_at_different_layers_both_succeed(tiny_copy):
    checkpoint = "runs/default/pretrain.safetensors"
    cuts = [sslcut("guillotine", checkpoint, "--at", layer, cwd=tiny_copy) for layer in ("layer2", "layer4")]
    names = [header.read(tiny_copy / path_in(cut)).names for cut in cuts]
    assert [each[-1] for each in names] == ["layer2.0", "layer4.0"]
    again = sslcut("guillotine", checkpoint, "--at", "layer2", cwd=tiny_copy)
    assert path_in(again).endswith("cut-layer2.0.safetensors") and "already" in again.stderr


def test_a_cut_network_gives_what_the_whole_one_has_there(tiny_copy):
    cut = path_in(sslcut("guillotine", "--at", "layer3", "--readout", "grid2", cwd=tiny_copy))
    assert cut.endswith("cut-layer3.0-grid2.safetensors")
    whole, short = package.load(tiny_copy / "runs/default/pretrain.safetensors"), package.load(tiny_copy / cut)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(short(images), whole.features(images, [("layer3.0", "grid2")])["layer3.0", "grid2"])
    assert sum(p.numel() for p in short.parameters()) < sum(p.numel() for p in whole.parameters())


def test_where_the_last_block_is_best_nothing_is_cut_and_nothing_fails(tiny_copy):
    cut = path_in(sslcut("guillotine", "--at", "stem", cwd=tiny_copy))
    assert sslcut("probe", cut, cwd=tiny_copy).returncode == 0
    done = sslcut("guillotine", cut, "--at", "best", cwd=tiny_copy)
    assert path_in(done) == cut
    assert "nothing is cut" in done.stderr


def test_json_prints_one_object_whose_first_key_is_the_path(tiny_copy):
    for command in (["inspect"], ["guillotine", "--at", "layer1"], ["report"], ["probe"]):
        found = json.loads(path_in(sslcut(*command, "--json", cwd=tiny_copy)))
        assert next(iter(found)) == "path"


def test_a_dry_run_writes_nothing_and_leaves_stdout_empty(tmp_path):
    done = sslcut("run", *tiny(), "--dry-run", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "parameters" in done.stderr and not (tmp_path / "runs").exists()


def test_a_dry_run_lists_data_that_is_not_here_as_a_warning(tmp_path):
    done = sslcut("pretrain", "imagenet-resnet50-simclr", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: the data is not here" in done.stderr and "parameters" in done.stderr
    assert "memory: 386 MB held" in done.stderr and "30,600 steps" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["guillotine", "--at", "layer9"], 2, "did you mean `layer"),
        (["guillotine", "--at", "projector.1"], 2, "nothing to cut"),
        (["guillotine", "missing.safetensors", "--at", "stem"], 3, "no checkpoint at missing.safetensors"),
        (["guillotine", "--at", "smallest"], 2, "--within"),
        (["pretrain", "--set", "train.epochz=3"], 2, "did you mean `epochs`"),
        (["pretrain", "--set", "train.epochs=many"], 2, "train.epochs"),
        (["pretrain", "--set", "method=simclear"], 2, "did you mean `simclr`"),
        (["pretrain", "--device", "tpu"], 2, "no device `tpu`"),
        (["pretrain", "defualt"], 2, "did you mean `default`"),
        (["pretrain", "--set", "train.epochs=2"], 2, "exists and is another recipe's"),
        (["pretrain", "--data", "nowhere", "-o", "elsewhere"], 3, "nowhere"),
        (["probe", "--set", "probe.layers=[layer7]", "-o", "x.json"], 2, "unknown layer `layer7`"),
        (["probe", "--set", "probe.tasks=[colour]", "-o", "x.json"], 2, "no task `colour`"),
        (["report", "nowhere"], 3, "nowhere"),
        (["recipes", "nothing"], 2, "nothing"),
    ],
)
def test_bad_input_gives_its_exit_code_one_message_and_no_traceback(tiny_copy, arguments, code, said):
    done = sslcut(*arguments, cwd=tiny_copy)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"PK\x03\x04" + bytes(100)], ids=["empty", "foreign", "pickled"])
def test_a_broken_checkpoint_is_exit_3_for_every_command(tiny_copy, content):
    (tiny_copy / "bad.safetensors").write_bytes(content)
    for command in (["inspect"], ["probe"], ["guillotine", "--at", "stem"]):
        done = sslcut(*command, "bad.safetensors", cwd=tiny_copy)
        assert done.returncode == 3 and "bad.safetensors" in done.stderr and "Traceback" not in done.stderr


def test_a_truncated_checkpoint_is_exit_3(tiny_copy):
    whole = (tiny_copy / "runs/default/pretrain.safetensors").read_bytes()
    (tiny_copy / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    done = sslcut("probe", "half.safetensors", cwd=tiny_copy)
    assert done.returncode == 3 and "truncated" in done.stderr


def test_a_flipped_bit_in_a_weight_is_found_and_its_block_named(tiny_copy):
    path = tiny_copy / "runs/default/pretrain.safetensors"
    content = bytearray(path.read_bytes())
    source = header.read(path)
    content[source.data_start + source.entries["layer2.0.conv1.weight"].start] ^= 1
    path.write_bytes(content)
    done = sslcut("probe", path, "--force", cwd=tiny_copy)
    assert done.returncode == 3 and "block `layer2.0`" in done.stderr


def test_a_closed_stdout_and_a_closed_pipe_end_with_0(tiny_copy):
    assert shell("sslcut inspect >&-", tiny_copy).returncode == 0
    assert shell("sslcut recipes default | true; exit ${PIPESTATUS[0]}", tiny_copy, pipefail=False).returncode == 0


def test_a_pipe_that_brings_nothing_is_exit_3(tiny_copy):
    assert shell("true | sslcut guillotine --at layer1", tiny_copy).returncode == 3
    assert shell("true | sslcut report", tiny_copy).returncode == 3


def test_an_empty_stdin_that_is_no_pipe_is_not_read(tiny_copy):
    done = sslcut("guillotine", "--at", "layer1", cwd=tiny_copy, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def test_a_recipe_with_a_sweep_is_refused_by_a_single_stage(tmp_path):
    (tmp_path / "s.yaml").write_text("extends: default\nname: s\nsweep: {seed: [0, 1]}\n")
    done = sslcut("pretrain", "s.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "sslcut run" in done.stderr


@pytest.mark.parametrize("command", ["pretrain", "guillotine", "probe", "report", "run", "inspect", "recipes", "bench"])
def test_every_command_has_help_with_an_example_for_every_option(tmp_path, command):
    done = sslcut(command, "--help", cwd=tmp_path)
    assert done.returncode == 0 and "Example: sslcut " in done.stdout
    options = done.stdout.split("Options:")[1].splitlines()
    assert all(len(line.split("  ")) > 2 for line in options if line.strip().startswith("--"))


def test_the_tested_wheel_and_the_module_are_the_same_program(tmp_path):
    done = subprocess.run([sys.executable, "-m", "sslcut", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == package.__version__


def test_smallest_within_cuts_at_the_earliest_layer_that_is_good_enough(tiny_copy):
    wide = path_in(sslcut("guillotine", "--at", "smallest", "--within", "1000", cwd=tiny_copy))
    assert wide.endswith("pretrain-cut-stem.safetensors")
    narrow = sslcut("guillotine", "--at", "smallest", "--within", "0", "--task", "shape", "--json", cwd=tiny_copy)
    assert json.loads(path_in(narrow))["layer"] in header.read(tiny_copy / "runs/default/pretrain.safetensors").names


def test_results_of_another_checkpoint_are_refused(tiny_copy):
    cut = path_in(sslcut("guillotine", "--at", "layer1", cwd=tiny_copy))
    done = sslcut("guillotine", cut, "--at", "best", cwd=tiny_copy)
    assert done.returncode == 3 and "no results" in done.stderr


@pytest.mark.parametrize("command", [["pretrain"], ["probe"], ["guillotine", "--at", "layer4"], ["report"]])
def test_a_file_system_that_refuses_is_exit_5_and_what_was_there_is_still_there(tiny_copy, command):
    before = {path: path.read_bytes() for path in tiny_copy.rglob("*") if path.is_file()}
    options = [*tiny("name=other"), "-o", "other"] if command == ["pretrain"] else []
    forced = ["--force"] if command == ["probe"] else []

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    done = sslcut(*command, *options, *forced, cwd=tiny_copy, preexec_fn=little_room)
    assert done.returncode == 5 and done.stdout == "" and "Traceback" not in done.stderr
    assert all(path.read_bytes() == content for path, content in before.items() if path.name != ".lock")
    assert not [path for path in tiny_copy.rglob("*.part")]
