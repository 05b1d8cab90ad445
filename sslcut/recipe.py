"""Recipes: a file or a bundled name becomes a checked Recipe, or an error with every fault and its line.

Checking needs pydantic, which is imported at the first recipe, and never torch.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslcut.bundled import bundled, bundled_path, describe
from sslcut.draft import Draft, data_folder, setting
from sslcut.errors import UsageError, nearest, suggestion
from sslcut.marked import Marked, Place, Problem, everywhere, refusal
from sslcut.merge import normalise
from sslcut.yamltext import read

if TYPE_CHECKING:
    from sslcut.sections import Recipe

__all__ = ["Recipe", "bind", "bundled", "bundled_path", "check", "describe", "load", "load_stored"]

LARGEST = 1_000_000  # bytes of a recipe's text
OF_ONE_TEXT = ("name", "description", "verified")  # said of one recipe, not of those that extend it
_SUFFIXES = (".yaml", ".yml")


def __getattr__(name: str) -> Any:
    """`Recipe`, whose module brings pydantic, is there for whoever asks."""
    if name == "Recipe":
        from sslcut.sections import Recipe

        return Recipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    source: str | Path | None = None,
    sets: Sequence[str] = (),
    *,
    seed: int | None = None,
    folder: str | Path | None = None,
) -> "Recipe":
    """The recipe in a file or of a bundled name (`default` where None), with what the command line says over it.

    `sets` are `KEY=VALUE` texts, `folder` is `--data`. Raises UsageError for a recipe that is not there, RecipeError
    with every fault of one that is.
    """
    path, shown = _locate(str(source or "default"))
    return bind(_draft(_texts(path, shown), sets, seed, folder))


def load_stored(
    stored: Mapping[str, Any],
    sets: Sequence[str] = (),
    *,
    seed: int | None = None,
    folder: str | Path | None = None,
) -> "Recipe":
    """The recipe that a checkpoint holds, with what the command line says over it; raises as `load` does."""
    text = normalise(everywhere(dict(stored), Place("the checkpoint's recipe")))
    return bind(_draft((text,), sets, seed, folder))


def rooted(stored: Mapping[str, Any], run: Path) -> Mapping[str, Any]:
    """A checkpoint's recipe with the absolute paths that it keeps to itself, where its run directory's recipe is it.

    A resized checkpoint's recipe has another `model`.
    """
    try:
        full = load(run / "recipe.yaml")
    except UsageError:
        return stored
    model = {"model": stored.get("model")}
    return {**full.dump(), **model} if {**full.stored(), **model} == stored else stored


def bind(draft: Draft, cell: Sequence[Marked] | None = None) -> "Recipe":
    """The checked recipe of all layers, those of a sweep's cell included. Raises RecipeError with every fault."""
    recipe, problems = check(draft, cell)
    if recipe is None:
        raise refusal(problems)
    return recipe


def check(draft: Draft, cell: Sequence[Marked] | None = None) -> "tuple[Recipe | None, list[Problem]]":
    """The recipe of all layers, or None and everything that is wrong with it."""
    from pydantic import ValidationError

    from sslcut.faults import explain
    from sslcut.sections import Recipe

    text = draft.merged(cell)
    problems = list(text.problems)
    try:
        recipe = Recipe.model_validate_json(json.dumps(text.data))
    except ValidationError as error:
        return None, problems + explain(error, text)
    recipe._draft = draft
    return (None if problems else recipe), problems


def _draft(texts: tuple[Marked, ...], sets: Sequence[str], seed: int | None, folder: str | Path | None) -> Draft:
    fixed = [setting(each) for each in sets]
    if folder is not None:
        texts = (*texts, data_folder(texts, fixed, str(folder)))
    if seed is not None:
        fixed.append(everywhere({"seed": seed}, Place("--seed")))
    return Draft(texts, tuple(fixed))


def _locate(source: str) -> tuple[Path, str]:
    """The file that `source` means, and what messages call it."""
    named = bundled()
    if source in named:
        return named[source], _shown(named[source])
    path = Path(source)
    if os.path.isdir(path):
        raise UsageError(f"{source} is a folder, not a recipe", hint=f"a run's recipe is {path / 'recipe.yaml'}")
    if os.path.exists(path):
        return path, source
    if path.suffix not in _SUFFIXES and len(path.parts) == 1:
        raise UsageError(f"no recipe `{source}`", hint=suggestion(source, named, "a file, or bundled"))
    close = nearest(path.name, [each.name for each in _beside(path.parent)])
    name = nearest(path.stem, named)
    hint = (
        f"did you mean `{path.with_name(close)}`?" if close else f"did you mean the bundled `{name}`?" if name else ""
    )
    raise UsageError(f"no recipe file {source}", hint=hint or "`sslcut recipes` lists the bundled ones")


def _beside(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in _SUFFIXES] if os.path.isdir(folder) else []


def _shown(path: Path) -> str:
    """A path as messages name it: from the working directory where it lies below that."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


def _texts(path: Path, shown: str) -> tuple[Marked, ...]:
    """A recipe's text and those that it extends, the oldest ancestor first."""
    texts: list[Marked] = []
    seen: list[Path] = []
    while True:
        text = _text(path, shown)
        own = text.without(("extends",) if not texts else ("extends", *OF_ONE_TEXT))
        seen.append(path.resolve())
        parent = _parent(text, seen)
        texts.append(replace(own, problems=(*own.problems, parent)) if isinstance(parent, Problem) else own)
        if not isinstance(parent, Path):
            break
        path, shown = parent, _shown(parent)
    named = {"name": seen[0].stem, **texts[0].data}
    return (*reversed(texts[1:]), replace(texts[0], data=named))


def _parent(text: Marked, seen: Sequence[Path]) -> Path | Problem | None:
    """The file that a text extends, or what is wrong with its `extends`; `seen` are the files so far, its own last."""
    asked, place = text.get(("extends",)), text.place(("extends",))
    if asked is None:
        return None
    if not isinstance(asked, str):
        return Problem(place, "`extends` must be a file or the name of a bundled recipe", "write `extends: default`")
    beside = seen[-1].parent / asked
    found = beside if os.path.isfile(beside) else bundled().get(asked)
    if found is None:
        known = [path.name for path in _beside(seen[-1].parent) if path != seen[-1]]
        hint = suggestion(asked, dict.fromkeys([*known, *bundled()]), "beside it, or bundled")
        return Problem(place, f"`extends` names no recipe: `{asked}`", hint)
    if found.resolve() in seen:
        return Problem(place, f"`extends` goes in a circle: `{asked}` extends this recipe", "leave one of them out")
    return found


def _text(path: Path, shown: str) -> Marked:
    """One file's text, its choices written out; an empty mapping and the reason where it is no recipe."""
    place = Place(shown)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            return Marked({}, {(): place}, (Problem(place, f"is larger than {LARGEST} bytes: not a recipe"),))
        text = read(raw.decode("utf-8-sig"), shown)
    except OSError as error:
        return Marked({}, {(): place}, (Problem(place, f"cannot be read: {error.strerror}"),))
    except UnicodeDecodeError:
        problem = Problem(place, "is not UTF-8 text", "a recipe is a YAML text; a checkpoint is given as INPUT")
        return Marked({}, {(): place}, (problem,))
    if isinstance(text.data, dict):
        return normalise(text)
    if text.problems:
        return replace(text, data={})
    what = "is empty" if text.data is None else "is not a mapping of sections"
    problem = Problem(text.place(()), what, "`sslcut recipes default` prints a recipe to start from")
    return Marked({}, text.places, (problem,))
