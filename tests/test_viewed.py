"""Features of views: the same as the network's own of the same views, at any batch, within the store's memory."""

import json
from pathlib import Path

import pytest
import torch
from cli import sslcut, tiny
from test_extract import CPU, SMALL, drawn
from work import done

from sslcut.data.policies import simclr
from sslcut.errors import UsageError
from sslcut.metrics.extract import Taps, estimate_batchnorm, taps
from sslcut.metrics.handed import Sight, handed
from sslcut.metrics.store import Store
from sslcut.metrics.viewed import EPOCH, reference_views, resolved, viewed
from sslcut.model.build import build
from sslcut.model.network import Input, Network
from sslcut.registry import MEASURES

ASKED = {"images": 8, "views": 3, "policy": None, "strength": 0.5, "exact": True}
ROWS = torch.tensor([2, 5, 11, 17, 18])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = Network(build(SMALL), "vector", Input(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2)))
    estimate_batchnorm(net, drawn(200), CPU)
    return net


def read(network, images, folder, *, memory=10**9, batch=256, seed=0):
    source = Taps(network, taps(network, network.names, ["avg"]), CPU)
    source.batch = batch
    maker = reference_views(ASKED, size=16, seed=seed)
    store = Store(3 * len(ROWS), list(source.widths.values()), memory, folder)
    try:
        return done(viewed(source, images, ROWS, maker, store=store, device=CPU)), store
    finally:
        store.close()


def test_each_layer_has_what_the_network_gives_for_each_view(network, tmp_path):
    images = drawn(20)
    found, _ = read(network, images, tmp_path)
    made = reference_views(ASKED, size=16, seed=0)(images.read(ROWS), ROWS, EPOCH).crops[0]  # (V, B, …)
    with torch.inference_mode():
        plain = network.features(made[1], [("pool", "vector")])["pool", "vector"]
    mine = next(layer.features for layer in found.layers if layer.name == "pool").unflatten(0, (-1, 3))[:, 1]
    assert torch.allclose(mine, plain, atol=1e-5)


def test_views_and_what_was_drawn_do_not_depend_on_the_batch(network, tmp_path):
    (one, _), (many, _) = (read(network, drawn(20), tmp_path, batch=batch) for batch in (1, 256))
    assert all(torch.allclose(a.features, b.features, atol=1e-5) for a, b in zip(one.layers, many.layers, strict=True))
    assert all(torch.equal(one.drawn[name], many.drawn[name]) for name in many.drawn)
    assert many.drawn["hue"].shape == (5, 3) and len(many.drawn["hue"].unique()) > 5
    other, _ = read(network, drawn(20), tmp_path, seed=1)
    assert not torch.equal(other.drawn["hue"], many.drawn["hue"])


def test_features_of_views_keep_to_the_memory_that_is_left(network, tmp_path):
    found, store = read(network, drawn(20), tmp_path, memory=2500)
    assert store.file is not None and store.dtype == torch.float16
    plenty, _ = read(network, drawn(20), tmp_path)
    apart = [(a.features - b.features).abs().max() for a, b in zip(found.layers, plenty.layers, strict=True)]
    assert max(apart) < 1e-2


def test_the_reference_policy_is_simclrs_or_the_one_that_the_recipe_names():
    assert reference_views(ASKED, size=16, seed=0).policy == simclr().at(0.5)
    assert reference_views({**ASKED, "policy": {"name": "byol"}}, size=16, seed=0).policy.solarise == (0.0, 0.1)
    asked = {**ASKED, "policy": {"name": "simclr", "hue": 0.0}}
    assert reference_views(asked, size=16, seed=0).policy.hue == 0
    assert resolved(asked)["policy"] == resolved(ASKED)["policy"] | {"hue": 0.0}
    with pytest.raises(UsageError):
        reference_views({**asked, "policy": {"name": "simclr", "hue": 2.0}}, size=16, seed=0)


def test_nothing_is_read_where_no_measure_wants_it(network, tmp_path):
    sight = Sight(network, ("pool", "vector"), None, ROWS, tmp_path, CPU)
    found = done(handed(MEASURES.wants("rankme"), sight, None, ASKED, seed=0, memory=7))
    assert (found.viewed, found.nearby, found.head, found.memory) == (None, None, None, 7)


def test_the_head_is_compared_with_weak_views_of_the_reference_alone(network, tmp_path):
    sight = Sight(network, ("pool", "vector"), drawn(20), ROWS, tmp_path, CPU)
    found = done(handed(MEASURES.wants("tangent"), sight, None, ASKED, seed=0, memory=10**6))
    assert found.head is not None and found.viewed is None and found.nearby is not None
    assert [layer.name for layer in found.nearby.layers] == ["pool"] and found.memory < 10**6
    assert found.nearby.drawn["brightness"].sub(1).abs().max() <= 0.08


def test_a_probe_measures_everything_that_is_registered(tmp_path):
    asked = ["stages=[pretrain, probe]", "train.epochs=0", "probe.probes=[]", "probe.readouts=[avg, grid2]"]
    asked += [f"probe.measures=[{', '.join(MEASURES)}]", "probe.viewed={images: 40, views: 4, exact: false}"]
    asked += ["views.policy=byol"]  # the reference policy is another
    made = sslcut("run", *tiny(*asked), "-o", "out", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "views: 4 of each of 40 images at strength 0.5" in made.stderr
    [path] = Path(tmp_path, "out").glob("probe-*.json")
    results = json.loads(path.read_text())
    rows, under = results["measures"], results["viewed"]
    assert (under["policy"]["name"], under["policy"]["hue"]) == ("simclr", 0.2)
    assert (under["strength"], under["views"]) == (0.5, 4)
    places = {name: {row["layer"] for row in rows if row["measure"] == name} for name in MEASURES}
    assert len({(row["layer"], row["readout"], row["measure"]) for row in rows}) == len(rows)
    assert places["sensitivity"] == places["rankme"] >= {"stem", "pool", "projector.1"}
    assert places["cka"] == places["rankme"] - {"stem"} and places["tangent"] == {"pool"}
    assert places["selectivity"] == {"projector.0", "projector.1"}
    assert all(row["value"] is not None for row in rows if row["measure"] not in ("alpha_req", "alpha_req_r2"))
