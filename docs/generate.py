"""Write docs/options-JOB.md from the fields of each job, so that the pages never differ from the code."""

from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stratoscope.pipelines.audit import AuditConfig
from stratoscope.pipelines.faithfulness import FaithfulnessConfig
from stratoscope.pipelines.hallucination import HallucinationConfig
from stratoscope.pipelines.mitigation import MitigationConfig
from stratoscope.pipelines.runtime.config import field_names
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.search import SearchConfig

HERE = Path(__file__).parent
JOBS = {
    "score": ScoreConfig,
    "hallucination": HallucinationConfig,
    "search": SearchConfig,
    "mitigation": MitigationConfig,
    "faithfulness": FaithfulnessConfig,
    "audit": AuditConfig,
}


def options_page(job: str) -> str:
    """Return a job's page as Markdown."""
    lines = [
        f"# Options of the job `{job}`",
        "",
        "Every field goes into a YAML file by its section, or on the command line as `--section.field VALUE`.",
        "Lists are comma-separated or JSON. This page is written by `make docs`.",
        "",
        "| option | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in field_names(JOBS[job]):
        lines.append(_row(f"--{name}", field))
        entry = next((kind for kind in get_args(field.annotation) if isinstance(kind, type)), None)
        if entry is not None and issubclass(entry, BaseModel):
            lines += [_row(f"{name}[].{inner}", of_entry) for inner, of_entry in field_names(entry)]
    return "\n".join(lines) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    meaning = " ".join(field.description.split()).replace("|", r"\|")
    return f"| `{name}` | {_default(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "`null`"
    if isinstance(field.default, list):
        if any(isinstance(item, BaseModel) for item in field.default):
            return "a small one"
        return f"`{','.join(str(item) for item in field.default)}`" if field.default else "none"
    return f"`{field.default}`"


if __name__ == "__main__":
    for job in JOBS:
        (HERE / f"options-{job}.md").write_text(options_page(job), encoding="utf-8")
