"""The report as one self-contained HTML page, and as Markdown.

The page holds everything it needs, so it opens from a disk without a network: its style and script, each figure as SVG
(for paper, and where no script runs), and Vega once, which redraws the figures to the reader's width and theme.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from sslcut import __version__
from sslcut.render.chart import theme
from sslcut.render.sections import Part, Report, Section

FOLDER = Path(__file__).parent
GENERATOR = f"sslcut {__version__}"


def html(report: Report, drawings: dict[str, str]) -> str:
    """The page; `drawings` holds each figure's SVG by the figure's name."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": prose, "json": script_json}
    return environment.get_template("page.html.j2").render(
        report=report,
        generator=GENERATOR,
        drawings={name: Markup(slim(svg)) for name, svg in drawings.items()},  # drawn, and escaped, by Vega
        specs={figure.name: figure.spec for figure in report.figures},
        themes={"light": theme(), "dark": theme(dark=True)},
        bundle=Markup(_bundle()),
    )


def slim(svg: str) -> str:
    """A figure's SVG at about half its size: short coordinates, and no attribute that the page's style gives."""
    short = _COORDINATES.sub(lambda found: _DECIMALS.sub(r"\1", found[0]), svg)
    return _IDLE.sub("", short)


_COORDINATES = re.compile(r' (?:d|transform|x2|y2)="[^"]*"')
_DECIMALS = re.compile(r"(\.\d)\d+")
_IDLE = re.compile(
    r'<path class="(?:fore|back)ground" [^>]*d="(?:M0,0h0v0h0Z)?"[^>]*/>| (?:font-family|class|role|pointer-events|'
    r'aria-roledescription|aria-hidden)="[^"]*"| (?:stroke-width|opacity)="1"'
)


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script; nothing in it may end the `script` element early."""
    import vl_convert

    return (
        vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        .replace("</script", "<\\/script")
        .replace("<!--", "\\x3C!--")
    )


def script_json(value: Any) -> Markup:
    """JSON that is safe inside a `script` element: no `<` that could end it, no line separator that could break it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def prose(text: str) -> Markup:
    """A sentence with its names in backticks shown as code; everything is escaped."""
    pieces = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(pieces))


def markdown(report: Report) -> str:
    """The same content in GitHub's Markdown; figures are the SVG files beside it."""
    lines = [f"# {_inline(report.title)}", f"**{_sentence(report.answer.sentence)}**"]
    lines += [f"- {_sentence(detail)}" for detail in report.answer.details]
    lines += [f"> {_sentence(note)}" for note in report.notes]
    lines.append("\n".join(f"- {name}: {_inline(value)}" for name, value in report.facts))
    for part in report.parts:
        lines += _part(part)
    return "\n\n".join(lines) + "\n"


def _part(part: Part) -> Iterator[str]:
    level = "##"
    if part.title:
        yield f"## {_inline(part.title)}"
        level = "###"
    if part.answer:
        yield f"**{_sentence(part.answer.sentence)}**"
        yield from (f"- {_sentence(detail)}" for detail in part.answer.details)
    for section in part.sections:
        yield f"{level} {section.title}"
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    yield from map(_sentence, section.prose)
    for figure in section.figures:
        yield f"**{_inline(figure.title)}**"
        yield f"![{_inline(figure.alt)}](figures/{figure.name}.svg)"
        yield _inline(figure.caption)
    for table in section.tables:
        yield f"**{_inline(table.title)}**"
        yield table.markdown()
    for name, text in section.blocks:
        yield f"{name}:"
        yield "\n".join(f"    {line}" for line in text.splitlines())


def _sentence(text: str) -> str:
    """A sentence whose names stand in backticks: those stay, the rest is escaped."""
    return "`".join(piece if i % 2 else _inline(piece) for i, piece in enumerate(text.split("`")))


def _inline(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    for character in "\\`*_[]":
        text = text.replace(character, f"\\{character}")
    return text
