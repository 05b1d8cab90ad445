"""Results files as the probe writes them, made from a formula: for tests of the report."""

import json
from pathlib import Path
from typing import Any

LAYERS = ("stem", "layer1.0", "layer2.0", "layer3.0", "layer4.0", "pool", "projector.0", "projector.1", "projector.2")
MAPS = LAYERS[:5]
TASKS = {"shape": "class", "hue": "angle", "background": "class", "x": "number", "y": "number", "size": "number"}
PEAKS = {"shape": 4, "hue": 2, "background": 3, "x": 4, "y": 4, "size": 3}  # the block at which a task is best read
RECIPE: dict[str, Any] = {
    "name": "guillotine-shapes",
    "seed": 0,
    "data": {"name": "shapes", "size": 32, "train": 20000, "test": 5000},
    "model": {"backbone": {"name": "resnet10", "width": 16, "stem": "small"}, "projector": {"widths": [256, 256, 128]}},
    "method": {"name": "simclr", "temperature": 0.2},
    "views": {"policy": "simclr", "strength": 1.0, "crops": [{"count": 2, "size": 32, "scale": [0.2, 1.0]}]},
    "train": {"epochs": 20, "batch_size": 256, "optimizer": {"name": "sgd", "lr": 0.4, "weight_decay": 1e-4}},
    "paper": {"id": "2206.13378", "fidelity": "protocol"},
}

TRAINED = {"epochs": 20, "data": "shapes"}


def document(
    *,
    seed: int = 0,
    tasks: dict[str, str] | None = None,
    layers: tuple[str, ...] = LAYERS,
    recommended: str = "layer4.0",
    data: str = "shapes",
    name: str = "pretrain.safetensors",
    recipe: dict[str, Any] | None = None,
    bump: float = 0.03,
) -> dict[str, Any]:
    """One results document; `bump` is how far a task's best layer lies over the reference."""
    tasks = TASKS if tasks is None else tasks
    reference = place("pool" if "pool" in layers else layers[-1])
    results = [row for task, kind in tasks.items() for row in _rows(task, kind, layers, reference, seed, bump)]
    return {
        "format": 1,
        "checkpoint": {"identity": f"{seed:02d}" + "ab" * 31, "name": name},
        "data": {"name": data, "size": 32, "train": 20000, "test": 5000, "sha256": "cd" * 32},
        "layers": list(layers),
        "tasks": tasks,
        "reference": reference if tasks else None,
        "results": results,
        "measures": [
            {**place(layer, readout), "measure": measure, "value": 10.0 + 9 * i - (20 if i > 6 else 0) + seed}
            for measure in ("rankme", "alpha_req")
            for i, layer in enumerate(layers)
            for readout in _readouts(layer)
        ],
        "cost": [_cost(layer, i) for i, layer in enumerate(layers)],
        "best": [_best(task, results, reference) for task in tasks],
        "recommended": {**place(recommended), "why": "It is the earliest of the set."} if tasks else None,
        "recipe": recipe or RECIPE | {"seed": seed},
        "history": [{"stage": "pretrain", "options": TRAINED, "input": None, "device": "cpu", "threads": 2}],
        "model": "resnet10, width 16, stem small; projector 256-256-128",
        "versions": {"sslcut": "0.1.0", "torch": "2.14.1"},
    }


def place(layer: str, readout: str | None = None) -> dict[str, str]:
    """A layer with a read-out, by default its main one."""
    return {"layer": layer, "readout": readout or _readouts(layer)[0]}


def _readouts(layer: str) -> tuple[str, ...]:
    return ("avg", "grid2") if layer in MAPS else ("vector",)


def _cost(layer: str, i: int) -> dict[str, Any]:
    head = max(0, i - 5)
    costs = {"parameters": 1000 * 4 ** min(i, 4) + 33000 * head, "flops": 2e6 * min(i + 1, 6) + 66000 * head}
    return {"layer": layer, **costs, "seconds_per_1000": round(0.11 * (i + 1), 3)}


def level(task: str, layer: str, readout: str, seed: int, bump: float) -> float:
    """A made-up score: rises to the task's peak, loses `bump` to the reference, and more in the projector."""
    index, peak = LAYERS.index(layer), PEAKS.get(task, 4)
    fall = 0.07 * max(0, peak - index) ** 1.3 + bump * max(0, min(index, 5) - peak) ** 0.5
    fall += 0.05 * max(0, index - 5) ** 1.2
    wobble = 0.002 * ((seed * 7 + index * 3 + len(task)) % 5 - 2)
    extra = 0.0 if readout != "grid2" else 0.02 if task in "xy" else -0.004
    return round(0.8 - 0.04 * (len(task) % 4) - fall + wobble + extra, 4)


def _rows(
    task: str, kind: str, layers: tuple[str, ...], reference: dict[str, str], seed: int, bump: float
) -> list[dict[str, Any]]:
    base = level(task, reference["layer"], reference["readout"], seed, bump)
    rows = []
    for index, layer in enumerate(layers):
        for readout in _readouts(layer):
            for probe, less in (("linear", 0.0), ("knn", 0.04)):
                value = level(task, layer, readout, seed, bump)
                row = {**place(layer, readout), "task": task, "probe": probe, "options": "l2=1e-4"}
                row |= {"metric": "accuracy" if kind == "class" else "r2", **_around("", value - less, 0.011)}
                row |= {**_around("gain", value - base, 0.012), "n": 5000, "n_train": 18000, "validation": value}
                row |= {"untrained": round(0.45 - 0.01 * index, 4), "dim": 128, "fraction": 1.0, "shift": None}
                rows.append(row | {"seed": seed})
    gone = {"gain": None, "gain_low": None, "gain_high": None, "untrained": None, "dim": 3072}
    return [*rows, {**rows[0], **place("pixels"), **_around("", 0.38, 0.01), **gone}]


def _around(name: str, value: float, half: float) -> dict[str, float]:
    low, high = (f"{name}_low", f"{name}_high") if name else ("low", "high")
    return {name or "value": round(value, 4), low: round(value - half, 4), high: round(value + half, 4)}


def _best(task: str, rows: list[dict[str, Any]], reference: dict[str, str]) -> dict[str, Any]:
    mine = [row for row in rows if row["task"] == task and row["probe"] == "linear" and row["layer"] != "pixels"]
    at = next(row for row in mine if (row["layer"], row["readout"]) == tuple(reference.values()))
    top = max(mine, key=lambda row: row["validation"])
    chosen = top if top["gain_low"] > 0 else at
    keys = ("layer", "readout", "metric", "value", "gain", "gain_low", "gain_high")
    ends = {"reference_value": at["value"], "end_value": mine[-1]["value"]}
    among = list(dict.fromkeys([chosen["layer"], top["layer"]]))
    return {"task": task, "probe": "linear", **ends, "among": among, **{key: chosen[key] for key in keys}}


def epochs(count: int = 20) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    rest = {"images_per_second": 3100.0, "seconds": 6.4}
    return [
        {"epoch": e, "loss": 5 / e**0.3, "lr": 0.4 * (1 - e / (count + 1)), "rank": 20 + 2 * e, **rest}
        for e in range(1, count + 1)
    ]


def write(folder: Path, results: dict[str, Any], *, stem: str = "pretrain", curves: bool = True) -> Path:
    """Write a results file, and training's lines beside it; gives the results file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"probe-{stem}.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    if curves:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs()), encoding="utf-8")
    return path
