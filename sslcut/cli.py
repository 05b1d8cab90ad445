"""The command line: parse, import late, hand over, and print. Only this room prints."""

import functools
import inspect as signatures
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslcut import asked
from sslcut.events import Event
from sslcut.inputs import UNCUT, find_checkpoint, from_stdin
from sslcut.libraries import check_named
from sslcut.names import is_named
from sslcut.options import Options
from sslcut.screen import Screen, ending

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="sslcut",
    help="Measure at which layer a pretrained vision network should be read, and cut it there.",
    epilog="A first run: sslcut run",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE", help="Recipe file or bundled name; else `default`.", show_default=False),
]
InputArgument = Annotated[
    str | None,
    typer.Argument(metavar="INPUT", help="Checkpoint, run directory or results file; else stdin, else the newest."),
]
RecipeOption = Annotated[str | None, typer.Option("--recipe", "-r", metavar="FILE|NAME", help="Recipe file or name.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a recipe's key: train.epochs=2. Repeatable.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="FOLDER", help="Your images: a folder of class folders, or flat.")
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")]
OutFolderOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIRECTORY", help="The directory to write into.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; else one a core.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="The recipe's seed.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there and do the work again.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check everything and tell the plan; do no work.")]


def command(function: Callable[..., Iterator[Event]]) -> Callable[..., None]:
    """Register a command that yields events; adds the options of the screen, and turns faults into exit codes."""
    extra = signatures.signature(Screen.options).parameters

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        screen = Screen.options(**{name: kwargs.pop(name) for name in extra})
        code = ending(lambda: screen.show(function(*args, **kwargs)), debug=screen.debug)
        if code:
            raise typer.Exit(code)

    own = signatures.signature(function)
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *extra.values()])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return app.command(function.__name__.rstrip("_"), help=(function.__doc__ or "").replace("\n    ", "\n"))(run)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Measure at which layer a pretrained vision network should be read, and cut it there."""
    if version:
        from sslcut import __version__

        typer.echo(__version__)
        raise typer.Exit()


@command
def pretrain(
    source: RecipeArgument = None,
    recipe: RecipeOption = None,
    sets: SetOption = None,
    data: DataOption = None,
    out: OutFolderOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Train a network by a recipe. Prints the checkpoint's path.

    Example: sslcut pretrain --set train.epochs=2 --set 'method={name: vicreg}'
    """
    chosen = asked.one_run(asked.chosen_recipe(asked.either(source, recipe), sets, data, seed), "pretrain")
    from sslcut.stages import pretrain as stage

    return stage.run(chosen, Options(out, device, threads, force, dry_run))


@command
def guillotine(
    source: InputArgument = None,
    at: Annotated[
        str, typer.Option("--at", metavar="LAYER", help="A block's name, -N, `best` or `smallest`.")
    ] = "best",
    task: Annotated[str | None, typer.Option(help="With `--at best|smallest`: for this task alone.")] = None,
    within: Annotated[float | None, typer.Option(help="With `--at smallest`: points below the reference.")] = None,
    readout: Annotated[str | None, typer.Option(help="How a block becomes a vector: avg, grid2, cls, mean, …")] = None,
    keep_norm: Annotated[bool, typer.Option("--keep-norm", help="Keep a transformer's final norm behind it.")] = False,
    recipe: RecipeOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Cut a checkpoint at a named layer. The layer is kept; prints the new checkpoint's path.

    Example: sslcut guillotine runs/default/pretrain.safetensors --at layer4
    """
    from sslcut.stages import guillotine as stage

    given = find_checkpoint(_fed(source), asked.run_directory(recipe), UNCUT)
    options = stage.Options(at, task, within, readout, keep_norm, out, force, dry_run)
    return asked.noted(given.note, stage.run(given, options))


@command
def resize(
    source: InputArgument = None,
    width: Annotated[
        int | None, typer.Option("--width", min=1, metavar="N", help="The last block's width; else the recipe's.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="fresh draws it anew (needs training); preserve keeps the output.")
    ] = None,
    shortcut: Annotated[str | None, typer.Option(help="auto, always (a projection at every width) or never.")] = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    out: OutOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Change the width of a checkpoint's last block. Prints the new checkpoint's path.

    Example: sslcut resize runs/default/pretrain.safetensors --width 512 --init preserve
    """
    from sslcut import header
    from sslcut.stages import resize as stage

    given = find_checkpoint(_fed(source), asked.run_directory(recipe), UNCUT)
    stored = asked.stored_recipe(header.read(given.checkpoint).document, recipe, given)
    chosen = asked.chosen_recipe(recipe, None, data, seed, stored)
    wanted = stage.asked(chosen, width, init, shortcut)
    known = recipe is not None or data is not None or stored is not None  # else its data would be another's
    options = stage.Options(out, force, dry_run)
    return asked.noted(given.note, stage.run(given, wanted, options, chosen if known else None))


@command
def probe(
    source: InputArgument = None,
    recipe: RecipeOption = None,
    sets: SetOption = None,
    data: DataOption = None,
    out: OutOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Measure every layer of a checkpoint. Prints the results file's path.

    Example: sslcut probe runs/default/pretrain.safetensors --set 'probe.readouts=[avg, grid2]'
    """
    source = _fed(source)
    if source is not None and is_named(source):
        chosen = asked.one_run(asked.chosen_recipe(recipe, sets, data, seed), "probe")
        options = Options(out, device, threads, force, dry_run)
        return asked.brought(source, asked.run_directory(recipe, sets), chosen, options)
    given = find_checkpoint(source, asked.run_directory(recipe, sets))
    from sslcut import header

    stored = asked.stored_recipe(header.read(given.checkpoint).document, recipe, given)
    chosen = asked.one_run(asked.chosen_recipe(recipe, sets, data, seed, stored), "probe")
    from sslcut.stages import probe as stage

    return asked.noted(given.note, stage.run(given, chosen, Options(out, device, threads, force, dry_run)))


@command
def report(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="Results files, checkpoints or run directories.")
    ] = None,
    recipe: RecipeOption = None,
    out: OutFolderOption = None,
    title: Annotated[str | None, typer.Option(help="The page's title.")] = None,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Write tables and figures of results. Prints the report's path.

    Example: sslcut report runs/default runs/vicreg-shapes --out comparison
    """
    from sslcut.inputs import path_of, stdin_is_fed, stdin_lines
    from sslcut.stages import report as stage

    given = [Path(path) for path in paths or []]
    if given == [Path("-")] or (not given and stdin_is_fed()):
        given = [Path(path_of(line)) for line in stdin_lines("results", _tell)]
    return (stage.plan if dry_run else stage.run)(given or [asked.run_directory(recipe)], out, title)


@command
def run(
    source: RecipeArgument = None,
    recipe: RecipeOption = None,
    sets: SetOption = None,
    data: DataOption = None,
    out: OutFolderOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Cells of a sweep side by side, sharing the threads.")
    ] = 1,
) -> Iterator[Event]:
    """Do all of a recipe's stages in order. Pretrain, probe, guillotine, report; prints the report's path.

    Example: sslcut run
    """
    chosen = asked.chosen_recipe(asked.either(source, recipe), sets, data, seed)
    from sslcut import study

    return study.run(chosen, Options(out, device, threads, force, dry_run, jobs))


@command
def inspect(
    source: InputArgument = None,
    recipe: RecipeOption = None,
    sets: SetOption = None,
    data: Annotated[bool, typer.Option("--data", help="Draw images and their views into the PNG at --out.")] = False,
    out: OutOption = None,
    seed: SeedOption = None,
) -> Iterator[Event]:
    """List a checkpoint's layers and their cost. With --data, draw what a recipe's network sees.

    Example: sslcut inspect runs/default/pretrain.safetensors
    """
    if data:
        chosen = asked.chosen_recipe(asked.either(source, recipe), sets, None, seed)
        from sslcut.stages import draw

        return draw.run(chosen, out or Path("views.png"))
    from sslcut.stages import inspect as stage

    source = _fed(source)
    if source is not None and is_named(source):
        check_named(source)
        return stage.named(source)
    given = find_checkpoint(source, asked.run_directory(recipe))
    return asked.noted(given.note, stage.run(given))


@command
def export(
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="torchvision, timm or onnx.")],
    source: InputArgument = None,
    recipe: RecipeOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Write a checkpoint for torchvision, timm or ONNX. Prints the path.

    Example: sslcut export runs/default/pretrain-cut-layer4.0.safetensors --to onnx
    """
    from sslcut.stages import export as stage

    given = find_checkpoint(_fed(source), asked.run_directory(recipe))
    return asked.noted(given.note, stage.run(given, stage.Options(to, out, force, dry_run)))


@command
def import_(
    source: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A .pth, .ckpt, … file, or timm:NAME.")],
    arch: Annotated[str | None, typer.Option(metavar="NAME", help="The architecture: resnet50, vit_s, …")] = None,
    branch: Annotated[str | None, typer.Option(help="student or teacher; else the published one.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels a side that the network is fed.")] = None,
    mean: Annotated[str | None, typer.Option(metavar="R,G,B", help="What is taken off an image in [0, 1].")] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="What it is divided by.")] = None,
    out: OutOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Make a checkpoint of a network from elsewhere. Prints the new checkpoint's path.

    Example: sslcut import swav_800ep_pretrain.pth.tar --arch resnet50
    """
    from sslcut.stages import importing as stage

    fed = stage.Fed(size, stage.colour("--mean", mean), stage.colour("--std", std))
    return stage.run(source, stage.Options(arch, branch, fed, out, asked.run_directory(None), force, dry_run))


@command
def bench(
    part: Annotated[
        str | None, typer.Argument(metavar="PART", help="One hot path; else all.", show_default=False)
    ] = None,
    out: OutOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seconds: Annotated[float, typer.Option(min=0, help="About how long the turns of one contest may take.")] = 20.0,
    scale: Annotated[float, typer.Option(min=0, max=1, help="Share of each problem's full size.")] = 1.0,
    require_peers: Annotated[bool, typer.Option("--require-peers", help="An absent peer is exit 3.")] = False,
    dry_run: DryRunOption = False,
) -> Iterator[Event]:
    """Measure this machine's speed on sslcut's hot paths, beside its peers. Prints the results file's path.

    PART is startup, views, step, updates, epoch, features, files, linear, knn, cut or run.

    Example: sslcut bench knn --seconds 60
    """
    from sslcut.bench import suite
    from sslcut.bench.setting import Setting

    options = suite.Options(part, out or suite.FILE, require_peers, dry_run)
    return suite.run(options, Setting(device, threads, seconds, scale))


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this recipe.", show_default=False)] = None,
) -> None:
    """List the bundled recipes, or print one.

    Example: sslcut recipes default > mine.yaml
    """
    from sslcut.bundled import bundled, bundled_path, describe

    def listing() -> None:
        if name is not None:
            typer.echo(bundled_path(name).read_text(encoding="utf-8"), nl=False)
            return
        found = bundled()
        width = max(map(len, found))
        for each, path in found.items():
            typer.echo(f"{each.ljust(width)}  {describe(path)}")

    code = ending(listing, debug=False)
    if code:
        raise typer.Exit(code)


def _fed(source: str | None) -> str | None:
    return from_stdin(source, _tell)


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def main() -> None:
    """Run the command line; the entry point of `sslcut` and of `python -m sslcut`."""
    _occupy_streams()
    app()


def _occupy_streams() -> None:
    """Open nothing where a caller closed a standard stream, so that no file of ours is given its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
