"""The precision of a sweep's trainings, decided once and kept in the `run.json` of the sweep's directory. No torch."""

import json
from collections.abc import Sequence
from typing import Any

from sslcut.methods.making import plain_update, second_order
from sslcut.options import Options
from sslcut.recipe import Recipe
from sslcut.rundir import RunDir
from sslcut.study.sharing import Work

EXACT = {"name": "float32", "channels_last": True}


class Decisions:
    """What `train.precision: auto` becomes in a sweep: one arithmetic for each backbone, so that its cells compare.

    It is float32 for all where the head of any cell takes second derivatives, which no other arithmetic gives.
    """

    def __init__(self, works: Sequence[Work], directory: RunDir, options: Options) -> None:
        self.directory, self.device = directory, options.device
        self.known: dict[str, dict[str, Any]] = directory.document().get("precisions", {})
        self.exact = any(_is_exact(work.cell.recipe.dump()) for work in works)

    def kind(self, recipe: Recipe) -> str | None:
        """What trainings share that run in the same arithmetic; None where that is not to be decided."""
        told = recipe.dump()
        if "pretrain" not in told["stages"] or told["train"]["precision"] != "auto" or _is_exact(told):
            return None
        return json.dumps({"backbone": told["model"]["backbone"]["name"], "device": self.device})

    def of(self, recipe: Recipe) -> dict[str, Any] | None:
        """The precision decided for the recipe's training, if there is one."""
        kind = self.kind(recipe)
        return None if kind is None else EXACT if self.exact else self.known.get(kind)

    def open(self, recipe: Recipe) -> bool:
        """Whether the recipe's training waits for a decision."""
        return self.kind(recipe) is not None and self.of(recipe) is None

    def learn(self, work: Work) -> None:
        """Let the others have the precision that a cell's training runs in."""
        found = work.directory.document().get("precision")
        if found is not None and "pretrain" not in work.leaders:
            self.enter(work.cell.recipe, found)

    def enter(self, recipe: Recipe, precision: dict[str, Any]) -> None:
        """Decide for all trainings of the recipe's kind, unless that has been done."""
        kind = self.kind(recipe)
        if kind is not None and self.open(recipe):
            self.known[kind] = precision
            self.directory.remember(precisions=self.known)


def _is_exact(told: dict[str, Any]) -> bool:
    return "pretrain" in told["stages"] and second_order(plain_update(told))
