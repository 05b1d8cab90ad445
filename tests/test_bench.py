import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cli import sslcut

from sslcut.bench import contest, knn, linear, peers, suite
from sslcut.bench.contest import Absent, Contender, Contest, Spent
from sslcut.bench.drawn import draw_features
from sslcut.bench.goals import Bound, Ratio, Same, Spread
from sslcut.bench.lines import lines
from sslcut.bench.memory import Watch
from sslcut.bench.outcome import Outcome, Row
from sslcut.bench.processes import spent
from sslcut.bench.setting import Setting
from sslcut.errors import InputError, SslcutError
from sslcut.events import Progress, Result
from sslcut.registry import BENCHES, Registry


def row(name: str, *seconds: float, role: str = "peer", **facts) -> Row:
    return Row(name, role, "", seconds, [], facts)


def told(name: str, *seconds: float, role: str = "sslcut") -> Contender:
    """A contender whose calls say that they took so many seconds, one after the other."""
    left = iter(seconds)
    return Contender(name, lambda: Spent(next(left)), role)


def outcome_of(contest: Contest, seconds: float = 0.0) -> Outcome:
    *events, outcome = contest.run(seconds)
    assert all(isinstance(event, Progress) for event in events)
    return outcome


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that contests read, and that stands still unless a call moves it on."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(contest, "time", clock)
    return clock


def lasting(clock: SimpleNamespace, seconds: float, calls: list[str], name: str = "sslcut") -> Contender:
    """A contender whose calls move the clock on."""

    def work() -> None:
        calls.append(name)
        clock.now += seconds

    return Contender(name, work)


def test_contenders_take_turns_and_their_first_calls_are_not_counted(clock):
    calls: list[str] = []
    both = [lasting(clock, 0.5, calls, "A"), lasting(clock, 0.25, calls, "B")]
    outcome = outcome_of(Contest("", both, rounds=(2, 2)))
    assert "".join(calls) == "ABABAB" and [row.seconds for row in outcome.rows] == [[0.5, 0.5], [0.25, 0.25]]


def test_a_call_that_times_itself_is_believed():
    [only] = outcome_of(Contest("", [told("A", 9, 3, 1, 2)], rounds=(3, 3))).rows
    assert only.seconds == [3, 1, 2] and only.time == Spread(2, 1.5, 2.5)


def test_a_short_call_is_repeated_until_its_turn_lasts(clock):
    calls: list[str] = []
    [only] = outcome_of(Contest("", [lasting(clock, 2**-7, calls)], rounds=(1, 1))).rows
    assert len(calls) == 1 + 6 and only.seconds == [2**-7]


def test_a_first_call_that_lasts_long_counts_as_a_turn():
    [only] = outcome_of(Contest("", [told("A", 30, 31)], rounds=(2, 5))).rows
    assert only.seconds == [30, 31]


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 3), (10, 5), (1000, 8)])
def test_there_are_as_many_rounds_as_fit_into_the_time_within_bounds(seconds, rounds):
    outcome = outcome_of(Contest("", [told("A", *[2.0] * 9)], rounds=(3, 8)), seconds)
    assert outcome.rounds == rounds


def test_what_a_device_has_left_to_do_is_part_of_a_calls_time(clock):
    waits: list[str] = []
    settle = lasting(clock, 0.5, waits).work
    [only] = outcome_of(Contest("", [lasting(clock, 0.25, [])], settle=settle, rounds=(1, 1))).rows
    assert only.seconds == [0.75] and len(waits) == 4  # before and after each of two calls


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    ours, peer = row("sslcut", 1.0, 10.0, 1.0, role="sslcut"), row("peer", 3.0, 40.0, 5.0)  # a busy second round
    verdict = Ratio("at least", 3, "peer").judge([ours, peer])
    assert verdict.measured == Spread(4, 3.5, 4.5) and verdict.reached
    assert not Ratio("at least", 4.1, "peer").judge([ours, peer]).reached


def test_a_ratio_is_to_the_fastest_of_its_kind():
    rows = [row("sslcut", 1.0), row("slow", 9.0), row("fast", 2.0), row("bare", 0.5, role="reference")]
    assert Ratio("at least", 3, "peer").judge(rows).against == "fast"
    assert Ratio("at most", 1.1, "reference").judge(rows).measured.value == 2
    assert Ratio("at most", 0.2, "slow").judge(rows).reached


def test_a_start_that_any_process_needs_can_be_taken_off():
    rows = [row("sslcut", 1.3), row("cp", 1.0), row("start-up", 0.2, role="other")]
    verdict = Ratio("at most", 1.2, "cp", less="start-up").judge(rows)
    assert verdict.measured.value == pytest.approx(1.1) and verdict.reached
    assert verdict.goal == "at most 1.2 × cp plus start-up"


def test_without_a_peer_a_goal_is_not_judged():
    verdict = Ratio("at least", 3, "peer").judge([row("sslcut", 1.0), row("torch", 1.0, role="reference")])
    assert verdict.measured is None and verdict.reached is None


def test_a_bound_is_on_seconds_on_memory_or_on_a_fact():
    rows = [Row("sslcut", "sslcut", "", [2.0], [60.0], {"share": 0.04})]
    assert Bound("seconds", 2).judge(rows).reached and not Bound("seconds", 1.9).judge(rows).reached
    assert Bound("memory", 64, "MB").judge(rows).reached and not Bound("memory", 59, "MB").judge(rows).reached
    assert Bound("share", 0.05).judge(rows).reached and Bound("nothing", 1).judge(rows).reached is None


def test_objectives_agree_only_where_each_of_them_does():
    ours, peer = row("sslcut", 1.0, loss=(1.0, 2.001)), row("peer", 1.0, loss=(1.0001, 2.0))
    assert not Same("loss", 1e-4).judge([ours, peer]).reached
    assert Same("loss", 1e-3).judge([ours, peer]).measured.value == pytest.approx(5e-4)


def test_the_lines_say_who_was_measured_who_is_absent_and_what_was_reached():
    rows = [row("sslcut", 0.5, role="sslcut", loss=1.25), row("peer", 2.0, loss=1.25)]
    goals = [Ratio("at least", 3, "peer"), Ratio("at least", 5, "peer")]
    assert lines(Outcome("work", rows, goals, {"kornia": "not installed"}, 100, "images")) == [
        "work  (1 round)",
        "          seconds  quartiles  images/s  loss",
        "  sslcut      0.5    0.5–0.5       200  1.25",
        "  peer          2        2–2        50  1.25",
        "  kornia: not installed",
        "  goal: at least 3 × the fastest peer: 4 × peer, reached",
        "  goal: at least 5 × the fastest peer: 4 × peer, NOT REACHED",
    ]


def test_a_smaller_problem_is_not_judged():
    outcome = Outcome("work", [row("sslcut", 1.0), row("peer", 4.0)], [Ratio("at least", 3, "peer")], {})
    assert outcome.document("part")["goals"][0]["reached"] is True
    [goal] = outcome.document("part", judged=False)["goals"]
    assert goal["value"] == 4 and goal["reached"] is None
    assert lines(outcome, judged=False)[-1].endswith("judged at full size only")


def test_an_absent_peer_is_said_to_be_absent_and_how_to_have_it():
    absent = peers.peer("no-such-library", lambda: pytest.fail("built"))
    assert absent == Absent("no-such-library", "not installed (pip install 'sslcut[bench]')")
    outcome = outcome_of(Contest("", [told("sslcut", *[1.0] * 4), absent]))
    assert outcome.document("part")["absent"] == {"no-such-library": absent.why}


def test_a_peer_that_cannot_be_imported_is_absent_too():
    def broken() -> Contender:
        raise ImportError("no libcuda")

    assert peers.peer("torch", broken, "it") == Absent("it", "cannot be imported (no libcuda)")


def test_required_peers_are_asked_for_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "PEERS", ("torch", "no-such-library"))
    options = suite.Options("cut", tmp_path / "b.json", require_peers=True)
    with pytest.raises(InputError, match="not installed: no-such-library$"):
        list(suite.run(options, Setting()))


def fake_part(setting: Setting):
    """A part that takes no time."""
    yield Contest("work", [told("sslcut", *[1.0] * 4), told("peer", *[3.0] * 4, role="peer")])


def test_the_results_say_on_what_machine_which_part_was_how_fast(monkeypatch, tmp_path):
    monkeypatch.setattr(suite, "BENCHES", Registry("part", {"fake": f"{__name__}:fake_part"}))
    *_, result = suite.run(suite.Options(None, tmp_path / "new" / "b.json"), Setting("cpu", seconds=0))
    document = json.loads((tmp_path / "new" / "b.json").read_text())
    assert isinstance(result, Result) and result.numbers == document
    assert (
        document["machine"]["threads"] >= 1
        and document["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]
    )
    [contest] = document["contests"]
    assert (contest["part"], contest["contest"], contest["rounds"]) == ("fake", "work", 3)
    assert [row["seconds"] for row in contest["rows"]] == [1, 3]


def test_a_file_that_is_no_benchmark_is_never_replaced(tmp_path):
    (tmp_path / "bench.json").write_text('{"mine": 1}')
    done = sslcut("bench", "startup", cwd=tmp_path)
    assert done.returncode == 2 and "--out" in done.stderr
    assert (tmp_path / "bench.json").read_text() == '{"mine": 1}'


def test_an_unknown_part_is_exit_2_with_the_nearest_name_and_the_list(tmp_path):
    done = sslcut("bench", "knm", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "`knm`" in done.stderr and "did you mean `knn`?" in done.stderr and "startup, views" in done.stderr


def test_a_part_runs_from_the_command_line_and_leaves_its_results(tmp_path):
    done = sslcut("bench", "startup", "--seconds", "0", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert next(iter(document)) == "path" and done.stdout.count("\n") == 1
    assert json.loads((tmp_path / document["path"]).read_text())["contests"] == document["contests"]
    rows = document["contests"][0]["rows"]
    assert rows[0]["name"] == "sslcut --help" and rows[0]["seconds"] > 0 and rows[0]["memory_mb"] > 5


def test_the_help_and_the_plan_import_no_torch(tmp_path):
    for arguments in (["bench", "--help"], ["bench", "--dry-run"]):
        done = sslcut(*arguments, cwd=tmp_path, env={"PYTHONPROFILEIMPORTTIME": "1"})
        imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "import time:" in line}
        assert done.returncode == 0 and "sslcut.cli" in imported and "torch" not in imported
    assert all(f"{part}: " in done.stderr for part in BENCHES) and done.stdout == ""


def test_a_part_imports_its_peers_inside_functions_alone():
    modules = {name.replace("-", "_").removesuffix("_cpu") for name in peers.PEERS} - {"scikit_learn"} | {"sklearn"}
    for path in Path(suite.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert not {name.split(".")[0] for name in names} & modules, path


def test_the_watch_sees_what_a_call_adds_and_gives_back():
    with Watch() as watch:
        block = bytearray(50 * 2**20)
        del block
    assert 49 * 2**20 < watch.added < 60 * 2**20
    with Watch() as watch:
        pass
    assert watch.added < 2 * 2**20


def test_a_process_is_timed_with_its_own_peak_of_memory(tmp_path):
    ballast = bytearray(100 * 2**20)  # of this process, which is no part of the other's
    small = spent([sys.executable, "-S", "-c", "import time; time.sleep(0.2)"], tmp_path)
    large = spent([sys.executable, "-S", "-c", "x = bytearray(60 << 20)"], tmp_path)
    assert small.seconds >= 0.2 and small.peak < 50 * 2**20 <= large.peak < len(ballast)


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(SslcutError, match=r"ended with 3: (?s:.*)the reason"):
        spent([sys.executable, "-c", "import sys; sys.stderr.write('the reason'); sys.exit(3)"], tmp_path)


def test_drawn_features_are_the_same_for_a_seed_and_overlap():
    (features, labels), (again, _) = draw_features(2000, 64, 10), draw_features(2000, 64, 10)
    assert torch.equal(features, again) and labels.bincount().min() > 100
    means = torch.stack([features[:1000][labels[:1000] == c].mean(dim=0) for c in range(10)])
    scores = features[1000:] @ means.T - means.square().sum(dim=1) / 2
    accuracy = float((scores.argmax(dim=1) == labels[1000:]).float().mean())
    assert 0.3 < accuracy < 0.8


def test_every_contender_of_knn_predicts_the_same_classes():
    [only] = knn.knn(Setting("cpu", scale=0.01))
    sslcut, *others = [each for each in only.contenders if isinstance(each, Contender)]
    predicted = sslcut.work()
    assert len(others) >= 2 and len(predicted) == only.count
    assert all((torch.as_tensor(each.work()) == predicted).float().mean() > 0.98 for each in others)


def test_every_contender_of_the_linear_probe_reaches_the_same_objectives(monkeypatch):
    monkeypatch.setattr(linear, "WIDTH", 24)
    one_layer, ten_layers = linear.linear(Setting("cpu", scale=0.0))
    for each_contest in (one_layer, ten_layers):
        rows = [Row(each.name, each.role, "", [1.0], [], each.check(each.work())) for each in each_contest.contenders]
        verdict = each_contest.goals[1].judge(rows)
        assert verdict.reached and abs(verdict.measured.value) < 1e-4
