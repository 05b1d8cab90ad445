"""The header of a safetensors file: read it, write a file, copy the blocks that a cut keeps. No torch.

A safetensors file is 8 bytes of length, that many bytes of JSON (tensor name → dtype, shape, byte range; and
`__metadata__`, text to text), then the tensors' bytes. sslcut keeps one JSON document in the metadata's `sslcut`.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from sslcut.atomic import replacing
from sslcut.errors import InputError
from sslcut.names import norm_behind

FORMAT = 1
PREFIX_TOKENS = 1  # how many tokens stand before the patches where a document does not say: the class token
PICKLED = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how a file of torch.save begins
MAX_HEADER = 100_000_000  # bytes; the safetensors library refuses more
DTYPE_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor as the header lists it: `start` and `end` are byte offsets after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any tensor is read."""

    path: Path
    raw: bytes
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    @cached_property
    def identity(self) -> str:
        """The sha256 of the header, which holds each block's hash: it names the file's whole contents."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def data_start(self) -> int:
        """Where the tensors' bytes begin in the file."""
        return len(self.raw)

    @cached_property
    def document(self) -> dict[str, Any]:
        """sslcut's document; raises InputError where the file is not a checkpoint of sslcut's, or of a later format."""
        text = self.metadata.get("sslcut")
        if text is None:
            raise InputError(
                f"{self.path} is not a checkpoint of sslcut: its metadata holds no `sslcut`",
                hint=f"`sslcut import {self.path}` makes one of it, where it holds a network",
            )
        try:
            document = json.loads(text)
            number = document["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.path}: the metadata's `sslcut` is damaged ({error})", hint=_REMAKE) from error
        if number != FORMAT:
            raise InputError(f"{self.path} has format {number}, this sslcut reads {FORMAT}", hint="upgrade sslcut")
        return document

    @property
    def names(self) -> list[str]:
        """The names of the file's blocks, in order; raises InputError where it holds no network."""
        try:
            return [block["name"] for block in self.document["chain"]]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} holds no network", hint="name a checkpoint, not a state or predictions"
            ) from error

    def norm_behind(self, name: str) -> bool:
        """Whether the network's final norm stands behind a block and is as wide: normed read-outs can pass it."""
        return norm_behind(name, self.names, [block["width"] for block in self.document["chain"]])

    @property
    def class_token(self) -> bool:
        """Whether a class token stands before the patches, where blocks give tokens."""
        return bool(self.document.get("class_token", self.document.get("prefix_tokens", PREFIX_TOKENS)))

    @cached_property
    def owners(self) -> dict[str, list[str]]:
        """Block name → names of its tensors; raises InputError where a tensor belongs to no block or to two."""
        try:
            parts = {block["name"]: block["tensors"] for block in self.document["chain"]}
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.path}: the chain in its metadata is damaged", hint=_REMAKE) from error
        return own(parts, self.entries, str(self.path))


_OF_A_NETWORK = {"model": dict, "chain": list, "readout": str, "input": dict, "history": list}
_OF_A_BLOCK = {
    "name": str, "tensors": list, "width": int, "spatial": list, "parameters": int, "flops": int, "sha256": str,
}  # fmt: skip
_REMAKE = "make it again, or restore it from a copy"


def read_network(path: Path | str) -> Header:
    """The header of a file that holds a network, with all that it must say; raises InputError as `read` does."""
    header = read(path)
    document, names = header.document, header.names
    for part in (document, *document["chain"]):
        fields: Mapping[str, type] = _OF_A_NETWORK if part is document else _OF_A_BLOCK
        for key, kind in fields.items():
            if not isinstance(part.get(key), kind):
                raise InputError(f"{path}: its metadata says no `{key}`", hint=_REMAKE)
    if not names:
        raise InputError(f"{path} holds no block", hint=_REMAKE)
    return header


def own(parts: Mapping[str, Sequence[str]], tensors: Iterable[str], where: str) -> dict[str, list[str]]:
    """Give each tensor to the one block whose `parts` (full names, or prefixes that end in a dot) name it.

    Raises InputError naming a tensor that no block, or more than one, claims; `where` is the file, for the message.
    """
    exact = {part: name for name, mine in parts.items() for part in mine if not part.endswith(".")}
    prefixes = [(part, name) for name, mine in parts.items() for part in mine if part.endswith(".")]
    owners: dict[str, list[str]] = {name: [] for name in parts}
    for tensor in sorted(tensors):
        # a full name comes first: a library's `classifier.0.weight` may be of another block than our `classifier.`
        claims = {exact[tensor]} if tensor in exact else {name for part, name in prefixes if tensor.startswith(part)}
        if len(claims) != 1:
            found = f"two blocks: {', '.join(sorted(claims))}" if claims else "no block of the chain"
            raise InputError(f"{where}: tensor `{tensor}` belongs to {found}", hint=_REMAKE)
        owners[claims.pop()].append(tensor)
    return owners


def is_foreign(path: Path) -> bool:
    """Whether a file that is there holds tensors and is no checkpoint of sslcut's; raises InputError as `read` does."""
    return path.is_file() and (is_pickled(path) or "sslcut" not in read(path).metadata)


def is_pickled(path: Path) -> bool:
    """Whether a file is one of `torch.save`'s; raises InputError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            start, size = file.read(9), os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise InputError(f"no file at {path}", hint="check the path") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return start[:2] in PICKLED and _length(start, size) is None


def _length(start: bytes, size: int) -> int | None:
    """How long a file's safetensors header is, by the first nine bytes; None where it has none.

    It is to be asked before anything else that a file may begin with: any two bytes are the low end of some length.
    """
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
    return length if start[8:] == b"{" and 2 <= length <= min(MAX_HEADER, size - 8) else None


def read(path: Path | str) -> Header:
    """Read a safetensors file's header; raises InputError (exit 3) where it is missing, truncated or something else."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _parse(path, file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise InputError(f"no checkpoint at {path}", hint="`sslcut pretrain` makes one") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _parse(path: Path, file: BinaryIO, size: int) -> Header:
    start = file.read(9)
    length = _length(start, size)
    if length is None:
        raise _something_else(path, start, size)
    text = start[8:] + file.read(length - 1)
    try:
        fields = json.loads(text)
        metadata = dict(fields.pop("__metadata__", {}))
        entries = {
            name: Entry(field["dtype"], tuple(field["shape"]), *field["data_offsets"]) for name, field in fields.items()
        }
        end = _check_ranges(entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: its safetensors header is damaged ({error})", hint=_REMAKE) from error
    if end != size - 8 - length:
        raise InputError(
            f"{path} is truncated or padded: {size - 8 - length} bytes of tensors, its header lists {end}", hint=_REMAKE
        )
    return Header(path, start[:8] + text, entries, metadata)


def _something_else(path: Path, start: bytes, size: int) -> InputError:
    """The fault of a file that has no safetensors header, which says what it is where its first bytes tell."""
    if start[:2] in PICKLED:
        what, hint = f"{path} is a pickled PyTorch file, not safetensors", f"`sslcut import {path}` converts it"
    elif start[:8] == b"version ":
        what, hint = f"{path} is a Git LFS pointer: the file itself is elsewhere", "`git lfs pull` fetches it"
    elif start.lstrip()[:1] == b"<":
        what, hint = f"{path} is a web page, not a checkpoint", "download the file that the page links to"
    else:
        what, hint = f"{path} is not a safetensors file, or is truncated ({size} bytes)", _REMAKE
    return InputError(what, hint=hint)


def _check_ranges(entries: Mapping[str, Entry]) -> int:
    """The byte after the last tensor; raises ValueError unless the ranges tile the data and fit dtype and shape."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        bits = DTYPE_BITS[entry.dtype]
        for side in entry.shape:
            bits *= side
        if entry.start != at or entry.end - entry.start != bits // 8 or min(entry.shape, default=0) < 0:
            raise ValueError(f"tensor {name} does not fit its byte range")
        at = entry.end
    return at


def encode(entries: Mapping[str, Entry], document: Mapping[str, Any], extra: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a header (length and JSON, padded so that the tensors begin at a multiple of 8)."""
    metadata = {"format": "pt", "sslcut": json.dumps(document, allow_nan=False, separators=(",", ":")), **(extra or {})}
    fields: dict[str, Any] = {"__metadata__": metadata}
    for name, entry in entries.items():
        fields[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [entry.start, entry.end]}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def identity_of(raw: bytes) -> str:
    """The identity that a file with this header has."""
    return hashlib.sha256(raw).hexdigest()


@dataclass(frozen=True)
class Cut:
    """A cut that is planned: the new file's header, and the byte ranges of the old one's data that follow it."""

    raw: bytes
    ranges: list[tuple[int, int]]

    @property
    def size(self) -> int:
        """Bytes that the new file will have."""
        return len(self.raw) + sum(end - start for start, end in self.ranges)


def plan_cut(source: Header, kept: Sequence[str], document: Mapping[str, Any]) -> Cut:
    """Plan a file that holds the blocks `kept` of `source` and says `document`; reads no tensor."""
    wanted = {tensor for block in kept for tensor in source.owners[block]}
    entries: dict[str, Entry] = {}
    ranges: list[tuple[int, int]] = []
    at = 0
    for name, entry in sorted(source.entries.items(), key=lambda item: item[1].start):
        if name not in wanted:
            continue
        length = entry.end - entry.start
        entries[name] = Entry(entry.dtype, entry.shape, at, at + length)
        at += length
        if ranges and ranges[-1][1] == entry.start:
            ranges[-1] = (ranges[-1][0], entry.end)
        else:
            ranges.append((entry.start, entry.end))
    return Cut(encode(entries, document), ranges)


def write_cut(source: Header, cut: Cut, target: Path) -> None:
    """Write a planned cut to `target`, whole or not at all; the kept bytes never pass through Python."""
    with open(source.path, "rb") as old, replacing(target) as new:
        new.write(cut.raw)
        new.flush()
        for start, end in cut.ranges:
            _copy(old.fileno(), new.fileno(), source.data_start + start, end - start)


def _copy(source: int, target: int, offset: int, count: int) -> None:
    """Append `count` bytes from `offset` of one descriptor to the other, in the kernel where it can."""
    while count:
        moved = 0
        with suppress(OSError, AttributeError):
            moved = os.copy_file_range(source, target, min(count, 1 << 30), offset_src=offset)
        if not moved:
            block = os.pread(source, min(count, 1 << 22), offset)
            moved = os.write(target, block)
            if not block:
                raise InputError("the checkpoint became shorter while it was read", hint="cut it again")
        offset += moved
        count -= moved
