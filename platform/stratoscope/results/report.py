"""The building blocks of a report page; a job's own module composes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Table:
    """A table of text cells."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, paragraphs, then figures and tables."""

    heading: str
    paragraphs: Sequence[str] = ()
    figures: Sequence["Figure"] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """A report: a title, the facts of the run, and sections."""

    title: str
    summary: str
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]] = field(default=())


def render(page: Page) -> bytes:
    """Return a page as one self-contained HTML file, plots and their library included. All text is escaped."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("stratoscope.results"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html")
    return template.render(page=page, plotly=get_plotlyjs(), figure_html=_figure_html).encode()


def _figure_html(figure: "Figure") -> str:
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return html
