"""How a study's networks do on data that they were not trained on: mean log-odds over data sets (no torch)."""

from collections.abc import Mapping
from statistics import fmean

from sslcut.render import compare
from sslcut.render.compare import Group, Spread
from sslcut.render.conditions import Data, Setting, data_of
from sslcut.render.results import Document


def log_odds(setting: Setting) -> tuple[list[str], dict[str, Spread]]:
    """The other data sets' names, and each condition's mean log-odds over them, with its interval over seeds.

    A network's number on one data set is that of the probe `transfer` at the reference, where it is read by the tasks
    of that data set together. The data sets are those on which every network was read that was read elsewhere at all.
    """
    read: dict[str, dict[Data, float]] = {}
    for document in (document for group in setting.elsewhere for document in group.documents):
        if (value := _mean(document)) is not None:
            read.setdefault(document.checkpoint.identity, {})[data_of(document)] = value
    known = [read[each] for group in setting.groups for each in _identities(group) if each in read]
    sets = [data for data in (known[0] if known else {}) if all(data in one for one in known)]
    found = {group.label: _over_seeds(group, read, sets) for group in setting.groups} if sets else {}
    names = [str(root or name) for name, root in sets]
    return names, {label: spread for label, spread in found.items() if spread is not None}


def _mean(document: Document) -> float | None:
    if document.reference is None:
        return None
    rows = [row for row in document.joint("transfer") if row.plain and document.is_reference(row)]
    return rows[0].value if rows else None


def _identities(group: Group) -> list[str]:
    return [document.checkpoint.identity for document in group.documents]


def _over_seeds(group: Group, read: Mapping[str, Mapping[Data, float]], sets: list[Data]) -> Spread | None:
    values = [fmean(read[each][data] for data in sets) for each in _identities(group) if each in read]
    return compare.spread(values) if values else None
