"""Recipe text, both ways: YAML whose scalars follow version 1.2, every key with its place.

PyYAML's own loader would follow version 1.1: `1e-3` a string, `no` false, `12:30` the number 750, and a repeated key
silently winning. So only its parser is used. Its events, unlike its nodes, also tell a tag that the text spells out
from one that the parser supposed.
"""

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from sslcut.marked import Keys, Marked, Place, Problem

MOST_VALUES = 20_000  # with every alias written out: a few lines of aliases can stand for billions
DEEPEST = 40

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = ("", "~", "null", "Null", "NULL")
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")
_LONGEST_NUMBER = 300  # digits: beyond, a whole number is as good as infinite


def scalar(text: str) -> None | bool | int | float | str:
    """What an unquoted scalar means by the core schema of YAML 1.2."""
    if text in _NULLS:
        return None
    if text in _TRUTHS:
        return _TRUTHS[text]
    if len(text) < _LONGEST_NUMBER:
        if _DECIMAL.fullmatch(text):
            return int(text)
        if _OCTAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
            return int(text, base=0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text) or _NAN.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def read(text: str, source: str, *, numbered: bool = True) -> Marked:
    """The data that `text` holds, with its places; what is wrong with the text stands in `problems`.

    An empty text is None. `numbered` is false for a text that has no lines to name, as on the command line.
    """
    reader = _Reader(text, source, numbered)
    try:
        data = reader.document()
    except _Refused:
        data = None
    except yaml.YAMLError as error:
        data = None
        reader.problems.append(_not_yaml(error, text, source, numbered))
    except UnicodeError:
        data = None
        reader.problems.append(Problem(Place(source), "holds bytes that are not UTF-8 text"))
    return Marked(data, reader.places, tuple(reader.problems))


def write(data: Any) -> str:
    """`data` as YAML that `read` reads back as the same, and other readers too, whichever version they follow."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


class _Refused(Exception):
    """The text is not worth reading on; its last problem says why."""


class _Reader:
    """Makes values of the parser's events, and notes where each key and item stands."""

    def __init__(self, text: str, source: str, numbered: bool) -> None:
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self.source, self.numbered = source, numbered
        self.places: dict[Keys, Place] = {(): Place(source, int(numbered))}
        self.problems: list[Problem] = []
        self.anchors: dict[str, tuple[Any, int]] = {}  # name → its value, and how many values that is
        self.open: set[str] = set()
        self.count = 0

    def document(self) -> Any:
        """The text's one document; None where it holds none."""
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        data = self.value(next(self.events), ())
        next(self.events)
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            self.refuse(following, "a second document", "one recipe a file")
        return data

    def value(self, event: Any, keys: Keys) -> Any:
        """The value that begins with `event` and stands at `keys`."""
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.problem(event, f"the tag `{tag}`", "write the value alone: a recipe has no tags")
        if len(keys) > DEEPEST:
            self.refuse(event, f"values nested more than {DEEPEST} deep", "a recipe needs four levels")
        before = self.count
        self.grow(event, 1)
        if event.anchor is None:
            return self.content(event, keys)
        self.open.add(event.anchor)
        made = self.content(event, keys)
        self.open.discard(event.anchor)
        self.anchors[event.anchor] = made, self.count - before
        return made

    def content(self, event: Any, keys: Keys) -> Any:
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(keys)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(keys)
        return event.value if event.style else scalar(event.value)

    def mapping(self, keys: Keys) -> dict[str, Any]:
        made: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self.refuse(event, "a key that is not a word", "write `key: value`")
            key = event.value
            if key in made:
                first = self.places[*keys, key]
                self.problem(event, f"the key `{key}` a second time", f"it stands at {first} already: keep one")
            self.places[*keys, key] = self.place(event)
            made[key] = self.value(next(self.events), (*keys, key))
        return made

    def sequence(self, keys: Keys) -> list[Any]:
        made: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            here = (*keys, len(made))
            self.places[here] = self.place(event)
            made.append(self.value(event, here))
        return made

    def alias(self, event: Any) -> Any:
        if event.anchor in self.open:
            self.refuse(event, f"the alias `*{event.anchor}` inside what it names", "write the value out")
        if event.anchor not in self.anchors:
            self.refuse(
                event, f"the alias `*{event.anchor}`, which names nothing", f"mark a value with `&{event.anchor}`"
            )
        made, size = self.anchors[event.anchor]
        self.grow(event, size)
        return made

    def grow(self, event: Any, size: int) -> None:
        self.count += size
        if self.count > MOST_VALUES:
            self.refuse(event, f"more than {MOST_VALUES} values with its aliases written out", "use fewer aliases")

    def place(self, event: Any) -> Place:
        return Place(self.source, event.start_mark.line + 1 if self.numbered else 0)

    def problem(self, event: Any, what: str, hint: str) -> None:
        self.problems.append(Problem(self.place(event), f"holds {what}", hint))

    def refuse(self, event: Any, what: str, hint: str) -> NoReturn:
        self.problem(event, what, hint)
        raise _Refused


def _not_yaml(error: yaml.YAMLError, text: str, source: str, numbered: bool) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        return Problem(Place(source), "is not text: it holds control characters", "a recipe is a YAML text")
    mark = getattr(error, "problem_mark", None)
    lines = text.splitlines() or [""]
    line = min(mark.line, len(lines) - 1) if mark else 0
    shown = lines[line]
    hint = "write `key: value`, one a line, indented with spaces"
    if "\t" in shown[: len(shown) - len(shown.lstrip())]:
        hint = "indent with spaces: YAML takes no tabs"
    elif not numbered:
        hint = "put a value that holds `: `, `#`, quotes or brackets into quotes of its own"
    return Problem(Place(source, line + 1 if numbered else 0), f"is not YAML: {getattr(error, 'problem', error)}", hint)


class _Dumper(yaml.SafeDumper):
    """Quotes a string that either version of YAML would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        rare_breaks = any(mark in data for mark in "\x85\u2028\u2029")  # which PyYAML would write as they are, and fold
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if rare_breaks else None)


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(rf"(?:{_FLOAT.pattern}|{_OCTAL.pattern}|{_HEXADECIMAL.pattern})$"),
    list("-+.0123456789"),
)
