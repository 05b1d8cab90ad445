"""Ending a training at any moment loses little, and the same command goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli import sslcut, surroundings, tiny

LONG = tiny("train.epochs=12", "train.batch_size=32", "train.state_every=0.3", "data.train=1200", "data.test=50")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> bytes:
    """The checkpoint of a training that nobody disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    done = sslcut("pretrain", *LONG, "--threads", "1", "-o", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "run/pretrain.safetensors").read_bytes()


def started(folder: Path) -> subprocess.Popen:
    """A training in the background that has written a state and an epoch's line."""
    command = [sys.executable, "-m", "sslcut", "pretrain", *LONG, "--threads", "1", "-o", "run"]
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=surroundings(folder)
    )
    until = time.monotonic() + 60
    while not all((folder / "run" / name).exists() for name in ("state/last.safetensors", "metrics.jsonl")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("sent", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
def test_an_ended_training_goes_on_to_the_same_bits(tmp_path, uninterrupted, sent, code):
    process = started(tmp_path)
    os.kill(process.pid, sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in said
    assert not (tmp_path / "run/pretrain.safetensors").exists()
    done = sslcut("pretrain", *LONG, "--threads", "1", "-o", "run", cwd=tmp_path)
    assert done.returncode == 0 and "resuming in epoch" in done.stderr
    assert (tmp_path / "run/pretrain.safetensors").read_bytes() == uninterrupted
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 12
    assert not list((tmp_path / "run/state").iterdir())


def test_a_second_process_is_refused_while_the_first_one_trains(tmp_path):
    process = started(tmp_path)
    try:
        done = sslcut("pretrain", *LONG, "-o", "run", cwd=tmp_path)
        assert done.returncode == 2 and f"in use by pid {process.pid}" in done.stderr
    finally:
        process.kill()
        process.communicate()


def test_another_recipe_does_not_drop_an_interrupted_training(tmp_path):
    process = started(tmp_path)
    process.kill()
    process.communicate()
    done = sslcut("pretrain", *LONG, "--seed", "9", "-o", "run", cwd=tmp_path)
    assert done.returncode == 2 and "interrupted training of another recipe" in done.stderr
    assert (tmp_path / "run/state/last.safetensors").exists()
