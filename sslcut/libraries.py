"""The networks that torchvision and timm know by name, read from their source: neither is imported. No torch."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sslcut.errors import InputError, UsageError, nearest

REGISTERED = re.compile(r"^@register_model\b.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
"""How both libraries' source marks the function behind a name."""


def check_named(name: str) -> None:
    """Raise UsageError where a library has no such network, with the nearest name; InputError where it is absent.

    What stands after the first dot names the weights, of which only the library itself knows; what a hub holds, only
    the hub.
    """
    library, _, network = name.partition(":")
    if library == "hf-hub":
        networks(name, "timm")
        if not re.fullmatch(r"[\w.-]+/[\w.@-]+", network):
            raise UsageError(f"`{name}` names no network of a hub", hint="write hf-hub:ORGANISATION/NAME")
        return
    known = networks(name, library)
    plain = network.partition(".")[0]
    if plain not in known:
        close = nearest(plain, known)
        hint = f"did you mean `{library}:{close}`?" if close else f"`{library}` lists {len(known):,} by `list_models()`"
        raise UsageError(f"{library} has no network `{plain}`", hint=hint)


def networks(name: str, library: str) -> frozenset[str]:
    """The names that a library registers; raises InputError where it is not installed and `name` needs it."""
    found = _registered(library)
    if not found:
        raise InputError(f"`{name}` needs the library {library}", hint=f"pip install 'sslcut[{library}]'")
    return found


@cache
def _registered(library: str) -> frozenset[str]:
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        return frozenset()
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return frozenset(name for file in files for name in REGISTERED.findall(file.read_text(encoding="utf-8")))
