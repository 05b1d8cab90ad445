"""The precision of a sweep's trainings, decided once and kept in the `run.json` of the sweep's directory. No torch."""

import hashlib
import json
from typing import Any

from sslcut.options import Options
from sslcut.recipe import Recipe
from sslcut.rundir import RunDir
from sslcut.study.sharing import Work


class Decisions:
    """What `train.precision: auto` became, for each network, method, crops, batch and data that a sweep trains."""

    def __init__(self, directory: RunDir, options: Options) -> None:
        self.directory, self.device = directory, options.device
        self.known: dict[str, dict[str, Any]] = directory.document().get("precisions", {})

    def kind(self, recipe: Recipe) -> str | None:
        """What a training must share with another to run in the same arithmetic; None where the recipe says which.

        Neither seeds nor what only changes numbers, such as a temperature or a strength, is part of it.
        """
        told = recipe.dump()
        if "pretrain" not in told["stages"] or told["train"]["precision"] != "auto":
            return None
        about = {"crops": told["views"]["crops"], "batch": told["train"]["batch_size"], "device": self.device}
        about |= {"model": told["model"], "method": told["method"]["name"], "data": told["data"]}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]

    def of(self, recipe: Recipe) -> dict[str, Any] | None:
        """The precision decided for the recipe's training, if there is one."""
        return self.known.get(self.kind(recipe) or "")

    def learn(self, work: Work) -> None:
        """Let the others have the precision that a cell's training runs in."""
        found = work.directory.document().get("precision")
        if found is not None and "pretrain" not in work.leaders:
            self.enter(work.cell.recipe, found)

    def enter(self, recipe: Recipe, precision: dict[str, Any]) -> None:
        """Decide for all trainings of the recipe's kind, unless that has been done."""
        kind = self.kind(recipe)
        if kind is not None and kind not in self.known:
            self.known[kind] = precision
            self.directory.remember(precisions=self.known)
