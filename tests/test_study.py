"""A sweep's cells: what they share, how they fail, how they go on, one after the other and side by side."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli import surroundings, tiny

from sslcut import inputs, study
from sslcut.errors import DivergedError, InputError, MachineError, SslcutError
from sslcut.events import Aside, Event, Note, Plan, Result, Row, Stage, Warn
from sslcut.options import Options
from sslcut.recipe import load
from sslcut.render import gather
from sslcut.rows import Table
from sslcut.rundir import RunDir
from sslcut.screen import Screen
from sslcut.stages import guillotine, pretrain, probe, report
from sslcut.study import abreast, wire
from sslcut.study.sharing import arrange
from sslcut.sweep import cells
from sslcut.training import prepared
from sslcut.training.world import Precision

FAST = tiny("data.train=64", "data.test=40", "train.batch_size=32", "probe.layers=[layer4, pool]")
PROBES = "{seed: [0, 1], probe.probes: [[knn], [linear]]}"


def swept(sweep: str, *sets: str):
    """A recipe whose cells take a moment each: networks are not trained, unless `sets` or the sweep say so."""
    epochs = [] if "train.epochs" in sweep else ["train.epochs=0"]
    chosen = [each for each in FAST[1::2] if not each.startswith("train.epochs")]
    return load(None, [*chosen, *epochs, f"sweep={sweep}", *sets])


def ran(recipe, folder: Path, **options) -> list[Event]:
    """The events of a sweep that is run in this process."""
    return list(study.run(recipe, Options(**{"out": folder, "threads": 1, **options})))


def stages(folder: Path) -> list[tuple[str, str]]:
    return [(step.stage, step.output) for step in RunDir(folder).steps()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A sweep of two seeds, each probed in two ways; read it, never write into it."""
    folder = tmp_path_factory.mktemp("shared") / "all"
    *_, result = ran(swept(PROBES), folder)
    assert result == Result(str(folder / "report/index.html"), result.numbers)
    return folder


@pytest.fixture
def copied(shared, tmp_path) -> Path:
    return Path(shutil.copytree(shared, tmp_path / "all"))


# ---- one after the other


def test_cells_that_differ_in_the_probe_train_once_and_enter_it_by_its_relative_path(shared):
    files = sorted(str(path.relative_to(shared)) for path in shared.rglob("pretrain.safetensors"))
    assert files == [f"seed={seed},probes=knn/pretrain.safetensors" for seed in (0, 1)]
    for seed in (0, 1):
        first, second = (stages(shared / f"seed={seed},probes={name}") for name in ("knn", "linear"))
        assert first[:2] == [("pretrain", "pretrain.safetensors"), ("probe", "probe-pretrain.json")]
        assert second[0] == ("pretrain", f"../seed={seed},probes=knn/pretrain.safetensors")
        assert second[1] == ("probe", "probe-pretrain.json")


def test_the_report_of_a_sweep_keeps_every_way_in_which_a_checkpoint_was_probed(shared):
    found = gather.find([shared], report.identities)
    names = [f"seed={seed},probes={name}" for seed in (0, 1) for name in ("knn", "linear")]
    assert gather.checkpoint_labels(found) == names
    assert {row.probe for row in found[0].document.results} == {"knn"}
    assert gather.trained_in(shared / names[1]) == shared / names[0]
    assert not list(shared.glob("*/report")) and (shared / "report/index.html").exists()


def test_a_sweeps_directory_is_no_run_and_says_which_are(shared):
    with pytest.raises(InputError) as refused:
        RunDir(shared).newest()
    assert str(shared / "seed=0,probes=knn") in refused.value.faults[0].hint


def test_a_sweep_that_is_done_is_not_done_again(copied):
    made = {path: path.stat().st_mtime_ns for path in copied.glob("*/p*")}
    events = ran(swept(PROBES), copied)
    assert made == {path: path.stat().st_mtime_ns for path in copied.glob("*/p*")}
    assert sum("is done already" in event.text for event in events) == 8


def test_everything_made_of_a_shared_checkpoint_goes_into_the_cells_own_directory(copied):
    cell = copied / "seed=0,probes=linear"
    given = inputs.find_checkpoint(str(cell), Path("none"), inputs.UNCUT)
    assert given.checkpoint == copied / "seed=0,probes=knn/pretrain.safetensors" and given.folder == cell
    *_, cut = guillotine.run(given, guillotine.Options(at="layer4"))
    assert Path(cut.text).parent == cell
    of_results = inputs.find_checkpoint(str(cell / "probe-pretrain.json"), Path("none"))
    assert (of_results.checkpoint, of_results.folder) == (given.checkpoint, cell)
    recipe = swept("null", "probe.probes=[knn]")
    *_, results = probe.run(given, recipe, Options(out=None, force=True))
    assert Path(results.text) == cell / "probe-pretrain.json"


def test_a_shared_network_that_has_been_replaced_is_not_taken_for_the_cells_own(copied):
    one, other = copied / "seed=0,probes=knn", copied / "seed=0,probes=linear"
    list(pretrain.run(swept("null", "seed=5"), Options(out=one, force=True)))
    recipe = swept("null", "seed=0", "probe.probes=[linear]")
    assert pretrain.done_already(RunDir(other), pretrain.key_of(recipe)) is None
    *_, result = pretrain.run(recipe, Options(out=other))
    assert Path(result.text) == other / "pretrain.safetensors"


def test_a_step_of_a_cell_that_the_sweep_no_longer_has_is_shared_too(copied):
    recipe = swept("{seed: [0], probe.fractions: [[0.5]]}")
    ran(recipe, copied)
    assert stages(copied / "seed=0,fractions=0.5")[0] == ("pretrain", "../seed=0,probes=knn/pretrain.safetensors")


def test_cells_that_differ_in_the_cut_alone_share_their_probe_and_each_can_be_told_alone(tmp_path):
    ran(swept("{guillotine.at: [layer3, layer4]}"), tmp_path)
    second = tmp_path / "at=layer4"
    assert stages(second)[1] == ("probe", "../at=layer3/probe-pretrain.json")
    assert (second / "pretrain-cut-layer4.0.safetensors").exists()
    assert [one.path.parent.name for one in gather.find([second], report.identities)] == ["at=layer3"]
    given = inputs.find_checkpoint(str(second), Path("none"), inputs.UNCUT)
    *_, best = guillotine.run(given, guillotine.Options(at="best"))
    assert best.text


def test_force_trains_a_shared_network_again_and_only_once(copied):
    names = ("knn", "linear")
    before = [(copied / f"seed=0,probes={name}/probe-pretrain.json").stat().st_mtime_ns for name in names]
    trained = (copied / "seed=0,probes=knn/pretrain.safetensors").stat().st_mtime_ns
    ran(swept(PROBES), copied, force=True)
    assert (copied / "seed=0,probes=knn/pretrain.safetensors").stat().st_mtime_ns > trained
    assert not (copied / "seed=0,probes=linear/pretrain.safetensors").exists()
    after = [(copied / f"seed=0,probes={name}/probe-pretrain.json").stat().st_mtime_ns for name in names]
    assert all(new > old for new, old in zip(after, before, strict=True))


def test_the_cell_that_has_begun_a_training_leads_the_others(tmp_path):
    begun = tmp_path / "seed=0,probes=linear" / "state"
    begun.mkdir(parents=True)
    (begun / "last.safetensors").touch()
    works = arrange(cells(swept(PROBES)), RunDir(tmp_path), pretrain.key_of)
    assert [work.number for work in works] == [2, 3, 1, 4]
    assert [next(iter(work.leaders.values())).number for work in works[2:]] == [2, 3]


def test_cells_whose_shared_training_fails_fail_with_its_code_and_the_others_go_on(tmp_path):
    sweep = "{method: [{name: supervised, task: shapes}, {name: supervised}], probe.probes: [[knn], [linear]]}"
    told: list[Event] = []
    with pytest.raises(InputError, match="shapes"):
        for event in study.run(swept(sweep), Options(out=tmp_path)):
            told.append(event)
    warned = [event.text for event in told if isinstance(event, Warn) and " failed: " in event.text]
    assert len(warned) == 2 and "it shares the training of method=supervised-taskshapes" in warned[1]
    assert (tmp_path / "report/index.html").exists()


def test_a_bug_in_a_cell_is_a_failed_cell(tmp_path, monkeypatch):
    whole = pretrain.run

    def broken(recipe, options):
        if recipe.seed == 0:
            raise ZeroDivisionError("by design")
        return whole(recipe, options)

    monkeypatch.setattr(pretrain, "run", broken)
    with pytest.raises(ZeroDivisionError):
        ran(swept("{seed: [0, 1]}"), tmp_path)
    assert (tmp_path / "seed=1/probe-pretrain.json").exists()


def test_the_precision_is_decided_once_for_trainings_that_differ_in_numbers_alone(tmp_path, monkeypatch):
    asked = []

    def measured(task, device, measure):
        asked.append(task)
        return Precision("float32", True, {"float32": 1.0 + len(asked)})

    monkeypatch.setattr(prepared, "remembered", measured)
    sweep = "{method.temperature: [0.1, 0.2], views.strength: [0.5, 1.0]}"
    stated = ("train.precision=auto", "stages=[pretrain]")
    *_, result = ran(swept(sweep, *stated), tmp_path)
    found = [RunDir(path.parent).document()["precision"] for path in tmp_path.glob("*/run.json")]
    assert len(asked) == 1 and found == [found[0]] * 4 and result.text == str(tmp_path)
    ran(swept("{views.strength: [2.0]}", *stated), tmp_path)
    ran(swept("{model.last_block.width: [8]}", *stated), tmp_path)
    assert len(asked) == 1
    ran(swept("{model.backbone.name: [resnet18]}", *stated), tmp_path)
    assert len(asked) == 2


@pytest.mark.parametrize("order", ["unrolled, joint", "joint, unrolled"])
def test_one_cell_with_second_derivatives_makes_the_whole_sweep_float32(tmp_path, monkeypatch, order):
    monkeypatch.setattr(prepared, "remembered", lambda *_: pytest.fail("nothing is to be measured"))
    ran(swept(f"{{head.update: [{order}]}}", "train.precision=auto", "stages=[pretrain]"), tmp_path)
    found = [RunDir(path.parent).document()["precision"]["name"] for path in tmp_path.glob("*/run.json")]
    assert found == ["float32"] * 2


def test_a_cell_that_cannot_be_read_where_it_asks_fails_alone(tmp_path):
    with pytest.raises(SslcutError, match="layer9"):
        ran(swept("{guillotine.at: [layer9, layer3, layer4]}", "stages=[pretrain, guillotine]"), tmp_path)
    assert len(list(tmp_path.glob("*/pretrain-cut-*.safetensors"))) == 2


def test_the_report_is_on_the_cells_of_this_sweep_alone(tmp_path):
    ran(swept("{seed: [0, 1]}", "train.epochs=0"), tmp_path)
    *_, result = ran(swept("{method.temperature: [0.5]}", "train.epochs=0"), tmp_path)
    assert len(result.numbers["results"]) == 1
    *told, again = report.run([tmp_path])
    assert again.numbers["results"] == result.numbers["results"]
    assert any("left out" in event.line() and "seed=0" in event.line() for event in told)
    *_, every = report.run([*tmp_path.glob("*=*")], tmp_path / "every")
    assert len(every.numbers["results"]) == 3


def test_a_report_on_a_sweeps_directory_knows_what_was_planned(tmp_path):
    claims = "[{says: it grows, value: {task: shape, layer: pool}, "
    claims += "where: {method.temperature: 0.5}, against: {method.temperature: 0.2}}]"
    recipe = swept("{method.temperature: [0.2, 0.5], seed: [0, 1]}", "train.epochs=0", f"study={{claims: {claims}}}")
    ran(recipe, tmp_path)
    for lost in tmp_path.glob("*temperature=0.5*"):
        shutil.rmtree(lost)
    *_, result = report.run([tmp_path])
    page = (tmp_path / "report/report.md").read_text()
    assert len(result.numbers["results"]) == 2 and "Planned, and without any result: `temperature 0.5`" in page
    assert "Of 1 claim, 1 was not measured." in page


def test_a_sweep_in_a_directory_with_a_run_of_its_own_reports_on_its_cells(tmp_path):
    list(study.run(load(None, FAST[1::2]), Options(out=tmp_path, threads=1)))
    assert len(list(tmp_path.glob("probe-*.json"))) == 1
    *_, result = ran(swept("{seed: [0, 1]}", "train.epochs=0"), tmp_path)
    assert len(result.numbers["results"]) == 2


def test_a_study_does_not_judge_what_is_named_beside_its_sweep(tmp_path):
    claims = "[{says: it falls, value: {task: shape, layer: pool}, less: {layer: layer4}}]"
    ran(swept("{seed: [0, 1]}", "train.epochs=0", f"study={{claims: {claims}}}"), tmp_path / "a")
    ran(swept("{seed: [2, 3]}", "train.epochs=0"), tmp_path / "b")
    *_, alone = report.run([tmp_path / "a"], tmp_path / "alone")
    *_, both = report.run([tmp_path / "a", *(tmp_path / "b").glob("seed=*")], tmp_path / "both")
    assert "claims" in alone.numbers and len(both.numbers["results"]) == 4 and "claims" not in both.numbers


def test_a_lost_folder_that_others_share_takes_no_report_with_it(tmp_path):
    ran(swept("{seed: [0, 1], guillotine.at: [layer3, layer4]}", "train.epochs=0", "probe.layers=all"), tmp_path)
    leader = next(path.parent for path in sorted(tmp_path.glob("*/probe-*.json")))
    shutil.rmtree(leader)
    *told, result = report.run([tmp_path])
    assert len(result.numbers["results"]) == 1
    assert any("2 of 4 cells without a result" in event.line() for event in told)


def test_a_sweep_without_results_is_said_to_have_none(tmp_path):
    ran(swept("{seed: [0, 1]}", "train.epochs=0"), tmp_path)
    for cell in tmp_path.glob("seed=*"):
        shutil.rmtree(cell)
    with pytest.raises(InputError, match="no cell of the sweep"):
        list(report.run([tmp_path]))


@pytest.mark.parametrize(
    ("text", "told"), [('{"format": 1, "cells": []}', "damaged"), ('{"format": 2, "cells": {}}', "format 2")]
)
def test_a_damaged_plan_of_a_sweep_is_named(tmp_path, text, told):
    ran(swept("{seed: [0, 1]}", "train.epochs=0"), tmp_path)
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(InputError, match=rf"sweep\.json (is|has) {told}"):
        list(report.run([tmp_path]))
    *_, result = ran(swept("{seed: [0, 1]}", "train.epochs=0"), tmp_path)
    assert len(result.numbers["results"]) == 2


def test_a_dry_run_tells_cells_trainings_and_each_plan_once(tmp_path):
    sweep = "{seed: [0, 1, 2], probe.probes: [[knn], [linear]]}"
    events = ran(swept(sweep), tmp_path / "all", dry_run=True)
    lines = [event.text for event in events]
    assert all(isinstance(event, Plan) for event in events) and not (tmp_path / "all").exists()
    assert lines[0].startswith("6 cells in ") and "trainings: 3, of which done already: 0" in lines
    assert sum(line.startswith("network: ") for line in lines) == 1
    assert sum(line.startswith("disk: ") for line in lines) == 1
    with pytest.raises(SslcutError, match="layer9"):
        ran(swept(sweep, "guillotine.at=layer9"), tmp_path / "all", dry_run=True)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("probe.tasks=[shap]",), "`probe.tasks` names `shap`"),
        (("guillotine.task=hu", "stages=[pretrain, probe, guillotine]"), "`guillotine.task` names `hu`"),
        (
            ("study={claims: [{says: so, value: {task: colour, layer: pool}, less: {layer: layer4}}]}",),
            "the claim “so” names `colour`",
        ),
    ],
)
def test_a_task_that_the_data_lacks_is_told_before_any_training(tmp_path, sets, told):
    recipe = swept("{seed: [0, 1]}", "train.epochs=1", *sets)
    for dry_run in (True, False):
        with pytest.raises(SslcutError) as caught:
            ran(recipe, tmp_path, dry_run=dry_run)
        assert told in str(caught.value) and caught.value.exit_code == 2
        assert "shape" in caught.value.faults[0].hint
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_plan_tells_a_task_that_one_of_the_cells_with_one_training_names(tmp_path):
    with pytest.raises(SslcutError, match="names `shap`"):
        ran(swept("{probe.tasks: [[shape], [shap]]}"), tmp_path, dry_run=True)


def test_force_does_not_pass_a_task_that_the_data_lacks(tmp_path):
    ran(swept("{seed: [0]}", "stages=[pretrain]"), tmp_path)
    (file,) = tmp_path.rglob("pretrain.safetensors")
    before = file.stat().st_mtime_ns
    with pytest.raises(SslcutError, match="names `shap`"):
        ran(swept("{seed: [0]}", "probe.tasks=[shap]"), tmp_path, force=True)
    assert file.stat().st_mtime_ns == before


# ---- side by side


def test_events_and_faults_cross_between_processes():
    events = [Note("a"), Warn("b"), Stage("probe", done=True), Result("c", {"layer": "pool"})]
    assert [wire.unpacked(wire.packed(event).encode()) for event in events] == events
    try:
        raise DivergedError("it diverged", hint="lower the rate")
    except DivergedError as error:
        crossed = wire.unpacked(wire.packed_fault(error, error).encode())
    assert isinstance(crossed, DivergedError) and crossed.faults[0].hint == "lower the rate"
    assert "raise DivergedError" in crossed.__notes__[0]
    bug = wire.unpacked(wire.packed_fault(None, KeyError("x")).encode())
    assert isinstance(bug, SslcutError) and bug.exit_code == 1 and "KeyError" in str(bug)


class Pretended:
    """A process that has measured, or run its cell, as soon as it is asked."""

    made: list[tuple[str, bool, int, Any]]

    def __init__(self, work, options, threads, follows) -> None:
        self.measures, self.over = follows is None, False
        self.made.append((work.name, self.measures, threads, options.precision))
        self.pipe = os.open(os.devnull, os.O_RDONLY)

    def events(self):
        self.over = True
        return [Result("", {"name": "bf16"})] if self.measures else [Stage("pretrain", done=True), Result("x")]

    def outcome(self) -> None:
        os.close(self.pipe)

    def close(self) -> None:
        pass


def test_precision_is_measured_before_cells_go_side_by_side_with_the_threads_that_each_will_have(tmp_path, monkeypatch):
    monkeypatch.setattr(abreast, "Process", Pretended)
    Pretended.made = []
    recipe = swept("{seed: [0, 1], method.temperature: [0.1, 0.2]}", "train.precision=auto", "stages=[pretrain]")
    ran(recipe, tmp_path, jobs=2, threads=5)
    first, *rest = Pretended.made
    assert first == ("seed=0,temperature=0.1", True, 2, None)
    assert [entry[1:] for entry in rest] == [(False, 2, {"name": "bf16"})] * 4
    assert list(RunDir(tmp_path).document()["precisions"].values()) == [{"name": "bf16"}]


def holder(cell: Path) -> int:
    """The process that is at work in a cell."""
    return int(re.findall(r"pid (\d+)", (cell / ".lock").read_text())[0])


def test_cells_side_by_side_share_a_training_and_a_killed_one_is_a_failed_cell(tmp_path):
    long, knn, linear = (
        tmp_path / name for name in ("seed=1,epochs=9000", "epochs=0,probes=knn", "epochs=0,probes=linear")
    )
    cheap = "{train.epochs: 0, probe.probes: [knn]}, {train.epochs: 0, probe.probes: [linear]}"
    recipe = swept(f"[{{seed: 1, train.epochs: 9000}}, {cheap}]", "train.state_every=0.1", "stages=[pretrain, probe]")
    told: list[Event] = []
    with pytest.raises(MachineError, match="ended by SIGKILL"):
        for event in study.run(recipe, Options(out=tmp_path, jobs=2, threads=3)):
            told.append(event)
            if isinstance(event, Row) and (event.of, event.text[:5]) == (long.name, "epoch"):
                os.kill(holder(long), signal.SIGKILL)
    assert f"cell {long.name} failed: its process was ended by SIGKILL" in [event.text for event in told]
    ends = [event.of for event in told if isinstance(event, Row) and event.state == "done"]
    assert ends == [knn.name, linear.name]
    assert stages(linear)[0] == ("pretrain", "../epochs=0,probes=knn/pretrain.safetensors")
    assert RunDir(knn).document()["threads"] == 1
    with RunDir(long).lock():  # the dead one's is taken over
        pass


def test_an_interrupted_sweep_has_saved_every_cell_and_goes_on(tmp_path):
    sets, cells_of = ("train.epochs=9000", "train.state_every=0.1", "stages=[pretrain, probe]"), ("seed=0", "seed=1")
    asked = [word for each in (*FAST[1::2], *sets) for word in ("--set", each)]
    command = [
        sys.executable,
        "-m",
        "sslcut",
        "run",
        *asked,
        "--set",
        "sweep={seed: [0, 1]}",
        "--jobs",
        "2",
        "-o",
        "all",
    ]
    pipe = subprocess.PIPE
    how = dict(cwd=tmp_path, env=surroundings(tmp_path), stdin=subprocess.DEVNULL, text=True)
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, **how)
    until = time.monotonic() + 100
    while not all((tmp_path / "all" / name / "state/last.safetensors").exists() for name in cells_of):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    pids = [holder(tmp_path / "all" / name) for name in cells_of]
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "") and "the same command goes on" in said
    assert "Traceback" not in said and "failed" not in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    again = study.run(swept("{seed: [0, 1]}", *sets), Options(out=tmp_path / "all"))
    assert any(event.text.startswith("resuming in epoch") for event in again)
    again.close()


@pytest.mark.slow
def test_a_cells_process_ends_with_its_state_saved_when_the_one_that_started_it_is_no_more(tmp_path):
    sets = ("train.epochs=9000", "train.state_every=0.1", "stages=[pretrain]")
    job = {"recipe": swept("null", *sets).dump(), "directory": str(tmp_path), "options": {"threads": 1}, "follows": []}
    command = [sys.executable, "-c", "from sslcut.study.cell import main; main()"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=surroundings(tmp_path), stdin=pipe, stdout=pipe)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(job).encode() + b"\n")
    process.stdin.flush()
    while b'"epoch 1/' not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()  # nobody listens any more, and then nobody is there
    process.stdin.close()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "state/last.safetensors").exists()


# ---- what is seen of it


def test_without_a_terminal_a_sweep_tells_starts_and_ends_and_little_between(capsys):
    rows = [Row("waiting", "a", "waiting"), Row("starting", "a", told="cell 1 of 1: a")]
    rows += [Row(f"epoch {n}", "a") for n in range(50)]
    Screen().show(iter([*rows, Aside("a: data"), Warn("a: odd"), Row("done", "a", "done", "a: done")]))
    told = capsys.readouterr().err.splitlines()
    assert told == ["cell 1 of 1: a", "a: epoch 0", "warning: a: odd", "a: done"]
    Screen(verbose=True).show(iter([Aside("a: data")]))
    assert capsys.readouterr().err == "a: data\n"


def test_a_table_that_is_longer_than_the_terminal_shows_those_at_work_and_counts_the_others(monkeypatch):
    monkeypatch.setenv("LINES", "10")
    table = Table()
    table.stop()
    for number in range(30):
        table.update(Row("epoch 1/3", f"seed={number}", "running" if number < 2 else "waiting"))
    names, texts = (list(column.cells) for column in table.grid().columns)
    assert [str(name) for name in names] == ["seed=0", "seed=1", "30 cells"]
    assert str(texts[-1]) == "28 waiting, 2 running"
