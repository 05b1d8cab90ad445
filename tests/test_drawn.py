import json

import pytest
import report_data
import torch
from layers import generator
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from sslcut.metrics.drawn import split, view_rows, view_tasks
from sslcut.metrics.layer import Layer
from sslcut.metrics.viewed import Viewed
from sslcut.render.drawn import figures
from sslcut.render.results import Document

IMAGES, VIEWS = 60, 4


def seen():
    """A stem that knows where a view lies and whether it is grey, and a pool that knows nothing."""
    draw = generator(0)
    shape = IMAGES, VIEWS
    drawn = {name: torch.randint(0, 9, shape, generator=draw) for name in ("left", "top")}
    drawn |= {name: torch.randint(8, 20, shape, generator=draw) for name in ("width", "height")}
    drawn |= {name: torch.rand(shape, generator=draw) for name in ("brightness", "contrast", "saturation", "hue")}
    drawn |= {name: torch.rand(shape, generator=draw) < 0.4 for name in ("flip", "grey")}
    drawn |= {"solarise": torch.zeros(shape, dtype=torch.bool), "blur": torch.rand(shape, generator=draw) - 0.5}
    centre = (drawn["left"] + drawn["width"] / 2).flatten() / 32
    noise = torch.randn(IMAGES * VIEWS, 6, generator=draw)
    known = torch.stack([centre, drawn["grey"].flatten().float()], dim=1) + 0.02 * noise[:, :2]
    layers = [Layer("stem", "avg", torch.cat([known, noise[:, 2:]], dim=1)), Layer("pool", "vector", noise)]
    return Viewed(
        layers,
        VIEWS,
        torch.arange(IMAGES) + 100,
        {name: v.clamp(min=0) if name == "blur" else v for name, v in drawn.items()},
    )


def test_no_image_has_views_on_two_sides_and_every_view_is_on_one():
    fold, group = split(seen(), None, 0)
    sides = [set(group[part].tolist()) for part in (fold.train, fold.validation, fold.test)]
    assert [len(side) for side in sides] == [36, 12, 12] and len(set.union(*sides)) == IMAGES
    assert len(torch.cat([fold.train, fold.validation, fold.test]).unique()) == IMAGES * VIEWS


def test_no_group_has_images_on_two_sides_and_resamples_draw_whole_groups():
    patients = torch.arange(200) // 7  # of all rows; the views are of those from 100 on
    fold, group = split(seen(), patients, 0)
    assert torch.equal(group, patients[100:160].repeat_interleave(VIEWS))
    sides = [set(group[part].tolist()) for part in (fold.train, fold.validation, fold.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == len(group.unique()) and all(sides)
    assert len(torch.cat([fold.train, fold.validation, fold.test]).unique()) == IMAGES * VIEWS
    how = {"size": 32, "scale": "standard", "memory": 10**8, "count": 10, "seed": 0}
    assert view_rows(seen(), ("pool", "vector"), group=torch.arange(200) // 100, **how) == []


def test_what_was_drawn_becomes_tasks_and_what_never_varies_none():
    views = seen()
    tasks = view_tasks(views, 32)
    assert "view.solarise" not in tasks and tasks["view.grey"].kind == "class"
    area = views.drawn["width"][2, 1] * views.drawn["height"][2, 1] / 32**2
    assert tasks["view.crop_area"].values[2 * VIEWS + 1] == pytest.approx(float(area))
    assert torch.equal(tasks["view.blur"].values, (views.drawn["blur"].flatten() > 0).long())


def test_a_layer_is_scored_by_what_it_knows_of_its_views():
    views = seen()
    rows = view_rows(views, ("pool", "vector"), size=32, group=None, scale="standard", memory=10**8, count=100, seed=0)
    json.dumps(rows, allow_nan=False)
    assert {(row["shift"], row["task"].split(".")[0]) for row in rows} == {("views", "view")}
    value = {(row["layer"], row["task"]): row["value"] for row in rows}
    assert value["stem", "view.crop_x"] > 0.9 and value["stem", "view.grey"] > 0.95
    assert value["pool", "view.crop_x"] < 0.2 and abs(value["stem", "view.hue"]) < 0.3
    fold, _ = split(views, None, 0)
    x, y = views.layers[0].features, view_tasks(views, 32)["view.crop_x"].values
    l2 = float(
        next(r for r in rows if (r["layer"], r["task"]) == ("stem", "view.crop_x"))["options"].removeprefix("l2=")
    )
    final = torch.cat([fold.train, fold.validation])
    scaler = StandardScaler().fit(x[fold.train])
    ridge = Ridge(alpha=len(final) * l2).fit(scaler.transform(x[final]), y[final])
    assert value["stem", "view.crop_x"] == pytest.approx(
        ridge.score(scaler.transform(x[fold.test]), y[fold.test]), abs=1e-3
    )


def test_the_report_names_the_layer_that_validation_chooses():
    said = (("stem", 0.5, 0.6), ("pool", 0.7, 0.4))  # pool is better on test alone
    rows = [
        {**report_data.place(layer), "task": "view.hue", "probe": "linear", "metric": "r2", "shift": "views"}
        | {"value": value, "validation": validation}
        for layer, value, validation in said
    ]
    made = report_data.document(tasks={}) | {"results": rows, "measures": []}
    (figure,) = figures(Document.model_validate(made))
    assert "hue: best by validation at stem with 0.500, 0.700 at pool." in figure.alt
