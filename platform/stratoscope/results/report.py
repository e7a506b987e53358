"""The building blocks of a report page; a job's own module composes them."""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from stratoscope.results.glossary import GlossaryTerm, mark_terms, terms_in

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Tone = Literal["good", "bad", "warn", "soft"]


@dataclass(frozen=True)
class TableCell:
    """A table cell with a link or a tone."""

    text: str
    href: str | None = None
    """Target of the cell's link, relative to the page."""
    tone: Tone | None = None
    """Colour of the cell; its text must carry the same meaning for colour-blind readers."""


@dataclass(frozen=True)
class Table:
    """A table of text cells."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | TableCell]]
    filtered: str | None = None
    """Label of a filter field above the table; None leaves the field out."""
    meanings: Sequence[str] = ()
    """Meaning of each column, shown when the pointer rests on its header; empty where none is given."""


@dataclass(frozen=True)
class PageSection:
    """A section of a page: a heading, paragraphs, figures and tables."""

    heading: str
    paragraphs: Sequence[str] = ()
    figures: Sequence["Figure"] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """A report: what was found, the evidence below it in folded sections, and the facts of the run."""

    title: str
    """What the run found, in a line."""
    summary: str
    """What was run, in a line or two."""
    sections: Sequence[PageSection]
    """The evidence. Each section is folded until it is opened, and unfolded in print."""
    facts: Sequence[tuple[str, str]] = field(default=())
    verdict: PageSection | None = None
    """The first screen: up to three sentences, and the figure or table that carries them. Its heading is not shown."""

    def all_sections(self) -> list[PageSection]:
        """Return the verdict, where there is one, and the sections."""
        return [*([self.verdict] if self.verdict else []), *self.sections]


def render(page: Page) -> bytes:
    """Render a page as one self-contained HTML file, with Plotly's library. All text is escaped."""
    environment = Environment(
        loader=PackageLoader("stratoscope.results"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"with_terms": _with_terms, "figure_json": _figure_json}
    template = environment.get_template("page.html")
    has_figures = any(section.figures for section in page.all_sections())
    library = _packed_library() if has_figures else None
    return template.render(page=page, plotly=library, glossary=_page_terms(page)).encode()


def _page_terms(page: Page) -> list[GlossaryTerm]:
    """Return the terms of the glossary that a page uses."""
    texts = [page.summary]
    for section in page.all_sections():
        texts += [*section.paragraphs, *(header for table in section.tables for header in table.header)]
    return terms_in("\n".join(texts))


def _with_terms(text: str) -> Markup:
    """Return an escaped text whose terms show their definitions and lead to the glossary."""
    parts = [
        Markup('<a class="term" href="#{}" title="{}">{}</a>').format(part.term.anchor, part.term.definition, part.text)
        if part.term
        else Markup.escape(part.text)
        for part in mark_terms(text)
    ]
    return Markup("").join(parts)


@cache
def _packed_library() -> str:
    """Return Plotly's library, gzipped, in base64: two megabytes instead of five."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _figure_json(figure: "Figure") -> str:
    """Return a figure as JSON that is safe inside a script element."""
    content: str = figure.to_json()
    return content.replace("<", "\\u003c")
