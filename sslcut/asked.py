"""What a command line means: which recipe, which run directory, and a named model brought there first."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslcut.errors import UsageError
from sslcut.events import Event, Note, Result
from sslcut.inputs import Given
from sslcut.options import Options

if TYPE_CHECKING:
    from sslcut.recipe import Recipe


def either(argument: str | None, option: str | None) -> str | None:
    """The recipe that stands as an argument or behind `--recipe`. Raises UsageError where the two differ."""
    if argument is not None and option is not None and argument != option:
        raise UsageError(f"two recipes are given: {argument} and {option}", hint="give one")
    return argument if argument is not None else option


def chosen_recipe(
    source: str | None,
    sets: list[str] | None,
    data: Path | None,
    seed: int | None,
    stored: dict[str, Any] | None = None,
) -> "Recipe":
    """The recipe that the options mean: `source`, else the one stored in the checkpoint, else `default`."""
    from sslcut import recipe as room

    if source is None and stored is not None:
        return room.load_stored(stored, sets or (), seed=seed, folder=data)
    return room.load(source, sets or (), seed=seed, folder=data)


def stored_recipe(document: dict[str, Any], recipe: str | None, given: Given) -> dict[str, Any] | None:
    """The recipe in a checkpoint, with the run directory's absolute paths where it is that directory's own."""
    from sslcut.recipe import rooted

    stored: dict[str, Any] | None = document.get("recipe")
    return dict(rooted(stored, given.checkpoint.parent)) if recipe is None and stored is not None else stored


def one_run(recipe: "Recipe", stage: str) -> "Recipe":
    """The recipe of a stage that works on one network. Raises UsageError where it is a sweep."""
    from sslcut.sweep import refuse_sweep

    refuse_sweep(recipe, stage)
    return recipe


def run_directory(recipe: str | None, sets: list[str] | None = None) -> Path:
    """`runs/NAME`, the recipe's own name or the one that is set."""
    named = [each for each in sets or () if each.partition("=")[0].strip() == "name"]
    return Path("runs") / ("default" if recipe is None and not named else chosen_recipe(recipe, named, None, None).name)


def brought(name: str, directory: Path, chosen: "Recipe", options: Options) -> Iterator[Event]:
    """Import a named model into the run directory, unless it is there, and probe it."""
    from sslcut.stages import importing

    how = importing.Options(directory=directory, dry_run=options.dry_run)
    importing.check(name, how)
    file = importing.named_file(name, directory)
    yield from (event for event in importing.run(name, how) if not isinstance(event, Result))
    if file.exists():
        from sslcut.stages import probe as stage

        yield from stage.run(Given(file), chosen, options)


def noted(note: str, events: Iterator[Event]) -> Iterator[Event]:
    """The events, after a note where there is one."""
    if note:
        yield Note(note)
    yield from events
