"""Made-up studies: results of conditions and seeds whose scores and measures are planted."""

from copy import deepcopy
from pathlib import Path
from random import Random
from zlib import crc32

import report_data

from sslcut.claims import Study
from sslcut.render.gather import Found
from sslcut.render.results import Document

TASKS = {"shape": "class", "hue": "angle", "size": "number"}
HUE = {
    "says": "Hue is read better at the backbone",
    "value": {"task": "hue", "layer": "backbone"},
    "less": {"layer": "projector"},
}


def recipe(changes, study=None):
    """The made-up recipe with dotted keys changed."""
    made = deepcopy(report_data.RECIPE) | ({"study": study} if study else {})
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = made
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return made


def result(changes, seed, scores=None, measures=None, *, study=None, noise=0.0):
    """One cell's results document: `scores` by (task, layer), `measures` by (name, layer), both over a formula's."""
    made = report_data.document(seed=seed, tasks=TASKS, recipe=recipe({**changes, "seed": seed}, study))
    made["checkpoint"]["identity"] = f"{crc32(str(changes).encode()):x}{seed:02d}".rjust(64, "0")
    draw = Random(f"{changes}{seed}")
    for row in made["results"]:
        planted = (scores or {}).get((row["task"], row["layer"]))
        if row["probe"] == "linear" and planted is not None:
            row["value"] = planted + draw.gauss(0, noise)
    made["measures"] += [
        {**report_data.place(layer), "measure": name, "value": value}
        for (name, layer), value in (measures or {}).items()
    ]
    return made


def found(documents):
    """Documents as a report finds them, each in a folder of its own."""
    read = [Document.model_validate(document) for document in documents]
    return [Found(Path(f"/cells/{number:02d}/probe-pretrain.json"), one) for number, one in enumerate(read)]


def study(*claims, **more):
    """A study of these claims, the first one where none is given."""
    return Study.model_validate({"claims": list(claims) or [HUE], **more}, strict=False)
