"""What a report says of the controls: whether the recommendation changes, and each layer's gain under each of them."""

import pytest
import report_data

from sslcut.render import curves, fairness, page, sections
from sslcut.render.gather import Found
from sslcut.render.results import Document

LAYERS = ("layer3.0", "layer4.0", "pool", "projector.0")
WIDTHS = {"layer3.0": 64, "layer4.0": 128, "pool": 128, "projector.0": 256}
TASKS = {"shape": "class", "x": "number"}


def answered(control, layer, *, usual="layer4.0", best=()):
    place = report_data.place(layer)
    recommended = {**place, "why": "", "gain": 0.12, "gain_low": 0.1, "gain_high": 0.2}
    return {"control": control, "recommended": recommended, "changes": layer != usual, "best": list(best)}


def controlled(rows, setting, less, **wanted):
    """Rows as a control leaves them: those of `wanted` layers, `less` below what they were."""
    return [
        row | {"options": f"{setting} l2=0.01", "value": row["value"] - less[row["layer"]], "gain": -less[row["layer"]]}
        for row in rows
        if row["probe"] == "linear" and row["layer"] in wanted.get("layers", LAYERS) and row["readout"] != "grid2"
    ]


def made(*controls):
    told = report_data.document(tasks=TASKS, layers=LAYERS)
    told["results"] = plain = [row | {"dim": WIDTHS.get(row["layer"], 3072)} for row in told["results"]]
    told["results"] = [
        *plain,
        *controlled(plain, "pca=64", dict.fromkeys(LAYERS, 0.1)),
        *controlled(plain, "pca=128", {"pool": 0.2, "projector.0": 0.3}, layers=("pool", "projector.0")),
        *controlled(plain, "scale=raw", dict.fromkeys(LAYERS, 0.4)),
    ]
    told["controls"] = list(controls)
    return Document.model_validate(told)


ALL = [answered("pca=64", "pool"), answered("scale=raw", "layer4.0"), answered("pca=pairwise", "layer4.0")]


def test_the_report_says_in_a_sentence_whether_the_recommendation_changes():
    (told,) = fairness.prose(made(*ALL))
    assert told == (
        "The recommendation stays `layer4.0` (read by avg) with raw features and the reference's width or less, and "
        "would be `pool` with 64 dimensions each."
    )
    (told,) = fairness.prose(made(answered("fraction=0.01", "layer4.0")))
    assert told == "The recommendation stays `layer4.0` (read by avg) with 1 % of the labels."
    (told,) = fairness.prose(made(answered("scale=standard", "pool")))
    assert told == "The recommendation would be `pool` with standardised features."
    assert not list(fairness.prose(made()))


def test_the_table_names_the_tasks_whose_best_place_changes():
    moved = [{"task": "shape", **report_data.place("projector.0")}, {"task": "x", **report_data.place("layer4.0")}]
    table = fairness.table(made(answered("pca=64", "pool", best=moved)))
    assert table.rows[0][:4] == ("64 dimensions each", "pool", "changes", "+0.120 (0.100 to 0.200)")
    assert table.rows[0][4].startswith("shape → projector.0")
    assert fairness.table(made()) is None


@pytest.mark.parametrize(
    ("control", "less"),
    [("pca=64", [-0.1] * 4), ("scale=raw", [-0.4] * 4), ("pca=pairwise", [-0.1, None, None, -0.3])],
)
def test_each_control_draws_its_own_rows(control, less):
    document = made(*ALL)
    rows = [row for row in fairness.under(document, "shape", control) if document.is_main(row)]
    plain = {row.layer: row.gain for row in document.scores("shape") if document.is_main(row)}
    rows = [row for row in rows if row.layer in LAYERS]
    assert [row.layer for row in rows] == list(LAYERS)
    assert [row.gain for row in rows] == [
        plain[row.layer] if g is None else g for row, g in zip(rows, less, strict=True)
    ]


def test_the_width_figure_draws_the_width_that_all_layers_share():
    document = made(*ALL)
    assert {row.setting for row in document.projected("shape")} == {"pca=64"}
    figure = next(curves.widths(document))
    assert len([row for row in figure.spec["data"]["values"] if row["series"] == "common width"]) == 4


def test_controlled_rows_are_no_plain_scores_and_the_page_shows_the_controls(tmp_path):
    document = made(*ALL)
    assert {row.setting for row in document.scores("shape")} == {""}
    told = sections.report([Found(tmp_path / "probe-x.json", document)])
    assert "The recommendation stays `layer4.0`" in page.markdown(told)
    names = [figure.name for figure in told.figures]
    assert {"accuracy-gain-under-controls", "r2-gain-under-controls", "accuracy-at-one-width"} <= set(names)


def test_blocks_read_together_are_told_and_are_no_layer():
    told = made().model_dump(mode="json")
    row = next(row for row in told["results"] if row["layer"] == "layer4.0" and row["task"] == "shape")
    told["results"].append(row | {"layer": "concat:last4", "gain": 0.05, "gain_low": 0.04, "gain_high": 0.06})
    (text,) = fairness.prose(Document.model_validate(told))
    assert text == "The last four blocks together read better than `pool` on `shape`; no cut gives them."
