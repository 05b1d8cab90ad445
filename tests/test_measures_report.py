"""What a report says of measures without labels: groups that are read together, sensitivity drawn, the head's table."""

import report_data
import vl_convert

from sslcut.render import chart, geometry
from sslcut.render.gather import Found
from sslcut.render.results import Document
from sslcut.render.sections import report

VIEWED = ("sensitivity", "sensitivity_cosine", "lidar", "rank_views")
TANGENTS = {"tangent": 0.8, "tangent_random": 0.25, "tangent_random_sd": 0.01, "tangent_pca": 0.9, "tangent_views": 0.4}


def doc(tmp_path=None):
    plain = report_data.document(tasks={"shape": "class"})
    plain["viewed"] = {"policy": {"name": "simclr", "hue": 0.2}, "strength": 0.5, "images": 1024, "views": 16}
    for name in VIEWED:
        plain["measures"] += [
            {**report_data.place(layer), "measure": name, "value": None if name == "lidar" and i == 0 else 0.5 - i / 20}
            for i, layer in enumerate(report_data.LAYERS)
        ]
    pool = report_data.place("pool")
    plain["measures"] += [{**pool, "measure": name, "value": value} for name, value in TANGENTS.items()]
    plain["measures"] += [{**pool, "measure": "directions", "value": 32.0}]
    plain["measures"] += [{**report_data.place("projector.0"), "measure": "selectivity", "value": 1.5}]
    return Document.model_validate(plain)


def test_each_group_of_measures_has_its_figure_and_sensitivity_one_of_its_own():
    drawn = {figure.name: figure for figure in geometry.figures(doc())}
    assert list(drawn) == ["sensitivity-by-layer", "measures-by-layer", "views-by-layer", "head-by-layer"]
    for figure in drawn.values():
        assert vl_convert.vegalite_to_svg(figure.spec, config=chart.theme())
    assert "At the reference pool it is 0.25" in drawn["sensitivity-by-layer"].alt
    assert "Views are of simclr at strength 0.5, whatever" in drawn["sensitivity-by-layer"].caption
    assert {row["measure"] for row in drawn["views-by-layer"].spec["data"]["values"]} == {"LiDAR", "RankMe of views"}


def test_tables_keep_groups_apart_and_show_what_was_withheld():
    tables = {table.title: table for table in geometry.tables(doc())}
    assert tables["Measures without labels"].columns == (
        "layer", "read-out", "RankMe", "alpha-ReQ", "RankMe ÷ width",
    )  # fmt: skip
    views = tables["Images and their views"]
    assert views.rows[0][views.columns.index("LiDAR")] == "–"
    spaces = tables["The head's directions and tangent planes"].rows
    assert [row[-1] for row in spaces] == ["0.8", "0.25 ± 0.01", "0.9", "0.4"] and spaces[0][1] == "32"


def test_measures_are_explained_in_a_clause_each_and_rankme_alone_is_not(tmp_path):
    [told] = geometry.explained(doc())
    assert told.startswith("RankMe is") and "Selectivity" not in told and "selectivity is" in told
    assert geometry.explained(Document.model_validate(report_data.document() | {"measures": []})) == ()
    section = {one.name: one for one in report([Found(tmp_path, doc())]).parts[0].sections}["measures"]
    assert told in section.prose and len(section.figures) == 4 and len(section.tables) == 4


def test_several_results_warn_where_networks_were_read_under_different_views(tmp_path):
    def under(**views):
        seen = doc().viewed.model_copy(update=views)
        return Found(tmp_path, doc().model_copy(update={"viewed": seen}))

    same, other, more = under(), under(policy={"name": "byol"}), under(views=8)
    assert not any("different views" in note for note in report([same, under()]).notes)
    [told] = [note for note in report([same, other]).notes if "different views" in note]
    assert "simclr at strength 0.5 and byol at strength 0.5" in told
    assert any("of which some option or number differs" in note for note in report([same, more]).notes)
