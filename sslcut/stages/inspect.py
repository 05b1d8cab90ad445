"""What a checkpoint holds: the layers it can be cut at, their shapes and cost, its history. No torch.

Of a file of another project, which torch opens: whose it is, and the networks and parts in it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslcut import header
from sslcut.events import Event, Note, Result
from sslcut.inputs import Given


def run(given: Given) -> Iterator[Event]:
    """Yield the checkpoint's blocks as a table of notes, then its path with everything as numbers."""
    if header.is_foreign(given.checkpoint):
        yield from foreign(given.checkpoint)
        return
    source = header.read_network(given.checkpoint)
    document = source.document
    source.owners  # noqa: B018  raises where a tensor belongs to no block, which a listing must not hide
    for line in table(document):
        yield Note(line)
    yield Note(f"read-out {document['readout']}, input {document['input']['size']} px, {_recipe(document)}")
    for entry in document["history"]:
        yield Note(f"{entry['stage']}: {_options(entry.get('options', {}))}")
    yield Result(str(source.path), describe(source))


def foreign(path: Path) -> Iterator[Event]:
    """Yield whose file it is, its networks and its parts, then its path with the same as numbers."""
    from sslcut.foreign.contents import groups, read

    contents = read(path)
    networks = contents.networks()
    yield Note(f"{contents.dialect.title}'s file, no checkpoint of sslcut's: `sslcut import {path}` makes one of it")
    for each in networks:
        place = f"under `{each['prefix']}`" if each["prefix"] else "without a prefix"
        yield Note(f"{each['branch']}: {each['arch']} {place}, {each['tensors']} tensors")
    parts = groups(contents.tensors)
    for part, count in parts.items():
        yield Note(f"  {part}: {count} tensors")
    yield Result(str(path), {"dialect": contents.spoken, "networks": networks, "parts": parts})


def named(name: str) -> Iterator[Event]:
    """Yield the blocks of a network that a library knows by its name, without its weights; then the name itself."""
    from sslcut.foreign.named import outline

    document = outline(name)
    for line in table(document):
        yield Note(line)
    yield Note(f"read-out {document['readout']}, input {document['input']['size']} px, without weights")
    yield Result(name, document)


def describe(source: header.Header) -> dict[str, Any]:
    """Everything that the header says, for `--json`."""
    document = source.document
    keys = ("model", "chain", "readout", "input", "recipe", "history", "metrics")
    return {"identity": source.identity, "bytes": _size(source), **{key: document.get(key) for key in keys}}


def table(document: dict[str, Any]) -> list[str]:
    """The chain as aligned lines: name, output, parameters, and the cost of reading there."""
    rows = [("layer", "output", "parameters", "FLOPs up to here")]
    flops = 0
    for block in document["chain"]:
        flops += block["flops"]
        shape = " × ".join(str(side) for side in [block["width"], *block["spatial"]])
        rows.append((block["name"], shape, f"{block['parameters']:,}", f"{flops:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3))]) for row in rows]


def _recipe(document: dict[str, Any]) -> str:
    recipe = document.get("recipe") or {}
    return f"recipe {recipe.get('name', 'unknown')}"


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) or "no options"


def _size(source: header.Header) -> int:
    return source.data_start + max((entry.end for entry in source.entries.values()), default=0)
