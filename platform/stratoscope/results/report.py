"""The building blocks of a report page; a job's own module composes them."""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, PackageLoader

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
    """A report: a title, the facts of the run, and sections."""

    title: str
    summary: str
    sections: Sequence[PageSection]
    facts: Sequence[tuple[str, str]] = field(default=())


def render(page: Page) -> bytes:
    """Render a page as one self-contained HTML file, with Plotly's library. All text is escaped."""
    environment = Environment(
        loader=PackageLoader("stratoscope.results"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html")
    has_figures = any(section.figures for section in page.sections)
    library = _packed_library() if has_figures else None
    return template.render(page=page, plotly=library, figure_json=_figure_json).encode()


@cache
def _packed_library() -> str:
    """Return Plotly's library, gzipped, in base64: two megabytes instead of five."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _figure_json(figure: "Figure") -> str:
    """Return a figure as JSON that is safe inside a script element."""
    content: str = figure.to_json()
    return content.replace("<", "\\u003c")
