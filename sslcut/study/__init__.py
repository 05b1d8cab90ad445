"""`sslcut run`: a recipe's stages in order; of a sweep, those of every cell, in turn or side by side."""

from collections.abc import Iterator
from pathlib import Path

from sslcut.events import Event, Note, Stage
from sslcut.options import Options
from sslcut.recipe import Recipe
from sslcut.rundir import RunDir
from sslcut.study import sweep
from sslcut.study.one import one
from sslcut.sweep import cells


def run(recipe: Recipe, options: Options) -> Iterator[Event]:
    """Do the recipe's stages in order, keeping those that are done; yields the last one's path.

    Raises what the stages raise; of a sweep the first failed cell's fault, when the others are through.
    """
    directory = RunDir(options.out or Path("runs") / recipe.name)
    points = cells(recipe)
    if points:
        yield from sweep.run(points, recipe, options, directory)
        return
    if options.jobs > 1:
        yield Note("--jobs is for the cells of a sweep, and this recipe has none")
    yield from (event for event in one(recipe, options, directory) if not isinstance(event, Stage))
