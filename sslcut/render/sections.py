"""What a report says, in order, before it is HTML or Markdown: parts of sections of prose, figures and tables.

A section without content is left out, so that a report degrades with its results: no labels, one layer, no training.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sslcut.claims import Study
from sslcut.render import (
    atlas,
    claimed,
    compare,
    curves,
    drawn,
    fairness,
    figures,
    following,
    geometry,
    online,
    ranking,
    shifts,
    study,
    table,
    words,
)
from sslcut.render.chart import Figure, slug
from sslcut.render.conditions import on_own_data
from sslcut.render.gather import Found, labels, trained_in
from sslcut.render.results import Document
from sslcut.render.table import Table
from sslcut.render.words import Answer

IN_FULL = 2  # with more results than these, each is told by its answer and its table alone


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it; `blocks` are titled texts to be shown as they are."""

    name: str
    title: str
    prose: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    blocks: tuple[tuple[str, str], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether only the heading is left."""
        return not (self.prose or self.figures or self.tables or self.blocks)


@dataclass(frozen=True)
class Part:
    """Sections under one heading: the comparison, or one result with its answer."""

    name: str
    title: str
    sections: tuple[Section, ...]
    answer: Answer | None = None


@dataclass(frozen=True)
class Report:
    """The whole report: title, the answer that leads it, what the reader must know first, facts, parts."""

    title: str
    answer: Answer
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]
    claims: tuple[dict[str, Any], ...] = ()  # of a study, each as one record

    @property
    def figures(self) -> list[Figure]:
        """Every figure, in order."""
        return [figure for part in self.parts for section in part.sections for figure in section.figures]


def report(
    found: Sequence[Found],
    title: str | None = None,
    asked: Study | None = None,
    planned: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """The report on one result, or on several and what they say together.

    Where they come from a sweep with a `study` (the one given, else their recipes' own), its claims lead; `planned` are
    the recipes of the sweep's cells.
    """
    documents = [one.document for one in found]
    notes = tuple(dict.fromkeys(note for document in documents for note in _notes(document)))
    notes += geometry.incomparable(documents)
    if len(found) == 1:
        part = Part("", "", tuple(one_result(found[0])))
        answer = words.answer(documents[0])
        return Report(title or _own_title(found), answer, notes, tuple(facts(documents[0])), (part,))
    names = labels(found)
    grouped, called = compare.groups(found, names), dict[str, str]()
    shown = study.told(found, grouped, asked, planned)
    if shown is not None:
        grouped, called = [*shown.setting.groups, *shown.setting.elsewhere], shown.names
    names = [_called(one, called, name) for one, name in zip(documents, names, strict=True)]
    cells = compare.cells(found, called)
    lines = () if shown is not None and shown.study.figure == "layers" else tuple(atlas.lines(grouped))
    side = Part("comparison", "Side by side", tuple(comparison(documents, names, cells, grouped, lines)))
    answer = compare.summary(cells, found, grouped) if shown is None else shown.answer
    parts = (*(() if shown is None else (_study(shown),)), side, *_each(found, names))
    own = _own_title(found, "Where to read" if shown is None else "What came of")
    records = () if shown is None else tuple(map(claimed.record, shown.claims))
    return Report(title or own, answer, notes, tuple(_common_facts(documents)), parts, records)


def _called(document: Document, called: Mapping[str, str], name: str) -> str:
    """What a result is called: its checkpoint's name in a study, where it is on the data of the training."""
    return called.get(document.checkpoint.identity, name) if on_own_data(document) else name


def _study(shown: study.Told) -> Part:
    claims, conditions = shown.tables
    drawn = Section("figure", "The paper's figure" if shown.of_paper else "Figure", (), shown.figures)
    judged = Section("claims", "Claims", shown.prose, (), (claims,))
    compared = Section("conditions", "Conditions", (), (), (conditions,))
    return Part("study", "What was claimed", tuple(_filled(drawn, judged, compared)))


def _own_title(found: Sequence[Found], lead: str = "Where to read") -> str:
    named = [one.document.recipe.get("report") for one in found]
    titles = {str(report["title"]) for report in named if isinstance(report, dict) and report.get("title")}
    if len(titles) == 1:
        return titles.pop()
    names = {str(one.document.recipe.get("name") or one.document.checkpoint.name) for one in found}
    return f"{lead} {names.pop()}" if len(names) == 1 else f"{lead} these networks"


def _notes(document: Document) -> Iterator[str]:
    if document.data_name == "shapes":
        yield words.DEMONSTRATION
    if untrained_since(document.history):
        yield words.RESIZED
    if document.data.get("folds", 1) > 1:
        yield words.CROSS_FITTED
    if told := words.paper(document.recipe):
        yield told


def untrained_since(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a resize drew the last block anew, and no training followed."""
    made = [entry for entry in history if entry.get("stage") in ("pretrain", "resize", "import")]
    return bool(made) and made[-1]["stage"] == "resize" and bool(made[-1].get("note"))


def facts(document: Document) -> Iterator[tuple[str, str]]:
    """What was measured: checkpoint, network, data, reference."""
    yield "Checkpoint", f"{document.checkpoint.name} ({document.checkpoint.identity[:12]})"
    if document.model:
        yield "Network", document.model if isinstance(document.model, str) else json.dumps(document.model)
    images = max((row.n for row in document.results if row.n and row.shift is None), default=0)
    yield "Data", document.data_label + (f", {images:,} test images" if images else "") or words.DASH
    if document.reference:
        yield "Reference", document.place_name(document.reference, full=True)
    yield "Measured", f"{words.counted(len(document.layers), 'layer')}, {words.counted(len(document.metrics), 'task')}"


def _common_facts(documents: Sequence[Document]) -> Iterator[tuple[str, str]]:
    yield "Results", str(len(documents))
    yield "Data", ", ".join(dict.fromkeys(one.data_label for one in documents if one.data_label)) or words.DASH
    seeds = {str(one.recipe["seed"]) for one in documents if one.recipe.get("seed") is not None}
    if seeds:
        yield "Seeds", ", ".join(sorted(seeds))


# ---- one result


def one_result(found: Found, *, curved: bool = True) -> Iterator[Section]:
    """The sections on one result; `curved` says whether training's curves belong to it."""
    document = found.document
    why = (document.recommended.why,) if document.recommended and document.recommended.why else ()
    every = [table.scores(document, probe) for probe in document.probes]
    labelless = document.measures and not document.metrics
    advised = ("These measures describe the layers; without labels nothing says which to read.",) if labelless else ()
    described = (*advised, *geometry.explained(document))
    epochs = found.epochs if curved else []
    yield from _filled(
        Section(
            "best", "Best layer of each task", why, tables=_tables(table.recommended(document), table.best(document))
        ),
        Section("scores", "Scores by layer", (), tuple(figures.by_layer(document)), _tables(*every)),
        Section("gains", "Gain over the reference", (), tuple(figures.gains(document)), _tables(table.gains(document))),
        Section("heat", "Layers and tasks", (), tuple(figures.heat(document))),
        Section("labels", "Fewer labels", (), tuple(curves.fractions(document))),
        Section(
            "controls",
            "Controls",
            tuple(fairness.prose(document)),
            (*fairness.gains(document), *curves.widths(document)),
            _tables(fairness.table(document)),
        ),
        Section("beyond", "Beyond a linear map", (), (), _tables(table.beyond_linear(document))),
        Section(
            "shifts",
            "Under shifts",
            _sentences(shifts.sentence(document)),
            tuple(shifts.figures(document)),
            _tables(shifts.best(document)),
        ),
        Section("baselines", "Baselines", (), (), _tables(table.baselines(document))),
        Section("cost", "Cost", (), tuple(curves.cost(document)), _tables(table.cost(document))),
        Section("measures", "Geometry", described, tuple(geometry.figures(document)), tuple(geometry.tables(document))),
        Section(
            "drawn", "What is known of the view", (), tuple(drawn.figures(document)), _tables(drawn.scores(document))
        ),
        Section(
            "ranking",
            "Where to cut without labels",
            tuple(ranking.prose(document)),
            (),
            _tables(ranking.table(document)),
        ),
        Section("training", "Training", _pace(epochs), tuple(curves.training(epochs))),
        Section("online", "While it trained", (), tuple(online.online(epochs))),
        Section("method", "How this was measured", tuple(words.protocol(document)) if document.metrics else ()),
        provenance(found),
    )


def _sentences(*told: str) -> tuple[str, ...]:
    return tuple(one for one in told if one)


def _tables(*made: Table | None) -> tuple[Table, ...]:
    return tuple(one for one in made if one is not None)


def _filled(*sections: Section) -> Iterator[Section]:
    return (section for section in sections if not section.empty)


def _pace(epochs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    rates = [epoch["images_per_second"] for epoch in epochs if isinstance(epoch.get("images_per_second"), int | float)]
    if not rates:
        return ()
    return (f"{words.counted(len(epochs), 'epoch')}, {sum(rates) / len(rates):,.0f} images per second on average.",)


def provenance(found: Found) -> Section:
    """Where the numbers come from: identities, data, versions, recipe, history and the run's steps."""
    document = found.document
    rows = (
        ("results file", found.path.name),
        ("checkpoint", document.checkpoint.name),
        ("identity (sha256)", document.checkpoint.identity),
        *((f"version of {name}", str(version)) for name, version in document.versions.items()),
    )
    texts = {
        "Recipe": document.recipe,
        "History": document.history,
        "Data": document.data,
        "Run": _run_facts(found.run),
    }
    blocks = tuple((name, outline(value)) for name, value in texts.items() if value)
    return Section(
        "provenance", "Provenance", (), (), (Table("Identities and versions", ("what", "value"), rows),), blocks
    )


def _run_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` adds to the history: the steps with their times, and facts such as the precision chosen."""
    steps = run.get("stages")
    kept = ("stage", "output", "seconds", "finished")
    told = {key: value for key, value in run.items() if key not in ("format", "stages")}
    if isinstance(steps, list):
        told["steps"] = [{key: step[key] for key in kept if key in step} for step in steps if isinstance(step, dict)]
    return told


def outline(value: Any, indent: str = "") -> str:
    """Nested mappings and lists as indented lines, in the manner of the recipe that they come from."""
    if isinstance(value, Mapping) and value:
        return "\n".join(_entry(f"{indent}{key}:", item, indent) for key, item in value.items())
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return "\n".join(f"{indent}- {outline(item, indent + '  ').lstrip()}" for item in value)
    return indent + (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _entry(head: str, item: Any, indent: str) -> str:
    nested = bool(item) and (
        isinstance(item, Mapping) or (isinstance(item, list) and any(isinstance(one, Mapping) for one in item))
    )
    return f"{head}\n{outline(item, indent + '  ')}" if nested else f"{head} {outline(item)}"


# ---- several results


OVER_SEEDS = (
    "Layer and read-out are the best by the mean validation score over the seeds. Intervals are 95 % t intervals over "
    "seeds: they speak of the recipe, and are never mixed with a single checkpoint's."
)


def comparison(
    documents: Sequence[Document],
    names: Sequence[str],
    cells: Sequence[compare.Cell],
    grouped: Sequence[compare.Group],
    lines: tuple[Figure, ...],
) -> Iterator[Section]:
    """The sections on what several results say together; `lines` are the recipes' figures, where they are not above."""
    seeded = [group for group in grouped if group.seeds > 1]
    spoken = (OVER_SEEDS,) if seeded else ()
    yield from _filled(
        Section("runs", "What differs", (), (), _tables(table.differences(documents, names))),
        Section("atlas", "Atlas", (), tuple(atlas.atlas(cells)), _tables(table.atlas_table(cells))),
        Section("seeds", "Over seeds", spoken, (), _tables(*(table.seeds(group) for group in seeded))),
        Section("ranking", "Where to cut without labels", *following.told(documents)),
        Section("recipes", "Recipe by recipe", (), lines if len(grouped) > 1 or seeded else ()),
    )


def _each(found: Sequence[Found], names: Sequence[str]) -> Iterator[Part]:
    seen = set()
    for index, (one, label, path) in enumerate(zip(found, names, labels(found), strict=True), 1):
        prefix = f"{index}-{slug(label)}"
        full = len(found) <= IN_FULL
        folder = trained_in(one.path.parent)
        curved = folder not in seen
        seen.add(folder)
        made = one_result(one, curved=curved) if full else _in_brief(one.document, path)
        sections = tuple(_prefixed(section, prefix) for section in made)
        yield Part(prefix, label, sections, words.answer(one.document))


def _in_brief(document: Document, path: str) -> Iterator[Section]:
    tables = _tables(table.best(document))
    title = "Best layer of each task" if tables else "Without labels"
    yield Section("best", title, (f"From {words.code(path)}.",), tables=tables)


def _prefixed(section: Section, prefix: str) -> Section:
    drawn = tuple(replace(figure, name=f"{prefix}-{figure.name}") for figure in section.figures)
    return replace(section, name=f"{prefix}-{section.name}", figures=drawn)
