"""What a file from elsewhere holds: whose it is, and which networks stand in it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslcut.errors import InputError
from sslcut.foreign.architecture import recognised
from sslcut.foreign.dialect import TRAINING, Branch, Dialect
from sslcut.foreign.layouts import Named, Root, renamed, roots
from sslcut.foreign.opening import tensors_in
from sslcut.registry import DIALECTS

ANYWHERE = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
LEADING = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
TEACHER = {"teacher", "momentum", "ema", "target", "k"}
STUDENT = {"student", "online", "q"}


@dataclass(frozen=True)
class Contents:
    """A file's tensors by their names less wrappers, the networks among them, and the name of the dialect."""

    path: Path
    tensors: Mapping[str, Named]
    roots: Sequence[Root]
    spoken: str

    @property
    def dialect(self) -> Dialect:
        """The dialect itself."""
        found: Dialect = DIALECTS.load(self.spoken)
        return found

    def branches(self) -> dict[Branch, list[Root]]:
        """The networks of each branch; one that its name says nothing of is a student, or such a one's teacher."""
        words = {root.prefix: set(re.split(r"[._]", root.prefix)) for root in self.roots}
        teachers = [root for root in self.roots if words[root.prefix] & TEACHER]
        students = [root for root in self.roots if words[root.prefix] & STUDENT and root not in teachers]
        plain = [root for root in self.roots if root not in teachers and root not in students]
        if students and not teachers:
            return {"student": students, "teacher": plain}
        return {"student": students + plain, "teacher": teachers}

    def choose(self, asked: str | None) -> tuple[Root, Branch]:
        """The network of a branch, else of the one that the authors publish, else the only one.

        Raises InputError where the file has not the branch, or several networks of it.
        """
        branches = self.branches()
        wanted = next((branch for branch in branches if branch == asked), self.dialect.published)
        if asked is None and not branches[wanted]:
            wanted = next(branch for branch in branches if branches[branch])
        found = branches[wanted]
        if not found:
            there = ", ".join(f"`{root.prefix}`" if root.prefix else "one without a prefix" for root in self.roots)
            raise InputError(f"{self.path} holds no {wanted}; its networks: {there}", hint="leave --branch out")
        if len(found) > 1:
            listed = ", ".join(f"`{root.prefix}`" for root in found)
            what = f"{self.path} holds {len(found)} networks that could be the {wanted}: {listed}"
            raise InputError(what, hint="save the one that is wanted in a file of its own")
        return found[0], wanted

    def below(self, root: Root) -> dict[str, Named]:
        """The tensors whose names begin with a network's prefix, by the rest of their names; no other network's."""
        others = tuple(other.prefix for other in self.roots if len(other.prefix) > len(root.prefix))
        return {
            name.removeprefix(root.prefix): named
            for name, named in self.tensors.items()
            if name.startswith(root.prefix) and not name.startswith(others)
        }

    def networks(self) -> list[dict[str, Any]]:
        """Each network's branch, prefix, architecture and number of tensors."""
        found = []
        for branch, mine in self.branches().items():
            for root in mine:
                tensors = renamed(root.layout, self.below(root))
                try:
                    shapes = {name: named.tensor for name, named in tensors.items()}
                    arch = recognised(root.layout.family, shapes, self.dialect, str(self.path))["name"]
                except InputError:
                    arch = "an architecture that sslcut has not"
                found.append({"branch": branch, "prefix": root.prefix, "arch": arch, "tensors": len(tensors)})
        return found

    def ignores(self, name: str, root: Root) -> bool:
        """Whether the dialect, or any training script's habit, leaves a tensor out on purpose."""
        patterns = [*self.dialect.ignored, *TRAINING]
        inner = name.startswith(root.prefix) and any(
            re.search(pattern, name.removeprefix(root.prefix)) for pattern in root.layout.ignored
        )
        outer = not root.prefix or not name.startswith(root.prefix)
        return inner or (outer and any(re.search(pattern, name) for pattern in patterns))


def read(path: Path) -> Contents:
    """Open a file and recognise whose it is; raises InputError (exit 3) where it cannot be read or holds no network."""
    found: dict[str, Named] = {}
    for origin, tensor in tensors_in(path).items():
        name = unwrapped(origin)
        if name in found:
            what = f"tensors `{found[name].origin}` and `{origin}` are of two networks with the same names"
            raise InputError(what, place=str(path), hint="save the one that is wanted in a file of its own")
        found[name] = Named(tensor, (origin,))
    networks = roots(found)
    if not networks:
        listed = ", ".join(f"`{name}`" for name in list(found)[:3]) or "none"
        what = f"{path} holds no ResNet or vision transformer that sslcut knows; its tensors: {listed}, …"
        raise InputError(what, hint="`sslcut import timm:NAME` or `torchvision:NAME` takes other architectures by name")
    return Contents(path, found, networks, spoken_in(found))


def unwrapped(name: str) -> str:
    """A tensor's name less what training scripts wrap round it: `state_dict.module.encoder_q.…` → `encoder_q.…`."""
    words = [word for word in name.split(".") if word not in ANYWHERE]
    while len(words) > 1 and words[0] in LEADING:
        del words[0]
    return ".".join(words)


def spoken_in(names: Iterable[str]) -> str:
    """The first dialect all of whose marks are among the names; torchvision's has none that a network could lack."""
    listed = list(names)
    for spoken in DIALECTS:
        marks = DIALECTS.load(spoken).marks
        if all(any(re.search(mark, name) for name in listed) for mark in marks):
            return spoken
    return spoken


def groups(names: Iterable[str]) -> dict[str, int]:
    """How many tensors begin with each first word, the most frequent first."""
    return dict(Counter(name.split(".")[0] for name in names).most_common())
