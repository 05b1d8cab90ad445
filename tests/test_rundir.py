import json
import subprocess
import sys

import pytest

from sslcut.errors import InputError, MachineError, UsageError
from sslcut.rundir import RunDir, Step

HOLD = """
import sys, time
from pathlib import Path
from sslcut.rundir import RunDir
with RunDir(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def step(stage: str, output: str, key: str = "k") -> Step:
    return Step(stage, output, identity=f"id-{output}", hash=key)


def test_the_newest_step_is_the_one_entered_last_and_a_kept_step_moves_to_the_end(tmp_path):
    run = RunDir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).write_text("x")
        run.record(step("pretrain", name))
    assert run.newest().name == "b"
    run.record(step("pretrain", "a"))
    assert [s.output for s in run.steps()] == ["b", "a"]
    assert run.newest().name == "a"


def test_a_step_whose_file_is_gone_is_not_found(tmp_path):
    run = RunDir(tmp_path)
    run.record(step("pretrain", "gone"))
    assert run.find("pretrain", "k") is None
    with pytest.raises(InputError, match="no checkpoint"):
        run.newest()


def test_a_second_process_is_refused_with_the_firsts_pid_and_a_dead_ones_lock_is_taken_over(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"in use by pid {holder.pid} on "), RunDir(tmp_path).lock():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with RunDir(tmp_path).lock():
        assert str(holder.pid) not in (tmp_path / ".lock").read_text()


def test_the_holder_may_take_its_own_lock_again(tmp_path):
    run = RunDir(tmp_path)
    with run.lock(), run.lock():
        run.remember(threads=2)
    assert run.document()["threads"] == 2


def test_a_damaged_run_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"stages": [{"stage": 1}]})[:-2])
    with pytest.raises(InputError, match="run.json"):
        RunDir(tmp_path).steps()


def test_a_run_directory_below_a_file_is_a_machine_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="file, not a folder"), RunDir(tmp_path / "file" / "run").lock():
        pass
