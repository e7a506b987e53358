"""Write the pages that follow from the code: options, commands, tables and the glossary."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import CliPositionalArg

from stratoscope.cli import VIEWS
from stratoscope.errors import EXIT_CODES
from stratoscope.pipelines.commands.compare import CompareConfig
from stratoscope.pipelines.commands.history import HistoryConfig
from stratoscope.pipelines.commands.report import ReportConfig
from stratoscope.pipelines.commands.runs import RunsConfig
from stratoscope.pipelines.jobs import JOBS, RegisteredJob
from stratoscope.pipelines.runtime.config import default_text, enum_choices
from stratoscope.pipelines.runtime.option_names import field_names
from stratoscope.results import TERMS, Column, TableRow

HERE = Path(__file__).parent
POSITIONAL = get_args(CliPositionalArg[str])[1]
TABLES_HEAD = """# Tables

The Parquet tables of each job, in the folder of the run. `stratoscope.open_run(...)` has each as a property, and
`stratoscope history --sql` queries them as JOB_TABLE. Every column can be null. This page is written by `make docs`.
"""
COMMANDS_HEAD = """# Commands and exit codes

`stratoscope JOB [options]` runs a job; `python jobs/JOB.py [options]` is the same. Four further commands show
runs. Option names may have dashes for underscores. This page is written by `make docs`.

| command | what it does |
|---|---|
"""
GLOSSARY_HEAD = """# Glossary

Reports explain these terms in place. This page is written by `make docs`.
"""
VIEW_CONFIGS = {"report": ReportConfig, "compare": CompareConfig, "history": HistoryConfig, "runs": RunsConfig}


def pages() -> dict[Path, str]:
    """Return the content of each generated page by its path."""
    options = {HERE / "reference" / f"options-{name}.md": options_page(job) for name, job in JOBS.items()}
    return options | {
        HERE / "reference" / "tables.md": tables_page(),
        HERE / "reference" / "commands.md": commands_page(),
        HERE / "concepts" / "glossary.md": glossary_page(),
    }


def glossary_page() -> str:
    """Return the page of terms as Markdown."""
    terms = sorted(TERMS, key=lambda term: term.name.lower())
    return "\n".join([GLOSSARY_HEAD, *(f"**{term.name}**  \n{term.definition}\n" for term in terms)])


def commands_page() -> str:
    """Return the page of commands, their options and exit codes as Markdown."""
    summaries = {f"[{name}](options-{name}.md)": job.summary for name, job in JOBS.items()}
    summaries |= {f"[{name}](#{name})": summary for name, (summary, _) in VIEWS.items()}
    lines = [f"| {name} | {_escaped(summary)} |" for name, summary in summaries.items()]
    for name, config_class in VIEW_CONFIGS.items():
        lines += ["", f"## {name}", "", "| option | default | meaning |", "|---|---|---|"]
        lines += [_option(_written(field_name, field), field) for field_name, field in field_names(config_class)]
    lines += ["", "## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return COMMANDS_HEAD + "\n".join(lines) + "\n"


def options_page(job: RegisteredJob) -> str:
    """Return the page of a job's options as Markdown."""
    lines = [
        f"# Options of the job `{job.name}`",
        "",
        "Every field goes into a YAML file by its section, or on the command line as `--section.field VALUE`.",
        "Lists are comma-separated or JSON. This page is written by `make docs`.",
        "",
        "| option | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in field_names(job.config_class):
        lines.append(_option(f"--{name}", field))
        entry = next((kind for kind in get_args(field.annotation) if isinstance(kind, type)), None)
        if entry is not None and issubclass(entry, BaseModel):
            lines += [_option(f"{name}[].{inner}", inner_field) for inner, inner_field in field_names(entry)]
    return "\n".join(lines) + "\n"


def tables_page() -> str:
    """Return the page of all tables as Markdown."""
    return "\n".join([TABLES_HEAD, *(line for job in JOBS.values() for line in _job_tables(job))])


def _job_tables(job: RegisteredJob) -> Iterator[str]:
    for module, tables in groupby(job.tables(), key=lambda table: table[0]):
        name = module.rpartition(".")[2]
        yield f"## {job.name}{f' --target {name}' if name != job.name else ''}\n"
        for _, table, row_type in tables:
            yield from _table(table, row_type)


def _table(name: str, row_type: type[TableRow]) -> Iterator[str]:
    yield f"### {name}\n\n{_escaped(row_type.__doc__ or '')}\n\n| column | type | meaning |\n|---|---|---|"
    yield from map(_column, row_type.columns())
    yield ""


def _column(column: Column) -> str:
    name = "one per task" if column.expanded else f"`{column.name}`"
    return f"| {name} | {column.type} | {_escaped(column.meaning)} |"


def _written(name: str, field: FieldInfo) -> str:
    """Return an argument of a command as the user writes it: a positional one in capitals, as `--help` shows it."""
    return name.upper() if POSITIONAL in field.metadata else f"--{name}"


def _option(name: str, field: FieldInfo) -> str:
    choices = enum_choices(field.annotation)
    listed = f" One of {', '.join(choices)}." if choices else ""
    return f"| `{name}` | {_default(field)} | {_escaped((field.description or '') + listed)} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default: Any = field.default
    example = isinstance(default, list) and any(isinstance(item, BaseModel) for item in default)
    return default_text(default) if example else f"`{default_text(default)}`"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


if __name__ == "__main__":
    for path, content in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
