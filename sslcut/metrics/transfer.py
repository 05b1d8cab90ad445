"""The transfer protocol of t-ReX (arXiv 2206.15369): what a read-out is worth on each task, hyper-parameters searched.

A fifth of every class is held out of the training images, Optuna's TPE searches the hyper-parameters that do best
there, those are fitted again on all training images, and the test images are looked at once. Several seeds, each with
held-out images and a search of its own, are averaged. `logodds` makes one score of all tasks.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from math import log
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sslcut.data.images import Task
from sslcut.data.strata import deal_groups
from sslcut.errors import InputError
from sslcut.metrics.descent import Descent
from sslcut.metrics.design import Affine, Design, beside
from sslcut.metrics.layer import Fit, Fold, Layer, Sheet, check_finite, class_count, defined
from sslcut.metrics.linear import predict, solve
from sslcut.metrics.rows import Passing, Scaler, scaled
from sslcut.metrics.score import METRICS, values

if TYPE_CHECKING:
    from optuna import Trial

HELD_OUT = 0.2  # of each class
C = (1e-5, 1e6)  # the bounds of the search
Settings = dict[str, float]
Predictor = Callable[[Tensor], Tensor]
"""Row indices (n,) to the predictions of these rows."""


def transfer(
    read: Sequence[Layer],
    tasks: Mapping[str, Task],
    folds: Sequence[Fold],
    *,
    seed: int,
    memory: int,
    group: Tensor | None,
    trials: Annotated[int, Field(ge=1)] = 30,
    seeds: Annotated[int, Field(ge=1)] = 3,
    solver: Literal["logistic", "sgd"] = "logistic",
    layers: Literal["reference", "all"] = "reference",
) -> list[Fit]:
    """Fits every task on every layer that is `read`; a fit's predictions have the seeds as their first dimension.

    `logistic` is logistic regression of the raw features with C log-uniform in [1e-5, 1e6]; `sgd`, for large sets, is
    SGD on l2-normalised ones. Numbers and angles have a ridge regression at alpha = 1 / C with both. `layers` is what
    `read` holds: the reference, or all. Rows of a `group` (N,) are held out together. Raises InputError where Optuna
    is not installed or features are not finite.
    """
    found = []
    for layer in read:
        check_finite(layer)
        for name, task in tasks.items():
            sheet = Sheet(name, task, seeds)
            kind = Descent if solver == "sgd" and task.kind == "class" else Penalised
            chosen = []
            for index in range(seeds):
                for fold in folds:
                    repeat = _Repeat(layer, task, fold, kind, memory, group, _own_seed(seed, index))
                    chosen.append(repeat.fill(sheet, index, trials))
            found.append(sheet.fit(layer, "transfer", setting=f"{solver} trials={trials}", chosen=_shown(chosen)))
    return found


def _own_seed(seed: int, index: int) -> int:
    """A seed for each repeat: those of neighbouring recipe seeds have none in common."""
    return (65_537 * seed + index) % 2**32


class _Repeat:
    """One search on one fold, and the two fits that follow it."""

    def __init__(
        self,
        layer: Layer,
        task: Task,
        fold: Fold,
        kind: "type[Penalised | Descent]",
        memory: int,
        group: Tensor | None,
        seed: int,
    ) -> None:
        self.layer, self.task, self.fold, self.kind = layer, task, fold, kind
        self.memory, self.group, self.seed = memory, group, seed

    def fill(self, sheet: Sheet, index: int, trials: int) -> Settings:
        """Fills in a seed's predictions of the fold's test and validation rows; returns what the search chose.

        Test is predicted by a fit on all labelled training rows, validation by one that has not seen it.
        """
        rows, fold = self._labelled(self.fold.final), self.fold
        best = self._search(rows, trials)
        sheet.tested[index, fold.test] = self._fit(rows, best)(fold.test)
        sheet.validated[index, fold.validation] = self._fit(self._labelled(fold.train), best)(fold.validation)
        sheet.rows.append(len(rows))
        return best

    def _search(self, rows: Tensor, trials: int) -> Settings:
        group = None if self.group is None else self.group[rows]
        held = held_out(self.task.take(rows), group, self.seed)
        kept = rows if held.all() else rows[~held]  # of one image a class nothing can be spared
        fitting, judged = self._solver(kept), rows[held]
        truth = self.task.values[judged]
        metric = METRICS["accuracy" if self.task.kind == "class" else "r2"]

        def score(settings: Settings) -> float:
            predicted = fitting.fit(settings)(judged)
            return float(values(metric(predicted[None], truth), len(judged)).nan_to_num(nan=0.0))

        return search(self.kind.draw, score, trials, seed=self.seed, multivariate=self.kind.multivariate)

    def _fit(self, rows: Tensor, settings: Settings) -> Predictor:
        return self._solver(rows).fit(settings)

    def _solver(self, rows: Tensor) -> "Penalised | Descent":
        return self.kind(self.layer.features, self.task, rows, memory=self.memory, seed=self.seed)

    def _labelled(self, rows: Tensor) -> Tensor:
        return rows[defined(self.task)[rows]].sort().values  # a file is read in its order


class Penalised:
    """Logistic regression of raw features, or ridge regression of numbers and angles, on some `rows` at any C."""

    multivariate = False

    def __init__(self, features: Tensor, task: Task, rows: Tensor, *, memory: int, seed: int) -> None:
        """`features` (N, D) and the task's values are of all rows; the `seed` changes nothing."""
        self.features, self.kind, self.rows = features, task.kind, rows
        self.task = task.take(rows)
        self.scaler = Scaler(features, rows, "raw")  # centring alone: the intercept makes up for it
        spare = memory - beside(len(rows), self.scaler.width, class_count(task) if task.kind == "class" else 2)
        self.design = Design(scaled(features, rows, self.scaler, spare))
        self.solved: dict[float, Affine] = {}

    @staticmethod
    def draw(trial: "Trial") -> Settings:
        """What a trial tries."""
        return {"C": trial.suggest_float("C", *C, log=True)}

    def fit(self, settings: Settings) -> Predictor:
        """The optimum of scikit-learn's `LogisticRegression(C)`, or `Ridge(1 / C)`, from the nearest one known."""
        l2 = 1 / (settings["C"] * len(self.rows))
        near = min(self.solved, key=lambda other: abs(log(other / l2)), default=None)
        start = None if near is None else self.solved[near]
        ((_, fitted),) = solve(self.design, self.task, torch.tensor([l2]), start=start)
        self.solved[l2] = fitted
        return lambda rows: predict(fitted, Passing(self.features, rows, self.scaler), self.kind)[0]


def held_out(task: Task, group: Tensor | None, seed: int) -> Tensor:
    """Which rows (n,) are held out: a fifth of each class and at least one of its images, of numbers a fifth.

    Where `group` (n,) is given, about as many, in whole groups, unless there is only one.
    """
    labels = task.values if task.kind == "class" else torch.zeros(len(task.values), dtype=torch.int64)
    if group is not None and len(torch.unique(group)) > 1:
        return deal_groups(group, labels, [1 - HELD_OUT, HELD_OUT], seed) == 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        members = order[labels[order] == label]
        held[members[: max(1, round(HELD_OUT * len(members)))]] = True
    return held


def search(
    draw: "Callable[[Trial], Settings]",
    score: Callable[[Settings], float],
    trials: int,
    *,
    seed: int,
    multivariate: bool = False,
) -> Settings:
    """The settings with the highest score, of equals the first tried, by a tree-structured Parzen estimator.

    Raises InputError where Optuna is not installed.
    """
    optuna = optuna_itself()
    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `multivariate`, since 2020
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=multivariate)
        study = optuna.create_study(sampler=sampler, direction="maximize")
    optuna.logging.set_verbosity(told)
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, score(draw(trial)))
    best: Settings = study.best_params
    return best


def optuna_itself() -> Any:
    """The module; raises InputError where it is not installed."""
    try:
        return import_module("optuna")
    except ImportError as error:
        raise InputError(
            "the probe `transfer` searches with Optuna, which is not installed", hint="pip install 'sslcut[transfer]'"
        ) from error


def _shown(chosen: Sequence[Settings]) -> str:
    keys = list(chosen[0])
    return " ".join(f"{key}={'/'.join(f'{settings[key]:.2g}' for settings in chosen)}" for key in keys)
