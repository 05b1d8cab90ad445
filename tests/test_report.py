"""The report: what it finds, what it says first, and a page that stands alone and survives hostile names."""

import csv
import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_data

from sslcut.errors import InputError, MachineError, UsageError
from sslcut.events import Result
from sslcut.render import gather, page, sections, table, words
from sslcut.render.results import Document
from sslcut.stages import report

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
TASKS = {"shape": "class", "hue": "angle"}
SMALL = {"tasks": TASKS, "layers": report_data.LAYERS[3:7]}


def told(**options):
    return words.answer(Document.model_validate(report_data.document(**options)))


def run(paths, out):
    *_, result = report.run(paths, out)
    assert isinstance(result, Result)
    return Path(result.text).parent


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report in which task, layer-independent texts and title are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    results = report_data.document(**SMALL | {"tasks": {HOSTILE: "class", "hue": "angle"}})
    results["recipe"]["name"] = HOSTILE
    results["model"] = results["recommended"]["why"] = HOSTILE
    return run([report_data.write(folder, results)], folder / "report")


# ---- the answer


def test_the_answer_to_one_task_is_its_gain_with_its_interval():
    answer = told(tasks={"shape": "class"}, bump=0.05)
    assert re.fullmatch(
        r"Cut at `layer4\.0` \(read by avg\): \+\d\.\d points \(\d\.\d to \d\.\d\) over `pool` on `shape`\.",
        answer.sentence,
    )


def test_the_answer_to_many_tasks_counts_and_lists_them_and_keeps_units_apart():
    answer = told()
    assert (
        answer.sentence
        == "Cut at `layer4.0` (read by avg): better than `pool` on 4 of 6 tasks and not told apart on 2."
    )
    assert "`shape` +3.4 points" in answer.details[0] and "`x` +0.034 R²" in answer.details[0]
    assert answer.details[1].startswith("Not told apart from `pool`: `hue`")


def test_the_answer_is_do_not_cut_where_no_layer_beats_the_reference():
    answer = told(bump=-0.05, recommended="pool")
    assert (answer.verdict, answer.sentence) == ("keep", "Do not cut: no layer beats `pool` on any of 6 tasks.")


def test_the_answer_names_layers_that_could_not_be_told_apart():
    answer = told(tasks={"shape": "class"}, bump=0.001, recommended="pool")
    assert answer.sentence == "Keep `pool`: `layer4.0` could not be told apart from it on `shape`."


def test_the_answer_names_tasks_that_read_better_elsewhere_than_the_reference_that_is_kept():
    answer = told(tasks=TASKS, bump=0.05, recommended="pool")
    assert answer.sentence.startswith("Keep `pool`: the best for 2 tasks together; `shape` and `hue` alone")
    assert "`hue` alone is read better at `layer2.0` (read by avg): +0." in answer.details[1]


def test_without_labels_nothing_is_recommended():
    assert told(tasks={}).verdict == "none"


def test_a_gain_on_the_mean_of_the_tasks_is_told_where_all_have_one_unit():
    results = report_data.document(tasks={"shape": "class", "background": "class"})
    results["recommended"] |= {"gain": 0.031, "gain_low": 0.022, "gain_high": 0.04}
    sentence = words.answer(Document.model_validate(results)).sentence
    assert "+3.1 points (2.2 to 4.0) over `pool` on the mean of 2 tasks" in sentence


# ---- what it finds


def test_a_directory_means_all_results_below_it_and_foreign_json_is_passed_over(tmp_path):
    report_data.write(tmp_path / "a", report_data.document(seed=1))
    report_data.write(tmp_path / "b" / "c", report_data.document(seed=2))
    (tmp_path / "probe-other.json").write_text('{"someone": "else"}')
    found = gather.find([tmp_path], lambda path: set())
    assert [one.document.recipe["seed"] for one in found] == [1, 2]
    assert gather.labels(found) == ["a/pretrain", "b/c/pretrain"]


def test_a_checkpoint_means_the_results_beside_it_that_carry_it_or_its_parent(tmp_path):
    path = report_data.write(tmp_path, report_data.document(seed=1))
    report_data.write(tmp_path, report_data.document(seed=2), stem="other")
    checkpoint = tmp_path / "pretrain-cut.safetensors"
    checkpoint.touch()
    mine = gather.read(path).checkpoint.identity
    assert [one.path for one in gather.find([checkpoint], lambda _: {"cut", mine})] == [path]
    with pytest.raises(InputError, match="no results beside"):
        gather.find([checkpoint], lambda _: {"cut"})


def test_the_same_checkpoint_on_the_same_data_is_told_once(tmp_path):
    for name in ("a", "b"):
        report_data.write(tmp_path / name, report_data.document())
    assert len(gather.find([tmp_path], lambda _: set())) == 1


BROKEN = {
    "empty": "",
    "cut off": '{"format": 1, "checkpoint": {"identity": "ab',
    "a list": "[1]",
    "no checkpoint": '{"format": 1}',
    "binary": "\x00",
    "a later format": '{"format": 2, "checkpoint": {}}',
    "a wrong type": '{"format": 1, "checkpoint": {"identity": 3}, "layers": []}',
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_results_file_is_named(tmp_path, text):
    path = tmp_path / "probe-x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(str(path))):
        gather.read(path)


def test_a_number_that_is_not_finite_is_refused_with_its_place(tmp_path):
    results = report_data.document(**SMALL)
    results["results"][3]["value"] = float("nan")
    with pytest.raises(InputError, match=r"results\.3\.value"):
        gather.read(report_data.write(tmp_path, results))


def test_training_lines_that_are_torn_are_passed_over_and_a_repeated_epoch_counts_once(tmp_path):
    path = report_data.write(tmp_path, report_data.document(tasks={}))
    lines = ['{"epoch": 1, "loss": 3}', '{"epoch": 1, "loss": 2}', "", "7", '{"epoch": 2, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    (tmp_path / "run.json").write_text("{torn")
    (found,) = gather.find([path], lambda _: set())
    assert found.epochs == [{"epoch": 1, "loss": 2}] and found.run == {}


@pytest.mark.parametrize("name", ["missing", "missing.json", "missing.safetensors"])
def test_a_path_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InputError, match=name):
        gather.find([tmp_path / name], lambda _: set())


def test_a_directory_without_results_says_which_command_makes_them(tmp_path):
    with pytest.raises(InputError) as caught:
        gather.find([tmp_path], lambda _: set())
    assert "sslcut probe" in caught.value.faults[0].hint


# ---- what it writes


def test_a_report_holds_a_page_text_tables_and_figures_of_three_kinds(written):
    names = {path.name for path in written.iterdir()}
    assert {"index.html", "report.md", "results.csv", "best.csv", "figures"} <= names
    kinds = {path.suffix for path in (written / "figures").iterdir()}
    assert kinds == {".svg", ".png", ".pdf"}


def test_results_csv_holds_every_number_as_the_results_file_does(tmp_path):
    path = report_data.write(tmp_path, results := report_data.document(**SMALL))
    folder = run([path], tmp_path / "report")
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [row["value"] for row in results["results"]]
    assert rows[-1]["gain"] == ""


def test_markdown_says_what_the_page_says(tmp_path):
    found = gather.find([report_data.write(tmp_path, report_data.document(**SMALL))], lambda _: set())
    told = sections.report(found)
    text = page.markdown(told)
    assert told.answer.sentence in text and words.DEMONSTRATION in text and "fidelity: protocol" in text
    assert all(f"](figures/{figure.name}.svg)" in text for figure in told.figures)
    assert all(section.title in text for part in told.parts for section in part.sections)


def test_a_report_takes_an_earlier_ones_place_and_leaves_nothing_else_behind(tmp_path):
    path = report_data.write(tmp_path, report_data.document(tasks={}))
    folder = run([path], tmp_path / "report")
    (folder / "figures" / "stale.svg").touch()
    run([path], tmp_path / "report")
    assert not (folder / "figures" / "stale.svg").exists()
    assert {one.name for one in tmp_path.iterdir()} == {path.name, "metrics.jsonl", "report"}


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    path = report_data.write(tmp_path, report_data.document(tasks={}))
    with pytest.raises(UsageError, match="metrics.jsonl"):
        run([path], tmp_path)
    assert path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_is_the_machines_fault(tmp_path):
    path = report_data.write(tmp_path, report_data.document(tasks={}))
    tmp_path.chmod(0o500)
    with pytest.raises(MachineError):
        run([path], tmp_path / "report")


def test_a_folder_that_cannot_be_made_is_the_machines_fault(tmp_path):
    path = report_data.write(tmp_path, report_data.document(tasks={}))
    with pytest.raises(MachineError, match="a part of the path is a file"):
        run([path], path / "deeper" / "report")


def test_a_full_disk_is_the_machines_fault_and_the_earlier_report_stays(tmp_path, monkeypatch):
    path = report_data.write(tmp_path, report_data.document(tasks={}))
    folder = run([path], tmp_path / "report")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MachineError, match="the disk is full"):
        run([path], folder)
    assert (folder / "index.html").exists() and len(list(tmp_path.iterdir())) == 3


def test_a_plan_writes_nothing(tmp_path):
    path = report_data.write(tmp_path, report_data.document(tasks={}))
    lines = [event.line() for event in report.plan([path])]
    assert str(path) in lines[0] and str(tmp_path / "report") in lines[-1]
    assert not (tmp_path / "report").exists()


def test_results_of_several_runs_are_set_side_by_side(tmp_path):
    for seed in range(3):
        recipe = report_data.RECIPE | {"seed": seed}
        report_data.write(tmp_path / f"seed={seed}", report_data.document(seed=seed, recipe=recipe, **SMALL))
    told = sections.report(gather.find([tmp_path], lambda _: set()))
    assert told.answer.sentence.startswith("3 checkpoints on 1 data set: of 6 pairs of checkpoint and task, ")
    assert [section.name for section in told.parts[0].sections] == ["runs", "atlas", "seeds", "ranking", "recipes"]
    assert told.parts[0].sections[0].tables[0].columns[-1] == "seed"
    assert [part.title for part in told.parts[1:]] == [f"seed={seed}/pretrain" for seed in range(3)]


def test_a_results_file_with_nothing_in_it_still_makes_a_report(tmp_path):
    results = {"format": 1, "checkpoint": {"identity": "a" * 64}, "layers": ["stem"]}
    folder = run([report_data.write(tmp_path, results, curves=False)], tmp_path / "report")
    assert "there are no labelled results" in (folder / "index.html").read_text(encoding="utf-8")


# ---- the page


def test_what_an_mlp_and_the_signs_score_over_the_linear_probe_stands_by_layer():
    made = report_data.document(**SMALL | {"tasks": {"shape": "class", "x": "number"}})
    assert table.beyond_linear(Document.model_validate(made)) is None
    at = [row for row in made["results"] if row["probe"] == "linear" and row["layer"] in ("layer4.0", "pool")]
    for probe, more in (("mlp", 0.034), ("binarised", -0.05)):
        made["results"] += [{**row, "probe": probe, "value": row["value"] + more} for row in at]
    one = gather.Found(Path("probe.json"), Document.model_validate(made))
    found = table.beyond_linear(one.document)
    assert found.columns == ("layer", "difference", "shape", "x")
    assert {row[0] for row in found.rows} == {"layer4.0", "layer4.0 · grid2", "pool"}
    assert {row[1:] for row in found.rows} == {
        ("MLP − linear", "+3.4", "+0.034"), ("binarised − linear", "−5.0", "−0.050"),
    }  # fmt: skip
    assert "Beyond a linear map" in [section.title for section in sections.one_result(one)]


def test_a_resized_network_that_was_not_trained_on_is_told_so():
    fresh = {"stage": "resize", "note": "resized, needs training"}
    trained = {"stage": "pretrain"}
    histories = [[fresh], [trained, fresh, {"stage": "guillotine"}], [fresh, trained], [{"stage": "resize"}], []]
    told = [sections.untrained_since(history) for history in histories]
    assert told == [True, True, False, False, False]


def test_the_page_asks_the_network_for_nothing(written):
    text = (written / "index.html").read_text(encoding="utf-8")
    markup = re.sub(r"<script type=\"module\">.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href|action)\s*=\s*[\"']?(?:https?:)?//", markup)
    assert not re.search(r"url\(|@import", markup)
    assert "default-src 'none'" in text


def test_the_page_is_small_enough_to_mail(written):
    assert (written / "index.html").stat().st_size < 2_000_000


def test_every_figure_on_the_page_has_a_text_alternative(written):
    text = (written / "index.html").read_text(encoding="utf-8")
    labels = re.findall(r'role="img" aria-label="([^"]+)"', text)
    assert len(labels) == text.count('class="plot"') > 5 and all(len(label) > 30 for label in labels)


class Tags(HTMLParser):
    """The names of the elements that a page really has."""

    def __init__(self, text):
        super().__init__()
        self.names = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)


def test_a_hostile_name_is_text_on_the_page(written):
    text = (written / "index.html").read_text(encoding="utf-8")
    tags = Tags(text).names
    assert tags.count("script") == 4 and "img" not in tags
    assert html.escape("</script><script>") in text


def test_a_hostile_name_is_text_in_markdown(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    shown = re.sub(r"`[^`\n]*`|^    .*$", "", text, flags=re.MULTILINE)
    assert "&lt;script>" in shown and not re.search(r"<\w|</", shown)


@pytest.fixture(scope="module")
def browsed(written, tmp_path_factory):
    """The page after its script has run in Chromium: the document, and what the console said."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine to open the page with")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [chromium, *flags.split(), "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    profile = tmp_path_factory.mktemp("profile")
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        [*command, (written / "index.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_opens_from_disk_without_a_word_on_the_console(browsed):
    dom, console = browsed
    assert 'data-drawn="yes"' in dom and console == []


def test_every_figure_is_redrawn_live(browsed):
    dom, _ = browsed
    assert dom.count('class="plot ready"') == dom.count('role="img" aria-label=') > 5


def test_a_hostile_name_does_nothing_in_a_browser(browsed):
    dom, _ = browsed
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]
    assert html.unescape(title) == f"Where to read {HOSTILE}"
    assert "img" not in Tags(dom).names


def test_json_in_a_script_cannot_end_it():
    text = page.script_json({"a": "</script><!-- & \u2028"})
    assert "<" not in text and ">" not in text and json.loads(text)["a"] == "</script><!-- & \u2028"
